use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

use windlass_base::exit_record::ExitRecord;
use windlass_base::spec::Hooks;
use windlass_sys::attributes;

use super::*;
use crate::{InitProcess, Status};

/// A state root that is removed at the end.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Root {
        let path = std::env::temp_dir().join(format!("windlass-store-{name}-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).expect("a directory");
        Root(path)
    }

    fn store(&self) -> Store {
        Store::open(&self.0).expect("a state root")
    }

    /// Records a container as create does.
    fn make(&self, id: &str, cgroup: Option<&str>, annotations: usize) {
        let mut state = State::of_cgroup(id, String::new());
        state.cgroup = cgroup.map(String::from);
        if annotations > 0 {
            state.annotations.insert("large".into(), "x".repeat(annotations));
        }
        self.made(state);
    }

    fn made(&self, state: State) {
        let id = &state.id.clone();
        let config = serde_json::json!({"ociVersion": "1.2.0", "annotations": state.annotations});
        let reservation = self.store().reserve(id).expect("free");
        reservation.record(&state, config.to_string().as_bytes(), false).expect("recorded");
        let init = InitProcess { pid: 4_000_000, start_time: 1 };
        reservation.record_init(&init).expect("recorded");
        drop(reservation.commit(state, init, Hooks::default()).expect("kept"));
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that this thread has read (proc_pid_io(5), `rchar`).
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").expect("procfs");
    text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).expect("a count")
}

#[test]
fn who_does_not_ask_for_annotations_does_not_read_them() {
    let root = Root::new("bulk");
    root.make("web", None, 16 << 20);
    let store = root.store();
    let before = bytes_read();
    let container = store.load("web").expect("readable");
    assert_eq!(container.status().expect("known"), Status::Stopped);
    assert!(container.hooks().expect("known").poststop.is_empty());
    container.config().expect("readable");
    let read = bytes_read() - before;
    assert!(read < 64 << 10, "{read} bytes");
    assert_eq!(container.annotations().expect("readable")["large"].len(), 16 << 20);
    let read = bytes_read() - before;
    assert!(read < 17 << 20, "{read} bytes: each once");
}

#[test]
fn a_state_that_was_cut_off_is_not_lost() {
    let root = Root::new("cut");
    let cgroup = format!("/sys/fs/cgroup/windlass-none-{}", std::process::id());
    for (length, cgroup) in [(0, Some(cgroup.as_str())), (150, Some(&cgroup)), (0, None), (10, None)] {
        root.make("web", cgroup, 0);
        let path = root.0.join("web");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("there");
        file.set_len(length).expect("cut");
        assert!(root.store().load("web").is_err());
        match root.store().remove_leftover("web") {
            Ok(Some(container)) => {
                assert_eq!(container.state.cgroup.as_deref(), cgroup);
                // Without a cgroup only its process is known.
                assert_eq!(container.init.is_some(), cgroup.is_none());
                container.remove().expect("removed");
            }
            // Without extended attributes the file system keeps nothing beside the content.
            Err(error) if attributes::load(file.as_fd(), COPY).is_none() => {
                assert!(error.message().contains("nothing tells which processes are its"), "{error:?}");
                std::fs::remove_file(&path).expect("kept");
            }
            other => panic!("{length} bytes: {:?}", other.map(|_| "gone")),
        }
    }
}

#[test]
fn what_is_not_known_is_kept_and_what_was_never_made_is_not() {
    let root = Root::new("unknown");
    let path = root.0.join("web");
    let put = |text: &str| {
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("ours");
    };
    put("{\"version\":1,\"id\":\"web\",\"ociVersion\":\"1.0.2\",\"bundle\":\"/b");
    let error = root.store().remove_leftover("web").err().expect("its processes may be running");
    assert!(error.message().starts_with("the state of \"web\" is damaged"), "{error:?}");
    assert!(path.exists());
    put("{\"version\":1,\"id\":\"web\",\"annotations\":{},\"cgroup\":\"/sys/fs/cgroup/x\",\"own");
    let found = root.store().remove_leftover("web").expect("readable").expect("a container");
    assert_eq!(found.state.cgroup.as_deref(), Some("/sys/fs/cgroup/x"));
    // `found` holds the lock.
    drop(found);
    for never in ["", "nonsense"] {
        put(never);
        assert!(root.store().remove_leftover("web").expect("removed").is_none());
        assert!(!path.exists(), "{never:?}");
    }
}

#[test]
fn what_others_may_write_is_not_believed() {
    let root = Root::new("owner");
    root.make("web", None, 0);
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("ours");
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        set(&root.0, mode);
        let error = Store::open(&root.0).err().expect("refused");
        assert!(error.message().contains("can be written by others"), "{error:?}");
    }
    for mode in [0o700, 0o755, 0o1700] {
        set(&root.0, mode);
        Store::open(&root.0).expect("nobody else writes there");
    }
    for mode in [0o606, 0o660] {
        set(&root.0.join("web"), mode);
        assert!(root.store().load("web").err().expect("refused").message().contains("can be written by others"));
    }
    set(&root.0.join("web"), 0o644);
    root.store().load("web").expect("nobody else writes there");
}

/// Others may not read it. The cleanup of a user's runtime directory leaves out what has the sticky bit.
#[test]
fn a_state_root_is_made_with_its_mode() {
    let root = Root::new("made");
    for path in [root.0.join("one"), root.0.join("two/three")] {
        Store::make(&path).expect("made");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o1700);
        Store::make(&path).expect("it is there");
    }
}

