//! How an image is written down: a header, and messages of numbered fields.
//!
//! ```text
//! image   := magic format:u32le length:u64le checksum:u64le version-length:u8 version body
//! body    := field*
//! field   := varint(number * 2 + essential) varint(length) content
//! content := varint | bytes | field*
//! ```
//!
//! A field is *essential* if a reader that does not know it must refuse the image; other unknown fields are skipped. A
//! reader decides by the fields of the image, and not by the format's number, which is for messages to people.
//!
//! # How a field is added
//!
//! Add a line with the next number to the table of its type (`table!`, `choice!`). A missing field reads as zero, empty
//! or `None`, and a field with such a value is not written. So images of earlier formats can be read, and earlier
//! readers refuse an image only if the new field is in use. Write `@hint` after the number if an earlier reader may go
//! on without it. Never use a number again: put the number of a removed field after `; retired`. Then increase
//! [`FORMAT`], and add an image of the new format to the test data (`tests/images`).
//!
//! Reading never stops at a fault. It notes the first fault and goes on with empty values, so that objects whose drop
//! has effects outside of the process can be forgotten.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::fault::Fault;
use windlass_base::protobuf::{put_varint, take_varint};
use windlass_sys::fd;
use windlass_sys::handover::{self, Inherited};

/// The number of the format that is written.
pub(crate) const FORMAT: u32 = if cfg!(feature = "next-image") { 2 } else { 1 };

/// The first bytes of an image.
const MAGIC: &[u8; 8] = b"WLSHIM\r\n";

/// Bytes of the header before the version.
const HEAD: usize = 8 + 4 + 8 + 8 + 1;

/// Longest image that is read, in bytes. A shim holds at most some MiB for each connection.
const LONGEST: usize = 1 << 30;

/// The prime of FNV in 64 bits.
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a in 64 bits, over eight bytes at a time. The checksum finds an image that was cut or mixed up, and protects
/// from nobody.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let chunks = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    chunks.fold(0xcbf2_9ce4_8422_2325, |sum, word| (sum ^ word).wrapping_mul(PRIME).rotate_left(5))
}

/// Puts the header before a body.
pub(crate) fn with_header(version: &str, body: &[u8]) -> Vec<u8> {
    let version = &version.as_bytes()[..version.len().min(255)];
    let mut image = Vec::with_capacity(HEAD + version.len() + body.len());
    image.extend_from_slice(MAGIC);
    image.extend_from_slice(&FORMAT.to_le_bytes());
    image.extend_from_slice(&(body.len() as u64).to_le_bytes());
    image.extend_from_slice(&checksum(body).to_le_bytes());
    image.push(version.len() as u8);
    image.extend_from_slice(version);
    image.extend_from_slice(body);
    image
}

/// The header of an image, and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) format: u32,
    /// The version of the program that wrote the image.
    pub(crate) version: String,
    pub(crate) body: &'a [u8],
}

/// Reads the header.
pub(crate) fn header(image: &[u8]) -> Result<Header<'_>, Fault> {
    let Some((head, rest)) = image.split_at_checked(HEAD).filter(|(head, _)| head.starts_with(MAGIC)) else {
        return Err(Fault::NotAnImage);
    };
    let number = |from: usize| u64::from_le_bytes(head[from..from + 8].try_into().expect("eight bytes"));
    let format = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
    let cut = || Fault::Cut { format, bytes: image.len() };
    let (version, body) = rest.split_at_checked(head[HEAD - 1].into()).ok_or_else(cut)?;
    if body.len() as u64 != number(12) || body.len() > LONGEST {
        return Err(cut());
    }
    if checksum(body) != number(20) {
        return Err(Fault::Checksum { format });
    }
    Ok(Header { format, version: String::from_utf8_lossy(version).into_owned(), body })
}

/// The kinds of fields in an image: the number of each field with the numbers of the fields around it, as a checksum. A
/// program that has read one field of a kind can read another, whatever its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Kinds(Vec<u64>);

impl Kinds {
    fn add(&mut self, kind: u64) {
        if let Err(place) = self.0.binary_search(&kind) {
            self.0.insert(place, kind);
        }
    }

    /// Adds the kinds of another image.
    pub(crate) fn add_all(&mut self, others: &Kinds) {
        others.0.iter().for_each(|kind| self.add(*kind));
    }

    /// Whether all `others` are among these.
    pub(crate) fn contain(&self, others: &Kinds) -> bool {
        others.0.iter().all(|kind| self.0.binary_search(kind).is_ok())
    }
}

