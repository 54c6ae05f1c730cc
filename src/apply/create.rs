//! The runtime's part of `create` and `run`, top to bottom.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

use windlass_base::error::{Diagnostic, Error, Kind, Origin, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{Hook, Spec};
use windlass_cgroup::Cgroup;
use windlass_plan::{Action, Maps, Plan, Program, Step};
use windlass_store::{Container, InitProcess, Reservation, State, Status, Store, SystemdUnit, process_stat};
use windlass_sys::process::{self, Child, Exit, Forked, SingleThreaded};
use windlass_sys::{fd, socket, start};

use super::caller::{Caller, set_oom_score_adj};
use super::cgroup::{CgroupPlacement, NewCgroup, owner_of_cgroup};
use super::context::{Barrier, ContainerHooks, Context};
use super::init::{self, Watch};
use super::launch::{Handler, Launch};
use super::namespaces::{JoinedNamespaces, leave_groups, map_ids, open_joins};
use super::notify::{Notify, ServiceManager};
use super::sources::{self, Idmaps, Sources};
use super::sync::{InitSync, Question};
use super::timing::StepTimer;
use super::{hooks, listener, resctrl};

/// The purpose of making a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A later `start` executes the program.
    Create,
    /// This command executes the program.
    Run,
    /// The processes come from images; with `hold`, a later `start` restores them.
    Restore {
        /// `--hold`.
        hold: bool,
    },
}

impl Purpose {
    /// Whether a later `start` opens the start barrier.
    pub fn waits_for_start(self) -> bool {
        matches!(self, Purpose::Create | Purpose::Restore { hold: true })
    }
}

/// The parameters of `create`.
pub struct CreateRequest<'a> {
    /// The containers on disk.
    pub store: &'a Store,
    /// The plan to carry out.
    pub plan: &'a Plan,
    /// The configuration that was planned, without its annotations.
    pub spec: &'a Spec,
    /// The annotations of the configuration.
    pub annotations: BTreeMap<String, String>,
    /// The text of config.json; the state root keeps a copy.
    pub config: Vec<u8>,
    /// Absolute path of the bundle, which is the current directory.
    pub bundle: &'a Path,
    /// Where the container's cgroups will be.
    pub place: &'a CgroupPlacement,
    /// The connections and descriptors between the caller and the container.
    pub caller: Caller<'a>,
    /// Additions to the environment (`LISTEN_FDS`).
    pub environment: &'a [String],
    /// Whether the plan has the mount of a notify socket.
    pub notify: bool,
    /// The purpose of the container.
    pub purpose: Purpose,
    /// Whether init reports each step.
    pub debug: bool,
    /// Whether exec is to leave the session keyring alone as well.
    pub no_new_keyring: bool,
    /// The random end of the session keyring's name.
    pub keyring: &'a str,
    /// Collects the warnings of poststop hooks when a container is undone.
    pub warnings: &'a RefCell<Vec<Diagnostic>>,
}

impl CreateRequest<'_> {
    /// Whether the device filter is set before init is made. Without hooks it is set while init works, which
    /// saves a tenth of a millisecond. A hook may replace the filter by one of its own, so ours must come first.
    fn devices_before_init(&self) -> bool {
        self.spec.hooks.is_some()
    }
}

