//! config.md, "Process": `terminal` and `consoleSize`; the console socket.

use crate::chapter;
use crate::kit::console::{FdSocket, Terminal, start_at_terminal};
use crate::kit::runtime;
use crate::kit::stop::fail;
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, Need, T, Verdict};
use crate::{ensure, ensure_eq};
use serde_json::json;
use std::time::Duration;

chapter! { "terminal":
    create_sends_the_master_over_the_console_socket,
    the_payload_has_a_controlling_terminal,
    console_size_is_applied,
    dev_console_is_the_terminal,
    the_terminal_belongs_to_the_user,
    a_terminal_without_a_socket_is_refused_by_create,
    a_socket_without_a_terminal_is_refused,
    a_missing_console_socket_fails_the_create,
    in_the_foreground_a_line_ends_with_a_line_feed,
    in_the_foreground_the_terminal_follows_the_size_of_the_callers,
    in_the_foreground_the_callers_terminal_is_raw_until_the_end,
    exec_tty_gets_a_terminal_of_its_own,
    exec_process_with_a_terminal_and_size,
    the_master_of_a_container_without_dev_pts_is_an_error_or_works,
    a_terminal_that_cannot_be_taken_over_leaves_nothing [Need::Windlass],
    a_multiplexer_that_is_none_of_a_devpts_is_not_opened [Need::Windlass],
}

fn with_terminal<'t>(t: &'t T, bundle: &Bundle) -> Verdict<(Container<'t>, Terminal)> {
    let socket = FdSocket::new(t.path("console"))?;
    let container = t.create_with(bundle, &["--console-socket", socket.arg()])?;
    let terminal = socket.terminal()?;
    container.start()?;
    Ok((container, terminal))
}

fn bundle(t: &T, script: &str) -> Verdict<Bundle> {
    Ok(t.bundle()?.sh(script).set("/process/terminal", json!(true)))
}

fn create_sends_the_master_over_the_console_socket(t: &T) -> Verdict {
    let (_container, mut terminal) = with_terminal(t, &bundle(t, "read line; echo \"got $line\"")?)?;
    terminal.write("hello\n")?;
    terminal.read_until("got hello\r\n")?;
    Ok(())
}

fn the_payload_has_a_controlling_terminal(t: &T) -> Verdict {
    let script = "echo in >/dev/tty; tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three";
    let (_container, mut terminal) = with_terminal(t, &bundle(t, script)?)?;
    let seen = terminal.read_until("all three")?;
    if seen.contains("in\r\n") && seen.contains("/dev/") {
        Ok(())
    } else {
        fail(format!("the terminal showed {seen:?}"))
    }
}

fn console_size_is_applied(t: &T) -> Verdict {
    let bundle = bundle(t, "stty size")?.set("/process/consoleSize", json!({"height": 33, "width": 77}));
    let (_container, mut terminal) = with_terminal(t, &bundle)?;
    terminal.read_until("33 77\r\n")?;
    Ok(())
}

fn dev_console_is_the_terminal(t: &T) -> Verdict {
    let (_container, mut terminal) = with_terminal(t, &bundle(t, "echo through the console >/dev/console; sleep 1")?)?;
    terminal.read_until("through the console")?;
    Ok(())
}

fn the_terminal_belongs_to_the_user(t: &T) -> Verdict {
    let bundle = bundle(t, "stat -c '%u owns' $(tty)")?.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let (_container, mut terminal) = with_terminal(t, &bundle)?;
    terminal.read_until("1000 owns")?;
    Ok(())
}

fn a_terminal_without_a_socket_is_refused_by_create(t: &T) -> Verdict {
    let (ran, _container) = t.try_create(&bundle(t, "true")?, &[])?;
    ran.code_is(1)?.stderr_has_any(&["console-socket", "console socket"])?;
    Ok(())
}

fn a_socket_without_a_terminal_is_refused(t: &T) -> Verdict {
    let socket = FdSocket::new(t.path("console"))?;
    let (ran, _container) = t.try_create(&t.bundle()?, &["--console-socket", socket.arg()])?;
    ran.code_is(1)?;
    Ok(())
}

fn a_missing_console_socket_fails_the_create(t: &T) -> Verdict {
    let (ran, container) = t.try_create(&bundle(t, "true")?, &["--console-socket", "/no/such/socket"])?;
    ran.code_is(1)?.stderr_has("no such file or directory")?;
    container.verb("state", &[], &[])?.fails()?;
    Ok(())
}

/// The runtime relays the output, perhaps to a file, in which a line must not end with a carriage return.
fn in_the_foreground_a_line_ends_with_a_line_feed(t: &T) -> Verdict {
    t.run(&bundle(t, "tty >/dev/null && echo one; echo two")?)?.ok()?.stdout_is("one\ntwo\n")?;
    Ok(())
}

fn in_the_foreground_the_terminal_follows_the_size_of_the_callers(t: &T) -> Verdict {
    let bundle = bundle(t, &format!("{} echo the end", [until("11 22"), until("33 77")].concat()))?;
    bundle.write()?;
    let mut command = t.command();
    command.arg("run").arg("--bundle").arg(&bundle.dir).arg(t.id());
    let (mut child, mut terminal) = start_at_terminal(&command, 11, 22)?;
    terminal.read_until("11 22 at last")?;
    terminal.resize(33, 77)?;
    terminal.read_until("33 77 at last")?;
    terminal.read_until("the end")?;
    let status = runtime::wait(&mut child, Duration::from_secs(60), "run");
    ensure!(status.is_ok_and(|status| status.success()), "run has not ended well");
    Ok(())
}

