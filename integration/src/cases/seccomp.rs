//! config-linux.md, "Seccomp".

use crate::kit::console::FdSocket;
use crate::kit::runtime::RuntimeKind;
use crate::kit::stop::Context;
use crate::kit::{Bundle, Container, Ran, T, Verdict, notify};
use crate::{chapter, ensure, ensure_eq};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::process::Child;

chapter! { "seccomp":
    an_errno_is_returned,
    the_default_errno_is_eperm,
    a_default_action_with_its_errno,
    kill_process_ends_the_payload_by_sigsys,
    trap_raises_sigsys,
    log_lets_the_call_through,
    arguments_are_compared,
    masked_equality_is_compared,
    several_conditions_must_all_hold,
    two_conditions_on_one_argument_are_alternatives,
    unknown_system_calls_are_skipped,
    an_unknown_action_is_refused,
    an_errno_with_an_action_that_has_none_is_refused,
    system_calls_newer_than_the_profile_get_enosys,
    a_filter_is_installed_with_no_new_privileges,
    a_filter_is_installed_without_no_new_privileges,
    a_profile_need_allow_nothing_for_the_runtime_but_to_execute,
    a_profile_that_refuses_execve_is_refused,
    a_program_that_cannot_be_executed_below_the_filter_ends_init,
    a_start_hook_runs_below_the_filter_without_what_installed_it,
    a_strict_filter_does_not_stop_the_runtime,
    exec_has_the_filter_of_init,
    exec_with_no_new_privs_has_the_filter_too,
    every_flag_is_accepted,
    several_architectures_are_accepted,
    programs_of_another_width_are_filtered,
    a_listener_answers_for_the_payload,
    a_listener_gets_the_container_process_state,
    a_listener_for_exec_is_sent_too,
    a_missing_listener_socket_fails_the_create,
    notify_without_a_listener_path_is_refused,
    the_docker_profile_runs_a_shell,
    the_debug_log_has_the_flags_of_the_filter,
}

/// The architectures of this processor, by their names in Docker's profile.
fn architectures() -> Value {
    match std::env::consts::ARCH {
        "aarch64" => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        "riscv64" => json!(["SCMP_ARCH_RISCV64"]),
        "s390x" => json!(["SCMP_ARCH_S390X", "SCMP_ARCH_S390"]),
        _ => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    }
}

/// A profile that allows everything but these rules.
fn profile(rules: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures(), "syscalls": rules})
}

fn with(t: &T, profile: Value) -> Verdict<Bundle> {
    Ok(t.bundle()?.set("/linux/seccomp", profile))
}

/// Makes system calls under a profile; `NR[,ARG…]` each.
fn calls(t: &T, profile: Value, calls: &[&str]) -> Verdict<Ran> {
    let words: Vec<&str> = ["/helper", "@payload", "syscalls"].iter().copied().chain(calls.iter().copied()).collect();
    t.run(&with(t, profile)?.helper()?.args(&words))
}

const GETPPID: i64 = libc::SYS_getppid;
const PERSONALITY: i64 = libc::SYS_personality;

fn an_errno_is_returned(t: &T) -> Verdict {
    let rules = json!([{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}, {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 123}]);
    let ran = calls(t, profile(rules), &[&GETPPID.to_string(), &libc::SYS_getpgid.to_string()])?.ok()?;
    ran.stdout_is(&format!("{GETPPID}=ENOSYS\n{}=ENOMEDIUM\n", libc::SYS_getpgid))?;
    Ok(())
}

fn the_default_errno_is_eperm(t: &T) -> Verdict {
    let rules = json!([{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}]);
    calls(t, profile(rules), &[&GETPPID.to_string()])?.ok()?.stdout_is(&format!("{GETPPID}=EPERM\n"))?;
    Ok(())
}

/// The calls of a shell and the runtime between the installation of the filter and the end of the payload.
const FILES: &str = "read write open openat openat2 close stat fstat lstat newfstatat statx statfs fstatfs access faccessat \
                     faccessat2 lseek pread64 fcntl ioctl dup dup2 dup3 pipe pipe2 getdents64 getcwd chdir fchdir readlink \
                     readlinkat umask close_range";
const MEMORY: &str = "mmap mprotect munmap brk madvise";
const PROCESSES: &str = "clone clone3 fork vfork execve execveat exit exit_group wait4 waitid getpid gettid getpgid kill tgkill \
                         tkill rt_sigaction rt_sigprocmask rt_sigreturn sigreturn sigaltstack futex set_tid_address set_robust_list rseq \
                         prctl arch_prctl prlimit64 personality seccomp keyctl";
