//! Compares our D-Bus with rustbus, over arbitrary values; and tests a conversation over a socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use proptest::prelude::*;
use rustbus::message_builder::{MarshalledMessage, MessageBuilder};
use rustbus::params::{Array, Base, Container, Param, Variant};
use rustbus::signature::Type;
use windlass_base::variant::Value;
use windlass_dbus::{Call, Connection, MessageType, Peer, Reply, decode, encode};

/// Converts a value to rustbus's type.
fn theirs(value: &Value) -> Param<'static, 'static> {
    Param::Base(match value {
        Value::Byte(n) => Base::Byte(*n),
        Value::Bool(b) => Base::Boolean(*b),
        Value::I16(n) => Base::Int16(*n),
        Value::U16(n) => Base::Uint16(*n),
        Value::I32(n) => Base::Int32(*n),
        Value::U32(n) | Value::Fd(n) => Base::Uint32(*n),
        Value::I64(n) => Base::Int64(*n),
        Value::U64(n) => Base::Uint64(*n),
        Value::Double(n) => Base::Double(n.to_bits()),
        Value::Text(text) => Base::String(text.clone()),
        Value::Path(text) => Base::ObjectPath(text.clone()),
        Value::Signature(text) => Base::Signature(text.clone()),
        Value::Array(of, values) => {
            let element_sig = Type::parse_description(of).expect("a type").remove(0);
            let values = values.iter().map(theirs).collect();
            return Param::Container(Container::Array(Array { element_sig, values }));
        }
        Value::Struct(fields) => return Param::Container(Container::Struct(fields.iter().map(theirs).collect())),
        Value::Variant(value) => {
            let value = theirs(value);
            return Param::Container(Container::Variant(Box::new(Variant { sig: value.sig(), value })));
        }
    })
}

/// A value of a type that systemd accepts, except descriptors, which rustbus counts anew.
fn of_type(depth: u32) -> BoxedStrategy<Value> {
    let base = prop_oneof![
        any::<u8>().prop_map(Value::Byte),
        any::<bool>().prop_map(Value::Bool),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::U64),
        (-1e9..1e9).prop_map(Value::Double),
        "[^\0]{0,12}".prop_map(Value::Text),
        "(/[a-zA-Z0-9_]{1,5}){1,3}".prop_map(Value::Path),
        "[ybnqiuxtdsog]{0,5}".prop_map(Value::Signature),
    ];
    if depth == 0 {
        return base.boxed();
    }
    let inner = of_type(depth - 1);
    prop_oneof![
        3 => base,
        // All elements have one type, so they are copies of one; an empty array keeps its type.
        1 => (inner.clone(), 0usize..4).prop_map(|(value, n)| Value::Array(value.signature(), vec![value; n])),
        1 => prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
        1 => inner.prop_map(|value| Value::Variant(Box::new(value))),
    ]
    .boxed()
}

fn call<'a>(arguments: &'a [Value]) -> Call<'a> {
    Call {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "StartTransientUnit",
        arguments,
        fds: 0,
        reply_expected: true,
    }
}

fn their_call(arguments: &[Value]) -> MarshalledMessage {
    let mut message = MessageBuilder::new()
        .call("StartTransientUnit")
        .on("/org/freedesktop/systemd1")
        .with_interface("org.freedesktop.systemd1.Manager")
        .at("org.freedesktop.systemd1")
        .build();
    arguments.iter().for_each(|value| message.body.push_old_param(&theirs(value)).expect("it can be written"));
    message
}

