//! Sets of capabilities (capabilities(7)).

bitflags::bitflags! {
    /// A set of capabilities: bit n is capability n. It can hold capabilities without a name here as well.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CapabilitySet: u64 {
        /// `CAP_SETGID`.
        const SETGID = 1 << 6;
        /// `CAP_SETUID`.
        const SETUID = 1 << 7;
        /// `CAP_NET_ADMIN`.
        const NET_ADMIN = 1 << 12;
        /// `CAP_NET_RAW`.
        const NET_RAW = 1 << 13;
        /// `CAP_SYS_ADMIN`.
        const SYS_ADMIN = 1 << 21;
        /// `CAP_SYS_NICE`.
        const SYS_NICE = 1 << 23;
        /// `CAP_SYS_RESOURCE`.
        const SYS_RESOURCE = 1 << 24;
        /// All other capabilities, including those of later kernels.
        const _ = !0;
    }
}
