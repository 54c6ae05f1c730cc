//! `start`: starts the lasting shim, or finds the one of the same pod, and prints its address.
//!
//! All work that needs a parser of JSON, and the heap for it, is done here. The lasting shim is a new execution of the
//! same binary, which begins with the listener alone.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::arguments::{Arguments, TTRPC_ADDRESS};
use super::error::Error;
use super::message::options::Options;
use super::message::start::{Outcome, Params, StartInput};
use super::{bundle, io};
use crate::exit;
use windlass_base::protobuf::Message;
use windlass_cgroup::membership;
use windlass_sys::fd::Durability;
use windlass_sys::lock;
use windlass_sys::poll::Deadline;
use windlass_sys::process::Child;
use windlass_sys::spawn::{self, Environment, Spawn};
use windlass_sys::{fd, socket};

/// The directory in which containerd's own shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";

/// How long another start may hold the lock: as long as it takes to execute a shim.
const LOCK: Duration = Duration::from_secs(4);

/// Longest path of a socket that containerd accepts.
const PATH_MAX: usize = 106;

/// Runs the action.
pub(super) fn main(arguments: &Arguments) -> Result<(), Error> {
    let input = StartInput::read(&io::input()?, &arguments.id, &arguments.namespace);
    let directory = std::env::current_dir().map_err(|error| Error::Io("the working directory".into(), error))?;
    let params = match &input {
        StartInput::Bootstrap(params) => Some(params),
        StartInput::Options(_) => None,
    };
    let config = bundle::config(&directory)?;
    let key = [&arguments.address, &arguments.namespace, bundle::group(&config, &arguments.id)].join("\0");
    let path = socket_directory(&directory, params).join(format!("{:032x}", hash(key.as_bytes())));
    let address = format!("unix://{}", path.display());
    // An older containerd finds the address only in this file after a restart. The file comes before the socket, so
    // that `delete` finds and removes the socket of a start that was killed.
    exit::put(&directory.join("address"), address.as_bytes(), Durability::Cached)?;
    let shim = match listen(&path)? {
        // Options that cannot be read are refused when a task is created.
        Some((listener, _lock)) => {
            let options = Options::read(input.options()).unwrap_or_default();
            let started = spawn(arguments, &path, listener, params, &options);
            Some(started.inspect_err(|_| drop(std::fs::remove_file(&path)))?)
        }
        None => None,
    };
    let printed = match params {
        Some(_) => io::print(&Outcome { version: 3, address, protocol: "ttrpc".into() }.encode()),
        None => io::print(address.as_bytes()),
    };
    // No one knows the address of the new shim, so it must not stay.
    printed.inspect_err(|_| {
        if let Some(shim) = shim {
            shim.end();
            remove_dead(&path, Deadline::after(LOCK));
        }
    })
}

/// The directory of the socket: containerd's choice, otherwise the one in containerd's state directory, in which the
/// bundle is, otherwise the usual one.
fn socket_directory(bundle: &Path, params: Option<&Params>) -> PathBuf {
    let given = params.map(|params| params.socket_dir.as_str()).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    // STATE/io.containerd.runtime.v2.task/NAMESPACE/ID
    let mut above = bundle.ancestors().skip(2);
    let plugin = above.next().and_then(Path::file_name);
    let state = above.next().filter(|_| plugin == Some(OsStr::new("io.containerd.runtime.v2.task")));
    given
        .or_else(|| state.map(|state| state.join("s")))
        .filter(|directory| directory.as_os_str().len() + 1 + 32 <= PATH_MAX)
        .unwrap_or_else(|| SOCKETS.into())
}

/// FNV-1a in 128 bits. It is the same in every version of the shim, unlike the hash of the standard library.
fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// Removes the socket at a path, unless a shim listens there: that of a pod may live on. A start that makes one there
/// has the lock meanwhile, and would lose it.
pub(super) fn remove_dead(path: &Path, until: Deadline) {
    let parent = path.parent().filter(|parent| parent.is_absolute());
    let Some(Ok(parent)) = parent.map(|parent| fd::open(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY)) else { return };
    let is_dead = || socket::connect_now(path).is_err_and(|failed| failed.errno == Errno::ECONNREFUSED);
    if lock::exclusive_until(parent.as_fd(), until).unwrap_or(false) && is_dead() {
        let _ = std::fs::remove_file(path);
    }
}

