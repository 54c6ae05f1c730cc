//! Output of a container while nobody reads it: containerd and its client are away.

use crate::kit::containerd::Engine;
use crate::kit::machine::text;
use crate::kit::stop::{Context, fail};
use crate::kit::wait::eventually;
use crate::kit::{Need, T, Verdict};
use crate::{chapter, ensure, ensure_eq};
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

chapter! { "shim_spool":
    output_is_kept_while_containerd_and_its_client_are_away [Need::Slow],
    what_does_not_fit_waits_and_nothing_is_lost [Need::Slow],
    a_full_disk_is_said_once_and_loses_nothing [Need::Slow],
    the_oldest_is_dropped_where_an_annotation_says_so [Need::Slow],
    what_nobody_has_read_goes_with_the_task [Need::Slow],
    no_write_waits_while_there_is_room [Need::Slow],
}

/// A line of the writing program: a number, and a newline.
const LINE: usize = 16;

const MIB: usize = 1 << 20;

/// The options of `ctr run` for a container with the writing program.
fn helper() -> Verdict<Vec<String>> {
    let me = std::env::current_exe().context("this program")?;
    let mut words = vec![format!("type=bind,src={},dst=/helper,options=rbind:ro", me.display())];
    for library in ["/lib", "/lib64", "/usr/lib"] {
        if Path::new(library).exists() {
            words.push(format!("type=bind,src={library},dst={library},options=rbind:ro"));
        }
    }
    Ok(words.into_iter().flat_map(|word| ["--mount".to_owned(), word]).collect())
}

/// The root filesystem of a container, by its path on the host.
fn below_root(t: &T, id: &str, name: &str) -> std::path::PathBuf {
    t.path("ours/run/io.containerd.runtime.v2.task/default").join(id).join("rootfs").join(name)
}

/// The arguments of a container that writes `mib` MiB once `/go` exists, at `rate` MiB a second or as fast as it can.
fn writer(mib: usize, rate: usize) -> [String; 5] {
    ["/helper".into(), "@payload".into(), "write".into(), mib.to_string(), rate.to_string()]
}