const IDENTITY: &str = "getuid geteuid getgid getegid setuid setgid setresuid setresgid setgroups capget capset";
const WAITING: &str = "poll ppoll epoll_ctl epoll_pwait epoll_create1 eventfd2 nanosleep clock_nanosleep clock_gettime \
                       sched_getaffinity sched_yield";
const SOCKETS: &str = "socketpair sendmsg recvmsg sendto recvfrom getsockopt";
const HOST: &str = "uname sysinfo getrandom";

fn everything_but_getppid() -> Value {
    let groups = [FILES, MEMORY, PROCESSES, IDENTITY, WAITING, SOCKETS, HOST];
    let names: Vec<&str> = groups.iter().flat_map(|group| group.split_ascii_whitespace()).collect();
    json!([{"names": names, "action": "SCMP_ACT_ALLOW"}])
}

fn a_default_action_with_its_errno(t: &T) -> Verdict {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 95, "architectures": architectures(),
        "syscalls": everything_but_getppid()
    });
    calls(t, profile, &[&GETPPID.to_string()])?.ok()?.stdout_is(&format!("{GETPPID}=EOPNOTSUPP\n"))?;
    Ok(())
}

fn kill_process_ends_the_payload_by_sigsys(t: &T) -> Verdict {
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"] {
        let rules = json!([{"names": ["getppid"], "action": action}]);
        calls(t, profile(rules), &[&GETPPID.to_string()])?.code_is(128 + libc::SIGSYS).context(action)?;
    }
    Ok(())
}

fn trap_raises_sigsys(t: &T) -> Verdict {
    let rules = json!([{"names": ["getppid"], "action": "SCMP_ACT_TRAP"}]);
    calls(t, profile(rules), &[&GETPPID.to_string()])?.code_is(128 + libc::SIGSYS)?;
    Ok(())
}

fn log_lets_the_call_through(t: &T) -> Verdict {
    let rules = json!([{"names": ["getppid"], "action": "SCMP_ACT_LOG"}]);
    calls(t, profile(rules), &[&GETPPID.to_string()])?.ok()?.stdout_is(&format!("{GETPPID}=0\n"))?;
    Ok(())
}

/// A rule on `personality` with conditions, refused with EDOM.
fn conditions(args: Value) -> Value {
    profile(json!([{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EDOM, "args": args}]))
}

/// Which of these arguments of `personality` are refused.
fn refused(t: &T, args: Value, values: &[i64]) -> Verdict<Vec<bool>> {
    let list: Vec<String> = values.iter().map(|value| format!("{PERSONALITY},{value}")).collect();
    let words: Vec<&str> = list.iter().map(String::as_str).collect();
    let ran = calls(t, conditions(args), &words)?.ok()?;
    Ok(ran.lines().iter().map(|line| line.ends_with("=EDOM")).collect())
}

fn arguments_are_compared(t: &T) -> Verdict {
    // -1 (as 2^64-1) only asks for the present persona. The neighbours of its low half do not.
    let values = [0xffff_fffe, 0xffff_ffff, 0x1_0000_0000];
    let table = [
        ("SCMP_CMP_EQ", [false, true, false]),
        ("SCMP_CMP_NE", [true, false, true]),
        ("SCMP_CMP_LT", [true, false, false]),
        ("SCMP_CMP_LE", [true, true, false]),
        ("SCMP_CMP_GT", [false, false, true]),
        ("SCMP_CMP_GE", [false, true, true]),
    ];
    for (operator, expected) in table {
        let args = json!([{"index": 0, "value": 0xffff_ffff_u64, "op": operator}]);
        ensure_eq!(refused(t, args, &values)?, expected, "{operator}");
    }
    Ok(())
}

fn masked_equality_is_compared(t: &T) -> Verdict {
    let args = json!([{"index": 0, "value": 0xffff_0000_u64, "valueTwo": 0x1234_0000, "op": "SCMP_CMP_MASKED_EQ"}]);
    ensure_eq!(refused(t, args, &[0x1234_5678, 0x1235_5678])?, [true, false], "masked equality");
    Ok(())
}

