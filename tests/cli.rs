//! Command lines: what engines send, what people type, and what is refused.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass::cli::{
    CgroupManager, Command, Create, Exec, Format, Global, LogFormat, Rejected, Run, Source, Update, parse_in,
};
use windlass_args::Environment;
use windlass_base::error::{Kind, Origin};
use windlass_plan::exec::User;

fn root() -> Environment {
    Environment { euid: 0, runtime_dir: None, borrowed_root: false }
}

fn words(line: &str) -> impl Iterator<Item = OsString> + '_ {
    line.split_whitespace().map(OsString::from)
}

fn parsed(line: &str) -> (Global, Command) {
    parse_in(words(line), &root()).unwrap_or_else(|rejected| panic!("{line}: {}", rejected.error))
}

fn command(line: &str) -> Command {
    parsed(line).1
}

fn refused(line: &str) -> Box<Rejected> {
    match parse_in(words(line), &root()) {
        Ok((_, command)) => panic!("{line}: {command:?}"),
        Err(rejected) => rejected,
    }
}

fn create(line: &str) -> Create {
    match command(line) {
        Command::Create(create) => create,
        other => panic!("{line}: {other:?}"),
    }
}

fn run(line: &str) -> Run {
    match command(line) {
        Command::Run(run) => run,
        other => panic!("{line}: {other:?}"),
    }
}

fn exec(line: &str) -> Exec {
    match command(line) {
        Command::Exec(exec) => *exec,
        other => panic!("{line}: {other:?}"),
    }
}

