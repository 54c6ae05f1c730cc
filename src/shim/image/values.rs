//! The contents of fields other than messages, and the fields that are repeated.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::fault::Fault;
use super::format::{Content, Encoder, Field, Fields, Value, put_each};
use crate::moment;
use crate::table::Table;

/// Numbers. Zero has no content.
macro_rules! numbers {
    ($($kind:ty, $number:ident => $written:expr, $read:expr;)*) => {$(
        impl Value for $kind {
            const EMPTY: bool = true;

            fn write(&self, to: &mut Encoder) {
                let $number = *self;
                if $number != 0 {
                    to.number($written);
                }
            }

            fn read(content: Content<'_>) -> $kind {
                let number = $read(content.number());
                <$kind>::try_from(number).unwrap_or_else(|_| {
                    content.fault(Fault::Unexpected {
                        content: number.to_string(),
                        expected: concat!("a ", stringify!($kind)),
                    });
                    0
                })
            }
        }
    )*};
}

numbers! {
    u64, number => number, std::convert::identity;
    u32, number => number.into(), std::convert::identity;
    u16, number => number.into(), std::convert::identity;
    i64, number => folded(number), unfolded;
    i32, number => folded(number.into()), unfolded;
}

/// A number with its sign as the last bit, so that small numbers are short.
fn folded(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unfolded(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

impl Value for usize {
    const EMPTY: bool = true;

    fn write(&self, to: &mut Encoder) {
        (*self as u64).write(to);
    }

    fn read(content: Content<'_>) -> usize {
        u64::read(content) as usize
    }
}

impl Value for bool {
    const EMPTY: bool = true;

    fn write(&self, to: &mut Encoder) {
        u32::from(*self).write(to);
    }

    fn read(content: Content<'_>) -> bool {
        u32::read(content) != 0
    }
}

/// Texts and bytes.
macro_rules! texts {
    ($($kind:ty, $value:ident => $bytes:expr, $read:expr;)*) => {$(
        impl Value for $kind {
            const EMPTY: bool = true;

            fn write(&self, to: &mut Encoder) {
                let $value = self;
                to.bytes($bytes);
            }

            fn read(content: Content<'_>) -> $kind {
                $read(content)
            }
        }
    )*};
}

texts! {
    String, text => text.as_bytes(), text;
    Rc<str>, text => text.as_bytes(), |content| text(content).into();
    PathBuf, path => path.as_os_str().as_bytes(), |content| os_text(content).into();
    OsString, text => text.as_bytes(), os_text;
    Vec<u8>, bytes => bytes, |content: Content<'_>| content.bytes().to_vec();
    Box<[u8]>, bytes => bytes, |content: Content<'_>| content.bytes().into();
}

fn text(content: Content<'_>) -> String {
    String::from_utf8(content.bytes().to_vec()).unwrap_or_else(|_| {
        let found = format!("{:?}", OsStr::from_bytes(content.bytes()));
        content.fault(Fault::Unexpected { content: found, expected: "text" });
        String::new()
    })
}

fn os_text(content: Content<'_>) -> OsString {
    OsString::from_vec(content.bytes().to_vec())
}

impl Value for OwnedFd {
    fn write(&self, to: &mut Encoder) {
        to.descriptor(self.as_fd());
    }

    fn read(content: Content<'_>) -> OwnedFd {
        content.descriptor()
    }
}

/// Nanoseconds of CLOCK_MONOTONIC.
impl Value for Instant {
    fn write(&self, to: &mut Encoder) {
        moment::since_boot(*self).write(to);
    }

    fn read(content: Content<'_>) -> Instant {
        moment::at(u64::read(content))
    }
}

/// Nanoseconds.
impl Value for Duration {
    const EMPTY: bool = true;

    fn write(&self, to: &mut Encoder) {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).write(to);
    }

    fn read(content: Content<'_>) -> Duration {
        Duration::from_nanos(u64::read(content))
    }
}

/// Nanoseconds since 1970.
impl Value for SystemTime {
    const EMPTY: bool = true;

    fn write(&self, to: &mut Encoder) {
        self.duration_since(UNIX_EPOCH).unwrap_or_default().write(to);
    }

    fn read(content: Content<'_>) -> SystemTime {
        UNIX_EPOCH + Duration::read(content)
    }
}

impl<T: Value> Value for Box<T> {
    const EMPTY: bool = T::EMPTY;

    fn write(&self, to: &mut Encoder) {
        T::write(self, to);
    }

    fn read(content: Content<'_>) -> Box<T> {
        Box::new(T::read(content))
    }
}

impl<T: Value> Value for Rc<T> {
    const EMPTY: bool = T::EMPTY;

    fn write(&self, to: &mut Encoder) {
        T::write(self, to);
    }

    fn read(content: Content<'_>) -> Rc<T> {
        Rc::new(T::read(content))
    }
}

/// Two fields.
impl<A: Field, B: Field> Value for (A, B) {
    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self.0);
        to.put(2, true, &self.1);
    }

    fn read(content: Content<'_>) -> (A, B) {
        let mut fields = Fields::of(content, "a pair");
        let pair = (fields.get(1), fields.get(2));
        fields.end();
        pair
    }
}

