//! The runtime's part of `exec`, top to bottom.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::v1::{self, Procs};
use windlass_cgroup::{Cgroup, Hierarchy, Systemd};
use windlass_plan::exec::{ExecPlan, RLIMIT_NPROC};
use windlass_plan::{Action, Step};
use windlass_store::{Container, Status};
use windlass_sys::poll::{self, Deadline};
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::{credentials, fd, mount, sched, start};

use super::caller::{Caller, set_oom_score_adj};
use super::context::{Barrier, Context, Parent, PidNamespace};
use super::launch::{Handler, Launch};
use super::namespaces::leave_groups;
use super::sync::Question;
use super::{init, listener};

/// The parameters of `exec`.
pub struct ExecRequest<'a> {
    /// The container.
    pub container: &'a Container,
    /// The plan to carry out.
    pub plan: &'a ExecPlan,
    /// The sub-cgroup that the process joins, instead of the container's cgroup.
    pub cgroup: Option<&'a str>,
    /// The connections and descriptors between the caller and the process.
    pub caller: Caller<'a>,
    /// Whether a paused container is entered as well.
    pub ignore_paused: bool,
    /// Whether the process reports each step.
    pub debug: bool,
}

/// Makes a process in a container, up to the point where it waits for its start barrier. On a failure before the
/// launch is committed, the process is killed and reaped.
pub fn exec<'a>(request: ExecRequest<'a>, proof: &SingleThreaded) -> Result<Launch<NewProcess<'a>>> {
    let container = request.container;
    refuse_status(&request)?;
    let target = container.open_init()?.ok_or_else(container_stopped)?;
    let procs = container.cgroup_v1_for_exec(target.as_fd())?.open_procs()?;
    let init_pid = container.init.map_or(0, |init| init.pid);
    let open_root = || process::open_of(init_pid, target.as_fd(), "root", OFlag::O_PATH);
    let root =
        container.state.chroot.then(open_root).transpose().with_context(|| "cannot open the container's root")?;
    if !request.plan.initial_affinity.is_empty() {
        sched::set_affinity(&request.plan.initial_affinity)
            .with_context(|| "cannot set the initial CPU affinity")
            .map_err(|error| error.with_origin(Origin::config("/process/execCPUAffinity/initial")))?;
        // As runc's nsexec logs it: the mask in hexadecimal.
        let words = request.plan.initial_affinity.iter().rev().map(|word| format!("{word:016x}"));
        let mask = words.collect::<String>();
        ::log::debug!(
            "runtime: the CPUs of the process until it is executed: nsexec: affinity: 0x{}",
            mask.trim_start_matches('0')
        );
    }
    // The process must not be dumpable, see init::begin, and inherits that from the clone.
    process::set_nondumpable().with_context(|| "cannot make the runtime non-dumpable")?;
    // The container could otherwise read the caller's arguments in /proc/PID/cmdline: paths, variables.
    let _shown_again = start::show_as(c"windlass exec");
    let (plan, debug) = (request.plan, request.debug);
    let runtime = process::open_pid(std::process::id() as i32).with_context(|| "cannot watch the runtime")?;
    let entry = NewProcess { request, placed: Placed::AtClone, late: None, late_v1: v1::Cgroups::default() };
    let launch = Launch::spawn(entry, debug, plan.has_intermediate(), |entry, sync, watch| {
        if let Forked::Parent(child) = entry.fork((init_pid, target.as_fd()), proof)? {
            return Ok(child);
        }
        let mut cx = Context::new(sync, watch.progress, Barrier::Runtime, plan.program());
        cx.console_socket = entry.request.caller.console_socket.take();
        cx.preserve_fds = entry.request.caller.preserve_fds;
        entry.request.caller.inherit.pass_to(&mut cx);
        let outside = HostHandles { init: target, root, parent: Parent { runtime, proof } };
        if let Err(error) = enter(plan, &procs, entry.placed, outside, &mut cx) {
            init::fail(&cx.sync, &error);
        }
        init::run(&plan.steps, &|step: &Step| step.action.to_string(), watch, cx)
    });
    launch.and_then(|mut launch| launch.converse().map(|()| launch)).map_err(|error| because_stopped(container, error))
}

/// The error with its cause, if that is the end of the container.
pub fn because_stopped(container: &Container, error: Error) -> Error {
    match ends_meanwhile(container, &error) {
        true => error.prefixed("cannot exec in a stopped container").with_kind(Kind::WrongStatus),
        false => error,
    }
}

/// How long init may take to end after it has left its namespaces.
const INIT_EXIT_TIME: Duration = Duration::from_millis(200);

/// Whether the error is a consequence of the container's end: the process was killed, or a call failed because
/// init or its PID namespace (ENOMEM) is gone.
fn ends_meanwhile(container: &Container, error: &Error) -> bool {
    let follows = error.kind() == Kind::Protocol || matches!(error.errno(), Some(Errno::ESRCH | Errno::ENOMEM));
    follows
        && match container.open_init() {
            Ok(None) => true,
            Ok(Some(init)) => poll::readable(init.as_fd(), Deadline::after(INIT_EXIT_TIME)).unwrap_or(false),
            Err(_) => false,
        }
}