/// Writes an image's body.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    out: Vec<u8>,
    descriptors: Vec<u32>,
    /// The kinds of the fields that are being written, from the outermost inwards.
    within: Vec<u64>,
    kinds: Kinds,
    /// Every descriptor is written as the same number, so that the images of two processes can be compared.
    anonymous: bool,
}

impl Encoder {
    /// An encoder whose images can be compared, but not read.
    #[cfg(test)]
    pub(crate) fn anonymous() -> Encoder {
        Encoder { anonymous: true, ..Encoder::default() }
    }

    /// Returns the body, and the numbers of the descriptors in it.
    pub(crate) fn finish(self) -> (Vec<u8>, Vec<u32>) {
        (self.out, self.descriptors)
    }

    /// The kinds of the fields that were written.
    pub(crate) fn kinds(&mut self) -> &mut Kinds {
        &mut self.kinds
    }

    /// Writes a field. `essential`: a reader that does not know it must refuse the image.
    pub(crate) fn put<F: Field>(&mut self, number: u32, essential: bool, value: &F) {
        value.put(number, essential, self);
    }

    /// Begins a field. Returns where its content begins, for [`Encoder::end`].
    pub(crate) fn begin(&mut self, number: u32, essential: bool) -> usize {
        let key = u64::from(number) << 1 | u64::from(essential);
        let within = self.within.last().copied().unwrap_or_default();
        self.within.push((within ^ key).wrapping_mul(PRIME).rotate_left(29));
        self.number(key);
        self.out.len()
    }

    /// Ends the field whose content began there.
    pub(crate) fn end(&mut self, start: usize) {
        if let Some(kind) = self.within.pop() {
            self.kinds.add(kind);
        }
        let mut length = Vec::with_capacity(4);
        put_varint(&mut length, (self.out.len() - start) as u64);
        self.out.splice(start..start, length);
    }

    /// Ends the field that began at `before` and whose content began at `start`. Without content it is not written.
    fn end_unless_empty(&mut self, before: usize, start: usize) {
        if self.out.len() > start {
            return self.end(start);
        }
        self.within.pop();
        self.out.truncate(before);
    }

    /// Writes a number as content.
    pub(crate) fn number(&mut self, number: u64) {
        put_varint(&mut self.out, number);
    }

    /// Writes bytes as content.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes the number of a descriptor as content. The next program gets the descriptor.
    pub(crate) fn descriptor(&mut self, fd: BorrowedFd<'_>) {
        let number = if self.anonymous { 3 } else { handover::number(fd) };
        self.descriptors.push(number);
        self.number(number.into());
    }
}

/// Where the descriptors of an image come from.
#[derive(Debug)]
enum Source {
    /// The descriptors of the previous program.
    Inherited(Inherited),
    /// No descriptors: each is the null device. Used to check whether an image can be read.
    Nowhere,
}

/// The context of reading an image: the descriptors, and the first fault.
#[derive(Debug)]
pub(crate) struct Context {
    source: RefCell<Source>,
    fault: RefCell<Option<Fault>>,
    taken: RefCell<Vec<u32>>,
}

impl Context {
    /// A context with the descriptors of the previous program.
    pub(crate) fn of(inherited: Inherited) -> Context {
        Context::with(Source::Inherited(inherited))
    }

    /// A context without descriptors, to check whether an image can be read.
    pub(crate) fn without_descriptors() -> Context {
        Context::with(Source::Nowhere)
    }

    fn with(source: Source) -> Context {
        Context { source: RefCell::new(source), fault: RefCell::default(), taken: RefCell::default() }
    }

    /// Notes a fault. Only the first is kept.
    pub(crate) fn fault(&self, fault: Fault) {
        self.fault.borrow_mut().get_or_insert(fault);
    }

    /// The first fault, if any.
    pub(crate) fn finish(&self) -> Result<(), Fault> {
        self.fault.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Closes the descriptors that no field has taken. The previous program cannot take the process back after this.
    pub(crate) fn close_rest(&self) {
        if let Source::Inherited(inherited) = &mut *self.source.borrow_mut() {
            inherited.close_rest();
        }
    }

    fn take(&self, number: u32) -> OwnedFd {
        if self.taken.borrow().contains(&number) {
            self.fault(Fault::SharedDescriptor(number));
        }
        self.taken.borrow_mut().push(number);
        let found = match &mut *self.source.borrow_mut() {
            Source::Inherited(inherited) => inherited.take(number),
            Source::Nowhere => None,
        };
        // The null device replaces a missing descriptor.
        found.unwrap_or_else(|| null(self))
    }
}

/// The null device in place of a descriptor.
fn null(context: &Context) -> OwnedFd {
    fd::open("/dev/null", nix::fcntl::OFlag::O_RDWR)
        .or_else(|failed| {
            context.fault(failed.into());
            fd::duplicate(std::io::stderr().as_fd())
        })
        .unwrap_or_else(|_| std::process::exit(1))
}

/// The content of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content<'a> {
    bytes: &'a [u8],
    context: &'a Context,
}

