//! `create`, `start` and `run`.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::cli;
use windlass_apply::notify::{self, ServiceManager};
use windlass_apply::{
    self as apply, Caller, CgroupPlacement, Delegation, Foreground, Launch, NewContainer, Purpose, Relay, StepTimer,
    User,
};
use windlass_base::error::{Diagnostic, Error, Result, WithContext};
use windlass_cgroup as cgroup;
use windlass_plan::{Action, Host, Options, Plan};
use windlass_store::{Container, Store};
use windlass_sys::mount_view::MountView;
use windlass_sys::process::{self, Child, Exit, SingleThreaded};
use windlass_sys::random;

use super::bundle::{Bundle, absolute};
use super::caller::{Stdio, connect};
use super::checkpoint::{ImageFiles, config_file};
use super::planning::{self, is_rootless, manager};
use super::session::Session;

/// The files outside the bundle that flags of `create` and `run` name. They are opened, and paths made absolute, before
/// the bundle's directory becomes the current one.
struct CallerPaths {
    root: PathBuf,
    store: Store,
    console_socket: Option<OwnedFd>,
    pidfd_socket: Option<OwnedFd>,
    pid_file: Option<PathBuf>,
}

impl CallerPaths {
    fn open(options: &cli::Create, session: &Session<'_>) -> Result<CallerPaths> {
        let root = absolute(&session.global.root)?;
        Ok(CallerPaths {
            store: Store::make(&root)?,
            root,
            console_socket: connect(options.console_socket.as_ref(), "--console-socket")?,
            pidfd_socket: connect(options.pidfd_socket.as_ref(), "--pidfd-socket")?,
            pid_file: options.pid_file.as_deref().map(absolute).transpose()?,
        })
    }
}

/// A bundle with its plan.
struct PlannedBundle {
    bundle: Bundle,
    options: Options,
    plan: Plan,
    place: CgroupPlacement,
    /// Whether the plan has the mount of a notify socket.
    notify: bool,
}

impl PlannedBundle {
    fn new(
        options: &cli::Create,
        from: ProcessSource<'_>,
        root: &Path,
        session: &mut Session<'_>,
        timer: &mut StepTimer,
    ) -> Result<PlannedBundle> {
        let global = session.global;
        let mut planning = planning::options(global, options.no_pivot, options.no_new_keyring)?;
        planning.keyring = random::random_suffix().with_context(|| "cannot name the session keyring")?;
        // systemd authenticates us while we read and plan. A fault of the configuration is reported first.
        let systemd = planning.systemd.map(|systemd| cgroup::Systemd::connect(systemd.user));
        let bundle = Bundle::read(&options.bundle, options.config.as_deref())?;
        timer.done("read the configuration");
        bundle.prepare(&mut planning)?;
        let keep_warnings = |_: &Error| session.warnings.extend(bundle.warnings.iter().cloned());
        let mut plan = bundle.plan(&options.id, &planning).inspect_err(keep_warnings)?;
        let notify =
            !from.is_restore() && ServiceManager::from_environment()?.is_some() && notify::plan_mount(&mut plan, root);
        let resources = bundle.spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let delegation = match is_rootless(global, &planning.host) {
            true => Delegation::Optional,
            false => Delegation::Required,
        };
        let place = CgroupPlacement::decide(manager(global), systemd, delegation, resources, &mut plan)?;
        session.warn(std::mem::take(&mut plan.warnings))?;
        timer.done("plan");
        if session.debug {
            log_filter_flags(&plan);
        }
        Ok(PlannedBundle { bundle, options: planning, plan, place, notify })
    }

    /// The container's stdio.
    fn stdio(&self, detached: bool, console_socket: Option<OwnedFd>) -> Result<Stdio> {
        let terminal = self.bundle.spec.process.as_ref().is_some_and(|process| process.terminal);
        Stdio::plan(terminal, detached, console_socket)
    }

    /// The user of the container's process.
    fn user(&self) -> User {
        let uid = self.bundle.spec.process.as_ref().map_or(0, |process| process.user.uid);
        User { uid, host_uid: self.plan.topology.host_uid(uid) }
    }
}

/// Logs the flags of seccomp(2) as a number, in runc's words. The flags about other threads are left out: they do
/// nothing for a process without threads.
fn log_filter_flags(plan: &Plan) {
    let threads = (libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH) as u32;
    for step in &plan.init {
        if let Action::Seccomp(seccomp) = &step.action {
            log::debug!("seccomp filter flags: {}", seccomp.filter.flags & !threads);
        }
    }
}

/// The source of a container's processes.
#[derive(Clone, Copy)]
enum ProcessSource<'a> {
    /// The program, which `start` executes.
    Created,
    /// The program, which this command executes.
    Run,
    /// Images.
    Images(&'a ImageFiles<'a>),
}

impl ProcessSource<'_> {
    fn is_restore(self) -> bool {
        matches!(self, ProcessSource::Images(_))
    }

    fn purpose(self) -> Purpose {
        match self {
            ProcessSource::Created => Purpose::Create,
            ProcessSource::Run => Purpose::Run,
            ProcessSource::Images(images) => Purpose::Restore { hold: images.hold() },
        }
    }
}

