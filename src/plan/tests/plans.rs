//! Plans each `plans/*.json` and compares the result with its `*.plan`; checks what holds for the order of every plan.
//!
//! `BLESS=1 cargo test --test plans` rewrites the expected files; the diff is reviewed like code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use windlass_base::capability::CapabilitySet;
use windlass_base::error::{Diagnostic, Error, Origin};
use windlass_base::namespaces::Namespaces;
use windlass_base::spec::{IdMapping, Spec};
use windlass_plan::exec::ExecPlan;
use windlass_plan::exec::Request;
use windlass_plan::unit::Systemd;
use windlass_plan::{Action, Host, Joiner, Mount, MountKind, Options, Plan, RootPath, SourceId, Step};

struct Fixture {
    path: PathBuf,
    text: String,
    spec: Spec,
}

impl Fixture {
    fn read(path: PathBuf) -> Fixture {
        let text = fs::read_to_string(&path).expect("the fixture can be read");
        let spec = windlass_base::spec::parse(text.as_bytes(), "the fixture")
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Fixture { path, text, spec }
    }

    /// Reads the flags of the command line from an annotation of the fixture.
    fn options(&self) -> Options {
        let flags = self.spec.annotations.get("test.flags").map_or("", String::as_str);
        let number = |name: &str, radix: u32| {
            let text = flags.split(' ').find_map(|flag| flag.strip_prefix(name))?;
            Some(u64::from_str_radix(text, radix).expect("a number"))
        };
        let user = number("user=", 10).map(|uid| u32::try_from(uid).expect("an id"));
        let map = IdMapping { container_id: 0, host_id: 1000, size: 1 };
        Options {
            root_on_host: RootPath::new("/srv/box/rootfs"),
            no_pivot: flags.contains("--no-pivot"),
            no_new_keyring: flags.contains("--no-new-keyring"),
            keyring: String::new(),
            host: Host {
                capabilities: CapabilitySet::from_bits_retain(
                    number("capabilities=0x", 16).unwrap_or(if user.is_some() { 0 } else { u64::MAX }),
                ),
                uid: user.unwrap_or(0),
                gid: user.unwrap_or(0),
                nested: flags.contains("nested").then_some(vec![map]),
                oom_score_adj: if user.is_some() { 200 } else { 0 },
                selinux: !flags.contains("no-selinux"),
                cgroup2: vec!["nsdelegate".into(), "memory_recursiveprot".into()],
            },
            systemd: flags.contains("--systemd-cgroup").then_some(Systemd { user: user.is_some(), prefix: "windlass" }),
        }
    }

    fn plan(&self) -> Result<Plan, Error> {
        windlass_plan::create("box", &self.spec, &self.options())
    }

    fn exec(&self) -> Result<ExecPlan, Error> {
        let request = Request { args: vec!["true".into()], ..Request::default() };
        windlass_plan::exec::exec("box", &self.spec, &request, None, &self.options())
    }

    fn document(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }
}

fn program(spec: &Spec) -> &[String] {
    spec.process.as_ref().map_or(&[], |process| &process.args)
}

fn fixtures_in(folder: &str) -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the fixtures are there")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    paths.into_iter().map(Fixture::read).collect()
}

/// Every fixture with its plan.
fn planned() -> Vec<(Fixture, Plan)> {
    let plan = |fixture: Fixture| match fixture.plan() {
        Ok(plan) => (fixture, plan),
        Err(error) => panic!("{}: {error}", fixture.path.display()),
    };
    fixtures_in("").into_iter().map(plan).collect()
}

/// Compares `text` with the file beside the fixture, or rewrites the file.
fn expect(fixture: &Fixture, extension: &str, text: &str, differing: &mut Vec<String>) {
    let path = fixture.path.with_extension(extension);
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, text).expect("the expected file can be written");
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    if wanted != text {
        let mark = |line: &&str| !wanted.lines().any(|other| other == *line);
        let new: Vec<&str> = text.lines().filter(mark).collect();
        differing.push(format!("{} is another plan now; new lines:\n{}", path.display(), new.join("\n")));
    }
}

#[test]
fn every_configuration_has_its_plan() {
    let mut differing = Vec::new();
    let planned = planned();
    assert!(planned.len() >= 30, "the fixtures are found");
    for (fixture, plan) in &planned {
        expect(fixture, "plan", &plan.text(program(&fixture.spec)), &mut differing);
    }
    assert!(differing.is_empty(), "{}\n(BLESS=1 rewrites them)", differing.join("\n"));
}

