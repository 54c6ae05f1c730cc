//! Standard input, output and error: their owners, and that no byte is lost. The other properties that a process
//! inherits from its caller: signals, CPUs, descriptors.

use crate::chapter;
use crate::ensure;
use crate::ensure_eq;
use crate::kit::Need::Windlass;
use crate::kit::machine::{field, text};
use crate::kit::stop::{Context, fail};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, T, Verdict, runtime};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::time::Duration;

chapter! { "stdio":
    what_the_caller_gave_stays_the_callers [Windlass],
    the_program_can_open_its_output_again [Windlass],
    a_pipe_given_to_create_becomes_the_programs [Windlass],
    output_and_errors_keep_their_order [Windlass],
    a_reader_that_has_gone_ends_the_program [Windlass],
    a_slow_reader_gets_everything_and_the_exit_status [Windlass],
    who_else_holds_the_pipe_is_not_waited_for [Windlass],
    input_is_passed_on_up_to_its_end [Windlass],
    a_background_job_at_a_terminal_is_not_stopped [Windlass],
    signals_that_the_caller_ignored_have_their_default_action [Windlass],
    the_callers_cpus_are_not_the_containers [Windlass],
    descriptors_that_are_not_open_are_refused [Windlass],
    a_waiting_init_holds_nothing_of_the_state [Windlass],
    listen_fds_of_another_process_mean_nothing [Windlass],
    an_exec_knows_its_own_id_in_listen_pid [Windlass],
    nothing_in_a_message_reaches_the_terminal_raw [Windlass],
    warnings_are_on_standard_error_unless_there_is_a_log,
}

const USER: u32 = 1000;

/// A bundle whose process is an ordinary user, with or without a user namespace.
fn bundle(t: &T, script: &str, user_namespace: bool, uid: u32) -> Verdict<Bundle> {
    let bundle = match user_namespace {
        true => super::namespaces::user_namespace(t)?,
        false => t.bundle()?,
    };
    Ok(bundle.sh(script).set("/process/user", json!({"uid": uid, "gid": uid})))
}

