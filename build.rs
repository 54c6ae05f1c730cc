//! Makes `sys::exeseal` the entry point of the runtime, ahead of the C library's.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(name).unwrap_or_default();
    let supported = matches!(target("CARGO_CFG_TARGET_ARCH").as_str(), "x86_64" | "aarch64" | "riscv64" | "s390x");
    if supported && target("CARGO_CFG_TARGET_OS") == "linux" {
        println!("cargo:rustc-link-arg-bin=windlass=-Wl,-e,windlass_start");
    }
}
