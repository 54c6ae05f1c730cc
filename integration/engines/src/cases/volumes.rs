//! Data that outlives its container, and files of the host.

use crate::case::chapter;
use crate::engine::Engine;
use crate::image::{NAME, SEED};
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::stop::Context;
use integration::{ensure, ensure_eq};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

chapter! { [Docker, Podman] "volumes":
    a_named_volume_outlives_its_container,
    a_volume_is_shared_between_running_containers,
    an_anonymous_volume_gets_the_content_of_the_image,
    volumes_from_another_container,
    a_bind_is_seen_both_ways,
    a_bind_of_one_file,
    a_read_only_bind_cannot_be_written,
    a_slave_bind_sees_later_mounts_of_the_host,
    a_shared_bind_shows_its_mounts_to_the_host,
    a_tmpfs_has_its_size_and_mode,
    the_long_form_takes_volume_bind_and_tmpfs,
    a_bind_of_what_is_not_there_is_refused_or_made,
    a_read_only_root_with_a_writable_volume,
}

fn a_named_volume_outlives_its_container(s: &Session) -> Verdict {
    let volume = s.name();
    s.ok(&format!("volume create {volume}"))?;
    s.inside(&format!("-v {volume}:/store"), "echo kept > /store/file")?;
    ensure_eq!(s.inside(&format!("-v {volume}:/store"), "cat /store/file")?, "kept", "content");
    s.ok(&format!("volume rm {volume}")).map(drop)
}

fn a_volume_is_shared_between_running_containers(s: &Session) -> Verdict {
    let volume = s.name();
    let reader = s.sleeper(&format!("-v {volume}:/in"))?;
    let writer = s.sleeper(&format!("-v {volume}:/out"))?;
    s.ok_with(&format!("exec {writer} sh -c"), "echo shared > /out/file")?;
    ensure_eq!(s.ok(&format!("exec {reader} cat /in/file"))?, "shared", "content");
    Ok(())
}

fn an_anonymous_volume_gets_the_content_of_the_image(s: &Session) -> Verdict {
    ensure_eq!(s.inside("-v /data", &format!("cat {}", SEED.0))?, SEED.1, "content");
    ensure_eq!(s.ok("volume ls -q")?, "", "volumes after --rm");
    Ok(())
}

fn volumes_from_another_container(s: &Session) -> Verdict {
    let name = s.sleeper("-v /data")?;
    s.ok_with(&format!("exec {name} sh -c"), "echo more > /data/more")?;
    ensure_eq!(s.inside(&format!("--volumes-from {name}"), "cat /data/more")?, "more", "content");
    Ok(())
}

fn a_bind_is_seen_both_ways(s: &Session) -> Verdict {
    let dir = s.scratch()?;
    fs::write(dir.join("in"), "from the host")?;
    let seen = s.inside(&format!("-v {}:/mnt/host", dir.display()), "cat /mnt/host/in; echo back > /mnt/host/out")?;
    ensure_eq!(seen, "from the host", "what the container reads");
    ensure_eq!(fs::read_to_string(dir.join("out"))?, "back\n", "what the host reads");
    ensure_eq!(fs::metadata(dir.join("out"))?.uid(), 0, "owner");
    Ok(())
}

fn a_bind_of_one_file(s: &Session) -> Verdict {
    let dir = s.scratch()?;
    fs::write(dir.join("conf"), "option = 1\n")?;
    let options = format!("-v {}/conf:/etc/app.conf:ro", dir.display());
    ensure_eq!(s.inside(&options, "cat /etc/app.conf")?, "option = 1", "content");
    Ok(())
}

fn a_read_only_bind_cannot_be_written(s: &Session) -> Verdict {
    let dir = s.scratch()?;
    let ran = s.try_inside(&format!("-v {}:/mnt/host:ro", dir.display()), "touch /mnt/host/x")?;
    ran.fails()?.stderr_has("Read-only file system").map(drop)
}