/// Two fields of one type.
impl<T: Field> Value for [T; 2] {
    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self[0]);
        to.put(2, true, &self[1]);
    }

    fn read(content: Content<'_>) -> [T; 2] {
        let mut fields = Fields::of(content, "a pair");
        let pair = [fields.get(1), fields.get(2)];
        fields.end();
        pair
    }
}

/// Collections: a field for each element.
macro_rules! repeated {
    ($($collection:ident),*) => {$(
        impl<T: Value> Field for $collection<T> {
            fn put(&self, number: u32, essential: bool, to: &mut Encoder) {
                put_each(self.iter(), number, essential, to);
            }

            fn get(number: u32, fields: &mut Fields<'_>) -> $collection<T> {
                fields.take(number).into_iter().map(T::read).collect()
            }
        }
    )*};
}

repeated!(Vec, VecDeque);

impl<K: Value + Ord, V: Value> Field for Table<K, V> {
    fn put(&self, number: u32, essential: bool, to: &mut Encoder) {
        put_each(self.entries().iter(), number, essential, to);
    }

    fn get(number: u32, fields: &mut Fields<'_>) -> Table<K, V> {
        let mut table = Table::default();
        fields.take(number).into_iter().map(<(K, V)>::read).for_each(|(key, value)| table.insert(key, value));
        table
    }
}

impl<V: Value> Field for BTreeMap<i32, V> {
    fn put(&self, number: u32, essential: bool, to: &mut Encoder) {
        for (key, value) in self {
            let start = to.begin(number, essential);
            to.put(1, true, key);
            to.put(2, true, value);
            to.end(start);
        }
    }

    fn get(number: u32, fields: &mut Fields<'_>) -> BTreeMap<i32, V> {
        fields.take(number).into_iter().map(<(i32, V)>::read).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::super::format::read_back;
    use super::*;
    use crate::{Spooling, WaitToken, WhenFull};

    /// A field that is lost in writing is lost in all images alike, so a comparison of images does not find it.
    fn is_read_back<F: Field + PartialEq + Debug>(field: F) {
        assert_eq!(read_back(&field), field);
    }

    #[test]
    fn each_value_is_read_back_as_it_was() {
        is_read_back(7_u16);
        is_read_back(usize::MAX);
        is_read_back(true);
        is_read_back(-70_000_i32);
        is_read_back(Some(0_u32));
        is_read_back(None::<u32>);
        is_read_back("text".to_owned());
        is_read_back(Rc::<str>::from("shared"));
        is_read_back(OsString::from_vec(vec![b'a', 0xff]));
        is_read_back(PathBuf::from("/a/b"));
        is_read_back(Box::new(Rc::new(9_u64)));
        is_read_back(Instant::now());
        is_read_back(Duration::from_nanos(1_000_000_007));
        is_read_back(UNIX_EPOCH + Duration::from_nanos(1_500_000_001));
        is_read_back((3_u32, "x".to_owned()));
        is_read_back([3_u32, 4]);
        is_read_back([None, Some(5_u32)]);
        is_read_back(vec![1_u64, 0, 2]);
        is_read_back(VecDeque::from(["a".to_owned(), String::new()]));
        is_read_back(VecDeque::from([7_u8, 0]));
        is_read_back(BTreeMap::from([(-3, 5_u32), (4, 0)]));
        let mut table = Table::default();
        [(3_u32, 5_u64), (1, 0)].into_iter().for_each(|(key, value)| table.insert(key, value));
        is_read_back(table);
        is_read_back(WaitToken(6));
        is_read_back(Spooling { max: 8, full: WhenFull::DropOldest, directory: "/d".into() });
    }
}