/// Makes the container, up to an init that waits for its start barrier. On a failure, here or before the launch is
/// committed, nothing remains and the poststop hooks have run.
pub fn create<'a>(request: CreateRequest<'a>, proof: &'a SingleThreaded) -> Result<Launch<NewContainer<'a>>> {
    let mut timer = StepTimer::start(request.debug);
    let (plan, debug) = (request.plan, request.debug);
    let mut creation = NewContainer::begin(request, proof, &mut timer)?;
    if creation.request.notify {
        super::notify::prepare(creation.root(), &plan.id)?;
    }
    let procs = creation.cgroup.open_procs()?;
    let joins = open_joins(&plan.topology.joined)?;
    let joined_user = plan.topology.joined.iter().position(|join| join.kind == Namespaces::USER);
    let joined_user = joined_user.and_then(|at| joins[at].as_ref()).map(OwnedFd::as_fd);
    creation.idmaps = Idmaps::make(&plan.sources, joined_user, proof)?;
    let barrier = match creation.request.purpose.waits_for_start() {
        true => {
            let name = creation.start_socket();
            Barrier::Start(socket::listen_at(creation.root(), &name).with_context(|| "cannot make the start socket")?)
        }
        false => Barrier::Runtime,
    };
    timer.done("open namespaces");

    // Init must not be dumpable, see init::begin, and inherits that from the clone. There is one exception: if an
    // ordinary user's runtime maps init's ids, init's files in /proc must be that user's until the maps are written.
    // Init then makes itself non-dumpable afterwards; nobody else is in its user namespace before that.
    let mapped_first = plan.topology.maps != Maps::Direct;
    if !mapped_first {
        process::set_nondumpable().with_context(|| "cannot make the runtime non-dumpable")?;
    }
    // The container could otherwise read the caller's arguments, paths of the host, in /proc/PID/cmdline.
    let shown_again = start::show_as(c"windlass init");
    let mut launch = Launch::spawn(creation, debug, plan.topology.intermediate, |creation, sync, watch| {
        let borrowed = JoinedNamespaces::enter(&plan.topology, &joins)?;
        let new = if plan.topology.intermediate { Namespaces::empty() } else { plan.topology.clone };
        let cgroup = creation.cgroup.unified().map(Cgroup::dir_fd);
        let forked = process::fork(new.into(), cgroup, proof)
            .with_context(|| "cannot clone init")
            .map_err(|error| error.with_origin(Origin::config("/linux/namespaces")))?;
        if let Forked::Parent(child) = forked {
            drop(borrowed);
            return Ok(child);
        }
        if let Err(error) = procs.join() {
            init::fail(&sync, &error);
        }
        let watch = Watch { mapped_first, ..watch };
        let cx = creation.context(sync, watch, barrier, joins, &[]);
        run_child(plan, watch, cx, proof)
    })?;
    drop(shown_again);
    launch.converse()?;
    Ok(launch)
}

/// The message to the process that holds a container until it is committed.
const KEPT: &[u8] = b"kept";

/// The resources of a new container. Dropping it removes them.
pub struct NewContainer<'a> {
    // The fields are dropped in this order.
    resources: Option<resctrl::NewGroup>,
    pub(super) cgroup: NewCgroup,
    reservation: Reservation,
    poststop: Poststop<'a>,
    state: State,
    /// Init, once it is made.
    init: Option<InitProcess>,
    pub(super) idmaps: Idmaps,
    /// The pipe to the keeper, which holds a restored init until `start`: it learns that the container is committed.
    pub(super) keeper: Option<OwnedFd>,
    pub(super) request: CreateRequest<'a>,
    proof: &'a SingleThreaded,
}

