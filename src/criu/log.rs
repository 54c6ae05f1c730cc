//! The cause of a failure, from CRIU's log.

/// The line of the log that names the cause, and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The text of the line, without its prefixes.
    pub text: String,
    /// The place in CRIU's source: `criu/sk-inet.c:200`.
    pub place: String,
    /// The line of the log, from 1 on.
    pub line: usize,
    /// The explanation of the message, if it is known.
    pub known: Option<&'static Explanation>,
}

/// A message of CRIU that we can explain.
#[derive(Debug, PartialEq, Eq)]
pub struct Explanation {
    /// A part of the message.
    part: &'static str,
    /// The meaning of the message.
    pub means: &'static str,
    /// The advice to the user.
    pub hint: &'static str,
}

const fn known(part: &'static str, means: &'static str, hint: &'static str) -> Explanation {
    Explanation { part, means, hint }
}

/// The messages that we can explain. The first that fits counts.
const KNOWN: &[Explanation] = &[
    known(
        "consider using --tcp-established",
        "a process has an open TCP connection",
        "pass --tcp-established, or close the connection first",
    ),
    known(
        "Connected TCP socket in image",
        "the images have an open TCP connection",
        "pass --tcp-established or --tcp-close",
    ),
    known(
        "In-flight connection (l)",
        "a process listens, and has TCP connections that it has not accepted",
        "pass --tcp-skip-in-flight, which loses them",
    ),
    known(
        "External socket is used",
        "a process has a unix socket whose other end is outside the container",
        "pass --ext-unix-sk for datagram sockets; a stream must be closed first",
    ),
    known(
        "Can't dump half of stream unix connection",
        "a process is connected to a unix stream socket outside the container",
        "close the connection first: it cannot be dumped",
    ),
    known("Some file locks are hold", "a process holds a lock of a file", "pass --file-locks"),
    known("not a session leader", "the session of init began outside the container", "pass --shell-job"),
    known("Found dangling tty", "a process has a terminal from outside the container", "pass --shell-job"),
    known("without correspond master peer", "the other end of a terminal is outside the container", "pass --shell-job"),
    known("Use link-remap option", "a process has an unlinked file open that has another name", "pass --link-remap"),
    known(
        "Can't dump ghost file",
        "a process has a large unlinked file open",
        "close the file, or raise ghost-limit in the file of CRIU's options",
    ),
    known(
        "doesn't have a proper root mount",
        "a mount comes from outside the container and was not declared",
        "the mount must be in config.json",
    ),
    known(
        "has unreachable sharing",
        "a mount is a peer of a mount outside the container",
        "make the mount private or a slave in config.json",
    ),
    known(
        "Failed to copy sharing",
        "mounts that are slaves of one mount of the host cannot be made so again",
        "bind them with the option private",
    ),
    known(
        "Can't get 1:16 opt",
        "this CRIU cannot dump the sockets of this kernel",
        "install CRIU 4.2 or later, or name one by --criu",
    ),
    known(
        "Can't get rlimit",
        "CRIU may not read the resource limits of a process of another user",
        "dump with CAP_SYS_RESOURCE",
    ),
    known(
        "Can't lookup mount",
        "a process has a file open that is not in the container's mounts",
        "close the file, or start the container with other standard streams",
    ),
    known("nested pid namespace", "a process has a PID namespace of its own", "nested namespaces cannot be dumped"),
    known("Can't dump nested", "a process has a namespace of its own", "nested namespaces cannot be dumped"),
    known(
        "Unable to dump more than one netns",
        "a process has a network namespace of its own",
        "nested network namespaces cannot be dumped",
    ),
    known("anon_inode:[io_uring]", "a process uses io_uring", "io_uring cannot be dumped"),
    known("/secretmem", "a process has secret memory (memfd_secret)", "secret memory cannot be dumped"),
    known("Unknown shit", "a process has a file open of a kind that CRIU does not know", "close the file first"),
    known("Can't dump file", "a process has a file open of a kind that cannot be dumped", "close the file first"),
    known("Unsupported proto", "a process has a socket of a protocol that cannot be dumped", "close the socket first"),
    known(
        "BUG! Unknown socket collected",
        "a process has a socket of a family that cannot be dumped",
        "close the socket first",
    ),
    known("found while seizing", "a process is traced by another one", "detach the debugger first"),
    known(
        "Unable to freeze cgroup",
        "the processes did not stop in time",
        "a process waits for the kernel: see its state in ps",
    ),
    known(
        "Can't setup RLIMIT",
        "a resource limit of the images is above that of this host",
        "restore with CAP_SYS_RESOURCE",
    ),
    known("Can't fork for", "a process id of the images is in use", "restore into a PID namespace of its own"),
    known("do not match expected", "a process id of the images is in use", "restore into a PID namespace of its own"),
    known(
        "has bad size",
        "a file of the root filesystem is not the one that was dumped",
        "restore with the same content of the root filesystem",
    ),
    known(
        "has bad build-ID",
        "a program of the root filesystem is not the one that was dumped",
        "restore with the same content of the root filesystem",
    ),
    known(
        "has bad mode",
        "a file is of another kind than the one that was dumped",
        "restore with the same files and standard streams",
    ),
    known(
        "Can't open file fd/",
        "CRIU cannot open a standard stream for the container's user",
        "give restore pipes or the null device",
    ),
    known(
        "Unable to open an userfaultfd descriptor",
        "the processes of a user namespace may not fetch memory later",
        "restore without --lazy-pages, or set the parameter vm.unprivileged_userfaultfd to 1",
    ),
    known("Can't open file", "a file of the images is missing", "restore with the same content of the root filesystem"),
    known("No mapping for", "a mount of the images is not in config.json", "add the mount to config.json"),
    known("CPU xsave size mismatch", "the images are of another CPU", "restore on a CPU with the same features"),
    known(
        "lsm types",
        "the images are of a host with another security module",
        "pass --lsm-profile, or restore on a host with the same security module",
    ),
    known("Unable to create the cgroup", "CRIU may not make a cgroup", "pass --manage-cgroups-mode ignore"),
    known("Abort restore of existing cgroups", "a cgroup of the images exists", "pass --manage-cgroups-mode ignore"),
    known("No space left on device", "the disk of the images is full", "free some space there"),
    known(
        "Network is unreachable",
        "an address of a connection does not exist here",
        "restore with the same addresses",
    ),
    known(
        "Cannot assign requested address",
        "an address of a socket does not exist here",
        "restore with the same addresses",
    ),
];

