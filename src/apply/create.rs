//! The runtime's story of `create`, top to bottom.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

use crate::abi::namespace;
use crate::cgroup::Cgroup;
use crate::container::{Container, Init, Reservation, State, Status, Store, Unit, process_stat};
use crate::error::{Doing, Error, Kind, Origin, Result};
use crate::plan::{Action, Joiner, Maps, Plan, Program, Step};
use crate::spec::Spec;
use crate::sys::process::{self, Child, Exit, Forked, SingleThreaded};
use crate::sys::progress::Progress;
use crate::sys::{fd, socket};

use super::cgroup::{Made, Place, owner_of_cgroup};
use super::context::{Context, Gate};
use super::laps::Laps;
use super::sources::{Borrowed, map_ids, open_joins, open_sources};
use super::sync::{InitSync, Message, RuntimeSync};
use super::{hooks, init, resctrl};

/// What `create` works from.
pub struct Create<'a> {
    /// Where containers are kept.
    pub store: &'a Store,
    /// What will be done.
    pub plan: &'a Plan,
    /// The configuration it was planned from.
    pub spec: &'a Spec,
    /// Its text, of which a copy is kept.
    pub config: &'a [u8],
    /// Absolute path of the bundle, which is the current directory.
    pub bundle: &'a Path,
    /// Where its cgroups will be.
    pub place: Place,
    /// A connection that gets the terminal's master end.
    pub console_socket: Option<OwnedFd>,
    /// A connection that gets a pidfd of init.
    pub pidfd_socket: Option<OwnedFd>,
    /// Absolute path of a file that gets init's process id.
    pub pid_file: Option<&'a Path>,
    /// Descriptors to pass besides 0, 1 and 2.
    pub preserve_fds: u32,
    /// Additions to the environment (`LISTEN_FDS`).
    pub environment: &'a [String],
    /// Whether the plan has the mount of a notify socket.
    pub notify: bool,
    /// Whether a later `start` gives the word, or this process does, at once.
    pub wait_for_start: bool,
    /// Whether init reports each step.
    pub debug: bool,
    /// Whether exec is to leave the session keyring alone as well.
    pub no_new_keyring: bool,
}

impl Create<'_> {
    /// Whether the device filter is there when init begins. Init itself needs none, and loads the
    /// kernel with it for a tenth of a millisecond; but a hook may find it, and replace it by one of
    /// its own, and none may come after that.
    fn devices_before_init(&self) -> bool {
        self.spec.hooks.is_some()
    }
}

/// A container whose init stands at the gate.
pub struct Created {
    /// Init.
    pub child: Child,
    /// The conversation with it.
    pub sync: RuntimeSync,
    /// What was made, locked.
    pub container: Container,
}

/// Makes the container. If anything fails, nothing of it stays, and the poststop hooks have run.
pub fn create(request: Create<'_>, proof: &SingleThreaded) -> Result<Created> {
    let poststop = request.spec.hooks.as_ref().map_or(&[][..], |hooks| &hooks.poststop);
    let mut recorded = None;
    make(request, &mut recorded, proof).inspect_err(|_| {
        if let Some(state) = &recorded {
            // What they say is lost beside the failure that they follow.
            let _ = hooks::run_poststop(poststop, &hooks::state_for(state, Status::Stopped, 0));
        }
    })
}

