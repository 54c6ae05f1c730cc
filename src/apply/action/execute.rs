//! The program: finding it, waiting at the start barrier, executing it.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::unistd::AccessFlags;

use crate::context::{Barrier, Context, Executable};
use crate::resolve;
use crate::sync::encode_failure;
use windlass_base::error::{Error, Kind, Result, WithContext, describe};
use windlass_plan::{DEFAULT_PATH, RootPath};
use windlass_sys::process::{self, Execution};
use windlass_sys::{SyscallError, descriptors, fd, mount, signals, socket};

use super::passwd::home_directory;
use super::root::reset_signals;

pub(super) fn make_working_directory(path: &RootPath, cx: &mut Context<'_>) -> Result<()> {
    match resolve::directory(cx.root()?, path.as_path(), resolve::IN_ROOT) {
        // The user may be able to enter it all the same. If not, changing into it reports the error.
        Err(failed)
            if matches!(
                failed.errno,
                Errno::EACCES | Errno::EROFS | Errno::ENOTDIR | Errno::EEXIST | Errno::EPERM | Errno::ELOOP
            ) =>
        {
            Ok(())
        }
        other => other.map(drop).with_context(|| format!("cannot make the working directory {path}")),
    }
}

/// Changes into the working directory and makes sure that it is inside the container. A path through procfs could
/// lead to a descriptor of the host (CVE-2024-21626).
fn change_directory(path: &Path) -> Result<()> {
    let failed = || format!("chdir to cwd ({path:?}) set in config.json failed");
    let found = fd::openat2(fd::CWD, path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0, ResolveFlag::RESOLVE_NO_MAGICLINKS);
    mount::change_directory(found.with_context(failed)?.as_fd()).with_context(failed)?;
    let outside = || {
        Error::new(
            Kind::PermissionDenied,
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        )
    };
    let mut buffer = [0u8; 4096];
    let length = process::working_directory(&mut buffer)
        .with_context(|| "cannot find out the working directory")
        .map_err(|error| if error.errno() == Some(Errno::ENOENT) { outside() } else { error })?;
    if buffer[..length].first() == Some(&b'/') { Ok(()) } else { Err(outside()) }
}

/// Enters the working directory with the runtime's privileges: images have directories that are closed to the
/// container's user.
pub(super) fn enter(path: &Path, cx: &mut Context<'_>) -> Result<()> {
    match change_directory(path) {
        // fuse(4) and NFS may refuse even root. The container's user tries later.
        Err(error) if matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM)) => Ok(()),
        other => other.map(|()| cx.in_working_directory = true),
    }
}

/// Enters the working directory as the container's user, if the runtime could not.
pub(super) fn enter_as_user(path: &Path, cx: &Context<'_>) -> Result<()> {
    if cx.in_working_directory { Ok(()) } else { change_directory(path) }
}

/// Finds the program as the container's user would, so that create fails where start would.
pub(super) fn find(cx: &mut Context<'_>) -> Result<()> {
    // An empty HOME counts as missing.
    if !cx.program.env.iter().any(|variable| variable.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        let uid = nix::unistd::getuid().as_raw();
        let home = home_directory(uid)?.unwrap_or_else(|| {
            if log::log_enabled!(log::Level::Debug) {
                cx.sync.log(&format!("HOME is /: the container's /etc/passwd has no directory for user {uid}"));
            }
            "/".into()
        });
        let home = format!("HOME={home}");
        match cx.program.env.iter_mut().find(|variable| variable.starts_with("HOME=")) {
            Some(empty) => *empty = home,
            None => cx.program.env.push(home),
        }
    }
    let name = cx.program.args.first().cloned().unwrap_or_default();
    let found = if name.contains('/') {
        executable(&name).map_err(|errno| not_executable(&name, &name, errno))?
    } else {
        search(&name, &cx.program.env)?
    };
    cx.executable = Executable::Found(found);
    Ok(())
}

fn search(name: &str, env: &[String]) -> Result<CString> {
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut refused = None;
    for directory in path.split(':') {
        let candidate = if directory.is_empty() { format!("./{name}") } else { format!("{directory}/{name}") };
        match executable(&candidate) {
            Ok(found) => return Ok(found),
            Err(Errno::EACCES) => refused = Some(candidate),
            Err(_) => {}
        }
    }
    Err(match refused {
        Some(candidate) => not_executable(name, &candidate, Errno::EACCES),
        None => Error::new(Kind::ExecutableNotFound, format!("exec: {name:?}: executable file not found in $PATH"))
            .with_hint("the name was looked for in the PATH of process.env, inside the container"),
    })
}

fn executable(path: &str) -> Result<CString, Errno> {
    let stat = nix::sys::stat::stat(path)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    nix::unistd::faccessat(fd::CWD, path, AccessFlags::X_OK, nix::fcntl::AtFlags::AT_EACCESS)?;
    CString::new(path).map_err(|_| Errno::EINVAL)
}

/// The error in Go's words, which engines turn into the exit codes 126 and 127.
fn not_executable(name: &str, path: &str, errno: Errno) -> Error {
    let (kind, text) = match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            (Kind::ExecutableNotFound, format!("exec: {name:?}: stat {path}: {}", describe(errno)))
        }
        Errno::EISDIR => (Kind::PermissionDenied, format!("exec: {name:?}: is a directory: permission denied")),
        Errno::EACCES => (Kind::PermissionDenied, format!("exec: {name:?}: permission denied")),
        _ => (Kind::Kernel, format!("exec: {name:?}: stat {path}: {}", describe(errno))),
    };
    Error::new(kind, text).caused_by(SyscallError { call: format!("access({path:?}, X_OK)").into(), errno })
}

