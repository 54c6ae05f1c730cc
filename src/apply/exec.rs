//! The runtime's story of `exec`, top to bottom.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use windlass_base::error::{Doing, Error, Kind, Origin, Result};
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::v1::{self, Procs};
use windlass_cgroup::{Cgroup, Hierarchy, Systemd};
use windlass_plan::Step;
use windlass_plan::exec::{ExecPlan, RLIMIT_NPROC};
use windlass_store::{Container, Status, state_document};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::{credentials, fd, mount, sched, start};

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
    /// What the caller and the process pass to each other.
    pub caller: Caller<'a>,
    /// Whether a paused container is entered as well.
    pub ignore_paused: bool,
    /// Whether the process reports each step.
    pub debug: bool,
}

/// Makes a process in a container, up to the point where it waits for the word. On a failure before the
/// launch is committed, the process is killed and reaped.
pub fn exec<'a>(request: Exec<'a>, proof: &SingleThreaded) -> Result<Launch<Entry<'a>>> {
    let container = request.container;
    refuse_status(&request, stopped)?;
    let target = container.open_init()?.ok_or_else(stopped)?;
    let procs = container.cgroup_v1_for_exec(target.as_fd())?.open_procs()?;
    let init_pid = container.init.map_or(0, |init| init.pid);
    let open_root = || process::open_of(init_pid, target.as_fd(), "root", OFlag::O_PATH);
    let root = container.state.chroot.then(open_root).transpose().doing(|| "cannot open the container's root")?;
    if !request.plan.initial_affinity.is_empty() {
        sched::set_affinity(&request.plan.initial_affinity)
            .doing(|| "cannot set the initial CPU affinity")
            .map_err(|error| error.origin(Origin::config("/process/execCPUAffinity/initial")))?;
        // As runc's nsexec logs it: the mask in hexadecimal.
        let words = request.plan.initial_affinity.iter().rev().map(|word| format!("{word:016x}"));
        let mask = words.collect::<String>();
        ::log::debug!(
            "runtime: the CPUs of the process until it is executed: nsexec: affinity: 0x{}",
            mask.trim_start_matches('0')
        );
    }
    // Before the clone, so that the process is born so: see init::begin.
    process::set_nondumpable().doing(|| "cannot hide the runtime")?;
    // Otherwise the container could read the caller's arguments in /proc/PID/cmdline: paths, variables.
    let _shown_again = start::show_as(c"windlass exec");
    let (plan, debug) = (request.plan, request.debug);
    let runtime = process::open_pid(std::process::id() as i32).doing(|| "cannot watch the runtime")?;
    let entry = Entry { request, placed: Placed::Born, late: None, late_v1: v1::Cgroups::default() };
    let launch = Launch::spawn(entry, debug, plan.in_between(), |entry, sync, watch| {
        if let Forked::Parent(child) = entry.fork((init_pid, target.as_fd()), proof)? {
            return Ok(child);
        }
        let mut cx = Context::new(sync, Gate::Runtime, plan.program());
        cx.console_socket = entry.request.caller.console_socket.take();
        cx.preserve_fds = entry.request.caller.preserve_fds;
        entry.request.caller.inherit.pass_to(&mut cx);
        cx.target = Some(target);
        cx.runtime = Some(runtime);
        cx.root = root;
        cx.proof = Some(proof);
        if let Err(error) = enter(plan, &procs, entry.placed, &mut cx) {
            init::fail(&cx.sync, &error);
        }
        init::run(&plan.steps, &|step: &Step| step.action.to_string(), watch, cx)
    });
    launch.and_then(|mut launch| launch.converse().map(|()| launch)).map_err(|error| {
        if ends_meanwhile(container, &error) {
            error.before("cannot exec in a stopped container").kind_is(Kind::WrongStatus)
        } else {
            error
        }
    })
}

/// How long init may take from the loss of its namespaces to its end.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// Whether the cause is that the container ends: the call that fails tells of no process, or of no memory.
fn ends_meanwhile(container: &Container, error: &Error) -> bool {
    let follows = error.kind() == Kind::Protocol || matches!(error.errno(), Some(Errno::ESRCH | Errno::ENOMEM));
    follows
        && match container.open_init() {
            Ok(None) => true,
            Ok(Some(init)) => poll::readable(init.as_fd(), Deadline::after(LAST_BREATH)).unwrap_or(false),
            Err(_) => false,
        }
}