#[test]
fn every_fault_of_a_broken_configuration_is_told_at_once() {
    let mut differing = Vec::new();
    for fixture in fixtures_in("broken") {
        let Err(error) = fixture.plan() else { panic!("{} must not be planned", fixture.path.display()) };
        let text: String =
            faults(&error).iter().map(|fault| format!("{} {}\n", fault.pointer.escape_debug(), fault.msg)).collect();
        expect(&fixture, "faults", &text, &mut differing);
    }
    assert!(differing.is_empty(), "{}\n(BLESS=1 rewrites them)", differing.join("\n"));
}

fn faults(error: &Error) -> Vec<Diagnostic> {
    match (error.all_faults(), error.origin()) {
        ([], Some(Origin::Config(pointer))) => {
            vec![Diagnostic { pointer: pointer.to_string(), msg: error.message().into() }]
        }
        (all, _) => all.to_vec(),
    }
}

#[test]
fn every_pointer_leads_to_an_element_or_to_where_one_is_missing() {
    for fixture in fixtures_in("").into_iter().chain(fixtures_in("broken")) {
        let document = fixture.document();
        let mut pointers: Vec<String> = Vec::new();
        match fixture.plan() {
            Ok(plan) => {
                pointers.extend(plan.warnings.iter().map(|fault| fault.pointer.clone()));
                pointers.extend(plan.limits.writes.iter().map(|write| write.pointer.clone()));
                pointers.extend(plan.init.iter().filter_map(|step| match &step.origin {
                    Origin::Config(pointer) => Some(pointer.to_string()),
                    _ => None,
                }));
                for source in &plan.sources {
                    pointers.push(source.pointer.clone());
                }
            }
            Err(error) => pointers.extend(faults(&error).into_iter().map(|fault| fault.pointer)),
        }
        for pointer in pointers {
            let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
            // The origin of a default device is the list of devices as a whole.
            let known = document.pointer(&pointer).or(document.pointer(parent)).is_some();
            assert!(known, "{}: there is no {pointer}", fixture.path.display());
        }
    }
}

/// The index of the first step that `wanted` accepts.
fn position(steps: &[Step], wanted: impl Fn(&Action) -> bool) -> Option<usize> {
    steps.iter().position(|step| wanted(&step.action))
}

fn last_position(steps: &[Step], wanted: impl Fn(&Action) -> bool) -> Option<usize> {
    steps.iter().rposition(|step| wanted(&step.action))
}

/// The steps of create and of exec, for rules that hold for both.
fn all_steps() -> Vec<(String, Spec, Vec<Step>)> {
    let mut out = Vec::new();
    for (fixture, plan) in planned() {
        let name = fixture.path.file_stem().expect("a file").to_string_lossy().into_owned();
        let exec = fixture.exec().unwrap_or_else(|error| panic!("exec in {name}: {error}"));
        out.push((format!("exec in {name}"), fixture.spec.clone(), exec.steps));
        out.push((name, fixture.spec, plan.init));
    }
    out
}

#[test]
fn execute_is_the_last_step_and_the_only_one_of_its_kind() {
    for (name, _, steps) in all_steps() {
        let executes = steps.iter().filter(|step| matches!(step.action, Action::Execute)).count();
        assert_eq!(executes, 1, "{name}");
        assert!(matches!(steps.last().map(|step| &step.action), Some(Action::Execute)), "{name}");
    }
}

#[test]
fn init_reports_once_and_then_only_the_filter_hooks_and_the_program_follow() {
    for (name, _, steps) in all_steps() {
        let ready = position(&steps, |action| matches!(action, Action::Ready)).unwrap_or_else(|| panic!("{name}"));
        for step in &steps[ready + 1..] {
            use Action::*;
            let late = matches!(step.action, Seccomp(_) | Capabilities(_) | StartContainerHooks | Execute);
            assert!(late, "{name}: {}", step.action);
        }
    }
}

/// The index of the step that takes the ids, which every process of a configuration has.
fn identity(name: &str, spec: &Spec, steps: &[Step]) -> Option<usize> {
    let at = position(steps, |action| matches!(action, Action::Identity(_)));
    assert!(at.is_some() || spec.process.is_none() && !name.starts_with("exec in "), "{name}");
    at
}

