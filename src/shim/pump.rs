//! The decisions of a pump, which moves the output of a process from its source to its readers.
//!
//! Nothing here touches a descriptor. A pump (`Outlet::pump`) looks at source, sink and clients, and learns here
//! whether to go on, and at its end what to wait for.

use std::os::fd::OwnedFd;

/// Less than this is copied. splice(2) moves the slots of a pipe as they are. A pipe has sixteen, and small
/// pieces would fill it with almost empty slots; a copy fills each slot.
pub(super) const LITTLE: usize = 16 * 1024;

/// A stream that moves this many bytes without a pause gets wide pipes.
const MUCH: usize = 4 * 1024 * 1024;

/// The pipe or terminal that the process writes to.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) fd: OwnedFd,
    pub(super) terminal: bool,
    pub(super) reading: Reading,
}

/// What has to happen before the source is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// epoll(7) reports bytes or the end. In all other states the source is not watched, because epoll always reports a
    /// hang-up, and the loop would spin.
    Watched,
    /// The sink or the spool must have room. The source is also paused if it could not be watched.
    Paused,
    /// A client that is full must read.
    AwaitsClients,
    /// A process must open the terminal again. The kernel does not report that.
    HungUp,
}

/// What the bytes that were read, and not passed on, wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backlog {
    /// There are none.
    None,
    /// Room in the sink.
    Room,
    /// A reader of the sink.
    Reader,
    /// The file of the spool.
    File,
}

impl Backlog {
    /// Whether nothing can be passed on as long as the sink lacks a reader.
    pub(super) fn needs_reader(self) -> bool {
        matches!(self, Backlog::Room | Backlog::Reader)
    }
}

/// Output that may be the runtime's error message, because the runtime writes to the stream too while its call runs.
#[derive(Debug)]
pub(super) enum Hold {
    /// The call runs: this output is held back.
    Held(Vec<u8>),
    /// The call has ended, or there was none. `message` is that of a call that has failed.
    Released { message: Vec<u8> },
}

/// The outcome of moving some bytes from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveResult {
    Bytes(usize),
    /// The source is empty at the moment.
    Nothing,
    /// The source has bytes, and the sink has no room for them.
    Full,
    End,
}

/// Why a pump stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The source is empty, or other descriptors have their turn.
    Turn,
    /// There is no source, or it has ended.
    Ended,
    /// No process has the other side of the terminal open.
    HungUp,
    /// No more bytes may be read, because others wait already.
    NoRoom,
    /// A client is full.
    ClientFull,
    /// The sink is full, and the bytes stay in the source.
    SinkFull,
    /// The sink is full, and the process has ended: the source is read all the same.
    Behind,
}

/// What a pump does after a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Again,
    /// Read the bytes for which the sink has no room into memory.
    Copy,
    Stop(Stop),
}

impl Stop {
    /// Whether a pump stops before it moves bytes. `room`: bytes that may be read.
    pub(super) fn before(room: usize, client_full: bool, has_source: bool) -> Option<Stop> {
        match (room, client_full, has_source) {
            (0, ..) => Some(Stop::NoRoom),
            (_, true, _) => Some(Stop::ClientFull),
            (_, _, false) => Some(Stop::Ended),
            _ => None,
        }
    }

    /// What a pump that has stopped waits for: the state of the source, and whether it waits for room in the sink. A sink
    /// that lacks no reader any more has room: a reader that came meanwhile gets what has waited for it.
    pub(super) fn waits(self, backlog: Backlog, lacks_reader: bool) -> (Reading, bool) {
        let reading = match self {
            Stop::Turn | Stop::Ended | Stop::Behind => Reading::Watched,
            Stop::NoRoom | Stop::SinkFull => Reading::Paused,
            Stop::ClientFull => Reading::AwaitsClients,
            Stop::HungUp => Reading::HungUp,
        };
        let full = matches!(self, Stop::SinkFull | Stop::Behind);
        (reading, full || (backlog.needs_reader() && !lacks_reader))
    }
}

impl Step {
    /// The step after a move. `alive`: the process lives, and may open a terminal again that was hung up.
    pub(super) fn after(moved: MoveResult, alive: bool, terminal: bool) -> Step {
        match moved {
            // Most likely the source is empty now. If it is not, the loop reports it again.
            MoveResult::Bytes(n) if n < LITTLE && alive && !terminal => Step::Stop(Stop::Turn),
            MoveResult::Bytes(_) => Step::Again,
            MoveResult::Nothing => Step::Stop(Stop::Turn),
            MoveResult::Full if alive => Step::Stop(Stop::SinkFull),
            // The end is reported without waiting for a reader.
            MoveResult::Full => Step::Copy,
            MoveResult::End if terminal && alive => Step::Stop(Stop::HungUp),
            MoveResult::End => Step::Stop(Stop::Ended),
        }
    }
}

