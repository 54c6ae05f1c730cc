//! The command line as data: every verb and every flag.
//!
//! The parser, `--help`, the man pages and the shell completions all read this table, so they always agree. Tests
//! make sure that each help has at most 79 columns and, but for `checkpoint` and `restore`, at most 23 lines, which
//! leaves one for the prompt.

use windlass_args::{Flag, HELP, ID, ONE, Operands, Takes, Verb, flag};

/// The verb of this name.
pub fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// `--debug` may also stand after verbs that have steps, because users add it at the end of a slow command.
const DEBUG: Flag = flag("debug", Takes::Nothing, "log every step with its duration");
const TABLE_OR_JSON: Takes = Takes::Word(&["table", "json"]);
const TEXT_OR_JSON: Takes = Takes::Word(&["text", "json"]);

/// Flags that stand before the verb.
pub const GLOBAL: &[Flag] = &[
    flag("root", Takes::Dir("DIR"), "state directory (default: /run/windlass)"),
    flag("log", Takes::File("FILE"), "append log messages to FILE"),
    flag("log-format", TEXT_OR_JSON, "format of the log"),
    flag("log-level", Takes::Word(LEVELS), "least severe message to log").hidden(),
    DEBUG,
    flag("strict", Takes::Nothing, "treat warnings as errors"),
    flag("systemd-cgroup", Takes::Nothing, "let systemd create the cgroup"),
    flag("cgroup-manager", Takes::Word(&["cgroupfs", "systemd", "disabled"]), "what creates the cgroup").hidden(),
    flag("rootless", Takes::Word(&["true", "false", "auto"]), "use delegated cgroups only, or none (default: auto)"),
    flag("criu", Takes::File("PATH"), "path of criu (default: from PATH)").hidden(),
    HELP,
    flag("version", Takes::Nothing, "print the version").short('v'),
];

/// The values of `--log-level`.
pub const LEVELS: &[&str] = &["error", "warning", "info", "debug"];

const BUNDLE: Flag = flag("bundle", Takes::Dir("DIR"), "bundle directory (default: working directory)").short('b');
const CONFIG: Flag = flag("config", Takes::File("FILE"), "read FILE in place of config.json").short('f');
const CONSOLE_SOCKET: Flag =
    flag("console-socket", Takes::File("SOCKET"), "AF_UNIX socket that gets the terminal master");
const PIDFD_SOCKET: Flag = flag("pidfd-socket", Takes::File("SOCKET"), "AF_UNIX socket that gets a pidfd");
const PID_FILE: Flag = flag("pid-file", Takes::File("FILE"), "write the process id to FILE");
const NO_PIVOT: Flag = flag("no-pivot", Takes::Nothing, "do not use pivot_root (for a root on a ramdisk)");
const NO_NEW_KEYRING: Flag = flag("no-new-keyring", Takes::Nothing, "do not create a new session keyring");
const PRESERVE_FDS: Flag = flag("preserve-fds", Takes::Text("N"), "pass N file descriptors besides stdio");

const IMAGE_PATH: Flag = flag("image-path", Takes::Dir("DIR"), "directory of the images (default: checkpoint)");
const WORK_PATH: Flag = flag("work-path", Takes::Dir("DIR"), "directory of the log (default: --image-path)");
const TCP_ESTABLISHED: Flag = flag("tcp-established", Takes::Nothing, "allow open TCP connections");
const EXT_UNIX_SK: Flag = flag("ext-unix-sk", Takes::Nothing, "allow unix sockets connected from outside");
const SHELL_JOB: Flag = flag("shell-job", Takes::Nothing, "allow a session begun outside the container");
const FILE_LOCKS: Flag = flag("file-locks", Takes::Nothing, "allow file locks");
const LAZY_PAGES: Flag = flag("lazy-pages", Takes::Nothing, "use userfaultfd to transfer memory on demand");
const PAGE_SERVER: Flag = flag("page-server", Takes::Text("ADDRESS:PORT"), "where memory is sent to, or fetched from");
const CGROUPS_MODE: Flag = flag("manage-cgroups-mode", Takes::Text("MODE"), "cgroups: ignore, soft, full, strict");
const EMPTY_NS: Flag =
    flag("empty-ns", Takes::Text("network"), "create the namespace without its properties").many().hidden();
const AUTO_DEDUP: Flag = flag("auto-dedup", Takes::Nothing, "drop pages that newer images have");
const NETWORK_LOCK: Flag =
    flag("network-lock", Takes::Word(&["iptables", "nftables", "skip"]), "how criu locks the network");

