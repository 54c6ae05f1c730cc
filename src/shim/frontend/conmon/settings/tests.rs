//! The settings from recorded argument lists of callers.

use super::*;
use crate::stdio::Log;

/// `podman run` of 4.3.1, ids and directories shortened.
const PODMAN_RUN: &[&str] = &[
    "--api-version",
    "1",
    "-c",
    "0765",
    "-u",
    "0765",
    "-r",
    "/bin/sh",
    "-b",
    "/p/0765/userdata",
    "-p",
    "/r/0765/userdata/pidfile",
    "-n",
    "web",
    "--exit-dir",
    "/run/libpod/exits",
    "--full-attach",
    "-s",
    "-l",
    "k8s-file:/p/0765/userdata/ctr.log",
    "--log-level",
    "warning",
    "--log-size-max=1000",
    "--runtime-arg",
    "--log-format=json",
    "--runtime-arg",
    "--log",
    "--runtime-arg=/r/0765/userdata/oci-log",
    "-t",
    "--timeout=9",
    "--conmon-pidfile",
    "/r/0765/userdata/conmon.pid",
    "--exit-command",
    "/usr/bin/podman",
    "--exit-command-arg",
    "--root",
    "--exit-command-arg",
    "/p",
    "--exit-command-arg",
    "--network-config-dir",
    "--exit-command-arg",
    "",
    "--exit-command-arg",
    "container",
    "--exit-command-arg",
    "cleanup",
    "--exit-command-arg",
    "--rm",
    "--exit-command-arg",
    "0765",
];

/// `podman exec` of 4.3.1.
const PODMAN_EXEC: &[&str] = &[
    "--api-version",
    "1",
    "-c",
    "0765",
    "-u",
    "e5e5",
    "-r",
    "/bin/sh",
    "-b",
    "/p/0765/userdata/e5e5",
    "-p",
    "/r/0765/userdata/e5e5/exec_pid",
    "-n",
    "web",
    "--exit-dir",
    "/p/0765/userdata/e5e5/exit",
    "--full-attach",
    "-l",
    "none",
    "--log-level",
    "warning",
    "--runtime-arg",
    "--log-format=json",
    "--runtime-arg",
    "--log",
    "--runtime-arg=/p/0765/userdata/e5e5/oci-log",
    "-i",
    "--exec-process-spec",
    "/p/0765/userdata/e5e5/exec-process-1",
    "-e",
    "--exec-attach",
    "--runtime-opt",
    "--preserve-fds",
    "--runtime-opt",
    "2",
    "--exit-command",
    "/usr/bin/podman",
    "--exit-command-arg",
    "--exec",
    "--exit-command-arg",
    "e5e5",
    "--exit-delay",
    "300",
];

/// `podman run` adds these from 5.0 on, according to its sources.
const PODMAN_5: &[&str] = &["--persist-dir", "/p/0765/userdata/persist/0765", "--sdnotify-socket=/run/notify"];

/// CRI-O's create, according to its sources.
const CRIO_CREATE: &[&str] = &[
    "-b",
    "/b",
    "-c",
    "0765",
    "--exit-dir",
    "/var/run/crio/exits",
    "-l",
    "/var/log/pods/web/0.log",
    "--log-level",
    "info",
    "-n",
    "k8s_web",
    "-P",
    "/b/conmon-pidfile",
    "-p",
    "/b/pidfile",
    "--persist-dir",
    "/var/lib/0765",
    "-r",
    "/bin/sh",
    "--runtime-arg",
    "--root=/run/windlass",
    "--socket-dir-path",
    "/var/run/crio",
    "--syslog",
    "-u",
    "0765",
    "-s",
    "--no-sync-log",
    "-i",
    "--leave-stdin-open",
];

/// CRI-O's execsync, the old interface, according to its sources.
const CRIO_EXECSYNC: &[&str] = &[
    "-c",
    "0765",
    "-n",
    "k8s_web",
    "-r",
    "/bin/sh",
    "-p",
    "/tmp/pid",
    "-e",
    "-l",
    "/tmp/log",
    "--socket-dir-path",
    "/var/run/crio",
    "--log-level",
    "info",
    "--sync",
    "--log-global-size-max",
    "16777216",
    "-T",
    "3",
    "--exec-process-spec",
    "/tmp/spec",
    "--runtime-arg",
    "--root=/run/windlass",
];

/// CRI-O's restore, according to its sources.
const CRIO_RESTORE: &[&str] = &[
    "-b",
    "/b",
    "-c",
    "0765",
    "-u",
    "0765",
    "-r",
    "/bin/sh",
    "-l",
    "/l",
    "-p",
    "/b/pidfile",
    "--restore",
    "/checkpoint",
    "--runtime-opt",
    "--manage-cgroups=soft",
    "--no-pivot",
];

