//! The stdio of one process: its outlets, the input, the attached clients and the logs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use nix::fcntl::OFlag;

use super::client::{Client, FromClient};
use super::input::{Input, copy, write_all};
use super::key::{Kind, key};
use super::log::{Logger, Stream};
use super::outlet::{Outlet, OutletContext};
use super::pipe::{captured, null};
use super::poll::{Poll, Ready};
use super::scratch::Scratch;
use super::stdio::{Framing, Output, Spooling, Stdin, Stdio};
use windlass_sys::stream::{self, Moved};
use windlass_sys::{Result, fd, pipe, terminal};

/// The stdio of one process.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) serial: u32,
    pub(super) terminal: bool,
    pub(super) stdin: Stdin,
    pub(super) outlets: Vec<Outlet>,
    pub(super) input: Option<Input>,
    pub(super) logs: Vec<Logger>,
    pub(super) clients: Vec<Client>,
    pub(super) next_client: u16,
    /// Input from clients before the runtime has sent the terminal. `None`: there is no terminal, or it was sent.
    pub(super) early: Option<Vec<u8>>,
    /// The size that was requested before there was a terminal.
    pub(super) size: Option<(u16, u16)>,
}

/// The descriptors 0, 1 and 2 of the runtime, which the process inherits.
pub(super) type ChildEnds = [OwnedFd; 3];

/// What to expect of a client after a receive.
enum Sends {
    /// The client may have sent more input.
    More,
    /// Nothing to read now. If the other end is gone, the client has left.
    Nothing,
    /// The client has left.
    Left,
}

/// How the pipes of the output are made.
struct OutputPipes {
    owner: Option<(u32, u32)>,
    fifos: Option<(PathBuf, String)>,
    spooling: Spooling,
}

impl OutputPipes {
    /// Opens a pipe: read end, write end.
    fn open(&self, which: Stream) -> Result<(OwnedFd, OwnedFd)> {
        let (read_end, write_end) = match &self.fifos {
            None => captured()?,
            Some((dir, name)) => {
                let suffix = if which == Stream::Stdout { "stdout" } else { "stderr" };
                let path = dir.join(format!("{name}.{suffix}"));
                match fd::mknodat(fd::CWD, &path, libc::S_IFIFO | 0o600, 0) {
                    Err(failed) if failed.errno != nix::errno::Errno::EEXIST => return Err(failed),
                    _ => {}
                }
                (fd::open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?, fd::open(&path, OFlag::O_RDWR)?)
            }
        };
        give_to(&write_end, self.owner)?;
        Ok((read_end, write_end))
    }
}

impl Streams {
    /// Opens everything but the terminal, which the runtime sends. `stdin_closed`: the process gets only the input that
    /// was sent before.
    pub(super) fn open(stdio: Stdio, stdin_closed: bool, serial: u32, poll: &Poll) -> Result<(Streams, ChildEnds)> {
        let logs = stdio.logs.iter().map(Logger::open).collect::<Result<Vec<_>>>()?;
        let mut streams = Streams {
            serial,
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            outlets: Vec::new(),
            input: None,
            logs,
            clients: Vec::new(),
            next_client: 0,
            early: stdio.terminal.then(Vec::new),
            size: None,
        };
        let pipes = OutputPipes { owner: stdio.owner, fifos: stdio.fifos, spooling: stdio.spooling };
        let stdin = streams.open_input(stdio.owner, stdin_closed, poll)?;
        let stdout = streams.open_output(Stream::Stdout, stdio.stdout, &pipes, poll)?;
        let stderr = streams.open_output(Stream::Stderr, stdio.stderr, &pipes, poll)?;
        Ok((streams, [stdin, stdout, stderr]))
    }

