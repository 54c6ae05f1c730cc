//! The texts by which runtimes report that a container or a process is gone. There is no exit code for it, so the shim
//! searches the messages. Engines do the same, so the runtimes keep them.

/// A container that does not exist: runc, windlass, youki and gVisor.
const NO_CONTAINER: &str = "does not exist";

/// Whether the text says that the container does not exist.
pub(super) fn is_container(text: &str) -> bool {
    text.contains(NO_CONTAINER)
}

/// Whether the text says so, or as crun does that the file of the container's state cannot be opened.
pub(super) fn is_container_or_file(text: &str) -> bool {
    is_container(text) || text.contains("o such file or directory")
}

/// Whether the text says that the target of a kill or delete is gone. The other phrases are runc's.
pub(super) fn is_target(text: &str) -> bool {
    const PROCESS: [&str; 3] = ["process already finished", "container not running", "no such process"];
    is_container(text) || PROCESS.iter().any(|phrase| text.contains(phrase))
}
