//! The start of the program without that of Rust's standard library.
//!
//! Before `main` the standard library asks for the bounds of the stack, makes a second one, and
//! catches SIGSEGV and SIGBUS on it to name a stack overflow: a dozen calls and several pages for
//! each command. What a runtime cannot do without is done here: nothing that it opens may become
//! standard input, output or error, and a pipe that nobody reads is an error and no death. An
//! overflow is a plain SIGSEGV.

use std::ffi::{CStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Makes the C library's `main` of a function from the words of the command line to the exit code.
/// For a program with `#![no_main]`.
#[macro_export]
macro_rules! main {
    ($run:path) => {
        /// What the C library calls.
        #[unsafe(no_mangle)]
        extern "C" fn main(argc: std::ffi::c_int, argv: *const *const std::ffi::c_char) -> std::ffi::c_int {
            // SAFETY: these are main's arguments.
            let words = unsafe { $crate::sys::start::begin(argc, argv) };
            $run(words.into_iter()).into()
        }
    };
}

/// Makes the process ready, and the words of the command line of main's arguments.
///
/// # Safety
/// `argv` has `argc` pointers to NUL-terminated strings.
pub unsafe fn begin(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    fill_stdio();
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: the action runs no code. It cannot fail: the signal exists and can be ignored.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &ignore) };
    let word = |n: usize| {
        // SAFETY: n is less than argc.
        let place = unsafe { argv.add(n) };
        // SAFETY: argv has a pointer there.
        let pointer = unsafe { *place };
        // SAFETY: the caller promises strings that end with NUL.
        let text = unsafe { CStr::from_ptr(pointer) };
        OsString::from_vec(text.to_bytes().to_vec())
    };
    (0..argc as usize).map(word).collect()
}

/// Opens /dev/null for those of 0, 1 and 2 that the caller closed.
fn fill_stdio() {
    let mut fds = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the list has three elements and outlives the call.
    unsafe { libc::poll(fds.as_mut_ptr(), 3, 0) };
    // In ascending order, so that each gets its own number: the kernel gives out the lowest.
    for _ in fds.iter().filter(|fd| fd.revents & libc::POLLNVAL != 0) {
        // SAFETY: the path is static and NUL-terminated. The descriptor stays open on purpose.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } == -1 {
            super::process::exit_now(1);
        }
    }
}
