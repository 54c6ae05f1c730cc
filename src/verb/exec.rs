//! `exec`.

use std::path::PathBuf;

use crate::apply::{self, Foreground, Relay};
use crate::cli;
use crate::error::{Doing, Error, Origin, Result};
use crate::plan::{self, Options};
use crate::sys::process::SingleThreaded;
use crate::sys::{fd, socket};

use super::Session;
use super::create::{check_terminal, host, passed_fds};

pub(super) fn exec(options: cli::Exec, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    exec_inner(&options, session, proof).map_err(|error| match error.message() {
        // What callers compare from the start of the line.
        message if message.starts_with("cannot exec in") || message.contains("does not exist") => error,
        _ => error.before("exec failed"),
    })
}

fn exec_inner(options: &cli::Exec, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let container = session.store()?.load(&options.id)?;
    let process = match &options.process {
        Some(path) => {
            let origin = |error: Error| error.origin(Origin::Flag("--process".into()));
            let file = fd::open(path, nix::fcntl::OFlag::O_RDONLY).and_then(fd::read_all);
            Some(file.doing(|| format!("cannot read the process file {path:?}")).map_err(origin)?)
        }
        None => None,
    };
    let planning = Options { no_new_keyring: container.state.no_new_keyring, host: host()?, ..Options::default() };
    let spec = container.config()?;
    let mut plan = plan::exec::exec(&options.id, &spec, options, process.as_deref(), &planning)?;
    session.warn(std::mem::take(&mut plan.warnings))?;
    let (preserve_fds, environment) = passed_fds(options.preserve_fds)?;
    plan.process.env.extend(environment);

    let connect = |path: Option<&PathBuf>, flag: &'static str| {
        path.map(|path| socket::connect(path).doing(|| format!("cannot connect to {path:?}")))
            .transpose()
            .map_err(|error| error.origin(Origin::Flag(flag.into())))
    };
    let console_socket = connect(options.console_socket.as_ref(), "--console-socket")?;
    // Unlike run, an exec in the foreground may hand its terminal to somebody else.
    let terminal = plan.process.terminal;
    check_terminal(terminal, options.detach || console_socket.is_some(), console_socket.is_some())?;
    let (console_socket, relay) = match terminal && console_socket.is_none() {
        true => {
            socket::pair().doing(|| "cannot make a pair of sockets").map(|(ours, theirs)| (Some(theirs), Some(ours)))?
        }
        false => (console_socket, None),
    };
    let foreground = if options.detach { None } else { Some(Foreground::begin()?) };
    let request = apply::Exec {
        container: &container,
        plan: &plan,
        cgroup: options.cgroup.first().map(|cgroup| cgroup.path.as_str()),
        console_socket,
        pidfd_socket: connect(options.pidfd_socket.as_ref(), "--pidfd-socket")?,
        pid_file: options.pid_file.as_deref(),
        preserve_fds,
        ignore_paused: options.ignore_paused,
        debug: session.debug,
    };
    let child = apply::exec(request, proof)?;
    let Some(foreground) = foreground else { return Ok(0) };
    let relay = match relay {
        Some(socket) => Relay::receive(&socket)?,
        None => None,
    };
    Ok(apply::wait(&foreground, &child, relay, None)?.status() as u8)
}
