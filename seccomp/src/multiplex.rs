//! Calls that some ABIs also have in socketcall(2) and ipc(2).
//!
//! A filter that denies `connect` on x86 must also deny `socketcall(SYS_CONNECT, …)`, which programs with an old C
//! library use instead.

use crate::emit::Condition;
use crate::table::index_of;
use crate::words::Operator;

/// A call that is made through another one.
pub(crate) struct Call {
    /// The index of the call's own name.
    pub(crate) inner: usize,
    /// The index of `socketcall` or `ipc`.
    pub(crate) outer: usize,
    /// The condition on the arguments with which the outer call makes the inner one.
    pub(crate) condition: Condition,
}

/// The kernel reads the number of the inner call as an `int` and ignores the upper half of the register.
const SOCKETCALL_MASK: u64 = 0xffff_ffff;

/// The upper 16 bits of that `int` are the version of the arguments.
const IPC_MASK: u64 = 0xffff;

const fn call(inner: &str, outer: &str, mask: u64, number: u64) -> Call {
    Call {
        inner: index_of(inner),
        outer: index_of(outer),
        condition: Condition { index: 0, operator: Operator::MaskedEq, value: number, mask },
    }
}

const fn socketcall(inner: &str, number: u64) -> Call {
    call(inner, "socketcall", SOCKETCALL_MASK, number)
}

const fn ipc(inner: &str, number: u64) -> Call {
    call(inner, "ipc", IPC_MASK, number)
}

/// The numbers of `linux/net.h` and `linux/ipc.h`.
pub(crate) static CALLS: [Call; 32] = [
    socketcall("socket", 1),
    socketcall("bind", 2),
    socketcall("connect", 3),
    socketcall("listen", 4),
    socketcall("accept", 5),
    socketcall("getsockname", 6),
    socketcall("getpeername", 7),
    socketcall("socketpair", 8),
    socketcall("send", 9),
    socketcall("recv", 10),
    socketcall("sendto", 11),
    socketcall("recvfrom", 12),
    socketcall("shutdown", 13),
    socketcall("setsockopt", 14),
    socketcall("getsockopt", 15),
    socketcall("sendmsg", 16),
    socketcall("recvmsg", 17),
    socketcall("accept4", 18),
    socketcall("recvmmsg", 19),
    socketcall("sendmmsg", 20),
    ipc("semop", 1),
    ipc("semget", 2),
    ipc("semctl", 3),
    ipc("semtimedop", 4),
    ipc("msgsnd", 11),
    ipc("msgrcv", 12),
    ipc("msgget", 13),
    ipc("msgctl", 14),
    ipc("shmat", 21),
    ipc("shmdt", 22),
    ipc("shmget", 23),
    ipc("shmctl", 24),
];