/// Makes a container, up to an init that waits to execute the program and a terminal that is taken over. Then `finish`
/// does the rest. A failure, also of `finish`, undoes everything.
fn make<T>(
    options: &cli::Create,
    from: ProcessSource<'_>,
    detached: bool,
    session: &mut Session<'_>,
    proof: &SingleThreaded,
    finish: impl FnOnce(Launch<NewContainer<'_>>, Option<Relay>, &Host) -> Result<T>,
) -> Result<T> {
    let mut timer = StepTimer::start(session.debug);
    let caller_paths = CallerPaths::open(options, session)?;
    let mut planned = PlannedBundle::new(options, from, &caller_paths.root, session, &mut timer)?;
    let mut stdio = planned.stdio(detached, caller_paths.console_socket)?;
    let mut inherit = stdio.inherit(planned.user(), &planned.options.host, detached)?;
    inherit.listens = session.passed.listens();
    let caller = Caller {
        console_socket: stdio.take_socket(),
        pidfd_socket: caller_paths.pidfd_socket,
        pid_file: caller_paths.pid_file.as_deref(),
        preserve_fds: session.passed.count,
        inherit,
    };
    let config_file = match from {
        ProcessSource::Images(_) => config_file(&planned.bundle.spec.annotations),
        ProcessSource::Created | ProcessSource::Run => String::new(),
    };
    let warnings = RefCell::default();
    let request = apply::CreateRequest {
        store: &caller_paths.store,
        plan: &planned.plan,
        annotations: std::mem::take(&mut planned.bundle.spec.annotations),
        config: std::mem::take(&mut planned.bundle.text),
        spec: &planned.bundle.spec,
        bundle: &planned.bundle.path,
        place: planned.place,
        caller,
        environment: &session.passed.environment,
        notify: planned.notify,
        purpose: from.purpose(),
        debug: session.debug,
        no_new_keyring: options.no_new_keyring,
        keyring: &planned.options.keyring,
        warnings: &warnings,
    };
    let made = match from {
        ProcessSource::Images(images) => {
            apply::restore(request, &images.request(&caller_paths.root, &config_file), proof)
        }
        ProcessSource::Created | ProcessSource::Run => apply::create(request, proof),
    };
    let outcome = made.and_then(|launch| {
        let relay = stdio.relay()?;
        finish(launch, relay, &planned.options.host)
    });
    session.warnings.extend(warnings.take());
    outcome.map_err(|error| planned.bundle.explain(error))
}

pub(super) fn create(options: cli::Create, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<()> {
    let prefix = format!("{} create failed", session.global.name);
    make_waiting(ProcessSource::Created, &options, session, proof).map_err(|error| error.prefixed(&prefix))
}

/// Makes a container that waits for `start`.
fn make_waiting(
    from: ProcessSource<'_>,
    options: &cli::Create,
    session: &mut Session<'_>,
    proof: &SingleThreaded,
) -> Result<()> {
    let finish = |launch: Launch<NewContainer<'_>>, _, host: &Host| {
        if let ProcessSource::Created = from {
            launch.release()?;
        }
        let (init, container) = launch.commit()?;
        // This comes last, because this process is in another mount namespace afterwards. The container's lock is held
        // until the process ends, so that no `delete` comes between.
        keep_exit(&container, &init, host, proof);
        Ok(())
    };
    make(options, from, true, session, proof, finish)
}

/// Has the kernel keep the exit of the container. If that fails, only the process that reaps init learns it, as with
/// any runtime. Afterwards this process may be in another mount namespace.
fn keep_exit(container: &Container, init: &Child, host: &Host, proof: &SingleThreaded) {
    if host.rootless() {
        return;
    }
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

pub(super) fn run(options: cli::Run, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let prefix = format!("{} run failed", session.global.name);
    run_from(ProcessSource::Run, &options, session, proof).map_err(|error| error.prefixed(&prefix))
}

pub(super) fn restore(options: &cli::Restore, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let prefix = format!("{} restore failed", session.global.name);
    let restored = ImageFiles::open(&options.images, session).and_then(|images| match images.hold() {
        true => make_waiting(ProcessSource::Images(&images), &options.run.create, session, proof).map(|()| 0),
        false => run_from(ProcessSource::Images(&images), &options.run, session, proof),
    });
    restored.map_err(|error| error.prefixed(&prefix))
}

fn run_from(
    from: ProcessSource<'_>,
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
    let manager = if from.is_restore() { None } else { ServiceManager::from_environment()? };
    let begin = |mut launch: Launch<NewContainer<'_>>, relay, host: &Host| {
        let notify = match manager.as_ref().map_or(Ok(None), |manager| launch.handler().listen(manager)) {
            // The service manager does not listen for READY=1. In the foreground the caller waits for the end anyway.
            Err(error) if !options.detach => {
                ::log::warn!("{error}");
                launch.handler().listen_without_forwarding()?
            }
            other => other?,
        };
        if let ProcessSource::Run = from {
            launch.execute()?;
        }
        let (child, container) = launch.commit()?;
        // For an ordinary user the kernel keeps no exit: the user may not enter the mount namespace of the pins.
        if options.detach
            && !host.rootless()
            && let Ok(view) = MountView::hold_for_absolute_paths()
        {
            keep_exit(&container, &child, host, proof);
            view.restore("windlass's own");
        }
        Ok(((child, container), relay, notify))
    };
    let ((child, mut container), relay, notify) = make(&options.create, from, options.detach, session, proof, begin)?;
    let mut timer = StepTimer::start(session.debug);
    // A restored container was started before: its poststart hooks have run.
    if let ProcessSource::Run = from
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
    if keep {
        container.record_exit(exit);
        return Ok(());
    }
    container.lock()?;
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