/// Files of the kinds that a caller may have at 0, 1 and 2, none of them an anonymous pipe.
fn objects(t: &T) -> Verdict<Vec<(&'static str, OwnedFd)>> {
    let number = t.id();
    let path = |kind: &str| t.path(&format!("{kind}-{number}"));
    let open = |path, flags: OFlag| -> Verdict<OwnedFd> {
        Ok(File::options().read(true).write(true).create(true).custom_flags(flags.bits()).open(path)?.into())
    };
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
    let zero = nix::sys::stat::makedev(1, 5);
    nix::sys::stat::mknod(&path("device"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRWXU, zero)?;
    let pty = nix::pty::openpty(None, None)?;
    // The master stays open as long as this process lives: otherwise the terminal would be hung up.
    std::mem::forget(pty.master);
    Ok(vec![
        ("a file", open(path("file"), OFlag::empty())?),
        ("a FIFO", open(path("fifo"), OFlag::O_NONBLOCK)?),
        ("a device", open(path("device"), OFlag::empty())?),
        ("a terminal", pty.slave),
    ])
}

fn owner(fd: &OwnedFd) -> Verdict<u32> {
    Ok(File::from(fd.try_clone()?).metadata()?.uid())
}

fn with_stdio(mut command: Command, fd: &OwnedFd) -> Verdict<Command> {
    command.stdin(fd.try_clone()?).stdout(fd.try_clone()?).stderr(fd.try_clone()?);
    Ok(command)
}

/// Runs a command whose stdio is set already.
fn finish(mut command: Command) -> Verdict<i32> {
    let shown = runtime::shown(&command);
    let mut child = command.spawn()?;
    match runtime::wait(&mut child, Duration::from_secs(20), &shown) {
        Ok(status) => Ok(runtime::code(status)),
        Err(hung) => fail(hung),
    }
}

fn verb(t: &T, bundle: &Bundle, words: &[&str], id: &str) -> Verdict<Command> {
    bundle.write()?;
    let mut command = t.command();
    command.args(words).arg("--bundle").arg(&bundle.dir).arg(id);
    Ok(command)
}

fn what_the_caller_gave_stays_the_callers(t: &T) -> Verdict {
    for user_namespace in [false, true] {
        for (kind, object) in objects(t)? {
            let before = owner(&object)?;
            let check = |what: &str| -> Verdict {
                ensure_eq!(
                    owner(&object)?,
                    before,
                    "the owner of {kind} after {what}, user namespace: {user_namespace}"
                );
                Ok(())
            };
            let brief = bundle(t, "exit 0", user_namespace, USER)?;
            ensure_eq!(finish(with_stdio(verb(t, &brief, &["run"], &t.id())?, &object)?)?, 0, "run with {kind}");
            check("run")?;
            let lasting = bundle(t, "sleep 1000", user_namespace, USER)?;
            for words in [&["create"][..], &["run", "--detach"]] {
                let container = Container::new(t, t.id(), lasting.dir.clone());
                let command = with_stdio(verb(t, &lasting, words, &container.id)?, &object)?;
                ensure_eq!(finish(command)?, 0, "{words:?} with {kind}");
                check(&words.join(" "))?;
                if words.len() == 2 {
                    for detach in [&[][..], &["--detach"]] {
                        let mut command = t.command();
                        command.arg("exec").args(detach).arg(&container.id).args(["/bin/sh", "-c", "exit 0"]);
                        ensure_eq!(finish(with_stdio(command, &object)?)?, 0, "exec {detach:?} with {kind}");
                        check("exec")?;
                    }
                }
                container.verb("delete", &["--force"], &[])?.ok()?;
            }
        }
    }
    Ok(())
}

const AGAIN: &str = "echo out >/dev/stdout && echo err >/dev/stderr";

/// In a user namespace every user of the host that is not mapped there seems to be 65534, which may also be a user of the
/// container.
fn the_program_can_open_its_output_again(t: &T) -> Verdict {
    for (user_namespace, uid) in [(false, USER), (true, 0), (true, USER), (true, 65534)] {
        let what = format!("user {uid}, user namespace: {user_namespace}");
        let output = verb(t, &bundle(t, AGAIN, user_namespace, uid)?, &["run"], &t.id())?.output()?;
        ensure_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]), "run, {what}");
        let container = t.start(&bundle(t, "sleep 1000", user_namespace, uid)?)?;
        let mut command = t.command();
        command.args(["exec", &container.id, "/bin/sh", "-c", AGAIN]);
        let output = command.output()?;
        ensure_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]), "exec, {what}");
    }
    // With files too, the program has a pipe, and the runtime writes the file.
    t.run(&bundle(t, AGAIN, true, USER)?)?.ok()?.stdout_is("out\n")?.stderr_has("err\n")?;
    Ok(())
}

fn a_pipe_given_to_create_becomes_the_programs(t: &T) -> Verdict {
    for (user_namespace, uid) in [(false, USER), (true, 0), (true, USER)] {
        let bundle = bundle(t, AGAIN, user_namespace, uid)?;
        let container = Container::new(t, t.id(), bundle.dir.clone());
        let (mut reader, writer) = std::io::pipe()?;
        let mut command = verb(t, &bundle, &["create"], &container.id)?;
        command.stdout(OwnedFd::from(writer.try_clone()?)).stderr(OwnedFd::from(writer));
        ensure_eq!(finish(command)?, 0, "create");
        let host_id = if user_namespace { 100_000 + uid } else { uid };
        ensure_eq!(owner(&reader.try_clone()?.into())?, host_id, "the owner of the pipe");
        container.start()?;
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        ensure_eq!(text, "out\nerr\n", "user {uid}, user namespace: {user_namespace}");
    }
    Ok(())
}

fn output_and_errors_keep_their_order(t: &T) -> Verdict {
    let script = "i=0; while [ $i -lt 300 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done";
    let expected: String = (0..300).map(|i| format!("o{i}\ne{i}\n")).collect();
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = verb(t, &bundle(t, script, false, USER)?, &["run"], &t.id())?;
    command.stdout(OwnedFd::from(writer.try_clone()?)).stderr(OwnedFd::from(writer));
    let mut child = command.spawn()?;
    drop(command);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    ensure!(child.wait()?.success(), "run failed: {text}");
    ensure!(text == expected, "the lines came as {text}");
    Ok(())
}

