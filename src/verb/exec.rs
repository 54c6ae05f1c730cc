//! `exec`.

use std::path::Path;

use crate::cli;
use windlass_apply::{self as apply, Caller, Foreground, User};
use windlass_base::error::{Kind, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_plan::{self as plan, Options};
use windlass_sys::fd;
use windlass_sys::process::SingleThreaded;

use super::caller::{Stdio, connect};
use super::planning::host;
use super::session::Session;

pub(super) fn exec(options: cli::Exec, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    exec_inner(&options, session, proof).map_err(|error| match error.kind() {
        // Callers compare these messages from their first word.
        Kind::WrongStatus | Kind::NotFound => error,
        _ => error.prefixed("exec failed"),
    })
}

fn exec_inner(options: &cli::Exec, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let container = session.store()?.load(&options.id)?;
    let process = options.process.as_deref().map(read_process).transpose()?;
    let planning = Options {
        no_new_keyring: container.state.no_new_keyring,
        keyring: container.state.keyring.clone(),
        host: host()?,
        ..Options::default()
    };
    let spec = container.config()?;
    let mut plan = plan::exec::exec(&options.id, &spec, &options.request, process.as_deref(), &planning)?;
    // A restored container has a time namespace that its configuration does not name.
    plan.namespaces |= container.state.namespaces & Namespaces::TIME;
    session.warn(std::mem::take(&mut plan.warnings))?;
    plan.process.env.extend(session.passed.environment.iter().cloned());

    let console_socket = connect(options.console_socket.as_ref(), "--console-socket")?;
    // Unlike with run, --console-socket is allowed without --detach.
    let detached = options.detach || console_socket.is_some();
    let mut stdio = Stdio::plan(plan.process.terminal, detached, console_socket)?;
    let user = User { uid: plan.process.user.uid, host_uid: plan.host_uid };
    let mut inherit = stdio.inherit(user, &planning.host, options.detach)?;
    inherit.listens = session.passed.listens();
    inherit.chooses_cpus = plan.process.exec_cpu_affinity.is_some();
    let foreground = if options.detach { None } else { Some(Foreground::begin()?) };
    let caller = Caller {
        console_socket: stdio.take_socket(),
        pidfd_socket: connect(options.pidfd_socket.as_ref(), "--pidfd-socket")?,
        pid_file: options.pid_file.as_deref(),
        preserve_fds: session.passed.count,
        inherit,
    };
    let request = apply::ExecRequest {
        container: &container,
        plan: &plan,
        cgroup: options.cgroup.first().map(|cgroup| cgroup.path.as_str()),
        caller,
        ignore_paused: options.ignore_paused,
        debug: session.debug,
    };
    let mut launch = apply::exec(request, proof)?;
    let relay = stdio.relay()?;
    launch.execute().map_err(|error| apply::because_stopped(&container, error))?;
    let (child, ()) = launch.commit()?;
    let Some(foreground) = foreground else { return Ok(0) };
    let exit = apply::wait(&foreground, &child, relay, None, &mut session.warnings);
    // For the caller a failure means the end of the process.
    Ok(exit.inspect_err(|_| child.end())?.status() as u8)
}

/// The document of `--process`.
fn read_process(path: &Path) -> Result<Vec<u8>> {
    fd::document(path)
        .with_context(|| format!("cannot read the process file {path:?}"))
        .map_err(|error| error.with_origin(Origin::Flag("--process".into())))
}
