//! The runtime's story of `exec`, top to bottom.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use crate::abi::namespace;
use crate::cgroup::{Cgroup, Hierarchy, Systemd};
use crate::container::{Container, Status, document};
use crate::error::{Doing, Error, Kind, Origin, Result};
use crate::plan::exec::ExecPlan;
use crate::plan::{Action, Step};
use crate::sys::process::{self, Child, Exit, Forked, SingleThreaded};
use crate::sys::progress::Progress;
use crate::sys::{Failed, credentials, fd, mount, sched, socket};

use super::action::first_of_ours;
use super::context::{Context, Gate};
use super::create::write_pid_file;
use super::sync::{InitSync, Message, RuntimeSync};
use super::{init, listener};

/// What `exec` works from.
pub struct Exec<'a> {
    /// The container.
    pub container: &'a Container,
    /// What will be done.
    pub plan: &'a ExecPlan,
    /// Cgroup below the container's, if another than its own.
    pub cgroup: Option<&'a str>,
    /// A connection that gets the terminal's master end.
    pub console_socket: Option<OwnedFd>,
    /// A connection that gets a pidfd of the process.
    pub pidfd_socket: Option<OwnedFd>,
    /// Absolute path of a file that gets the process id.
    pub pid_file: Option<&'a Path>,
    /// Descriptors to pass besides 0, 1 and 2.
    pub preserve_fds: u32,
    /// Whether a paused container is entered as well.
    pub ignore_paused: bool,
    /// Whether the process reports each step.
    pub debug: bool,
}

/// Runs a process in a container; returns when its program runs.
pub fn exec(request: Exec<'_>, proof: &SingleThreaded) -> Result<Child> {
    let container = request.container;
    let stopped = || Error::new(Kind::WrongStatus, "cannot exec in a stopped container");
    match container.status()? {
        Status::Stopped | Status::Creating => return Err(stopped()),
        Status::Paused if !request.ignore_paused => {
            return Err(Error::new(
                Kind::WrongStatus,
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        _ => {}
    }
    if !request.ignore_paused && container.group()?.is_some_and(|group| group.is_frozen_from_above().unwrap_or(false)) {
        return Err(Error::new(Kind::WrongStatus, "cannot exec in a container below a frozen cgroup")
            .hint("an ancestor of its cgroup is frozen: see cgroup.freeze there"));
    }
    let doors = container.cgroup_v1()?.doors()?;
    let target = container.open_init()?.ok_or_else(stopped)?;
    let init_pid = container.init.map_or(0, |init| init.pid);
    let root = match container.state.chroot {
        true => Some(
            fd::open(format!("/proc/{init_pid}/root"), OFlag::O_PATH).doing(|| "cannot open the container's root")?,
        ),
        false => None,
    };
    let progress = Progress::new()?;
    let (ours, theirs) = socket::pair().doing(|| "cannot make the pair of sockets")?;
    if !request.plan.initial_affinity.is_empty() {
        sched::set_affinity(&request.plan.initial_affinity)
            .doing(|| "cannot set the initial CPU affinity")
            .map_err(|error| error.origin(Origin::config("/process/execCPUAffinity/initial")))?;
    }
    let way = Way::of(request.plan);
    if way == Way::Direct {
        // Concerns only what we fork from here on.
        process::enter(target.as_fd(), CloneFlags::CLONE_NEWPID)
            .doing(|| "cannot join the container's PID namespace")?;
    }
    // Before the clone, so that the process is born so: see init::begin.
    process::hide().doing(|| "cannot hide the runtime")?;
    let (forked, placed) = fork_into_cgroup(&request, init_pid, proof)?;
    let child = match forked {
        Forked::Parent(child) => child,
        Forked::Child => {
            let mut cx = Context::new(InitSync::new(theirs), Gate::Runtime, request.plan.program());
            cx.console_socket = request.console_socket;
            cx.preserve_fds = request.preserve_fds;
            if let Err(error) = doors.enter() {
                cx.sync.failed(&error);
                process::exit_now(255);
            }
            close_the_rest(&cx, target.as_fd(), root.as_ref());
            if placed == Placed::BySystemd
                && let Err(error) = cx.sync.scope()
            {
                cx.sync.failed(&error);
                process::exit_now(255);
            }
            if let Err(error) = join(target.as_fd(), root.as_ref(), request.plan, way, &mut cx, proof) {
                cx.sync.failed(&error);
                process::exit_now(255);
            }
            let describe = |step: &Step| step.action.to_string();
            init::run(
                &request.plan.steps,
                &describe,
                init::Watch { progress, debug: request.debug, mapped_first: false },
                cx,
            )
        }
    };
    drop((theirs, doors));
    let between = (way == Way::Between).then(|| fd::duplicate(child.pidfd.as_fd())).transpose();
    let mut child = Guard(Some(child));
    let between = between.doing(|| "cannot watch the process in between")?;
    let mut sync = RuntimeSync::new(ours);
    if placed == Placed::BySystemd {
        attach(&request, &child, &mut sync)?;
    }
    serve(&request, &mut child, sync.after_spawned(between), progress)?;
    Ok(child.0.take().expect("taken only here"))
}

/// How the process comes into the container's PID namespace.
///
/// There the container's processes see it. In a user namespace of their own none of them has
/// CAP_SYS_PTRACE over it, and it lets nobody else look into it. Without one, any of them may
/// have that capability, and could reach the host through its root and descriptors for as long
/// as those are the host's. So it must be born there with everything else already changed: by a
/// process in between, which is in all namespaces of the container but that one. An ordinary user
/// goes the same way for another reason: only in the user namespace is the other one theirs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The container has none of its own.
    Stay,
    /// The runtime joins it, and forks.
    Direct,
    /// A process in between joins it, and forks.
    Between,
}

impl Way {
    fn of(plan: &ExecPlan) -> Way {
        match (plan.namespaces & namespace::PID != 0, plan.namespaces & namespace::USER != 0) {
            (false, _) => Way::Stay,
            (true, true) if plan.direct => Way::Direct,
            (true, _) => Way::Between,
        }
    }
}

/// Kills and reaps the process unless all went well.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            child.kill();
            let _ = child.wait();
        }
    }
}