/// How many bytes the sink alone has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// Since the last pause.
    pub(super) since_pause: usize,
    /// By the last move; 0 if logs or clients got them too.
    pub(super) last_move: usize,
}

impl Flow {
    /// Counts the bytes of a move. Returns true if the pipes should become wide now.
    pub(super) fn count(&mut self, n: usize) -> bool {
        let before = self.since_pause;
        *self = Flow { since_pause: before.saturating_add(n), last_move: n };
        before < MUCH && self.since_pause >= MUCH
    }

    /// A pause in the output. Returns true if the pipes should become narrow again.
    pub(super) fn pause(&mut self) -> bool {
        std::mem::take(&mut self.since_pause) >= MUCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKLOGS: [Backlog; 4] = [Backlog::None, Backlog::Room, Backlog::Reader, Backlog::File];

    #[test]
    fn nothing_is_read_without_room_or_past_a_full_client() {
        assert_eq!(Stop::before(0, false, true), Some(Stop::NoRoom));
        assert_eq!(Stop::before(0, true, true), Some(Stop::NoRoom), "room comes before clients");
        assert_eq!(Stop::before(1, true, true), Some(Stop::ClientFull));
        assert_eq!(Stop::before(1, false, false), Some(Stop::Ended));
        assert_eq!(Stop::before(1, false, true), None);
    }

    #[test]
    fn a_live_process_is_held_back_by_a_full_sink_and_a_dead_one_is_read_to_its_end() {
        let Step::Stop(stop) = Step::after(MoveResult::Full, true, false) else { panic!("it goes on") };
        for backlog in BACKLOGS {
            assert_eq!(stop.waits(backlog, false), (Reading::Paused, true));
        }
        assert_eq!(Step::after(MoveResult::Full, false, false), Step::Copy);
        assert_eq!(Stop::Behind.waits(Backlog::None, false), (Reading::Watched, true));
    }

    #[test]
    fn only_a_terminal_whose_process_lives_can_be_opened_again() {
        for (alive, terminal) in [(true, true), (true, false), (false, true), (false, false)] {
            let stop = if alive && terminal { Stop::HungUp } else { Stop::Ended };
            assert_eq!(Step::after(MoveResult::End, alive, terminal), Step::Stop(stop));
        }
        assert_eq!(Stop::HungUp.waits(Backlog::None, false), (Reading::HungUp, false));
    }

    #[test]
    fn a_little_from_a_pipe_gives_the_turn_away_and_all_else_goes_on() {
        let after = |n, alive, terminal| Step::after(MoveResult::Bytes(n), alive, terminal);
        assert_eq!(after(LITTLE - 1, true, false), Step::Stop(Stop::Turn));
        assert_eq!(after(LITTLE, true, false), Step::Again);
        assert_eq!(after(1, true, true), Step::Again, "a terminal gives a line at a time");
        assert_eq!(after(1, false, false), Step::Again, "the end of a process is not kept waiting");
        assert_eq!(Step::after(MoveResult::Nothing, false, true), Step::Stop(Stop::Turn));
    }

    #[test]
    fn room_in_a_sink_without_a_reader_is_not_waited_for() {
        for stop in [Stop::Turn, Stop::Ended, Stop::HungUp, Stop::NoRoom, Stop::ClientFull] {
            for backlog in BACKLOGS {
                assert!(!stop.waits(backlog, true).1, "{stop:?}, {backlog:?}: epoll would report it all the time");
                let is_for_reader = [Backlog::Room, Backlog::Reader].contains(&backlog);
                assert_eq!(stop.waits(backlog, false).1, is_for_reader, "{stop:?}, {backlog:?}");
            }
        }
    }

    #[test]
    fn a_full_client_alone_is_waited_for_as_a_client() {
        let all = [Stop::Turn, Stop::Ended, Stop::HungUp, Stop::NoRoom, Stop::SinkFull, Stop::Behind];
        assert!(all.iter().all(|stop| stop.waits(Backlog::Room, false).0 != Reading::AwaitsClients));
        assert_eq!(Stop::ClientFull.waits(Backlog::Room, false), (Reading::AwaitsClients, true));
    }

    #[test]
    fn pipes_become_wide_once_by_much_and_narrow_after_a_pause() {
        let mut flow = Flow::default();
        assert!(!flow.count(MUCH - 1) && flow.count(1) && !flow.count(MUCH));
        assert_eq!(flow, Flow { since_pause: 2 * MUCH, last_move: MUCH });
        assert!(flow.pause() && !flow.pause());
        assert!(!flow.count(1) && !flow.pause(), "a little between two pauses");
    }
}
