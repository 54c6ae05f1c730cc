//! The front end in an image, for the next program.

use super::endpoints::{ControlMessage, Endpoints, LineFifo};
use super::front::{CONTROL, ConmonFront, NOTIFY, Next, SIZE, START};
use super::messages::{Level, Messages};
use super::notify::NotifyRelay;
use super::pipes::{NumberKey, Pipes};
use super::settings::{ExitCommand, Settings};
use crate::frontend::upgradable::{Mode, Upgradable};
use crate::image::format::{Content, Encoder, Fields, Value, choice, table};
use crate::image::watching::all;
use crate::{Interest, Supervisor};

table! {
    ConmonFront {
        1 settings, 2 messages, 3 pipes, 4 id, 5 process, 6 preserved, 7 endpoints, 8 relay, 9 launched, 10 early,
        11 timed_out, 12 next,
    }
    Messages { 1 level, 2 syslog, 3 id }
    Pipes { 1 key, 2 sync, 3 start, 4 attach }
    ExitCommand { 1 program, 2 arguments, 3 delay }
    Endpoints { 1 attach, 2 control, 3 size, 4 bundle, 5 socket, 6 link }
    LineFifo { 1 fd, 2 unread }
    NotifyRelay { 1 inside, 2 sender, 3 manager }
}

choice! {
    Level { 1 Error {}, 2 Warn {}, 3 Info {}, 4 Debug {}, 5 Trace {} }
    NumberKey { 1 Data {}, 2 Pid {}, 3 ExitCode {} }
    ControlMessage { 1 Resize { 1 rows: 0, 2 columns: 1 }, 2 ReopenLogs {} }
    Next { 1 Nothing {}, 2 Timeout { 1 at: 0 }, 3 Leave { 1 at: 0, 2 status: 1 } }
}

/// The settings that are needed after the start.
impl Value for Settings {
    fn write(&self, to: &mut Encoder) {
        to.put(1, true, &self.container);
        to.put(2, true, &self.key);
        to.put(3, true, &self.passthrough);
        to.put(4, true, &self.timeout);
        to.put(5, true, &self.exit);
        to.put(6, true, &self.level);
        to.put(7, true, &self.syslog);
    }

    fn read(content: Content<'_>) -> Settings {
        let mut fields = Fields::of(content, "Settings");
        let settings = Settings {
            container: fields.get(1),
            key: fields.get(2),
            attach_first: false,
            passthrough: fields.get(3),
            stay: false,
            pid_file: None,
            endpoints: None,
            notify_socket: None,
            timeout: fields.get(4),
            exit: fields.get(5),
            listen_pid: false,
            level: fields.get(6),
            syslog: fields.get(7),
        };
        fields.end();
        settings
    }
}

impl Upgradable for ConmonFront {
    const MODE: Mode = Mode::Conmon;

    fn watch_again(&mut self, core: &mut Supervisor) -> windlass_sys::Result<()> {
        let poll = &core.poll;
        let launched = self.process.is_none();
        let start = self.pipes.start.iter().filter(|_| !launched);
        let endpoints = self.endpoints.iter().flat_map(|endpoints| {
            let fifos = [(&endpoints.control, CONTROL), (&endpoints.size, SIZE)];
            let fifos = fifos.map(|(fifo, key)| poll.watch(&fifo.fd, key, Interest::Read));
            // Clients that connect before the launch are accepted after it.
            fifos.into_iter().chain(launched.then(|| endpoints.attach.watch_again(poll)))
        });
        let start = start.map(|start| poll.watch(start, START, Interest::Read));
        let relay = self.relay.iter().map(|relay| poll.watch(&relay.inside, NOTIFY, Interest::Read));
        all(start.chain(endpoints).chain(relay))
    }

    fn log(&self, text: &str) {
        self.messages.log(Level::Info, text);
    }
}