fn make(request: Create<'_>, recorded: &mut Option<State>, proof: &SingleThreaded) -> Result<Created> {
    let plan = request.plan;
    let mut laps = Laps::begin(request.debug);
    let reservation = request.store.reserve(&plan.id)?;
    laps.done("reserve the container");
    let resources = match request.spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) {
        Some(rdt) => Some(resctrl::find(rdt, &plan.id)?),
        None => None,
    };
    let mut state = state(&request);
    state.intel_rdt = resources.as_ref().and_then(|group| group.to_remove());
    state.resctrl = resources.as_ref().map(resctrl::Group::path);
    if !request.spec.hooks.as_ref().is_none_or(|hooks| hooks.poststop.is_empty()) {
        *recorded = Some(state.clone());
    }
    let owner = owner_of_cgroup(request.spec, &plan.topology);
    let cgroup = request.place.make(plan, owner, || reservation.record(&state, request.config))?;
    let resources = resources.map(resctrl::Group::make).transpose()?;
    if request.devices_before_init() {
        cgroup.set_devices(plan)?;
    }
    laps.done("record it and make its cgroup");

    if request.notify {
        super::notify::prepare(reservation.root(), &plan.id)?;
    }
    let doors = cgroup.doors()?;
    let sources = match plan.copier {
        Joiner::Runtime => open_sources(&plan.sources, proof)?,
        Joiner::Init => plan.sources.iter().map(|_| None).collect(),
    };
    let joins = open_joins(&plan.topology.joined)?;
    let gate = match request.wait_for_start {
        true => {
            let name = reservation.start_socket()?;
            Gate::Start(socket::listen_at(reservation.root(), &name).doing(|| "cannot make the start socket")?)
        }
        false => Gate::Runtime,
    };
    let progress = Progress::new()?;
    let (ours, theirs) = socket::pair().doing(|| "cannot make the pair of sockets")?;
    laps.done("copy mounts and open namespaces");

    // Before the clone, so that init is born so: see init::begin. Where the runtime has no power
    // over init but being the same user, the files of its /proc must be the user's until its ids
    // are mapped: it hides when it becomes another. In its user namespace it is alone.
    let mapped_first = plan.topology.maps != Maps::Direct;
    if !mapped_first {
        process::hide().doing(|| "cannot hide the runtime")?;
    }
    let borrowed = Borrowed::enter(&plan.topology, &joins)?;
    let flags = if plan.topology.intermediate { 0 } else { plan.topology.clone };
    let forked = process::fork(CloneFlags::from_bits_retain(flags as i32), cgroup.unified().map(Cgroup::dir_fd), proof)
        .doing(|| "cannot clone init")
        .map_err(|error| error.origin(Origin::config("/linux/namespaces")))?;
    let child = match forked {
        Forked::Parent(child) => child,
        Forked::Child => {
            let mut cx = Context::new(InitSync::new(theirs), gate, program(&request));
            if let Err(error) = doors.enter() {
                cx.sync.failed(&error);
                process::exit_now(255);
            }
            cx.sources = sources;
            cx.joins = joins;
            cx.console_socket = request.console_socket;
            cx.hooks = request.spec.hooks.as_ref();
            cx.state = Some(&state);
            cx.preserve_fds = request.preserve_fds;
            // Also because a lock belongs to all copies of its descriptor: the runtime's must not
            // live on in init.
            cx.close_the_rest();
            child_story(plan, init::Watch { progress, debug: request.debug, mapped_first }, cx, proof)
        }
    };
    drop(borrowed);
    drop((theirs, gate, sources, joins, doors));
    laps.done("clone init");

    let between = plan.topology.intermediate.then(|| fd::duplicate(child.pidfd.as_fd())).transpose();
    let mut guard = Guard { child: Some(child) };
    let mut sync = RuntimeSync::new(ours).after_spawned(between.doing(|| "cannot watch the process in between")?);
    let story = Story {
        request: &request,
        plan,
        progress,
        cgroup: &cgroup,
        resources: resources.as_ref(),
        state: &state,
        reservation: &reservation,
    };
    let init = story.serve(&mut guard, &mut sync)?;
    let child = guard.child.take().expect("serve leaves it there");
    let container = reservation.keep(state, init, request.spec.hooks.clone().unwrap_or_default())?;
    cgroup.keep();
    if let Some(group) = resources {
        group.keep();
    }
    Ok(Created { child, sync, container })
}

/// What the runtime does while init does its steps.
struct Story<'a> {
    request: &'a Create<'a>,
    plan: &'a Plan,
    progress: Progress,
    cgroup: &'a Made,
    resources: Option<&'a resctrl::Made>,
    state: &'a State,
    reservation: &'a Reservation,
}

