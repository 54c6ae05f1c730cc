//! `create`, `start` and `run`.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::cli::{self, CgroupManager, Global};
use windlass_apply::notify::{self, Host as NotifyHost};
use windlass_apply::{self as apply, Caller, Creation, Foreground, Laps, Launch, Relay, Undelegated, User};
use windlass_base::error::{Doing, Error, Fault, Kind, Origin, Result};
use windlass_base::spec::{IdMapping, Spec};
use windlass_cgroup::{self as cgroup, Manager};
use windlass_plan::unit::Systemd;
use windlass_plan::{Action, Host, Options, Plan};
use windlass_store::{Container, Store};
use windlass_sys::fd;
use windlass_sys::process::{self, Exit, SingleThreaded};
use windlass_sys::{credentials, probe, random};

use super::Session;
use super::caller::{Stdio, connect};

/// A bundle that was read; its directory is the current one.
pub(super) struct Read {
    pub bundle: PathBuf,
    pub text: Vec<u8>,
    pub spec: Spec,
    /// Elements that cannot be read; with any, there is no plan.
    pub faults: Vec<Fault>,
    pub warnings: Vec<Fault>,
}

/// Reads a bundle, and makes its directory the current one.
pub(super) fn read_config(bundle: &Path, config: Option<&Path>) -> Result<Read> {
    let config = config.map(absolute).transpose()?;
    let origin = |error: Error| error.origin(Origin::Flag("--bundle".into()));
    process::change_directory(bundle).doing(|| format!("cannot enter the bundle {bundle:?}")).map_err(origin)?;
    let bundle = std::env::current_dir().doing(|| "cannot tell where the bundle is")?;
    let path = config.as_deref().unwrap_or(Path::new("config.json"));
    let text = fd::open(path, nix::fcntl::OFlag::O_RDONLY).and_then(|file| fd::read_all(file, fd::DOCUMENT)).map_err(
        |failed| {
            let missing = failed.errno == nix::errno::Errno::ENOENT;
            let asked = if config.is_some() { "--config" } else { "--bundle" };
            let error = failed
                .doing(format!("JSON specification file {} not found", path.display()))
                .origin(Origin::Flag(asked.into()))
                .step(format!("runtime: read the bundle {bundle:?}"));
            if missing { error.kind_is(Kind::NotFound) } else { error }
        },
    )?;
    let windlass_base::spec::Read { value: spec, faults, warnings } = windlass_base::spec::read(&text, "config.json")?;
    Ok(Read { bundle, text, spec, faults, warnings })
}

/// Facts that planning depends on.
pub(super) fn host() -> Result<Host> {
    let own = credentials::capabilities().doing(|| "cannot tell the runtime's capabilities")?;
    let mut host = Host {
        capabilities: own.permitted,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        ..Host::default()
    };
    if !probe::in_first_user_namespace() {
        let text = fd::open("/proc/self/gid_map", nix::fcntl::OFlag::O_RDONLY)
            .and_then(|file| fd::read_all(file, fd::DOCUMENT));
        let text = text.doing(|| "cannot tell the groups of this user namespace")?;
        host.nested = Some(mappings(&String::from_utf8_lossy(&text)));
    }
    if host.rootless() {
        let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        host.oom_score_adj = text.trim().parse().unwrap_or(0);
    }
    Ok(host)
}

/// The lines of a `/proc/PID/gid_map`.
fn mappings(text: &str) -> Vec<IdMapping> {
    let mapping = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(IdMapping { container_id: next()?, host_id: next()?, size: next()? })
    };
    text.lines().filter_map(mapping).collect()
}

fn manager(global: &Global) -> Option<Manager> {
    match global.cgroup_manager {
        CgroupManager::Cgroupfs => Some(Manager::Cgroupfs),
        CgroupManager::Disabled => None,
        CgroupManager::Systemd => Some(Manager::Systemd),
    }
}