fn container_stopped() -> Error {
    Error::new(Kind::WrongStatus, "cannot exec in a stopped container")
}

fn refuse_status(request: &ExecRequest<'_>) -> Result<()> {
    let container = request.container;
    match container.status()? {
        Status::Stopped | Status::Creating => return Err(container_stopped()),
        // Init's mount namespace still has the host's root.
        Status::Created if container.state.held => {
            return Err(Error::new(Kind::WrongStatus, "cannot exec in a container that is not restored yet")
                .with_hint("`start` restores its processes"));
        }
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
            .with_hint("an ancestor of its cgroup is frozen: see cgroup.freeze there"));
    }
    Ok(())
}

/// A process of `exec`. Nothing else is made for it.
pub struct NewProcess<'a> {
    request: ExecRequest<'a>,
    placed: Placed,
    /// The cgroup into which the runtime moves the process once it is cloned.
    late: Option<Cgroup>,
    /// The cgroups of version 1 into which the runtime moves it.
    late_v1: v1::Cgroups,
}

/// How the first process comes into the container's cgroup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// It is cloned into the cgroup (`CLONE_INTO_CGROUP`).
    AtClone,
    /// systemd moves it, when it asks.
    BySystemd,
    /// It stays outside: the runtime moves only the process that executes the program.
    Late,
}

