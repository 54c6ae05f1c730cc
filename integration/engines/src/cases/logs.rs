//! `logs`.

use super::life::logged;
use crate::case::chapter;
use crate::engine::Engine;
use crate::session::Session;
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};
use std::thread::sleep;
use std::time::Duration;

chapter! { [Docker, Podman] "logs":
    logs_keep_both_streams_in_order,
    logs_follow_until_the_end,
    logs_since_and_tail_cut,
    logs_of_an_ended_container_stay,
    logs_have_a_last_line_without_newline,
    logs_keep_long_lines_and_bytes_whole,
    logs_of_a_fast_writer_lose_nothing,
}

fn logs_keep_both_streams_in_order(s: &Session) -> Verdict {
    let name = s.up("", "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo three")?;
    s.ok(&format!("wait {name}"))?;
    let ran = s.run(&format!("logs {name}"))?.ok()?;
    ensure_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("one\nthree\n", "two\n"), "streams");
    ensure_eq!(s.host_sh(&format!("{} 2>&1", shown(s, &name)))?.ok()?.stdout, "one\ntwo\nthree\n", "order");
    Ok(())
}

/// `logs` as a line for a shell.
fn shown(s: &Session, name: &str) -> String {
    integration::kit::runtime::shown(&s.command(&format!("logs {name}")))
}

fn logs_follow_until_the_end(s: &Session) -> Verdict {
    let name = s.up("", "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done")?;
    let mut follow = s.background(s.command(&format!("logs -f {name}")))?;
    follow.until("line 2")?;
    ensure_eq!(follow.wait()?, 0, "exit code of logs -f");
    ensure!(follow.stdout().ends_with("line 5\n"), "followed: {:?}", follow.stdout());
    Ok(())
}

fn logs_since_and_tail_cut(s: &Session) -> Verdict {
    let name = s.up("", "date +%s; sleep 2.5; echo late; echo last; exec sleep 1000")?;
    logged(s, &name, "last")?;
    ensure_eq!(s.ok(&format!("logs --tail 1 {name}"))?, "last", "--tail 1");
    let logs = s.ok(&format!("logs {name}"))?;
    let early: u64 = logs.lines().next().unwrap_or_default().parse()?;
    ensure_eq!(s.ok(&format!("logs --since {} {name}", early + 2))?, "late\nlast", "--since");
    let stamped = s.ok(&format!("logs -t --tail 1 {name}"))?;
    ensure!(stamped.starts_with("20") && stamped.ends_with(" last"), "-t: {stamped:?}");
    Ok(())
}

fn logs_of_an_ended_container_stay(s: &Session) -> Verdict {
    let name = s.up("", "echo first life; exit 0")?;
    s.ok(&format!("wait {name}"))?;
    s.ok(&format!("start -a {name}"))?;
    ensure_eq!(s.ok(&format!("logs {name}"))?, "first life\nfirst life", "logs of two lives");
    Ok(())
}

fn logs_have_a_last_line_without_newline(s: &Session) -> Verdict {
    let name = s.up("", "echo whole; printf part")?;
    s.ok(&format!("wait {name}"))?;
    ensure_eq!(s.ok(&format!("logs {name}"))?, "whole\npart", "logs");
    Ok(())
}

fn logs_keep_long_lines_and_bytes_whole(s: &Session) -> Verdict {
    let name = s.up("", "head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'ä\\001€\\n'")?;
    s.ok(&format!("wait {name}"))?;
    let logs = s.run(&format!("logs {name}"))?.ok()?.stdout;
    ensure!(
        logs.starts_with(&("x".repeat(100_000) + "\n")),
        "a line of 100000 became {}",
        logs.find('\n').unwrap_or(0)
    );
    ensure!(logs.ends_with("ä\u{1}€\n"), "the end is {:?}", logs.chars().rev().take(5).collect::<String>());
    Ok(())
}

fn logs_of_a_fast_writer_lose_nothing(s: &Session) -> Verdict {
    let lines = if s.engine == Engine::Podman { 20_000 } else { 50_000 };
    let name = s.up("", &format!("seq {lines}"))?;
    s.ok(&format!("wait {name}"))?;
    sleep(Duration::from_millis(100));
    let logs = s.run(&format!("logs {name}"))?.ok()?.stdout;
    let expected: String = (1..=lines).map(|number| format!("{number}\n")).collect();
    ensure!(logs == expected, "{} of {} bytes are there", logs.len(), expected.len());
    Ok(())
}
