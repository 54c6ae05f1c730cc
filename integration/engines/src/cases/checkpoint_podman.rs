//! podman's own features of checkpoints: exports, names, connections, and memory beforehand.

use super::checkpoint::{counted, counting, counts_beyond, with_criu};
use crate::case::chapter;
use crate::image::NAME;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::stop::skip;
use integration::{ensure, ensure_eq};

chapter! { [Podman] "podman_checkpoint":
    a_container_that_is_left_running_counts_on,
    an_exported_checkpoint_is_imported_under_another_name,
    images_are_kept_if_that_is_asked_for,
    a_connection_is_dumped_if_that_is_asked_for,
    a_checkpoint_follows_one_of_memory_alone,
}

fn a_container_that_is_left_running_counts_on(s: &Session) -> Verdict {
    with_criu(s, || {
        let name = counting(s)?;
        s.ok(&format!("container checkpoint --leave-running {name}"))?;
        ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "the status");
        counts_beyond(s, &name, counted(s, &name)?)?;
        s.ok(&format!("rm -f {name}")).map(drop)
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
        s.ok(&format!("rm -f {name} {other}")).map(drop)
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
        s.ok(&format!("rm -f {name}")).map(drop)
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
            s.ok(&format!("rm -f {name}"))?;
            return skip("this CRIU cannot dump the sockets of this kernel");
        }
        refused.stderr_has("--tcp-established")?;
        s.ok(&format!("container checkpoint --tcp-established {name}"))?;
        s.ok(&format!("container restore --tcp-established {name}"))?;
        counts_beyond(s, &name, counted(s, &name)?)?;
        s.ok(&format!("rm -f {name}")).map(drop)
    })
}

fn a_checkpoint_follows_one_of_memory_alone(s: &Session) -> Verdict {
    with_criu(s, || {
        let name = counting(s)?;
        let before = s.scratch()?.join("before.tar.gz");
        let before = before.display();
        let first = s.run(&format!("container checkpoint --pre-checkpoint --export {before} {name}"))?;
        // The words of the runtime, or of podman, which asks CRIU itself.
        if ["missing features: [MemTrack]", "memory tracking"].iter().any(|why| first.stderr.contains(why)) {
            s.ok(&format!("rm -f {name}"))?;
            return skip(format!("the kernel does not track memory: {}", first.stderr.trim()));
        }
        first.ok()?;
        let whole = s.scratch()?.join("whole.tar.gz");
        let whole = whole.display();
        s.ok(&format!("container checkpoint --with-previous --export {whole} {name}"))?;
        until("its end", || Ok((s.inspect(&name, "{{.State.Status}}")? == "exited").then_some(())))?;
        s.ok(&format!("rm -f {name}"))?;
        s.ok(&format!("container restore --import-previous {before} --import {whole}"))?;
        counts_beyond(s, &name, counted(s, &name)?)?;
        s.ok(&format!("rm -f {name}")).map(drop)
    })
}