    fn open_input(&mut self, owner: Option<(u32, u32)>, closed: bool, poll: &Poll) -> Result<OwnedFd> {
        let fifo = match &self.stdin {
            Stdin::Inherit => return fd::duplicate(std::io::stdin().as_fd()),
            Stdin::Null => return null(),
            _ if self.terminal => return null(),
            Stdin::Attach { .. } => None,
            Stdin::Fifo(path) => {
                let fifo = fd::open(path, OFlag::O_RDWR | OFlag::O_NONBLOCK)?;
                // With a read end alone the shim gets the end when the last writer has left. It has been a writer
                // itself, because the kernel reports no end of a fifo that never had a writer.
                Some(if closed { fd::reopen(fifo.as_fd(), OFlag::O_RDONLY | OFlag::O_NONBLOCK)? } else { fifo })
            }
        };
        let closes = closed && fifo.is_none();
        let (read_end, write_end) = pipe::new()?;
        pipe::never_block(write_end.as_fd())?;
        give_to(&read_end, owner)?;
        self.take_input(write_end, false, fifo, poll)?;
        if closes {
            self.close_stdin(poll);
        }
        Ok(read_end)
    }

    fn take_input(&mut self, sink: OwnedFd, terminal: bool, fifo: Option<OwnedFd>, poll: &Poll) -> Result<()> {
        let mut input = Input::new(sink, terminal, fifo);
        input.watch(self.serial, poll)?;
        self.input = Some(input);
        Ok(())
    }

    fn open_output(&mut self, which: Stream, output: Output, pipes: &OutputPipes, poll: &Poll) -> Result<OwnedFd> {
        let inherited = match (&output, which) {
            (Output::Inherit, Stream::Stdout) => Some(fd::duplicate(std::io::stdout().as_fd())?),
            (Output::Inherit, Stream::Stderr) => Some(fd::duplicate(std::io::stderr().as_fd())?),
            _ => None,
        };
        if let Some(inherited) = inherited {
            return Ok(inherited);
        }
        // With a terminal there is one stream. The pipe for errors then serves only the runtime's own messages, as for
        // a process whose errors nobody reads.
        let unwanted = matches!(output, Output::None) && self.logs.is_empty();
        let discard = which == Stream::Stderr && (self.terminal || unwanted);
        if unwanted && !self.terminal && which == Stream::Stdout {
            return null();
        }
        let output = if discard { Output::None } else { output };
        let mut outlet = Outlet::new(which, output, &pipes.spooling, self.serial)?;
        let child_end = if self.terminal && which == Stream::Stdout {
            null()?
        } else {
            let (read_end, write_end) = pipes.open(which)?;
            outlet.read_from(read_end, false, poll)?;
            write_end
        };
        if which == Stream::Stderr {
            outlet.hold_back();
        }
        self.outlets.push(outlet);
        Ok(child_end)
    }

    /// Takes the master end of the terminal that the runtime has sent.
    pub(super) fn console(&mut self, master: OwnedFd, poll: &Poll) -> Result<()> {
        if let Some((rows, columns)) = self.size.take() {
            terminal::set_size(master.as_fd(), rows, columns)?;
        }
        let sink = fd::duplicate(master.as_fd())?;
        let fifo = match &self.stdin {
            Stdin::Fifo(path) => Some(fd::open(path, OFlag::O_RDWR | OFlag::O_NONBLOCK)?),
            _ => None,
        };
        self.take_input(sink, true, fifo, poll)?;
        if let Some(early) = self.early.take().filter(|early| !early.is_empty()) {
            self.clients.iter_mut().for_each(|client| client.listen(true, poll));
            self.write_input(&early, poll);
        }
        match self.outlets.first_mut() {
            Some(outlet) => outlet.read_from(master, true, poll),
            None => Ok(()),
        }
    }

    /// Ends the call of the runtime. If it has `failed`, returns its messages on standard error.
    pub(super) fn runtime_done(&mut self, failed: bool, poll: &Poll, scratch: &mut Scratch) -> Vec<u8> {
        let mut runtime_stderr = Vec::new();
        self.each(poll, scratch, true, |outlet, context| {
            // The last messages of the runtime may not have been read yet.
            outlet.pump(context);
            outlet.release(failed, context);
            runtime_stderr.append(&mut outlet.take_message());
        });
        runtime_stderr
    }

