//! The owner of what is made and not yet committed, and the runtime's side of the protocol with init.
//!
//! `create`, `run`, `exec` and `restore` all make a process, and other things for it. Until [`Launch::commit`]
//! all of that belongs to a [`Launch`]. Dropping a launch undoes it in reverse order: the process is
//! killed and reaped, then what was made for it is removed. So no failure needs clean-up code of its own,
//! neither here nor in the verb, which takes over the caller's terminal and notifies the service
//! manager once the process is ready. Undoing reports no errors, so it never replaces the cause.
//! `delete --force` removes what could not be undone.

mod adoption;

use std::os::fd::{AsFd, OwnedFd};

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_plan::{Action, Step};
use windlass_store::ended_unexecuted;
use windlass_sys::own_status::OwnStatus;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{Child, Exit};
use windlass_sys::progress::Progress;
use windlass_sys::{fd, socket};

use super::init::Watch;
use super::sync::{InitSync, Message, Question, RuntimeSync};
use super::timing::StepTimer;

/// The part of a verb in making its process, and the owner of what was made for it. Dropping a handler undoes that; the
/// process has ended by then.
pub trait Handler {
    /// The result of a commit.
    type Kept;

    /// The name of the process in errors.
    const PROCESS: &'static str;

    /// The steps of the process.
    fn steps(&self) -> &[Step];

    /// One of the steps, as text for people.
    fn describe(&self, action: &Action) -> String {
        action.to_string()
    }

    /// Puts the first process into the container's cgroup: the process itself, or the intermediate one.
    fn place(&mut self, first: &Child) -> Result<()>;

    /// Does what the process need not ask for, while the process carries out its steps.
    fn spawned(&mut self, child: &Child) -> Result<()>;

    /// Answers a question; returns the descriptors to send with the answer.
    fn answer(&mut self, question: Question, child: &Child) -> Result<Vec<OwnedFd>>;

    /// Takes note that the process is now another one, which the first has made.
    fn adopted(&mut self, _: &Child) -> Result<()> {
        Err(not_credible("has made another one"))
    }

    /// Reports the prepared process to the caller, and records it.
    fn ready(&mut self, child: &Child) -> Result<()>;

    /// The addition to an error and its hint, if the kernel may have killed the process because memory ran out.
    fn out_of_memory(&self, exit: Exit) -> Option<(&'static str, &'static str)>;

    /// Keeps what was made.
    fn keep(self, child: &Child) -> Result<Self::Kept>;
}

const PROC: &str = "mount a procfs where the runtime runs: mount -t proc proc /proc";

/// A process that is not committed yet, with all that was made for it.
pub struct Launch<H: Handler> {
    // The fields are dropped in this order.
    process: Process,
    /// The process that made this one: the intermediate process, or CRIU. It may still watch over it.
    predecessor: Process,
    handler: H,
    sync: RuntimeSync,
    progress: Progress,
    timer: StepTimer,
}

impl<H: Handler> Launch<H> {
    /// Makes the process by `fork`, from which only the runtime returns. With `intermediate`, `fork` makes an
    /// intermediate process, which makes the process itself.
    pub fn spawn(
        mut handler: H,
        debug: bool,
        intermediate: bool,
        fork: impl FnOnce(&mut H, InitSync, Watch) -> Result<Child>,
    ) -> Result<Launch<H>> {
        let timer = StepTimer::start(debug);
        let progress = Progress::new()?;
        let (ours, theirs) = socket::pair().with_context(|| "cannot make the pair of sockets")?;
        let watch = Watch { progress, debug, mapped_first: false };
        let process = Process(Some(fork(&mut handler, InitSync::new(theirs), watch)?));
        let pidfd = intermediate.then(|| fd::duplicate(process.child().pidfd.as_fd())).transpose();
        let sync =
            RuntimeSync::new(ours).with_intermediate(pidfd.with_context(|| "cannot watch the intermediate process")?);
        let mut launch = Launch { process, predecessor: Process(None), handler, sync, progress, timer };
        launch.timer.done("clone init");
        if !intermediate {
            launch.spawned()?;
        }
        Ok(launch)
    }