fn several_conditions_must_all_hold(t: &T) -> Verdict {
    let args = json!([{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 6, "op": "SCMP_CMP_EQ"}]);
    let list = [format!("{PERSONALITY},5,6"), format!("{PERSONALITY},5,7")];
    let ran = calls(t, conditions(args), &[&list[0], &list[1]])?.ok()?;
    let refused: Vec<bool> = ran.lines().iter().map(|line| line.ends_with("=EDOM")).collect();
    ensure_eq!(refused, [true, false], "both conditions");
    Ok(())
}

fn two_conditions_on_one_argument_are_alternatives(t: &T) -> Verdict {
    // As runc documents: a profile in Docker's format means OR when an index repeats.
    let args = json!([{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]);
    ensure_eq!(refused(t, args, &[5, 6, 7])?, [true, false, true], "either value");
    Ok(())
}

fn unknown_system_calls_are_skipped(t: &T) -> Verdict {
    let rules = json!([{"names": ["no_such_call", "getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]);
    calls(t, profile(rules), &[&GETPPID.to_string()])?.ok()?.stdout_is(&format!("{GETPPID}=ENOSYS\n"))?;
    Ok(())
}

fn an_unknown_action_is_refused(t: &T) -> Verdict {
    t.run(&with(t, profile(json!([{"names": ["getppid"], "action": "SCMP_ACT_NOTHING"}])))?)?.code_is(1)?;
    Ok(())
}

fn an_errno_with_an_action_that_has_none_is_refused(t: &T) -> Verdict {
    let rules = json!([{"names": ["getppid"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}]);
    t.run(&with(t, json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": rules}))?)?.code_is(1)?;
    Ok(())
}

fn system_calls_newer_than_the_profile_get_enosys(t: &T) -> Verdict {
    // A call far above all numbers of a profile. glibc falls back on ENOSYS, not on EPERM.
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures(), "syscalls": everything_but_getppid()});
    let ran = calls(t, profile, &["900", &GETPPID.to_string()])?.ok()?;
    ran.stdout_is(&format!("900=ENOSYS\n{GETPPID}=EPERM\n"))?;
    Ok(())
}

const STATUS: [&str; 4] = ["/bin/grep", "-E", "^(NoNewPrivs|Seccomp|Seccomp_filters):", "/proc/self/status"];

fn simple() -> Value {
    profile(json!([{"names": ["swapoff"], "action": "SCMP_ACT_ERRNO"}]))
}

fn a_filter_is_installed_with_no_new_privileges(t: &T) -> Verdict {
    t.run(&with(t, simple())?.args(&STATUS))?.ok()?.stdout_has("NoNewPrivs:\t1\nSeccomp:\t2\n")?;
    Ok(())
}

fn a_filter_is_installed_without_no_new_privileges(t: &T) -> Verdict {
    for bundle in [
        with(t, simple())?.set("/process/noNewPrivileges", json!(false)),
        with(t, simple())?.unset("/process/noNewPrivileges"),
    ] {
        let user = bundle.clone().set("/process/user", json!({"uid": 1000, "gid": 1000}));
        for bundle in [bundle, user] {
            t.run(&bundle.args(&STATUS))?.ok()?.stdout_has("NoNewPrivs:\t0\nSeccomp:\t2\n")?;
        }
    }
    Ok(())
}

/// A profile need neither know nor allow these calls of the runtime. The payload makes none of them.
fn a_strict_filter_does_not_stop_the_runtime(t: &T) -> Verdict {
    let names = json!([
        "openat2",
        "close_range",
        "faccessat2",
        "socket",
        "connect",
        "accept",
        "accept4",
        "sendmsg",
        "recvmsg",
        "sendto",
        "recvfrom",
        "memfd_create",
        "ppoll"
    ]);
    for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"] {
        let mut names = names.clone();
        if action == "SCMP_ACT_KILL_PROCESS" {
            names.as_array_mut().expect("an array").retain(|name| name != "faccessat2");
        }
        let bundle = with(t, profile(json!([{"names": names, "action": action}])))?;
        for privileges in [true, false] {
            let bundle = bundle.clone().set("/process/noNewPrivileges", json!(privileges));
            let script = "echo in $PWD; exec sleep 1000";
            let container = t.start(&bundle.set("/process/cwd", json!("/var")).sh(script))?;
            container.wait_for_output("in /var").context(action)?;
            container.exec(&["/bin/true"])?;
        }
    }
    Ok(())
}

/// The calls that a static program needs to print a text. Any other call kills it.
fn strict(more: &[&str]) -> Value {
    let mut names = vec!["execve", "write", "exit_group", "brk", "arch_prctl", "set_tid_address", "set_robust_list"];
    names.extend(["rseq", "prlimit64", "readlink", "readlinkat", "getrandom", "mprotect", "mmap", "munmap", "prctl"]);
    names.extend([
        "getuid",
        "getgid",
        "setuid",
        "setgid",
        "rt_sigaction",
        "rt_sigprocmask",
        "fstat",
        "newfstatat",
        "ioctl",
        "poll",
        "fcntl",
    ]);
    names.extend(more);
    json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "architectures": architectures(),
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]})
}

fn a_profile_need_allow_nothing_for_the_runtime_but_to_execute(t: &T) -> Verdict {
    for (privileges, profile) in [(true, strict(&[])), (false, strict(&["capset"]))] {
        for user in [0, 1000] {
            let bundle = with(t, profile.clone())?
                .set("/process/noNewPrivileges", json!(privileges))
                .set("/process/user", json!({"uid": user, "gid": user}))
                .args(&["/bin/echo", "it ran"]);
            t.run(&bundle)?.ok()?.stdout_is("it ran\n")?;
            let container = t.create(&bundle)?;
            container.start()?;
            container.wait_for_output("it ran")?;
        }
    }
    Ok(())
}

fn a_profile_that_refuses_execve_is_refused(t: &T) -> Verdict {
    let profile = profile(json!([{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]));
    let ran = t.run(&with(t, profile)?)?.code_is(1)?;
    ran.stderr_has("the seccomp profile refuses execve")?;
    Ok(())
}

/// Under this filter init can neither report the reason nor exit.
fn a_program_that_cannot_be_executed_below_the_filter_ends_init(t: &T) -> Verdict {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures(),
        "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW"}]});
    let bundle = with(t, profile)?.set("/process/noNewPrivileges", json!(true)).args(&["/bin/broken"]);
    let program = bundle.rootfs().join("bin/broken");
    std::fs::write(&program, "\x7fno program")?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let ran = t.run(&bundle)?.fails()?;
    if RuntimeKind::of(&t.runtime) == RuntimeKind::Windlass {
        ran.stderr_has("container init was ended by signal")?;
    }
    // Without the filter the same program fails, and init can report the reason.
    t.run(&bundle.unset("/linux/seccomp"))?.fails()?.stderr_has_any(&["exec format error", "Exec format error"])?;
    Ok(())
}