impl<'a> NewContainer<'a> {
    /// Reserves the id, records what will be made, and makes the cgroup.
    pub(super) fn begin(
        mut request: CreateRequest<'a>,
        proof: &'a SingleThreaded,
        timer: &mut StepTimer,
    ) -> Result<NewContainer<'a>> {
        let plan = request.plan;
        let mut poststop = Poststop::of(&request);
        let reservation = request.store.reserve(&plan.id)?;
        timer.done("reserve the container");
        let resources = match request.spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) {
            Some(rdt) => Some(resctrl::find(rdt, &plan.id)?),
            None => None,
        };
        let mut state = state(&mut request);
        if matches!(request.purpose, Purpose::Restore { .. }) {
            // CRIU continues the clocks of the images in a time namespace.
            state.namespaces |= Namespaces::TIME;
            state.held = request.purpose.waits_for_start();
        }
        state.intel_rdt = resources.as_ref().and_then(|group| group.to_remove());
        state.resctrl = resources.as_ref().map(resctrl::Group::path);
        poststop.arm(&state);
        let owner = owner_of_cgroup(request.spec, &plan.topology);
        let has_post_hooks =
            request.spec.hooks.as_ref().is_some_and(|h| !h.poststart.is_empty() || !h.poststop.is_empty());
        let config = std::mem::take(&mut request.config);
        let cgroup =
            request.place.make(plan, owner, request.store, || reservation.record(&state, &config, has_post_hooks))?;
        // The text may be large, and init gets a copy of all memory that is in use at the clone.
        drop(config);
        if !is_passed_on(plan, request.spec) {
            state.annotations.clear();
        }
        let resources = resources.map(resctrl::Group::make).transpose()?;
        if request.devices_before_init() {
            cgroup.set_devices(plan)?;
        }
        timer.done("record it and make its cgroup");
        let (init, idmaps, keeper) = (None, Idmaps::default(), None);
        Ok(NewContainer { resources, cgroup, reservation, poststop, state, init, idmaps, keeper, request, proof })
    }

    /// The state root.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.reservation.root()
    }

    /// The name of the start socket in the state root.
    pub(super) fn start_socket(&self) -> String {
        self.reservation.start_socket()
    }

    /// Path of its cgroup in the file system.
    pub(super) fn cgroup_path(&self) -> Option<String> {
        self.state.cgroup.clone()
    }

    /// The cgroup's path below the root of the hierarchy, with a leading slash.
    pub(super) fn cgroup_below_root(&self) -> Option<String> {
        self.request.place.full().map(|_| format!("/{}", self.request.place.path().trim_start_matches('/')))
    }

    /// The socket on which the container reports that it is ready, for `run`.
    pub fn listen(&self, manager: &ServiceManager) -> Result<Option<Notify>> {
        Notify::listen(self.root(), &self.state.id, manager)
    }

    /// The same socket without a service manager that listens: what the container reports is read and dropped.
    pub fn listen_without_forwarding(&self) -> Result<Option<Notify>> {
        Notify::listen_without_forwarding(self.root(), &self.state.id)
    }

    /// In init: makes the context of its steps. Closes every other descriptor except `more`. One of them holds the
    /// runtime's lock, which would stay taken for as long as init has a copy.
    pub(super) fn context(
        &mut self,
        sync: InitSync,
        watch: Watch,
        barrier: Barrier,
        joins: Vec<Option<OwnedFd>>,
        more: &[BorrowedFd<'_>],
    ) -> Context<'_> {
        let mut cx = Context::new(sync, watch.progress, barrier, program(&self.request));
        let idmaps = std::mem::take(&mut self.idmaps);
        cx.sources = Sources::new(self.request.plan, self.request.bundle, idmaps);
        cx.joins = joins;
        cx.console_socket = self.request.caller.console_socket.take();
        cx.preserve_fds = self.request.caller.preserve_fds;
        self.request.caller.inherit.pass_to(&mut cx);
        let hooks = self.request.spec.hooks.as_ref();
        if !hooks.is_some_and(|hooks| !hooks.create_container.is_empty() || !hooks.start_container.is_empty()) {
            self.state.annotations.clear();
        }
        let state = &self.state;
        cx.hooks = hooks.map(|hooks| ContainerHooks { hooks, state });
        cx.close_the_rest(more);
        cx
    }

    pub(super) fn runtime_hooks(&self, pid: i32) -> Result<()> {
        let Some(hooks) = &self.request.spec.hooks else { return Ok(()) };
        let state = self.state.document(Status::Creating, pid);
        hooks::run("prestart", &hooks.prestart, &state)?;
        hooks::run("createRuntime", &hooks.create_runtime, &state)
    }
}