impl<'a> Content<'a> {
    /// The content of a body.
    pub(crate) fn of(bytes: &'a [u8], context: &'a Context) -> Content<'a> {
        Content { bytes, context }
    }

    /// Notes a fault.
    pub(crate) fn fault(self, fault: Fault) {
        self.context.fault(fault);
    }

    /// As bytes.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// As a number. Without content it is zero.
    pub(crate) fn number(self) -> u64 {
        let mut rest = self.bytes;
        if rest.is_empty() {
            return 0;
        }
        let number = take_varint(&mut rest).ok().filter(|_| rest.is_empty());
        number.unwrap_or_else(|| {
            self.fault(Fault::Unexpected { content: format!("{:?}", self.bytes), expected: "a number" });
            0
        })
    }

    /// As a descriptor.
    pub(crate) fn descriptor(self) -> OwnedFd {
        match u32::try_from(self.number()) {
            Ok(number) => self.context.take(number),
            Err(_) => null(self.context),
        }
    }

    /// As one of several kinds of `name`. Returns the number, which is one of `known`, and the content.
    pub(crate) fn choice(self, name: &'static str, known: &[u32]) -> (u32, Content<'a>) {
        let fields = Fields::of(self, name);
        match fields.all.first() {
            Some(field) if known.contains(&field.number) => (field.number, field.content),
            found => {
                self.fault(match found {
                    Some(field) => Fault::UnknownKind(field.number, name),
                    None => Fault::MissingKind(name),
                });
                (known[0], Content { bytes: &[], context: self.context })
            }
        }
    }
}

#[derive(Debug)]
struct FieldEntry<'a> {
    number: u32,
    essential: bool,
    content: Content<'a>,
}

/// The fields of a message, which are taken out by their numbers.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    name: &'static str,
    all: Vec<FieldEntry<'a>>,
    context: &'a Context,
}

impl<'a> Fields<'a> {
    /// The fields of the message `name`.
    pub(crate) fn of(content: Content<'a>, name: &'static str) -> Fields<'a> {
        let Content { mut bytes, context } = content;
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes).ok();
            let length = take_varint(&mut bytes).ok().and_then(|length| usize::try_from(length).ok());
            let number = key.and_then(|key| u32::try_from(key >> 1).ok());
            let split = length.and_then(|length| bytes.split_at_checked(length));
            let (Some(key), Some(number), Some((field, rest))) = (key, number, split) else {
                context.fault(Fault::CutFields(name));
                break;
            };
            bytes = rest;
            all.push(FieldEntry { number, essential: key & 1 == 1, content: Content { bytes: field, context } });
        }
        Fields { name, all, context }
    }

    /// Takes out a field.
    pub(crate) fn get<F: Field>(&mut self, number: u32) -> F {
        F::get(number, self)
    }

    /// Takes out the contents of all fields with this number.
    pub(crate) fn take(&mut self, number: u32) -> Vec<Content<'a>> {
        let mut taken = Vec::new();
        self.all.retain(|field| {
            let wanted = field.number == number;
            taken.extend(wanted.then_some(field.content));
            !wanted
        });
        taken
    }

    /// Takes out one field. `None`: it is missing.
    pub(crate) fn take_one(&mut self, number: u32) -> Option<Content<'a>> {
        self.take(number).pop()
    }

    /// Notes that a required field is missing. Returns an empty content.
    fn missing(&self, number: u32) -> Content<'a> {
        self.context.fault(Fault::MissingField(number, self.name));
        Content { bytes: &[], context: self.context }
    }

    fn empty(&self) -> Content<'a> {
        Content { bytes: &[], context: self.context }
    }

    /// Ends the reading of the message. The fields that are left are unknown, and must not be essential.
    pub(crate) fn end(self) {
        if let Some(unknown) = self.all.iter().find(|field| field.essential) {
            self.context.fault(Fault::UnknownField(unknown.number, self.name));
        }
    }
}