fn of(words: &[&str]) -> Result<(Settings, NewProcess), Error> {
    Settings::from_arguments(Arguments::parse(words.iter().map(Into::into).collect()).expect("options"))
}

fn words(list: &[OsString]) -> Vec<&str> {
    list.iter().map(|word| word.to_str().expect("text")).collect()
}

fn decimal(path: &str) -> ExitFile {
    ExitFile::Decimal(path.into())
}

#[test]
fn podman_run() {
    let (settings, process) = of(PODMAN_RUN).expect("settings");
    assert_eq!(process.id, ProcessId::init("0765"));
    assert_eq!(process.exit_files, [decimal("/run/libpod/exits/0765")]);
    assert_eq!(process.pid_file, Path::new("/r/0765/userdata/pidfile"));
    assert!(process.stdio.terminal && matches!(process.stdio.stdin, Stdin::Attach { leave_open: false }));
    assert!(matches!(&process.stdio.logs[..], [Log::K8s(file)] if file.max_size == Some(1000) && file.sync));
    let global = words(&settings.container.runtime.global);
    assert_eq!(global, ["--systemd-cgroup", "--log-format=json", "--log", "/r/0765/userdata/oci-log"]);
    assert_eq!(settings.key, NumberKey::Data);
    assert_eq!(settings.timeout, Some(Duration::from_secs(9)));
    assert_eq!(settings.endpoints, Some(EndpointPaths { bundle: "/p/0765/userdata".into(), link: None }));
    let exit = settings.exit.expect("an exit command");
    assert_eq!(exit.delay, Duration::ZERO);
    let cleanup = ["--root", "/p", "--network-config-dir", "", "container", "cleanup", "--rm", "0765"];
    assert_eq!(words(&exit.arguments), cleanup);
}

#[test]
fn podman_5_has_a_directory_that_persists() {
    let (settings, process) = of(&[PODMAN_RUN, PODMAN_5].concat()).expect("settings");
    let persist = "/p/0765/userdata/persist/0765";
    assert_eq!(process.exit_files, [decimal("/run/libpod/exits/0765"), decimal(&format!("{persist}/exit"))]);
    let oom_files = [Path::new("/p/0765/userdata/oom").into(), Path::new(persist).join("oom")];
    assert_eq!(settings.container.oom_files, oom_files);
    assert_eq!(settings.notify_socket.as_deref(), Some("/run/notify"));
}

#[test]
fn podman_exec() {
    let (settings, process) = of(PODMAN_EXEC).expect("settings");
    assert!(process.id.exec.is_some() && settings.attach_first);
    assert_eq!(process.exit_files, [decimal("/p/0765/userdata/e5e5/exit/0765")]);
    assert_eq!(words(&process.arguments), ["--preserve-fds", "2"]);
    assert_eq!(process.preserve_fds, [3, 4]);
    assert!(process.stdio.logs.is_empty() && matches!(process.stdio.stdout, Output::Attach));
    assert!(matches!(process.stdio.stderr, Output::Attach));
    let bundle = "/p/0765/userdata/e5e5".into();
    assert_eq!(settings.endpoints, Some(EndpointPaths { bundle, link: None }), "it has a bundle of its own");
    assert_eq!(settings.exit.map(|exit| exit.delay), Some(Duration::from_secs(300)));
}

#[test]
fn crio_create() {
    let (settings, process) = of(CRIO_CREATE).expect("settings");
    assert_eq!(settings.key, NumberKey::Pid);
    let link = Some("/var/run/crio/0765".into());
    assert_eq!(settings.endpoints, Some(EndpointPaths { bundle: "/b".into(), link }));
    assert_eq!(settings.pid_file.as_deref(), Some(Path::new("/b/conmon-pidfile")));
    assert!(matches!(process.stdio.stdin, Stdin::Attach { leave_open: true }) && !process.stdio.terminal);
    assert!(matches!(&process.stdio.logs[..], [Log::K8s(file)] if !file.sync));
    assert!(settings.syslog && !settings.stay);
}

#[test]
fn crio_execsync() {
    let (settings, process) = of(CRIO_EXECSYNC).expect("settings");
    assert_eq!((settings.key, settings.stay), (NumberKey::ExitCode, true));
    assert_eq!(settings.timeout, Some(Duration::from_secs(3)));
    assert_eq!(settings.endpoints, None, "without a bundle nobody attaches");
    assert!(matches!(process.stdio.stdin, Stdin::Null), "nobody has asked for input");
    assert!(process.exit_files.is_empty() && !settings.attach_first);
    assert!(matches!(&process.stdio.logs[..], [Log::K8s(file)] if file.max_total == Some(16 << 20)));
}

