//! The runtime's story of `exec`, top to bottom.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use crate::abi::namespace;
use crate::cgroup::{Cgroup, Hierarchy, Systemd};
use crate::container::{Container, Status, document};
use crate::error::{Doing, Error, Kind, Origin, Result};
use crate::plan::Step;
use crate::plan::exec::ExecPlan;
use crate::sys::process::{self, Child, Exit, Forked, SingleThreaded};
use crate::sys::{Failed, credentials, fd, mount, sched};

use super::action::first_of_ours;
use super::caller::{Caller, set_oom_score_adj};
use super::context::{Context, Gate};
use super::launch::{Handler, Launch};
use super::sync::Question;
use super::{init, listener};

/// What `exec` works from.
pub struct Exec<'a> {
    /// The container.
    pub container: &'a Container,
    /// What will be done.
    pub plan: &'a ExecPlan,
    /// Cgroup below the container's, if another than its own.
    pub cgroup: Option<&'a str>,
    /// What passes between the process and the caller.
    pub caller: Caller<'a>,
    /// Whether a paused container is entered as well.
    pub ignore_paused: bool,
    /// Whether the process reports each step.
    pub debug: bool,
}

/// Makes a process in a container, up to one that waits for the word. Whatever fails until the
/// launch is committed, the process is killed and reaped.
pub fn exec<'a>(request: Exec<'a>, proof: &SingleThreaded) -> Result<Launch<Exec<'a>>> {
    let container = request.container;
    let stopped = || Error::new(Kind::WrongStatus, "cannot exec in a stopped container");
    refuse_status(&request, stopped)?;
    let doors = container.cgroup_v1()?.doors()?;
    let target = container.open_init()?.ok_or_else(stopped)?;
    let init_pid = container.init.map_or(0, |init| init.pid);
    let root = match container.state.chroot {
        true => Some(
            fd::open(format!("/proc/{init_pid}/root"), OFlag::O_PATH).doing(|| "cannot open the container's root")?,
        ),
        false => None,
    };
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
    let plan = request.plan;
    let debug = request.debug;
    let mut launch = Launch::spawn(request, debug, way == Way::Between, |request, sync, watch| {
        let (forked, placed) = fork_into_cgroup(request, init_pid, proof)?;
        if let Forked::Parent(child) = forked {
            return Ok(child);
        }
        let mut cx = Context::new(sync, Gate::Runtime, plan.program());
        cx.console_socket = request.caller.console_socket.take();
        cx.preserve_fds = request.caller.preserve_fds;
        if let Err(error) = doors.enter() {
            init::fail(&cx.sync, &error);
        }
        close_the_rest(&cx, target.as_fd(), root.as_ref());
        if placed == Placed::BySystemd
            && let Err(error) = cx.sync.place()
        {
            init::fail(&cx.sync, &error);
        }
        if let Err(error) = join(target.as_fd(), root.as_ref(), plan, way, &mut cx, proof) {
            init::fail(&cx.sync, &error);
        }
        init::run(&plan.steps, &|step: &Step| step.action.to_string(), watch, cx)
    })?;
    launch.converse()?;
    Ok(launch)
}

fn refuse_status(request: &Exec<'_>, stopped: impl Fn() -> Error) -> Result<()> {
    let container = request.container;
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
    Ok(())
}

/// Nothing is made but the process.
impl Handler for Exec<'_> {
    type Kept = ();
    const PROCESS: &'static str = "it";

    fn steps(&self) -> &[Step] {
        &self.plan.steps
    }

    /// Has systemd move it into the container's scope.
    fn place(&mut self, first: &Child) -> Result<()> {
        let unasked = || Error::new(Kind::Protocol, "the process asks for a scope that the container has not");
        let unit = self.container.state.unit.as_ref().ok_or_else(unasked)?;
        let below = self.cgroup.map_or(String::new(), |path| format!("/{}", path.trim_matches('/')));
        Systemd::connect(unit.user)?.attach(&unit.name, &below, first.pid)
    }

    fn spawned(&mut self, child: &Child) -> Result<()> {
        set_oom_score_adj(child, self.plan.process.oom_score_adj, "/oomScoreAdj")
    }

    fn answer(&mut self, question: Question, child: &Child) -> Result<Vec<OwnedFd>> {
        let Question::Listener(number) = question else {
            return Err(Error::new(
                Kind::Protocol,
                format!("the process asked {question:?}, which exec does not expect"),
            ));
        };
        let container = self.container;
        let state = document(&container.state, Status::Running, container.init.map_or(0, |init| init.pid));
        listener::hand_on(&self.plan.steps, child, number, &container.state.oci_version, state)?;
        Ok(Vec::new())
    }

    fn ready(&mut self, child: &Child) -> Result<()> {
        self.caller.tell(child)
    }

    fn out_of_memory(&self, exit: Exit) -> Option<(&'static str, &'static str)> {
        let killed = exit == Exit::Signal(libc::SIGKILL) && self.container.oom_kills().is_some_and(|n| n > 0);
        let hint = "the kernel kills processes of this container for want of memory (/linux/resources/memory/limit)";
        killed.then_some(("", hint))
    }

    fn keep(self, _: &Child) -> Result<()> {
        Ok(())
    }
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