/// A type that is written as the content of a field.
pub(crate) trait Value: Sized {
    /// Whether a field without content is left out, and a missing field has the value of the empty content.
    const EMPTY: bool = false;
    /// Writes the value as content.
    fn write(&self, to: &mut Encoder);
    /// Reads the value. After a fault, any value will do.
    fn read(content: Content<'_>) -> Self;
}

/// A type that is written as one field, or as several of one number.
pub(crate) trait Field: Sized {
    /// Writes the field.
    fn put(&self, number: u32, essential: bool, to: &mut Encoder);
    /// Takes the field out of a message.
    fn get(number: u32, fields: &mut Fields<'_>) -> Self;
}

impl<T: Value> Field for T {
    fn put(&self, number: u32, essential: bool, to: &mut Encoder) {
        let before = to.out.len();
        let start = to.begin(number, essential);
        self.write(to);
        if T::EMPTY { to.end_unless_empty(before, start) } else { to.end(start) }
    }

    fn get(number: u32, fields: &mut Fields<'_>) -> T {
        let content = fields.take_one(number);
        T::read(content.unwrap_or_else(|| if T::EMPTY { fields.empty() } else { fields.missing(number) }))
    }
}

impl<T: Value> Field for Option<T> {
    fn put(&self, number: u32, essential: bool, to: &mut Encoder) {
        if let Some(value) = self {
            let start = to.begin(number, essential);
            value.write(to);
            to.end(start);
        }
    }

    fn get(number: u32, fields: &mut Fields<'_>) -> Option<T> {
        fields.take_one(number).map(T::read)
    }
}

/// Writes each as a field of the same number.
pub(crate) fn put_each<'v, T: Value + 'v>(
    values: impl Iterator<Item = &'v T>,
    number: u32,
    essential: bool,
    to: &mut Encoder,
) {
    for value in values {
        let start = to.begin(number, essential);
        value.write(to);
        to.end(start);
    }
}

/// Writes a value without descriptors down and reads it back.
#[cfg(test)]
pub(crate) fn read_back<F: Field>(value: &F) -> F {
    let mut to = Encoder::default();
    to.put(1, true, value);
    let (body, _) = to.finish();
    let context = Context::without_descriptors();
    let mut fields = Fields::of(Content::of(&body, &context), "a test");
    let read = fields.get(1);
    fields.end();
    assert_eq!(context.finish(), Ok(()));
    read
}

/// Makes a [`Value`] of a struct by a table of field numbers, and of the numbers that were used before.
///
/// `table! { Name { 1 one, 2 @hint two; retired 3 } }`
macro_rules! table {
    ($($name:ident { $($number:literal $(@ $hint:ident)? $field:ident),* $(,)?
        $(; retired $($retired:literal),*)? })*) => {$(
        impl $crate::image::format::Value for $name {
            fn write(&self, to: &mut $crate::image::format::Encoder) {
                $(to.put($number, $crate::image::format::essential!($($hint)?), &self.$field);)*
            }

            fn read(content: $crate::image::format::Content<'_>) -> $name {
                let mut fields = $crate::image::format::Fields::of(content, stringify!($name));
                let value = $name {
                    $($field: fields.get($number),)*
                };
                $($(fields.take($retired);)*)?
                fields.end();
                value
            }
        }
    )*};
}

/// Makes a [`Value`] of an enum by a table of the numbers of its variants and of their fields. Each field has a name
/// for use in the table and its own name.
///
/// `choice! { Name { 1 One {}, 2 Two { 1 it: 0 }, 3 Three { 1 field: field } } }`
macro_rules! choice {
    ($($name:ident { $($variant:literal $kind:ident { $($number:literal $bound:ident : $field:tt),* $(,)? }),* $(,)? })*) => {$(
        impl $crate::image::format::Value for $name {
            fn write(&self, to: &mut $crate::image::format::Encoder) {
                match self {
                    $($name::$kind { $($field: $bound),* } => {
                        let start = to.begin($variant, true);
                        $(to.put($number, true, $bound);)*
                        to.end(start);
                    })*
                }
            }

            fn read(content: $crate::image::format::Content<'_>) -> $name {
                let (kind, content) = content.choice(stringify!($name), &[$($variant),*]);
                match kind {
                    $($variant => {
                        #[allow(unused_mut)]
                        let mut fields = $crate::image::format::Fields::of(content, stringify!($kind));
                        let value = $name::$kind { $($field: fields.get($number)),* };
                        fields.end();
                        value
                    })*
                    _ => unreachable!("it is one of those that were named"),
                }
            }
        }
    )*};
}

macro_rules! essential {
    () => {
        true
    };
    (hint) => {
        false
    };
}

pub(crate) use {choice, essential, table};
