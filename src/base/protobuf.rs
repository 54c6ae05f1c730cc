//! The wire format of protocol buffers (<https://protobuf.dev/programming-guides/encoding/>), without groups, maps and
//! reflection.
//!
//! `message!` declares a message as a struct whose fields have numbers. As in proto3, unknown fields are skipped, zero
//! values are not written, and a field that is repeated in the input replaces the earlier value; a message is merged
//! into it. A field of proto2, where zero and absent differ, is an `Option`.

/// The bytes are not a message of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The value of a field on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: text, bytes, a message, packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// Iterates over the fields of an encoded message.
#[derive(Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields in `bytes`.
    pub fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).ok().filter(|&length| length <= self.0.len()).ok_or(Malformed)?;
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N as u64)?.try_into().map_err(|_| Malformed)
    }

    fn next_field(&mut self) -> Result<(u32, FieldValue<'a>), Malformed> {
        let tag = take_varint(&mut self.0)?;
        let number = u32::try_from(tag >> 3).ok().filter(|&number| number > 0 && number < 1 << 29).ok_or(Malformed)?;
        let value = match tag & 7 {
            0 => FieldValue::Varint(take_varint(&mut self.0)?),
            1 => FieldValue::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = take_varint(&mut self.0)?;
                FieldValue::Bytes(self.take(length)?)
            }
            5 => FieldValue::Fixed32(u32::from_le_bytes(self.array()?)),
            // Groups are deprecated, and none of these messages has one.
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, FieldValue<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Decodes a varint and removes it from the front.
pub fn take_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        // The tenth byte has only the last of the 64 bits.
        if shift == 9 && byte > 1 {
            return Err(Malformed);
        }
        number |= u64::from(byte & 0x7f) << (7 * shift);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a number as a field.
pub fn put_number(out: &mut Vec<u8>, field: u32, number: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, number);
}

/// Appends 64 bits as a field: wire type 1, that of `double`.
pub fn put_fixed64(out: &mut Vec<u8>, field: u32, bits: u64) {
    put_varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&bits.to_le_bytes());
}

/// Appends bytes as a field.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The type of a field.
pub trait Field {
    /// Stores a decoded value. A value of another wire type is skipped, like an unknown field.
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed>;
    /// Appends the field unless it is zero or empty.
    fn write(&self, field: u32, out: &mut Vec<u8>);
}

/// A message. `Default` is the empty message.
pub trait Message: Default {
    /// Merges encoded fields into the message.
    fn merge(&mut self, bytes: &[u8]) -> Result<(), Malformed>;
    /// Appends all fields.
    fn write_to(&self, out: &mut Vec<u8>);

    /// Decodes a message.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        message.merge(bytes)?;
        Ok(message)
    }

    /// Encodes the message.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_to(&mut out);
        out
    }
}

macro_rules! number_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
                if let FieldValue::Varint(number) = value {
                    // Negative numbers are written with 64 bits even if the type is shorter.
                    *self = number as $type;
                }
                Ok(())
            }

            fn write(&self, field: u32, out: &mut Vec<u8>) {
                if *self != 0 {
                    put_number(out, field, *self as i64 as u64);
                }
            }
        }
    )*};
}

number_field!(u32, u64, i32, i64);

/// A number with presence: zero is written, too.
impl Field for Option<i32> {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        if let FieldValue::Varint(number) = value {
            *self = Some(number as i32);
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        if let Some(number) = self {
            put_number(out, field, *number as i64 as u64);
        }
    }
}

/// A truth value with presence: `false` is written, too.
impl Field for Option<bool> {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        if let FieldValue::Varint(number) = value {
            *self = Some(number != 0);
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        if let Some(set) = self {
            put_number(out, field, u64::from(*set));
        }
    }
}