#[test]
fn hardly_a_step_is_below_the_filter_and_what_it_needs_is_given_up_next() {
    let mut kept = 0;
    for (name, spec, steps) in all_steps() {
        let Some(filter) = position(&steps, |action| matches!(action, Action::Seccomp(_))) else { continue };
        let Some(identity) = identity(&name, &spec, &steps) else { continue };
        let Action::Seccomp(seccomp) = &steps[filter].action else { unreachable!() };
        let ready = position(&steps, |action| matches!(action, Action::Ready)).expect("always");
        let fork = position(&steps, |action| matches!(action, Action::Fork { .. })).filter(|fork| filter < *fork);
        let early = seccomp.filter.needs_listener || fork.is_some();
        assert_eq!(filter < ready, early, "{name}: who hands a listener on must be there");
        let Action::Identity(identity) = &steps[identity].action else { unreachable!() };
        let capabilities = position(&steps, |action| matches!(action, Action::Capabilities(_)));
        if spec.process.is_some_and(|process| process.no_new_privileges) {
            let bit = position(&steps, |action| matches!(action, Action::NoNewPrivileges)).expect("asked for");
            assert!(bit < filter, "{name}: the kernel takes the filter for no_new_privs alone");
            assert_eq!((identity.until_filtered, capabilities), (CapabilitySet::empty(), None), "{name}");
            continue;
        }
        let has = identity.capabilities.effective.contains(CapabilitySet::SYS_ADMIN);
        assert_eq!(
            identity.until_filtered,
            if has { CapabilitySet::empty() } else { CapabilitySet::SYS_ADMIN },
            "{name}"
        );
        assert_eq!(capabilities, (!has).then_some(filter + 1), "{name}: nothing runs with more than was asked for");
        kept += usize::from(!has);
    }
    assert!(kept >= 2);
}

#[test]
fn a_filter_that_is_planned_is_installed_in_exec_as_well() {
    let count = |steps: &[Step]| steps.iter().filter(|step| matches!(step.action, Action::Seccomp(_))).count();
    let mut seen = 0;
    for (fixture, plan) in planned() {
        let exec = fixture.exec().expect("exec is planned where create is");
        assert_eq!(count(&plan.init), count(&exec.steps), "{}", fixture.path.display());
        seen += count(&plan.init);
    }
    assert!(seen >= 3);
}

#[test]
fn what_the_words_of_exec_ask_for_is_not_blamed_on_the_configuration() {
    let asked = |fixture: &Fixture, request: &Request, process: Option<&[u8]>| {
        let plan = windlass_plan::exec::exec("box", &fixture.spec, request, process, &fixture.options());
        let steps = plan.expect("it is planned").steps;
        let origin = |wanted: fn(&Action) -> bool| {
            let at = position(&steps, wanted).expect("always");
            steps[at].origin.to_string()
        };
        [
            origin(|action| matches!(action, Action::FindExecutable)),
            origin(|action| matches!(action, Action::WorkingDirectory(_))),
            origin(|action| matches!(action, Action::Seccomp(_))),
        ]
    };
    let fixtures = fixtures_in("");
    let docker = fixtures.iter().find(|fixture| fixture.path.ends_with("docker.json")).expect("it is there");
    let words = Request { args: vec!["true".into()], ..Request::default() };
    assert_eq!(asked(docker, &words, None), ["COMMAND", "/process/cwd", "/linux/seccomp"]);
    let words = Request { cwd: Some("/".into()), ..words };
    assert_eq!(asked(docker, &words, None), ["COMMAND", "--cwd", "/linux/seccomp"]);
    let file = Request::default();
    let process: &[u8] = br#"{"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"}"#;
    let expected = ["--process /args/0", "--process /cwd", "/linux/seccomp"];
    assert_eq!(asked(docker, &file, Some(process)), expected);
}

#[test]
fn limits_are_raised_and_labels_written_before_powers_are_given_up() {
    for (name, spec, steps) in all_steps() {
        let Some(identity) = identity(&name, &spec, &steps) else { continue };
        let privileged = last_position(&steps, |action| {
            use Action::*;
            matches!(
                action,
                Limit(..) | Scheduler(_) | IoPriority(_) | Affinity(_) | MemoryPolicy(..) | AppArmor(_) | SeLinux(_)
            )
        });
        assert!(privileged < Some(identity), "{name}");
        let before = position(&steps, |action| matches!(action, Action::WorkingDirectory(_))).expect("always");
        let after = position(&steps, |action| matches!(action, Action::WorkingDirectoryAsUser(_))).expect("always");
        assert!(before < identity && identity < after, "{name}: the user tries where the runtime is refused");
    }
}

/// Whether a step looks at paths of the host, which are gone after the pivot.
fn needs_the_host(action: &Action) -> bool {
    use Action::*;
    matches!(
        action,
        Rootfs { .. }
            | Mount(_)
            | Node(_)
            | Console { .. }
            | Mask(_)
            | ReadonlyPath(_)
            | Join(_)
            | CreateContainerHooks
    )
}

