//! The tables of the stdio of processes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use super::format::{Content, Encoder, Field, Fields, Value, choice, table};
use crate::client::Client;
use crate::input::Input;
use crate::log::file::FileLog;
use crate::log::journald::{Journald, SOCKET};
use crate::log::json::JsonLog;
use crate::log::{Logger, Stream};
use crate::outlet::Outlet;
use crate::pump::{Backlog, Flow, Hold, Reading, Source};
use crate::sink::{Fifo, Sink};
use crate::spool::{Feeder, Spool, Writer};
use crate::stdio::{JournalFields, LogFile};
use crate::streams::Streams;
use crate::{Framing, Interest, Log, Output, Spooling, Stdin, Stdio, WhenFull};

table! {
    Stdio { 1 terminal, 2 stdin, 3 stdout, 4 stderr, 5 logs, 6 owner, 7 fifos, 8 spooling }
    LogFile { 1 path, 2 below, 3 max_size, 4 max_files, 5 max_total, 6 sync }
    JournalFields { 1 id, 2 name, 3 tag, 4 labels, 5 partial }
    Streams {
        1 serial, 2 terminal, 3 stdin, 4 outlets, 5 input, 6 logs, 7 clients, 8 next_client, 9 early, 10 size,
    }
    Input { 1 sink, 2 terminal, 3 fifo, 4 pending, 5 blocked, 6 close_when_empty, 7 @hint unwatched }
    Spool {
        1 settings, 2 key, 3 memory, 4 file, 5 start, 6 end, 7 writer, 8 feeder, 9 has_failed, 10 lost, 11 dropped,
        12 credit, 13 warning, 14 failures, 15 again,
    }
    Writer { 1 answer, 2 bytes, 3 taken }
    Feeder { 1 pipe, 2 until, 3 has_moved, 4 is_watched }
    Fifo {
        1 end, 2 without_reader, 3 had_reader, 4 watch, 5 next_retry, 6 @hint left, 7 @hint since, 8 @hint untouched,
    }
    Client {
        1 number, 2 key, 3 socket, 4 framing, 5 queue, 6 queued, 7 sent, 8 since, 9 reading, 10 unread, 11 watched,
        12 @hint ended, 13 @hint is_awaited, 14 @hint waited,
    }
    FileLog { 1 spec, 2 directory, 3 file, 4 size, 5 total, 6 dropped }
    JsonLog { 1 file, 2 begun }
}

choice! {
    Stdin { 1 Null {}, 2 Fifo { 1 path: 0 }, 3 Attach { 1 leave_open: leave_open }, 4 Inherit {} }
    Output { 1 None {}, 2 Attach {}, 3 Fifo { 1 path: 0 }, 4 File { 1 path: 0 }, 5 Fd { 1 fd: 0 }, 6 Inherit {} }
    Log { 1 K8s { 1 file: 0 }, 2 Json { 1 file: 0 }, 3 Raw { 1 file: 0 }, 4 Journald { 1 journal: 0 } }
    Framing { 1 Packet {}, 2 Stream {}, 3 Marked {} }
    Interest { 1 Nothing {}, 2 Read {}, 3 Write {}, 4 Both {} }
    Stream { 1 Stdout {}, 2 Stderr {} }
    Sink { 1 None {}, 2 Pipe { 1 end: 0 }, 3 Fifo { 1 fifo: 0 }, 4 File { 1 file: 0 } }
    Logger { 1 K8s { 1 file: 0 }, 2 Json { 1 log: 0 }, 3 Raw { 1 file: 0 }, 4 Journald { 1 journal: 0 } }
}

/// By hand, because settings that keep nothing are not written.
impl Value for Spooling {
    const EMPTY: bool = true;

    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self.max);
        to.put(2, true, &(self.full == WhenFull::DropOldest));
        to.put(3, true, &self.directory);
    }

    fn read(content: Content<'_>) -> Spooling {
        let mut fields = Fields::of(content, "Spooling");
        let (max, drops, directory) = (fields.get(1), fields.get(2), fields.get(3));
        fields.end();
        Spooling { max, full: if drops { WhenFull::DropOldest } else { WhenFull::Block }, directory }
    }
}

