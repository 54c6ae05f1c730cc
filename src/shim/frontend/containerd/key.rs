//! The keys under which the descriptors of this front end are watched.

/// The kind of a descriptor of this front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrontKind {
    /// The listener.
    Listener = 1,
    /// A connection of containerd.
    Connection,
    /// The connection for events.
    Outbox,
    /// A child that does a job.
    Job,
    /// A logger.
    Logger,
}

/// The lower bits of a key are a serial number, the upper bits the kind.
const SERIAL: u32 = 48;

/// The key of a descriptor.
pub(super) fn key(kind: FrontKind, serial: u64) -> u64 {
    (kind as u64) << SERIAL | serial
}

/// The kind and the serial number of a key.
pub(super) fn parts(key: u64) -> Option<(FrontKind, u64)> {
    let kind = match key >> SERIAL {
        1 => FrontKind::Listener,
        2 => FrontKind::Connection,
        3 => FrontKind::Outbox,
        4 => FrontKind::Job,
        5 => FrontKind::Logger,
        _ => return None,
    };
    Some((kind, key & ((1 << SERIAL) - 1)))
}

/// Allocates serial numbers.
#[derive(Debug, Default)]
pub(super) struct Serials(pub(super) u64);

impl Serials {
    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_parts_that_it_was_made_of() {
        let kinds = [FrontKind::Listener, FrontKind::Connection, FrontKind::Outbox, FrontKind::Job, FrontKind::Logger];
        for kind in kinds {
            assert_eq!(parts(key(kind, 7)), Some((kind, 7)));
        }
        assert_eq!(parts(0), None);
        // The core's own keys begin at 2^56.
        assert!(kinds.iter().all(|kind| key(*kind, (1 << SERIAL) - 1) < 1 << 56));
    }
}
