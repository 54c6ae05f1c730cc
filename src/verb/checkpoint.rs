//! `checkpoint`, and the images of `restore`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli;
use windlass_apply::{
    self as apply, CheckpointError, CheckpointObstacle, CheckpointRequest, Directories, Loss, RestoreRequest,
};
use windlass_args::print;
use windlass_base::error::{Diagnostic, Error, Kind, Result, printable};
use windlass_criu::program;
use windlass_plan::{self as plan, Options, RootPath};
use windlass_store::Container;
use windlass_sys::fd;

use super::bundle::absolute;
use super::planning;
use super::session::Session;

/// Dumps a container, or checks it. The exit code is 1 if `--check` has found a reason for which a dump or its restore
/// would fail.
pub(super) fn checkpoint(options: &cli::Checkpoint, session: &mut Session<'_>) -> Result<u8> {
    let mut container = session.store()?.load(&options.id)?;
    let plan = plan_of(&container)?;
    if options.check {
        let findings = apply::check(&container, &plan, &options.flags, &|| old_criu(session))?;
        print(&listed(&findings))?;
        return Ok(u8::from(findings.iter().any(|finding| finding.loss != Loss::Part)));
    }
    if plan.has_seccomp_agent() {
        return Err(Error::config(
            "/linux/seccomp",
            "a container with a seccomp agent (SCMP_ACT_NOTIFY) cannot be dumped",
        ));
    }
    let work = options.work.as_deref().map(absolute).transpose()?;
    let directories = Directories::make(&absolute(&options.images)?, work.as_deref())?;
    if let Some(parent) = &options.flags.parent {
        directories.check_parent(parent)?;
    }
    let criu = Criu::find(session)?;
    let status = session.passed.status.map(fd::duplicate).transpose().map_err(Error::from)?;
    let config_file = config_file(container.annotations()?);
    let request = CheckpointRequest {
        flags: &options.flags,
        plan: &plan,
        directories: &directories,
        program: &criu.program,
        path: &criu.path,
        config_file: &config_file,
        status,
        debug: session.debug,
    };
    match apply::checkpoint(&mut container, request) {
        Ok(warnings) => session.warn(warnings).map(|()| 0),
        Err(CheckpointError { error, in_dump }) => {
            // The findings name the process and the descriptor that CRIU failed at.
            if in_dump {
                // The check may take long, and other commands wait for the container.
                container.unlock();
                let findings = apply::check(&container, &plan, &options.flags, &|| false).unwrap_or_default();
                let causes = findings.into_iter().filter(|finding| finding.loss == Loss::Dump);
                session.warnings.extend(causes.map(remark));
            }
            Err(error)
        }
    }
}

fn remark(finding: CheckpointObstacle) -> Diagnostic {
    Diagnostic { pointer: finding.pointer, msg: format!("{}: {}", finding.what, finding.help) }
}

fn listed(findings: &[CheckpointObstacle]) -> String {
    if findings.is_empty() {
        return "nothing was found that a dump would not take\n".into();
    }
    let mut out = String::new();
    for finding in findings {
        let word = match finding.loss {
            Loss::Dump => "fails",
            Loss::Restore => "restore fails",
            Loss::Part => "lost",
        };
        let at = if finding.pointer.is_empty() { String::new() } else { format!(" ({})", finding.pointer) };
        let _ = writeln!(out, "{word:<14} {}{at}; {}", printable(&finding.what), finding.help);
    }
    out
}

/// Whether the CRIU that would be used is older than 4.2. Returns false without CRIU.
fn old_criu(session: &Session<'_>) -> bool {
    let version = Criu::find(session).and_then(|criu| apply::criu_version(&criu.program, &criu.path));
    version.is_ok_and(|number| number < 40_200)
}

/// CRIU, and the PATH that it gets.
pub(super) struct Criu {
    pub program: PathBuf,
    pub path: OsString,
}

impl Criu {
    pub(super) fn find(session: &Session<'_>) -> Result<Criu> {
        let host = planning::host()?;
        if host.rootless() {
            let msg = "checkpointing requires root";
            return Err(Error::new(Kind::PermissionDenied, msg)
                .with_hint("criu needs CAP_SYS_ADMIN and CAP_SYS_PTRACE in the first user namespace"));
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| plan::DEFAULT_PATH.into());
        Ok(Criu { program: program::find(session.global.criu.as_deref(), Some(&path))?, path })
    }
}

/// The images of `restore` and the CRIU that restores them.
pub(super) struct ImageFiles<'a> {
    options: &'a cli::RestoreOptions,
    directories: Directories,
    criu: Criu,
}

impl<'a> ImageFiles<'a> {
    pub(super) fn open(options: &'a cli::RestoreOptions, session: &Session<'_>) -> Result<ImageFiles<'a>> {
        let criu = Criu::find(session)?;
        let work = options.work.as_deref().map(absolute).transpose()?;
        Ok(ImageFiles {
            options,
            directories: Directories::open(&absolute(&options.directory)?, work.as_deref())?,
            criu,
        })
    }

    /// Whether only init is made, and `start` restores the processes.
    pub(super) fn hold(&self) -> bool {
        self.options.hold
    }

    /// `root` is the state root.
    pub(super) fn request<'r>(&'r self, root: &'r Path, config_file: &'r str) -> RestoreRequest<'r> {
        RestoreRequest {
            flags: &self.options.flags,
            directories: &self.directories,
            program: &self.criu.program,
            path: &self.criu.path,
            config_file,
            root,
            trusted: self.options.trusted,
            page_server: self.options.page_server.as_ref(),
        }
    }
}

/// The plan by which the container was made.
fn plan_of(container: &Container) -> Result<plan::Plan> {
    let host = planning::host()?;
    let root_on_host = RootPath::new(&container.state.rootfs).filter(|path| !path.is_root());
    plan::create(&container.state.id, &container.config()?, &Options { root_on_host, host, ..Options::default() })
}

/// Files with options of CRIU; the first that exists counts. The last is runc's, which callers write to.
const CONFIG_FILES: [&str; 2] = ["/etc/criu/windlass.conf", "/etc/criu/runc.conf"];

/// The annotation that names another file of CRIU's options, or none if it is empty.
const CONFIG_ANNOTATION: &str = "org.criu.config";

/// The file of CRIU's options for a container with these annotations.
pub(super) fn config_file(annotations: &BTreeMap<String, String>) -> String {
    let usual = || CONFIG_FILES.into_iter().find(|path| std::fs::metadata(path).is_ok()).unwrap_or_default();
    annotations.get(CONFIG_ANNOTATION).map_or_else(usual, String::as_str).to_owned()
}
