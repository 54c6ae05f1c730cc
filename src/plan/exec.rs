//! The plan of `exec`: the same steps as create's, after joining what the container has.

use crate::abi::bits_of_list;
use crate::cli::Exec;
use crate::error::{Error, Fault, Origin, Result};
use crate::spec::{Process, Spec};

use super::{Action, Draft, Options, Program, Step, topology};

/// What `exec` will do.
#[derive(Debug)]
pub struct ExecPlan {
    /// The process to run.
    pub process: Process,
    /// Namespaces (`CLONE_NEW*`) to join.
    pub namespaces: u64,
    /// Whether the runtime may join these by itself; otherwise only a process that is in the user
    /// namespace may join the others.
    pub direct: bool,
    /// CPU affinity of the runtime while it works (`execCPUAffinity.initial`).
    pub initial_affinity: Vec<u64>,
    /// What the new process does, in order.
    pub steps: Vec<Step>,
    /// What was asked for and will not be done.
    pub warnings: Vec<Fault>,
}

impl ExecPlan {
    /// The program to run.
    pub fn program(&self) -> Program {
        Program::new(self.process.args.clone(), self.process.env.clone())
    }
}

/// Plans `exec` in a container made from `spec`. `process` is the text of `--process`.
pub fn exec(id: &str, spec: &Spec, request: &Exec, process: Option<&[u8]>, options: &Options) -> Result<ExecPlan> {
    // Where an element stands: in the document of `--process`, or in config.json.
    let mut draft = Draft::default();
    let (process, at) = match process {
        Some(text) => {
            let read = crate::spec::read(text, "the process file")?;
            if !read.faults.is_empty() {
                return Err(Error::faults(read.faults));
            }
            draft.warnings = read.warnings;
            (read.value, "")
        }
        None => (described(spec, request)?, "/process"),
    };
    let empty = crate::spec::Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let topology = topology::topology(linux, &options.host, &mut draft);
    let namespaces = topology.joined.iter().fold(topology.new, |all, join| all | join.kind);
    if !options.no_new_keyring {
        draft.always("the session keyring of the container", Action::SessionKeyring(format!("_ses.{id}")));
    }
    if process.terminal {
        draft.config(format!("{at}/terminal"), Action::Console { size: process.console_size.clone(), device: false });
    }
    // A memory policy, personality or profile of the container is its exec'd processes' as well.
    super::process::limits(&process, linux, at, &mut draft);
    let mut initial_affinity = Vec::new();
    if let Some(affinity) = &process.exec_cpu_affinity {
        match (bits_of_list(&affinity.initial), bits_of_list(&affinity.last)) {
            (Some(initial), Some(last)) => {
                initial_affinity = initial;
                if !last.is_empty() {
                    draft.config(format!("{at}/execCPUAffinity/final"), Action::Affinity(last));
                }
            }
            (initial, _) => {
                let (name, list) =
                    if initial.is_none() { ("initial", &affinity.initial) } else { ("final", &affinity.last) };
                draft.fault(format!("{at}/execCPUAffinity/{name}"), format!("invalid CPU list {list:?}"));
            }
        }
    }
    let seccomp = super::process::seccomp_of(linux, &mut draft);
    super::process::credentials(&process, &process.user, seccomp, &topology, options, at, false, &mut draft);
    for step in &mut draft.steps {
        if let Origin::Config(pointer) = &step.origin
            && let Some(asked) = asked(pointer, request)
        {
            step.origin = Origin::Flag(asked.into());
        }
    }
    let direct = options.host.administers();
    draft.done(|draft| ExecPlan {
        process,
        namespaces,
        direct,
        initial_affinity,
        steps: draft.steps,
        warnings: draft.warnings,
    })
}

/// What of the command line asks for an element of the process, where it is not config.json.
fn asked(pointer: &str, request: &Exec) -> Option<String> {
    if request.process.is_some() {
        return (!pointer.starts_with("/linux/")).then(|| format!("--process {pointer}"));
    }
    let flags = [
        ("args", "COMMAND", true),
        ("cwd", "--cwd", request.cwd.is_some()),
        ("user", "--user", request.user.is_some()),
        ("capabilities", "--cap", !request.caps.is_empty()),
        ("apparmorProfile", "--apparmor", request.apparmor.is_some()),
        ("selinuxLabel", "--process-label", request.process_label.is_some()),
        ("noNewPrivileges", "--no-new-privs", request.no_new_privs.is_some()),
        ("terminal", "--tty", true),
    ];
    let element = pointer.strip_prefix("/process/")?.split('/').next();
    flags.iter().find(|(name, _, given)| *given && element == Some(name)).map(|(_, flag, _)| (*flag).into())
}

/// The container's own process with what the flags change.
fn described(spec: &Spec, request: &Exec) -> Result<Process> {
    let mut process = spec.process.clone().unwrap_or_default();
    if request.args.is_empty() {
        return Err(Error::usage("process args cannot be empty"));
    }
    process.args = request.args.clone();
    process.terminal = request.tty;
    process.env.extend(request.env.iter().cloned());
    if let Some(cwd) = &request.cwd {
        process.cwd = cwd.clone();
    } else if spec.process.is_none() {
        process.cwd = "/".into();
    }
    if let Some(user) = &request.user {
        process.user.uid = user.uid;
        if let Some(gid) = user.gid {
            process.user.gid = gid;
        }
    }
    process.user.additional_gids.extend(&request.additional_gids);
    if let Some(label) = &request.process_label {
        process.selinux_label = label.clone();
    }
    if let Some(profile) = &request.apparmor {
        process.apparmor_profile = profile.clone();
    }
    if let Some(set) = request.no_new_privs {
        process.no_new_privileges = set;
    }
    if !request.caps.is_empty() {
        let sets = process.capabilities.get_or_insert_default();
        let inheritable = sets.inheritable.as_ref().is_some_and(|set| !set.is_empty());
        let mut lists = vec![&mut sets.bounding, &mut sets.effective, &mut sets.permitted];
        if inheritable {
            // Never a first inheritable capability: CVE-2022-29162.
            lists.push(&mut sets.ambient);
        }
        for list in lists {
            let list = list.get_or_insert_default();
            for name in &request.caps {
                if !list.contains(name) {
                    list.push(name.clone());
                }
            }
        }
    }
    Ok(process)
}