/// Writes the bytes as one content, and not each as a field.
impl Field for VecDeque<u8> {
    fn put(&self, number: u32, essential: bool, to: &mut Encoder) {
        let (one, two) = self.as_slices();
        if !self.is_empty() {
            let start = to.begin(number, essential);
            to.bytes(one);
            to.bytes(two);
            to.end(start);
        }
    }

    fn get(number: u32, fields: &mut Fields<'_>) -> VecDeque<u8> {
        fields.take_one(number).map(|content| content.bytes().iter().copied().collect()).unwrap_or_default()
    }
}

/// By hand, because the socket's path is this program's, and the priorities of partial lines are digits.
impl Value for Journald {
    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self.socket);
        to.put(2, true, &self.fields);
        to.put(3, true, &self.partial);
        to.put(4, true, &self.cut.map(|priority| priority.map(u32::from)));
        to.put(5, true, &self.no_wait_until);
        to.put(6, true, &self.dropped);
    }

    fn read(content: Content<'_>) -> Journald {
        let mut fields = Fields::of(content, "Journald");
        let cut: [Option<u32>; 2] = fields.get(4);
        let journald = Journald {
            socket: fields.get(1),
            path: SOCKET,
            fields: fields.get(2),
            partial: fields.get(3),
            cut: cut.map(|priority| priority.and_then(|digit| u8::try_from(digit).ok())),
            no_wait_until: fields.get(5),
            dropped: fields.get(6),
        };
        fields.end();
        journald
    }
}

/// By hand, because the states of source, hold and backlog are written as a field for each fact.
impl Value for Outlet {
    fn write(&self, to: &mut Encoder) {
        let reading = self.source.as_ref().map(|source| source.reading);
        to.put(1, true, &self.stream);
        if let Some(source) = &self.source {
            to.put(2, true, &source.fd);
        }
        to.put(3, true, &self.source_key);
        to.put(4, true, &(reading == Some(Reading::Watched)));
        to.put(5, true, &self.source.as_ref().is_some_and(|source| source.terminal));
        to.put(6, true, &self.sink);
        to.put(7, true, &self.sink_key);
        to.put(8, true, &self.sink_watched);
        to.put(9, true, &self.pending);
        match &self.hold {
            Hold::Held(held) => {
                let start = to.begin(10, true);
                held.write(to);
                to.end(start);
            }
            Hold::Released { message } => to.put(11, true, message),
        }
        to.put(12, true, &(reading == Some(Reading::AwaitsClients)));
        to.put(13, true, &(reading == Some(Reading::HungUp)));
        to.put(14, true, &self.over);
        to.put(15, true, &self.dropped);
        to.put(16, true, &self.flow.since_pause);
        to.put(17, true, &self.flow.last_move);
        to.put(18, true, &self.spool);
        to.put(19, true, &(self.backlog == Backlog::Room));
        to.put(20, false, &self.warning);
    }

    fn read(content: Content<'_>) -> Outlet {
        let mut fields = Fields::of(content, "Outlet");
        let fd: Option<OwnedFd> = fields.get(2);
        let (watched, terminal) = (fields.get(4), fields.get(5));
        let (held, message): (Option<Vec<u8>>, Vec<u8>) = (fields.get(10), fields.get(11));
        let (waits_for_clients, hung_up) = (fields.get(12), fields.get(13));
        let reading = match (hung_up, waits_for_clients, watched) {
            (true, ..) => Reading::HungUp,
            (_, true, _) => Reading::AwaitsClients,
            (_, _, true) => Reading::Watched,
            _ => Reading::Paused,
        };
        let outlet = Outlet {
            stream: fields.get(1),
            source: fd.map(|fd| Source { fd, terminal, reading }),
            source_key: fields.get(3),
            sink: fields.get(6),
            sink_key: fields.get(7),
            sink_watched: fields.get(8),
            pending: fields.get(9),
            spool: fields.get(18),
            backlog: if fields.get(19) { Backlog::Room } else { Backlog::None },
            hold: held.map_or(Hold::Released { message }, Hold::Held),
            over: fields.get(14),
            dropped: fields.get(15),
            warning: fields.get(20),
            flow: Flow { since_pause: fields.get(16), last_move: fields.get(17) },
        };
        fields.end();
        outlet
    }
}
