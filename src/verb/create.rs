//! `create`, `start`, `run` and `restore`.

use std::os::fd::AsFd;

use crate::cli;
use windlass_apply::notify::{Notify, ServiceManager};
use windlass_apply::{self as apply, Foreground, Launch, NewContainer, Relay, StepTimer};
use windlass_base::error::{Diagnostic, Result, WithContext};
use windlass_store::Container;
use windlass_sys::mount_view::MountView;
use windlass_sys::process::{self, Child, Exit, SingleThreaded};

use super::checkpoint::ImageFiles;
use super::prepared::{Prepared, ProcessSource};
use super::session::Session;

pub(super) fn create(options: &cli::Create, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<()> {
    let prefix = format!("{} create failed", session.global.name);
    create_waiting(ProcessSource::Created, options, session, proof).map_err(|error| error.prefixed(&prefix))
}

pub(super) fn run(options: &cli::Run, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let prefix = format!("{} run failed", session.global.name);
    run_from(ProcessSource::Run, options, session, proof).map_err(|error| error.prefixed(&prefix))
}

pub(super) fn restore(options: &cli::Restore, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let prefix = format!("{} restore failed", session.global.name);
    let restored = ImageFiles::open(&options.images, session).and_then(|images| match images.hold() {
        true => create_waiting(ProcessSource::Images(&images), &options.run.create, session, proof).map(|()| 0),
        false => run_from(ProcessSource::Images(&images), &options.run, session, proof),
    });
    restored.map_err(|error| error.prefixed(&prefix))
}

/// Makes a container that waits for `start`.
fn create_waiting(
    source: ProcessSource<'_>,
    options: &cli::Create,
    session: &mut Session<'_>,
    proof: &SingleThreaded,
) -> Result<()> {
    let mut prepared = Prepared::new(source, options, true, session)?;
    let rootless = prepared.rootless();
    let committed = prepared.launch(session, proof).and_then(|(launch, _)| {
        if let ProcessSource::Created = source {
            launch.release()?;
        }
        launch.commit()
    });
    let (init, container) = committed.map_err(|error| prepared.explain(error, session))?;
    // This comes last, because this process is in another mount namespace afterwards. The container's lock is held
    // until the process ends, so that no `delete` comes between.
    if !rootless {
        keep_exit(&container, &init, proof);
    }
    Ok(())
}

/// Makes a container whose program runs, and in the foreground waits for its end. Returns the exit code.
fn run_from(
    source: ProcessSource<'_>,
    options: &cli::Run,
    session: &mut Session<'_>,
    proof: &SingleThreaded,
) -> Result<u8> {
    let foreground = match options.detach {
        true => None,
        false => Some(Foreground::begin()?),
    };
    if foreground.is_some() && !options.no_subreaper {
        process::become_subreaper().with_context(|| "cannot become a subreaper")?;
    }
    // A restored container reported that it was ready before its dump.
    let manager = if source.is_restore() { None } else { ServiceManager::from_environment()? };
    let mut prepared = Prepared::new(source, &options.create, options.detach, session)?;
    let rootless = prepared.rootless();
    let running = prepared
        .launch(session, proof)
        .and_then(|(launch, relay)| execute(launch, relay, source, manager.as_ref(), options.detach));
    let Running { child, mut container, relay, notify } = running.map_err(|error| prepared.explain(error, session))?;
    if options.detach
        && !rootless
        && let Ok(view) = MountView::hold_for_absolute_paths()
    {
        keep_exit(&container, &child, proof);
        view.restore("windlass's own");
    }
    let mut timer = StepTimer::start(session.debug);
    // A restored container was started before: its poststart hooks have run.
    if let ProcessSource::Run = source
        && let Err(error) = apply::poststart(&container, &mut session.warnings)
    {
        let _ = child.wait();
        return Err(error);
    }
    container.unlock();
    timer.done("run the poststart hooks");
    let Some(foreground) = foreground else {
        if let Some(notify) = notify {
            notify.wait_and_forward(child.pidfd.as_fd(), child.pid)?;
        }
        return Ok(0);
    };
    let exit = apply::wait(&foreground, &child, relay, notify.as_ref(), &mut session.warnings);
    timer.done("wait for its end");
    let status = remove_ended(&mut container, &child, exit, options.keep, session);
    timer.done("remove the container");
    status
}

/// A container whose program was executed, or whose processes were restored.
struct Running {
    child: Child,
    container: Container,
    relay: Option<Relay>,
    notify: Option<Notify>,
}

/// Has init execute the program, unless its processes were restored, and commits the launch.
fn execute(
    mut launch: Launch<NewContainer<'_>>,
    relay: Option<Relay>,
    source: ProcessSource<'_>,
    manager: Option<&ServiceManager>,
    detach: bool,
) -> Result<Running> {
    let notify = match manager.map_or(Ok(None), |manager| launch.handler().listen(manager)) {
        // The service manager does not listen for READY=1. In the foreground the caller waits for the end anyway.
        Err(error) if !detach => {
            ::log::warn!("{error}");
            launch.handler().listen_without_forwarding()?
        }
        other => other?,
    };
    if let ProcessSource::Run = source {
        launch.execute()?;
    }
    let (child, container) = launch.commit()?;
    Ok(Running { child, container, relay, notify })
}

/// Has the kernel keep the exit of the container. If that fails, only the process that reaps init learns it, as with
/// any runtime. Not for an ordinary user, who may not enter the mount namespace of the pins. Afterwards this process
/// may be in another mount namespace.
fn keep_exit(container: &Container, init: &Child, proof: &SingleThreaded) {
    if let Err(error) = container.keep_exit(init.pidfd.as_fd(), proof) {
        log::debug!("{error}");
    }
}

pub(super) fn start(id: &str, session: &mut Session<'_>) -> Result<()> {
    let mut timer = StepTimer::start(session.debug);
    let mut container = session.store()?.load(id)?;
    let notify = apply::start(&mut container, ServiceManager::from_environment()?.as_ref(), &mut session.warnings)?;
    timer.done("have the program executed, and run the poststart hooks");
    // While we wait for READY=1, other commands may read the container's state, kill it and delete it.
    container.unlock();
    let (Some(notify), Some(init)) = (notify, container.init) else { return Ok(()) };
    let Some(pidfd) = container.open_init()? else { return Ok(()) };
    notify.wait_and_forward(pidfd.as_fd(), init.pid).map(drop)
}

/// Removes a container in the foreground after its end, or ends it if the wait for that has failed. Returns the exit
/// code.
fn remove_ended(
    container: &mut Container,
    child: &Child,
    exit: Result<Exit>,
    keep: bool,
    session: &mut Session<'_>,
) -> Result<u8> {
    let ended = exit.and_then(|exit| end(container, exit, keep, session).map(|()| exit));
    let exit = ended.inspect_err(|_| {
        // For the caller a failure means the end of the container.
        child.end();
        if !keep && container.exists().unwrap_or(false) {
            session.warnings.extend(apply::destroy(container).unwrap_or_default());
        }
    })?;
    Ok(exit.status() as u8)
}

/// Removes a container whose process has ended, or records its exit.
fn end(container: &mut Container, exit: Exit, keep: bool, session: &mut Session<'_>) -> Result<()> {
    session.warnings.extend(out_of_memory(container, exit));
    container.lock()?;
    if keep {
        container.record_exit(exit);
        return Ok(());
    }
    // Another command may have deleted the container meanwhile.
    if container.exists()? {
        session.warnings.extend(apply::finish(container)?);
    }
    Ok(())
}

/// Warns that exit code 137 was an OOM kill: the cgroup that counts OOM kills is removed with the container.
fn out_of_memory(container: &Container, exit: Exit) -> Option<Diagnostic> {
    let killed = exit == Exit::Signal(libc::SIGKILL) && container.oom_kills().is_some_and(|n| n > 0);
    killed.then(|| Diagnostic {
        pointer: "/linux/resources/memory/limit".into(),
        msg: "the kernel killed the container for want of memory".into(),
    })
}
