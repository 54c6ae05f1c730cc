//! Dumps of memory before the rest, and memory that follows later. CRIU needs a kernel that records which pages were
//! written (CONFIG_MEM_SOFT_DIRTY), and userfaultfd(2) to fetch pages.

use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::criu::{COUNTING, Images, count, counts_on, needs_lazy_pages, start};
use crate::kit::stop::{Context, skip};
use crate::kit::wait::eventually;
use crate::kit::{Bundle, Container, T, Verdict};
use crate::{ensure, ensure_eq};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

chapter! { "checkpoint_memory":
    memory_that_was_dumped_ahead_is_not_dumped_again [Windlass, Criu, Slow],
    a_chain_comes_back_in_a_user_namespace [Windlass, Criu, Slow],
    pages_that_are_dumped_again_can_leave_the_first_images [Windlass, Criu, Slow],
    pages_go_to_a_page_server [Windlass, Criu, Slow],
    memory_follows_when_it_is_needed [Windlass, Criu, Slow],
    memory_is_fetched_from_the_images_when_it_is_needed [Windlass, Criu, Slow],
    memory_that_nobody_serves_fails_the_restore [Windlass, Criu, Slow],
}

/// A container that counts and has 8 MB of memory to which it does not write. They are in a process that does not fork:
/// a dump between a fork and its execve(2) would have them twice.
fn large(t: &T) -> Verdict<Bundle> {
    let hold = "x=$(yes | head -c 8000000); exec 9<>/fifo; : >/full; read y <&9";
    let full = "until [ -e /full ]; do sleep 0.1; done";
    Ok(t.bundle()?.sh(&format!("mkfifo /fifo; sh -c '{hold}' & {full}; {COUNTING}")))
}

