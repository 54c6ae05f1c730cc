//! What a container is between two commands: a file of the state root, a process, a cgroup.

mod id;
mod kill;
mod record;
mod state;
mod store;

pub use id::{check_id, id_path};
pub use kill::{delete, destroy, finish, kill};
pub use record::write_exit;
pub use state::{ExitRecord, Init, State, Status, Unit, VERSION};
pub use store::{Container, INIT_NAME, Reservation, Store, notify_directory, process_stat};

/// The state document of the specification (runtime.md, "State"), as hooks and `state` get it.
pub fn state_document(container: &Container, status: Status, pid: i32) -> serde_json::Value {
    document(&container.state, status, pid)
}

/// The same from what is recorded alone.
pub fn document(state: &State, status: Status, pid: i32) -> serde_json::Value {
    let mut out = serde_json::json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "status": status,
        "pid": pid,
        "bundle": state.bundle,
    });
    if !state.annotations.is_empty() {
        out["annotations"] = serde_json::json!(state.annotations);
    }
    out
}