fn stopped() -> Error {
    Error::new(Kind::WrongStatus, "cannot exec in a stopped container")
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
    if !request.ignore_paused
        && container.any_cgroup()?.is_some_and(|group| group.is_frozen_by_ancestor().unwrap_or(false))
    {
        return Err(Error::new(Kind::WrongStatus, "cannot exec in a container below a frozen cgroup")
            .hint("an ancestor of its cgroup is frozen: see cgroup.freeze there"));
    }
    Ok(())
}

/// The owner of a process of `exec`, for which nothing else is made.
pub struct Entry<'a> {
    request: Exec<'a>,
    placed: Placed,
    /// The cgroup into which the runtime moves the process once it is born.
    late: Option<Cgroup>,
    /// The same in the hierarchies of version 1.
    late_v1: v1::Cgroups,
}

/// How the first process comes into the container's cgroup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// It is born there.
    Born,
    /// systemd moves it, when it asks.
    BySystemd,
    /// It stays outside: the runtime moves only the process that executes the program.
    Late,
}

impl Handler for Entry<'_> {
    type Kept = ();
    const PROCESS: &'static str = "it";

    fn steps(&self) -> &[Step] {
        &self.request.plan.steps
    }

    /// Has systemd move the process into the container's scope. One that was born in the cgroup
    /// leaves it, for it could not have a child there: the child is put there instead.
    fn place(&mut self, first: &Child) -> Result<()> {
        let state = &self.request.container.state;
        match (self.placed, &state.unit) {
            (Placed::BySystemd, Some(unit)) => {
                let below = self.request.cgroup.map_or(String::new(), |path| format!("/{}", path.trim_matches('/')));
                Systemd::connect(unit.user)?.attach(&unit.name, &below, first.pid)?;
                self.placed = Placed::Born;
            }
            (Placed::Born, _) => {
                let hierarchy = Hierarchy::find()?;
                let own = Cgroup::of_process(&hierarchy, std::process::id() as i32)?;
                self.late = Cgroup::of_process(&hierarchy, first.pid)?;
                if let Some(own) = own {
                    own.join(first.pid)?;
                }
                let init = self.request.container.open_init()?.ok_or_else(stopped)?;
                let v1 = self.request.container.cgroup_v1_for_exec(init.as_fd())?;
                v1.of_caller()?.join(first.pid)?;
                self.late_v1 = v1;
                self.placed = Placed::Late;
            }
            _ => {}
        }
        Ok(())
    }

    fn spawned(&mut self, child: &Child) -> Result<()> {
        if let Some(cgroup) = &self.late {
            cgroup.join(child.pid)?;
        }
        self.late_v1.join(child.pid)?;
        if let Some(limit) = &self.request.plan.processes {
            sched::set_limit_of(child.pid, RLIMIT_NPROC, limit.soft, limit.hard)
                .doing(|| "error setting rlimit type RLIMIT_NPROC")
                .map_err(|error| error.origin(limit.origin.clone()))?;
        }
        self.request.caller.inherit.adjust(child);
        set_oom_score_adj(child, self.request.plan.process.oom_score_adj, "/oomScoreAdj")
    }

    fn answer(&mut self, question: Question, child: &Child) -> Result<Vec<OwnedFd>> {
        let Question::Listener(number) = question else {
            return Err(Error::new(
                Kind::Protocol,
                format!("the process asked {question:?}, which exec does not expect"),
            ));
        };
        let container = self.request.container;
        let state = state_document(container, Status::Running, container.init.map_or(0, |init| init.pid))?;
        listener::hand_on(&self.request.plan.steps, child, number, &container.state.oci_version, state)?;
        Ok(Vec::new())
    }

    fn ready(&mut self, child: &Child) -> Result<()> {
        self.request.caller.tell(child)
    }

    fn out_of_memory(&self, exit: Exit) -> Option<(&'static str, &'static str)> {
        let killed = exit == Exit::Signal(libc::SIGKILL) && self.request.container.oom_kills().is_some_and(|n| n > 0);
        let hint = "the kernel kills processes of this container for want of memory (/linux/resources/memory/limit)";
        killed.then_some(("", hint))
    }

    fn keep(self, _: &Child) -> Result<()> {
        Ok(())
    }
}