/// Reports that all is prepared, and waits at the start barrier. Few calls but execve(2) follow.
pub(super) fn ready(cx: &mut Context<'_>) -> Result<()> {
    if cx.listens {
        // A fork may have come before: only now is the process the one that executes the program.
        cx.program.env.retain(|variable| !variable.starts_with("LISTEN_PID="));
        cx.program.env.push(format!("LISTEN_PID={}", nix::unistd::getpid()));
    }
    reset_signals().with_context(|| "cannot reset the signals")?;
    // Descriptors of the caller that it did not ask to pass on are closed by the execution.
    descriptors::close_from_on_exec(cx.first_not_preserved()).with_context(|| "cannot close the descriptors")?;
    // The runtime of `create` ends as soon as it has answered, and `start` opens the barrier later. From then on
    // anybody may end this process by a signal.
    let mut handled = 0;
    if matches!(cx.barrier, Barrier::Start(_)) {
        outlive_runtime(cx)?;
        handled = signals::exit_on_termination_signals().with_context(|| "cannot handle termination signals")?;
    }
    cx.sync.ready()?;
    // By now the runtime has written to the shared page which signals this process ignores, usually none.
    let ignored = cx.progress.ignored() & !handled;
    signals::default_actions(ignored).with_context(|| "cannot reset the signals")?;
    if let Barrier::Start(listener) = &cx.barrier {
        // A descriptor that is open now would stay open for as long as the container waits.
        descriptors::close_all_but(cx.first_not_preserved(), &[listener.as_fd()]);
    }
    cx.barrier = match std::mem::replace(&mut cx.barrier, Barrier::Runtime) {
        Barrier::Start(listener) => Barrier::Opened { start: wait_for_start(listener.as_fd())?, _listener: listener },
        other => other,
    };
    // The execution is prepared only now, so that a waiting container takes little memory.
    if let Executable::Found(path) = std::mem::replace(&mut cx.executable, Executable::Unknown) {
        cx.executable = Executable::Prepared(Execution::new(path, &cx.program.args, &cx.program.env));
    }
    Ok(())
}

/// Waits for a connection and a message on it.
fn wait_for_start(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    loop {
        if let Some(connection) = accept_start(listener)? {
            return Ok(connection);
        }
    }
}

/// Waits for a connection, and returns it if there was a message on it. A `start` that dies before its message does not
/// count. If the message cannot be received, `start` gets the error: the end alone would mean that the program runs.
pub(crate) fn accept_start(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let connection = match socket::accept(listener) {
        Err(failed) if is_transient(failed.errno) => {
            std::thread::sleep(ACCEPT_AGAIN);
            return Ok(None);
        }
        other => other.with_context(|| "cannot wait for start")?,
    };
    let mut word = [0; 8];
    match socket::receive(connection.as_fd(), &mut word).with_context(|| "cannot receive from `start`") {
        Ok((0, _)) => Ok(None),
        Ok(_) => Ok(Some(connection)),
        Err(error) => {
            // With the message unread, the close would discard the answer.
            let _ = socket::receive(connection.as_fd(), &mut word);
            let _ = socket::send(connection.as_fd(), &encode_failure(&error), &[]);
            Ok(None)
        }
    }
}

/// The pause before a connection is accepted again.
const ACCEPT_AGAIN: std::time::Duration = std::time::Duration::from_millis(10);

/// Whether accept(2) may succeed a moment later. A created container must not end because descriptors were short once.
fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::ECONNABORTED | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)
}

/// Sets the parent-death signal (PR_SET_PDEATHSIG) once more: the kernel clears it when the ids change (prctl(2)).
pub(super) fn die_with_runtime(cx: &mut Context<'_>) -> Result<()> {
    cx.dies_with_runtime = true;
    process::die_with_parent().with_context(|| "cannot be killed with the runtime")
}

/// Clears the parent-death signal (PR_SET_PDEATHSIG). execve(2) keeps it, so a program would die with the
/// runtime of an `exec --detach`.
pub(super) fn outlive_runtime(cx: &mut Context<'_>) -> Result<()> {
    match std::mem::replace(&mut cx.dies_with_runtime, false) {
        true => process::outlive_parent().with_context(|| "cannot outlive the runtime"),
        false => Ok(()),
    }
}

pub(super) fn execute(cx: &mut Context<'_>) -> Result<()> {
    let missing = || Error::new(Kind::InvalidConfig, "process is missing: it is needed to start a container");
    outlive_runtime(cx)?;
    let Executable::Prepared(execution) = &cx.executable else { return Err(missing()) };
    let failed = execution.execute();
    let name = &cx.program.args[0];
    let errno = failed.errno;
    let kind = match errno {
        Errno::ENOENT => Kind::ExecutableNotFound,
        Errno::EACCES | Errno::EPERM => Kind::PermissionDenied,
        _ => Kind::Kernel,
    };
    Err(Error::new(kind, format!("exec {name}: {}", describe(errno))).caused_by(failed))
}
