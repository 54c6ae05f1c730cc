//! The plan of `exec`: it joins the container's namespaces, and continues with the same steps as the plan of `create`.

use windlass_base::abi::bits_of_list;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Diagnostic, Error, Origin, Result};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{Linux, Process, Spec};

use crate::builder::PlanBuilder;
use crate::options::Options;
use crate::process::Credentials;
use crate::program::Program;
use crate::scheduling;
use crate::step::{Action, Step};
use crate::topology;

/// The flags of `exec` that describe the process. An absent value is taken from the container's process.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The command; empty only if a whole process is given.
    pub args: Vec<String>,
    /// Give it a terminal.
    pub tty: bool,
    /// Working directory.
    pub cwd: Option<String>,
    /// Added to the environment, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Ids.
    pub user: Option<User>,
    /// Added to the supplementary groups.
    pub additional_gids: Vec<u32>,
    /// SELinux label.
    pub process_label: Option<String>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: Option<bool>,
    /// Added to the capabilities, as written.
    pub caps: Vec<String>,
}

/// Ids that `exec --user` asks for. Without a gid, that of the container's process is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id, if one was given.
    pub gid: Option<u32>,
}

/// Everything `exec` will do.
#[derive(Debug)]
pub struct ExecPlan {
    /// The process to run.
    pub process: Process,
    /// Namespaces to join.
    pub namespaces: Namespaces,
    /// RLIMIT_NPROC if the runtime sets it from outside. Set before the fork, it would count the intermediate process
    /// too.
    pub process_limit: Option<ProcessLimit>,
    /// The process's user id on the host, see [`crate::Topology::host_uid`].
    pub host_uid: Option<u32>,
    /// The user and the group to become in the user namespace before the first step.
    pub first_ids: (u32, u32),
    /// CPU affinity of the runtime while it works (`execCPUAffinity.initial`).
    pub initial_affinity: Vec<u64>,
    /// The steps of the new process, in order.
    pub steps: Vec<Step>,
    /// Requested elements that will not be carried out.
    pub warnings: Vec<Diagnostic>,
}

/// RLIMIT_NPROC and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessLimit {
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
    /// Its origin.
    pub origin: Origin,
}

impl ExecPlan {
    /// Whether an intermediate process makes the one that executes the program.
    pub fn has_intermediate(&self) -> bool {
        self.namespaces.contains(Namespaces::PID)
    }

    /// The namespaces to join at once, before the first step. The PID namespace is not among them if a step joins it.
    pub fn joined_first(&self) -> Namespaces {
        match self.steps.iter().any(|step| matches!(step.action, Action::JoinPid)) {
            true => self.namespaces - Namespaces::PID,
            false => self.namespaces,
        }
    }

    /// The program to run.
    pub fn program(&self) -> Program {
        Program::new(self.process.args.clone(), self.process.env.clone())
    }
}

/// Plans `exec` in a container made from `spec`. `process` is the text of `--process`.
pub fn exec(id: &str, spec: &Spec, request: &Request, process: Option<&[u8]>, options: &Options) -> Result<ExecPlan> {
    let mut builder = PlanBuilder::default();
    let whole = process.is_some();
    // Pointers are into the document of `--process`, or into config.json.
    let pointer = if whole { "" } else { "/process" };
    let process = match process {
        Some(text) => given(text, request, &mut builder)?,
        None => described(spec, request)?,
    };
    let empty = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let topology = topology::topology(linux, &options.host, &mut builder);
    if !options.no_new_keyring {
        let keyring = format!("_ses.{id}{}", options.keyring);
        crate::process::key_label(&process, pointer, &mut builder);
        builder.always("the session keyring of the container", Action::SessionKeyring(keyring));
    }
    if process.terminal {
        let size = process.console_size.clone();
        builder.config(format!("{pointer}/terminal"), Action::Console { size, device: false, controlling: true });
    }
    // The container's memory policy, personality and profile hold for all its processes.
    scheduling::limits(&process, linux, pointer, &mut builder);
    let initial_affinity = affinity(&process, pointer, &mut builder);
    let host = &options.host;
    Credentials { process: &process, linux, topology: &topology, host, pointer, start_hooks: false }.plan(&mut builder);
    name_flags(&mut builder.steps, request, whole);
    let namespaces = topology.all();
    let mut process_limit = None;
    if namespaces.contains(Namespaces::PID) {
        let of_one_process = builder.steps.iter().any(|step| of_one_process(&step.action));
        let early = namespaces.contains(Namespaces::USER) || of_one_process;
        let outside = host.capabilities.contains(CapabilitySet::SYS_RESOURCE);
        process_limit = place_fork(&mut builder.steps, early, outside);
    }
    let (host_uid, first_ids) = (topology.host_uid(process.user.uid), topology.first_ids());
    builder.build(|builder| ExecPlan {
        process,
        namespaces,
        process_limit,
        host_uid,
        first_ids,
        initial_affinity,
        steps: builder.steps,
        warnings: builder.warnings,
    })
}