fn a_reader_that_has_gone_ends_the_program(t: &T) -> Verdict {
    let (reader, writer) = std::io::pipe()?;
    // A second process writes: SIGPIPE without a handler does not end the first process of a PID namespace.
    let script = "(while :; do echo x; done); exit $?";
    let mut command = verb(t, &bundle(t, script, false, USER)?, &["run"], &t.id())?;
    command.stdout(OwnedFd::from(writer)).stderr(Stdio::null());
    let mut child = command.spawn()?;
    drop(command);
    let mut reader = reader;
    reader.read_exact(&mut [0; 10])?;
    drop(reader);
    let status = match runtime::wait(&mut child, Duration::from_secs(20), "run") {
        Ok(status) => status,
        Err(hung) => return fail(hung),
    };
    ensure_eq!(runtime::code(status), 128 + libc::SIGPIPE, "the exit status of the program");
    Ok(())
}

/// More bytes than a pipe and a terminal hold, so that the end comes before the reader has got them all.
const MUCH: usize = 300_000;

fn a_slow_reader_gets_everything_and_the_exit_status(t: &T) -> Verdict {
    let script = format!("head -c {MUCH} /dev/zero | tr '\\000' x; exit 7");
    for (nonblocking, terminal) in [(false, false), (true, false), (false, true), (true, true)] {
        let what = format!("a terminal: {terminal}, non-blocking: {nonblocking}");
        let bundle = bundle(t, &script, false, USER)?.set("/process/terminal", json!(terminal));
        let (mut reader, writer) = std::io::pipe()?;
        let writer = OwnedFd::from(writer);
        let flags = || -> Verdict<OFlag> { Ok(OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL)?)) };
        if nonblocking {
            fcntl(&writer, FcntlArg::F_SETFL(flags()? | OFlag::O_NONBLOCK))?;
        }
        let before = flags()?;
        let mut command = verb(t, &bundle, &["run"], &t.id())?;
        command.stdout(writer.try_clone()?).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        drop(command);
        std::thread::sleep(Duration::from_millis(300));
        ensure_eq!(flags()?, before, "the flags of the caller's pipe, {what}");
        drop(writer);
        let (mut got, mut buffer) = (0, vec![0; 10_000]);
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                n => got += buffer[..n].iter().filter(|byte| **byte == b'x').count(),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        ensure_eq!(got, MUCH, "bytes, {what}");
        ensure_eq!(runtime::code(child.wait()?), 7, "exit status, {what}");
    }
    Ok(())
}

fn who_else_holds_the_pipe_is_not_waited_for(t: &T) -> Verdict {
    // In a PID namespace the kernel kills the other process with init; here it stays.
    let bundle = bundle(t, "sleep 1000 & echo $! here; exit 3", false, USER)?.namespace("pid", None);
    let mut command = verb(t, &bundle, &["run", "--keep", "--no-subreaper"], "holder")?;
    let (mut reader, writer) = std::io::pipe()?;
    command.stdout(OwnedFd::from(writer)).stderr(Stdio::null());
    let code = finish(command)?;
    let mut text = [0; 64];
    let n = reader.read(&mut text)?;
    let text = String::from_utf8_lossy(&text[..n]).into_owned();
    t.runtime(&["delete", "--force", "holder"])?.ok()?;
    ensure_eq!(code, 3, "exit status");
    ensure!(text.ends_with(" here\n"), "what was printed before is delivered: {text:?}");
    Ok(())
}

