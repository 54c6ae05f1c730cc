//! One conversation with CRIU.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::Shutdown;

use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::protobuf::Message;
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Exit};
use windlass_sys::socket;

use crate::message::{Features, Request, Response, Step, Type, Version};
use crate::program;

/// The longest message. CRIU's own limit for its answers is smaller.
const LONGEST: usize = 40 * 1024;

/// Most steps of a dump or a restore that CRIU reports. It has about ten.
const STEPS: usize = 1000;

/// The number of a descriptor of this process, for CRIU, which opens it by `/proc/PID/fd`.
pub fn number(fd: BorrowedFd<'_>) -> i32 {
    fd.as_raw_fd()
}

/// Our end of the conversation. Dropping it ends the conversation: CRIU then undoes what it does.
pub struct Session {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// The pidfd of a child of ours without which CRIU would wait for ever.
    helper: Option<OwnedFd>,
}

/// How a dump or a restore ended.
#[derive(Debug)]
pub enum Outcome {
    /// It succeeded.
    Done,
    /// CRIU reports a failure.
    Failed(Response),
    /// CRIU has ended without an answer.
    Died,
    /// What CRIU needs has failed ([`Session::needs`]).
    HelperDied,
    /// CRIU waits for the answer to a step: [`Session::resume`] gives it.
    Held,
}

/// The answer to a notification. After an error CRIU undoes everything.
pub type Answer = Result<Next>;

/// Work of the runtime that CRIU does not wait for.
pub type Work = Box<dyn FnOnce() -> Result<()>>;

/// The next step after a notification.
pub enum Next {
    /// CRIU goes on.
    GoOn,
    /// CRIU goes on, and this is done meanwhile. After an error CRIU undoes everything at its next notification.
    GoOnWith(Work),
    /// CRIU waits until the conversation is resumed.
    Hold,
}

impl Session {
    /// Takes our end of a pair of sockets.
    pub fn new(socket: OwnedFd) -> Session {
        Session { socket, buffer: Vec::new(), helper: None }
    }

    /// CRIU needs a child of ours, by its pidfd, until that has ended with 0 or the request is done or held.
    pub fn needs(&mut self, helper: OwnedFd) {
        self.helper = Some(helper);
    }

    /// Waits for a message. False: the child that CRIU needs has failed.
    fn await_message(&mut self) -> Result<bool> {
        while let Some(helper) = &self.helper {
            let mut fds = [&self.socket, helper].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            poll::poll(&mut fds, Deadline::NEVER).with_context(|| "cannot wait for CRIU")?;
            if fds[0].any().unwrap_or(true) {
                break;
            }
            if !matches!(process::try_wait(helper.as_fd()), Ok(None | Some(Exit::Code(0)))) {
                return Ok(false);
            }
            self.helper = None;
        }
        Ok(true)
    }

    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Ends the conversation: CRIU reads end of file, and undoes what it has not finished.
    pub fn close(&self) {
        socket::shutdown(self.socket.as_fd(), Shutdown::Both);
    }

    fn send(&self, request: &Request) -> Result<()> {
        match socket::send(self.socket.as_fd(), &request.encode(), &[]) {
            // CRIU has ended, and the next message is the end.
            Err(failed) if failed.errno == nix::errno::Errno::EPIPE => Ok(()),
            other => other.with_context(|| "cannot send to CRIU"),
        }
    }

    /// The next message, and a descriptor that came with it. Returns `None` if CRIU has ended.
    fn receive(&mut self) -> Result<Option<(Response, Option<OwnedFd>)>> {
        self.buffer.resize(LONGEST, 0);
        let (n, fd) =
            socket::receive(self.socket.as_fd(), &mut self.buffer).with_context(|| "cannot receive from CRIU")?;
        if n == 0 {
            return Ok(None);
        }
        let response = Response::decode(&self.buffer[..n]);
        let response = response.map_err(|_| Error::new(Kind::Protocol, "CRIU sent a message that is not one"))?;
        Ok(Some((response, fd)))
    }

