//! The command line of `windlass-shim` as data: the verbs of its engine-neutral mode.
//!
//! The other two protocols have command lines of their own, which are their callers'.

use windlass_args::{Flag, HELP, ID, ONE, Operands, Takes, Verb, flag};

/// The page of the program, and what its help shows.
pub const SUMMARY: &str = "stay with a container, keep its stdio, report its exit";

/// Paragraphs for the man page of the program.
pub const ABOUT: &[&str] = &[
    "windlass-shim becomes the parent of a container when the runtime has left. It keeps the container's \
     standard input, output and error open, writes its log, and records how it ended before it tells anybody. \
     The engine may die and come back at any time.",
    "It speaks three protocols. Called containerd-shim-NAME-v2 it is a shim for containerd; called conmon, or as \
     windlass-shim conmon, it takes the cursor of conmon; otherwise its verbs are the engine-neutral mode, which \
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

const STATE_DIR: Flag = flag("state-dir", Takes::Dir("DIR"), "where containers are kept");
const EXEC: Flag = flag("exec", Takes::Text("EXEC"), "this exec, not the container's first process").short('e');
const LOG: Flag = flag("log", Takes::Text("LOG"), "FORMAT:PATH[,max=SIZE][,files=N]").many();
const TTY: Flag = flag("tty", Takes::Nothing, "with a terminal").short('t');
const STDIN: Flag = flag("stdin", Takes::Nothing, "with an input that stays open").short('i');

const BASE: Verb =
    Verb { name: "", usage: ID, operands: ONE, brief: "", summary: "", about: &[], flags: COMMON, hidden: false };

/// Flags of all verbs.
pub const COMMON: &[Flag] = &[STATE_DIR, HELP];

const WITH_EXEC: &[Flag] = &[EXEC, STATE_DIR, HELP];

/// The files of a container's directory.
pub const FILES: &[(&str, &str)] = &[
    ("shim.json", "how it was made; written before it was"),
    ("shim.lock", "locked (flock(2)) for as long as the shim lives"),
    ("shim.sock", "the socket of the protocol, for root and the shim's own user"),
    ("exit.json", "how it ended"),
    ("events.log", "the numbered events"),
    ("log", "its log, unless --log names another place"),
    ("shim.err", "what a shim that failed had to say"),
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
        brief: "make and start a container",
        summary: "make a container with a shim, and start it",
        about: &[
            "Prints one line of JSON when the container runs, and leaves it to its shim: id, pid, shim_pid, socket \
             and state, or the member error with code and message; then nothing of it remains.",
            "A log is FORMAT:PATH. The format is k8s (the lines of the CRI), json (docker's objects), raw (the bytes), \
             journald, or none. Behind the path, max=SIZE (with k, m or g) begins a new file at that size and files=N \
             keeps the last N. Without --log it is k8s in the container's directory, where a log has max=8m,files=1 unless told otherwise.",
        ],
        flags: &[
            flag("id", Takes::Text("CONTAINER"), "the container's id"),
            flag("bundle", Takes::Dir("DIR"), "the bundle; default: the working directory").short('b'),
            flag("runtime", Takes::Text("PATH"), "the runtime; default: windlass, else runc"),
            flag("runtime-arg", Takes::Text("ARG"), "an argument before its verb").many(),
            flag("root", Takes::Dir("DIR"), "the runtime's --root"),
            flag("create-arg", Takes::Text("ARG"), "an argument behind its create or restore").many(),
            flag("restore", Takes::Dir("DIR"), "make it from the images of checkpoint"),
            LOG,
            TTY,
            STDIN,
            flag("create-only", Takes::Nothing, "leave its program waiting for start"),
            flag("keep-on-shim-death", Takes::Nothing, "let it outlive its shim; see adopt"),
            flag("drain", Takes::Text("SECONDS"), "wait so long for output after its end; default 10"),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb { name: "start", brief: "start a created one", summary: "run the program of a created container", ..BASE },
    Verb {
        name: "exec",
        brief: "run another program in it",
        usage: "CONTAINER COMMAND... | -p FILE CONTAINER",
        operands: Operands::Command,
        summary: "run another program in a container",
        about: &["What no flag says is taken from the process in the container's config.json. Without --detach, exec \
             stays attached and exits with the program's status; with it, it prints the exec's id and process id."],
        flags: &[
            flag("process", Takes::File("FILE"), "the process as JSON, in place of a command").short('p'),
            flag("exec-id", Takes::Text("EXEC"), "its id; default: a number"),
            flag("cwd", Takes::Text("DIR"), "its working directory"),
            flag("env", Takes::Text("KEY=VALUE"), "set an environment variable").many(),
            flag("user", Takes::Text("UID[:GID]"), "run as these numeric ids").short('u'),
            flag("detach", Takes::Nothing, "do not wait for it").short('d'),
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
        brief: "connect to its stdio",
        summary: "connect to the stdio of a running process",
        about: &[
            "Gives what the process writes from now on, and passes input on. ctrl-p ctrl-q leaves a terminal. Exits \
             with the process's status.",
        ],
        flags: &[EXEC, flag("no-stdin", Takes::Nothing, "do not pass input on"), STATE_DIR, HELP],
        ..BASE
    },
    Verb {
        name: "status",
        brief: "state and exit",
        summary: "print the state of a container, of a dead shim's too",
        about: &["One line of JSON. The member shim_lost is true when the shim has died before it had recorded the \
             container's end."],
        ..BASE
    },
    Verb {
        name: "list",
        usage: "",
        operands: Operands::Count(0, 0),
        brief: "all shims",
        summary: "print all shims of this host, a line each",
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
        brief: "replace the shim's program",
        summary: "have shims go on as another program",
        about: &[
            "The shim of any mode executes the program in its own process: its id, children, sockets and streams stay. \
             Before that the program must show that it can read what the shim keeps; otherwise the shim refuses, \
             says why, and serves on. Prints a line for each, and exits with 1 if one has refused.",
        ],
        flags: &[
            flag("all", Takes::Nothing, "all shims of this host").short('a'),
            flag("binary", Takes::File("PATH"), "the program; default: this one"),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "logs",
        brief: "what it has written",
        summary: "print a container's log",
        flags: &[
            flag("follow", Takes::Nothing, "go on until it ends").short('f'),
            flag("since", Takes::Text("TIME"), "not what is older: RFC 3339, or seconds ago"),
            flag("timestamps", Takes::Nothing, "with the time of each line"),
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
        flags: &[EXEC, flag("all", Takes::Nothing, "to all processes").short('a'), STATE_DIR, HELP],
        ..BASE
    },
    Verb {
        name: "wait",
        brief: "wait for its end",
        summary: "wait until a process has ended, and print how",
        flags: WITH_EXEC,
        ..BASE
    },
    Verb {
        name: "delete",
        brief: "remove it",
        summary: "remove a container that has ended, or an exec",
        about: &[
            "Prints how it had ended. Of a dead shim's container nothing stays behind; the member shim_lost then says \
             whether its end was seen. With --force a shim that does not answer is ended, too.",
        ],
        flags: &[EXEC, flag("force", Takes::Nothing, "kill it first").short('f'), STATE_DIR, HELP],
        ..BASE
    },
    Verb {
        name: "events",
        brief: "what has happened",
        summary: "print the events that were not acknowledged",
        about: &["A line of JSON each. With --follow it goes on until the shim ends."],
        flags: &[
            flag("from", Takes::Text("N"), "from this number on"),
            flag("follow", Takes::Nothing, "go on").short('f'),
            flag("ack", Takes::Nothing, "acknowledge what was printed"),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "resize",
        brief: "size of the terminal",
        usage: "CONTAINER ROWS COLUMNS",
        operands: Operands::Count(3, 3),
        summary: "set the size of a terminal",
        flags: WITH_EXEC,
        ..BASE
    },
    Verb {
        name: "close-stdin",
        brief: "end its input",
        summary: "let a process read the end of its input",
        flags: WITH_EXEC,
        ..BASE
    },
    Verb {
        name: "reopen-logs",
        brief: "open the logs anew",
        summary: "open the log files anew, by their names",
        flags: WITH_EXEC,
        ..BASE
    },
    Verb { name: "pause", brief: "freeze it", summary: "freeze all processes of a container", ..BASE },
    Verb { name: "resume", brief: "thaw it", summary: "let a paused container go on", ..BASE },
    Verb {
        name: "checkpoint",
        brief: "write it to disk",
        summary: "write the processes of a container to disk",
        about: &["The container ends, unless --leave-running is given. `run --restore` makes one from the images."],
        flags: &[
            flag("image-path", Takes::Dir("DIR"), "the directory of the images"),
            flag("work-path", Takes::Dir("DIR"), "the directory of the log; default: that of the images"),
            flag("leave-running", Takes::Nothing, "let the container go on"),
            flag("arg", Takes::Text("ARG"), "an argument behind the runtime's checkpoint").many(),
            STATE_DIR,
            HELP,
        ],
        ..BASE
    },
    Verb {
        name: "adopt",
        brief: "give it a new shim",
        summary: "give a container that has lost its shim a new one",
        about: &[
            "Only for containers made with --keep-on-shim-death. Prints one line of JSON as run does, with the member \
             guarantees: whether the exit code will be known (Linux 6.15), that the output goes on without a gap, that \
             the input is gone.",
        ],
        ..BASE
    },
    Verb {
        name: "shutdown",
        brief: "end the shim",
        summary: "end the shim of a container that has ended",
        about: &[
            "Its records stay until delete. The shim of a container made with --keep-on-shim-death may be ended at any \
             time: adopt then begins one of the installed version.",
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
            // One line is left for the prompt.
            assert!(text.lines().count() < 24, "{} lines:\n{text}", text.lines().count());
            assert!(text.lines().all(|line| line.chars().count() < help::COLUMNS), "{text}");
        }
    }
}
