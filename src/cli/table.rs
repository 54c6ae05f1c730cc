//! The command line as data: every verb and every flag, once.
//!
//! The parser, `--help`, the man pages and the shell completions all read this table, so none
//! of them can know a flag that another does not. Help lines are short enough for 80 columns;
//! a test holds each verb's help to one screen.

use windlass_args::{Flag, HELP, ID, ONE, Operands, Takes, Verb, flag};

/// The verb of this name.
pub fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// Also after the verbs that have steps, where one adds it to a command that is slow.
const DEBUG: Flag = flag("debug", Takes::Nothing, "log every step with its duration");
const TABLE_OR_JSON: Takes = Takes::Word(&["table", "json"]);
const TEXT_OR_JSON: Takes = Takes::Word(&["text", "json"]);

/// Flags that stand before the verb.
pub const GLOBAL: &[Flag] = &[
    flag("root", Takes::Dir("DIR"), "where the state of containers is kept"),
    flag("log", Takes::File("FILE"), "append messages to FILE as well"),
    flag("log-format", TEXT_OR_JSON, "format of the log"),
    flag("log-level", Takes::Word(LEVELS), "least severe message to log").hidden(),
    DEBUG,
    flag("strict", Takes::Nothing, "treat warnings as errors"),
    flag("systemd-cgroup", Takes::Nothing, "let systemd make the cgroup"),
    flag("cgroup-manager", Takes::Word(&["cgroupfs", "systemd", "disabled"]), "who makes the cgroup").hidden(),
    flag("rootless", Takes::Word(&["true", "false", "auto"]), "do without what is not delegated"),
    flag("criu", Takes::Text("PATH"), "accepted for runc's sake, not used").hidden(),
    HELP,
    flag("version", Takes::Nothing, "print the version").short('v'),
];

/// What `--log-level` takes.
pub const LEVELS: &[&str] = &["error", "warning", "info", "debug"];

const BUNDLE: Flag = flag("bundle", Takes::Dir("DIR"), "the bundle; default: the working directory").short('b');
const CONFIG: Flag = flag("config", Takes::File("FILE"), "read FILE in place of config.json").short('f');
const CONSOLE_SOCKET: Flag = flag("console-socket", Takes::File("SOCKET"), "send the terminal's master end there");
const PIDFD_SOCKET: Flag = flag("pidfd-socket", Takes::File("SOCKET"), "send a pidfd of the process there");
const PID_FILE: Flag = flag("pid-file", Takes::File("FILE"), "write the process id to FILE");
const NO_PIVOT: Flag = flag("no-pivot", Takes::Nothing, "move the root over / (for a rootfs on a ramdisk)");
const NO_NEW_KEYRING: Flag = flag("no-new-keyring", Takes::Nothing, "keep the caller's session keyring");
const PRESERVE_FDS: Flag = flag("preserve-fds", Takes::Text("N"), "pass N more file descriptors");

const BASE: Verb =
    Verb { name: "", usage: ID, operands: ONE, brief: "", summary: "", about: &[], flags: &[HELP], hidden: false };