    /// Sends a request and returns its answer. The conversation goes on after it.
    fn ask(&mut self, request: &Request) -> Result<Option<Response>> {
        self.send(request)?;
        let Some((response, _)) = self.receive()? else { return Ok(None) };
        if response.kind != request.kind {
            return Err(Error::new(Kind::Protocol, "CRIU answered something else"));
        }
        Ok(Some(response))
    }

    /// Asks for CRIU's version. Returns `None` if CRIU has ended without an answer.
    pub fn version(&mut self) -> Result<Option<Version>> {
        let request = Request { kind: Some(Type::Version as i32), keep_open: Some(true), ..Request::default() };
        let Some(response) = self.ask(&request)? else { return Ok(None) };
        let version = response.version.filter(|_| response.success == Some(true));
        let version = version.ok_or_else(|| Error::new(Kind::Unsupported, "CRIU does not tell its version"))?;
        program::check_version(&version)?;
        Ok(Some(version))
    }

    /// Asks for the features of CRIU and the kernel.
    pub fn features(&mut self) -> Result<Features> {
        let features = Features { mem_track: Some(true), lazy_pages: Some(true) };
        let request = Request {
            kind: Some(Type::FeatureCheck as i32),
            keep_open: Some(true),
            features: Some(features),
            ..Request::default()
        };
        Ok(self.ask(&request)?.and_then(|response| response.features).unwrap_or_default())
    }

    /// Asks for a dump or a restore. `each` gets every step, with the descriptor that came with it; its error has
    /// CRIU undo everything, and is returned once CRIU has done so.
    pub fn perform(
        &mut self,
        request: &Request,
        each: &mut dyn FnMut(&Step, Option<OwnedFd>) -> Answer,
    ) -> Result<Outcome> {
        self.send(request)?;
        self.follow(request.kind, each)
    }

    /// Continues a request of this type that was held at a step.
    pub fn resume(&mut self, kind: Type, each: &mut dyn FnMut(&Step, Option<OwnedFd>) -> Answer) -> Result<Outcome> {
        self.answer(true)?;
        self.follow(Some(kind as i32), each)
    }

    fn answer(&self, go_on: bool) -> Result<()> {
        self.send(&Request { kind: Some(Type::Notify as i32), go_on: Some(go_on), ..Request::default() })
    }