impl Story<'_> {
    /// Answers init until it is ready and recorded.
    fn serve(&self, guard: &mut Guard, sync: &mut RuntimeSync) -> Result<Init> {
        let mut laps = Laps::begin(self.request.debug);
        let mut record = match self.plan.topology.intermediate {
            true => None,
            false => Some(self.begin(guard.child())?),
        };
        laps.done("set the device filter and what is set from outside");
        loop {
            let message = sync.receive()?;
            let asked = match &message {
                Message::Spawned(..) => "begin with the process that was named",
                Message::MapIds => "write the id maps",
                Message::Scope => "have systemd place it",
                Message::NetDevices => "move network devices in",
                Message::RuntimeHooks => "run the prestart and createRuntime hooks",
                Message::Listener(_) => "hand on the seccomp listener",
                Message::Ready => "record it",
                Message::Failed(_) | Message::Log(_) | Message::End => "",
            };
            if !asked.is_empty() {
                laps.done("wait for init");
            }
            match message {
                Message::Spawned(pid, pidfd) => {
                    let between = guard.child.replace(Child { pid, pidfd }).expect("set until serve ends");
                    between.wait().doing(|| "cannot reap the process in between")?;
                    record = Some(self.begin(guard.child())?);
                    laps.done(asked);
                    // It told and did not ask: an answer would be taken for that of the next question.
                    continue;
                }
                Message::MapIds => map_ids(guard.child().pid, &self.plan.topology)?,
                Message::Scope => self.cgroup.finish(self.plan, guard.child())?,
                Message::NetDevices => super::netdevice::move_all(&self.plan.net_devices, guard.child().pid)?,
                Message::RuntimeHooks => self.runtime_hooks(guard.child().pid)?,
                Message::Listener(number) => self.hand_on_listener(guard.child(), number)?,
                Message::Ready => {
                    let lost = || Error::new(Kind::Protocol, "init is ready before it was named");
                    let init = self.record(guard.child(), record.ok_or_else(lost)?)?;
                    laps.done(asked);
                    return Ok(init);
                }
                Message::Failed(error) => {
                    guard.reap();
                    return Err(error.before("unable to start container process"));
                }
                Message::Log(line) => {
                    ::log::debug!("{line}");
                    continue;
                }
                Message::End => return Err(self.death(guard)),
            }
            laps.done(asked);
            sync.go_on()?;
        }
    }

    /// What can be done while init is at its steps, so that it need not be waited for.
    fn begin(&self, child: &Child) -> Result<Init> {
        if !self.request.devices_before_init() {
            self.cgroup.set_devices(self.plan)?;
        }
        self.adjust(child)?;
        let lost = || Error::new(Kind::Protocol, "init died before it could be recorded");
        let start_time = process_stat(child.pid).ok_or_else(lost)?.start_time;
        Ok(Init { pid: child.pid, start_time })
    }

    /// What can be set from outside alone, or better from there.
    fn adjust(&self, child: &Child) -> Result<()> {
        self.cgroup.begin(child)?;
        if let Some(group) = self.resources {
            group.join(child.pid)?;
        }
        let Some(adj) = self.plan.oom_score_adj else { return Ok(()) };
        fd::openat(fd::CWD, format!("/proc/{}/oom_score_adj", child.pid), nix::fcntl::OFlag::O_WRONLY, 0)
            .and_then(|file| fd::write_once(file.as_fd(), adj.to_string().as_bytes()))
            .doing(|| format!("cannot set oom_score_adj to {adj}"))
            .map_err(|error| error.origin(Origin::config("/process/oomScoreAdj")))
    }

    fn runtime_hooks(&self, pid: i32) -> Result<()> {
        let Some(hooks) = &self.request.spec.hooks else { return Ok(()) };
        let state = hooks::state_for(self.state, Status::Creating, pid);
        hooks::run("prestart", &hooks.prestart, &state)?;
        hooks::run("createRuntime", &hooks.create_runtime, &state)
    }

    /// Sends init's seccomp listener to whoever listens at `listenerPath` (config-linux.md, "The
    /// Container Process State").
    fn hand_on_listener(&self, child: &Child, number: i32) -> Result<()> {
        let seccomp = self.plan.init.iter().find_map(|step| match &step.action {
            Action::Seccomp(seccomp) => Some(seccomp),
            _ => None,
        });
        let seccomp = seccomp.ok_or_else(|| Error::new(Kind::Protocol, "init has a listener that was not planned"))?;
        let state = hooks::state_for(self.state, Status::Creating, child.pid);
        super::listener::send(seccomp, child, number, &self.state.oci_version, state)
    }

    /// From here on the container exists.
    fn record(&self, child: &Child, init: Init) -> Result<Init> {
        if let Some(socket) = &self.request.pidfd_socket {
            socket::send(socket.as_fd(), b"pidfd", &[child.pidfd.as_fd()])
                .doing(|| "cannot send the pidfd")
                .map_err(|error| error.origin(Origin::Flag("--pidfd-socket".into())))?;
        }
        if let Some(path) = self.request.pid_file {
            write_pid_file(path, child.pid)?;
        }
        self.reservation.record_init(&init).map(|()| init)
    }

    /// Init died without a word: what is known of that.
    fn death(&self, guard: &mut Guard) -> Error {
        let exit = guard.child.take().and_then(|child| child.wait().ok()).unwrap_or(Exit::Code(255));
        let at = self.progress.last();
        let step = at.checked_sub(1).and_then(|index| self.plan.init.get(index));
        let what = step.map_or("before its first step".into(), |step| self.plan.describe(&step.action));
        let oom = self.cgroup.oom_killed();
        let why = if oom { ", killed by the kernel for want of memory" } else { "" };
        let msg = format!(
            "unable to start container process: container init was ended by {exit}{why} at step {at}/{}: {what}",
            self.plan.init.len()
        );
        let error = Error::new(Kind::Protocol, msg).step(format!("init {at}/{}: {what}", self.plan.init.len()));
        let error = match step {
            Some(step) => error.origin(step.origin.clone()),
            None => error,
        };
        if oom {
            error.hint("the memory limit is too low even to start (/linux/resources/memory/limit)")
        } else {
            error
        }
    }
}

