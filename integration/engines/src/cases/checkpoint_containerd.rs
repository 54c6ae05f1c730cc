//! Checkpoints by `ctr`: images in a directory, and checkpoints in containerd's own store.

use super::checkpoint::with_criu;
use super::containerd::{exec, run, status};
use crate::case::chapter;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::criu::COUNTING;
use integration::{ensure, ensure_eq};

chapter! { [Containerd] "task_checkpoint":
    a_task_is_dumped_and_goes_on,
    a_task_that_is_dumped_ends_if_that_is_asked_for,
    a_checkpoint_becomes_another_container,
}

fn counted(s: &Session, id: &str) -> Verdict<u32> {
    let words = exec(s, id, "", "sh -c");
    Ok(s.ok_with(&words, "cat /count 2>/dev/null || echo 0")?.parse().unwrap_or(0))
}

fn counts_beyond(s: &Session, id: &str, past: u32) -> Verdict {
    until("a task that counts on", || Ok((counted(s, id)? > past).then_some(())))
}

fn counting(s: &Session) -> Verdict<String> {
    let id = s.name();
    s.ok_with(&run(s, "-d", &id, "sh -c"), COUNTING)?;
    counts_beyond(s, &id, 1)?;
    Ok(id)
}

fn a_task_is_dumped_and_goes_on(s: &Session) -> Verdict {
    with_criu(s, || {
        let id = counting(s)?;
        let dir = s.scratch()?;
        let (images, work) = (dir.join("images"), dir.join("work"));
        let place = format!("--image-path {} --work-path {}", images.display(), work.display());
        s.ok(&format!("tasks checkpoint {place} {id}"))?;
        ensure!(
            images.join("inventory.img").exists() && work.join("dump.log").exists(),
            "there are no images or no log"
        );
        ensure_eq!(status(s, &id)?, "RUNNING", "the status");
        counts_beyond(s, &id, counted(s, &id)?)
    })
}

fn a_task_that_is_dumped_ends_if_that_is_asked_for(s: &Session) -> Verdict {
    with_criu(s, || {
        let id = counting(s)?;
        let images = s.scratch()?.join("images");
        s.ok(&format!("tasks checkpoint --exit --image-path {} {id}", images.display()))?;
        until("the end", || Ok((status(s, &id)? == "STOPPED").then_some(())))?;
        ensure!(images.join("inventory.img").exists(), "there are no images");
        s.ok(&format!("tasks rm {id}")).map(drop)
    })
}

fn a_checkpoint_becomes_another_container(s: &Session) -> Verdict {
    with_criu(s, || {
        let (id, other) = (counting(s)?, s.name());
        let name = format!("checkpoint/{id}:latest");
        s.ok(&format!("containers checkpoint --task --rw --image {id} {name}"))?;
        ensure_eq!(status(s, &id)?, "RUNNING", "the status");
        counts_beyond(s, &id, counted(s, &id)?)?;
        // Out of containerd and into it again, as to another machine.
        let archive = s.scratch()?.join("checkpoint.tar");
        let archive = archive.display();
        s.ok(&format!("images export --skip-manifest-json {archive} {name}"))?;
        s.ok(&format!("images rm {name}"))?;
        s.ok(&format!("images import --no-unpack {archive}"))?;
        // The other one gets the same cgroup.
        s.ok(&format!("tasks kill -s KILL {id}"))?;
        until("the end", || Ok((status(s, &id)? == "STOPPED").then_some(())))?;
        s.run(&format!("tasks rm {id}"))?.ok()?;
        s.ok(&format!("containers restore --live --rw {other} {name}"))?;
        ensure_eq!(status(s, &other)?, "RUNNING", "the status of the other");
        ensure!(counted(s, &other)? > 0, "it has lost its files");
        counts_beyond(s, &other, counted(s, &other)?)
    })
}
