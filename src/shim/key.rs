//! The keys under which the core watches its descriptors.
//!
//! A key has 64 bits: 8 for the kind of the descriptor, 40 (of which 32 are used) for the serial number of its owner,
//! and 16 to distinguish several descriptors of that kind. Kind 0 belongs to the front end.

/// The kind of a descriptor of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The signalfd.
    Signals = 1,
    /// The pidfd of a container's process.
    Process,
    /// A pipe or a terminal that a process writes its output to.
    Source,
    /// The pipe, fifo or file that the output goes to.
    Sink,
    /// The fifo that input comes from.
    InputFifo,
    /// The pipe or the terminal that input goes to.
    InputSink,
    /// The socket of an attached client.
    Client,
    /// The console socket of a runtime that is making a terminal.
    Console,
    /// The pidfd of a runtime.
    Call,
    /// Standard output of a runtime.
    CallOutput,
    /// Standard error of a runtime.
    CallErrors,
    /// The pidfd of a child that writes an exit record.
    Record,
    /// The inotify instance.
    Inotify,
    /// The pidfd of a program that checks an image.
    ImageCheck,
    /// A pipe from a child that writes output to a file or reads it back.
    Spool,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Signals,
            2 => Kind::Process,
            3 => Kind::Source,
            4 => Kind::Sink,
            5 => Kind::InputFifo,
            6 => Kind::InputSink,
            7 => Kind::Client,
            8 => Kind::Console,
            9 => Kind::Call,
            10 => Kind::CallOutput,
            11 => Kind::CallErrors,
            12 => Kind::Record,
            13 => Kind::Inotify,
            14 => Kind::ImageCheck,
            15 => Kind::Spool,
            _ => return None,
        })
    }
}

/// The key of a descriptor of the core. `serial` names the process or the call that it belongs to.
pub(super) fn key(kind: Kind, serial: u32, sub: u16) -> u64 {
    (kind as u64) << 56 | u64::from(serial) << 16 | u64::from(sub)
}

/// Whether a key was chosen by the front end.
pub(super) fn is_of_front_end(key: u64) -> bool {
    key >> 56 == 0
}

/// The parts of a key of the core.
pub(super) fn parts(key: u64) -> Option<(Kind, u32, u16)> {
    Some((Kind::of((key >> 56) as u8)?, (key >> 16) as u32, key as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_parts_that_it_was_made_of() {
        for byte in 1..=15 {
            let kind = Kind::of(byte).expect("a kind");
            assert_eq!(kind as u8, byte);
            assert_eq!(parts(key(kind, u32::MAX, u16::MAX)), Some((kind, u32::MAX, u16::MAX)));
            assert_eq!(parts(key(kind, 7, 0)), Some((kind, 7, 0)));
        }
        assert_eq!((Kind::of(0), Kind::of(16)), (None, None));
        assert!(is_of_front_end((1 << 56) - 1));
    }
}