#[test]
fn crio_restore() {
    let (_, process) = of(CRIO_RESTORE).expect("settings");
    assert_eq!(process.making, Making::Restore);
    let restore = ["--detach", "--image-path", "/checkpoint", "--work-path", "/b"];
    assert_eq!(words(&process.arguments), [&["--no-pivot"], &restore[..], &["--manage-cgroups=soft"]].concat());
}

/// The options that a container must have, and no others.
const LEAST: &[&str] = &["-c", "0765", "-u", "0765", "-r", "/bin/sh", "-l", "none"];

#[test]
fn what_is_not_asked_for_has_its_default() {
    let (settings, process) = of(LEAST).expect("settings");
    let here = std::env::current_dir().expect("a directory");
    assert_eq!(process.pid_file, here.join("pidfile-0765"));
    assert_eq!(settings.endpoints.map(|endpoints| endpoints.bundle), Some(here), "a container always has a socket");
    assert_eq!((settings.timeout, settings.exit, settings.pid_file), (None, None, None));
    assert!(process.preserve_fds.is_empty() && process.exit_files.is_empty() && process.arguments.is_empty());
}

/// As conmon 2.1.6 calls a runtime.
#[test]
fn old_names_of_options_mean_what_they_mean_to_conmon() {
    let (settings, process) = of(&[LEAST, &["--pidfile", "/p"]].concat()).expect("settings");
    assert_eq!((process.pid_file.as_path(), settings.pid_file), (Path::new("/p"), None));
    let (_, process) = of(&[LEAST, &["--runtime-opt", "a", "--restore-arg", "b"]].concat()).expect("settings");
    assert_eq!(words(&process.arguments), ["a", "b"]);
}

#[test]
fn a_time_of_zero_or_less_is_none() {
    assert_eq!([-1, 0, 1].map(|n| seconds(Some(n))), [None, None, Some(Duration::from_secs(1))]);
}

#[test]
fn with_the_log_driver_passthrough_the_streams_are_the_callers() {
    let (settings, process) = of(&[LEAST, &["-l", "passthrough"]].concat()).expect("settings");
    assert!(settings.passthrough && settings.endpoints.is_none());
    let streams = (process.stdio.stdin, process.stdio.stdout, process.stdio.stderr);
    assert!(matches!(streams, (Stdin::Inherit, Output::Inherit, Output::Inherit)));
}

#[test]
fn what_contradicts_itself_is_refused_in_conmon_s_words() {
    let refused = |words: &[&[&str]]| of(&words.concat()).expect_err("a contradiction").to_string();
    // conmon looks for these before it misses the file with the process, the UUID and the runtime.
    let both = "Cannot use 'exec' and 'restore' at the same time";
    assert_eq!(refused(&[CRIO_RESTORE, &["-e"]]), both);
    assert_eq!(refused(&[&["-c", "0765", "-e", "--restore", "/x"]]), both);
    let legacy = "Attach can only be specified for a non-legacy exec session";
    assert_eq!(refused(&[CRIO_EXECSYNC, &["--exec-attach"]]), legacy);
    assert_eq!(refused(&[PODMAN_RUN, &["--exec-attach"]]), "Attach can only be specified with exec");
    assert_eq!(refused(&[&["-c", "0765", "--exec-attach"]]), "Attach can only be specified with exec");
}

/// CRI-O's execsync has no UUID. With --api-version, conmon misses it before the runtime and the file with the process.
#[test]
fn an_exec_of_the_new_interface_has_a_uuid() {
    let missing = "Container UUID not provided. Use --cuuid";
    for words in [&["-c", "0765", "-e"][..], &["-c", "0765", "-e", "-r", "/no/such/runtime"]] {
        let refused = of(&[words, &["--api-version"]].concat()).expect_err("no UUID");
        assert_eq!(refused.to_string(), missing);
        assert_ne!(of(words).expect_err("no runtime").to_string(), missing);
    }
}

#[test]
fn what_is_missing_is_named() {
    for left_out in ["-c", "-u", "-r", "-l"] {
        let at = PODMAN_RUN.iter().position(|word| *word == left_out).expect("there");
        let rest = [&PODMAN_RUN[..at], &PODMAN_RUN[at + 2..]].concat();
        assert!(of(&rest).is_err_and(|error| error.to_string().contains("Use --")), "{left_out}");
    }
    assert!(of(&[PODMAN_RUN, &["-e"]].concat()).is_err_and(|error| error.to_string().contains("--exec-process-spec")));
    assert!(
        of(&[PODMAN_RUN, &["-r", "/no/such/runtime"]].concat())
            .is_err_and(|error| error.to_string().contains("not valid"))
    );
    assert!(
        of(&[PODMAN_RUN, &["--log-level", "loud"]].concat()).is_err_and(|error| error.to_string().contains("loud"))
    );
    assert!(of(&[PODMAN_RUN, &["--seccomp-notify-socket", "/s"]].concat()).is_err());
}