fn close_the_rest(cx: &Context<'_>, target: BorrowedFd<'_>, root: Option<&OwnedFd>) {
    let mut kept = vec![cx.sync.as_fd(), target];
    kept.extend(cx.console_socket.iter().chain(root).map(|fd| fd.as_fd()));
    fd::close_all_but(first_of_ours(cx.preserve_fds), &kept);
}

/// How the process comes into its cgroup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// It is born there.
    Born,
    /// systemd moves it, when it asks.
    BySystemd,
}

fn fork_into_cgroup(request: &Exec<'_>, init_pid: i32, proof: &SingleThreaded) -> Result<(Forked, Placed)> {
    let cgroup = match (request.container.cgroup()?, request.cgroup) {
        (Some(cgroup), Some(below)) => {
            let origin = |error: Error| error.origin(Origin::Flag("--cgroup".into()));
            Some(cgroup.open_below(below).map_err(origin)?)
        }
        (cgroup, _) => cgroup,
    };
    let fork = |cgroup: Option<&Cgroup>| process::fork(CloneFlags::empty(), cgroup.map(Cgroup::dir_fd), proof);
    match fork(cgroup.as_ref()) {
        // Init has moved into a cgroup below its own and given controllers to it: no process may
        // be beside it (cgroups(7), "no internal processes"). The new one goes where init is.
        Err(failed) if matches!(failed.errno, Errno::EBUSY | Errno::EOPNOTSUPP) && request.cgroup.is_none() => {
            let inits = Cgroup::of_process(&Hierarchy::find()?, init_pid)?;
            fork(inits.as_ref()).doing(|| "cannot clone the process into init's cgroup")
        }
        // This user may write to both cgroups but not to what is above them; systemd may.
        Err(Failed { errno: Errno::EACCES | Errno::EPERM, .. }) if request.container.state.unit.is_some() => {
            let forked = fork(None).doing(|| "cannot clone the process")?;
            return Ok((forked, Placed::BySystemd));
        }
        other => other.doing(|| "cannot clone the process into the container's cgroup").map_err(|error| {
            match (error.errno(), &cgroup) {
                (Some(Errno::EACCES | Errno::EPERM), Some(cgroup)) => error.hint(format!(
                    "no cgroup above both {:?} and this process is this user's to write to: run the command in the same \
                     delegated cgroup, as in `systemd-run --user --scope windlass exec ...`",
                    cgroup.path()
                )),
                _ => error,
            }
        }),
    }
    .map(|forked| (forked, Placed::Born))
}

/// Enters the container. Only the process that is to execute the program returns from here.
fn join(
    target: BorrowedFd<'_>,
    root: Option<&OwnedFd>,
    plan: &ExecPlan,
    way: Way,
    cx: &mut Context<'_>,
    proof: &SingleThreaded,
) -> Result<()> {
    let namespaces = plan.namespaces & !namespace::PID;
    if namespaces != 0 {
        process::enter(target, CloneFlags::from_bits_retain(namespaces as i32))
            .doing(|| "cannot join the container's namespaces")?;
    }
    if let Some(root) = root {
        mount::change_directory(root.as_fd())
            .and_then(|()| mount::chroot_to_current())
            .doing(|| "cannot enter the container's root")?;
    }
    if namespaces & namespace::USER != 0 {
        credentials::set_ids(0, 0).doing(|| "cannot become root of the user namespace")?;
    }
    if way == Way::Between {
        process::enter(target, CloneFlags::CLONE_NEWPID).doing(|| "cannot join the container's PID namespace")?;
        let mut kept = vec![cx.sync.as_fd()];
        kept.extend(cx.console_socket.iter().map(|fd| fd.as_fd()));
        fd::close_all_but(first_of_ours(cx.preserve_fds), &kept);
        let forked = process::fork(CloneFlags::CLONE_PARENT, None, proof).doing(|| "cannot clone the process")?;
        if let Forked::Parent(child) = forked {
            let told = cx.sync.spawned(child.pid, child.pidfd.as_fd());
            process::exit_now(i32::from(told.is_err()));
        }
    }
    if plan.process.terminal {
        let root = fd::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY);
        cx.root = Some(root.doing(|| "cannot open the container's root")?);
    }
    Ok(())
}