/// A mount that goes with this value.
struct Mounted<'p>(&'p Path);

impl Mounted<'_> {
    fn new(at: &Path) -> Verdict<Mounted<'_>> {
        fs::create_dir_all(at).context(at.display())?;
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).context("mount")?;
        Ok(Mounted(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn a_slave_bind_sees_later_mounts_of_the_host(s: &Session) -> Verdict {
    let dir = s.scratch()?;
    let outer = Mounted::new(&dir)?;
    let name = s.sleeper(&format!("-v {}:/mnt/host:rslave", dir.display()))?;
    let inner = dir.join("later");
    let _inner = Mounted::new(&inner)?;
    fs::write(inner.join("file"), "later")?;
    ensure_eq!(s.ok(&format!("exec {name} cat /mnt/host/later/file"))?, "later", "content");
    drop(outer);
    Ok(())
}

fn a_shared_bind_shows_its_mounts_to_the_host(s: &Session) -> Verdict {
    let dir = s.scratch()?;
    let _outer = Mounted::new(&dir)?;
    let options =
        format!("--cap-add SYS_ADMIN --security-opt apparmor=unconfined -v {}:/mnt/host:rshared", dir.display());
    let script =
        "mkdir /mnt/host/inner; mount -t tmpfs none /mnt/host/inner && echo x > /mnt/host/inner/file; exec sleep 1000";
    let name = s.up(&options, script)?;
    until("the container's mount on the host", || Ok(dir.join("inner/file").exists().then_some(())))?;
    s.ok_with(&format!("exec {name} sh -c"), "umount /mnt/host/inner")?;
    ensure!(!dir.join("inner/file").exists(), "unmounted in the container, still there on the host");
    Ok(())
}

fn a_tmpfs_has_its_size_and_mode(s: &Session) -> Verdict {
    let seen = s.inside(
        "--tmpfs /scratch:size=4m,mode=1770",
        "df -k /scratch | tail -1; stat -c %a /scratch; touch /scratch/x",
    )?;
    ensure!(seen.contains(" 4096 ") && seen.ends_with("1770"), "{seen}");
    Ok(())
}

fn the_long_form_takes_volume_bind_and_tmpfs(s: &Session) -> Verdict {
    let (dir, volume) = (s.scratch()?, s.name());
    fs::write(dir.join("in"), "bound")?;
    let options = format!(
        "--mount type=volume,source={volume},target=/store --mount type=bind,source={},target=/mnt/host,readonly \
         --mount type=tmpfs,target=/scratch,tmpfs-size=4194304",
        dir.display()
    );
    let seen =
        s.inside(&options, "touch /store/x && cat /mnt/host/in; echo; touch /mnt/host/y || df -k /scratch | tail -1")?;
    ensure!(seen.starts_with("bound\n") && seen.contains(" 4096 "), "{seen}");
    Ok(())
}

fn a_bind_of_what_is_not_there_is_refused_or_made(s: &Session) -> Verdict {
    let missing = s.path("no-such-dir");
    let ran = s.run(&format!("run --rm --mount type=bind,source={},target=/x {NAME} true", missing.display()))?;
    ran.fails()?.stderr_has("no-such-dir")?;
    let ran = s.run(&format!("run --rm -v {}:/x {NAME} true", missing.display()))?;
    if s.engine == Engine::Docker {
        ran.ok()?;
        ensure!(missing.is_dir(), "docker makes the directory for -v");
        fs::remove_dir(&missing)?;
    } else {
        ran.fails()?.stderr_has("no-such-dir")?;
    }
    Ok(())
}

fn a_read_only_root_with_a_writable_volume(s: &Session) -> Verdict {
    let volume = s.name();
    let seen = s.try_inside(&format!("--read-only -v {volume}:/store"), "touch /store/x && echo written; touch /y")?;
    seen.fails()?.stdout_has("written")?.stderr_has("Read-only file system").map(drop)
}
