//! The command line of `windlass-shim` as data: the verbs of its engine-neutral mode.
//!
//! The command lines of the other two protocols are their callers'.

use windlass_args::{Flag, HELP, ID, ONE, Operands, Takes, Verb, flag};

/// The title of the program's man page, which its help also shows.
pub const SUMMARY: &str = "stay with a container, keep its stdio, report its exit";

/// Paragraphs for the man page of the program.
pub const ABOUT: &[&str] = &[
    "windlass-shim becomes the parent of a container when the runtime has left. It keeps the container's \
     standard input, output and error open, writes its log, and records how it ended before it tells anybody. \
     The engine may die and come back at any time.",
    "It speaks three protocols. Called containerd-shim-NAME-v2 it is a shim for containerd; called conmon, or as \
     windlass-shim conmon, it takes the place of conmon; otherwise its verbs are the engine-neutral mode, which \
     needs no engine at all. The container's directory, STATE/CONTAINER, has a socket that answers JSON, one \
     object a line; the document shim-protocol.md describes it.",
    "The runtime is windlass, if it is beside windlass-shim or in PATH, else runc; run --runtime names another.",
    "If the shim is killed, status and delete still tell how the container ended, if it had ended. Otherwise they say \
     that the shim was lost, and delete kills what is left. With run --keep-on-shim-death the container goes on \
     instead, and adopt gives it a new shim.",
    "SIGTERM, SIGINT and SIGQUIT to the shim are passed on to the container; SIGHUP opens its logs anew. A service \
     manager that kills all processes of an engine's unit kills the shims too: with systemd, use KillMode=process.",
];

/// Flags that stand before the verb.
pub const GLOBAL: &[Flag] = &[HELP, flag("version", Takes::Nothing, "print the version").short('v')];

const STATE_DIR: Flag = flag("state-dir", Takes::Dir("DIR"), "directory with the containers of all shims");
const EXEC: Flag = flag("exec", Takes::Text("EXEC"), "act on this exec instead of init").short('e');
const LOG: Flag = flag("log", Takes::Text("LOG"), "FORMAT:PATH[,max=SIZE][,files=N]").many();
const TTY: Flag = flag("tty", Takes::Nothing, "allocate a terminal").short('t');
const STDIN: Flag = flag("stdin", Takes::Nothing, "keep standard input open").short('i');

const BASE: Verb =
    Verb { name: "", usage: ID, operands: ONE, brief: "", summary: "", about: &[], flags: COMMON, hidden: false };

/// Flags of all verbs.
pub const COMMON: &[Flag] = &[STATE_DIR, HELP];

const WITH_EXEC: &[Flag] = &[EXEC, STATE_DIR, HELP];

/// The files of a container's directory.
pub const FILES: &[(&str, &str)] = &[
    ("shim.json", "parameters of the container, written before it is created"),
    ("shim.lock", "locked (flock(2)) for as long as the shim lives"),
    ("shim.sock", "the socket of the protocol, for root and the shim's own user"),
    ("exit.json", "exit status of init"),
    ("events.log", "the numbered events"),
    ("log", "log, unless --log names another file"),
    ("shim.err", "standard error of the shim"),
];