fn a_start_hook_runs_below_the_filter_without_what_installed_it(t: &T) -> Verdict {
    let script =
        "grep -E '^(Seccomp|CapPrm):' /proc/self/status > /tmp/seen; grep '^CapPrm:' /proc/1/status >> /tmp/seen";
    let bundle = with(t, simple())?
        .set("/process/noNewPrivileges", json!(false))
        .set("/hooks/startContainer", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]))
        .mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}))
        .sh("cat /tmp/seen; grep '^CapPrm:' /proc/self/status");
    let ran = t.run(&bundle)?.ok()?;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    ensure_eq!(lines.len(), 4, "lines of {:?}", ran.stdout);
    ensure_eq!(lines[1], "Seccomp:\t2", "the hook's filter");
    let permitted = lines[3];
    ensure_eq!((lines[0], lines[2]), (permitted, permitted), "what the hook and init may do, against the program");
    Ok(())
}

fn exec_has_the_filter_of_init(t: &T) -> Verdict {
    for privileges in [true, false] {
        let bundle = with(t, simple())?.set("/process/noNewPrivileges", json!(privileges));
        let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
        let init =
            container.exec(&["/bin/grep", "-E", "^(NoNewPrivs|Seccomp|Seccomp_filters):", "/proc/1/status"])?.stdout;
        ensure!(init.contains("Seccomp:\t2\n"), "init: {init}");
        ensure_eq!(container.exec(&STATUS)?.stdout, init, "exec against init");
        let user = container.try_exec(&["--user", "1000:1000"], &STATUS)?.ok()?.stdout;
        ensure_eq!(user, init, "exec of a user against init");
    }
    Ok(())
}

fn exec_with_no_new_privs_has_the_filter_too(t: &T) -> Verdict {
    let bundle = with(t, simple())?.set("/process/noNewPrivileges", json!(false));
    let container = t.start(&bundle.args(&["/bin/sleep", "1000"]))?;
    container.try_exec(&["--no-new-privs"], &STATUS)?.ok()?.stdout_has("NoNewPrivs:\t1\nSeccomp:\t2\n")?;
    Ok(())
}

