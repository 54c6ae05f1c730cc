//! The front end in an image, for the next program.

use super::connection::Connection;
use super::container_dir::{ContainerConfig, ContainerDir};
use super::event_log::{Cursor, EventLog};
use super::front::{ClientRequest, NeutralFront, PendingRequest};
use crate::frontend::stderr::{NAME, print_error};
use crate::frontend::upgradable::{Mode, Upgradable};
use crate::image::fault::Fault;
use crate::image::format::{Content, Encoder, Value, choice, table};
use crate::image::watching::all;
use crate::{Poll, Supervisor};

table! {
    NeutralFront {
        1 dir, 2 config, 3 event_log, 4 connections, 5 pending, 6 failed, 7 execs, 8 adopted, 9 next_key, 10 listener,
        11 lock, 12 finishing, 13 retry_write_at, 14 unserved, 15 spare, 16 dir_gone,
        17 @hint turn_away_next,
    }
    ContainerDir { 1 dir, 2 entered }
    EventLog {
        1 path, 2 file, 3 length, 4 next, 5 acknowledged, 6 compact_at, 7 generation, 8 once, 9 unwritten,
    }
    Cursor { 1 from, 2 offset, 3 generation }
    Connection {
        1 key, 2 socket, 3 input, 4 searched, 5 output, 6 watched, 7 half_closed, 8 closing, 9 cursor, 10 passed,
    }
}

choice! {
    PendingRequest {
        1 Create {}, 2 Start {}, 3 RemoveOrphan {}, 4 RollBack { 1 why: 0 },
        5 Client { 1 key: key, 2 seq: seq, 3 what: what },
    }
    ClientRequest {
        1 Plain {}, 2 Exec { 1 exec: exec, 2 attached: attached }, 3 Wait { 1 exec: exec }, 4 Delete {},
        5 Checkpoint { 1 images: images },
    }
}

/// The document `shim.json`, which has its own versions.
impl Value for ContainerConfig {
    fn write(&self, to: &mut Encoder) {
        to.bytes(&serde_json::to_vec(self).unwrap_or_default());
    }

    fn read(content: Content<'_>) -> ContainerConfig {
        serde_json::from_slice(content.bytes()).unwrap_or_else(|error| {
            content.fault(Fault::Config(error.to_string()));
            ContainerConfig::default()
        })
    }
}

impl Connection {
    /// Watches the connection as the previous program did.
    pub(crate) fn watch_again(&self, poll: &Poll) -> windlass_sys::Result<()> {
        poll.watch(&self.socket, self.key, self.watched)
    }
}

impl Upgradable for NeutralFront {
    const MODE: Mode = Mode::Neutral;

    fn watch_again(&mut self, core: &mut Supervisor) -> windlass_sys::Result<()> {
        let connections = self.connections.iter().map(|connection| connection.watch_again(&core.poll));
        all(std::iter::once(self.listener.watch_again(&core.poll)).chain(connections))
    }

    fn log(&self, text: &str) {
        print_error(NAME, text);
    }
}