fn input_is_passed_on_up_to_its_end(t: &T) -> Verdict {
    let bundle = bundle(t, "cat; echo end", false, USER)?;
    let text: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    for pipe in [false, true] {
        let mut command = verb(t, &bundle, &["run"], &t.id())?;
        let output = if pipe {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let mut stdin = child.stdin.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
            let bytes = text.clone();
            let writer = std::thread::spawn(move || stdin.write_all(bytes.as_bytes()));
            let output = child.wait_with_output()?;
            ensure!(writer.join().is_ok_and(|written| written.is_ok()), "not all of the input was taken");
            output
        } else {
            command.stdin(runtime::stdin_of(&t.dir, text.as_bytes())?).output()?
        };
        ensure!(output.status.success(), "run failed: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.stdout == format!("{text}end\n").as_bytes(), "{} bytes came, pipe: {pipe}", output.stdout.len());
    }
    Ok(())
}

fn a_background_job_at_a_terminal_is_not_stopped(t: &T) -> Verdict {
    let pty = nix::pty::openpty(None, None)?;
    let bundle = bundle(t, "sleep 1; exit 5", false, USER)?;
    bundle.write()?;
    let mut command = Command::new("setsid");
    // The job is not in the foreground process group, and a line is typed.
    let script = "set -m; \"$@\" & wait $!; echo status $? >\"$OUT\"";
    let out = t.path("status");
    command.args(["--ctty", "--wait", "sh", "-c", script, "sh"]).arg(&t.runtime).arg("--root").arg(t.root());
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id()).env("OUT", &out);
    command.stdin(pty.slave.try_clone()?).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    nix::unistd::write(pty.master.as_fd(), b"typed\n")?;
    if let Err(hung) = runtime::wait(&mut child, Duration::from_secs(20), "run in the background") {
        return fail(hung);
    }
    ensure_eq!(text(&out), "status 5", "what the shell saw");
    Ok(())
}

/// `env` that ignores every signal and then executes the runtime with `words`.
fn ignoring(t: &T, words: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg("--ignore-signal").arg(&t.runtime).arg("--root").arg(t.root()).args(words).stdin(Stdio::null());
    command
}

fn signals_that_the_caller_ignored_have_their_default_action(t: &T) -> Verdict {
    let shown = "grep -E 'Sig(Ign|Blk)' /proc/self/status";
    let clean = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    // The container's shell is busybox's, which may ignore SIGQUIT itself.
    let inside = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default().replace("4\n", "0\n");
    let direct = ["/bin/grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"];
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >/dev/null; {shown} >{}", t.path(name).display())]}]);
    let inner_hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >/dev/null; {shown} >/started")]}]);
    let bundle = t
        .bundle()?
        .sh(&format!("{shown} >/out; exec sleep 1000"))
        .set("/root/readonly", json!(false))
        .set("/hooks/prestart", hook("prestart"))
        .set("/hooks/createRuntime", hook("createRuntime"))
        .set("/hooks/createContainer", hook("createContainer"))
        .set("/hooks/startContainer", inner_hook)
        .set("/hooks/poststart", hook("poststart"))
        .set("/hooks/poststop", hook("poststop"));
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    for verbs in [&["create", "start"][..], &["run"]] {
        let id = t.id();
        match verbs {
            [_, _] => {
                ensure_eq!(finish(ignoring(t, &["create", "--bundle", &dir, &id]))?, 0, "create");
                ensure_eq!(finish(ignoring(t, &["start", &id]))?, 0, "start");
            }
            _ => ensure_eq!(finish(ignoring(t, &["run", "--detach", "--bundle", &dir, &id]))?, 0, "run"),
        }
        let container = Container::new(t, id, bundle.dir.clone());
        eventually("the program's word", || (text(bundle.rootfs().join("out")).lines().count() == 2).then_some(()))?;
        let ran = t.finish(ignoring(t, &[&["exec", &container.id][..], &direct].concat()))?;
        ran.ok()?.stdout_is(clean)?;
        ensure_eq!(finish(ignoring(t, &["delete", "--force", &container.id]))?, 0, "delete");
        let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default();
        ensure_eq!(inside(bundle.rootfs().join("out")), clean, "the program, {verbs:?}");
        ensure_eq!(inside(bundle.rootfs().join("started")), clean, "the hook startContainer, {verbs:?}");
        for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            ensure_eq!(read(t.path(name)), clean, "the hook {name}, {verbs:?}");
            let _ = fs::remove_file(t.path(name));
        }
        fs::remove_file(bundle.rootfs().join("out"))?;
    }
    let bundle = t.bundle()?.args(&direct);
    bundle.write()?;
    let words = ["run", "--bundle", &bundle.dir.display().to_string(), &t.id()].map(str::to_owned);
    t.finish(ignoring(t, &words.each_ref().map(String::as_str)))?.ok()?.stdout_is(clean)?;
    // With SIGCHLD ignored the kernel reaps children itself; the status must not be lost for it.
    let bundle = t.bundle()?.sh("exit 9");
    bundle.write()?;
    let id = t.id();
    let words = ["run", "--bundle", &bundle.dir.display().to_string(), &id].map(str::to_owned);
    ensure_eq!(finish(ignoring(t, &words.each_ref().map(String::as_str)))?, 9, "the exit status");
    Ok(())
}

