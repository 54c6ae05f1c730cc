//! `create`, `start` and `run`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::apply::notify::{self, Host as NotifyHost, Notify};
use crate::apply::{self, Created, Foreground, Laps, Relay, Undelegated};
use crate::cgroup::{self, Manager};
use crate::cli::{self, CgroupManager, Global};
use crate::container::{Container, Store};
use crate::error::{Doing, Error, Fault, Kind, Origin, Result};
use crate::plan::unit::Systemd;
use crate::plan::{self, Host, Options};
use crate::spec::{IdMapping, Spec};
use crate::sys::fd;
use crate::sys::process::{self, Exit, SingleThreaded};
use crate::sys::{credentials, probe, socket};

use super::Session;
use crate::apply::sync::Message;

/// A bundle that was read; its directory is the current one.
pub(super) struct Read {
    pub bundle: PathBuf,
    pub text: Vec<u8>,
    pub spec: Spec,
}

/// Reads a bundle, and makes its directory the current one.
pub(super) fn read_config(bundle: &Path, config: Option<&Path>) -> Result<Read> {
    let config = config.map(absolute).transpose()?;
    let origin = |error: Error| error.origin(Origin::Flag("--bundle".into()));
    process::change_directory(bundle).doing(|| format!("cannot enter the bundle {bundle:?}")).map_err(origin)?;
    let bundle = std::env::current_dir().doing(|| "cannot tell where the bundle is")?;
    let path = config.as_deref().unwrap_or(Path::new("config.json"));
    let text = fd::open(path, nix::fcntl::OFlag::O_RDONLY).and_then(fd::read_all).map_err(|failed| {
        let missing = failed.errno == nix::errno::Errno::ENOENT;
        let asked = if config.is_some() { "--config" } else { "--bundle" };
        let error = failed
            .doing(format!("JSON specification file {} not found", path.display()))
            .origin(Origin::Flag(asked.into()))
            .step(format!("runtime: read the bundle {bundle:?}"));
        if missing { error.kind_is(Kind::NotFound) } else { error }
    })?;
    let spec: Spec = crate::spec::parse(&text, "config.json")?;
    Ok(Read { bundle, text, spec })
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
        let text = fd::open("/proc/self/gid_map", nix::fcntl::OFlag::O_RDONLY).and_then(fd::read_all);
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
    Ok(Options { no_pivot, no_new_keyring, host, systemd })
}

/// Whether the cgroups of the host are somebody else's, by the flag or by what we are.
fn is_rootless(global: &Global, host: &Host) -> bool {
    global.rootless.unwrap_or(host.rootless())
}

/// A relative path of the command line, which the change into the bundle would change.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).doing(|| format!("cannot tell where {path:?} is"))
}

fn connect(path: Option<&PathBuf>, flag: &'static str) -> Result<Option<OwnedFd>> {
    let origin = |error: Error| error.origin(Origin::Flag(flag.into()));
    path.map(|path| socket::connect(path).doing(|| format!("cannot connect to {path:?}")).map_err(origin)).transpose()
}

/// How the terminal of a process is asked for must fit how it is started.
pub(super) fn check_terminal(terminal: bool, detached: bool, socket: bool) -> Result<()> {
    if terminal && detached && !socket {
        return Err(Error::new(Kind::Usage, "cannot allocate tty if runc will detach without setting console socket")
            .origin(Origin::config("/process/terminal"))
            .hint("pass --console-socket, or set process.terminal to false"));
    }
    if socket && !(terminal && detached) {
        return Err(Error::new(Kind::Usage, "cannot use console socket if runc will not detach or allocate tty")
            .origin(Origin::Flag("--console-socket".into())));
    }
    Ok(())
}

/// Descriptors to pass on, and what tells the process of them (sd_listen_fds(3)).
pub(super) fn passed_fds(preserve: u32) -> Result<(u32, Vec<String>)> {
    let listen =
        std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).filter(|n| *n > 0 && *n < 1 << 16);
    let total = preserve.saturating_add(listen.unwrap_or(0));
    let raw = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    for number in 3..raw(3 + total) {
        if fd::borrow_inherited(number).is_none() {
            let msg = format!("unable to preserve file descriptor {number}: it is not open");
            return Err(Error::new(Kind::Usage, msg).origin(Origin::Flag("--preserve-fds".into())));
        }
    }
    let environment = listen.map_or(Vec::new(), |n| vec![format!("LISTEN_FDS={n}"), "LISTEN_PID=1".into()]);
    Ok((total, environment))
}