#[test]
fn nothing_needs_the_host_after_the_pivot() {
    for (fixture, plan) in planned() {
        let pivot = position(&plan.init, |action| matches!(action, Action::Pivot(_))).expect("every root is entered");
        let pivots = plan.init.iter().filter(|step| matches!(step.action, Action::Pivot(_))).count();
        assert_eq!(pivots, 1);
        for step in &plan.init[pivot..] {
            assert!(!needs_the_host(&step.action), "{}: {}", fixture.path.display(), step.action);
        }
    }
}

#[test]
fn paths_are_hidden_only_when_all_mounts_and_hooks_are_done() {
    for (fixture, plan) in planned() {
        let hidden = position(&plan.init, |action| matches!(action, Action::Mask(_) | Action::ReadonlyPath(_)));
        let made = last_position(&plan.init, |action| {
            use Action::*;
            matches!(action, Mount(_) | Node(_) | DevLinks | Console { .. } | RuntimeHooks | CreateContainerHooks)
        });
        if let (Some(hidden), Some(made)) = (hidden, made) {
            assert!(made < hidden, "{}", fixture.path.display());
        }
    }
}

#[test]
fn what_becomes_read_only_late_is_written_to_before() {
    for (fixture, plan) in planned() {
        let late = position(&plan.init, |action| matches!(action, Action::Readonly(_)));
        let written = last_position(&plan.init, |action| {
            use Action::*;
            matches!(action, Mount(_) | Node(_) | DevLinks | Console { .. } | Pivot(_))
        });
        if let (Some(late), Some(written)) = (late, written) {
            assert!(written < late, "{}", fixture.path.display());
        }
    }
}

#[test]
fn a_process_joins_before_it_unshares_and_does_both_before_it_mounts() {
    for (fixture, plan) in planned() {
        let name = fixture.path.display();
        let propagation =
            position(&plan.init, |action| matches!(action, Action::Propagation(_) | Action::Rootfs { .. }));
        // Init waits for a scope while mounts are made, and makes the cgroup namespace then.
        let with_scope = |kinds: Namespaces| plan.unit.is_some() && kinds == Namespaces::CGROUP;
        let entered = last_position(&plan.init, |action| match action {
            Action::Join(_) | Action::EnterUserNamespace { .. } => true,
            Action::Unshare(kinds) => !with_scope(*kinds),
            _ => false,
        });
        assert!(entered < propagation, "{name}");
        let joined = last_position(&plan.init, |action| matches!(action, Action::Join(_)));
        let unshared = position(&plan.init, |action| matches!(action, Action::Unshare(_)));
        if let (Some(joined), Some(unshared)) = (joined, unshared) {
            assert!(joined < unshared, "{name}");
        }
    }
}

#[test]
fn the_cgroup_is_entered_before_anything_shows_or_fills_it() {
    for (fixture, plan) in planned() {
        let name = fixture.path.display();
        let scope = position(&plan.init, |action| matches!(action, Action::Scope));
        let unshared = position(&plan.init, |action| matches!(action, Action::Unshare(Namespaces::CGROUP)));
        let needed = position(&plan.init, |action| match action {
            Action::Mount(Mount { copy_up: true, .. }) => true,
            Action::Mount(Mount { what: MountKind::New { kind, .. }, .. }) => kind.starts_with("cgroup"),
            Action::NetDevices | Action::RuntimeHooks | Action::CreateContainerHooks | Action::Pivot(_) => true,
            _ => false,
        });
        assert_eq!(scope.is_some(), plan.unit.is_some(), "{name}");
        assert!(scope.max(unshared) < needed, "{name}");
        if let (Some(scope), Some(unshared)) = (scope, unshared) {
            assert!(scope < unshared, "{name}");
        }
    }
}

#[test]
fn every_source_is_used_exactly_once() {
    for (fixture, plan) in planned() {
        let mut uses: BTreeMap<SourceId, usize> = BTreeMap::new();
        for step in &plan.init {
            let source = match &step.action {
                Action::Rootfs { source, .. } => *source,
                Action::Node(node) => node.source,
                Action::Mount(mount) => match &mount.what {
                    MountKind::Bind(source) => Some(*source),
                    MountKind::New { fallback, .. } => *fallback,
                },
                _ => None,
            };
            if let Some(source) = source {
                *uses.entry(source).or_default() += 1;
            }
        }
        let once: BTreeMap<SourceId, usize> =
            (0..plan.sources.len()).map(|source| (SourceId::new(source), 1)).collect();
        assert_eq!(uses, once, "{}", fixture.path.display());
    }
}

