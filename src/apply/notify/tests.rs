use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::errno::Errno;

use super::*;
use windlass_sys::pipe;
use windlass_sys::process;

/// A state root that is removed with the test.
struct State(PathBuf, OwnedFd);

impl State {
    fn new(name: &str) -> State {
        let path = std::env::temp_dir().join(format!("windlass-notify-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).expect("a new directory");
        let dir = fd::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).expect("the directory");
        State(path, dir)
    }

    fn listening(name: &str, manager: &ServiceManager) -> (State, Notify) {
        let state = State::new(name);
        prepare(state.1.as_fd(), "web1").expect("the notify directory");
        let notify = Notify::listen(state.1.as_fd(), "web1", manager).expect("listening").expect("prepared");
        (state, notify)
    }

    fn says(&self, text: &[u8]) {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.send_to(text, self.0.join("web1@notify/notify.sock")).expect("sent");
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A service manager that returns what it has received, up to a barrier or for a while.
fn manager(name: &str) -> (ServiceManager, JoinHandle<Vec<String>>) {
    let name = format!("windlass-notify-{}-{name}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let socket = UnixDatagram::bind_addr(&address).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let received = std::thread::spawn(move || {
        let mut out = Vec::new();
        while let Some((text, fd)) = receive(&socket) {
            let barrier = text == "BARRIER=1";
            assert_eq!(barrier, fd.is_some(), "{text:?}");
            out.push(text);
            if barrier {
                break;
            }
        }
        out
    });
    (ServiceManager(format!("@{name}")), received)
}

fn receive(socket: &UnixDatagram) -> Option<(String, Option<OwnedFd>)> {
    let mut buffer = [0; 256];
    let (n, fd) = socket::receive(socket.as_fd(), &mut buffer).ok()?;
    Some((String::from_utf8_lossy(&buffer[..n]).into_owned(), fd))
}

/// A process in the place of init.
struct Init(Child, OwnedFd);

impl Init {
    fn new(program: &str, args: &[&str]) -> Init {
        let child = Command::new(program).args(args).spawn().expect("a process");
        let pidfd = process::open_pid(child.id() as i32).expect("its pidfd");
        Init(child, pidfd)
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn only_the_one_line_counts() {
    for (message, want) in [
        (&b"READY=1"[..], true),
        (b"READY=1\n", true),
        (b"STATUS=up\nREADY=1\nFDSTORE=1", true),
        (b"READY=0", false),
        (b"READY=11", false),
        (b"STATUS=READY=1", false),
        (b" READY=1", false),
        (b"READY=1\0", false),
        (b"", false),
    ] {
        assert_eq!(says_ready(message), want, "{message:?}");
    }
}

#[test]
fn the_socket_of_the_service_manager_is_a_path_or_an_abstract_name() {
    for good in ["/run/systemd/notify", "@abstract"] {
        assert_eq!(ServiceManager::parse(good), Ok(ServiceManager(good.into())));
    }
    for bad in ["/", "@", "notify", "vsock:2:1"] {
        assert!(ServiceManager::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_containers_variable_replaces_one_of_the_configuration() {
    let mut environment = vec!["NOTIFY_SOCKET=/evil".into(), "NOTIFY_SOCKET_X=1".into(), "NOTIFY_SOCKET".into()];
    set_variable(&mut environment);
    assert_eq!(environment, ["NOTIFY_SOCKET_X=1", "NOTIFY_SOCKET", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
}

fn planned(namespaces: &str) -> Plan {
    let text = format!(
        r#"{{"ociVersion":"1.0.0","root":{{"path":"rootfs"}},"process":{{"args":["x"],"cwd":"/","user":{{"uid":0,"gid":0}}}},
            "mounts":[{MOUNTS}],"linux":{{"namespaces":[{namespaces}]}}}}"#,
        MOUNTS = if namespaces.is_empty() { "" } else { r#"{"destination":"/run","type":"tmpfs","source":"tmpfs"}"# },
    );
    let spec = windlass_base::spec::parse(text.as_bytes(), "config.json").expect("valid");
    let host =
        windlass_plan::Host { capabilities: windlass_base::capability::CapabilitySet::all(), ..Default::default() };
    let options = windlass_plan::Options { host, ..Default::default() };
    windlass_plan::create("box", &spec, &options).expect("a plan")
}

#[test]
fn the_mount_comes_after_all_others_and_before_the_pivot() {
    let mut plan = planned(r#"{"type":"mount"}"#);
    assert!(plan_mount(&mut plan, Path::new("/run/windlass")));
    let at = |what: &dyn Fn(&Action) -> bool| plan.init.iter().rposition(|step| what(&step.action)).expect("there");
    let ours = at(&|action| matches!(action, Action::Mount(mount) if mount.destination.is("/run/notify")));
    let run = at(&|action| matches!(action, Action::Mount(mount) if mount.destination.is("/run")));
    let pivot = at(&|action| matches!(action, Action::Pivot(_)));
    assert!(run < ours && ours < pivot);
    let Action::Mount(Mount { what: MountKind::Bind(source), .. }) = &plan.init[ours].action else {
        panic!("not a bind")
    };
    assert_eq!(plan.source(*source).expect("a source").path, "/run/windlass/box@notify");
    assert!(plan.source(*source).expect("a source").set.contains(MountAttributes::RDONLY));
}

#[test]
fn without_mounts_of_its_own_a_container_gets_no_socket() {
    let mut plan = planned("");
    let before = plan.init.len();
    assert!(!plan_mount(&mut plan, Path::new("/run/windlass")));
    assert_eq!((plan.init.len(), plan.sources.len()), (before, planned("").sources.len()));
}

#[test]
fn readiness_is_passed_on_and_nothing_else_of_the_container_is() {
    let (service, received) = manager("ready");
    let (state, notify) = State::listening("ready", &service);
    state.says(b"STATUS=working\nMAINPID=1");
    state.says(b"EXTEND_TIMEOUT_USEC=1\nREADY=1\nSTOPPING=1");
    let init = Init::new("sleep", &["60"]);
    assert_eq!(notify.wait_and_forward(init.1.as_fd(), 4711), Ok(Readiness::Ready));
    assert_eq!(received.join().expect("no panic"), ["READY=1\n", "MAINPID=4711\n", "BARRIER=1"]);
}

#[test]
fn a_container_that_ends_ends_the_wait_whatever_it_sends() {
    let (service, received) = manager("ended");
    let (state, notify) = State::listening("ended", &service);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                state.says(&[b'x'; 10]);
            }
        });
        let init = Init::new("sleep", &["0.2"]);
        let outcome = notify.wait_and_forward(init.1.as_fd(), 1);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        // The sender may be waiting for room.
        while !notify.is_ready().expect("readable") && notify_has_more(&notify) {}
        assert_eq!(outcome, Ok(Readiness::Ended));
        drop(notify);
    });
    assert_eq!(received.join().expect("no panic"), [""; 0]);
}

fn notify_has_more(notify: &Notify) -> bool {
    poll::readable(notify.fd(), Deadline::after(Duration::from_millis(200))).expect("poll")
}

#[test]
fn a_word_that_was_sent_before_the_end_is_passed_on() {
    let (service, received) = manager("oneshot");
    let (state, notify) = State::listening("oneshot", &service);
    state.says(b"READY=1");
    let mut init = Init::new("true", &[]);
    init.0.wait().expect("ended");
    assert_eq!(notify.wait_and_forward(init.1.as_fd(), 1), Ok(Readiness::Ready));
    assert_eq!(received.join().expect("no panic")[0], "READY=1\n");
}

#[test]
fn a_message_that_is_too_long_does_not_count() {
    let (service, _told) = manager("long");
    let (state, notify) = State::listening("long", &service);
    let mut long = b"READY=1\n".to_vec();
    long.resize(LONGEST + 1, b'x');
    state.says(&long);
    assert_eq!(notify.is_ready(), Ok(false));
    long.truncate(LONGEST);
    state.says(&long);
    assert_eq!(notify.is_ready(), Ok(true));
}

#[test]
fn a_descriptor_from_the_container_is_closed_at_once() {
    let (service, _told) = manager("fds");
    let (state, notify) = State::listening("fds", &service);
    let (read, write) = pipe::new().expect("a pipe");
    let path = state.0.join("web1@notify/notify.sock");
    let sender = socket::connect_datagram(path.to_str().expect("UTF-8"), 1).expect("connected");
    socket::send(sender.as_fd(), b"BARRIER=1", &[write.as_fd()]).expect("sent");
    drop(write);
    assert_eq!(notify.is_ready(), Ok(false));
    let mut fds = [PollFd::new(read.as_fd(), PollFlags::empty())];
    assert_eq!(poll::poll(&mut fds, Deadline::after(Duration::from_secs(2))), Ok(true));
}

#[test]
fn after_the_word_the_socket_stays_open_for_a_moment_only() {
    let (service, _told) = manager("after");
    let (_state, notify) = State::listening("after", &service);
    let before = Instant::now();
    notify.linger();
    let waited = before.elapsed();
    assert!(waited >= LINGER / 2 && waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn a_service_manager_that_keeps_the_barrier_is_not_waited_for_without_end() {
    let name = format!("windlass-notify-{}-keeps", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("an address")).expect("bound");
    let (_state, notify) = State::listening("keeps", &ServiceManager(format!("@{name}")));
    assert_eq!(notify.barrier(Duration::from_millis(50)), Ok(false));
    drop(socket);
    assert_eq!(notify.barrier(Duration::from_secs(5)).map_err(|failed| failed.errno), Err(Errno::ECONNREFUSED));
}

#[test]
fn anybody_in_the_container_can_reach_the_socket_and_a_second_start_listens_anew() {
    let (service, _told) = manager("modes");
    let (state, first) = State::listening("modes", &service);
    let second = Notify::listen(state.1.as_fd(), "web1", &service).expect("listening").expect("prepared");
    state.says(b"READY=1");
    assert_eq!((first.is_ready(), second.is_ready()), (Ok(false), Ok(true)));
    let mode = |name: &str| state.0.join(name).metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("web1@notify"), mode("web1@notify/notify.sock")), (0o755, 0o777));
}

#[test]
fn a_start_without_a_prepared_directory_has_nothing_to_wait_for() {
    let (service, _told) = manager("unprepared");
    let state = State::new("unprepared");
    assert!(Notify::listen(state.1.as_fd(), "web1", &service).expect("no failure").is_none());
}

#[test]
fn a_service_manager_that_is_not_there_is_named_before_the_container_runs() {
    let state = State::new("nobody");
    prepare(state.1.as_fd(), "web1").expect("the notify directory");
    let error = Notify::listen(state.1.as_fd(), "web1", &ServiceManager("/nonexistent/socket".into()))
        .expect_err("nobody there");
    assert!(error.message().contains("/nonexistent/socket"), "{error}");
    assert_eq!(error.errno(), Some(Errno::ENOENT));
}