/// Everything up to a container whose init stands at the gate.
fn make(
    options: &cli::Create,
    wait_for_start: bool,
    detached: bool,
    session: &mut Session<'_>,
    proof: &SingleThreaded,
) -> Result<(Created, Option<Relay>)> {
    let global = session.global;
    let mut laps = Laps::begin(session.debug);
    let root = absolute(&global.root)?;
    let store = Store::make(&root)?;
    let (preserve_fds, environment) = passed_fds(options.preserve_fds)?;
    let console_socket = connect(options.console_socket.as_ref(), "--console-socket")?;
    let pidfd_socket = connect(options.pidfd_socket.as_ref(), "--pidfd-socket")?;
    let pid_file = options.pid_file.as_deref().map(absolute).transpose()?;
    let planning = planning(global, options.no_pivot, options.no_new_keyring)?;
    // It lets us in while we read and plan; that it does not is said when nothing else is wrong.
    let systemd = planning.systemd.map(|systemd| cgroup::Systemd::connect(systemd.user));
    let read = read_config(&options.bundle, options.config.as_deref())?;
    laps.done("read the configuration");
    let mut plan = plan::create(&options.id, &read.spec, &planning)?;
    let notify = NotifyHost::from_environment()?.is_some() && notify::plan_mount(&mut plan, &root);
    let resources = read.spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let undelegated = match is_rootless(global, &planning.host) {
        true => Undelegated::Tolerated,
        false => Undelegated::Refused,
    };
    let place = apply::Place::decide(manager(global), systemd, undelegated, resources, &mut plan)?;
    session.warn(std::mem::take(&mut plan.warnings))?;
    laps.done("plan");
    let terminal = read.spec.process.as_ref().is_some_and(|process| process.terminal);
    check_terminal(terminal, detached, console_socket.is_some())?;
    let (console_socket, relay) = match terminal && !detached {
        true => {
            socket::pair().doing(|| "cannot make a pair of sockets").map(|(ours, theirs)| (Some(theirs), Some(ours)))?
        }
        false => (console_socket, None),
    };
    let request = apply::Create {
        store: &store,
        plan: &plan,
        spec: &read.spec,
        config: &read.text,
        bundle: &read.bundle,
        place,
        console_socket,
        pidfd_socket,
        pid_file: pid_file.as_deref(),
        preserve_fds,
        environment: &environment,
        notify,
        wait_for_start,
        debug: session.debug,
        no_new_keyring: options.no_new_keyring,
    };
    let created = apply::create(request, proof)?;
    let relay = match relay {
        Some(socket) => Relay::receive(&socket)?,
        None => None,
    };
    Ok((created, relay))
}

pub(super) fn create(options: cli::Create, session: &mut Session<'_>, proof: &SingleThreaded) -> Result<()> {
    let words = format!("{} create failed", session.global.name);
    let (created, ..) = make(&options, true, true, session, proof).map_err(|error| error.before(&words))?;
    created.sync.go_on()
}

pub(super) fn start(id: &str, session: &mut Session<'_>) -> Result<()> {
    let mut laps = Laps::begin(session.debug);
    let mut container = session.store()?.load(id)?;
    let notify = apply::start(&mut container, NotifyHost::from_environment()?.as_ref())?;
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
    let (mut created, relay) = make(&options.create, false, options.detach, session, proof)?;
    let mut laps = Laps::begin(session.debug);
    let notify = match NotifyHost::from_environment()? {
        Some(host) => Notify::listen(created.container.root(), &created.container.state.id, &host),
        None => Ok(None),
    };
    let (started, notify) = match notify {
        Ok(notify) => (begin(&mut created), notify),
        Err(error) => (Err(error), None),
    };
    let mut container = created.container;
    if let Err(error) = started.and_then(|()| apply::poststart(&container)) {
        created.child.kill();
        let _ = created.child.wait();
        session.warnings.extend(crate::container::finish(&container)?);
        return Err(error);
    }
    container.unlock();
    laps.done("have the program executed, and run the poststart hooks");
    let Some(foreground) = foreground else {
        if let Some(notify) = notify {
            notify.wait_and_forward(created.child.pidfd.as_fd(), created.child.pid)?;
        }
        return Ok(0);
    };
    let exit = apply::wait(&foreground, &created.child, relay, notify.as_ref())?;
    laps.done("wait for its end");
    session.warnings.extend(out_of_memory(&container, exit));
    if options.keep {
        container.record_exit(exit);
    } else {
        container.lock()?;
        // Somebody may have deleted it already.
        if container.still_there() {
            session.warnings.extend(crate::container::finish(&container)?);
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

/// Gives the word, and waits until the program is executed.
fn begin(created: &mut Created) -> Result<()> {
    created.sync.go_on()?;
    loop {
        match created.sync.receive()? {
            Message::End => return Ok(()),
            Message::Log(line) => ::log::debug!("{line}"),
            Message::Failed(error) => return Err(error.before("unable to start container process")),
            other => return Err(Error::new(Kind::Protocol, format!("init said {other:?} after it was ready"))),
        }
    }
}