fn the_callers_cpus_are_not_the_containers(t: &T) -> Verdict {
    let all = field(&text("/proc/self/status"), "Cpus_allowed_list");
    let first = all.split([',', '-']).next().unwrap_or_default().to_owned();
    if all == first {
        return crate::kit::stop::skip("there is one CPU only");
    }
    let shown = "grep Cpus_allowed_list /proc/self/status | cut -f2";
    let narrow = |words: &[&str]| {
        let mut command = Command::new("taskset");
        command.args(["-c", &first]).arg(&t.runtime).arg("--root").arg(t.root()).args(words).stdin(Stdio::null());
        command
    };
    let out = t.path("hook");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("{shown} >{}", out.display())]}]);
    let bundle = t.bundle()?.sh(&format!("{shown} >/out; exec sleep 1000")).set("/root/readonly", json!(false));
    let bundle = bundle.set("/hooks/createRuntime", hook);
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    let inside = bundle.rootfs().join("out");
    for words in [&["create"][..], &["run", "--detach"]] {
        let container = Container::new(t, t.id(), bundle.dir.clone());
        let command = narrow(&[words, &["--bundle", &dir, &container.id]].concat());
        t.finish(command)?.ok()?;
        if words.len() == 1 {
            container.start()?;
        }
        eventually("the program's word", || (!text(&inside).is_empty()).then_some(()))?;
        ensure_eq!(text(&inside), all, "the program, {words:?}");
        ensure_eq!(text(&out), all, "the hook, {words:?}");
        t.finish(narrow(&["exec", &container.id, "/bin/sh", "-c", shown]))?.ok()?.stdout_is(&format!("{all}\n"))?;
        // The settings of the process itself take precedence.
        let process = json!({
            "args": ["/bin/sh", "-c", shown], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "execCPUAffinity": {"final": first},
        });
        container.exec_process(&process, &[])?.ok()?.stdout_is(&format!("{first}\n"))?;
        container.verb("delete", &["--force"], &[])?.ok()?;
        fs::remove_file(&inside)?;
        fs::remove_file(&out)?;
    }
    Ok(())
}

fn descriptors_that_are_not_open_are_refused(t: &T) -> Verdict {
    let container = t.running()?;
    let bundle = t.bundle()?.sh("exit 0");
    for number in ["1", "2", "65536", "2147483647", "4294967295"] {
        for verb in ["run", "create"] {
            let ran = t.run_with(&bundle, &["--preserve-fds", number]);
            let ran = if verb == "run" { ran? } else { t.try_create(&bundle, &["--preserve-fds", number])?.0 };
            ran.code_is(1)?.stderr_has("unable to preserve file descriptor 3")?;
        }
        let ran = container.try_exec(&["--preserve-fds", number], &["/bin/sh", "-c", "exit 0"])?;
        ran.code_is(255)?.stderr_has("unable to preserve file descriptor 3")?;
    }
    Ok(())
}

fn a_waiting_init_holds_nothing_of_the_state(t: &T) -> Verdict {
    let bundle = t.bundle()?;
    bundle.write()?;
    let container = Container::new(t, t.id(), bundle.dir.clone());
    let dir = bundle.dir.display().to_string();
    let command = listening(t, "A=b", &["create", "--preserve-fds", "1", "--bundle", &dir, &container.id]);
    t.finish(command)?.ok()?;
    let pid = container.pid()?;
    let mut open: Vec<String> = Vec::new();
    // `create` may return before init has closed its end of their conversation.
    let waits = eventually("one socket and the descriptor of the caller", || {
        open = descriptors_above_2(pid).unwrap_or_default();
        (open.len() == 2 && open[0] == "3 /dev/null" && open[1].contains("socket:")).then_some(())
    });
    waits.context(format!("init holds {open:?}"))
}

/// The descriptors of a process but 0, 1 and 2: numbers and paths.
fn descriptors_above_2(pid: i32) -> Verdict<Vec<String>> {
    let mut open: Vec<String> = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().into_owned();
        if !["0", "1", "2"].contains(&&*number) {
            open.push(format!("{number} {}", fs::read_link(entry.path())?.display()));
        }
    }
    open.sort();
    Ok(open)
}

