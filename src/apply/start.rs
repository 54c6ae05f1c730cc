//! `start`: opening the start barrier, at which init waits.

use std::os::fd::AsFd;

use nix::errno::Errno;

use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_store::{Container, Status, ended_unexecuted};
use windlass_sys::{fd, socket};

use super::hooks;
use super::notify::{Notify, ServiceManager};
use super::sync::{Message, decode};

/// Starts a created container, and returns when its program runs or could not be executed. With `manager`, returns the
/// socket on which the container reports that it is ready; the caller waits for the report without the lock.
pub fn start(
    container: &mut Container,
    manager: Option<&ServiceManager>,
    warnings: &mut Vec<Diagnostic>,
) -> Result<Option<Notify>> {
    container.lock()?;
    match container.status()? {
        Status::Created => {}
        Status::Stopped => return Err(wrong("cannot start a container that has stopped")),
        Status::Running => return Err(wrong("cannot start an already running container")),
        status => return Err(wrong(format!("cannot start a container in the {status} state"))),
    }
    // A restored container reported that it was ready before its dump, and its poststart hooks have run.
    let held = container.state.held;
    let notify = manager
        .filter(|_| !held)
        .map_or(Ok(None), |manager| Notify::listen(container.root(), &container.state.id, manager))?;
    open_barrier(container)?;
    match fd::unlinkat(container.root(), container.start_socket()) {
        Ok(()) => {}
        // The socket was removed before the restored processes ran.
        Err(failed) if held && failed.errno == Errno::ENOENT => {}
        // The program runs, and `delete` removes the socket.
        Err(failed) => {
            let msg = failed.context("cannot remove the start socket").to_string();
            warnings.push(Diagnostic { pointer: String::new(), msg });
        }
    }
    if !held {
        poststart(container, warnings)?;
    }
    Ok(notify)
}

fn wrong(msg: impl Into<String>) -> Error {
    Error::new(Kind::WrongStatus, msg)
}

fn open_barrier(container: &Container) -> Result<()> {
    let socket = match socket::connect_at(container.root(), &container.start_socket()) {
        Err(failed) if failed.errno == Errno::ECONNREFUSED => {
            return Err(wrong("cannot start a container that has stopped").caused_by(failed));
        }
        other => other.with_context(|| "cannot reach init")?,
    };
    socket::send(socket.as_fd(), b"start", &[]).with_context(|| "cannot send to init")?;
    let mut buffer = vec![0; 8192];
    // Without an answer nobody knows whether the program runs. A container whose start has failed must not run.
    let received = socket::receive_answer(socket.as_fd(), &mut buffer)
        .inspect_err(|_| drop(super::kill::kill_everything(container, false)));
    let (n, _) = match received {
        // The kernel reports a message that init has not read.
        Err(failed) if failed.errno == Errno::ECONNRESET => {
            return Err(wrong("cannot start a container that has stopped").caused_by(failed));
        }
        other => other.with_context(|| "cannot receive from init")?,
    };
    match decode(&buffer[..n], None)? {
        // The keeper ended before the container was restored.
        Message::End if container.state.held && has_start_socket(container) => Err(Error::new(
            Kind::Protocol,
            "unable to start container process: the process that was to have it restored has ended",
        )),
        // The socket was closed by the execution of the program, or by init's death.
        Message::End => match container.init {
            Some(init) if ended_unexecuted(init.pid) => Err(Error::new(
                Kind::Protocol,
                "unable to start container process: init was ended by a signal before it executed the program",
            )),
            _ => Ok(()),
        },
        Message::Failed(error) => Err(error.prefixed("unable to start container process")),
        _ => Err(Error::new(Kind::Protocol, "init answered start with something else")),
    }
}

fn has_start_socket(container: &Container) -> bool {
    fd::stat_at(container.root(), container.start_socket()).is_ok()
}

/// Runs the poststart hooks. If one fails, the container is stopped and removed as by `delete`, poststop hooks
/// included (runtime.md, "Lifecycle", step 9). Their warnings are added to `warnings`.
pub fn poststart(container: &Container, warnings: &mut Vec<Diagnostic>) -> Result<()> {
    let hooks = &container.hooks()?.poststart;
    if hooks.is_empty() {
        return Ok(());
    }
    let pid = container.init.map_or(0, |init| init.pid);
    hooks::run("poststart", hooks, &container.document(Status::Running, pid)?).inspect_err(|_| {
        // The hook's failure stays the error. `delete --force` removes what cannot be removed here.
        warnings.extend(super::delete::destroy(container).unwrap_or_default());
    })
}
