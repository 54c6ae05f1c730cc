//! `buildah run`, which calls the runtime without a shim.

use crate::case::chapter;
use crate::image::NAME;
use crate::session::Session;
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};

chapter! { [Buildah] "run":
    run_prints_and_passes_the_exit_code_on,
    run_at_a_terminal_has_one,
    run_with_user_volume_and_capabilities,
    what_a_run_writes_is_committed,
}

fn working(s: &Session) -> Verdict<String> {
    s.ok(&format!("from {NAME}"))
}

fn run(s: &Session, options: &str, container: &str) -> String {
    format!("run --runtime {} {options} {container} --", s.below.runtime.display())
}

fn run_prints_and_passes_the_exit_code_on(s: &Session) -> Verdict {
    let container = working(s)?;
    ensure_eq!(s.ok(&format!("{} echo hello", run(s, "", &container)))?, "hello", "output");
    s.run_with(&format!("{} sh -c", run(s, "", &container)), "exit 42")?.code_is(42)?;
    s.run(&format!("{} no-such-program", run(s, "", &container)))?.fails()?.stderr_has("no-such-program").map(drop)
}

fn run_at_a_terminal_has_one(s: &Session) -> Verdict {
    let container = working(s)?;
    let mut at = s.terminal(&s.command(&format!("{} sh", run(s, "-t", &container))), 24, 80)?;
    at.terminal.write("tty; exit 3\n")?;
    at.terminal.read_until("/dev/")?;
    ensure_eq!(at.wait()?, 3, "exit code");
    Ok(())
}

fn run_with_user_volume_and_capabilities(s: &Session) -> Verdict {
    let (container, dir) = (working(s)?, s.scratch()?);
    let options = format!("--user 1000 --cap-drop all -v {}:/mnt/host:ro", dir.display());
    let script = "id -u; grep CapEff /proc/self/status; touch /mnt/host/x || echo read-only";
    let seen = s.ok_with(&format!("{} sh -c", run(s, &options, &container)), script)?;
    ensure!(seen.starts_with("1000\n") && seen.contains("0000000000000000") && seen.ends_with("read-only"), "{seen}");
    Ok(())
}

fn what_a_run_writes_is_committed(s: &Session) -> Verdict {
    let container = working(s)?;
    s.ok_with(&format!("{} sh -c", run(s, "", &container)), "echo kept > /kept")?;
    s.ok(&format!("commit {container} localhost/kept"))?;
    let second = s.ok("from localhost/kept")?;
    ensure_eq!(s.ok(&format!("{} cat /kept", run(s, "", &second)))?, "kept", "content");
    Ok(())
}