impl Handler for NewContainer<'_> {
    type Kept = Container;
    const PROCESS: &'static str = "container init";

    fn steps(&self) -> &[Step] {
        &self.request.plan.init
    }

    fn describe(&self, action: &Action) -> String {
        self.request.plan.describe(action)
    }

    fn place(&mut self, _: &Child) -> Result<()> {
        Err(Error::new(Kind::Protocol, "init asks to be put into a cgroup, which only exec expects"))
    }

    fn spawned(&mut self, child: &Child) -> Result<()> {
        let plan = self.request.plan;
        if !self.request.devices_before_init() {
            self.cgroup.set_devices(plan)?;
        }
        self.cgroup.begin(child)?;
        if let Some(group) = &self.resources {
            group.add_process(child.pid)?;
        }
        set_oom_score_adj(child, plan.oom_score_adj, "/process/oomScoreAdj")?;
        self.request.caller.inherit.adjust(child);
        self.adopted(child)
    }

    fn adopted(&mut self, child: &Child) -> Result<()> {
        // The process cannot have disappeared: only this runtime reaps it.
        let hidden = || {
            let msg = format!("cannot record init: /proc/{}/stat does not show it", child.pid);
            Error::new(Kind::Kernel, msg).with_hint("a procfs must be mounted at /proc, without hidepid= for this user")
        };
        let context = || "cannot record init";
        let start_time =
            process_stat(child.pid).with_context(context)?.ok_or_else(hidden)?.started().with_context(context)?;
        self.init = Some(InitProcess { pid: child.pid, start_time });
        Ok(())
    }

    fn answer(&mut self, question: Question, child: &Child) -> Result<Vec<OwnedFd>> {
        let plan = self.request.plan;
        match question {
            Question::MapIds => map_ids(child.pid, &plan.topology)?,
            Question::Sources(wanted) => {
                return sources::copy_for(child, wanted, plan, self.request.bundle, &self.idmaps, self.proof);
            }
            Question::RootDirectory => {
                return sources::open_root_for(child, plan, self.request.bundle, self.proof).map(|root| vec![root]);
            }
            Question::Scope => self.cgroup.finish(plan, child)?,
            Question::NetDevices => super::netdevice::move_all(&plan.net_devices, child.pid)?,
            Question::RuntimeHooks => self.runtime_hooks(child.pid)?,
            Question::Listener(number) => {
                let state = self.state.document(Status::Creating, child.pid);
                listener::send_to_agent(&plan.init, child, number, &self.state.oci_version, state)?;
            }
        }
        Ok(Vec::new())
    }

    /// Reports and records init. From here on other commands find the container.
    fn ready(&mut self, child: &Child) -> Result<()> {
        self.request.caller.report(child)?;
        self.reservation.record_init(self.init.as_ref().ok_or_else(init_not_named)?)
    }

    fn out_of_memory(&self, _: Exit) -> Option<(&'static str, &'static str)> {
        let hint = "the memory limit is too low even to start (/linux/resources/memory/limit)";
        self.cgroup.oom_killed().then_some((", killed by the kernel for want of memory", hint))
    }

    fn keep(self, _: &Child) -> Result<Container> {
        let NewContainer { resources, cgroup, reservation, mut poststop, state, init, keeper, request, .. } = self;
        if let Some(keeper) = keeper {
            fd::write_once(keeper.as_fd(), KEPT).with_context(|| "cannot send to the keeper of the restored init")?;
        }
        let hooks = request.spec.hooks.clone().unwrap_or_default();
        let container = reservation.commit(state, init.ok_or_else(init_not_named)?, hooks)?;
        cgroup.keep();
        if let Some(group) = resources {
            group.keep();
        }
        poststop.state = None;
        Ok(container)
    }
}

fn init_not_named() -> Error {
    Error::new(Kind::Protocol, "init is ready before it was named")
}

/// The poststop hooks of a container whose creation fails. They must run once the container is recorded (runtime.md,
/// "Lifecycle").
struct Poststop<'a> {
    hooks: &'a [Hook],
    state: Option<State>,
    warnings: &'a RefCell<Vec<Diagnostic>>,
}

impl<'a> Poststop<'a> {
    fn of(request: &CreateRequest<'a>) -> Poststop<'a> {
        let hooks = request.spec.hooks.as_ref().map_or(&[][..], |hooks| &hooks.poststop);
        Poststop { hooks, state: None, warnings: request.warnings }
    }

    fn arm(&mut self, state: &State) {
        if !self.hooks.is_empty() {
            self.state = Some(state.clone());
        }
    }
}

impl Drop for Poststop<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            let warnings = hooks::run_poststop(self.hooks, &state.document(Status::Stopped, 0));
            self.warnings.borrow_mut().extend(warnings);
        }
    }
}