/// With init recorded, create has written the whole configuration, and poststop hooks may have to run.
#[test]
fn hooks_that_cannot_be_read_do_not_count_as_none() {
    let root = Root::new("hooks");
    let state = State::of_cgroup("web", String::new());
    let reservation = root.store().reserve("web").expect("free");
    reservation.record(&state, br#"{"hooks": {"poststop": ["#, true).expect("recorded");
    let init = InitProcess { pid: 4_000_000, start_time: 1 };
    reservation.record_init(&init).expect("recorded");
    drop(reservation.commit(state, init, Hooks::default()).expect("kept"));
    assert!(root.store().load("web").expect("readable").hooks().is_err());
}

#[test]
fn an_end_that_is_found_out_twice_is_the_one_written_down_first() {
    let root = Root::new("end");
    root.make("a", None, 0);
    let (one, other) = (root.store().load("a").expect("there"), root.store().load("a").expect("there"));
    let at = |at: &str| ExitRecord { code: None, signal: None, oom_killed: true, at: at.into() };
    assert_eq!(one.settle_exit(at("first")), at("first"));
    assert_eq!(other.settle_exit(at("second")), at("first"), "though it was loaded before");
    assert_eq!(root.store().load("a").expect("there").exit().expect("readable"), Some(at("first")));
}

/// The numbers of processes come again. Start times are compared to the tick, see `ProcessStat::is_from`.
#[test]
fn a_later_process_with_the_number_of_init_is_not_init() {
    let root = Root::new("number");
    let pid = std::process::id() as i32;
    let own = crate::process_stat(pid).expect("readable").expect("it runs").started().expect("known");
    for (id, start_time, is_init) in [("own", own, true), ("later", own + 2, false), ("before", own - 2, false)] {
        let state = State::of_cgroup(id, String::new());
        let reservation = root.store().reserve(id).expect("free");
        reservation.record(&state, b"{}", false).expect("recorded");
        let init = InitProcess { pid, start_time };
        reservation.record_init(&init).expect("recorded");
        drop(reservation.commit(state, init, Hooks::default()).expect("kept"));
        let container = root.store().load(id).expect("readable");
        assert_eq!(container.open_init().expect("known").is_some(), is_init, "{id}");
        let status = if is_init { Status::Running } else { Status::Stopped };
        assert_eq!(container.status().expect("known"), status, "{id}");
    }
}

#[test]
fn a_question_for_the_status_takes_no_lock() {
    let root = Root::new("status");
    let path = root.0.join("web");
    let reservation = root.store().reserve("web").expect("free");
    reservation.record(&State::of_cgroup("web", String::new()), b"{}", false).expect("recorded");
    assert_eq!(root.store().load("web").expect("readable").status().expect("known"), Status::Creating);
    let text = std::fs::read(&path).expect("recorded");
    drop(reservation);
    // A create that died left the same file, without a lock.
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("ours");
    let load = || root.store().load("web").expect("readable");
    let (mut first, second) = (load(), load());
    for container in [&first, &second, &first] {
        assert_eq!(container.status().expect("known"), Status::Stopped);
    }
    first.lock().expect("nobody else has it");
    for _ in 0..2 {
        assert_eq!(first.status().expect("known"), Status::Stopped, "by the holder of the lock");
        assert_eq!(second.status().expect("known"), Status::Creating, "the holder has kept it");
    }
}

#[test]
fn who_has_waited_for_a_create_knows_its_process() {
    let root = Root::new("waited");
    let state = State::of_cgroup("web", String::new());
    let reservation = root.store().reserve("web").expect("free");
    reservation.record(&state, b"{}", false).expect("recorded");
    let mut loaded = root.store().load("web").expect("readable");
    assert_eq!(loaded.init, None);
    let init = InitProcess { pid: 4_000_000, start_time: 1 };
    reservation.record_init(&init).expect("recorded");
    drop(reservation.commit(state, init, Hooks::default()).expect("kept"));
    loaded.lock().expect("nobody else has it");
    assert_eq!(loaded.init, Some(init), "otherwise a `delete --force` would leave it running");
}

#[test]
fn a_cgroup_belongs_to_the_later_of_two_containers() {
    let root = Root::new("later");
    root.make("a", Some("/sys/fs/cgroup/box"), 0);
    let store = root.store();
    let paths = ["/sys/fs/cgroup/box".to_owned()];
    let with = |created: &str| State { created: created.into(), ..State::of_cgroup("b", String::new()) };
    let found = |first: Option<&State>| store.of_cgroup(&paths, first).expect("a state root").is_some();
    assert!(found(None), "whenever it was created");
    assert!(!found(Some(&with("2026-01-01T00:00:05Z"))), "it was not created after that one");
}

#[test]
fn an_oom_kill_is_not_that_of_the_container_which_had_the_cgroup_before() {
    let (root, cgroup) = (Root::new("oom"), Root::new("oom-cgroup"));
    std::fs::write(cgroup.0.join("memory.events"), "oom 1\noom_kill 1\n").expect("written");
    let made = |id: &str, created: &str| {
        let path = cgroup.0.to_str().expect("text").to_owned();
        root.made(State { created: created.into(), ..State::of_cgroup(id, path) });
    };
    let killed =
        |id: &str| root.store().load(id).expect("readable").exit().expect("known").is_some_and(|it| it.oom_killed);
    made("a", "2026-01-01T00:00:05Z");
    made("b", "2026-01-01T00:00:06Z");
    assert!(!killed("a"), "the later one's");
    assert!(killed("b"));
}
