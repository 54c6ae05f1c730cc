//! Sending a seccomp listener to its agent.

use std::os::fd::AsFd;
use std::path::Path;

use windlass_base::error::{Error, Kind, Origin, Result, WithContext};
use windlass_plan::{Action, Step};
use windlass_sys::process::{self, Child};
use windlass_sys::socket;

/// Copies the seccomp listener, descriptor `number` of `child`, and sends it with the container process state
/// to `listenerPath` (config-linux.md, "The Container Process State"). `steps` are those of `child`.
pub(crate) fn send_to_agent(
    steps: &[Step],
    child: &Child,
    number: i32,
    oci_version: &str,
    state: serde_json::Value,
) -> Result<()> {
    let seccomp = steps.iter().find_map(|step| match &step.action {
        Action::Seccomp(seccomp) => Some(seccomp),
        _ => None,
    });
    let unplanned = || Error::new(Kind::Protocol, "the process has a listener that was not planned");
    let seccomp = seccomp.ok_or_else(unplanned)?;
    let listener =
        process::pidfd_getfd(child.pidfd.as_fd(), number).with_context(|| "cannot take the seccomp listener")?;
    let mut message = serde_json::json!({
        "ociVersion": oci_version,
        "fds": ["seccompFd"],
        "pid": child.pid,
        "state": state,
    });
    if !seccomp.listener_metadata.is_empty() {
        message["metadata"] = seccomp.listener_metadata.as_str().into();
    }
    let origin = |error: Error| error.with_origin(Origin::config("/linux/seccomp/listenerPath"));
    let agent = socket::connect(Path::new(&seccomp.listener_path))
        .with_context(|| format!("failed to connect with seccomp agent at {:?}", seccomp.listener_path))
        .map_err(origin)?;
    socket::send(agent.as_fd(), message.to_string().as_bytes(), &[listener.as_fd()])
        .with_context(|| "cannot send the seccomp listener")
        .map_err(origin)
}
