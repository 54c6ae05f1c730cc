//! Encoding and decoding of messages, in the byte order of this machine, which both ends share.

use windlass_base::variant::{Value, complete};

/// A method call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Bus name of the recipient; empty without a bus.
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [Value],
    /// The number of descriptors that are sent with it.
    pub fds: u32,
    /// Whether the recipient is to reply.
    pub reply_expected: bool,
}

/// A received message, without the fields that windlass does not use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub kind: MessageType,
    /// The serial of the call that the message replies to.
    pub reply_serial: u32,
    /// The name of a signal.
    pub member: String,
    /// The name of an error.
    pub error: String,
    /// The values in its body.
    pub arguments: Vec<Value>,
}

/// The type of a message (D-Bus specification, "Message Format").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageType {
    MethodCall,
    MethodReturn,
    Error,
    Signal,
    /// A type that the specification does not have, which is to be ignored.
    #[default]
    Unknown,
}

impl MessageType {
    fn of_code(code: u8) -> MessageType {
        match code {
            METHOD_CALL => MessageType::MethodCall,
            2 => MessageType::MethodReturn,
            3 => MessageType::Error,
            4 => MessageType::Signal,
            _ => MessageType::Unknown,
        }
    }
}

const METHOD_CALL: u8 = 1;

/// The longest message that is accepted, in bytes. Messages of systemd are far shorter.
const MAX_LENGTH: usize = 1 << 20;

const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
const NO_REPLY_EXPECTED: u8 = 1;
/// The major version of the protocol.
const VERSION: u8 = 1;

/// The codes of header fields.
mod field {
    pub(crate) const PATH: u8 = 1;
    pub(crate) const INTERFACE: u8 = 2;
    pub(crate) const MEMBER: u8 = 3;
    pub(crate) const ERROR_NAME: u8 = 4;
    pub(crate) const REPLY_SERIAL: u8 = 5;
    pub(crate) const DESTINATION: u8 = 6;
    pub(crate) const SIGNATURE: u8 = 8;
    pub(crate) const UNIX_FDS: u8 = 9;
}

/// Encodes a call.
pub fn encode(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let mut body = Writer::default();
    call.arguments.iter().for_each(|argument| body.put(argument));
    let signature: String = call.arguments.iter().map(Value::signature).collect();
    let text = |code: u8, text: &str, make: fn(String) -> Value| (code, make(text.into()));
    let mut fields = vec![text(field::PATH, call.path, Value::Path), text(field::MEMBER, call.member, Value::Text)];
    if !call.interface.is_empty() {
        fields.push(text(field::INTERFACE, call.interface, Value::Text));
    }
    if !call.destination.is_empty() {
        fields.push(text(field::DESTINATION, call.destination, Value::Text));
    }
    if !signature.is_empty() {
        fields.push((field::SIGNATURE, Value::Signature(signature)));
    }
    if call.fds > 0 {
        fields.push((field::UNIX_FDS, Value::U32(call.fds)));
    }
    let field = |(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
    let mut out = Writer::default();
    let flags = if call.reply_expected { 0 } else { NO_REPLY_EXPECTED };
    out.bytes.extend([ENDIAN, METHOD_CALL, flags, VERSION]);
    out.put(&Value::U32(body.bytes.len() as u32));
    out.put(&Value::U32(serial));
    out.put(&Value::Array("(yv)".into(), fields.into_iter().map(field).collect()));
    out.pad(8);
    out.bytes.extend(body.bytes);
    out.bytes
}

/// The length in bytes of the message that begins with these 16 bytes. Returns `None` if its byte order, version or
/// length is not accepted.
pub(crate) fn length(start: &[u8; 16]) -> Option<usize> {
    let number = |at: usize| u32::from_ne_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize;
    let whole = 16 + number(12).next_multiple_of(8) + number(4);
    (start[0] == ENDIAN && start[3] == VERSION && whole <= MAX_LENGTH).then_some(whole)
}

/// Decodes a whole message. Returns `None` if it is malformed.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let whole = length(bytes.get(..16)?.try_into().ok()?)?;
    if whole != bytes.len() {
        return None;
    }
    let mut message = Message { kind: MessageType::of_code(bytes[1]), ..Message::default() };
    let mut header = Reader { bytes, at: 12, depth: 0 };
    let mut signature = String::new();
    let Value::Array(_, fields) = header.get("a(yv)")? else { return None };
    for field in fields {
        let Value::Struct(mut pair) = field else { return None };
        let (Some(Value::Variant(value)), Some(Value::Byte(code))) = (pair.pop(), pair.pop()) else { return None };
        match (code, *value) {
            (field::MEMBER, Value::Text(text)) => message.member = text,
            (field::ERROR_NAME, Value::Text(text)) => message.error = text,
            (field::REPLY_SERIAL, Value::U32(serial)) => message.reply_serial = serial,
            (field::SIGNATURE, Value::Signature(text)) => signature = text,
            _ => {}
        }
    }
    header.pad(8)?;
    let mut body = Reader { bytes: &bytes[header.at..], at: 0, depth: 0 };
    let mut rest = signature.as_str();
    while !rest.is_empty() {
        let (first, more) = rest.split_at(complete(rest)?);
        message.arguments.push(body.get(first)?);
        rest = more;
    }
    Some(message)
}