    fn follow(&mut self, kind: Option<i32>, each: &mut dyn FnMut(&Step, Option<OwnedFd>) -> Answer) -> Result<Outcome> {
        let mut refused = None;
        // Whether CRIU has still to be told of the failure.
        let mut untold = false;
        for _ in 0..STEPS {
            if !self.await_message()? {
                return refused.map_or(Ok(Outcome::HelperDied), Err);
            }
            let Some((response, fd)) = self.receive()? else {
                return refused.map_or(Ok(Outcome::Died), Err);
            };
            if response.kind == Some(Type::Notify as i32) {
                let step = response.notify.unwrap_or_default();
                // Notifications that come while CRIU undoes are only answered.
                let answer = if refused.is_none() { each(&step, fd) } else { Ok(Next::GoOn) };
                if let Ok(Next::Hold) = answer {
                    self.helper = None;
                    return Ok(Outcome::Held);
                }
                self.answer(answer.is_ok() && !std::mem::take(&mut untold))?;
                let failed = match answer {
                    Ok(Next::GoOnWith(work)) => work().inspect_err(|_| untold = true).err(),
                    other => other.err(),
                };
                refused = refused.or(failed);
                continue;
            }
            return match refused {
                Some(error) => Err(error),
                None if response.success == Some(true) && response.kind == kind => Ok(Outcome::Done),
                None => Ok(Outcome::Failed(response)),
            };
        }
        Err(refused.unwrap_or_else(|| Error::new(Kind::Protocol, "CRIU reports steps without end")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(kind: Type, success: bool, step: &str) -> Vec<u8> {
        let notify = (kind == Type::Notify).then(|| Step { name: step.into(), pid: Some(7) });
        Response { kind: Some(kind as i32), success: Some(success), notify, ..Response::default() }.encode()
    }

    /// Runs a session whose other end has sent these messages already, and returns what the session sent.
    fn dump(replies: &[Vec<u8>], refuse: &str) -> (Result<Outcome>, Vec<String>, Vec<Request>) {
        let (ours, theirs) = socket::pair().expect("a pair");
        replies.iter().for_each(|reply| socket::send(theirs.as_fd(), reply, &[]).expect("sent"));
        socket::shutdown(theirs.as_fd(), Shutdown::Write);
        let mut seen = Vec::new();
        let request = Request { kind: Some(Type::Dump as i32), ..Request::default() };
        let outcome = Session::new(ours).perform(&request, &mut |step, _| {
            seen.push(step.name.clone());
            if step.name == refuse { Err(Error::new(Kind::Hook, "no")) } else { Ok(Next::GoOn) }
        });
        let mut sent = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok((n @ 1.., _)) = socket::receive(theirs.as_fd(), &mut buffer) {
            sent.push(Request::decode(&buffer[..n]).expect("a message"));
        }
        (outcome, seen, sent)
    }

    #[test]
    fn every_step_is_answered_and_the_end_decides() {
        let steps = ["pre-dump", "post-dump"].map(|step| response(Type::Notify, true, step));
        let replies: Vec<_> = steps.into_iter().chain([response(Type::Dump, true, "")]).collect();
        let (outcome, seen, sent) = dump(&replies, "");
        assert!(matches!(outcome, Ok(Outcome::Done)));
        assert_eq!(seen, ["pre-dump", "post-dump"]);
        let answers: Vec<_> = sent.iter().map(|request| request.go_on).collect();
        assert_eq!(answers, [None, Some(true), Some(true)]);
        let (outcome, ..) = dump(&[response(Type::Dump, false, "")], "");
        assert!(matches!(outcome, Ok(Outcome::Failed(_))));
        assert!(matches!(dump(&[], "").0, Ok(Outcome::Died)));
        // The end of another request does not end this one.
        assert!(matches!(dump(&[response(Type::Restore, true, "")], "").0, Ok(Outcome::Failed(_))));
    }

    #[test]
    fn a_helper_that_fails_ends_the_wait_and_one_that_is_done_does_not() {
        use std::process::Command;
        let wait_with = |helper: &str, said: &[u8]| {
            let (ours, theirs) = socket::pair().expect("a pair");
            let mut child = Command::new("sh").args(["-c", helper]).spawn().expect("started");
            let mut session = Session::new(ours);
            session.needs(process::open_pid(child.id() as i32).expect("a pidfd"));
            let answer = std::thread::spawn({
                let said = said.to_vec();
                move || {
                    std::thread::sleep(std::time::Duration::from_millis(300));
                    let _ = socket::send(theirs.as_fd(), &said, &[]);
                    std::thread::sleep(std::time::Duration::from_millis(300));
                }
            });
            let request = Request { kind: Some(Type::Restore as i32), ..Request::default() };
            let outcome = session.perform(&request, &mut |_, _| Ok(Next::GoOn));
            answer.join().expect("it has ended");
            // The session may have reaped it.
            let _ = child.wait();
            outcome.expect("an outcome")
        };
        let done = response(Type::Restore, true, "");
        assert!(matches!(wait_with("exit 0", &done), Outcome::Done));
        assert!(matches!(wait_with("exit 1", &done), Outcome::HelperDied));
        assert!(matches!(wait_with("kill -9 $$", &done), Outcome::HelperDied));
    }

    #[test]
    fn steps_without_end_are_an_error() {
        let (ours, theirs) = socket::pair().expect("a pair");
        let sender = std::thread::spawn(move || {
            let reply = response(Type::Notify, true, "pre-dump");
            let mut buffer = [0; 64];
            // The loop ends when nobody listens any more.
            while socket::send(theirs.as_fd(), &reply, &[]).is_ok() {
                let _ = socket::receive(theirs.as_fd(), &mut buffer);
            }
        });
        let request = Request { kind: Some(Type::Dump as i32), ..Request::default() };
        let outcome = Session::new(ours).perform(&request, &mut |_, _| Ok(Next::GoOn));
        assert_eq!(outcome.expect_err("no end").message(), "CRIU reports steps without end");
        sender.join().expect("it has ended");
    }

    #[test]
    fn a_step_may_wait_for_its_answer() {
        let (ours, theirs) = socket::pair().expect("a pair");
        let say = |message: &[u8]| socket::send(theirs.as_fd(), message, &[]).expect("sent");
        let mut session = Session::new(ours);
        let mut hold = |step: &Step, _| Ok(if step.name == "hold" { Next::Hold } else { Next::GoOn });
        say(&response(Type::Notify, true, "hold"));
        let request = Request { kind: Some(Type::Restore as i32), ..Request::default() };
        assert!(matches!(session.perform(&request, &mut hold), Ok(Outcome::Held)));
        let mut buffer = [0; 1024];
        let mut hear = || {
            let (n, _) = socket::receive(theirs.as_fd(), &mut buffer).expect("a message");
            Request::decode(&buffer[..n]).expect("a message").go_on
        };
        assert_eq!(hear(), None, "only the request so far");
        say(&response(Type::Notify, true, "post-restore"));
        say(&response(Type::Restore, true, ""));
        assert!(matches!(session.resume(Type::Restore, &mut hold), Ok(Outcome::Done)));
        assert_eq!([hear(), hear()], [Some(true); 2]);
    }

    #[test]
    fn work_is_done_after_the_answer_and_its_failure_refuses_the_next_step() {
        let (ours, theirs) = socket::pair().expect("a pair");
        let theirs = std::rc::Rc::new(theirs);
        let say = |message: &[u8]| socket::send(theirs.as_fd(), message, &[]).expect("sent");
        say(&response(Type::Notify, true, "first"));
        let each = &mut |_: &Step, _| {
            let theirs = theirs.clone();
            Ok(Next::GoOnWith(Box::new(move || {
                let mut buffer = [0; 1024];
                let mut hear = || {
                    let (n, _) = socket::receive(theirs.as_fd(), &mut buffer).expect("a message");
                    Request::decode(&buffer[..n]).expect("a message").go_on
                };
                assert_eq!([hear(), hear()], [None, Some(true)], "the answer was first");
                let say = |message: &[u8]| socket::send(theirs.as_fd(), message, &[]).expect("sent");
                say(&response(Type::Notify, true, "second"));
                say(&response(Type::Restore, false, ""));
                Err(Error::new(Kind::Kernel, "no"))
            })))
        };
        let request = Request { kind: Some(Type::Restore as i32), ..Request::default() };
        let outcome = Session::new(ours).perform(&request, each);
        assert_eq!(outcome.expect_err("refused").message(), "no");
        let mut buffer = [0; 1024];
        let (n, _) = socket::receive(theirs.as_fd(), &mut buffer).expect("a message");
        assert_eq!(Request::decode(&buffer[..n]).expect("a message").go_on, Some(false));
    }

    #[test]
    fn a_refused_step_ends_in_its_own_error() {
        let steps = ["post-dump", "network-unlock"].map(|step| response(Type::Notify, true, step));
        for end in [vec![], vec![response(Type::Dump, false, "")], vec![response(Type::Dump, true, "")]] {
            let replies: Vec<_> = steps.iter().cloned().chain(end).collect();
            let (outcome, seen, sent) = dump(&replies, "post-dump");
            assert_eq!(outcome.expect_err("refused").message(), "no");
            assert_eq!(seen, ["post-dump"]);
            assert_eq!(sent[1].go_on, Some(false));
        }
    }
}