proptest! {
    #[test]
    fn a_body_is_the_same_bytes(arguments in prop::collection::vec(of_type(3), 0..5)) {
        let bytes = encode(&call(&arguments), 7);
        let message = their_call(&arguments);
        prop_assert!(bytes.ends_with(message.get_buf()));
        let (used, header) = rustbus::wire::unmarshal::unmarshal_header(&bytes, 0).expect("a header");
        prop_assert_eq!((header.serial, header.body_len as usize, header.flags), (7, message.get_buf().len(), 0));
        let (more, fields) = rustbus::wire::unmarshal::unmarshal_dynamic_header(&header, &bytes, used).expect("fields");
        prop_assert_eq!(fields.member.as_deref(), Some("StartTransientUnit"));
        prop_assert_eq!(fields.destination.as_deref(), Some("org.freedesktop.systemd1"));
        prop_assert_eq!(fields.interface.as_deref(), Some("org.freedesktop.systemd1.Manager"));
        prop_assert_eq!(fields.object.as_deref(), Some("/org/freedesktop/systemd1"));
        prop_assert_eq!(fields.signature.unwrap_or_default(), message.get_sig());
        prop_assert_eq!((used + more).next_multiple_of(8) + message.get_buf().len(), bytes.len());
    }

    #[test]
    fn what_they_write_is_read(arguments in prop::collection::vec(of_type(3), 0..5), serial in any::<u32>()) {
        let mut message = their_call(&arguments);
        message.typ = rustbus::message_builder::MessageType::Reply;
        message.dynheader.response_serial = Some(serial);
        let mut bytes = Vec::new();
        rustbus::wire::marshal::marshal(&message, 1, &mut bytes).expect("it can be written");
        bytes.extend(message.get_buf());
        let read = decode(&bytes).expect("it can be read");
        prop_assert_eq!((read.kind, read.reply_serial, &read.arguments), (MessageType::MethodReturn, serial, &arguments));
        // However much is cut off, the message is refused.
        for end in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..end]), None);
        }
    }

    #[test]
    fn nonsense_is_no_message(mut bytes in prop::collection::vec(any::<u8>(), 0..200), honest in any::<bool>()) {
        if honest && bytes.len() >= 16 {
            bytes[..4].copy_from_slice(&[b'l', 2, 0, 1]);
            let body = (bytes.len() - 16) as u32;
            bytes[4..8].copy_from_slice(&body.to_le_bytes());
            bytes[12..16].copy_from_slice(&0u32.to_le_bytes());
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn the_text_form_never_breaks_the_reader(text in "[@a-z0-9 \\[\\](),'\"\\\\.-]{0,40}") {
        let _ = Value::parse(&text);
    }
}

/// A server that answers by a script, and what it has received.
fn served(
    script: impl FnOnce(&mut UnixStream) + Send + 'static,
) -> (std::path::PathBuf, std::thread::JoinHandle<String>) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("windlass-dbus-{}-{number}", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a socket");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
        let mut said = String::new();
        while !said.ends_with("BEGIN\r\n") {
            reader.read_line(&mut said).expect("a line");
        }
        script(&mut stream);
        // The server reads until the client closes.
        let _ = reader.read_to_end(&mut Vec::new());
        said
    });
    (path, server)
}

const WELCOME: &[u8] = b"DATA\r\nOK 0123\r\nAGREE_UNIX_FD\r\n";
const PATIENCE: Duration = Duration::from_millis(300);

fn message(kind: rustbus::message_builder::MessageType, serial: u32, arguments: &[Value]) -> Vec<u8> {
    let mut message = their_call(arguments);
    message.typ = kind;
    message.dynheader.response_serial = Some(serial);
    message.dynheader.member = Some("Broken".into());
    let mut bytes = Vec::new();
    rustbus::wire::marshal::marshal(&message, 1, &mut bytes).expect("it can be written");
    // rustbus does not write the name of an error (field 4), which looks like a member (field 3).
    if kind == rustbus::message_builder::MessageType::Error {
        let at = bytes.windows(4).position(|field| field == [3, 1, b's', 0]).expect("there is a member");
        bytes[at] = 4;
    }
    bytes.extend(message.get_buf());
    bytes
}

#[test]
fn a_signal_before_the_answer_is_kept_and_pieces_are_put_together() {
    use rustbus::message_builder::MessageType::{Reply, Signal};
    let (path, server) = served(|stream| {
        let mut bytes = WELCOME.to_vec();
        bytes.extend(message(Signal, 0, &[Value::text("other")]));
        bytes.extend(message(Signal, 0, &[Value::text("ours")]));
        bytes.extend(message(Reply, 9, &[Value::text("of another call")]));
        bytes.extend(message(Reply, 1, &[Value::text("hello")]));
        for piece in bytes.chunks(7) {
            stream.write_all(piece).expect("it can be written");
        }
    });
    let mut connection = Connection::open(&path, Peer::Service, PATIENCE).expect("let in");
    let answer = connection.call(&call(&[]), &[]).expect("an answer");
    assert_eq!(answer, windlass_dbus::Reply::Return(vec![Value::text("hello")]));
    let ours = |message: &windlass_dbus::Message| message.arguments == [Value::text("ours")];
    assert_eq!(connection.signal(ours).expect("kept"), [Value::text("ours")]);
    drop(connection);
    let said = server.join().expect("the server ends");
    assert_eq!(said, "\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n");
    std::fs::remove_file(path).expect("there");
}

#[test]
fn an_error_has_its_name_and_text() {
    use rustbus::message_builder::MessageType::Error;
    let (path, server) = served(|stream| {
        stream.write_all(WELCOME).expect("it can be written");
        stream.write_all(&message(Error, 1, &[Value::text("no")])).expect("it can be written");
    });
    let mut connection = Connection::open(&path, Peer::Service, PATIENCE).expect("let in");
    let answer = connection.call(&call(&[]), &[]).expect("an answer");
    assert_eq!(answer, Reply::Error("Broken".into(), "no".into()));
    drop(connection);
    server.join().expect("the server ends");
    std::fs::remove_file(path).expect("there");
}