impl Entry<'_> {
    /// Makes the first process, in the container's cgroup if that can be.
    fn fork(&mut self, init: (i32, BorrowedFd<'_>), proof: &SingleThreaded) -> Result<Forked> {
        let cgroup = self.cgroup(init)?;
        let fork = |cgroup: Option<&Cgroup>| process::fork(CloneFlags::empty(), cgroup.map(Cgroup::dir_fd), proof);
        let outside = || fork(None).doing(|| "cannot clone the process");
        let (failed, cgroup) = match (fork(cgroup.as_ref()), cgroup) {
            (Err(failed), Some(cgroup)) => (failed, cgroup),
            (other, _) => return other.doing(|| "cannot clone the process"),
        };
        match failed.errno {
            // The container has as many processes as it may have. The limit is on its own forks; a process
            // that is moved in from outside is let in (cgroup-v2.rst, "PID").
            Errno::EAGAIN => {
                (self.placed, self.late) = (Placed::Late, Some(cgroup));
                outside()
            }
            // Init has moved into a cgroup below its own and given controllers to it: no process may
            // be beside it (cgroups(7), "no internal processes"). The new one goes where init is.
            Errno::EBUSY | Errno::EOPNOTSUPP if self.request.cgroup.is_none() => {
                let inits = of_init(init)?;
                fork(Some(&inits)).doing(|| "cannot clone the process into init's cgroup")
            }
            // This user may write to both cgroups, but not to their common ancestor; systemd may.
            Errno::EACCES | Errno::EPERM if self.request.container.state.unit.is_some() => {
                self.placed = Placed::BySystemd;
                outside()
            }
            errno => {
                // runc's words, which name the file that it writes to.
                let error = failed.doing(format!(
                    "cannot clone the process into the container's cgroup: adding pid of the new process to cgroups: {}/cgroup.procs",
                    cgroup.path()
                ));
                Err(match errno {
                    Errno::EACCES | Errno::EPERM => error.hint(format!(
                        "no cgroup above both {:?} and this process is this user's to write to: run the command in the \
                         same delegated cgroup, as in `systemd-run --user --scope windlass exec ...`",
                        cgroup.path()
                    )),
                    _ => error,
                })
            }
        }
    }

    /// Where the process belongs. `None` only where the container has no cgroup: one that was removed
    /// behind init's back must not leave the process in the caller's.
    fn cgroup(&self, init: (i32, BorrowedFd<'_>)) -> Result<Option<Cgroup>> {
        let container = self.request.container;
        let origin = |error: Error| error.origin(Origin::Flag("--cgroup".into()));
        match (container.cgroup()?, self.request.cgroup) {
            (Some(cgroup), Some(below)) => cgroup.open_below(below).map(Some).map_err(origin),
            (None, Some(_)) => {
                Err(origin(Error::new(Kind::Unsupported, "the container has no cgroup below which another could be")))
            }
            (None, None) if container.state.cgroup.is_some() => of_init(init).map(Some),
            (cgroup, None) => Ok(cgroup),
        }
    }
}

/// Where init is now.
fn of_init((pid, pidfd): (i32, BorrowedFd<'_>)) -> Result<Cgroup> {
    let none = || Error::new(Kind::Kernel, "the container's init is in no cgroup that can be joined");
    let cgroup = Cgroup::of_process(&Hierarchy::find()?, pid)?.ok_or_else(none)?;
    process::still_there(pidfd).doing(|| "the container's init has ended")?;
    Ok(cgroup)
}

/// Enters the container, but for its PID namespace: a step of its own, see `plan::exec`.
fn enter(plan: &ExecPlan, procs: &Procs, placed: Placed, cx: &mut Context<'_>) -> Result<()> {
    procs.join()?;
    cx.close_the_rest();
    if placed == Placed::BySystemd {
        cx.sync.place()?;
    }
    let namespaces = plan.namespaces - Namespaces::PID;
    let process = &plan.process;
    let uses_proc = process.terminal || !process.apparmor_profile.is_empty() || !process.selinux_label.is_empty();
    if uses_proc && namespaces.contains(Namespaces::USER) && !plan.in_between() {
        // It may not mount a procfs of the PID namespace in which it stays.
        cx.hold_callers_proc().doing(|| "cannot use the procfs of the caller")?;
    }
    cx.callers_root = !namespaces.contains(Namespaces::MOUNT) && cx.root.is_none();
    windlass_sys::hide_fd_paths();
    if let (Some(target), true) = (&cx.target, !namespaces.is_empty()) {
        process::setns(target.as_fd(), namespaces).doing(|| "cannot join the container's namespaces")?;
    }
    if let Some(root) = cx.root.take() {
        mount::change_directory(root.as_fd())
            .and_then(|()| mount::chroot_to_current())
            .doing(|| "cannot enter the container's root")?;
    }
    if namespaces.contains(Namespaces::USER) {
        credentials::set_ids(0, 0).doing(|| "cannot become root of the user namespace")?;
    }
    if plan.process.terminal {
        let root = fd::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY);
        cx.root = Some(root.doing(|| "cannot open the container's root")?);
    }
    if !plan.in_between() {
        (cx.target, cx.runtime) = (None, None);
    }
    Ok(())
}