fn in_the_foreground_the_callers_terminal_is_raw_until_the_end(t: &T) -> Verdict {
    let bundle = bundle(t, "echo ready; read line; echo \"got $line\"")?;
    bundle.write()?;
    let mut command = t.command();
    command.arg("run").arg("--bundle").arg(&bundle.dir).arg(t.id());
    let (mut child, mut terminal) = start_at_terminal(&command, 11, 22)?;
    let before = terminal.attributes()?;
    terminal.read_until("ready")?;
    eventually("a raw terminal", || terminal.is_raw().then_some(()))?;
    terminal.write("word\r")?;
    terminal.read_until("got word")?;
    let status = runtime::wait(&mut child, Duration::from_secs(60), "run");
    ensure!(status.is_ok_and(|status| status.success()), "run has not ended well");
    ensure!(terminal.attributes()? == before, "the caller's terminal is another than before");
    Ok(())
}

/// A script that waits for a bounded time until the terminal has this size.
pub fn until(size: &str) -> String {
    let look = format!("[ \"$(stty size)\" = '{size}' ]");
    format!("i=0; until {look} || [ $i = 300 ]; do sleep 0.1; i=$((i+1)); done; {look} && echo {size} at last;")
}

fn exec_tty_gets_a_terminal_of_its_own(t: &T) -> Verdict {
    let container = t.running()?;
    let socket = FdSocket::new(t.path("console"))?;
    container
        .try_exec(
            &["--tty", "--detach", "--console-socket", socket.arg()],
            &["/bin/sh", "-c", "tty; read line; echo \"got $line\""],
        )?
        .ok()?;
    let mut terminal = socket.terminal()?;
    terminal.read_until("/dev/pts/")?;
    terminal.write("hello\n")?;
    terminal.read_until("got hello")?;
    Ok(())
}

fn exec_process_with_a_terminal_and_size(t: &T) -> Verdict {
    let container = t.running()?;
    let socket = FdSocket::new(t.path("console"))?;
    let process = json!({
        "terminal": true, "consoleSize": {"height": 12, "width": 34}, "args": ["/bin/stty", "size"],
        "cwd": "/", "user": {"uid": 0, "gid": 0}
    });
    container.exec_process(&process, &["--detach", "--console-socket", socket.arg()])?.ok()?;
    socket.terminal()?.read_until("12 34\r\n")?;
    Ok(())
}

fn the_master_of_a_container_without_dev_pts_is_an_error_or_works(t: &T) -> Verdict {
    let bundle = bundle(t, "echo alive")?.edit(|spec| {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != "/dev/pts");
        }
    });
    let socket = FdSocket::new(t.path("console"))?;
    let (ran, container) = t.try_create(&bundle, &["--console-socket", socket.arg()])?;
    if ran.code == 0 {
        let mut terminal = socket.terminal()?;
        container.start()?;
        terminal.read_until("alive")?;
    }
    Ok(())
}

fn a_terminal_that_cannot_be_taken_over_leaves_nothing(t: &T) -> Verdict {
    let ours = nix::pty::openpty(None, None)?;
    let refused = |words: &[&str]| -> Verdict {
        let mut command = t.command();
        command.args(words).stdin(ours.slave.try_clone()?);
        crate::sys::refuse_ioctl(&mut command, libc::TCSETS as u32, libc::EIO as u32);
        t.finish(command)?.stderr_has("cannot make the terminal raw")?;
        Ok(())
    };
    let bundle = bundle(t, "sleep 1000")?;
    bundle.write()?;
    refused(&["run", "--bundle", &bundle.dir.display().to_string(), &t.id()])?;
    ensure_eq!(std::fs::read_dir(t.root())?.count(), 0, "containers left");

    let container = t.running()?;
    refused(&["exec", "--tty", &container.id, "/bin/sleep", "1000"])?;
    let ran = container.exec(&["/bin/ps"])?;
    ensure!(ran.stdout.matches("sleep").count() <= 1, "left: {}", ran.stdout);
    Ok(())
}

/// A root filesystem may have any device in the place of ptmx, and opening a device may have an effect.
fn a_multiplexer_that_is_none_of_a_devpts_is_not_opened(t: &T) -> Verdict {
    let without_devpts = |spec: &mut serde_json::Value| {
        let mounts = spec["mounts"].as_array_mut().expect("a list");
        mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
    };
    for (number, node) in [&["c", "5", "2"][..], &["c", "1", "3"], &["p"]].into_iter().enumerate() {
        let bundle = bundle(t, "true")?.edit(without_devpts);
        let pts = bundle.rootfs().join("dev/pts");
        std::fs::create_dir_all(&pts)?;
        let path = pts.join("ptmx").display().to_string();
        let _ = std::fs::remove_file(&path);
        t.host("mknod", &[&[path.as_str()], node].concat())?;
        let socket = FdSocket::new(t.path(&format!("console-{number}")))?;
        let (ran, container) = t.try_create(&bundle, &["--console-socket", socket.arg()])?;
        ran.fails()?.stderr_has("/dev/pts/ptmx is not the multiplexer of a devpts")?;
        container.verb("delete", &["--force"], &[])?.ok()?;
    }
    Ok(())
}