    fn each(
        &mut self,
        poll: &Poll,
        scratch: &mut Scratch,
        alive: bool,
        mut act: impl FnMut(&mut Outlet, &mut OutletContext<'_>),
    ) {
        let (logs, clients) = (&mut self.logs, &mut self.clients);
        let mut context = OutletContext { logs, clients, poll, scratch, alive, seems_ended: false };
        self.outlets.iter_mut().for_each(|outlet| act(outlet, &mut context));
    }

    /// Handles a descriptor of these streams that is ready.
    pub(super) fn ready(
        &mut self,
        kind: Kind,
        sub: u16,
        ready: Ready,
        poll: &Poll,
        scratch: &mut Scratch,
        alive: bool,
    ) {
        match kind {
            Kind::Source | Kind::Sink | Kind::Spool => {
                // The key names the stream, but a process may have only one outlet.
                let index = usize::from(sub).min(self.outlets.len().saturating_sub(1));
                let (logs, clients) = (&mut self.logs, &mut self.clients);
                let seems_ended = kind == Kind::Source && !ready.read;
                let mut context = OutletContext { logs, clients, poll, scratch, alive, seems_ended };
                if let Some(outlet) = self.outlets.get_mut(index) {
                    outlet.pump(&mut context);
                }
            }
            Kind::InputFifo => self.pump_fifo(poll),
            Kind::InputSink => self.flush_input(poll),
            Kind::Client => self.client_ready(sub, ready, poll),
            _ => {}
        }
        self.each(poll, scratch, alive, Outlet::resume);
    }

    /// Whether reading waits for a client that is full.
    pub(super) fn is_held_back(&self) -> bool {
        self.outlets.iter().any(Outlet::is_held_back)
    }

    /// Whether the process has one client and no other reader, so that a slow client holds back nobody else.
    pub(super) fn has_one_reader(&self) -> bool {
        self.logs.is_empty() && self.clients.len() == 1 && !self.outlets.iter().any(Outlet::has_sink)
    }

    /// When the next client is to be dropped for not reading.
    pub(super) fn stall_ends(&self, alive: bool) -> Option<Instant> {
        self.clients.iter().filter_map(|client| client.stall_ends(!alive)).min()
    }

    /// Drops the clients that have not read for too long. `waits`: somebody may wait for a client.
    pub(super) fn drop_stalled(&mut self, waits: bool, now: Instant, poll: &Poll, scratch: &mut Scratch, alive: bool) {
        let before = self.clients.len();
        self.clients.retain_mut(|client| !client.is_stalled(waits && client.holds_back(!alive), now));
        if self.clients.len() < before {
            self.each(poll, scratch, alive, Outlet::resume);
        }
    }

    /// Reads a fifo that is not watched, and watches it for more. Most writers have left by now: then this is the end.
    fn listen_to_fifo(&mut self, poll: &Poll) {
        if self.input.as_ref().is_some_and(|input| !input.blocked) {
            self.copy_from_fifo(poll);
        }
        if let Some(input) = self.input.as_mut().filter(|input| !input.blocked) {
            let _ = input.watch(self.serial, poll);
        }
    }

    /// Whether the input waits for descriptors or memory, so that [`Streams::retry_input`] has to be called soon.
    pub(super) fn is_input_short(&self) -> bool {
        self.input.as_ref().is_some_and(Input::is_short)
    }

    /// Tries again what was refused for want of descriptors or memory.
    pub(super) fn retry_input(&mut self, poll: &Poll) {
        match self.input.as_mut().filter(|input| input.is_short()) {
            Some(input) if input.unwatched => drop(input.watch(self.serial, poll)),
            Some(_) => self.close_stdin(poll),
            None => {}
        }
    }

    fn pump_fifo(&mut self, poll: &Poll) {
        let Some(input) = &mut self.input else { return };
        let Some(fifo) = &input.fifo else { return };
        let spliced =
            if input.terminal { Ok(Moved::Later) } else { stream::splice(fifo.as_fd(), input.sink.as_fd(), 64 * 1024) };
        match spliced {
            // Only read(2) distinguishes an empty fifo from its end.
            Ok(Moved::Later) if input.terminal || stream::waiting(fifo.as_fd()) == 0 => self.copy_from_fifo(poll),
            // The pipe is full.
            Ok(Moved::Later) => self.block_input(poll),
            Ok(Moved::Bytes(_)) => {}
            Ok(Moved::End) | Err(_) => self.end_input(poll),
        }
    }

    fn copy_from_fifo(&mut self, poll: &Poll) {
        let Some(input) = &mut self.input else { return };
        let Some(fifo) = &input.fifo else { return };
        match copy(fifo, &input.sink, &mut input.pending) {
            Ok(Moved::Bytes(_)) if !input.pending.is_empty() => self.block_input(poll),
            Ok(Moved::Bytes(_) | Moved::Later) => {}
            // A terminal stays open at the end of the input.
            Ok(Moved::End) if input.terminal => input.fifo = None,
            Ok(Moved::End) | Err(_) => self.end_input(poll),
        }
    }

    /// Ends the input: the process does not read any more, or no more input comes.
    fn end_input(&mut self, poll: &Poll) {
        // A terminal is also open under another number, so closing this one does not end its watch.
        if let Some(input) = self.input.take().filter(|input| input.blocked) {
            poll.forget(&input.sink);
        }
    }

    fn block_input(&mut self, poll: &Poll) {
        let Some(input) = &mut self.input else { return };
        if input.blocked {
            return;
        }
        if let Some(fifo) = &input.fifo {
            poll.forget(fifo);
        }
        input.blocked = true;
        let _ = input.watch(self.serial, poll);
        self.clients.iter_mut().for_each(|client| client.listen(false, poll));
    }

    fn flush_input(&mut self, poll: &Poll) {
        let Some(input) = &mut self.input else { return };
        match write_all(&input.sink, &mut input.pending) {
            // The process does not read any more.
            Err(_) => return self.end_input(poll),
            Ok(false) => return,
            Ok(true) => {}
        }
        if std::mem::take(&mut input.blocked) {
            poll.forget(&input.sink);
            let _ = input.watch(self.serial, poll);
            self.clients.iter_mut().for_each(|client| client.listen(true, poll));
        }
        if input.close_when_empty && !input.terminal && input.fifo.is_none() {
            self.end_input(poll);
        }
    }

    fn client_ready(&mut self, number: u16, ready: Ready, poll: &Poll) {
        let Some(client) = self.client(number) else { return };
        if ready.write {
            client.flush(poll);
        }
        let left = (ready.read || ready.hangup)
            && match self.receive_from(number, poll) {
                Sends::More => false,
                Sends::Nothing => ready.hangup,
                Sends::Left => true,
            };
        if left {
            self.clients.retain(|client| client.number != number);
        }
    }

    fn client(&mut self, number: u16) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.number == number)
    }

    /// Passes the input of a client on.
    fn receive_from(&mut self, number: u16, poll: &Poll) -> Sends {
        loop {
            let Some(client) = self.client(number) else { return Sends::Nothing };
            match client.receive() {
                FromClient::Input(bytes) => {
                    let unread = client.has_unread();
                    self.write_input(&bytes, poll);
                    if !unread {
                        return Sends::More;
                    }
                }
                // After its end a message socket stays readable.
                FromClient::CloseInput => {
                    client.listen(false, poll);
                    if !matches!(self.stdin, Stdin::Attach { leave_open: true }) {
                        self.close_stdin(poll);
                    }
                    return Sends::Nothing;
                }
                FromClient::Silent => {
                    client.listen(false, poll);
                    return Sends::Nothing;
                }
                FromClient::Nothing => return Sends::Nothing,
                FromClient::Gone => {
                    poll.forget(client.fd());
                    return Sends::Left;
                }
            }
        }
    }

    fn write_input(&mut self, bytes: &[u8], poll: &Poll) {
        if !matches!(self.stdin, Stdin::Attach { .. }) {
            return;
        }
        if let Some(early) = &mut self.early {
            early.extend_from_slice(bytes);
            return self.clients.iter_mut().for_each(|client| client.listen(false, poll));
        }
        let Some(input) = &mut self.input else { return };
        input.pending.extend_from_slice(bytes);
        match write_all(&input.sink, &mut input.pending) {
            Ok(true) => {}
            Ok(false) => self.block_input(poll),
            Err(_) => self.end_input(poll),
        }
    }

    /// Ends the input after the bytes that were sent before.
    pub(super) fn close_stdin(&mut self, poll: &Poll) {
        let Some(input) = &mut self.input else { return };
        if let Some(fifo) = &input.fifo {
            // The shim keeps a read end only, so the end comes when the last writer has left. Until a descriptor is
            // free for it, the process reads on from the present one.
            let read_end = fd::reopen(fifo.as_fd(), OFlag::O_RDONLY | OFlag::O_NONBLOCK);
            input.close_when_empty = read_end.is_err();
            if let Ok(read_end) = read_end {
                input.fifo = Some(read_end);
                self.listen_to_fifo(poll);
            }
            return;
        }
        if input.pending.is_empty() && !input.terminal {
            self.end_input(poll);
        } else {
            input.close_when_empty = true;
        }
    }

    /// Attaches a client.
    pub(super) fn attach(&mut self, socket: OwnedFd, framing: Framing, poll: &Poll) -> Result<()> {
        // The numbers start again from 0, and an old client may still have one.
        while self.clients.iter().any(|client| client.number == self.next_client) {
            self.next_client = self.next_client.wrapping_add(1);
        }
        let number = self.next_client;
        self.next_client = self.next_client.wrapping_add(1);
        let mut client = Client::new(number, key(Kind::Client, self.serial, number), socket, framing, poll)?;
        if self.input.as_ref().is_some_and(|input| input.blocked) {
            client.listen(false, poll);
        }
        self.clients.push(client);
        Ok(())
    }

    /// Number of attached clients.
    pub(super) fn attached(&self) -> usize {
        self.clients.len()
    }

    /// Sets the size of the terminal. Returns false if there is none.
    pub(super) fn resize(&mut self, rows: u16, columns: u16) -> Result<bool> {
        match &self.input {
            None if self.terminal => {
                self.size = Some((rows, columns));
                Ok(true)
            }
            Some(input) if input.terminal => terminal::set_size(input.sink.as_fd(), rows, columns).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Opens the log files again, by their names.
    pub(super) fn reopen_logs(&mut self) {
        self.logs.iter_mut().for_each(Logger::reopen);
    }

    /// Whether every client, and every reader of a fifo, has taken everything.
    pub(super) fn is_taken(&self) -> bool {
        self.clients.iter().all(Client::is_idle) && self.outlets.iter().all(Outlet::is_taken)
    }

    /// Whether everything that the process wrote was read. Clients may not have taken it yet.
    pub(super) fn is_read(&self) -> bool {
        self.outlets.iter().all(Outlet::is_drained)
    }

    /// Closes the input of a process that has ended, and reads its output. A terminal that is hung up now stays so.
    pub(super) fn process_ended(&mut self, poll: &Poll, scratch: &mut Scratch) {
        self.end_input(poll);
        self.each(poll, scratch, false, |outlet, context| {
            outlet.retry_hung_up(context);
            outlet.pump(context);
        });
    }

    /// Closes everything. Readers get the end.
    pub(super) fn finish(&mut self, poll: &Poll) {
        if let Some(fifo) = self.input.as_ref().and_then(|input| input.fifo.as_ref()) {
            poll.forget(fifo);
        }
        self.end_input(poll);
        self.outlets.iter_mut().for_each(|outlet| outlet.finish(poll));
        self.clients.drain(..).for_each(|client| client.leave(poll));
    }

    /// Ends logs and sinks after everything was read that had to be. Readers get the rest, and then the end.
    pub(super) fn end_sinks(&mut self, poll: &Poll, scratch: &mut Scratch) {
        self.logs.iter_mut().for_each(|log| log.end(scratch.output()));
        self.each(poll, scratch, false, Outlet::end);
    }

    /// Whether an outlet waits for the reader of its fifo.
    pub(super) fn waits_for_readers(&mut self) -> bool {
        self.outlets.iter_mut().any(Outlet::waits_for_a_reader)
    }

    /// Whether the reader of a fifo is about to take the rest; see [`Outlet::is_wanted`].
    pub(super) fn are_wanted(&mut self, late: bool) -> bool {
        self.outlets.iter_mut().any(|outlet| outlet.is_wanted(late))
    }

    /// When to look at the fifos for readers although inotify has reported nothing.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.outlets.iter().filter_map(Outlet::next_retry).min()
    }

    /// Writes to the fifos whose readers have come or have read.
    pub(super) fn poll_fifo_readers(&mut self, poll: &Poll, scratch: &mut Scratch, alive: bool) {
        self.each(poll, scratch, alive, |outlet, context| {
            if outlet.waits_for_a_reader() || outlet.next_retry().is_some() {
                outlet.pump(context);
            }
        });
    }

    /// Tells the attached clients the end of the output, if all of it was read.
    pub(super) fn end_clients(&mut self, poll: &Poll) {
        if self.is_read() {
            self.clients.iter_mut().for_each(|client| client.end(poll));
        }
    }

    /// Disconnects the attached clients, because no more output comes.
    pub(super) fn disconnect(&mut self, poll: &Poll, scratch: &mut Scratch) {
        // While a slow client holds an outlet back there is more output, so no client is told that this was all.
        let more = self.is_held_back();
        self.clients.drain(..).for_each(|it| if more { poll.forget(it.fd()) } else { it.leave(poll) });
        self.each(poll, scratch, false, Outlet::resume);
    }

    /// Narrows wide pipes after a pause in the output.
    pub(super) fn narrow_pipes(&mut self) {
        self.outlets.iter_mut().for_each(Outlet::narrow_pipes);
    }

    /// Whether no process has the terminal open at the moment, so that the shim has to look again soon.
    pub(super) fn is_hung_up(&self) -> bool {
        self.outlets.iter().any(Outlet::is_hung_up)
    }

    /// Checks whether the terminal is open again.
    pub(super) fn retry_hung_up(&mut self, poll: &Poll, scratch: &mut Scratch) {
        self.each(poll, scratch, true, Outlet::retry_hung_up);
    }

    /// Bytes that could not be written to logs and sinks.
    pub(super) fn dropped(&self) -> u64 {
        let logs: u64 = self.logs.iter().map(Logger::dropped).sum();
        logs + self.outlets.iter().map(Outlet::dropped).sum::<u64>()
    }

    /// Bytes that were read and wait for the reader of a fifo.
    pub(super) fn unsent(&self) -> u64 {
        self.outlets.iter().map(Outlet::unsent).sum()
    }

    /// Why output cannot be kept. Returned once.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.outlets.iter_mut().find_map(Outlet::take_warning)
    }

    /// The log files that have to be synced before the exit is reported.
    pub(super) fn logs_to_sync(&self) -> Vec<OwnedFd> {
        self.logs.iter().filter_map(Logger::to_sync).collect()
    }
}

fn give_to(pipe: &OwnedFd, owner: Option<(u32, u32)>) -> Result<()> {
    use windlass_sys::Called;
    let Some((uid, gid)) = owner.filter(|owner| *owner != (0, 0)) else { return Ok(()) };
    nix::unistd::fchown(pipe, Some(uid.into()), Some(gid.into())).called(|| format!("fchown({uid}, {gid})"))
}