/// The listener, and the lock under which it was made. `None`: a shim listens there already.
fn listen(path: &Path) -> Result<Option<(OwnedFd, OwnedFd)>, Error> {
    let (parent, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default().to_string_lossy());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|error| Error::Io(format!("mkdir {}", parent.display()), error))?;
    let directory = fd::open(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    // Two containers of a pod may be started at once.
    lock::exclusive(directory.as_fd(), true)?;
    loop {
        match socket::listen_stream_at(directory.as_fd(), &name, 0o600) {
            Ok(listener) => return Ok(Some((listener, directory))),
            Err(in_use) if in_use.errno == Errno::EADDRINUSE => match socket::connect_now(path) {
                Err(dead) if matches!(dead.errno, Errno::ECONNREFUSED | Errno::ENOENT) => {
                    let _ = fd::unlinkat(directory.as_fd(), &*name);
                }
                // Connected, or refused because the queue of a living shim is full.
                _ => return Ok(None),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

/// Starts the shim: the listener is its standard input.
fn spawn(
    arguments: &Arguments,
    path: &Path,
    listener: OwnedFd,
    params: Option<&Params>,
    options: &Options,
) -> Result<Child, Error> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let own: Vec<OsString> = std::env::args_os().collect();
    // If the name of the program does not select containerd's protocol, the first argument does.
    let named = own.get(1).filter(|word| *word == "containerd");
    let socket = path.as_os_str();
    let words: Vec<CString> = own
        .first()
        .into_iter()
        .chain(named)
        .map(OsString::as_os_str)
        .chain(["-namespace".as_ref(), arguments.namespace.as_ref(), "-id".as_ref(), arguments.id.as_ref()])
        .chain(["-address".as_ref(), arguments.address.as_ref(), "-socket".as_ref(), socket])
        .map(text)
        .collect();
    let events = params.map(|params| params.ttrpc_address.as_str()).filter(|address| !address.is_empty());
    let environment: Vec<CString> = std::env::vars_os()
        .filter(|(key, _)| events.is_none() || key != TTRPC_ADDRESS)
        .chain(events.map(|address| (TTRPC_ADDRESS.into(), address.into())))
        .map(|(mut key, value)| {
            key.push("=");
            key.push(value);
            text(&key)
        })
        .collect();
    let failed = |failed: windlass_base::error::SyscallError| Error::from(failed).context("cannot start the shim");
    let null = fd::open("/dev/null", OFlag::O_RDWR).map_err(failed)?;
    let score = oom_score();
    let child = spawn::start(&Spawn {
        path: c"/proc/self/exe",
        arguments: &words,
        environment: Environment::Given(&environment),
        stdio: [listener.as_fd(), null.as_fd(), null.as_fd()],
        preserve: &[],
        extra: &[],
        directory: None,
        oom_score_adj: score.as_deref(),
        die_with_parent: false,
        session: true,
        listen_pid: false,
    })
    .map_err(failed)?;
    if !options.shim_cgroup.is_empty() {
        let cgroup = &options.shim_cgroup;
        membership::add_process(cgroup, child.pid)
            .inspect_err(|_| child.end())
            .map_err(|failed| Error::from(failed).context(format!("shim_cgroup {cgroup}")))?;
    }
    Ok(child)
}

/// The shim's OOM score: one more than that of containerd, which this process has inherited. If memory is short, a
/// shim is killed before containerd.
fn oom_score() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    let score: i32 = text.trim().parse().ok()?;
    (score < 1000).then(|| (score + 1).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_below_the_state_directory() {
        let usual = Path::new("/run/containerd/io.containerd.runtime.v2.task/default/web");
        assert_eq!(socket_directory(usual, None), Path::new(SOCKETS));
        let own = Path::new("/run/other/io.containerd.runtime.v2.task/default/web");
        assert_eq!(socket_directory(own, None), Path::new("/run/other/s"));
        let params = Params { socket_dir: "/run/given".into(), ..Params::default() };
        assert_eq!(socket_directory(own, Some(&params)), Path::new("/run/given"));
        assert_eq!(socket_directory(Path::new("/tmp/bundle"), None), Path::new(SOCKETS));
        let long = format!("/{}/io.containerd.runtime.v2.task/default/web", "x".repeat(80));
        assert_eq!(socket_directory(Path::new(&long), None), Path::new(SOCKETS));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(hash(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
    }

    #[test]
    fn the_socket_that_another_start_makes_is_not_removed() {
        let path = std::env::temp_dir().join(format!("windlass-starts-{}/socket", std::process::id()));
        drop(listen(&path).expect("listens"));
        // A dead one is there. Another start has the lock and replaces it.
        let (listener, lock) = listen(&path).expect("listens").expect("nobody else does");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| remove_dead(&path, Deadline::after(LOCK)));
            drop(listener);
            std::thread::sleep(Duration::from_millis(100));
            assert!(!waits.is_finished() && path.exists(), "removed beside a start");
            std::fs::remove_file(&path).expect("removed");
            let made = std::os::unix::net::UnixListener::bind(&path).expect("listens");
            drop(lock);
            waits.join().expect("ended");
            assert!(path.exists(), "a living one was removed");
            drop(made);
        });
        let (listener, lock) = listen(&path).expect("listens").expect("nobody else does");
        remove_dead(&path, Deadline::after(Duration::ZERO));
        assert!(path.exists(), "removed though a start had the lock");
        drop(lock);
        remove_dead(&path, Deadline::after(Duration::ZERO));
        assert!(path.exists(), "it lives");
        drop(listener);
        remove_dead(&path, Deadline::after(Duration::ZERO));
        assert!(!path.exists(), "it is dead");
        std::fs::remove_dir_all(path.parent().expect("below")).expect("removed");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_used() {
        let path = std::env::temp_dir().join(format!("windlass-start-{}/socket", std::process::id()));
        let first = listen(&path).expect("listens").expect("nobody else does");
        // The lock would belong to a process that has ended by then.
        let (listener, lock) = first;
        drop(lock);
        assert!(listen(&path).expect("looked").is_none());
        drop(listener);
        assert!(listen(&path).expect("listens").is_some());
        std::fs::remove_dir_all(path.parent().expect("below")).expect("removed");
    }
}
