//! The kernel accepts the programs and follows the profile.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]

use std::io::ErrorKind;
use std::thread;

use windlass_seccomp::{Arch, Profile, Program, compile};

/// Runs a function in a thread of its own, under the profile.
fn under<T: Send + 'static>(profile: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let profile: Profile<'_> = serde_json::from_str(profile).unwrap();
    let program = compile(&profile, Arch::native()).unwrap().program;
    let thread = thread::spawn(move || {
        seccompiler::apply_filter(program.instructions()).expect("the kernel takes the program");
        run()
    });
    thread.join().unwrap()
}

#[test]
fn a_denied_call_fails_and_others_pass() {
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    ]}"#;
    let (made, read) = under(profile, || {
        let path = std::env::temp_dir().join("never-made-by-windlass-seccomp");
        (std::fs::create_dir(path), std::fs::read_dir("/"))
    });
    assert_eq!(made.unwrap_err().raw_os_error(), Some(95));
    assert!(read.is_ok());
}

#[test]
fn an_argument_is_compared_where_the_kernel_puts_it() {
    // socket(AF_INET, …) is denied, socket(AF_UNIX, …) is not.
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
         "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}
    ]}"#;
    let (inet, unix) =
        under(profile, || (std::net::UdpSocket::bind("127.0.0.1:0"), std::os::unix::net::UnixDatagram::unbound()));
    assert_eq!(inet.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(unix.is_ok());
}

#[test]
fn the_kernel_takes_a_profile_of_ordinary_shape() {
    let text = include_str!("data/engine.json");
    assert!(under(text, || std::fs::read_link("/proc/self").is_ok()));
}

#[test]
fn the_kernel_takes_a_program_of_nearly_the_full_length() {
    let rules: Vec<String> = (0..805)
        .map(|value| {
            format!(
                r#"{{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                "args": [{{"index": {}, "value": {value}, "op": "SCMP_CMP_GT"}}]}}"#,
                value % 2 * 5
            )
        })
        .collect();
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, rules.join(","));
    let profile: Profile<'_> = serde_json::from_str(&text).unwrap();
    let length = compile(&profile, Arch::native()).unwrap().program.len();
    assert!((4000..=Program::MAX_LEN).contains(&length), "{length}");
    under(&text, || ());
}