/// Bytes of pages in a directory of images.
fn pages(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
    pages.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// Images whose directory is beside that of earlier images, with the flags that name these.
fn after<'t>(t: &'t T, before: &Images) -> (Images<'t>, Vec<String>) {
    let name = before.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (Images::new(t), vec!["--parent-path".to_owned(), format!("../{name}")])
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Dumps a container in three steps. The last one ends it.
fn in_three_steps<'t>(t: &'t T, bundle: &Bundle, more: &[&str]) -> Verdict<([Images<'t>; 3], u32)> {
    let container = start(t, bundle)?;
    counts_on(bundle, 1)?;
    let first = Images::new(t);
    let ran = first.try_dump(&container, &["--pre-dump"])?;
    if ran.stderr.contains("criu is missing features: [MemTrack]") {
        return skip("the kernel has no CONFIG_MEM_SOFT_DIRTY");
    }
    ran.ok().context(first.log("dump.log"))?;
    container.status_is("running")?;
    counts_on(bundle, count(bundle))?;
    let (second, parent) = after(t, &first);
    second.dump(&container, &[&["--pre-dump"], &words(&parent)[..], more].concat()).context("the second")?;
    counts_on(bundle, count(bundle))?;
    let (third, parent) = after(t, &second);
    third.dump(&container, &[&words(&parent)[..], more].concat()).context("the third")?;
    Ok(([first, second, third], count(bundle)))
}

fn memory_that_was_dumped_ahead_is_not_dumped_again(t: &T) -> Verdict {
    let bundle = large(t)?;
    let (steps, at) = in_three_steps(t, &bundle, &[])?;
    let sizes = steps.each_ref().map(|images| pages(&images.dir));
    ensure!(sizes[0] > 8_000_000 && sizes[1] < 4_000_000 && sizes[2] < 4_000_000, "bytes of pages: {sizes:?}");
    let link = fs::read_link(steps[2].dir.join("parent")).context("parent")?;
    ensure_eq!(link, Path::new("..").join(steps[1].dir.file_name().unwrap_or_default()), "the link");
    let container = steps[2].restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    container.exec(&["/bin/true"])?;
    Ok(())
}

fn a_chain_comes_back_in_a_user_namespace(t: &T) -> Verdict {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle = large(t)?
        .namespace("user", Some(json!({"type": "user"})))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    std::os::unix::fs::chown(bundle.rootfs(), Some(100_000), Some(100_000)).context("chown")?;
    let (steps, at) = in_three_steps(t, &bundle, &[])?;
    let _container = steps[2].restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    Ok(())
}

fn pages_that_are_dumped_again_can_leave_the_first_images(t: &T) -> Verdict {
    let bundle = large(t)?;
    let (steps, at) = in_three_steps(t, &bundle, &["--auto-dedup"])?;
    let _container = steps[2].restore(&bundle, &["--auto-dedup"])?;
    counts_on(&bundle, at)?;
    Ok(())
}

/// CRIU itself, until it is dropped.
struct Helper(Child);

impl Helper {
    fn start(words: &[&str], dir: &Path) -> Verdict<Helper> {
        fs::create_dir_all(dir).context("images")?;
        let program = crate::kit::criu::program().unwrap_or_default();
        let mut command = Command::new(program);
        command.args(words).arg("-D").arg(dir).args(["-o", "helper.log", "-v4"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Helper(command.spawn().context("CRIU")?))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The port that CRIU has chosen, by its log, once it listens there.
fn port_of(log: &Path) -> Verdict<u16> {
    let chosen = |text: &str| {
        let line = text.lines().find_map(|line| line.split_once("Using ")?.1.strip_suffix(" port"))?;
        line.parse::<u16>().ok().filter(|port| listens(*port))
    };
    eventually("CRIU listens", || chosen(&fs::read_to_string(log).unwrap_or_default()))
}

fn listens(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

fn pages_go_to_a_page_server(t: &T) -> Verdict {
    let bundle = large(t)?;
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let images = Images::new(t);
    let server = Helper::start(&["page-server", "--address", "127.0.0.1"], &images.dir)?;
    fs::set_permissions(&images.dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).context("images")?;
    let port = port_of(&images.dir.join("helper.log"))?;
    let rest = Images::new(t);
    rest.dump(&container, &["--page-server", &format!("127.0.0.1:{port}")])?;
    drop(server);
    ensure!(pages(&images.dir) > 8_000_000 && pages(&rest.dir) == 0, "the pages are not where the server is");
    // The copied images of the processes and the pages that the server has got belong together.
    t.host("cp", &["-a", &format!("{}/.", rest.dir.display()), &images.dir.display().to_string()])?;
    let at = count(&bundle);
    let _container = images.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    Ok(())
}

/// What CRIU 4.1 and 4.2 say on Linux 6.18, where they serve memory from a pipe that they do not have.
const NO_PIPE: &str = "page-pipe: splice: -1";

/// Dumps a container and leaves its pages with the dumping process, which serves them until all are fetched. Returns
/// that process and its port.
fn left_behind(images: &Images, container: &Container) -> Verdict<(Child, u16)> {
    let mut command = images.command();
    command.args(["checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:0", "--status-fd", "1"]);
    command.arg("--image-path").arg(&images.dir).arg(&container.id);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("checkpoint")?;
    let mut word = [0; 1];
    let said = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read(&mut word)).context("the word")?;
    ensure!(said == 1, "{:?}: {}", child.wait(), images.log("dump.log"));
    Ok((child, port_of(&images.dir.join("dump.log"))?))
}

/// `restore` of memory that is fetched later, with these flags.
fn lazily(t: &T, images: &Images, bundle: &Bundle, flags: &[&str], id: &str) -> Verdict<Command> {
    bundle.write()?;
    let mut command = images.command();
    command.arg("--log").arg(t.path("lazily"));
    command.args(["restore", "--detach", "--lazy-pages", "--bundle"]).arg(&bundle.dir);
    command.arg("--image-path").arg(&images.dir).args(flags).arg(id);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// How many processes fetch memory for a directory.
fn fetching(dir: &Path) -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let fetches = |process: &fs::DirEntry| {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("\0lazy-pages\0")
            && fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == dir)
    };
    processes.filter(fetches).count()
}

fn memory_follows_when_it_is_needed(t: &T) -> Verdict {
    needs_lazy_pages()?;
    let bundle = large(t)?;
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let images = Images::new(t);
    let (mut dump, port) = left_behind(&images, &container)?;
    let at = count(&bundle);
    let id = t.id();
    let mut restore = lazily(t, &images, &bundle, &["--page-server", &format!("127.0.0.1:{port}")], &id)?;
    let mut restore = restore.spawn().context("restore")?;
    let restored = Container::new(t, id, bundle.dir.clone());
    let ended = eventually("an end of the restore, or of the dump", || match dump.try_wait() {
        Ok(Some(ended)) if !ended.success() => Some(ended),
        _ => restore.try_wait().ok().flatten(),
    })?;
    if !ended.success() {
        let _ = restore.kill();
        let _ = restore.wait();
        restored.verb("delete", &["--force"], &[])?.ok()?;
        eventually("the end of the dump", || dump.try_wait().ok().flatten())?;
        let log = images.log("dump.log");
        ensure!(log.contains(NO_PIPE), "{ended}: {}{log}", images.log("restore.log"));
        return skip(format!("this CRIU cannot leave memory behind on this kernel: {log}"));
    }
    counts_on(&bundle, at)?;
    restored.exec(&["/bin/true"])?;
    ensure!(dump.wait().context("checkpoint")?.success(), "the dump failed: {}", images.log("dump.log"));
    Ok(())
}

/// A container with much memory, dumped whole.
fn dumped(t: &T) -> Verdict<(Bundle, Images<'_>)> {
    let bundle = large(t)?;
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let images = Images::new(t);
    images.dump(&container, &[])?;
    Ok((bundle, images))
}

fn memory_is_fetched_from_the_images_when_it_is_needed(t: &T) -> Verdict {
    needs_lazy_pages()?;
    let (bundle, images) = dumped(t)?;
    let mut at = count(&bundle);
    // By a process that restore starts, twice, and by one that the caller has started, as for runc.
    for started in [false, false, true] {
        let helper = started.then(|| Helper::start(&["lazy-pages"], &images.dir)).transpose()?;
        if started {
            eventually("CRIU waits", || images.dir.join("lazy-pages.socket").exists().then_some(()))?;
        }
        let id = t.id();
        let ended = lazily(t, &images, &bundle, &[], &id)?.status().context("restore")?;
        ensure!(ended.success(), "{ended}: {}{}", images.log("restore.log"), images.log("lazy-pages.log"));
        let restored = Container::new(t, id, bundle.dir.clone());
        ensure!(started || !images.dir.join("lazy-pages.socket").exists(), "the socket is left");
        at = counts_on(&bundle, at)?;
        restored.exec(&["/bin/true"])?;
        restored.verb("delete", &["--force"], &[])?.ok()?;
        drop(helper);
        eventually("the end of the process", || (fetching(&images.dir) == 0).then_some(()))?;
        let _ = fs::remove_file(images.dir.join("lazy-pages.socket"));
    }
    Ok(())
}

fn memory_that_nobody_serves_fails_the_restore(t: &T) -> Verdict {
    needs_lazy_pages()?;
    let (bundle, images) = dumped(t)?;
    // The discard port: whoever serves something there serves no memory.
    let (id, flags) = (t.id(), ["--page-server", "127.0.0.1:9"]);
    let ended = lazily(t, &images, &bundle, &flags, &id)?.status().context("restore")?;
    ensure!(!ended.success(), "it succeeded");
    let said = fs::read_to_string(t.path("lazily")).context("the log")?;
    for words in ["criu failed: type LAZY_PAGES", "Can't connect to server 127.0.0.1:9"] {
        ensure!(said.contains(words), "{said}");
    }
    ensure_eq!(fetching(&images.dir), 0, "processes that are left");
    Container::new(t, id, bundle.dir.clone()).verb("state", &[], &[])?.fails()?;
    Ok(())
}