fn serve(request: &Exec<'_>, guard: &mut Guard, mut sync: RuntimeSync, progress: Progress) -> Result<()> {
    let mut ready = false;
    loop {
        let child = guard.0.as_ref().expect("set until all went well");
        match sync.receive()? {
            Message::Spawned(pid, pidfd) => {
                let between = guard.0.replace(Child { pid, pidfd }).expect("set until all went well");
                between.wait().doing(|| "cannot reap the process in between")?;
                // It told and did not ask: an answer would be taken for that of the next question.
                continue;
            }
            Message::Ready => {
                adjust(request, child)?;
                record(request, child)?;
                ready = true;
            }
            Message::Listener(number) => hand_on_listener(request, child, number)?,
            Message::Failed(error) => return Err(error.before("unable to start container process")),
            Message::Log(line) => {
                ::log::debug!("{line}");
                continue;
            }
            // Its end of the pair closes when the program is executed.
            Message::End if ready => return Ok(()),
            Message::End => {
                let exit = child.wait().unwrap_or(Exit::Code(255));
                let at = progress.last();
                let what = at
                    .checked_sub(1)
                    .and_then(|index| request.plan.steps.get(index))
                    .map(|step| step.action.to_string());
                let what = what.unwrap_or_else(|| "before its first step".into());
                let msg = format!(
                    "unable to start container process: it was ended by {exit} at step {at}/{}: {what}",
                    request.plan.steps.len()
                );
                let error = Error::new(Kind::Protocol, msg);
                let oom = exit == Exit::Signal(libc::SIGKILL) && request.container.oom_kills().is_some_and(|n| n > 0);
                return Err(if oom {
                    error.hint("the kernel kills processes of this container for want of memory (/linux/resources/memory/limit)")
                } else {
                    error
                });
            }
            other => {
                return Err(Error::new(
                    Kind::Protocol,
                    format!("the process said {other:?}, which exec does not expect"),
                ));
            }
        }
        sync.go_on()?;
    }
}

/// Has systemd move the child into the container's scope, before it joins anything or forks.
fn attach(request: &Exec<'_>, child: &Guard, sync: &mut RuntimeSync) -> Result<()> {
    let (Some(unit), Some(child)) = (&request.container.state.unit, &child.0) else { return Ok(()) };
    match sync.receive()? {
        Message::Scope => {}
        Message::Failed(error) => return Err(error),
        other => return Err(Error::new(Kind::Protocol, format!("the process said {other:?} before it was placed"))),
    }
    let below = request.cgroup.map_or(String::new(), |path| format!("/{}", path.trim_matches('/')));
    Systemd::connect(unit.user)?.attach(&unit.name, &below, child.pid)?;
    sync.go_on()
}

fn adjust(request: &Exec<'_>, child: &Child) -> Result<()> {
    let Some(adj) = request.plan.process.oom_score_adj else { return Ok(()) };
    fd::openat(fd::CWD, format!("/proc/{}/oom_score_adj", child.pid), OFlag::O_WRONLY, 0)
        .and_then(|file| fd::write_once(file.as_fd(), adj.to_string().as_bytes()))
        .doing(|| format!("cannot set oom_score_adj to {adj}"))
        .map_err(|error| error.origin(Origin::config("/oomScoreAdj")))
}

fn record(request: &Exec<'_>, child: &Child) -> Result<()> {
    if let Some(socket) = &request.pidfd_socket {
        socket::send(socket.as_fd(), b"pidfd", &[child.pidfd.as_fd()])
            .doing(|| "cannot send the pidfd")
            .map_err(|error| error.origin(Origin::Flag("--pidfd-socket".into())))?;
    }
    request.pid_file.map_or(Ok(()), |path| write_pid_file(path, child.pid))
}

fn hand_on_listener(request: &Exec<'_>, child: &Child, number: i32) -> Result<()> {
    let seccomp = request.plan.steps.iter().find_map(|step| match &step.action {
        Action::Seccomp(seccomp) => Some(seccomp),
        _ => None,
    });
    let seccomp =
        seccomp.ok_or_else(|| Error::new(Kind::Protocol, "the process has a listener that was not planned"))?;
    let container = request.container;
    let state = document(&container.state, Status::Running, container.init.map_or(0, |init| init.pid));
    listener::send(seccomp, child, number, &container.state.oci_version, state)
}