#[test]
fn who_is_refused_is_told_so() {
    let (path, server) = served(|stream| stream.write_all(b"REJECTED EXTERNAL\r\n").expect("it can be written"));
    let failed = Connection::open(&path, Peer::Service, PATIENCE).expect_err("refused");
    assert!(failed.to_string().contains("REJECTED"), "{failed}");
    server.join().expect("the server ends");
    std::fs::remove_file(path).expect("there");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let (path, server) = served(|stream| stream.write_all(WELCOME).expect("it can be written"));
    let mut connection = Connection::open(&path, Peer::Service, PATIENCE).expect("let in");
    let failed = connection.call(&call(&[]), &[]).expect_err("no answer");
    assert_eq!(failed.errno, nix::errno::Errno::ETIMEDOUT);
    drop(connection);
    server.join().expect("the server ends");
    std::fs::remove_file(path).expect("there");
}

#[test]
fn a_flood_of_signals_does_not_put_off_the_end() {
    let (path, server) = served(|stream| {
        stream.write_all(WELCOME).expect("it can be written");
        let signal = message(rustbus::message_builder::MessageType::Signal, 0, &[Value::text("x")]);
        while stream.write_all(&signal).is_ok() {}
    });
    let mut connection = Connection::open(&path, Peer::Service, PATIENCE).expect("let in");
    let failed = connection.call(&call(&[]), &[]).expect_err("no answer");
    assert_eq!(failed.errno, nix::errno::Errno::ETIMEDOUT);
    drop(connection);
    server.join().expect("the server ends");
    std::fs::remove_file(path).expect("there");
}

#[test]
fn a_call_is_read_as_it_was_written() {
    let arguments = [Value::Fd(1), Value::text("x")];
    let written = Call { fds: 2, ..call(&arguments) };
    // The serial has a different number in each byte, so that none is mistaken for a length.
    let bytes = encode(&written, 0x0403_0201);
    let read = decode(&bytes).expect("a message");
    assert_eq!(
        (read.kind, read.member.as_str(), &read.arguments[..]),
        (MessageType::MethodCall, "StartTransientUnit", &arguments[..])
    );
    // The field UNIX_FDS, a variant of u; there is none without descriptors.
    let fds = [9, 1, b'u', 0, 2, 0, 0, 0];
    assert!(bytes.windows(8).any(|window| window == fds));
    assert!(!encode(&call(&arguments), 1).windows(4).any(|window| window == &fds[..4]));
}

#[test]
fn another_byte_order_or_version_and_a_length_without_end_are_refused() {
    let good = encode(&call(&[Value::text("x")]), 1);
    assert!(decode(&good).is_some());
    for (at, byte) in [(0, b'B'), (0, 0), (3, 2), (3, 0)] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(decode(&bytes), None, "byte {at} is {byte}");
    }
    // The body has 2 MiB, all of which are sent.
    let mut long = good.clone();
    long.resize(good.len() + (2 << 20), 0);
    let body = u32::from_ne_bytes(good[4..8].try_into().expect("4 bytes")) + (2 << 20);
    long[4..8].copy_from_slice(&body.to_ne_bytes());
    assert_eq!(decode(&long), None);
}

#[test]
fn values_are_nested_to_a_depth_and_side_by_side_without_end() {
    let nested = |depth| (0..depth).fold(Value::Byte(7), |value, _| Value::Variant(Box::new(value)));
    let read = |value: Value| decode(&encode(&call(&[value]), 1)).is_some();
    assert!(read(nested(16)) && !read(nested(17)));
    let many = Value::Array("v".into(), vec![nested(3); 100]);
    assert!(read(many));
}

#[test]
fn a_bus_is_asked_for_signals_and_each_call_has_its_own_serial() {
    use rustbus::message_builder::MessageType::Reply as Answer;
    let (path, server) = served(|stream| {
        let mut bytes = WELCOME.to_vec();
        // Replies to Hello, which is the first call on a bus, and to our calls; AddMatch has none.
        for serial in 1..=4 {
            bytes.extend(message(Answer, serial, &[Value::U32(serial)]));
        }
        stream.write_all(&bytes).expect("it can be written");
    });
    let mut connection = Connection::open(&path, Peer::Bus, PATIENCE).expect("let in");
    connection.add_match("type='signal'").expect("sent");
    let first = connection.send(&call(&[]), &[]).expect("sent");
    let second = connection.send(&call(&[]), &[]).expect("sent");
    assert_eq!(second, first + 1);
    assert_eq!(connection.reply(second).expect("there"), Reply::Return(vec![Value::U32(second)]));
    assert_eq!(connection.reply(first).expect("kept"), Reply::Return(vec![Value::U32(first)]));
    assert!(first >= 3, "Hello and AddMatch had one each");
    drop(connection);
    server.join().expect("the server ends");
    std::fs::remove_file(path).expect("there");
}