const BASE: Verb =
    Verb { name: "", usage: ID, operands: ONE, brief: "", summary: "", about: &[], flags: &[HELP], hidden: false };

/// All verbs, in the order in which help shows them.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "create",
        brief: "create a container",
        summary: "create a container, whose program waits for start",
        about: &[
            "Reads config.json of the bundle, creates the container and leaves its init process waiting for \
             start. Later changes to config.json have no effect on it.",
            "If create fails, nothing of the container remains.",
        ],
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            DEBUG,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "start",
        brief: "start a created container",
        summary: "execute the program of a created container",
        flags: &[DEBUG, HELP],
        ..BASE
    },
    Verb {
        name: "run",
        brief: "create and start",
        summary: "create and start a container",
        about: &["Without --detach, run stays in the foreground. It forwards signals and the size of the terminal, \
             waits for the end, deletes the container unless --keep is given, and exits with the exit code of \
             the program, or 128 plus the number of the signal that killed it."],
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE_SOCKET,
            flag("detach", Takes::Nothing, "run in the background").short('d'),
            flag("keep", Takes::Nothing, "do not delete the container after it stops"),
            flag("no-subreaper", Takes::Nothing, "do not act as subreaper of orphaned processes"),
            PIDFD_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            DEBUG,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "exec",
        brief: "run a program in a container",
        usage: "CONTAINER COMMAND [ARG...] | -p FILE CONTAINER",
        operands: Operands::Command,
        summary: "run a program in a running container",
        about: &[
            "What no flag sets is taken from the process of the container's config.json. The program runs below \
             the container's seccomp filter and with its LSM labels.",
            "The first word after the container id that is not an option begins the command. Everything after it \
             belongs to the command. Exits with the exit code of the program, or 255 if it could not be \
             executed.",
        ],
        flags: &[
            flag("process", Takes::File("FILE"), "path of a process.json, in place of a command").short('p'),
            flag("user", Takes::Text("UID[:GID]"), "numeric user and group id").short('u'),
            flag("additional-gids", Takes::Text("GID"), "add a supplementary group").short('g').many(),
            flag("cwd", Takes::Text("PATH"), "working directory in the container"),
            flag("env", Takes::Text("KEY=VALUE"), "set an environment variable").short('e').many(),
            flag("tty", Takes::Nothing, "allocate a terminal").short('t'),
            flag("detach", Takes::Nothing, "run in the background").short('d'),
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            flag("process-label", Takes::Text("LABEL"), "SELinux label of the process"),
            flag("apparmor", Takes::Text("PROFILE"), "AppArmor profile of the process"),
            flag("no-new-privs", Takes::Nothing, "set no_new_privs on the process"),
            flag("cap", Takes::Text("CAPABILITY"), "add a capability").short('c').many(),
            PRESERVE_FDS,
            flag("cgroup", Takes::Text("[CONTROLLER:]PATH"), "run in a sub-cgroup of the container's").many(),
            flag("ignore-paused", Takes::Nothing, "allow it in a paused container"),
            DEBUG,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "kill",
        brief: "send a signal to init",
        usage: "CONTAINER [SIGNAL]",
        operands: Operands::Count(1, 2),
        summary: "send a signal to the init process of a container",
        about: &["SIGNAL is a number, or a name with or without SIG. The default is TERM."],
        flags: &[flag("all", Takes::Nothing, "send it to all processes").short('a').hidden(), HELP],
        ..BASE
    },
    Verb {
        name: "delete",
        brief: "delete a container",
        summary: "delete a stopped container",
        flags: &[
            flag("force", Takes::Nothing, "kill it first; succeed if there is no such container").short('f'),
            HELP,
        ],
        ..BASE
    },
    Verb { name: "state", brief: "print the state", summary: "print the state of a container as JSON", ..BASE },
    Verb {
        name: "list",
        brief: "list containers",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "list containers",
        flags: &[
            flag("format", TABLE_OR_JSON, "format of the output").short('f'),
            flag("quiet", Takes::Nothing, "print only the ids").short('q'),
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "ps",
        brief: "list the processes of a container",
        usage: "CONTAINER [PS OPTION...]",
        operands: Operands::Foreign,
        summary: "list the processes of a container",
        about: &["Prints the table of ps(1) with the processes of the container alone. The words after the container \
             id are the options of ps(1); the default is -ef."],
        flags: &[flag("format", TABLE_OR_JSON, "table of ps(1), or JSON array of process ids").short('f'), HELP],
        ..BASE
    },
    Verb { name: "pause", brief: "suspend all processes", summary: "suspend all processes of a container", ..BASE },
    Verb {
        name: "resume",
        brief: "resume all processes",
        summary: "resume all processes of a paused container",
        ..BASE
    },
    Verb {
        name: "update",
        brief: "update resource limits",
        summary: "update the resource limits of a container",
        about: &["Sizes take the suffixes k, m, g, t and p (powers of 1024); -1 means no limit. A flag overrides the \
             same limit in the file of --resources. A limit that neither sets stays as it is."],
        flags: &[
            flag("resources", Takes::File("FILE|-"), "linux.resources as JSON; - is standard input").short('r'),
            flag("memory", Takes::Text("BYTES"), "memory limit"),
            flag("memory-reservation", Takes::Text("BYTES"), "memory soft limit"),
            flag("memory-swap", Takes::Text("BYTES"), "limit of memory and swap together"),
            flag("cpu-quota", Takes::Text("US"), "CPU time per period (CFS quota)"),
            flag("cpu-period", Takes::Text("US"), "length of the period (CFS period)"),
            flag("cpu-burst", Takes::Text("US"), "accumulated unused CPU time (CFS burst)"),
            flag("cpu-share", Takes::Text("N"), "CPU shares (relative weight), 2 to 262144"),
            flag("cpu-idle", Takes::Text("0|1"), "1: run only when the CPU is idle"),
            flag("cpu-rt-period", Takes::Text("US"), "realtime period (cgroup v1)").hidden(),
            flag("cpu-rt-runtime", Takes::Text("US"), "realtime time per period (cgroup v1)").hidden(),
            flag("cpuset-cpus", Takes::Text("LIST"), "CPUs to use"),
            flag("cpuset-mems", Takes::Text("LIST"), "memory nodes to use"),
            flag("pids-limit", Takes::Text("N"), "maximum number of tasks"),
            flag("blkio-weight", Takes::Text("N"), "relative I/O weight, 10 to 1000"),
            flag("l3-cache-schema", Takes::Text("LINE"), "L3 cache lines of the resctrl schemata"),
            flag("mem-bw-schema", Takes::Text("LINE"), "memory bandwidth lines of resctrl schemata"),
            flag("kernel-memory", Takes::Text("BYTES"), "obsolete").hidden(),
            flag("kernel-memory-tcp", Takes::Text("BYTES"), "obsolete").hidden(),
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "events",
        brief: "print usage and OOM events",
        summary: "print resource usage and out-of-memory events as JSON lines",
        flags: &[
            flag("interval", Takes::Text("DURATION"), "interval between statistics; default: 5s"),
            flag("stats", Takes::Nothing, "print the statistics once and exit"),
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "explain",
        brief: "print what create would do",
        usage: "[CONTAINER]",
        operands: Operands::Count(0, 1),
        summary: "print what create would do, and do nothing",
        about: &["Prints the processes, the cgroup and each step in order, with the element of config.json that asks \
             for it. It needs no privileges. With --restore it prints where each mount and namespace of a restored \
             container comes from, and what in the images contradicts config.json."],
        flags: &[
            BUNDLE,
            CONFIG,
            flag("format", TEXT_OR_JSON, "format of the output"),
            flag("restore", Takes::Nothing, "explain restore from the images of --image-path"),
            IMAGE_PATH,
            NO_PIVOT,
            NO_NEW_KEYRING,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "check",
        brief: "check a bundle",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "check a bundle against the specification and this host",
        about: &["Lists every fault of config.json and everything that would be ignored. Exits with 1 if the bundle \
             would not run."],
        flags: &[BUNDLE, CONFIG, flag("format", TEXT_OR_JSON, "format of the output"), HELP],
        ..BASE
    },
    Verb {
        name: "doctor",
        brief: "check this host",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "check what this host and this user can do with containers",
        about: &["Checks the kernel, user namespaces, subordinate ids, delegated cgroups, systemd and security \
             modules. For everything that is missing it says how to get it. Exits with 1 if a container as \
             spec describes it cannot run."],
        flags: &[flag("json", Takes::Nothing, "print JSON"), HELP],
        ..BASE
    },
    Verb {
        name: "spec",
        brief: "create a config.json",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "create a config.json to start from",
        flags: &[BUNDLE, flag("rootless", Takes::Nothing, "for a rootless container"), HELP],
        ..BASE
    },
    Verb {
        name: "features",
        brief: "print the features of the runtime",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "print the features of this runtime as JSON",
        ..BASE
    },
    Verb {
        name: "checkpoint",
        brief: "checkpoint a running container",
        summary: "checkpoint a running container",
        about: &[
            "The container ends and is deleted, unless --leave-running is given. Needs criu 4.1 or later, from PATH \
             or the global flag --criu.",
        ],
        flags: &[
            flag("check", Takes::Nothing, "only list what cannot be checkpointed"),
            IMAGE_PATH,
            WORK_PATH,
            flag("leave-running", Takes::Nothing, "leave the container running"),
            TCP_ESTABLISHED,
            flag("tcp-skip-in-flight", Takes::Nothing, "skip connections that are not established yet"),
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            flag("link-remap", Takes::Nothing, "allow unlinked files that have another link"),
            flag("pre-dump", Takes::Nothing, "dump memory only; the container keeps running"),
            flag("parent-path", Takes::Dir("DIR"), "images of the previous pre-dump"),
            AUTO_DEDUP,
            CGROUPS_MODE,
            NETWORK_LOCK.hidden(),
            LAZY_PAGES.hidden(),
            PAGE_SERVER.hidden(),
            flag("status-fd", Takes::Text("N"), "gets a NUL byte when the page server listens").hidden(),
            EMPTY_NS,
            DEBUG.hidden(),
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "restore",
        brief: "restore a container",
        summary: "restore a container from a checkpoint",
        about: &[
            "Without --detach, restore stays in the foreground, as run does. Needs criu 4.1 or later, from PATH or \
             the global flag --criu.",
        ],
        flags: &[
            BUNDLE,
            IMAGE_PATH,
            WORK_PATH,
            flag("detach", Takes::Nothing, "run in the background").short('d'),
            flag("hold", Takes::Nothing, "create only; `start` restores the processes"),
            CONSOLE_SOCKET,
            PID_FILE,
            TCP_ESTABLISHED,
            flag("tcp-close", Takes::Nothing, "restore open TCP connections as closed"),
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            CGROUPS_MODE,
            flag("lsm-profile", Takes::Text("TYPE:NAME"), "LSM profile in place of that in the images"),
            flag("lsm-mount-context", Takes::Text("LABEL"), "SELinux context of mounts"),
            flag("trust-images", Takes::Nothing, "do not compare the images with config.json"),
            flag("keep", Takes::Nothing, "do not delete the container after it stops").hidden(),
            flag("no-subreaper", Takes::Nothing, "do not act as subreaper of orphaned processes").hidden(),
            PIDFD_SOCKET.hidden(),
            CONFIG.hidden(),
            NO_PIVOT.hidden(),
            NO_NEW_KEYRING.hidden(),
            NETWORK_LOCK.hidden(),
            LAZY_PAGES.hidden(),
            PAGE_SERVER.hidden(),
            AUTO_DEDUP.hidden(),
            EMPTY_NS,
            flag("parent-path", Takes::Dir("DIR"), "accepted: the images name their parent").hidden(),
            DEBUG.hidden(),
            HELP,
        ],
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_args::help;

    #[test]
    fn no_verb_has_two_flags_of_one_name() {
        for flags in VERBS.iter().map(|verb| verb.flags).chain([GLOBAL]) {
            let mut long: Vec<_> = flags.iter().map(|flag| flag.long).collect();
            let mut short: Vec<_> = flags.iter().filter_map(|flag| flag.short).collect();
            let count = (long.len(), short.len());
            long.sort_unstable();
            long.dedup();
            short.sort_unstable();
            short.dedup();
            assert_eq!((long.len(), short.len()), count, "{long:?}");
        }
    }

    #[test]
    fn every_flag_that_is_shown_says_what_it_does() {
        for flag in VERBS.iter().filter(|verb| !verb.hidden).flat_map(|verb| verb.flags).chain(GLOBAL) {
            assert!(!flag.help.is_empty(), "--{}", flag.long);
            assert!(!flag.help.ends_with('.'), "--{}", flag.long);
        }
    }

    #[test]
    fn every_help_fits_a_screen_of_24_by_80() {
        // The verbs that use CRIU also have CRIU's flags, and are longer.
        let short = VERBS.iter().filter(|verb| !["checkpoint", "restore"].contains(&verb.name));
        let texts = short.map(|it| help::verb("windlass", it));
        for text in texts.chain([help::program("windlass", "", VERBS, GLOBAL)]) {
            // One line is left for the prompt.
            assert!(text.lines().count() < 24, "{} lines:\n{text}", text.lines().count());
        }
        for text in VERBS.iter().map(|it| help::verb("windlass", it)) {
            assert!(text.lines().all(|line| line.chars().count() < help::COLUMNS), "{text}");
        }
    }

    #[test]
    fn what_is_hidden_is_not_shown() {
        let kill = help::verb("windlass", verb("kill").expect("in the table"));
        assert!(!kill.contains("--all"));
    }
}
