//! The names in a profile, and the kernel's numbers for them.

/// Return values of a filter, from `linux/seccomp.h`.
pub(crate) mod ret {
    pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(crate) const KILL_THREAD: u32 = 0x0000_0000;
    pub(crate) const TRAP: u32 = 0x0003_0000;
    pub(crate) const ERRNO: u32 = 0x0005_0000;
    pub(crate) const USER_NOTIF: u32 = 0x7fc0_0000;
    pub(crate) const TRACE: u32 = 0x7ff0_0000;
    pub(crate) const LOG: u32 = 0x7ffc_0000;
    pub(crate) const ALLOW: u32 = 0x7fff_0000;
}

/// Flags of seccomp(2), from `linux/seccomp.h`.
pub(crate) mod flag {
    pub(crate) const TSYNC: u32 = 1 << 0;
    pub(crate) const LOG: u32 = 1 << 1;
    pub(crate) const SPEC_ALLOW: u32 = 1 << 2;
    pub(crate) const NEW_LISTENER: u32 = 1 << 3;
    pub(crate) const TSYNC_ESRCH: u32 = 1 << 4;
    pub(crate) const WAIT_KILLABLE_RECV: u32 = 1 << 5;
}

pub(crate) const EPERM: u32 = 1;
pub(crate) const ENOSYS: u32 = 38;

/// The largest errno. The kernel reduces larger ones to this (`MAX_ERRNO`).
pub(crate) const MAX_ERRNO: u32 = 4095;

/// The largest message of `SCMP_ACT_TRACE` (`SECCOMP_RET_DATA`).
pub(crate) const MAX_DATA: u32 = 0xffff;

const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_ALLOW", ret::ALLOW),
    ("SCMP_ACT_ERRNO", ret::ERRNO),
    ("SCMP_ACT_KILL", ret::KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", ret::KILL_PROCESS),
    ("SCMP_ACT_KILL_THREAD", ret::KILL_THREAD),
    ("SCMP_ACT_LOG", ret::LOG),
    ("SCMP_ACT_NOTIFY", ret::USER_NOTIF),
    ("SCMP_ACT_TRACE", ret::TRACE),
    ("SCMP_ACT_TRAP", ret::TRAP),
];

const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", flag::LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flag::SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", flag::TSYNC),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flag::WAIT_KILLABLE_RECV),
];

/// A comparison of an argument with the value of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_EQ", Operator::Eq),
    ("SCMP_CMP_GE", Operator::Ge),
    ("SCMP_CMP_GT", Operator::Gt),
    ("SCMP_CMP_LE", Operator::Le),
    ("SCMP_CMP_LT", Operator::Lt),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEq),
    ("SCMP_CMP_NE", Operator::Ne),
];

fn look_up<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words.iter().find(|(name, _)| *name == word).map(|&(_, value)| value)
}

pub(crate) fn action(word: &str) -> Option<u32> {
    look_up(&ACTIONS, word)
}

pub(crate) fn operator(word: &str) -> Option<Operator> {
    look_up(&OPERATORS, word)
}

pub(crate) fn flag(word: &str) -> Option<u32> {
    look_up(&FLAGS, word)
}

/// The actions that [`compile`](crate::compile()) knows, sorted.
pub fn actions() -> impl ExactSizeIterator<Item = &'static str> {
    ACTIONS.iter().map(|(name, _)| *name)
}

/// The operators that [`compile`](crate::compile()) knows, sorted.
pub fn operators() -> impl ExactSizeIterator<Item = &'static str> {
    OPERATORS.iter().map(|(name, _)| *name)
}

/// The architectures that [`compile`](crate::compile()) knows, in the order of the spec.
pub fn architectures() -> impl ExactSizeIterator<Item = &'static str> {
    crate::Arch::ALL.into_iter().map(crate::Arch::name)
}

/// The flags that [`compile`](crate::compile()) knows, sorted. The running kernel may not accept all of them.
pub fn flags() -> impl ExactSizeIterator<Item = &'static str> {
    FLAGS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_lists_for_features_are_sorted_and_complete() {
        assert!(super::actions().is_sorted() && super::actions().len() == 9);
        assert!(super::operators().is_sorted() && super::operators().len() == 7);
        assert!(super::flags().is_sorted() && super::flags().len() == 4);
        assert_eq!(super::architectures().len(), 23);
    }
}