/// The alignment of a type, in bytes.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a' | b'h') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn put(&mut self, value: &Value) {
        self.pad(alignment(&value.signature()));
        match value {
            Value::Byte(n) => self.bytes.push(*n),
            Value::Bool(b) => self.bytes.extend(u32::from(*b).to_ne_bytes()),
            Value::I16(n) => self.bytes.extend(n.to_ne_bytes()),
            Value::U16(n) => self.bytes.extend(n.to_ne_bytes()),
            Value::I32(n) => self.bytes.extend(n.to_ne_bytes()),
            Value::U32(n) | Value::Fd(n) => self.bytes.extend(n.to_ne_bytes()),
            Value::I64(n) => self.bytes.extend(n.to_ne_bytes()),
            Value::U64(n) => self.bytes.extend(n.to_ne_bytes()),
            Value::Double(n) => self.bytes.extend(n.to_ne_bytes()),
            Value::Text(text) | Value::Path(text) => {
                self.bytes.extend((text.len() as u32).to_ne_bytes());
                self.bytes.extend(text.as_bytes());
                self.bytes.push(0);
            }
            Value::Signature(text) => self.signature(text),
            Value::Array(of, values) => {
                let at = self.bytes.len();
                self.bytes.extend([0; 4]);
                self.pad(alignment(of));
                let begin = self.bytes.len();
                values.iter().for_each(|value| self.put(value));
                let length = (self.bytes.len() - begin) as u32;
                self.bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
            }
            Value::Struct(fields) => fields.iter().for_each(|field| self.put(field)),
            Value::Variant(value) => {
                self.signature(&value.signature());
                self.put(value);
            }
        }
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }
}

/// Most levels of nested containers. The specification allows 64; systemd's messages have a few.
const MAX_DEPTH: usize = 16;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn pad(&mut self, to: usize) -> Option<()> {
        self.at = self.at.next_multiple_of(to);
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        (self.take(1)? == [0]).then_some(text)
    }

    fn get(&mut self, signature: &str) -> Option<Value> {
        self.pad(alignment(signature))?;
        Some(match signature.as_bytes().first()? {
            b'y' => Value::Byte(self.number::<1>()?[0]),
            b'b' => Value::Bool(match u32::from_ne_bytes(self.number()?) {
                0 => false,
                1 => true,
                _ => return None,
            }),
            b'n' => Value::I16(i16::from_ne_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_ne_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_ne_bytes(self.number()?)),
            b'u' => Value::U32(u32::from_ne_bytes(self.number()?)),
            b'h' => Value::Fd(u32::from_ne_bytes(self.number()?)),
            b'x' => Value::I64(i64::from_ne_bytes(self.number()?)),
            b't' => Value::U64(u64::from_ne_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_ne_bytes(self.number()?)),
            b's' | b'o' => {
                let length = u32::from_ne_bytes(self.number()?) as usize;
                let text = self.text(length)?;
                if signature == "s" { Value::Text(text) } else { Value::Path(text) }
            }
            b'g' => Value::Signature(self.short()?),
            b'a' => self.nested(|reader| reader.array(&signature[1..]))?,
            b'v' => {
                let inner = self.short()?;
                if complete(&inner)? != inner.len() {
                    return None;
                }
                Value::Variant(Box::new(self.nested(|reader| reader.get(&inner))?))
            }
            // An entry of a dictionary is encoded as a struct.
            b'(' | b'{' => {
                let fields = signature.get(1..signature.len() - 1)?;
                self.nested(|reader| reader.fields(fields))?
            }
            _ => return None,
        })
    }

    fn short(&mut self) -> Option<String> {
        let length = self.number::<1>()?[0];
        self.text(length.into())
    }

    fn nested(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Option<Value>) -> Option<Value> {
        self.depth += 1;
        let value = if self.depth > MAX_DEPTH { None } else { read(self) };
        self.depth -= 1;
        value
    }

    fn array(&mut self, of: &str) -> Option<Value> {
        let length = u32::from_ne_bytes(self.number()?) as usize;
        self.pad(alignment(of))?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.get(of)?);
        }
        (self.at == end).then_some(Value::Array(of.into(), values))
    }

    fn fields(&mut self, mut signature: &str) -> Option<Value> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = signature.split_at(complete(signature)?);
            values.push(self.get(first)?);
            signature = rest;
        }
        Some(Value::Struct(values))
    }
}