fn every_flag_is_accepted(t: &T) -> Verdict {
    for flag in ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"] {
        let mut profile = simple();
        profile["flags"] = json!([flag]);
        t.run(&with(t, profile)?.args(&STATUS))?.ok().context(flag)?.stdout_has("Seccomp:\t2\n")?;
    }
    let mut profile = simple();
    profile["flags"] = json!(["SECCOMP_FILTER_FLAG_NO_SUCH"]);
    t.run(&with(t, profile)?)?.code_is(1)?;
    Ok(())
}

fn several_architectures_are_accepted(t: &T) -> Verdict {
    let mut profile = profile(json!([{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}]));
    // All have one byte order: the others cannot occur on this machine, and libseccomp refuses to mix them.
    profile["architectures"] = if cfg!(target_endian = "big") {
        json!(["SCMP_ARCH_S390X", "SCMP_ARCH_S390", "SCMP_ARCH_PPC64", "SCMP_ARCH_MIPS64"])
    } else {
        json!([
            "SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_AARCH64",
            "SCMP_ARCH_ARM",
            "SCMP_ARCH_PPC64LE",
            "SCMP_ARCH_MIPSEL64"
        ])
    };
    calls(t, profile, &[&GETPPID.to_string()])?.ok()?.stdout_is(&format!("{GETPPID}=EPERM\n"))?;
    Ok(())
}