/// The child's side of the clone: its steps, after a second clone if this is the intermediate process.
fn run_child(plan: &Plan, watch: Watch, cx: Context<'_>, proof: &SingleThreaded) -> ! {
    let joins_user = plan.topology.joined.iter().any(|join| join.kind == Namespaces::USER);
    let left = if joins_user { leave_groups() } else { Ok(()) };
    let ready =
        left.and_then(|()| if plan.topology.intermediate { run_intermediate(plan, &cx, proof) } else { Ok(()) });
    if let Err(error) = ready {
        init::fail(&cx.sync, &error);
    }
    init::run(&plan.init, &|step: &Step| plan.describe(&step.action), watch, cx)
}

/// The intermediate process: joins namespaces, makes init in its new namespaces as a child of the
/// runtime, names it to the runtime and ends. Only init returns from here.
fn run_intermediate(plan: &Plan, cx: &Context<'_>, proof: &SingleThreaded) -> Result<()> {
    process::set_nondumpable()?;
    for (join, file) in plan.topology.joined.iter().zip(&cx.joins) {
        let Some(file) = file.as_ref().filter(|_| join.joiner == windlass_plan::Joiner::Init) else { continue };
        process::setns(file.as_fd(), join.kind)
            .with_context(|| format!("cannot join the namespace {:?}", join.path))
            .map_err(|error| error.with_origin(Origin::Config(join.pointer.clone().into())))?;
    }
    let new = plan.topology.new & !(Namespaces::CGROUP | Namespaces::TIME);
    let flags = CloneFlags::from(new) | CloneFlags::CLONE_PARENT;
    match process::fork(flags, None, proof).with_context(|| "cannot clone init")? {
        Forked::Child => Ok(()),
        Forked::Parent(child) => {
            if let Err(error) = cx.sync.spawned(child.pid, child.pidfd.as_fd()) {
                cx.sync.failed(&error);
                child.kill();
                process::exit_now(1);
            }
            process::exit_now(0)
        }
    }
}

/// Whether a hook or a seccomp agent gets the state, with its annotations, during create.
fn is_passed_on(plan: &Plan, spec: &Spec) -> bool {
    spec.hooks.is_some() || plan.has_seccomp_agent()
}

fn program(request: &CreateRequest<'_>) -> Program {
    let process = request.spec.process.clone().unwrap_or_default();
    let mut env = process.env;
    env.extend(request.environment.iter().cloned());
    if request.notify {
        super::notify::set_variable(&mut env);
    }
    Program::new(process.args, env)
}

fn state(request: &mut CreateRequest<'_>) -> State {
    let root = request.spec.root.as_ref().map_or("", |root| root.path.as_str());
    let rootfs: PathBuf = request.bundle.join(root);
    let chroots = |action: &Action| match action {
        Action::Pivot(how) => *how != windlass_plan::Pivot::PivotRoot,
        action => matches!(action, Action::ReturnToMounts),
    };
    let chroot = request.plan.init.iter().any(|step| chroots(&step.action));
    State {
        version: windlass_store::VERSION,
        id: request.plan.id.clone(),
        oci_version: request.spec.oci_version.clone(),
        bundle: request.bundle.to_string_lossy().into_owned(),
        rootfs: rootfs.to_string_lossy().into_owned(),
        annotations: std::mem::take(&mut request.annotations),
        cgroup: request.place.full(),
        unit: request.plan.unit.as_ref().map(|unit| SystemdUnit { name: unit.name.clone(), user: unit.user }),
        cgroup_v1: request.place.v1(),
        namespaces: request.plan.topology.all(),
        owner: owner_name(),
        created: windlass_base::rfc3339::nanoseconds(std::time::SystemTime::now()),
        intel_rdt: None,
        resctrl: None,
        chroot,
        no_new_keyring: request.no_new_keyring,
        keyring: request.keyring.into(),
        held: false,
    }
}

/// The user's name, or their number if the host's passwd has none.
fn owner_name() -> String {
    match nix::unistd::geteuid().as_raw() {
        0 => "root".into(),
        uid => {
            let passwd = fd::document("/etc/passwd");
            let passwd = String::from_utf8(passwd.unwrap_or_default()).unwrap_or_default();
            let name = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
            name.and_then(|line| line.split(':').next()).map_or(format!("#{uid}"), str::to_string)
        }
    }
}