/// The process of `--process`.
fn given(text: &[u8], request: &Request, builder: &mut PlanBuilder) -> Result<Process> {
    let read = windlass_base::spec::read_process(text, "the process file")?;
    if !read.faults.is_empty() {
        return Err(Error::faults(read.faults));
    }
    builder.warnings = read.warnings;
    if !request.args.is_empty() {
        builder.warn("/args", "the command is ignored: --process has the program and its arguments");
    }
    Ok(read.value)
}

/// Adds the step that sets the final CPU affinity, and returns the initial one.
fn affinity(process: &Process, pointer: &str, builder: &mut PlanBuilder) -> Vec<u64> {
    let Some(affinity) = &process.exec_cpu_affinity else { return Vec::new() };
    let (name, list) = match (bits_of_list(&affinity.initial), bits_of_list(&affinity.last)) {
        (Some(initial), Some(last)) => {
            if !last.is_empty() {
                builder.config(format!("{pointer}/execCPUAffinity/final"), Action::Affinity(last));
            }
            return initial;
        }
        (None, _) => ("initial", &affinity.initial),
        (Some(_), None) => ("final", &affinity.last),
    };
    builder.fault(format!("{pointer}/execCPUAffinity/{name}"), format!("invalid CPU list {list:?}"));
    Vec::new()
}

/// Makes a flag the origin of the steps that it asks for.
fn name_flags(steps: &mut [Step], request: &Request, whole: bool) {
    for step in steps {
        if let Origin::Config(pointer) = &step.origin
            && let Some(asked) = asked(pointer, request, whole)
        {
            step.origin = Origin::Flag(asked.into());
        }
    }
}

/// Inserts the step that forks into the container's PID namespace.
///
/// After the fork the container's processes see the new process, and /proc shows them its mounts and its network. So it
/// must have nothing of the host by then: an intermediate process joins the namespaces.
///
/// If the container has its own user namespace, no process in it has CAP_SYS_PTRACE over the new one, which is
/// not dumpable either: it is cloned at once (`early`). An init that is not dumpable can be joined only from outside
/// its user namespace, so all namespaces are joined by one call. Otherwise a process of the container may have that
/// capability, and could use the new process's powers as long as they are the host's. So the other namespaces are
/// joined first, and the identity is taken before the fork. RLIMIT_NPROC would then count both processes, so the
/// runtime sets it (`outside`). Without CAP_SYS_RESOURCE it may not set limits of another user's process, and nobody
/// may raise one: then the new process sets it by itself.
fn place_fork(steps: &mut Vec<Step>, early: bool, outside: bool) -> Option<ProcessLimit> {
    let step =
        |action| Step { origin: Origin::Default("processes of the container are in its PID namespace".into()), action };
    if early {
        steps.insert(0, step(Action::Fork { terminal: false }));
        return None;
    }
    let of_processes = |step: &Step| matches!(&step.action, Action::Limit(limit) if limit.resource == RLIMIT_NPROC);
    let limits: Vec<Step> = steps.extract_if(.., |step| of_processes(step)).collect();
    let mut terminal = false;
    for step in steps.iter_mut() {
        if let Action::Console { controlling, .. } = &mut step.action {
            (*controlling, terminal) = (false, true);
        }
    }
    let at = |steps: &[Step], wanted: fn(&Action) -> bool| steps.iter().position(|step| wanted(&step.action));
    if let Some(index) = at(steps, |action| matches!(action, Action::WorkingDirectory(_))) {
        steps.insert(index, step(Action::JoinPid));
    }
    if let Some(index) = at(steps, |action| matches!(action, Action::FindExecutable)) {
        let own = !outside && !limits.is_empty();
        let filter = filter_before_fork(&mut steps.split_off(index + 1), steps, own);
        steps.push(step(Action::Fork { terminal }));
        if own {
            steps.extend(limits);
            steps.extend(filter);
            return None;
        }
        steps.extend(filter);
    }
    let given = |step: Step| match step.action {
        Action::Limit(limit) => Some(ProcessLimit { soft: limit.soft, hard: limit.hard, origin: step.origin }),
        _ => None,
    };
    limits.into_iter().next_back().and_then(given)
}

/// Moves the filter and the dropping of capabilities after it from `rest` to the steps before the fork; returns the
/// remaining steps. A filter is moved only if its installation needs a capability, which the new process must not have,
/// and only if the filter allows the fork, and a `limit` after it.
fn filter_before_fork(rest: &mut Vec<Step>, before: &mut Vec<Step>, limit: bool) -> Vec<Step> {
    let gives_up = |steps: &[Step]| steps.iter().any(|step| matches!(step.action, Action::Capabilities(_)));
    let harmless = |step: &Step| match &step.action {
        Action::Seccomp(seccomp) => !seccomp.filter.needs_listener && allows_fork(&seccomp.filter, limit),
        _ => false,
    };
    if gives_up(rest) && rest.iter().any(harmless) {
        let moved = |step: &Step| matches!(step.action, Action::Seccomp(_) | Action::Capabilities(_));
        before.extend(rest.iter().filter(|step| moved(step)).cloned());
        rest.retain(|step| !moved(step));
    }
    std::mem::take(rest)
}