/// The runtime as a service manager starts it, with `variables` set by the shell that becomes it.
fn listening(t: &T, variables: &str, words: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = format!("export {variables}; exec \"$@\" 3</dev/null");
    command.args(["-c", &script, "sh"]).arg(&t.runtime).arg("--root").arg(t.root()).args(words).stdin(Stdio::null());
    command
}

fn listen_fds_of_another_process_mean_nothing(t: &T) -> Verdict {
    let bundle = t.bundle()?.helper()?.sh("/helper @payload fds; echo _${LISTEN_FDS}_${LISTEN_PID}_");
    bundle.write()?;
    let dir = bundle.dir.display().to_string();
    // Descriptors for another process, for none, and with an invalid process id.
    for variables in ["LISTEN_FDS=3 LISTEN_PID=1", "LISTEN_FDS=1", "LISTEN_FDS=1 LISTEN_PID=x"] {
        let ran = t.finish(listening(t, variables, &["run", "--bundle", &dir, &t.id()]))?.ok()?;
        let lines = ran.lines();
        ensure_eq!(lines.len(), 4, "{variables}: descriptors and the variables are {lines:?}");
        ensure_eq!(lines[3], "___", "{variables}");
    }
    Ok(())
}

fn an_exec_knows_its_own_id_in_listen_pid(t: &T) -> Verdict {
    let script = "[ \"$LISTEN_PID\" = $$ ] && echo $LISTEN_FDS $LISTEN_FDNAMES";
    let variables = "LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web";
    let container = t.running()?;
    let command = listening(t, variables, &["exec", &container.id, "/bin/sh", "-c", script]);
    t.finish(command)?.ok()?.stdout_is("1 web\n")?;
    // A variable of the configuration gives way.
    let all = format!("grep -c LISTEN_PID=7 /proc/$$/environ; {script}");
    let bundle = t.bundle()?.sh(&all).set("/process/env/-", json!("LISTEN_PID=7")).namespace("pid", None);
    bundle.write()?;
    let command = listening(t, variables, &["run", "--bundle", &bundle.dir.display().to_string(), &t.id()]);
    t.finish(command)?.ok()?.stdout_is("0\n1 web\n")?;
    Ok(())
}

fn nothing_in_a_message_reaches_the_terminal_raw(t: &T) -> Verdict {
    let evil = "x\ntime=\"0\" level=error msg=forged\u{1b}[2J";
    let bundles = [
        t.bundle()?.args(&[evil]),
        t.bundle()?.bind(std::path::Path::new(&format!("/no/{evil}")), "/mnt", &["bind"]),
        t.bundle()?.set("/process/cwd", json!(format!("/proc/{evil}"))),
    ];
    for bundle in bundles {
        let ran = t.run(&bundle)?.fails()?;
        ensure!(!ran.stderr.contains('\u{1b}'), "an escape sequence: {:?}", ran.stderr);
        let forged = ran.stderr.lines().any(|line| line.starts_with("time="));
        ensure!(!forged, "a line of its own: {:?}", ran.stderr);
        ensure!(ran.stderr.contains("\\n"), "it is shown all the same: {:?}", ran.stderr);
    }
    Ok(())
}

fn warnings_are_on_standard_error_unless_there_is_a_log(t: &T) -> Verdict {
    let bundle = t.bundle()?.set("/process/capabilities/ambient", json!(["CAP_CHOWN"]));
    let bundle = bundle.set("/process/capabilities/inheritable", json!([]));
    let words = "can't raise ambient capability CAP_CHOWN: ";
    t.run(&bundle)?.ok()?.stderr_has(words)?;
    let log = t.path("log");
    bundle.write()?;
    let mut command = std::process::Command::new(&t.runtime);
    command.arg("--root").arg(t.path("other")).arg("--log").arg(&log);
    command.args(["run", "--bundle"]).arg(&bundle.dir).arg(t.id());
    let ran = t.finish(command)?.ok()?;
    ensure_eq!(ran.stderr, "", "standard error beside a log");
    ensure!(fs::read_to_string(&log)?.contains(words), "the log has no warning");
    Ok(())
}
