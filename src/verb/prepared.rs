//! A planned container, from which `create`, `run` and `restore` launch init.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::cli;
use windlass_apply::notify::{self, ServiceManager};
use windlass_apply::{
    self as apply, Caller, CgroupPlacement, Delegation, Inherit, Launch, NewContainer, Purpose, Relay, StepTimer, User,
};
use windlass_base::error::{Diagnostic, Error, Result, WithContext};
use windlass_cgroup as cgroup;
use windlass_plan::{Action, Options, Plan};
use windlass_store::Store;
use windlass_sys::process::SingleThreaded;
use windlass_sys::random;

use super::bundle::{Bundle, absolute};
use super::caller::{Stdio, connect};
use super::checkpoint::{ImageFiles, config_file};
use super::planning::{self, is_rootless, manager};
use super::session::Session;

/// The source of a container's processes.
#[derive(Clone, Copy)]
pub(super) enum ProcessSource<'a> {
    /// The program, which `start` executes.
    Created,
    /// The program, which this command executes.
    Run,
    /// Images.
    Images(&'a ImageFiles<'a>),
}

impl ProcessSource<'_> {
    pub(super) fn is_restore(self) -> bool {
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
        source: ProcessSource<'_>,
        root: &Path,
        session: &mut Session<'_>,
        timer: &mut StepTimer,
    ) -> Result<Box<PlannedBundle>> {
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
        let notify = !source.is_restore()
            && ServiceManager::from_environment()?.is_some()
            && notify::plan_mount(&mut plan, root);
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
        Ok(Box::new(PlannedBundle { bundle, options: planning, plan, place, notify }))
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

/// A container that is planned, and of which nothing is made but the state root.
pub(super) struct Prepared<'a> {
    source: ProcessSource<'a>,
    paths: CallerPaths,
    /// Boxed because it is large: init keeps a copy of the stack, in which each move would leave another copy.
    planned: Box<PlannedBundle>,
    stdio: Stdio,
    inherit: Inherit,
    /// The warnings of the poststop hooks, which run if a launch is undone.
    warnings: RefCell<Vec<Diagnostic>>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(
        source: ProcessSource<'a>,
        options: &cli::Create,
        detached: bool,
        session: &mut Session<'_>,
    ) -> Result<Prepared<'a>> {
        let mut timer = StepTimer::start(session.debug);
        let mut paths = CallerPaths::open(options, session)?;
        let planned = PlannedBundle::new(options, source, &paths.root, session, &mut timer)?;
        let mut stdio = planned.stdio(detached, paths.console_socket.take())?;
        let mut inherit = stdio.inherit(planned.user(), &planned.options.host, detached)?;
        inherit.listens = session.passed.listens();
        Ok(Prepared { source, paths, planned, stdio, inherit, warnings: RefCell::default() })
    }

    /// Whether the runtime has no privileges on the host.
    pub(super) fn rootless(&self) -> bool {
        self.planned.options.host.rootless()
    }

    /// Makes the container, up to an init that waits for its start barrier, or up to the end of a restore. Returns also
    /// the streams to relay. A failure, here or of the launch, goes through [`Prepared::explain`].
    pub(super) fn launch<'p>(
        &'p mut self,
        session: &'p Session<'_>,
        proof: &'p SingleThreaded,
    ) -> Result<(Launch<NewContainer<'p>>, Option<Relay>)> {
        let Prepared { source, paths, planned, .. } = self;
        let PlannedBundle { bundle, options, plan, place, notify } = &mut **planned;
        let caller = Caller {
            console_socket: self.stdio.take_socket(),
            pidfd_socket: paths.pidfd_socket.take(),
            pid_file: paths.pid_file.as_deref(),
            preserve_fds: session.passed.count,
            inherit: std::mem::take(&mut self.inherit),
        };
        let annotations = std::mem::take(&mut bundle.spec.annotations);
        let images = match source {
            ProcessSource::Images(images) => Some((*images, config_file(&annotations))),
            ProcessSource::Created | ProcessSource::Run => None,
        };
        let request = apply::CreateRequest {
            store: &paths.store,
            plan,
            annotations,
            config: std::mem::take(&mut bundle.text),
            spec: &bundle.spec,
            bundle: &bundle.path,
            place,
            caller,
            environment: &session.passed.environment,
            notify: *notify,
            purpose: source.purpose(),
            debug: session.debug,
            no_new_keyring: options.no_new_keyring,
            keyring: &options.keyring,
            warnings: &self.warnings,
        };
        let launch = match images {
            Some((images, config_file)) => apply::restore(request, &images.request(&paths.root, &config_file), proof)?,
            None => apply::create(request, proof)?,
        };
        Ok((launch, self.stdio.relay()?))
    }

    /// Completes a failure of the launch, which is undone by now.
    pub(super) fn explain(self, error: Error, session: &mut Session<'_>) -> Error {
        session.warnings.extend(self.warnings.take());
        self.planned.bundle.explain(error)
    }
}