/// The verb of this name.
pub fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// All verbs, in the order in which help shows them.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "run",
        usage: "--id CONTAINER",
        operands: Operands::Count(0, 0),
        brief: "create and start",
        summary: "create a container with a shim, and start it",
        about: &[
            "Prints one line of JSON when the container runs, and leaves it to its shim: id, pid, shim_pid, socket \
             and state. After a failure the line has the member error with code and message, and nothing remains.",
            "A log is FORMAT:PATH. The format is k8s (the lines of the CRI), json (docker's objects), raw (the bytes), \
             journald, or none. After the path, max=SIZE (k, m or g) rotates the file at that size, and files=N keeps \
             the last N files. Without --log it is k8s in the container's directory, where max=8m,files=1 is the \
             default.",
        ],
        flags: &[
            flag("id", Takes::Text("CONTAINER"), "container id"),
            flag("bundle", Takes::Dir("DIR"), "bundle directory (default: working directory)").short('b'),
            flag("runtime", Takes::Text("PATH"), "runtime (default: windlass, else runc)"),
            flag("runtime-arg", Takes::Text("ARG"), "argument for the runtime, before the verb").many(),
            flag("root", Takes::Dir("DIR"), "--root of the runtime"),
            flag("create-arg", Takes::Text("ARG"), "argument for its create or restore").many(),
            flag("restore", Takes::Dir("DIR"), "restore from these checkpoint images"),
            LOG,
            TTY,
            STDIN,
            flag("create-only", Takes::Nothing, "create only; `start` runs the program"),
            flag("keep-on-shim-death", Takes::Nothing, "let it outlive the shim; see adopt"),
            flag("drain", Takes::Text("SECONDS"), "wait for output after the exit (default: 10)"),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "start",
        brief: "start a created container",
        summary: "run the program of a created container",
        ..BASE
    },
    Verb {
        name: "exec",
        brief: "run a program in a container",
        usage: "CONTAINER COMMAND... | -p FILE CONTAINER",
        operands: Operands::Command,
        summary: "run another program in a running container",
        about: &["What no flag sets is taken from the process in the container's config.json. Without --detach, exec \
             stays attached and exits with the program's status; with it, exec prints the exec's id and process id."],
        flags: &[
            flag("process", Takes::File("FILE"), "path of a process.json, in place of a command").short('p'),
            flag("exec-id", Takes::Text("EXEC"), "id of the exec (default: exec-N)"),
            flag("cwd", Takes::Text("DIR"), "working directory"),
            flag("env", Takes::Text("KEY=VALUE"), "set an environment variable").many(),
            flag("user", Takes::Text("UID[:GID]"), "numeric user and group id").short('u'),
            flag("detach", Takes::Nothing, "run in the background").short('d'),
            LOG,
            TTY,
            STDIN,
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "attach",
        brief: "attach to stdio",
        summary: "attach to the stdio of a running process",
        about: &[
            "Prints what the process writes from now on, and passes input on. ctrl-p ctrl-q detaches from a terminal. \
             Exits with the process's status.",
        ],
        flags: &[EXEC, flag("no-stdin", Takes::Nothing, "do not attach standard input"), STATE_DIR, HELP],
        ..BASE
    },
    Verb {
        name: "status",
        brief: "print state and exit status",
        summary: "print the state of a container, also when its shim is dead",
        about: &["One line of JSON. The member shim_lost is true when the shim has died before it had recorded the \
             container's end."],
        ..BASE
    },
    Verb {
        name: "list",
        usage: "",
        operands: Operands::Count(0, 0),
        brief: "list shims",
        summary: "list all shims of this host, one line each",
        about: &[
            "A line of JSON for each, with mode (neutral, containerd or conmon), ids, shim_pid, version and memory_kb \
             (proportional). In the engine-neutral mode it also has what status prints.",
        ],
        ..BASE
    },
    Verb {
        name: "upgrade",
        usage: "CONTAINER | --all",
        operands: Operands::Count(0, 1),
        brief: "replace a shim's program",
        summary: "replace the program of running shims",
        about: &[
            "The shim of any mode executes the program in its own process: its id, children, sockets and streams stay. \
             The shim first has the program read its state in a child. If that fails, it refuses, gives the reason, \
             and keeps running. Prints a line for each shim, and exits with 1 if one has refused.",
        ],
        flags: &[
            flag("all", Takes::Nothing, "upgrade all shims of this host").short('a'),
            flag("binary", Takes::File("PATH"), "program to execute (default: this one)"),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "logs",
        brief: "print the log",
        summary: "print the log of a container",
        flags: &[
            flag("follow", Takes::Nothing, "follow until the container ends").short('f'),
            flag("since", Takes::Text("TIME"), "only lines since TIME (RFC 3339, or seconds ago)"),
            flag("timestamps", Takes::Nothing, "print the time of each line"),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "kill",
        brief: "send a signal",
        usage: "CONTAINER [SIGNAL]",
        operands: Operands::Count(1, 2),
        summary: "send a signal, SIGTERM if none is named",
        flags: &[EXEC, flag("all", Takes::Nothing, "send it to all processes").short('a'), STATE_DIR, HELP],
        ..BASE
    },
    Verb {
        name: "wait",
        brief: "wait until a process exits",
        summary: "wait until a process exits, and print its status",
        flags: WITH_EXEC,
        ..BASE
    },
    Verb {
        name: "delete",
        brief: "delete container or exec",
        summary: "delete a stopped container, or an exec",
        about: &[
            "Prints the exit status. Nothing stays behind, also when the shim is dead; the member shim_lost then says \
             whether the exit was seen. With --force a shim that does not answer is killed, too.",
        ],
        flags: &[EXEC, flag("force", Takes::Nothing, "kill it first").short('f'), STATE_DIR, HELP],
        ..BASE
    },
    Verb {
        name: "events",
        brief: "print events",
        summary: "print the events that were not acknowledged",
        about: &["A line of JSON each. With --follow it goes on until the shim ends."],
        flags: &[
            flag("from", Takes::Text("N"), "first event to print"),
            flag("follow", Takes::Nothing, "wait for further events").short('f'),
            flag("ack", Takes::Nothing, "acknowledge the printed events"),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "resize",
        brief: "resize the terminal",
        usage: "CONTAINER ROWS COLUMNS",
        operands: Operands::Count(3, 3),
        summary: "set the size of the terminal",
        flags: WITH_EXEC,
        ..BASE
    },
    Verb {
        name: "close-stdin",
        brief: "close standard input",
        summary: "close the standard input of a process",
        flags: WITH_EXEC,
        ..BASE
    },
    Verb {
        name: "reopen-logs",
        brief: "reopen the log files",
        summary: "reopen the log files by name, after a rotation",
        flags: WITH_EXEC,
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
        name: "checkpoint",
        brief: "checkpoint a container",
        summary: "checkpoint a running container",
        about: &["The container ends, unless --leave-running is given. `run --restore` restores it."],
        flags: &[
            flag("image-path", Takes::Dir("DIR"), "directory of the images"),
            flag("work-path", Takes::Dir("DIR"), "directory of the log (default: that of the images)"),
            flag("leave-running", Takes::Nothing, "leave the container running"),
            flag("arg", Takes::Text("ARG"), "argument for checkpoint of the runtime").many(),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "adopt",
        brief: "start a new shim",
        summary: "start a new shim for a container whose shim is dead",
        about: &[
            "Only for containers run with --keep-on-shim-death. Prints one line of JSON as run does, with the member \
             guarantees: whether the exit code will be known (Linux 6.15), that the output goes on, that \
             the input is gone.",
        ],
        ..BASE
    },
    Verb {
        name: "shutdown",
        brief: "stop the shim",
        summary: "stop the shim of a stopped container",
        about: &[
            "Its records stay until delete. The shim of a container run with --keep-on-shim-death may be stopped at any \
             time: adopt then starts a shim of the installed version.",
        ],
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_args::help;

    #[test]
    fn every_help_fits_a_screen_of_24_by_80() {
        let texts = VERBS.iter().map(|it| help::verb("windlass-shim", it));
        for text in texts.chain([help::program("windlass-shim", "", VERBS, GLOBAL)]) {
            // The prompt needs one line.
            assert!(text.lines().count() < 24, "{} lines:\n{text}", text.lines().count());
            assert!(text.lines().all(|line| line.chars().count() < help::COLUMNS), "{text}");
        }
    }
}