/// Messages that a successful run logs, too, or that follow from another message.
const NOISE: &[&str] = &[
    "Can't setup RLIMIT_NOFILE for self",
    "Unable to create tun",
    "Can't remove the directory",
    "cgroupd: recv req error",
    "Address already assigned",
    "failed with -1",
    "Dumping FAILED",
    "Pre-dumping FAILED",
    "Restoring FAILED",
    "exited, status=",
    "killed by signal",
    "Unable to send a fin packet",
    "write_pid_max",
];

/// Finds the line that names the cause: the first error that can be explained, or else the first, since later lines
/// follow from it. Returns `None` if no line is an error.
pub fn cause(log: &str) -> Option<Cause> {
    let errors: Vec<Cause> = log.lines().enumerate().filter_map(|(at, line)| error_of(at + 1, line)).collect();
    let explained = errors.iter().find(|cause| cause.known.is_some());
    explained.or(errors.first()).cloned()
}

/// Most characters of a message that are reported.
const LONGEST: usize = 1000;

/// `(00.012345) pie: 7: Error (criu/sk-inet.c:200): inet: text`
fn error_of(number: usize, line: &str) -> Option<Cause> {
    let (_, rest) = line.split_once("Error (")?;
    let (place, text) = rest.split_once("): ")?;
    let text: String = text.trim().chars().take(LONGEST).collect();
    if NOISE.iter().any(|noise| text.contains(noise)) {
        return None;
    }
    let known = KNOWN.iter().find(|known| text.contains(known.part));
    Some(Cause { text, place: place.chars().take(LONGEST).collect(), line: number, known })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str =
        "(00.000111) Error (criu/rlimit.c:44): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.012000) 7 fdinfo 3: pos: 0 flags: 2/0
(00.012345) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.
(00.012400) ----------------------------------------
(00.012500) Error (criu/cr-dump.c:1669): Dump files (pid: 7) failed with -1
(00.013000) Error (criu/cr-dump.c:2098): Dumping FAILED.";

    #[test]
    fn the_first_line_is_not_always_the_cause() {
        let cause = cause(TCP).expect("there is one");
        assert_eq!(cause.text, "inet: Connected TCP socket, consider using --tcp-established option.");
        assert_eq!((cause.place.as_str(), cause.line), ("criu/sk-inet.c:200", 3));
        assert!(cause.known.expect("known").hint.contains("--tcp-established"));
    }

    #[test]
    fn a_message_has_no_more_than_can_be_read() {
        let log = format!("(00.1) Error (criu/x.c:1): {}", "x".repeat(1 << 20));
        assert_eq!(cause(&log).expect("there is one").text.len(), LONGEST);
    }

    #[test]
    fn what_is_not_known_is_told_as_it_is() {
        let log =
            "(00.1) Error (criu/new.c:1): new: Something happened\n(00.2) Error (criu/cr-dump.c:1): Dumping FAILED.\n";
        let found = cause(log).expect("there is one");
        assert_eq!((found.text.as_str(), found.known), ("new: Something happened", None));
        assert_eq!(cause("(00.1) Error (criu/rlimit.c:44): rlimit: Can't setup RLIMIT_NOFILE for self: no\n"), None);
        assert_eq!(cause(""), None);
    }

    #[test]
    fn lines_of_a_restored_process_count() {
        let log = "(00.3)      1: Error (criu/files-reg.c:2204): File etc/x has bad mode 020666 (expect 0100644)\n";
        assert!(cause(log).expect("there is one").known.expect("known").hint.contains("same files"));
    }

    #[test]
    fn every_message_that_is_known_is_found_by_its_own_part() {
        for row in KNOWN {
            let line = format!("(00.1) Error (criu/x.c:1): x: {} y", row.part);
            let found = cause(&line).unwrap_or_else(|| panic!("{} is taken for noise", row.part));
            assert!(found.known.is_some());
            assert!(!row.hint.ends_with('.') && !row.means.ends_with('.'), "{}", row.part);
        }
    }
}