fn run(engine: &Engine<'_>, options: &[&str], id: &str, words: &[String]) -> Verdict<std::process::Command> {
    let mounts = helper()?;
    let options: Vec<&str> = options.iter().copied().chain(mounts.iter().map(String::as_str)).collect();
    Ok(engine.run_command(&options, id, &words.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// A container whose output goes to a fifo without a reader.
fn unread(t: &T, engine: &Engine<'_>, options: &[&str], id: &str, words: &[String]) -> Verdict<std::path::PathBuf> {
    let fifo = t.path(&format!("{id}.fifo"));
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).context("mkfifo")?;
    let uri = fifo.display().to_string();
    t.finish(run(engine, &[&["-d", "--log-uri", &uri], options].concat(), id, words)?)?.ok()?;
    fs::write(below_root(t, id, "go"), "").context("the go")?;
    Ok(fifo)
}

/// Counts the lines, and checks that they are numbered from `first` on.
fn count(bytes: &[u8], first: usize) -> Verdict<usize> {
    for (n, line) in bytes.chunks(LINE).enumerate() {
        if line != format!("{:015}\n", first + n).as_bytes() {
            return fail(format!("line {n} of {} is {:?}", bytes.len() / LINE, String::from_utf8_lossy(line)));
        }
    }
    Ok(bytes.len() / LINE)
}

/// The content of `/result`: bytes written, and the longest write in microseconds.
fn result(t: &T, id: &str) -> Option<(usize, u64)> {
    let text = text(below_root(t, id, "result"));
    let (bytes, longest) = text.split_once(' ')?;
    Some((bytes.parse().ok()?, longest.trim().parse().ok()?))
}

fn end(engine: &Engine<'_>, id: &str, code: i32) -> Verdict {
    engine.wait_for(id, "STOPPED")?;
    engine.remove(id, code)?;
    engine.is_clean()
}

/// The container writes a little more than fits, so that the last write waits.
fn output_is_kept_while_containerd_and_its_client_are_away(t: &T) -> Verdict {
    let mut engine = Engine::start(t)?;
    let (mib, rate, absence) = if t.long { (300, 5, 60) } else { (24, 8, 3) };
    let (before, after) = (t.path("before"), t.path("after"));
    let mut client = run(&engine, &[], "a", &writer(mib, rate))?;
    let mut client = client.stdout(File::create(&before)?).stderr(Stdio::null()).spawn()?;
    engine.wait_for("a", "RUNNING")?;
    // A client removes the fifos when it sees its daemon die.
    client.kill()?;
    client.wait()?;
    engine.kill()?;
    fs::write(below_root(t, "a", "go"), "").context("the go")?;
    sleep(Duration::from_secs(absence));
    engine.restart()?;
    ensure_eq!(engine.status("a")?, "RUNNING", "the status");
    let mut client = engine.command(&["tasks", "attach", "a"]);
    let said = t.path("attach.err");
    let mut client = client.stdout(File::create(&after)?).stderr(File::create(&said)?).spawn()?;
    eventually("all is written", || result(t, "a")).context(format!("ctr tasks attach: {}", text(&said)))?;
    // The client deletes the task once it has ended.
    let ended = eventually("ctr tasks attach has ended", || client.try_wait().ok().flatten())?;
    let bytes = [fs::read(&before)?, fs::read(&after)?].concat();
    let record = text(t.path("ours/run/io.containerd.runtime.v2.task/default/a/exit.json"));
    let state = engine.ctr(&["tasks", "ls"])?.stdout;
    let all = format!("{} bytes; {ended}: {}; {record}; {state}", bytes.len(), text(&said));
    ensure!(ended.success(), "{all}");
    ensure_eq!(count(&bytes, 0)?, mib * MIB / LINE, "{all}");
    engine.ctr(&["containers", "rm", "a"])?.ok()?;
    engine.is_clean()
}

fn what_does_not_fit_waits_and_nothing_is_lost(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let options = ["--annotation", "run.windlass.spool-max=4m"];
    let fifo = unread(t, &engine, &options, "b", &writer(8, 0))?;
    let record = || text(format!("/proc/{}/io", helper_pid(&engine).unwrap_or(0)));
    let written = || crate::kit::machine::field(&record(), "wchar").parse::<usize>().ok();
    eventually("what there is room for", || written().filter(|n| *n >= 5 * MIB))?;
    sleep(Duration::from_millis(300));
    ensure!(result(t, "b").is_none(), "it is held back");
    let mut bytes = vec![0; 8 * MIB];
    File::open(fifo)?.read_exact(&mut bytes).context("read")?;
    ensure_eq!(count(&bytes, 0)?, 8 * MIB / LINE, "lines");
    end(&engine, "b", 0)
}

/// The process that writes.
fn helper_pid(engine: &Engine<'_>) -> Option<i32> {
    let ran = engine.ctr(&["tasks", "ls"]).ok()?;
    ran.stdout.lines().nth(1)?.split_whitespace().nth(1)?.parse().ok()
}

fn a_full_disk_is_said_once_and_loses_nothing(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let disk = t.path("ours/root/io.containerd.runtime.v2.task");
    fs::create_dir_all(&disk)?;
    t.host("mount", &["-t", "tmpfs", "-o", "size=2m,mode=711", "none", &disk.display().to_string()])?;
    let fifo = unread(t, &engine, &[], "a", &writer(8, 0))?;
    let said = || text(t.path("ours/containerd.log")).matches("cannot be kept").count();
    eventually("it is said", || (said() > 0).then_some(()))?;
    sleep(Duration::from_millis(300));
    let mut bytes = vec![0; 8 * MIB];
    File::open(fifo)?.read_exact(&mut bytes).context("read")?;
    ensure_eq!(count(&bytes, 0)?, 8 * MIB / LINE, "lines");
    ensure_eq!(said(), 1, "lines in containerd's log");
    ensure!(text(t.path("ours/containerd.log")).contains("No space left on device"), "the reason is named");
    end(&engine, "a", 0)?;
    t.host("umount", &[&disk.display().to_string()]).map(drop)
}

fn the_oldest_is_dropped_where_an_annotation_says_so(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let options = ["--annotation", "run.windlass.spool-max=1m", "--annotation", "run.windlass.spool-full=drop"];
    let fifo = unread(t, &engine, &options, "a", &writer(24, 0))?;
    eventually("nothing holds it back", || result(t, "a"))?;
    engine.wait_for("a", "STOPPED")?;
    let mut bytes = Vec::new();
    File::open(fifo)?.read_to_end(&mut bytes).context("read")?;
    let mark = b"\n[windlass-shim: ";
    let at = bytes.windows(mark.len()).position(|window| window == mark);
    let Some(at) = at else { return fail("no line says that output was dropped") };
    let rest = &bytes[at + 1..];
    let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
    let (mark, last) = (String::from_utf8_lossy(&rest[..line]).into_owned(), &rest[line..]);
    let lost: usize = mark.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    ensure_eq!(at + lost + last.len(), 24 * MIB, "bytes that came and were dropped: {mark:?}");
    count(&bytes[..at - at % LINE], 0)?;
    let cut = last.len() % LINE;
    count(&last[cut..], (24 * MIB - last.len() + cut) / LINE)?;
    let record = text(t.path("ours/run/io.containerd.runtime.v2.task/default/a/exit.json"));
    ensure!(record.contains(&format!("\"droppedBytes\":{lost},")), "the record counts them: {record}");
    end(&engine, "a", 0)
}

fn what_nobody_has_read_goes_with_the_task(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    for (id, mib) in [("a", 1), ("b", 9)] {
        unread(t, &engine, &[], id, &writer(mib, 0))?;
        engine.wait_for(id, "STOPPED")?;
        let record = text(t.path("ours/run/io.containerd.runtime.v2.task/default").join(id).join("exit.json"));
        let unsent = record.split("\"unsentBytes\":").nth(1).and_then(|rest| rest.trim_end_matches('}').parse().ok());
        ensure!(unsent.is_some_and(|unsent: usize| unsent >= mib * MIB - 65_536), "the record counts it: {record}");
        engine.remove(id, 0)?;
    }
    engine.is_clean()
}

/// Takes the longest write of the best of three rounds, because other work on the machine makes each write longer. With
/// `--long` the machine is quiet, and the longest write of all rounds counts.
fn no_write_waits_while_there_is_room(t: &T) -> Verdict {
    let engine = Engine::start(t)?;
    let (mut best, mut worst) = (u64::MAX, 0);
    for round in 0..3 {
        let id = format!("a{round}");
        let fifo = unread(t, &engine, &[], &id, &writer(15, 5))?;
        let (_, longest) = eventually("all is written", || result(t, &id))?;
        println!("the longest write: {longest} us");
        (best, worst) = (best.min(longest), worst.max(longest));
        engine.wait_for(&id, "STOPPED")?;
        let mut bytes = Vec::new();
        File::open(fifo)?.read_to_end(&mut bytes).context("read")?;
        ensure_eq!(count(&bytes, 0)?, 15 * MIB / LINE, "lines");
        engine.remove(&id, 0)?;
    }
    let counts = if t.long { worst } else { best };
    ensure!(counts <= 10_000, "a write took {counts} us");
    engine.is_clean()
}