impl Field for bool {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        if let FieldValue::Varint(number) = value {
            *self = number != 0;
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        if *self {
            put_number(out, field, 1);
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    // A program in C would read another text: only the part before the NUL.
    if bytes.contains(&0) {
        return Err(Malformed);
    }
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

impl Field for String {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        if let FieldValue::Bytes(bytes) = value {
            *self = text(bytes)?;
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(out, field, self.as_bytes());
        }
    }
}

impl Field for Vec<u8> {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        if let FieldValue::Bytes(bytes) = value {
            *self = bytes.to_vec();
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(out, field, self);
        }
    }
}

impl Field for Vec<String> {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        if let FieldValue::Bytes(bytes) = value {
            self.push(text(bytes)?);
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        self.iter().for_each(|text| put_bytes(out, field, text.as_bytes()));
    }
}

/// Numbers, which are written packed, as in proto3, and read packed or unpacked.
impl Field for Vec<u64> {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        match value {
            FieldValue::Varint(number) => self.push(number),
            FieldValue::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    self.push(take_varint(&mut bytes)?);
                }
            }
            FieldValue::Fixed64(_) | FieldValue::Fixed32(_) => {}
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            let mut packed = Vec::new();
            self.iter().for_each(|&number| put_varint(&mut packed, number));
            put_bytes(out, field, &packed);
        }
    }
}

impl<M: Message> Field for Option<M> {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        match value {
            FieldValue::Bytes(bytes) => self.get_or_insert_default().merge(bytes),
            _ => Ok(()),
        }
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_bytes(out, field, &message.encode());
        }
    }
}

impl<M: Message> Field for Vec<M> {
    fn read(&mut self, value: FieldValue<'_>) -> Result<(), Malformed> {
        if let FieldValue::Bytes(bytes) = value {
            self.push(M::decode(bytes)?);
        }
        Ok(())
    }

    fn write(&self, field: u32, out: &mut Vec<u8>) {
        self.iter().for_each(|message| put_bytes(out, field, &message.encode()));
    }
}

/// Declares messages: for each a struct whose fields have numbers. Its user needs the crate `serde`.
#[macro_export]
macro_rules! message {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $number:literal $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::protobuf::Message for $name {
            fn merge(&mut self, bytes: &[u8]) -> Result<(), $crate::protobuf::Malformed> {
                for field in $crate::protobuf::Fields::of(bytes) {
                    match field? {
                        $(($number, value) => {
                            $crate::protobuf::Field::read(&mut self.$field, value)?;
                        })*
                        _ => {}
                    }
                }
                Ok(())
            }

            fn write_to(&self, out: &mut Vec<u8>) {
                $($crate::protobuf::Field::write(&self.$field, $number, out);)*
                // `out` is unused in a message without fields.
                let _ = out;
            }
        }
    )*};
}

pub use crate::message;

#[cfg(test)]
mod tests {
    use super::*;

    message! {
        /// All kinds of fields.
        Everything {
            /// A number.
            1 small: i32,
            /// A wide number.
            2 wide: u64,
            /// Yes or no.
            3 flag: bool,
            /// Text.
            4 text: String,
            /// A message, once.
            5 inner: Option<Inner>,
            /// Any number of messages.
            16 inners: Vec<Inner>,
            /// Packed numbers.
            17 numbers: Vec<u64>,
            /// A number with presence.
            18 maybe: Option<i32>,
            /// A truth value with presence.
            19 perhaps: Option<bool>,
        }
        /// A small message.
        Inner {
            /// Words.
            1 words: Vec<String>,
            /// Bytes.
            2 bytes: Vec<u8>,
        }
    }

    fn full() -> Everything {
        let inner = Inner { words: vec!["a".into(), String::new()], bytes: vec![0, 0xff] };
        Everything {
            small: -8,
            wide: u64::MAX,
            flag: true,
            text: "grüße".into(),
            inner: Some(inner.clone()),
            inners: vec![Inner::default(), inner],
            numbers: vec![0, 1, 300],
            maybe: Some(0),
            perhaps: Some(false),
        }
    }