    fn spawned(&mut self) -> Result<()> {
        let own = OwnStatus::read().with_context(|| "cannot read the status of the runtime")?;
        // With process ids of another namespace, all further steps would act on other processes.
        if !own.is_of_own_namespace() {
            let msg = format!("/proc shows another PID namespace: in it the runtime is process {}", own.pid);
            return Err(Error::new(Kind::Kernel, msg).with_hint(PROC));
        }
        // The process inherits the signals that we ignore. It needs them only after its steps, so there is time.
        self.progress.set_ignored(own.ignored);
        self.handler.spawned(self.process.child())?;
        self.timer.done("set the device filter and what is set from outside");
        Ok(())
    }

    /// Answers the process until all is prepared and it waits for its start barrier.
    pub fn converse(&mut self) -> Result<()> {
        loop {
            let message = next(&mut self.sync)?;
            if !matches!(message, Message::End | Message::Failed(_)) {
                self.timer.done("wait for init");
            }
            match message {
                // The process itself must not be moved anywhere any more: the container may trace it.
                Message::Place if self.predecessor.0.is_some() => {
                    return Err(not_credible("asks for its cgroup once more"));
                }
                Message::Place => {
                    self.handler.place(self.process.child())?;
                    self.timer.done("put it into the cgroup");
                    self.sync.go_on()?;
                }
                // There is no answer: the process would take it for the answer to its next question.
                Message::Spawned(pid, pidfd) => {
                    let child = Child { pid, pidfd };
                    if !child.is_ours() {
                        return Err(not_credible("names a process that it has not made"));
                    }
                    self.predecessor = Process(Some(self.process.replace(child)));
                    self.spawned()?;
                }
                Message::Ask(question) => self.answer(question)?,
                Message::Ready => {
                    self.handler.ready(self.process.child())?;
                    self.timer.done("record it");
                    return Ok(());
                }
                Message::Failed(error) => return Err(failed(error)),
                // `next` handles it.
                Message::Log(_) => {}
                Message::End => return Err(self.death()),
            }
        }
    }

    fn answer(&mut self, question: Question) -> Result<()> {
        let fds = self.handler.answer(question, self.process.child())?;
        self.timer.done(question.what());
        self.sync.answer(&fds)
    }

    /// The handler, with what was made for the process.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// The handler, to change it.
    pub(super) fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Opens the start barrier.
    pub fn release(&self) -> Result<()> {
        self.sync.go_on()
    }

    /// Opens the start barrier, and waits until the program is executed.
    pub fn execute(&mut self) -> Result<()> {
        self.release()?;
        match next(&mut self.sync)? {
            Message::Failed(error) => Err(failed(error)),
            // The process's end of the pair closes with the execution, or with its death.
            Message::End if ended_unexecuted(self.process.child().pid) => Err(self.death()),
            Message::End => {
                self.timer.done("have the program executed");
                Ok(())
            }
            other => Err(Error::new(Kind::Protocol, format!("the process said {other:?} after it was ready"))),
        }
    }

    /// Keeps the process and what was made for it. If that fails, everything is undone.
    pub fn commit(self) -> Result<(Child, H::Kept)> {
        let Launch { process, mut predecessor, handler, .. } = self;
        let kept = handler.keep(process.child())?;
        // The intermediate process ends by itself now. It is waited for, so that nobody finds it in the cgroup
        // afterwards. In a frozen cgroup it cannot run, and is not waited for any longer.
        if let Some(process) = predecessor.0.take()
            && poll::readable(process.pidfd.as_fd(), Deadline::after(INTERMEDIATE_EXIT)).unwrap_or(false)
        {
            let _ = process.try_wait();
        }
        Ok((process.take(), kept))
    }