impl Handler for NewProcess<'_> {
    type Kept = ();
    const PROCESS: &'static str = "it";

    fn steps(&self) -> &[Step] {
        &self.request.plan.steps
    }

    /// Has systemd move the process into the container's scope. A process that was cloned into the cgroup asks only if
    /// the cgroup's limit forbids it a child: it leaves the cgroup, and its child is put there instead.
    fn place(&mut self, first: &Child) -> Result<()> {
        let state = &self.request.container.state;
        match (self.placed, &state.unit) {
            (Placed::BySystemd, Some(unit)) => {
                let below = self.request.cgroup.map_or(String::new(), |path| format!("/{}", path.trim_matches('/')));
                Systemd::connect(unit.user)?.attach(&unit.name, &below, first.pid)?;
                self.placed = Placed::AtClone;
            }
            (Placed::AtClone, _) => {
                let hierarchy = Hierarchy::find()?;
                let own = Cgroup::of_process(&hierarchy, std::process::id() as i32)?;
                self.late = Cgroup::of_process(&hierarchy, first.pid)?;
                if let Some(own) = own {
                    own.add_process(first.pid)?;
                }
                let init = self.request.container.open_init()?.ok_or_else(container_stopped)?;
                let v1 = self.request.container.cgroup_v1_for_exec(init.as_fd())?;
                v1.of_caller()?.add_process(first.pid)?;
                self.late_v1 = v1;
                self.placed = Placed::Late;
            }
            _ => {}
        }
        Ok(())
    }

    fn spawned(&mut self, child: &Child) -> Result<()> {
        if let Some(cgroup) = &self.late {
            cgroup.add_process(child.pid)?;
        }
        self.late_v1.add_process(child.pid)?;
        if let Some(limit) = &self.request.plan.process_limit {
            sched::set_limit_of(child.pid, RLIMIT_NPROC, limit.soft, limit.hard)
                .with_context(|| "error setting rlimit type RLIMIT_NPROC")
                .map_err(|error| error.with_origin(limit.origin.clone()))?;
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
        let state = container.document(Status::Running, container.init.map_or(0, |init| init.pid))?;
        listener::send_to_agent(&self.request.plan.steps, child, number, &container.state.oci_version, state)?;
        Ok(Vec::new())
    }

    fn ready(&mut self, child: &Child) -> Result<()> {
        self.request.caller.report(child)
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

impl NewProcess<'_> {
    /// Makes the first process, in the container's cgroup if possible.
    fn fork(&mut self, init: (i32, BorrowedFd<'_>), proof: &SingleThreaded) -> Result<Forked> {
        let cgroup = self.cgroup(init)?;
        let fork = |cgroup: Option<&Cgroup>| process::fork(CloneFlags::empty(), cgroup.map(Cgroup::dir_fd), proof);
        let outside = || fork(None).with_context(|| "cannot clone the process");
        let (failed, cgroup) = match (fork(cgroup.as_ref()), cgroup) {
            (Err(failed), Some(cgroup)) => (failed, cgroup),
            (other, _) => return other.with_context(|| "cannot clone the process"),
        };
        match failed.errno {
            // The container has as many processes as its pids.max allows. That limits forks in the cgroup; a process
            // may still be moved in from outside (cgroup-v2.rst, "PID").
            Errno::EAGAIN => {
                (self.placed, self.late) = (Placed::Late, Some(cgroup));
                outside()
            }
            // Init has moved into a cgroup below its own and enabled controllers there, so the cgroup itself may
            // have no processes (cgroups(7), "no internal processes"). The new one goes where init is.
            Errno::EBUSY | Errno::EOPNOTSUPP if self.request.cgroup.is_none() => {
                let inits = of_init(init)?;
                fork(Some(&inits)).with_context(|| "cannot clone the process into init's cgroup")
            }
            // This user may write to both cgroups, but only systemd to their common ancestor.
            Errno::EACCES | Errno::EPERM if self.request.container.state.unit.is_some() => {
                self.placed = Placed::BySystemd;
                outside()
            }
            errno => {
                // runc's words, which name the file that it writes to.
                let error = failed.context(format!(
                    "cannot clone the process into the container's cgroup: adding pid of the new process to cgroups: {}/cgroup.procs",
                    cgroup.path()
                ));
                Err(match errno {
                    Errno::EACCES | Errno::EPERM => error.with_hint(format!(
                        "no cgroup above both {:?} and this process is this user's to write to: run the command in the \
                         same delegated cgroup, as in `systemd-run --user --scope windlass exec ...`",
                        cgroup.path()
                    )),
                    _ => error,
                })
            }
        }
    }

    /// The cgroup for the process; `None` if the container has none. If it was removed while init was elsewhere, the
    /// process goes to init's cgroup: it must not stay in the caller's.
    fn cgroup(&self, init: (i32, BorrowedFd<'_>)) -> Result<Option<Cgroup>> {
        let container = self.request.container;
        let origin = |error: Error| error.with_origin(Origin::Flag("--cgroup".into()));
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

/// The cgroup that init is in now.
fn of_init((pid, pidfd): (i32, BorrowedFd<'_>)) -> Result<Cgroup> {
    let none = || Error::new(Kind::Kernel, "the container's init is in no cgroup that can be joined");
    let cgroup = Cgroup::of_process(&Hierarchy::find()?, pid)?.ok_or_else(none)?;
    process::still_there(pidfd).with_context(|| "the container's init has ended")?;
    Ok(cgroup)
}

/// The host's descriptors that a process of `exec` holds until it has entered the container.
struct HostHandles<'a> {
    /// A pidfd of the container's init.
    init: OwnedFd,
    /// The container's root, if it has no mount namespace of its own to join.
    root: Option<OwnedFd>,
    /// The parent for the clone into the container's PID namespace.
    parent: Parent<'a>,
}

/// Enters the container, except for its PID namespace if that is a step of its own, see `plan::exec`.
fn enter<'a>(
    plan: &ExecPlan,
    procs: &Procs,
    placed: Placed,
    outside: HostHandles<'a>,
    cx: &mut Context<'a>,
) -> Result<()> {
    let HostHandles { init, root, parent } = outside;
    procs.join()?;
    let needed = [Some(&init), Some(&parent.runtime), root.as_ref()];
    cx.close_the_rest(&needed.into_iter().flatten().map(AsFd::as_fd).collect::<Vec<_>>());
    if placed == Placed::BySystemd {
        cx.sync.place()?;
    }
    let namespaces = plan.joined_first();
    let process = &plan.process;
    let uses_proc = process.terminal || !process.apparmor_profile.is_empty() || !process.selinux_label.is_empty();
    let forks_first = plan.steps.first().is_some_and(|step| matches!(step.action, Action::Fork { .. }));
    if uses_proc && !forks_first {
        if namespaces.contains(Namespaces::USER) {
            // The process stays in the runtime's PID namespace, and may not mount a procfs of that.
            cx.procfs.hold_callers().with_context(|| "cannot use the procfs of the caller")?;
        } else {
            // If the runtime's user namespace does not own its PID namespace, the runtime may not either.
            cx.procfs.open().with_context(|| "cannot make a private procfs")?;
        }
    }
    if namespaces.contains(Namespaces::MOUNT) || root.is_some() {
        cx.procfs.refuse_callers();
    }
    windlass_sys::hide_fd_paths();
    if namespaces.contains(Namespaces::USER) {
        leave_groups()?;
    }
    if !namespaces.is_empty() {
        process::setns(init.as_fd(), namespaces).with_context(|| "cannot join the container's namespaces")?;
    }
    if let Some(root) = root {
        mount::change_directory(root.as_fd())
            .and_then(|()| mount::chroot_to_current())
            .with_context(|| "cannot enter the container's root")?;
    }
    if namespaces.contains(Namespaces::USER) {
        let (uid, gid) = plan.first_ids;
        credentials::set_ids(uid, gid).with_context(|| "cannot become a user of the user namespace")?;
    }
    if plan.process.terminal {
        let root = fd::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY);
        cx.root = Some(root.with_context(|| "cannot open the container's root")?);
    }
    if namespaces.contains(Namespaces::PID) {
        cx.pid_namespace = PidNamespace::Joined(parent);
    } else if plan.has_intermediate() {
        cx.pid_namespace = PidNamespace::ToJoin { init, parent };
    }
    Ok(())
}