/// Writes a process id as engines read it: digits alone, whole or not at all.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    fd::replace(fd::CWD, path, 0o644, pid.to_string().as_bytes())
        .doing(|| format!("cannot write the pid file {path:?}"))
        .map_err(|error| error.origin(Origin::Flag("--pid-file".into())))
}

/// The child's side of the clone: straight to its steps, or first the clone in between.
fn child_story(plan: &Plan, watch: init::Watch, cx: Context<'_>, proof: &SingleThreaded) -> ! {
    if plan.topology.intermediate
        && let Err(error) = between(plan, &cx, proof)
    {
        cx.sync.failed(&error);
        process::exit_now(255);
    }
    init::run(&plan.init, &|step: &Step| plan.describe(&step.action), watch, cx)
}

/// The process in between: joins what there is to join, makes init in its new namespaces as a
/// child of the runtime, names it to the runtime and ends. Only init returns from here.
fn between(plan: &Plan, cx: &Context<'_>, proof: &SingleThreaded) -> Result<()> {
    process::hide()?;
    for (join, file) in plan.topology.joined.iter().zip(&cx.joins) {
        let Some(file) = file.as_ref().filter(|_| join.joiner == crate::plan::Joiner::Init) else { continue };
        process::enter(file.as_fd(), CloneFlags::from_bits_retain(join.kind as i32))
            .doing(|| format!("cannot join the namespace {:?}", join.path))
            .map_err(|error| error.origin(Origin::Config(join.pointer.clone().into())))?;
    }
    let new = plan.topology.new & !(namespace::CGROUP | namespace::TIME);
    let flags = CloneFlags::from_bits_retain(new as i32) | CloneFlags::CLONE_PARENT;
    match process::fork(flags, None, proof).doing(|| "cannot clone init")? {
        Forked::Child => Ok(()),
        Forked::Parent(child) => {
            let told = cx.sync.spawned(child.pid, child.pidfd.as_fd());
            process::exit_now(i32::from(told.is_err()))
        }
    }
}

/// Kills and reaps init unless the story ended well.
struct Guard {
    child: Option<Child>,
}

impl Guard {
    fn child(&self) -> &Child {
        self.child.as_ref().expect("taken only when the story ends")
    }

    fn reap(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.reap();
    }
}

fn program(request: &Create<'_>) -> Program {
    let process = request.spec.process.clone().unwrap_or_default();
    let mut env = process.env;
    env.extend(request.environment.iter().cloned());
    if request.notify {
        super::notify::set_variable(&mut env);
    }
    Program::new(process.args, env)
}

fn state(request: &Create<'_>) -> State {
    let root = request.spec.root.as_ref().map_or("", |root| root.path.as_str());
    let rootfs: PathBuf = request.bundle.join(root);
    let joined = request.plan.topology.joined.iter().fold(0, |all, join| all | join.kind);
    let chroot = request
        .plan
        .init
        .iter()
        .any(|step| matches!(step.action, Action::Pivot(how) if how != crate::plan::Pivot::PivotRoot));
    State {
        version: crate::container::VERSION,
        id: request.plan.id.clone(),
        oci_version: request.spec.oci_version.clone(),
        bundle: request.bundle.to_string_lossy().into_owned(),
        rootfs: rootfs.to_string_lossy().into_owned(),
        annotations: request.spec.annotations.clone(),
        cgroup: request.place.full(),
        unit: request.plan.unit.as_ref().map(|unit| Unit { name: unit.name.clone(), user: unit.user }),
        cgroup_v1: request.place.v1(),
        namespaces: request.plan.topology.new | joined,
        owner: owner_name(),
        created: crate::rfc3339::nanoseconds(std::time::SystemTime::now()),
        intel_rdt: None,
        resctrl: None,
        chroot,
        no_new_keyring: request.no_new_keyring,
    }
}

/// The user's name, or their number where the host's passwd has none.
fn owner_name() -> String {
    match nix::unistd::geteuid().as_raw() {
        0 => "root".into(),
        uid => {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let name = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
            name.and_then(|line| line.split(':').next()).map_or(format!("#{uid}"), str::to_string)
        }
    }
}
