//! What a container is between two commands: a file of the state root, a process, a cgroup.
#![doc(hidden)]
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use windlass_base::error::Result;

mod process_stat;
mod record;
mod state;
mod store;
mod unusable;

pub use process_stat::process_stat;
pub use record::write_exit;
pub use state::{Init, State, Status, Unit, VERSION};
pub use store::{Container, INIT_NAME, Reservation, Store, notify_directory};

/// The state document of the specification (runtime.md, "State"), as hooks and `state` get it.
///
/// This reads the annotations, which may be large.
pub fn state_document(container: &Container, status: Status, pid: i32) -> Result<serde_json::Value> {
    Ok(document_with(&container.state, container.annotations()?, status, pid))
}

/// The same from what is recorded alone.
pub fn document(state: &State, status: Status, pid: i32) -> serde_json::Value {
    document_with(state, &state.annotations, status, pid)
}

fn document_with(state: &State, annotations: &BTreeMap<String, String>, status: Status, pid: i32) -> serde_json::Value {
    let mut out = serde_json::json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "status": status,
        "pid": pid,
        "bundle": state.bundle,
    });
    if !annotations.is_empty() {
        out["annotations"] = serde_json::json!(annotations);
    }
    out
}
