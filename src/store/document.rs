//! The state document of the specification.

use std::collections::BTreeMap;

use super::container::Container;
use super::state::{State, Status};
use windlass_base::error::Result;

/// The state of a container for hooks and `state` (runtime.md, "State"). This reads the annotations, which may be
/// large.
pub fn state_document(container: &Container, status: Status, pid: i32) -> Result<serde_json::Value> {
    Ok(document_with(&container.state, container.annotations()?, status, pid))
}

/// [`state_document`] for a `state` that has the annotations, as in create.
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