/// A 32-bit program for this processor: it calls getppid(2) and exits with the errno, or with 0. Returns it with the
/// name of its architecture in the specification.
fn narrow_program() -> Option<(&'static str, Vec<u8>)> {
    let (name, machine, code): (_, u16, &[u8]) = match std::env::consts::ARCH {
        // mov eax, 64; int 0x80; neg eax; mov ebx, eax; mov eax, 1; int 0x80
        "x86_64" => ("SCMP_ARCH_X86", 3, b"\xb8\x40\0\0\0\xcd\x80\xf7\xd8\x89\xc3\xb8\x01\0\0\0\xcd\x80"),
        // mov r7, #64; svc 0; rsb r0, r0, #0; mov r7, #1; svc 0
        "aarch64" => ("SCMP_ARCH_ARM", 40, b"\x40\x70\xa0\xe3\0\0\0\xef\0\0\x60\xe2\x01\x70\xa0\xe3\0\0\0\xef"),
        _ => return None,
    };
    const BASE: u32 = 0x10000;
    let headers = 52 + 32;
    let size = headers + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // elf(5): type, machine, version, entry, program headers, section headers, flags (of ARM: EABI 5), sizes and
    // counts.
    file.extend([2, machine].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(
        [1, BASE + headers, 52, 0, if machine == 40 { 0x0500_0000 } else { 0 }].iter().flat_map(|n| n.to_le_bytes()),
    );
    file.extend([52u16, 32, 1, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    // An ELF file with one segment of the whole file, readable and executable.
    file.extend([1, 0, BASE, BASE, size, size, 5, 0x1000].iter().flat_map(|n: &u32| n.to_le_bytes()));
    file.extend(code);
    Some((name, file))
}

fn programs_of_another_width_are_filtered(t: &T) -> Verdict {
    let Some((architecture, program)) = narrow_program() else {
        return crate::kit::stop::skip("this processor has no other width");
    };
    let bundle = |architectures: Value| -> Verdict<Bundle> {
        let mut profile = profile(json!([{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]));
        profile["architectures"] = architectures;
        let bundle = with(t, profile)?.args(&["/narrow"]);
        let path = bundle.rootfs().join("narrow");
        std::fs::write(&path, &program)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(bundle)
    };
    let ran = t.run(&bundle(json!([architecture]))?)?;
    if ran.stderr.contains("exec format error") {
        return crate::kit::stop::skip("this kernel runs no 32-bit programs");
    }
    ran.code_is(95)?;
    // The kernel kills a process with an architecture that the profile does not name.
    t.run(&bundle(json!([]))?)?.code_is(128 + libc::SIGSYS)?;
    Ok(())
}

/// A profile whose `getppid` is answered by an agent at `socket`.
fn notifying(socket: &FdSocket) -> Value {
    let mut profile = profile(json!([{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}]));
    profile["listenerPath"] = json!(socket.path);
    profile["listenerMetadata"] = json!("some metadata");
    profile
}

fn a_listener_answers_for_the_payload(t: &T) -> Verdict {
    let socket = FdSocket::new(t.path("agent"))?;
    let bundle =
        with(t, notifying(&socket))?.helper()?.args(&["/helper", "@payload", "syscalls", &GETPPID.to_string()]);
    let container = t.create(&bundle)?;
    let (listener, mut start) = started(t, &container, &socket)?;
    ensure_eq!(i64::from(listener.refuse_next(libc::EXDEV)?), GETPPID, "the call");
    container.wait_for_output(&format!("{GETPPID}=EXDEV"))?;
    start.wait()?;
    Ok(())
}

/// Starts the container while waiting for its listener: the filter may be
/// installed, and so the listener sent, by `create` or only by `start`.
fn started(t: &T, container: &Container, socket: &FdSocket) -> Verdict<(notify::Listener, Child)> {
    let mut command = t.command();
    command.args(["start", &container.id]);
    let start = command.spawn()?;
    Ok((notify::receive(socket)?, start))
}

fn a_listener_gets_the_container_process_state(t: &T) -> Verdict {
    let socket = FdSocket::new(t.path("agent"))?;
    let bundle = with(t, notifying(&socket))?.args(&["/bin/sleep", "1000"]).set("/annotations", json!({"a": "b"}));
    let container = t.create(&bundle)?;
    let pid = container.pid()?;
    let (listener, mut start) = started(t, &container, &socket)?;
    start.wait()?;
    let state = listener.state;
    ensure_eq!(state["fds"], json!(["seccompFd"]), "fds");
    ensure_eq!(state["metadata"], "some metadata", "metadata");
    ensure_eq!(state["pid"], pid, "pid");
    ensure_eq!(state["state"]["id"], container.id.as_str(), "state.id");
    ensure_eq!(state["state"]["status"], "creating", "state.status");
    ensure_eq!(state["state"]["annotations"]["a"], "b", "state.annotations");
    ensure!(state["ociVersion"].is_string() && state["state"]["bundle"].is_string(), "{state}");
    Ok(())
}

fn a_listener_for_exec_is_sent_too(t: &T) -> Verdict {
    let socket = FdSocket::new(t.path("agent"))?;
    let container = t.create(&with(t, notifying(&socket))?.helper()?.args(&["/bin/sleep", "1000"]))?;
    let (_init, mut start) = started(t, &container, &socket)?;
    start.wait()?;
    let process = json!({"args": ["/helper", "@payload", "syscalls", GETPPID.to_string()], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let file = t.path("process.json");
    std::fs::write(&file, process.to_string())?;
    let mut command = t.command();
    command.args(["exec", "--process"]).arg(&file).arg(&container.id);
    let capture = t.capture();
    capture.attach(&mut command)?;
    let mut child = command.spawn()?;
    let listener = notify::receive(&socket)?;
    ensure_eq!(listener.state["state"]["status"], "running", "state.status");
    listener.refuse_next(libc::EXDEV)?;
    crate::kit::runtime::wait(&mut child, std::time::Duration::from_secs(120), "exec").context("exec")?;
    ensure_eq!(capture.read().0, format!("{GETPPID}=EXDEV\n"), "exec's output");
    Ok(())
}

fn a_missing_listener_socket_fails_the_create(t: &T) -> Verdict {
    let mut profile = profile(json!([{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}]));
    profile["listenerPath"] = json!("/no/such/agent");
    let (ran, container) = t.try_create(&with(t, profile)?, &[])?;
    ran.code_is(1)?;
    container.verb("state", &[], &[])?.fails()?;
    Ok(())
}

fn notify_without_a_listener_path_is_refused(t: &T) -> Verdict {
    t.run(&with(t, profile(json!([{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}])))?)?.code_is(1)?;
    Ok(())
}

fn the_docker_profile_runs_a_shell(t: &T) -> Verdict {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": [], "architectures": architectures(),
        "syscalls": everything_but_getppid()});
    t.run(&with(t, profile)?.sh("echo $(echo nested)"))?.stdout_is("nested\n")?;
    Ok(())
}

fn the_debug_log_has_the_flags_of_the_filter(t: &T) -> Verdict {
    let spec_allow = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let log = libc::SECCOMP_FILTER_FLAG_LOG;
    for (flags, number) in [
        (None, spec_allow),
        (Some(json!([])), 0),
        (Some(json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"])), log),
    ] {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        if let Some(flags) = flags {
            profile["flags"] = flags;
        }
        let bundle = t.bundle()?.set("/linux/seccomp", profile);
        let ran = t.run_with(&bundle, &["--debug"])?.ok()?;
        ran.stderr_has(&format!("\"seccomp filter flags: {number}\""))?;
    }
    Ok(())
}