    /// The error for a process that died without a message.
    fn death(&mut self) -> Error {
        let exit = self.process.child().wait().unwrap_or(Exit::Code(255));
        let steps = self.handler.steps();
        let (at, of) = (self.progress.last(), steps.len());
        let step = at.checked_sub(1).and_then(|index| steps.get(index));
        let what = step.map_or("before its first step".into(), |step| self.handler.describe(&step.action));
        let memory = self.handler.out_of_memory(exit);
        let why = memory.map_or("", |(why, _)| why);
        let process = H::PROCESS;
        let msg =
            format!("unable to start container process: {process} was ended by {exit}{why} at step {at}/{of}: {what}");
        let mut error = Error::new(Kind::Protocol, msg).with_step(format!("init {at}/{of}: {what}"));
        if let Some(step) = step {
            error = error.with_origin(step.origin.clone());
        }
        match memory {
            Some((_, hint)) => error.with_hint(hint),
            None => error,
        }
    }
}

/// The error for a message that the runtime must not act on. Processes of the container may trace a process that
/// they see and send in its name, so a message is refused if acting on it would affect others or the host.
fn not_credible(what: &str) -> Error {
    Error::new(Kind::Protocol, format!("the process {what}: the container may have changed it"))
}

/// The next message that is not a line for the log.
fn next(sync: &mut RuntimeSync) -> Result<Message> {
    loop {
        match sync.receive()? {
            Message::Log(line) => ::log::debug!("{line}"),
            message => return Ok(message),
        }
    }
}

/// Completes a failure that the process has reported.
fn failed(error: Error) -> Error {
    error.prefixed("unable to start container process")
}

/// Kills and reaps the process, unless it was taken out.
struct Process(Option<Child>);

/// How long the intermediate process may take to end.
const INTERMEDIATE_EXIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Only [`Launch::commit`] takes the process out, and it consumes the launch.
const THERE: &str = "there until it is taken out";

impl Process {
    fn child(&self) -> &Child {
        self.0.as_ref().expect(THERE)
    }

    fn replace(&mut self, child: Child) -> Child {
        self.0.replace(child).expect(THERE)
    }