/// Whether the filter allows the calls from the fork to the execution, with the arguments by which profiles distinguish
/// them. `limit`: a limit is set in between.
fn allows_fork(filter: &windlass_seccomp::Filter, limit: bool) -> bool {
    const CLONE_PARENT_AND_PIDFD: u64 = 0x9000;
    const PR_SET_PDEATHSIG: u64 = 1;
    const PR_SET_DUMPABLE: u64 = 4;
    let calls = [
        ("clone", [CLONE_PARENT_AND_PIDFD, 0, 0, 0, 0, 0]),
        ("prctl", [PR_SET_DUMPABLE, 0, 0, 0, 0, 0]),
        ("prctl", [PR_SET_PDEATHSIG, 0, 0, 0, 0, 0]),
        ("ioctl", [0, windlass_base::abi::TIOCSCTTY, 0, 0, 0, 0]),
    ];
    let plain = [
        "sendmsg",
        "exit_group",
        "setsid",
        "write",
        "read",
        "close",
        "close_range",
        "pipe2",
        "poll",
        "ppoll",
        "pidfd_send_signal",
        "fcntl",
        "rt_sigaction",
        "rt_sigprocmask",
        "mmap",
        "munmap",
        "brk",
        "execve",
    ];
    let arch = windlass_seccomp::Arch::native();
    let limits = limit.then_some(("prlimit64", [0, u64::from(RLIMIT_NPROC), 0, 0, 0, 0]));
    let plain = plain.map(|call| (call, [0; 6]));
    calls.into_iter().chain(plain).chain(limits).all(|(call, args)| filter.allows(arch, call, args))
}

/// Whether a child does not inherit a setting, or the setting forbids children (sched(7)).
fn of_one_process(action: &Action) -> bool {
    const SCHED_DEADLINE: u32 = 6;
    const RESET_ON_FORK: u64 = 1;
    matches!(action, Action::Scheduler(wanted) if wanted.policy == SCHED_DEADLINE || wanted.flags & RESET_ON_FORK != 0)
}

/// The number of the limit of processes (getrlimit(2)).
pub const RLIMIT_NPROC: u32 = 6;

/// The flag that asks for an element of the process, if config.json does not. `whole`: `--process` gave the process.
fn asked(pointer: &str, request: &Request, whole: bool) -> Option<String> {
    if whole {
        return (!pointer.starts_with("/linux/")).then(|| format!("--process {pointer}"));
    }
    let flags = [
        ("args", "COMMAND", true),
        ("cwd", "--cwd", request.cwd.is_some()),
        ("user", "--user", request.user.is_some()),
        ("capabilities", "--cap", !request.caps.is_empty()),
        ("apparmorProfile", "--apparmor", request.apparmor.is_some()),
        ("selinuxLabel", "--process-label", request.process_label.is_some()),
        ("noNewPrivileges", "--no-new-privs", request.no_new_privs.is_some()),
        ("terminal", "--tty", true),
    ];
    let element = pointer.strip_prefix("/process/")?.split('/').next();
    flags.iter().find(|(name, _, given)| *given && element == Some(name)).map(|(_, flag, _)| (*flag).into())
}

/// The container's own process with the changes of the flags.
fn described(spec: &Spec, request: &Request) -> Result<Process> {
    let mut process = spec.process.clone().unwrap_or_default();
    if request.args.is_empty() {
        return Err(Error::usage("process args cannot be empty"));
    }
    process.args = request.args.clone();
    process.terminal = request.tty;
    process.env.extend(request.env.iter().cloned());
    if let Some(cwd) = &request.cwd {
        process.cwd = cwd.clone();
    } else if spec.process.is_none() {
        process.cwd = "/".into();
    }
    if let Some(user) = &request.user {
        process.user.uid = user.uid;
        if let Some(gid) = user.gid {
            process.user.gid = gid;
        }
    }
    process.user.additional_gids.extend(&request.additional_gids);
    if let Some(label) = &request.process_label {
        process.selinux_label = label.clone();
    }
    if let Some(profile) = &request.apparmor {
        process.apparmor_profile = profile.clone();
    }
    if let Some(set) = request.no_new_privs {
        process.no_new_privileges = set;
    }
    if !request.caps.is_empty() {
        let sets = process.capabilities.get_or_insert_default();
        let inheritable = sets.inheritable.as_ref().is_some_and(|set| !set.is_empty());
        let mut lists = vec![&mut sets.bounding, &mut sets.effective, &mut sets.permitted];
        if inheritable {
            // The inheritable set is not extended: CVE-2022-29162.
            lists.push(&mut sets.ambient);
        }
        for list in lists {
            let list = list.get_or_insert_default();
            for name in &request.caps {
                if !list.contains(name) {
                    list.push(name.clone());
                }
            }
        }
    }
    Ok(process)
}
