//! What docker does with checkpoints besides restoring them: several of a container, lists, other directories.

use super::checkpoint::{counted, counting, counts_beyond, experimental, remove, with_criu};
use crate::case::chapter;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};

chapter! { [Docker] "checkpoint":
    checkpoints_of_a_container_that_goes_on_are_listed_and_removed,
    a_checkpoint_ends_the_container_unless_told_otherwise,
}

/// The names that `checkpoint ls` shows.
fn listed(s: &Session, name: &str, options: &str) -> Verdict<Vec<String>> {
    let text = s.ok(&format!("checkpoint ls {options} {name}"))?;
    Ok(text.lines().skip(1).map(|line| line.trim().to_owned()).collect())
}

fn checkpoints_of_a_container_that_goes_on_are_listed_and_removed(s: &Session) -> Verdict {
    with_criu(s, || {
        experimental(s, || {
            let name = counting(s)?;
            let elsewhere = s.scratch()?;
            let elsewhere = format!("--checkpoint-dir {}", elsewhere.display());
            for (options, checkpoint) in [("", "one"), ("", "two"), (&*elsewhere, "three")] {
                s.ok(&format!("checkpoint create --leave-running {options} {name} {checkpoint}"))?;
                ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "the status");
                counts_beyond(s, &name, counted(s, &name)?)?;
            }
            ensure_eq!(listed(s, &name, "")?, ["one", "two"], "those of the container");
            ensure_eq!(listed(s, &name, &elsewhere)?, ["three"], "those in the other directory");
            s.ok(&format!("checkpoint rm {name} one"))?;
            s.ok(&format!("checkpoint rm {elsewhere} {name} three"))?;
            ensure_eq!(listed(s, &name, "")?, ["two"], "what is left");
            ensure!(listed(s, &name, &elsewhere)?.is_empty(), "the other directory has one");
            s.run(&format!("checkpoint create {name} two"))?.fails()?.stderr_has("two")?;
            ensure_eq!(s.inspect(&name, "{{.State.Status}}")?, "running", "the status");
            remove(s, &name)
        })
    })
}

fn a_checkpoint_ends_the_container_unless_told_otherwise(s: &Session) -> Verdict {
    with_criu(s, || {
        experimental(s, || {
            let name = counting(s)?;
            s.ok(&format!("checkpoint create {name} one"))?;
            until("its end", || Ok((s.inspect(&name, "{{.State.Status}}")? == "exited").then_some(())))?;
            ensure_eq!(s.inspect(&name, "{{.State.ExitCode}}")?, "137", "the exit code");
            ensure_eq!(listed(s, &name, "")?, ["one"], "its checkpoints");
            // It begins anew without a checkpoint.
            s.ok(&format!("start {name}"))?;
            counts_beyond(s, &name, 0)?;
            remove(s, &name)
        })
    })
}