    #[test]
    fn a_field_has_one_of_four_forms_and_a_number_of_29_bits() {
        fn fields(bytes: &[u8]) -> Result<Vec<(u32, FieldValue<'_>)>, Malformed> {
            Fields::of(bytes).collect()
        }
        let (mut wide, mut narrow) = (vec![1 << 3 | 1], vec![2 << 3 | 5]);
        wide.extend(0x0102_0304_0506_0708_u64.to_le_bytes());
        narrow.extend(0x0a0b_0c0d_u32.to_le_bytes());
        assert_eq!(fields(&wide), Ok(vec![(1, FieldValue::Fixed64(0x0102_0304_0506_0708))]));
        assert_eq!(fields(&narrow), Ok(vec![(2, FieldValue::Fixed32(0x0a0b_0c0d))]));
        assert!(fields(&wide[..8]).is_err() && fields(&narrow[..4]).is_err(), "cut off");
        assert!(fields(&[1 << 3 | 3]).is_err(), "a group");
        let numbered = |number: u64| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number << 3);
            bytes.push(1);
            fields(&bytes).map(|fields| fields[0].0)
        };
        assert_eq!((numbered(1), numbered((1 << 29) - 1)), (Ok(1), Ok((1 << 29) - 1)));
        assert!(numbered(0).is_err() && numbered(1 << 29).is_err() && numbered(1 << 32).is_err());
        assert_eq!(take_varint(&mut &[0x80, 1][..]), Ok(128));
        assert_eq!(take_varint(&mut &[0xff; 9][..]), Err(Malformed), "cut off");
        assert_eq!(take_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), Err(Malformed));
    }

    #[test]
    fn what_is_written_reads_back() {
        for message in [full(), Everything::default()] {
            assert_eq!(Everything::decode(&message.encode()), Ok(message));
        }
        assert_eq!(Everything::default().encode(), b"");
        // The example of the format's description, and a negative number in its ten bytes.
        assert_eq!(Everything { small: 150, ..Everything::default() }.encode(), [8, 0x96, 1]);
        let minus = Everything { small: -1, ..Everything::default() }.encode();
        assert_eq!(minus, [8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }

    #[test]
    fn an_optional_field_is_absent_or_written_even_if_it_is_zero() {
        let zero = Everything { maybe: Some(0), perhaps: Some(false), ..Everything::default() };
        assert_eq!(zero.encode(), [0x90, 1, 0, 0x98, 1, 0]);
        assert_eq!(Everything::decode(&zero.encode()), Ok(zero));
        let minus = Everything { maybe: Some(-2), ..Everything::default() };
        assert_eq!(Everything::decode(&minus.encode()), Ok(minus));
    }

    #[test]
    fn what_is_cut_or_overlong_is_malformed() {
        let bytes = full().encode();
        let whole_fields = Fields::of(&bytes).count();
        let decoded = (0..bytes.len()).filter(|&length| Everything::decode(&bytes[..length]).is_ok()).count();
        assert!(decoded <= whole_fields, "cut only between fields is still a message: {decoded}");
        for bad in [&[0x08][..], &[0x0b], &[0x22, 5, b'a'], &[0], &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]]
        {
            assert_eq!(Everything::decode(bad), Err(Malformed), "{bad:?}");
        }
        assert_eq!(Everything::decode(&[0x22, 1, 0xff]), Err(Malformed), "text is UTF-8");
        assert_eq!(Everything::decode(b"\x22\x03..\0"), Err(Malformed), "text has no NUL");
        assert_eq!(Inner::decode(b"\x0a\x02a\0"), Err(Malformed), "nor has one of many");
    }

    #[test]
    fn unknown_fields_are_skipped_and_later_ones_win() {
        let mut bytes = vec![0xf8, 0x7f, 7];
        bytes.extend([8, 1, 8, 2, 0x0d, 9, 9, 9, 9]);
        assert_eq!(Everything::decode(&bytes), Ok(Everything { small: 2, ..Everything::default() }));
    }
}
