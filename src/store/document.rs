//! The state document of the specification (runtime.md, "State"), for hooks, seccomp agents and `state`.

use std::collections::BTreeMap;

use super::container::Container;
use super::state::{State, Status};
use windlass_base::error::Result;

impl Container {
    /// Its state document. This reads the annotations, which may be large.
    pub fn document(&self, status: Status, pid: i32) -> Result<serde_json::Value> {
        Ok(document(&self.state, self.annotations()?, status, pid))
    }
}

impl State {
    /// The state document of a state that still has the annotations, as in create.
    pub fn document(&self, status: Status, pid: i32) -> serde_json::Value {
        document(self, &self.annotations, status, pid)
    }
}

fn document(state: &State, annotations: &BTreeMap<String, String>, status: Status, pid: i32) -> serde_json::Value {
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