/// All verbs, in the order in which help shows them.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "create",
        brief: "make a container",
        summary: "make a container; its program waits for start",
        about: &[
            "Reads config.json of the bundle, sets up the container and leaves its process waiting. \
             The process that was described when create read the file is the one that start runs: \
             later changes to the file have no effect.",
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
        brief: "run its program",
        summary: "run the program of a created container",
        flags: &[DEBUG, HELP],
        ..BASE
    },
    Verb {
        name: "run",
        brief: "create and start",
        summary: "create and start a container",
        about: &["Without --detach, run stays until the program ends, passes signals and terminal size \
             on, deletes the container unless --keep is given, and exits with the program's code, \
             or 128 plus the signal that killed it."],
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE_SOCKET,
            flag("detach", Takes::Nothing, "do not wait for the program").short('d'),
            flag("keep", Takes::Nothing, "do not delete the container when it ends"),
            flag("no-subreaper", Takes::Nothing, "do not adopt orphaned processes"),
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
        brief: "run another program in it",
        usage: "CONTAINER COMMAND [ARG...] | -p FILE CONTAINER",
        operands: Operands::Command,
        summary: "run another program in a container",
        about: &[
            "What no flag says is taken from the process that the container was created with. \
             The program runs under the container's seccomp filter and LSM labels.",
            "The first word after the container id that is not an option begins the command; all \
             that follows belongs to it. Exits with the program's code, or 255 when it could not \
             be run.",
        ],
        flags: &[
            flag("process", Takes::File("FILE"), "the process as JSON, in place of a command").short('p'),
            flag("user", Takes::Text("UID[:GID]"), "run as these numeric ids").short('u'),
            flag("additional-gids", Takes::Text("GID"), "add a supplementary group").short('g').many(),
            flag("cwd", Takes::Text("PATH"), "working directory in the container"),
            flag("env", Takes::Text("KEY=VALUE"), "set an environment variable").short('e').many(),
            flag("tty", Takes::Nothing, "give it a terminal").short('t'),
            flag("detach", Takes::Nothing, "do not wait for it").short('d'),
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            flag("process-label", Takes::Text("LABEL"), "SELinux label"),
            flag("apparmor", Takes::Text("PROFILE"), "AppArmor profile"),
            flag("no-new-privs", Takes::Nothing, "set no_new_privs"),
            flag("cap", Takes::Text("CAPABILITY"), "add a capability").short('c').many(),
            PRESERVE_FDS,
            flag("cgroup", Takes::Text("[CONTROLLER:]PATH"), "run in this cgroup below the container's").many(),
            flag("ignore-paused", Takes::Nothing, "allow it in a paused container"),
            DEBUG,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "kill",
        brief: "send a signal",
        usage: "CONTAINER [SIGNAL]",
        operands: Operands::Count(1, 2),
        summary: "send a signal to the container's first process",
        about: &["SIGNAL is a number or a name with or without SIG; the default is TERM."],
        flags: &[flag("all", Takes::Nothing, "send it to every process").short('a').hidden(), HELP],
        ..BASE
    },
    Verb {
        name: "delete",
        brief: "remove a container",
        summary: "remove a stopped container",
        flags: &[
            flag("force", Takes::Nothing, "kill it first; a container that is not there is no error").short('f'),
            HELP,
        ],
        ..BASE
    },
    Verb { name: "state", brief: "print its state", summary: "print the state of a container as JSON", ..BASE },
    Verb {
        name: "list",
        brief: "list the containers",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "list the containers",
        flags: &[
            flag("format", TABLE_OR_JSON, "format of the output").short('f'),
            flag("quiet", Takes::Nothing, "ids only").short('q'),
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "ps",
        brief: "list its processes",
        usage: "CONTAINER [PS OPTION...]",
        operands: Operands::Foreign,
        summary: "list the processes of a container",
        about: &["The table is that of ps(1), reduced to the processes of the container; all that \
             follows the container id goes to it, the default is -ef."],
        flags: &[flag("format", TABLE_OR_JSON, "ps(1), or a JSON array of pids").short('f'), HELP],
        ..BASE
    },
    Verb { name: "pause", brief: "freeze its processes", summary: "freeze all processes of a container", ..BASE },
    Verb { name: "resume", brief: "let them go on", summary: "let a paused container go on", ..BASE },
    Verb {
        name: "update",
        brief: "change its limits",
        summary: "change the limits of a container",
        about: &["Sizes take the suffixes k, m, g, t and p (powers of 1024); -1 means no limit. A flag \
             overrides what the file of --resources says about the same limit; what neither says \
             stays as it is."],
        flags: &[
            flag("resources", Takes::File("FILE|-"), "linux.resources as JSON").short('r'),
            flag("memory", Takes::Text("BYTES"), "memory limit"),
            flag("memory-reservation", Takes::Text("BYTES"), "memory soft limit"),
            flag("memory-swap", Takes::Text("BYTES"), "memory and swap together"),
            flag("cpu-quota", Takes::Text("US"), "CPU time per period"),
            flag("cpu-period", Takes::Text("US"), "length of that period"),
            flag("cpu-burst", Takes::Text("US"), "unused CPU time that may be saved up"),
            flag("cpu-share", Takes::Text("N"), "relative CPU weight, 2 to 262144"),
            flag("cpu-idle", Takes::Text("0|1"), "1: run only when the CPU is idle"),
            flag("cpu-rt-period", Takes::Text("US"), "realtime period (cgroup v1)").hidden(),
            flag("cpu-rt-runtime", Takes::Text("US"), "realtime time per period (cgroup v1)").hidden(),
            flag("cpuset-cpus", Takes::Text("LIST"), "CPUs that may be used"),
            flag("cpuset-mems", Takes::Text("LIST"), "memory nodes that may be used"),
            flag("pids-limit", Takes::Text("N"), "number of tasks"),
            flag("blkio-weight", Takes::Text("N"), "relative I/O weight, 10 to 1000"),
            flag("l3-cache-schema", Takes::Text("LINE"), "L3 cache lines of resctrl's schemata"),
            flag("mem-bw-schema", Takes::Text("LINE"), "memory bandwidth lines of the same"),
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
            flag("interval", Takes::Text("DURATION"), "time between two lines; default: 5s"),
            flag("stats", Takes::Nothing, "print one line and exit"),
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
        about: &["Prints the processes, the cgroup and each step in order, with the element of \
             config.json that asks for it. Works without privileges."],
        flags: &[BUNDLE, CONFIG, flag("format", TEXT_OR_JSON, "format of the output"), NO_PIVOT, NO_NEW_KEYRING, HELP],
        ..BASE
    },
    Verb {
        name: "check",
        brief: "judge a bundle",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "say all that is wrong with a bundle on this host",
        about: &["Holds config.json against the specification and against this host and lists every \
             fault and everything that would be ignored. Exits with 1 if the bundle would not run."],
        flags: &[BUNDLE, CONFIG, flag("format", TEXT_OR_JSON, "format of the output"), HELP],
        ..BASE
    },
    Verb {
        name: "doctor",
        brief: "judge this host",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "say what this host and this user can do with containers",
        about: &["Looks at the kernel, user namespaces and ids, cgroups and what of them is delegated, systemd and \
             security modules, and says of all that is not there how to get it. Exits with 1 if a container \
             as spec describes it cannot run."],
        flags: &[flag("json", Takes::Nothing, "print JSON"), HELP],
        ..BASE
    },
    Verb {
        name: "spec",
        brief: "write a config.json",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "write a config.json to start from",
        flags: &[BUNDLE, flag("rootless", Takes::Nothing, "for a user without privileges"), HELP],
        ..BASE
    },
    Verb {
        name: "features",
        brief: "print what it can do",
        usage: "",
        operands: Operands::Count(0, 0),
        summary: "print what this runtime can do as JSON",
        ..BASE
    },
    Verb { name: "checkpoint", hidden: true, ..BASE },
    Verb { name: "restore", hidden: true, ..BASE },
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
        let texts = VERBS.iter().map(|it| help::verb("windlass", it));
        for text in texts.chain([help::program("windlass", "", VERBS, GLOBAL)]) {
            // One line is left for the prompt.
            assert!(text.lines().count() < 24, "{} lines:\n{text}", text.lines().count());
            assert!(text.lines().all(|line| line.chars().count() < help::COLUMNS), "{text}");
        }
    }

    #[test]
    fn what_is_hidden_is_not_shown() {
        let kill = help::verb("windlass", verb("kill").expect("in the table"));
        assert!(!kill.contains("--all"));
        assert!(!help::program("windlass", "", VERBS, GLOBAL).contains("checkpoint"));
    }
}