/// What the flags and the host say of a plan.
pub(super) fn planning(global: &Global, no_pivot: bool, no_new_keyring: bool) -> Result<Options> {
    let host = host()?;
    let systemd = (manager(global) == Some(Manager::Systemd))
        .then(|| Systemd { user: is_rootless(global, &host), prefix: global.name });
    Ok(Options { no_pivot, no_new_keyring, host, systemd, ..Options::default() })
}

/// Whether the cgroups of the host are somebody else's, by the flag or by what we are.
fn is_rootless(global: &Global, host: &Host) -> bool {
    global.rootless.unwrap_or(host.rootless())
}

/// A relative path of the command line, which the change into the bundle would change.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).doing(|| format!("cannot tell where {path:?} is"))
}

/// Logs the flags of seccomp(2) as a number, in runc's words; without those about other threads, which a process
/// that has none gets nothing from.
fn log_filter_flags(plan: &Plan) {
    let threads = (libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH) as u32;
    for step in &plan.init {
        if let Action::Seccomp(seccomp) = &step.action {
            log::debug!("seccomp filter flags: {}", seccomp.filter.flags & !threads);
        }
    }
}

/// Makes a container, up to an init that waits for the word and a terminal that is taken over. Then `finish` does
/// the rest. If `finish` fails, everything is undone as well.
fn make<T>(
    options: &cli::Create,
    wait_for_start: bool,
    detached: bool,
    session: &mut Session<'_>,
    proof: &SingleThreaded,
    finish: impl FnOnce(Launch<Creation<'_>>, Option<Relay>) -> Result<T>,
) -> Result<T> {
    let global = session.global;
    let mut laps = Laps::begin(session.debug);
    let root = absolute(&global.root)?;
    let store = Store::make(&root)?;
    let console_socket = connect(options.console_socket.as_ref(), "--console-socket")?;
    let pidfd_socket = connect(options.pidfd_socket.as_ref(), "--pidfd-socket")?;
    let pid_file = options.pid_file.as_deref().map(absolute).transpose()?;
    let mut planning = planning(global, options.no_pivot, options.no_new_keyring)?;
    planning.keyring = random::random_suffix().doing(|| "cannot name the session keyring")?;
    // It lets us in while we read and plan; that it does not is said when nothing else is wrong.
    let systemd = planning.systemd.map(|systemd| cgroup::Systemd::connect(systemd.user));
    let mut read = read_config(&options.bundle, options.config.as_deref())?;
    laps.done("read the configuration");
    let told = |_: &Error| session.warnings.extend(read.warnings.iter().cloned());
    read.prepare(&mut planning)?;
    let mut plan = read.plan(&options.id, &planning).inspect_err(told)?;
    let notify = NotifyHost::from_environment()?.is_some() && notify::plan_mount(&mut plan, &root);
    let resources = read.spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let undelegated = match is_rootless(global, &planning.host) {
        true => Undelegated::Tolerated,
        false => Undelegated::Refused,
    };
    let place = apply::Place::decide(manager(global), systemd, undelegated, resources, &mut plan)?;
    session.warn(std::mem::take(&mut plan.warnings))?;
    laps.done("plan");
    if session.debug {
        log_filter_flags(&plan);
    }
    let wanted = read.spec.process.as_ref().is_some_and(|process| process.terminal);
    let mut stdio = Stdio::plan(wanted, detached, console_socket)?;
    let uid = read.spec.process.as_ref().map_or(0, |process| process.user.uid);
    let user = User { uid, host_uid: plan.topology.host_uid(uid) };
    let mut inherit = stdio.inherit(user, &planning.host, detached)?;
    inherit.listens = session.passed.listens();
    let caller = Caller {
        console_socket: stdio.take_socket(),
        pidfd_socket,
        pid_file: pid_file.as_deref(),
        preserve_fds: session.passed.count,
        inherit,
    };
    let warnings = RefCell::default();
    let request = apply::Create {
        store: &store,
        plan: &plan,
        annotations: std::mem::take(&mut read.spec.annotations),
        config: std::mem::take(&mut read.text),
        spec: &read.spec,
        bundle: &read.bundle,
        place,
        caller,
        environment: &session.passed.environment,
        notify,
        wait_for_start,
        debug: session.debug,
        no_new_keyring: options.no_new_keyring,
        keyring: &planning.keyring,
        warnings: &warnings,
    };
    let outcome = apply::create(request, proof).and_then(|launch| {
        let relay = stdio.relay()?;
        finish(launch, relay)
    });
    session.warnings.extend(warnings.take());
    outcome.map_err(|error| read.explain(error))
}

pub(super) fn create(options: cli::Create, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<()> {
    let words = format!("{} create failed", session.global.name);
    let finish = |launch: Launch<Creation<'_>>, _| {
        launch.go_on()?;
        launch.commit().map(drop)
    };
    make(&options, true, true, session, proof, finish).map_err(|error| error.before(&words))
}

pub(super) fn start(id: &str, session: &mut Session<'_>) -> Result<()> {
    let mut laps = Laps::begin(session.debug);
    let mut container = session.store()?.load(id)?;
    let notify = apply::start(&mut container, NotifyHost::from_environment()?.as_ref(), &mut session.warnings)?;
    laps.done("have the program executed, and run the poststart hooks");
    // Others may look, kill and delete meanwhile.
    container.unlock();
    let (Some(notify), Some(pidfd), Some(init)) = (notify, container.open_init()?, container.init) else {
        return Ok(());
    };
    notify.wait_and_forward(pidfd.as_fd(), init.pid).map(drop)
}

pub(super) fn run(options: cli::Run, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let words = format!("{} run failed", session.global.name);
    run_inner(&options, session, proof).map_err(|error| error.before(&words))
}

fn run_inner(options: &cli::Run, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<u8> {
    let foreground = match options.detach {
        true => None,
        false => Some(Foreground::begin()?),
    };
    if foreground.is_some() && !options.no_subreaper {
        process::become_subreaper().doing(|| "cannot become a subreaper")?;
    }
    let host = NotifyHost::from_environment()?;
    let begin = |mut launch: Launch<Creation<'_>>, relay| {
        let notify = match host.as_ref().map_or(Ok(None), |host| launch.handler().listen(host)) {
            // Nobody listens for the container's READY=1, and the caller waits for its end anyway.
            Err(error) if !options.detach => {
                ::log::warn!("{error}");
                launch.handler().listen_for_nobody()?
            }
            other => other?,
        };
        launch.begin()?;
        Ok((launch.commit()?, relay, notify))
    };
    let ((child, mut container), relay, notify) = make(&options.create, false, options.detach, session, proof, begin)?;
    let mut laps = Laps::begin(session.debug);
    if let Err(error) = apply::poststart(&container, &mut session.warnings) {
        let _ = child.wait();
        return Err(error);
    }
    container.unlock();
    laps.done("run the poststart hooks");
    let Some(foreground) = foreground else {
        if let Some(notify) = notify {
            notify.wait_and_forward(child.pidfd.as_fd(), child.pid)?;
        }
        return Ok(0);
    };
    let exit = apply::wait(&foreground, &child, relay, notify.as_ref())?;
    laps.done("wait for its end");
    session.warnings.extend(out_of_memory(&container, exit));
    if options.keep {
        container.record_exit(exit);
    } else {
        container.lock()?;
        // Somebody may have deleted it already.
        if container.still_there() {
            session.warnings.extend(windlass_apply::finish(&container)?);
        }
    }
    laps.done("remove the container");
    Ok(exit.status() as u8)
}

/// What a bare 137 does not say: the cgroup that knows it goes away with the container.
fn out_of_memory(container: &Container, exit: Exit) -> Option<Fault> {
    let killed = exit == Exit::Signal(libc::SIGKILL) && container.oom_kills().is_some_and(|n| n > 0);
    killed.then(|| Fault {
        pointer: "/linux/resources/memory/limit".into(),
        msg: "the kernel killed the container for want of memory".into(),
    })
}