#[test]
fn every_joined_namespace_is_joined_by_one_process() {
    for (fixture, plan) in planned() {
        for (index, join) in plan.topology.joined.iter().enumerate() {
            let steps =
                plan.init.iter().filter(|step| matches!(step.action, Action::Join(id) if id.index() == index)).count();
            let by_init = join.joiner == Joiner::Init && !plan.topology.intermediate;
            assert_eq!(steps, usize::from(by_init), "{}: {}", fixture.path.display(), join.path);
        }
    }
}

#[test]
fn every_new_namespace_is_made_once() {
    for (fixture, plan) in planned() {
        let name = fixture.path.display();
        let mut made = plan.topology.clone;
        for step in &plan.init {
            if let Action::Unshare(kinds) = step.action {
                assert!(!made.intersects(kinds), "{name}: made twice");
                made |= kinds;
            }
        }
        // The runtime makes the time namespace, and an intermediate process all others.
        let elsewhere = if plan.topology.intermediate { Namespaces::all() } else { Namespaces::TIME };
        assert_eq!(made & !elsewhere, plan.topology.new & !elsewhere, "{name}");
    }
}

#[test]
fn exec_mounts_nothing_and_makes_no_namespace() {
    for (fixture, _) in planned() {
        let exec = fixture.exec().expect("planned");
        for step in &exec.steps {
            use Action::*;
            let foreign = matches!(
                step.action,
                Mount(_) | Node(_) | Pivot(_) | Mask(_) | ReadonlyPath(_) | Rootfs { .. } | Unshare(_) | Sysctl(..)
            );
            assert!(!foreign, "{}: {}", fixture.path.display(), step.action);
        }
    }
}

#[test]
fn exec_is_born_among_the_containers_processes_with_what_they_may_have() {
    let (mut seen, mut early) = ([0; 2], 0);
    for (fixture, _) in planned() {
        let (name, exec) = (fixture.path.display(), fixture.exec().expect("planned"));
        let at = |wanted: fn(&Action) -> bool| position(&exec.steps, wanted);
        let (join, fork) =
            (at(|action| matches!(action, Action::JoinPid)), at(|action| matches!(action, Action::Fork { .. })));
        let count = exec.steps.iter().filter(|step| matches!(step.action, Action::Fork { .. })).count();
        assert_eq!(count, usize::from(exec.namespaces.contains(Namespaces::PID)), "{name}");
        let Some(fork) = fork else { continue };
        let user = exec.namespaces.contains(Namespaces::USER);
        seen[usize::from(user)] += 1;
        if user {
            // Nobody in the user namespace has power over the process. It must not need to look at init from inside.
            assert_eq!((join, fork, exec.joined_first()), (None, 0, exec.namespaces), "{name}");
            continue;
        }
        let Some(join) = join else { continue };
        assert!(join < fork && !exec.joined_first().contains(Namespaces::PID), "{name}");
        let identity = at(|action| matches!(action, Action::Identity(_))).expect("always");
        assert!(join < identity && identity < fork, "{name}: the child is cloned with the container's powers");
        let limit = at(|action| matches!(action, Action::Limit(limit) if limit.resource == 6));
        assert_eq!(limit, None, "{name}: the intermediate process would count");
        let Some(given_up) = at(|action| matches!(action, Action::Capabilities(_))) else { continue };
        let filters = exec.steps.iter().filter_map(|step| match &step.action {
            Action::Seccomp(seccomp) => Some(&seccomp.filter),
            _ => None,
        });
        // A profile may lack calls that the fork needs.
        let lets = |call| filters.clone().all(|filter| filter.allows(windlass_seccomp::Arch::native(), call, [0; 6]));
        let possible = ["clone", "prctl", "ioctl", "setsid"].into_iter().all(lets);
        assert_eq!(given_up < fork, possible, "{name}: nothing is left to be given up");
        early += usize::from(possible);
    }
    assert!(seen[0] > 0 && seen[1] > 0 && early > 0, "{seen:?}, {early}");
}

#[test]
fn an_explanation_has_a_line_for_each_step() {
    for (fixture, plan) in planned() {
        let lines = plan.lines(program(&fixture.spec));
        assert_eq!(lines.iter().filter(|line| line.process == "init").count(), plan.init.len());
        let text = plan.text(program(&fixture.spec));
        assert!(text.lines().all(|line| !line.contains('\u{0}')), "{}", fixture.path.display());
        assert!(text.starts_with(&format!("box: {} processes", if plan.topology.intermediate { 3 } else { 2 })));
    }
}