fn update(line: &str) -> Update {
    match command(line) {
        Command::Update(update) => *update,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn containerd_creates() {
    let line = "windlass --root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup \
                create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot --no-new-keyring web1";
    let (global, _) = parsed(line);
    assert_eq!(global.root, Path::new("/run/containerd/runc/k8s.io"));
    assert_eq!(global.log.as_deref(), Some(Path::new("/b/log.json")));
    assert_eq!(global.log_format, LogFormat::Json);
    assert_eq!(global.cgroup_manager, CgroupManager::Systemd);
    let create = create(line);
    assert_eq!(create.id, "web1");
    assert_eq!(create.bundle, Path::new("/b"));
    assert_eq!(create.pid_file.as_deref(), Some(Path::new("/b/init.pid")));
    assert_eq!(create.console_socket.as_deref(), Some(Path::new("/s")));
    assert!(create.no_pivot && create.no_new_keyring);
}

#[test]
fn containerd_executes_kills_lists_and_updates() {
    let exec = exec("windlass exec --process /tmp/runc-process1 --detach --pid-file /b/e.pid web1");
    assert_eq!(exec.process.as_deref(), Some(Path::new("/tmp/runc-process1")));
    assert!(exec.detach && exec.request.args.is_empty());
    assert!(matches!(command("windlass kill --all web1 9"), Command::Kill { signal: 9, all: true, .. }));
    assert!(matches!(command("windlass delete --force web1"), Command::Delete { force: true, .. }));
    assert!(matches!(command("windlass ps --format json web1"), Command::Ps { format: Format::Json, .. }));
    assert_eq!(update("windlass update --resources=- web1").resources, Some(Source::Stdin));
    assert_eq!(update("windlass update --resources - web1").resources, Some(Source::Stdin));
}

#[test]
fn podman_passes_the_log_in_three_words() {
    let (global, _) = parsed("windlass --log-format=json --log /l/oci-log --cgroup-manager disabled create c");
    assert_eq!(global.log.as_deref(), Some(Path::new("/l/oci-log")));
    assert_eq!(global.log_format, LogFormat::Json);
    assert_eq!(global.cgroup_manager, CgroupManager::Disabled);
}

#[test]
fn buildkit_runs() {
    let line = "windlass --log /r/runc-log.json --log-format json run --bundle /b --keep id1";
    assert!(run(line).keep);
    assert_eq!(run(line).create.bundle, Path::new("/b"));
}

#[test]
fn crio_kills_by_name_and_with_short_flags() {
    assert!(matches!(command("windlass kill -a c 9"), Command::Kill { signal: 9, all: true, .. }));
    assert!(matches!(command("windlass kill c KILL"), Command::Kill { signal: 9, all: false, .. }));
    assert!(matches!(command("windlass kill c"), Command::Kill { signal: 15, .. }));
}

#[test]
fn a_long_option_may_have_one_dash_as_in_go() {
    let run = run("windlass -root /r run -no-subreaper -bundle /b -pid-file=/p -detach c");
    assert!(run.no_subreaper && run.detach);
    assert_eq!(run.create.bundle, Path::new("/b"));
    assert_eq!(run.create.pid_file.as_deref(), Some(Path::new("/p")));
    assert_eq!(parsed("windlass -root /r list").0.root, Path::new("/r"));
    assert_eq!(parsed("windlass -root=/r list").0.root, Path::new("/r"));
}

#[test]
fn a_switch_may_be_told_true_or_false() {
    assert!(!run("windlass run --keep=false c").keep);
    assert!(run("windlass run --keep=true --detach=1 c").keep);
    assert!(!run("windlass run -d -d=false c").detach, "the last one counts");
    assert_eq!(exec("windlass exec --no-new-privs=false c sh").request.no_new_privs, Some(false));
    assert_eq!(exec("windlass exec --no-new-privs c sh").request.no_new_privs, Some(true));
    assert_eq!(exec("windlass exec c sh").request.no_new_privs, None);
}

#[test]
fn options_may_stand_before_or_after_the_id() {
    for line in ["windlass create -b /b c", "windlass create c -b /b", "windlass create c --bundle=/b"] {
        assert_eq!((create(line).id.as_str(), create(line).bundle.as_path()), ("c", Path::new("/b")), "{line}");
    }
    assert!(matches!(command("windlass delete c -f"), Command::Delete { force: true, .. }));
    assert!(matches!(command("windlass kill c 9 --all"), Command::Kill { signal: 9, all: true, .. }));
}

#[test]
fn everything_after_the_command_of_exec_belongs_to_it() {
    let exec = exec("windlass exec -t c -d ls -l --user 3 -- -x");
    assert!(exec.request.tty && exec.detach);
    assert_eq!(exec.request.args, ["ls", "-l", "--user", "3", "--", "-x"]);
    assert_eq!(exec.request.user, None);
}

#[test]
fn two_dashes_end_the_options() {
    assert_eq!(exec("windlass exec c -- -weird -t").request.args, ["-weird", "-t"]);
    assert_eq!(exec("windlass exec -- c ls -t").request.args, ["ls", "-t"]);
    assert_eq!(create("windlass create -- -c").id, "-c");
}

#[test]
fn everything_after_the_id_of_ps_belongs_to_ps() {
    for (line, expected) in [
        ("windlass ps c", &[] as &[&str]),
        ("windlass ps -f table c -ef -f json", &["-ef", "-f", "json"]),
        ("windlass ps c -- aux", &["aux"]),
    ] {
        let Command::Ps { args, format, .. } = command(line) else { panic!("{line}") };
        assert_eq!(args, expected, "{line}");
        assert_eq!(format, Format::Table);
    }
}

#[test]
fn exec_takes_all_its_short_flags() {
    let exec = exec("windlass exec -td -u 1000:100 -g 4 -g 24 -e A=1 -e B= -c CAP_KILL --cwd /w --cgroup sub c id");
    assert!(exec.request.tty && exec.detach);
    assert_eq!(exec.request.user, Some(User { uid: 1000, gid: Some(100) }));
    assert_eq!(exec.request.additional_gids, [4, 24]);
    assert_eq!(exec.request.env, ["A=1", "B="]);
    assert_eq!(exec.request.caps, ["CAP_KILL"]);
    assert_eq!(exec.request.cwd.as_deref(), Some("/w"));
    assert_eq!(exec.cgroup[0].path, "sub");
}

#[test]
fn a_value_is_the_next_word_whatever_it_looks_like() {
    assert_eq!(update("windlass update --cpu-quota -1 --memory -1 c").cpu_quota, Some(-1));
    assert_eq!(create("windlass create --pid-file --keep c").pid_file, Some(PathBuf::from("--keep")));
}

#[test]
fn an_empty_value_counts_as_none() {
    let create = create("windlass --log= create --bundle= --console-socket= c");
    assert_eq!(create.bundle, Path::new("."));
    assert_eq!(create.console_socket, None);
}

#[test]
fn a_missing_value_is_reported_in_the_words_that_engines_look_for() {
    for (line, message) in [
        // podman concludes from these words that checkpointing in pods is supported.
        ("windlass restore --lsm-mount-context", "flag needs an argument: -lsm-mount-context"),
        ("windlass create --bundle", "flag needs an argument: -bundle"),
        ("windlass create -b", "flag needs an argument: -bundle"),
        ("windlass --root", "flag needs an argument: -root"),
        ("windlass exec -u", "flag needs an argument: -user"),
    ] {
        let rejected = refused(line);
        assert_eq!((rejected.error.message(), rejected.exit), (message, 1), "{line}");
    }
}

#[test]
fn an_unknown_flag_is_named() {
    for (line, message) in [
        ("windlass create --xyz c", "flag provided but not defined: -xyz"),
        ("windlass create -xyz c", "flag provided but not defined: -xyz"),
        ("windlass create -x c", "flag provided but not defined: -x"),
        ("windlass create --xyz=3 c", "flag provided but not defined: -xyz"),
        ("windlass --xyz list", "flag provided but not defined: -xyz"),
        ("windlass exec c -x ls", "flag provided but not defined: -x"),
        ("windlass list --root /r", "flag provided but not defined: -root"),
    ] {
        let rejected = refused(line);
        assert_eq!((rejected.error.message(), rejected.exit), (message, 1), "{line}");
        assert_eq!(rejected.error.kind(), Kind::Usage);
        assert!(rejected.error.hint().is_some_and(|hint| hint.contains("--help")), "{line}");
    }
}

#[test]
fn an_unknown_verb_exits_with_3() {
    for line in ["windlass bogus", "windlass bogus --help", "windlass help bogus"] {
        let rejected = refused(line);
        assert_eq!((rejected.error.message(), rejected.exit), ("No help topic for 'bogus'", 3), "{line}");
    }
}

#[test]
fn a_wrong_value_names_the_flag() {
    for (line, message, flag) in [
        ("create --preserve-fds x c", "invalid value \"x\" for flag -preserve-fds: parse error", "--preserve-fds"),
        ("create --preserve-fds -1 c", "invalid value \"-1\" for flag -preserve-fds: parse error", "--preserve-fds"),
        ("run --keep=maybe c", "invalid boolean value \"maybe\" for -keep: parse error", "--keep"),
        ("list -f yaml", "invalid value \"yaml\" for flag -format: not one of table, json", "--format"),
        (
            "--rootless maybe list",
            "invalid value \"maybe\" for flag -rootless: not one of true, false, auto",
            "--rootless",
        ),
        ("events --interval 0s c", "duration interval must be greater than 0", "--interval"),
        ("update --pids-limit many c", "invalid value \"many\" for flag -pids-limit: parse error", "--pids-limit"),
    ] {
        let rejected = refused(&format!("windlass {line}"));
        assert_eq!((rejected.error.message(), rejected.exit), (message, 1), "{line}");
        assert_eq!(rejected.error.origin(), Some(&Origin::Flag(flag.into())), "{line}");
    }
}

#[test]
fn a_wrong_user_of_exec_is_never_root() {
    for user in ["4294967295", "-1", "1:abc", "root", "1:", "+1"] {
        let rejected = refused(&format!("windlass exec -u {user} c id"));
        assert!(rejected.error.message().starts_with("invalid user"), "{user}");
        assert_eq!(rejected.exit, 255, "{user}");
    }
    let spaced = ["windlass", "exec", "-u", "1 ", "c", "id"].map(OsString::from);
    assert!(parse_in(spaced.into_iter(), &root()).is_err());
    assert_eq!(exec("windlass exec -u 1 c id").request.user, Some(User { uid: 1, gid: None }));
    assert_eq!(exec("windlass exec -u1:0 c id").request.user, Some(User { uid: 1, gid: Some(0) }));
}

#[test]
fn an_exec_without_a_command_fails_like_an_exec() {
    let rejected = refused("windlass exec c");
    assert_eq!((rejected.error.message(), rejected.exit), ("exec args cannot be empty", 255));
    // The words after the id have no effect beside --process, as with runc and crun.
    assert_eq!(exec("windlass exec -p f c ls").process, Some("f".into()));
    assert_eq!(refused("windlass exec").error.message(), "windlass: \"exec\" requires a minimum of 1 argument(s)");
}

#[test]
fn the_number_of_operands_is_held() {
    for (line, message) in [
        ("runc start", "runc: \"start\" requires exactly 1 argument(s)"),
        ("windlass start a b", "windlass: \"start\" requires exactly 1 argument(s)"),
        ("windlass list a", "windlass: \"list\" requires exactly 0 argument(s)"),
        ("windlass kill", "windlass: \"kill\" requires a minimum of 1 argument(s)"),
        ("windlass kill a 9 10", "windlass: \"kill\" requires a maximum of 2 argument(s)"),
    ] {
        assert_eq!(refused(line).error.message(), message);
    }
}

#[test]
fn a_container_id_cannot_leave_its_directory() {
    for verb in ["create", "run", "state", "delete --force", "kill"] {
        for id in ["..", ".", "a/b", "../../etc", "a:b"] {
            let rejected = refused(&format!("windlass {verb} {id}"));
            let message = rejected.error.message();
            assert!(message.starts_with(&format!("invalid container ID format: {id:?}")), "{verb}: {message}");
        }
    }
}

fn checkpoint(line: &str) -> windlass::cli::Checkpoint {
    match command(line) {
        Command::Checkpoint(options) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

fn restore(line: &str) -> windlass::cli::Restore {
    match command(line) {
        Command::Restore(options) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn podman_and_containerd_checkpoint() {
    let podman = checkpoint(
        "windlass checkpoint --image-path /u/checkpoint --work-path /u --leave-running --tcp-established \
         --file-locks --leave-running c",
    );
    assert_eq!((podman.images.as_path(), podman.work.as_deref()), (Path::new("/u/checkpoint"), Some(Path::new("/u"))));
    assert!(podman.flags.leave_running && podman.flags.tcp_established && podman.flags.file_locks);
    let before = checkpoint("windlass checkpoint --image-path /u/pre-checkpoint --pre-dump --work-path /u c");
    assert!(before.flags.pre_dump);
    let next = checkpoint("windlass checkpoint --image-path /u/checkpoint --parent-path ../pre-checkpoint c");
    assert_eq!(next.flags.parent.as_deref(), Some("../pre-checkpoint"));
    let containerd = checkpoint(
        "windlass --root /r checkpoint --image-path /i --work-path /w --tcp-established --ext-unix-sk --shell-job \
         --empty-ns network web1",
    );
    assert!(containerd.flags.ext_unix_sk && containerd.flags.shell_job);
    assert_eq!(checkpoint("windlass checkpoint c").images, Path::new("checkpoint"));
}

#[test]
fn conmon_and_containerd_restore() {
    let conmon = restore(
        "windlass --log-format=json --log /l restore --bundle /b --pid-file /p --no-pivot --no-new-keyring --detach \
         --image-path /u/checkpoint --work-path /u --tcp-close --lsm-profile=selinux:u:r:t --console-socket /s c",
    );
    assert!(conmon.run.detach && conmon.images.flags.tcp_close && conmon.run.create.no_new_keyring);
    assert_eq!(conmon.images.flags.lsm_profile, "selinux:u:r:t");
    let containerd = restore(
        "windlass restore --image-path /i --work-path /b/work --detach --pid-file /b/init.pid -no-subreaper \
         --parent-path /q --bundle /b web1",
    );
    assert!(containerd.run.no_subreaper);
    assert_eq!(containerd.run.create.bundle, Path::new("/b"));
}

#[test]
fn wrong_flags_of_checkpoint_are_named_in_the_words_of_runc() {
    for (flags, message) in [
        ("--empty-ns mount", "namespace \"mount\" is not supported"),
        ("--page-server 10.0.0.1", "Use --page-server ADDRESS:PORT to specify page server"),
        ("--page-server 10.0.0.1:x", "Invalid port number"),
        ("--status-fd x", "invalid --status-fd argument x: it must be the number of a descriptor"),
    ] {
        assert_eq!(refused(&format!("windlass checkpoint {flags} c")).error.message(), message);
    }
    let mode = refused("windlass checkpoint --manage-cgroups-mode none c");
    assert!(mode.error.message().starts_with("invalid manage-cgroups-mode value"), "{}", mode.error);
}

#[test]
fn a_refused_command_line_still_knows_where_to_log() {
    let rejected = refused("windlass --log /l --log-format json create --xyz c");
    assert_eq!(rejected.global.log.as_deref(), Some(Path::new("/l")));
    assert_eq!(rejected.global.log_format, LogFormat::Json);
    assert_eq!(refused("windlass --log /l --xyz").global.log.as_deref(), Some(Path::new("/l")));
}

#[test]
fn the_default_root_depends_on_who_asks() {
    let dir = |euid, runtime_dir: Option<&str>, borrowed_root| {
        let environment = Environment { euid, runtime_dir: runtime_dir.map(OsString::from), borrowed_root };
        parse_in(words("runc list"), &environment).expect("valid").0.root
    };
    assert_eq!(dir(0, Some("/run/user/0"), false), Path::new("/run/windlass"));
    assert_eq!(dir(0, Some("/run/user/1000"), true), Path::new("/run/user/1000/windlass"), "root for podman only");
    assert_eq!(dir(1000, Some("/run/user/1000"), false), Path::new("/run/user/1000/windlass"));
    assert_eq!(dir(1000, None, false), Path::new("/run/windlass"));
}

#[test]
fn debug_and_the_log_level_agree() {
    for line in [
        "windlass run --debug box",
        "windlass exec --debug box true",
        "windlass --debug start box",
        "windlass --debug list",
        "windlass --log-level debug list",
        "windlass --log-level=error --debug list",
    ] {
        assert!(parsed(line).0.debug, "{line}");
    }
    assert!(!parsed("windlass --log-level error list").0.debug);
}

fn printed(line: &str) -> String {
    match command(line) {
        Command::Print(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_version_reads_as_callers_read_it() {
    for (line, name) in [("windlass --version", "windlass"), ("/usr/sbin/runc -v", "runc")] {
        let text = printed(line);
        let first = text.lines().next().expect("a line");
        assert_eq!(first, format!("{name} version {}", env!("CARGO_PKG_VERSION")));
        assert!(text.lines().any(|line| line.starts_with("commit: ")));
        assert!(text.ends_with("spec: 1.3.0\n"));
    }
}

#[test]
fn help_is_shown_for_the_program_and_for_each_verb() {
    for line in ["windlass", "windlass --help", "windlass -h", "windlass help"] {
        assert!(printed(line).starts_with("Usage: windlass [OPTION...] VERB"), "{line}");
    }
    for line in ["runc exec --help", "runc help exec", "runc exec -h", "runc exec c --help"] {
        assert!(printed(line).starts_with("Usage: runc exec "), "{line}");
    }
    assert_eq!(exec("windlass exec c ls --help").request.args, ["ls", "--help"]);
}

#[test]
fn explain_and_check_read_a_bundle() {
    let Command::Explain(explain) = command("windlass explain --bundle /b --format json web1") else { panic!() };
    assert_eq!((explain.id.as_deref(), explain.format), (Some("web1"), Format::Json));
    let Command::Check { bundle, format, .. } = command("windlass check") else { panic!() };
    assert_eq!((bundle.as_path(), format), (Path::new("."), Format::Table));
}

#[test]
fn events_have_an_interval() {
    let Command::Events { interval, stats, .. } = command("windlass events c") else { panic!() };
    assert_eq!((interval, stats), (Duration::from_secs(5), false));
    let Command::Events { interval, stats, .. } = command("windlass events --interval 100ms --stats c") else {
        panic!()
    };
    assert_eq!((interval, stats), (Duration::from_millis(100), true));
}

#[test]
fn update_takes_sizes_with_suffixes() {
    let update = update("windlass update --memory 64m --memory-swap -1 --cpu-period 50000 --cpuset-cpus 0-1 c");
    let resources = update.to_resources(None, &mut Vec::new()).expect("valid");
    let memory = resources.memory.expect("given");
    assert_eq!((memory.limit, memory.swap, memory.reservation), (Some(64 << 20), Some(-1), None));
    let cpu = resources.cpu.expect("given");
    assert_eq!((cpu.period, cpu.quota, cpu.cpus.as_str()), (Some(50_000), None, "0-1"));
    assert!(resources.pids.is_none() && resources.block_io.is_none());
}

#[test]
fn a_flag_of_update_overrides_the_document_and_leaves_the_rest() {
    let document =
        br#"{"memory":{"limit":1,"reservation":2},"cpu":{"shares":512},"pids":{"limit":5},"unified":{"a":"b"}}"#;
    let resources =
        update("windlass update -r - --memory 8k c").to_resources(Some(document), &mut Vec::new()).expect("valid");
    let memory = resources.memory.expect("given");
    assert_eq!((memory.limit, memory.reservation), (Some(8192), Some(2)));
    assert_eq!(resources.cpu.expect("given").shares, Some(512));
    assert_eq!(resources.pids.expect("given").limit, Some(5));
    assert_eq!(resources.unified["a"], "b");
}

#[test]
fn a_broken_document_of_update_is_located() {
    let error = update("windlass update -r - c")
        .to_resources(Some(b"{\"memory\":{\"limit\":\"x\"}}"), &mut Vec::new())
        .expect_err("broken");
    assert!(error.message().contains("/memory/limit"), "{error}");
}

#[test]
fn no_combination_of_words_makes_it_panic() {
    use std::os::unix::ffi::OsStringExt;
    let mut vocabulary: Vec<OsString> = [
        "",
        "-",
        "--",
        "---",
        "-=",
        "--=",
        "-b",
        "-b=",
        "--bundle",
        "--bundle=",
        "-bundle",
        "-dt",
        "-td=",
        "-u1",
        "-e=A",
        "exec",
        "ps",
        "kill",
        "run",
        "update",
        "restore",
        "help",
        "c",
        "-h",
        "--log",
        "-é",
        "--keep=é",
        "1",
    ]
    .map(OsString::from)
    .to_vec();
    vocabulary.push(OsString::from_vec(b"-\xff".to_vec()));
    vocabulary.push(OsString::from_vec(b"\xff".to_vec()));
    let mut read = 0;
    for one in &vocabulary {
        for two in &vocabulary {
            for three in &vocabulary {
                for verb in ["exec", "ps", "run", ""] {
                    let line = ["windlass".into(), verb.into(), one.clone(), two.clone(), three.clone()];
                    read += usize::from(parse_in(line.into_iter(), &root()).is_ok());
                }
            }
        }
    }
    assert!(read > 1000, "most of them are refused, but not all: {read}");
}
