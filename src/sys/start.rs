//! The start of the program without that of Rust's standard library.
//!
//! Before `main` the standard library looks up the bounds of the stack, makes a second stack, and catches SIGSEGV and
//! SIGBUS there to report a stack overflow. That is a dozen calls and several pages for each command. Only what a
//! runtime needs is done here: no file that it opens may become standard input, output or error, and writing to a pipe
//! without a reader is an error that does not kill. A stack overflow is a plain SIGSEGV.

use std::ffi::{CStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Makes the C library's `main` of a function from the words of the command line to the exit code.
/// For a program with `#![no_main]`.
#[macro_export]
macro_rules! main {
    ($run:path) => {
        /// The function that the C library calls.
        #[unsafe(no_mangle)]
        extern "C" fn main(argc: std::ffi::c_int, argv: *const *const std::ffi::c_char) -> std::ffi::c_int {
            // SAFETY: these are main's arguments.
            let words = unsafe { $crate::start::begin(argc, argv) };
            $run(words.into_iter()).into()
        }
    };
}

/// Makes the process ready, and returns the words of the command line.
///
/// # Safety
/// `argv` has `argc` pointers to NUL-terminated strings.
pub unsafe fn begin(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    fill_stdio();
    // If our caller ignored SIGCHLD, the kernel would reap our children itself, and their exit statuses
    // would be lost.
    for (signal, handler) in [(Signal::SIGPIPE, SigHandler::SigIgn), (Signal::SIGCHLD, SigHandler::SigDfl)] {
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: neither action runs code. It cannot fail: the signals exist and may be ignored.
        let _ = unsafe { sigaction(signal, &action) };
    }
    let word = |n: usize| {
        // SAFETY: n is less than argc.
        let place = unsafe { argv.add(n) };
        // SAFETY: argv has a pointer there.
        let pointer = unsafe { *place };
        // SAFETY: the caller promises strings that end with NUL.
        let text = unsafe { CStr::from_ptr(pointer) };
        OsString::from_vec(text.to_bytes().to_vec())
    };
    let words: Vec<OsString> = (0..argc as usize).map(word).collect();
    if argc > 0 {
        // SAFETY: argv has a pointer there.
        let first = unsafe { *argv };
        ARGUMENTS.0.store(first.cast_mut().cast(), Ordering::Relaxed);
        ARGUMENTS.1.store(words.iter().map(|word| word.len() + 1).sum(), Ordering::Relaxed);
    }
    words
}

/// The address of the command line, and its length in bytes. Its words follow each other, each with its NUL.
static ARGUMENTS: (AtomicPtr<u8>, AtomicUsize) = (AtomicPtr::new(std::ptr::null_mut()), AtomicUsize::new(0));

/// The command line of this process, put back when this is dropped.
pub struct Shown(Vec<u8>);

/// Replaces the command line that `/proc/PID/cmdline` shows, for this process and for those that it forks before the
/// result is dropped.
pub fn show_as(line: &CStr) -> Shown {
    let length = ARGUMENTS.1.load(Ordering::Relaxed);
    let mut shown = vec![0; length];
    // The last byte stays NUL: otherwise the kernel reads on into the environment.
    for (to, from) in shown.iter_mut().take(length.saturating_sub(1)).zip(line.to_bytes()) {
        *to = *from;
    }
    Shown(exchange(shown))
}

/// Writes these words over the command line, and returns the former content.
fn exchange(mut words: Vec<u8>) -> Vec<u8> {
    let place = ARGUMENTS.0.load(Ordering::Relaxed);
    if !place.is_null() && words.len() == ARGUMENTS.1.load(Ordering::Relaxed) {
        // SAFETY: the place is that of the kernel's copy of the words, which is as long as `words`,
        // writable, and there for as long as the process; `begin` has copied what is still needed, so
        // that nobody else reads or writes there; `words` is memory of its own.
        unsafe { std::ptr::swap_nonoverlapping(place, words.as_mut_ptr(), words.len()) };
    }
    words
}

impl Drop for Shown {
    fn drop(&mut self) {
        exchange(std::mem::take(&mut self.0));
    }
}

/// Opens /dev/null for each of 0, 1 and 2 that the caller closed.
fn fill_stdio() {
    let mut fds = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the list has three elements and outlives the call.
    unsafe { libc::poll(fds.as_mut_ptr(), 3, 0) };
    // The order is ascending, so that each gets its own number: the kernel assigns the lowest.
    for _ in fds.iter().filter(|fd| fd.revents & libc::POLLNVAL != 0) {
        // SAFETY: the path is static and NUL-terminated. The descriptor stays open on purpose.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } == -1 {
            super::process::exit_now(1);
        }
    }
}
