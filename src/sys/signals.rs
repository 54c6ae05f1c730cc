//! Signals: reading them from a descriptor, and resetting their actions for a program.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Called, Result};

/// Blocks every signal and returns a descriptor that reads them.
///
/// SIGCHLD gets its default action. If our caller ignored it, the kernel would reap our children itself, and their
/// status would be lost.
pub fn collect() -> Result<SignalFd> {
    default_action(Signal::SIGCHLD)?;
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).called(|| "rt_sigprocmask(SIG_SETMASK, all)".into())?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).called(|| "signalfd4(all)".into())
}

/// Unblocks all signals, for a process that is about to call execve(2).
pub fn unblock() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .called(|| "rt_sigprocmask(SIG_SETMASK, none)".into())
}

/// Installs handlers by which SIGHUP, SIGINT, SIGQUIT and SIGTERM end this process. Without a handler the first process
/// of a PID namespace would not get them (pid_namespaces(7)). execve(2) removes the handlers. Returns the signals, bit
/// n - 1 for signal n.
pub fn exit_on_termination_signals() -> Result<u64> {
    extern "C" fn end(signal: libc::c_int) {
        super::process::exit_now(128 + signal)
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    let mut handled = 0;
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: the handler calls nothing that a handler may not (signal-safety(7)).
        unsafe { sigaction(signal, &action) }.called(|| format!("rt_sigaction({signal})"))?;
        handled |= 1 << (signal as i32 - 1);
    }
    Ok(handled)
}

/// The signals that this process ignores, bit n - 1 for signal n.
fn ignored() -> Result<u64> {
    super::own_status::OwnStatus::read().map(|status| status.ignored)
}

/// Gives these signals, bit n - 1 for signal n, their default action back.
pub fn default_actions(signals: u64) -> Result<()> {
    (1..=64)
        .filter(|signal| signals >> (signal - 1) & 1 == 1)
        .try_for_each(|signal| default_raw(signal).called(|| format!("rt_sigaction({signal}, SIG_DFL)")))
}

/// Every signal that has an action: all but SIGKILL and SIGSTOP.
const ALL: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// The signals that this process ignores, for [`begin_clean`] in a child. They are read once: later this process
/// ignores only SIGPIPE, which is among them.
pub(super) fn to_reset() -> u64 {
    static IGNORED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *IGNORED.get_or_init(|| ignored().unwrap_or(ALL) | 1 << (libc::SIGPIPE - 1))
}

/// Sets the default action for these signals, and unblocks all; for the child of a fork, since it allocates nothing and
/// takes no lock. execve(2) itself does so with signals that have a handler.
pub(super) fn begin_clean(signals: u64) -> nix::Result<()> {
    (1..=64).filter(|signal| signals >> (signal - 1) & 1 == 1).try_for_each(default_raw)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Calls rt_sigaction(2) directly: the C library reserves a few real-time signals, and refuses them.
fn default_raw(signal: libc::c_int) -> nix::Result<()> {
    /// An action at least as long as the kernel's structure on every architecture; all zeroes mean SIG_DFL without
    /// flags.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: the kernel reads its structure, which is no longer than DEFAULT, and takes no old one. The
    // default action runs no code.
    let returned = unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null_mut::<u64>(), size_of::<u64>())
    };
    nix::errno::Errno::result(returned).map(drop)
}

/// Restores the default action of SIGPIPE: Rust's runtime ignores it, and an ignored signal stays ignored over
/// execve(2), for the container's programs as well.
pub fn default_sigpipe() -> Result<()> {
    default_action(Signal::SIGPIPE)
}

/// Ignores SIGPIPE again: writing to a pipe without a reader is an error then.
pub fn ignore_sigpipe() -> Result<()> {
    set(Signal::SIGPIPE, SigHandler::SigIgn)
}

/// Blocks SIGXFSZ for good: a write beyond RLIMIT_FSIZE is an error and no death. Children begin without a pending
/// signal, and unblock all of them before they execute a program.
pub fn block_sigxfsz() -> Result<()> {
    let signal = SigSet::from(Signal::SIGXFSZ);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signal), None).called(|| "rt_sigprocmask(SIG_BLOCK, SIGXFSZ)".into())
}

/// The text of strsignal(3), in lower case as [`describe`](windlass_base::error::describe) has an errno: `killed`, `bad
/// system call`.
pub fn meaning(signal: i32) -> String {
    // SAFETY: strsignal(3) takes any number.
    let text = unsafe { libc::strsignal(signal) };
    if text.is_null() {
        return format!("signal {signal}");
    }
    // SAFETY: the text ends with a NUL and stands until this thread calls strsignal(3) again; it is copied
    // before.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().to_ascii_lowercase()
}

fn default_action(signal: Signal) -> Result<()> {
    set(signal, SigHandler::SigDfl)
}

/// Sets an action that runs no code: `SIG_DFL` or `SIG_IGN`.
fn set(signal: Signal, handler: SigHandler) -> Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither action runs code of ours.
    unsafe { sigaction(signal, &action) }.called(|| format!("rt_sigaction({signal}, {handler:?})")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test runs in a separate process, since signals belong to the whole process. The tests of one binary have
    /// threads, so the program is this one again, with this test alone.
    #[test]
    fn what_was_ignored_is_known_and_gets_its_default_action_back() {
        const INNER: &str = "WINDLASS_TEST_IGNORED";
        if std::env::var_os(INNER).is_none() {
            let name = "signals::tests::what_was_ignored_is_known_and_gets_its_default_action_back";
            let mut inner = std::process::Command::new(std::env::current_exe().expect("a program"));
            let inner = inner.args(["--exact", name, "--test-threads=1"]).env(INNER, "1").output().expect("started");
            // Of a name that no test has, none is run, and that is a success.
            let told = String::from_utf8_lossy(&inner.stdout);
            assert!(inner.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        let chosen = [libc::SIGINT, libc::SIGCHLD, libc::SIGXFSZ, 40, 64];
        let bits = chosen.iter().fold(0, |bits, signal| bits | 1u64 << (signal - 1));
        let before = ignored().expect("status");
        for signal in chosen {
            // SAFETY: ignoring a signal runs no code.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        assert_eq!(ignored().expect("status"), before | bits);
        default_actions(bits).expect("rt_sigaction");
        assert_eq!(ignored().expect("status"), before & !bits);
    }
}