    fn take(mut self) -> Child {
        self.0.take().expect(THERE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::process::Command;
    use std::rc::Rc;

    use super::*;
    use windlass_sys::process::open_pid;

    /// Records what happens to it, and whether the process lives at that time.
    struct Recorder(Rc<RefCell<Vec<String>>>, i32);

    impl Recorder {
        fn note(&self, what: &str) {
            let lives = open_pid(self.1).is_ok();
            self.0.borrow_mut().push(format!("{what}, {}", if lives { "alive" } else { "gone" }));
        }
    }

    impl Handler for Recorder {
        type Kept = Recorder;
        const PROCESS: &'static str = "it";

        fn steps(&self) -> &[Step] {
            &[]
        }

        fn place(&mut self, _: &Child) -> Result<()> {
            self.note("placed");
            Ok(())
        }

        fn spawned(&mut self, child: &Child) -> Result<()> {
            self.1 = child.pid;
            self.note("spawned");
            Ok(())
        }

        fn answer(&mut self, question: Question, _: &Child) -> Result<Vec<OwnedFd>> {
            self.note(&format!("{question:?}"));
            match question {
                Question::NetDevices => Err(Error::new(Kind::Kernel, "no such device")),
                _ => Ok(Vec::new()),
            }
        }

        fn ready(&mut self, _: &Child) -> Result<()> {
            self.note("ready");
            Ok(())
        }

        fn out_of_memory(&self, _: Exit) -> Option<(&'static str, &'static str)> {
            None
        }

        fn keep(self, _: &Child) -> Result<Recorder> {
            self.note("kept");
            Ok(self)
        }
    }

    impl Drop for Recorder {
        fn drop(&mut self) {
            self.note("undone");
        }
    }

    /// A launch whose process sleeps and has sent these messages.
    fn launch(messages: &[&[u8]]) -> (Rc<RefCell<Vec<String>>>, Launch<Recorder>) {
        let notes = Rc::new(RefCell::new(Vec::new()));
        let launch = Launch::spawn(Recorder(notes.clone(), 0), false, false, |_, sync, _| {
            let sleeper = Command::new("sleep").arg("1000").spawn().with_context(|| "cannot start a process")?;
            let pid = sleeper.id() as i32;
            for message in messages {
                socket::send(sync.as_fd(), message, &[]).with_context(|| "cannot send the message")?;
            }
            Ok(Child { pid, pidfd: open_pid(pid)? })
        });
        (notes, launch.unwrap_or_else(|error| panic!("{error:?}")))
    }

    fn sleeper() -> Child {
        let pid = Command::new("sleep").arg("1000").spawn().expect("a process").id() as i32;
        Child { pid, pidfd: open_pid(pid).expect("it lives") }
    }

    /// The container can make a process that it may trace send this.
    #[test]
    fn a_process_that_the_container_sees_speaks_only_for_itself() {
        let (new, other) = (sleeper(), open_pid(1).expect("init lives"));
        type Said<'a> = (u8, i32, Option<&'a OwnedFd>);
        let named: Said<'_> = (b'P', new.pid, Some(&new.pidfd));
        let cases: [(&[Said<'_>], &[&str]); 4] = [
            (&[named, (b'A', 0, None)], &["spawned, alive"]),
            (&[named, named], &["spawned, alive"]),
            (&[(b'P', 1, Some(&new.pidfd))], &[]),
            (&[(b'P', new.pid, Some(&other))], &[]),
        ];
        for (messages, done) in cases {
            let notes = Rc::new(RefCell::new(Vec::new()));
            let launch = Launch::spawn(Recorder(notes.clone(), 0), false, true, |_, sync, _| {
                for (letter, number, fd) in messages {
                    let bytes: Vec<u8> = std::iter::once(*letter).chain(number.to_ne_bytes()).collect();
                    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
                    socket::send(sync.as_fd(), &bytes, &fds).with_context(|| "cannot send the message")?;
                }
                Ok(sleeper())
            });
            let mut launch = launch.unwrap_or_else(|error| panic!("{error:?}"));
            let error = launch.converse().expect_err("it must not be believed");
            assert_eq!(error.kind(), Kind::Protocol, "{error:?}");
            assert_eq!(*notes.borrow(), done);
            // The new process is ended once, below.
            if let Some(child) = launch.process.0.take_if(|child| child.pid == new.pid) {
                drop(child.pidfd);
            }
        }
        new.end();
    }

    #[test]
    fn what_is_not_committed_is_undone_after_the_process_is_gone() {
        let (notes, mut launch) = launch(&[b"A", b"M", b"R"]);
        launch.converse().expect("ready");
        drop(launch);
        let seen = notes.borrow();
        assert_eq!(*seen, ["spawned, alive", "placed, alive", "MapIds, alive", "ready, alive", "undone, gone"]);
    }

    #[test]
    fn a_failure_is_reported_and_undone() {
        let (notes, mut launch) = launch(&[b"N"]);
        let error = launch.converse().expect_err("the device is missing");
        assert_eq!(error.message(), "no such device");
        drop(launch);
        assert_eq!(*notes.borrow(), ["spawned, alive", "NetDevices, alive", "undone, gone"]);
    }

    #[test]
    fn what_is_committed_stays() {
        let (notes, mut launch) = launch(&[b"R"]);
        launch.converse().expect("ready");
        launch.execute().expect("the end of the stream is the execution");
        let (child, kept) = launch.commit().unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(*notes.borrow(), ["spawned, alive", "ready, alive", "kept, alive"]);
        child.kill();
        child.wait().expect("a child of ours");
        drop(kept);
    }
}
