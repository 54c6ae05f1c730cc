//! podman's own features of checkpoints: exports, names, connections, and memory beforehand.

use super::checkpoint::{counted, counting, counting_with, counts_beyond, remove, with_criu};
use crate::case::chapter;
use crate::image::NAME;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::runtime::RuntimeKind;
use integration::kit::stop::skip;
use integration::{ensure, ensure_eq};

chapter! { [Podman] "podman_checkpoint":
    a_container_that_is_left_running_counts_on,
    an_exported_checkpoint_is_imported_under_another_name,
    images_are_kept_if_that_is_asked_for,
    a_container_with_ids_of_its_own_comes_back,
    a_connection_is_dumped_if_that_is_asked_for,
    a_checkpoint_follows_one_of_memory_alone,
}

fn a_container_that_is_left_running_counts_on(s: &Session) -> Verdict {
    with_criu(s, || {
        let name = counting(s)?;
        s.ok(&format!("container checkpoint --leave-running {name}"))?;
        ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "the status");
        counts_beyond(s, &name, counted(s, &name)?)?;
        remove(s, &name)
    })
}

fn an_exported_checkpoint_is_imported_under_another_name(s: &Session) -> Verdict {
    with_criu(s, || {
        let (name, other) = (counting(s)?, s.name());
        let archive = s.scratch()?.join("checkpoint.tar.gz");
        let archive = archive.display();
        s.ok(&format!("container checkpoint --export {archive} --leave-running {name}"))?;
        let at = counted(s, &name)?;
        s.ok(&format!("container restore --import {archive} --name {other}"))?;
        counts_beyond(s, &other, at)?;
        counts_beyond(s, &name, at)?;
        remove(s, &format!("{name} {other}"))
    })
}

fn images_are_kept_if_that_is_asked_for(s: &Session) -> Verdict {
    with_criu(s, || {
        let name = counting(s)?;
        s.ok(&format!("container checkpoint --keep {name}"))?;
        let kept = s.inspect(&name, "{{.State.CheckpointPath}}")?;
        ensure!(std::path::Path::new(&kept).join("inventory.img").exists(), "there are no images in {kept:?}");
        s.ok(&format!("container restore --keep {name}"))?;
        ensure!(std::path::Path::new(&kept).join("inventory.img").exists(), "the images are gone");
        counts_beyond(s, &name, counted(s, &name)?)?;
        remove(s, &name)
    })
}

/// podman binds several files of its own into the container.
fn a_container_with_ids_of_its_own_comes_back(s: &Session) -> Verdict {
    with_criu(s, || {
        let volume = s.scratch()?;
        let ids = "--uidmap 0:100000:65536 --gidmap 0:100000:65536";
        let name = counting_with(s, &format!("{ids} --volume {}:/volume", volume.display()))?;
        let refused = s.run(&format!("container checkpoint {name}"))?;
        if s.below.kind != RuntimeKind::Windlass && refused.code != 0 {
            remove(s, &name)?;
            return skip("this runtime cannot dump a container with a user namespace");
        }
        refused.ok()?;
        let restored = s.run(&format!("container restore {name}"))?;
        if s.below.kind != RuntimeKind::Windlass && restored.code != 0 {
            remove(s, &name)?;
            return skip("this runtime cannot restore a container with a user namespace");
        }
        restored.ok()?;
        counts_beyond(s, &name, counted(s, &name)?)?;
        ensure!(s.ok(&format!("exec {name} cat /proc/self/uid_map"))?.contains("100000"), "it has other ids");
        s.ok(&format!("exec {name} ls /volume"))?;
        remove(s, &name)
    })
}

fn a_connection_is_dumped_if_that_is_asked_for(s: &Session) -> Verdict {
    with_criu(s, || {
        let name = s.name();
        let script = "nc -ll -p 99 -e cat & sleep 0.5; (i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done) | \
            nc 127.0.0.1 99 | while read i; do echo $i >/count.new; mv /count.new /count; done";
        s.ok_with(&format!("run -d --name {name} --network none {NAME} sh -c"), script)?;
        counts_beyond(s, &name, 1)?;
        let refused = s.run(&format!("container checkpoint {name}"))?.fails()?;
        if refused.stderr.contains("cannot dump the sockets of this kernel") {
            remove(s, &name)?;
            return skip("this CRIU cannot dump the sockets of this kernel");
        }
        if s.below.kind == RuntimeKind::Windlass {
            refused.stderr_has("--tcp-established")?;
        } else if s.run(&format!("container checkpoint --leave-running --tcp-established {name}"))?.code != 0 {
            remove(s, &name)?;
            return skip("this runtime does not say whether CRIU can dump the sockets of this kernel");
        }
        s.ok(&format!("container checkpoint --tcp-established {name}"))?;
        s.ok(&format!("container restore --tcp-established {name}"))?;
        counts_beyond(s, &name, counted(s, &name)?)?;
        remove(s, &name)
    })
}

fn a_checkpoint_follows_one_of_memory_alone(s: &Session) -> Verdict {
    with_criu(s, || {
        let name = counting(s)?;
        let before = s.scratch()?.join("before.tar.gz");
        let before = before.display();
        let first = s.run(&format!("container checkpoint --pre-checkpoint --export {before} {name}"))?;
        // In the words of windlass, of runc, and of podman, which asks CRIU itself.
        let words = ["missing features: [MemTrack]", "CRIU is missing features", "memory tracking"];
        if words.iter().any(|why| first.stderr.contains(why)) {
            remove(s, &name)?;
            return skip(format!("the kernel does not track memory: {}", first.stderr.trim()));
        }
        first.ok()?;
        let whole = s.scratch()?.join("whole.tar.gz");
        let whole = whole.display();
        s.ok(&format!("container checkpoint --with-previous --export {whole} {name}"))?;
        until("its end", || Ok((s.inspect(&name, "{{.State.Status}}")? == "exited").then_some(())))?;
        remove(s, &name)?;
        s.ok(&format!("container restore --import-previous {before} --import {whole}"))?;
        counts_beyond(s, &name, counted(s, &name)?)?;
        remove(s, &name)
    })
}
