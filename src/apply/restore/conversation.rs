//! The conversation with the CRIU that restores a container, and what the runtime does at each step of it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use windlass_base::error::{Diagnostic, Error, Kind, Result, WithContext};
use windlass_base::namespaces::Namespaces;
use windlass_cgroup::{Cgroup, is_of_cgroup2, options_of_cgroup2, sets_options};
use windlass_criu::flags::Flags;
use windlass_criu::message::{CgroupRoot, InheritFd, JoinNamespace, Options, Pair, Request, Step, Type};
use windlass_criu::session::{Next, Outcome, Session, number};
use windlass_plan::restore::{Claims, RESTRICTING, contradictions};
use windlass_plan::{Action, Plan};
use windlass_sys::netlink;
use windlass_sys::process::{self, Child, Forked, SingleThreaded};
use windlass_sys::{fd, socket};

use super::audit;
use super::child::{self, CriuLaunch, LogDirectory};
use super::files::Paths;
use super::lazy_pages::LazyPages;
use super::shared::Parameters;
use super::stage::{CGROUPS, Stage};
use super::{cgroups, chain, claims, files, mounts, pages};
use crate::action::sysctl_path;
use crate::checkpoint::{Directories, EXTERNAL_NET, EXTERNAL_PID, Log, failure};
use crate::context::Barrier;
use crate::create::NewContainer;
use crate::init;
use crate::launch::Launch;
use crate::namespaces::JoinedNamespaces;
use crate::netdevice;
use crate::relay::TERMINAL;
use crate::timing::StepTimer;

/// The parameters of `restore` besides those of `create`.
pub struct RestoreRequest<'a> {
    /// The flags for CRIU.
    pub flags: &'a Flags,
    /// The directories of the images and of the log.
    pub directories: &'a Directories,
    /// Path of CRIU.
    pub program: &'a Path,
    /// The PATH that CRIU gets.
    pub path: &'a OsStr,
    /// A file with options of CRIU, which override `flags`.
    pub config_file: &'a str,
    /// The path of the state root.
    pub root: &'a Path,
    /// Whether the images are restored without being compared with the configuration.
    pub trusted: bool,
    /// Where memory that is fetched later comes from; without it, from the images.
    pub page_server: Option<&'a (String, u16)>,
}

/// The name of the log of a restore.
const LOG: &str = "restore.log";

/// Most bytes of the list of mounts.
const LIST: usize = 1 << 20;

/// A restore in progress.
pub(crate) struct Restoring<'r, 'i> {
    pub images: &'r RestoreRequest<'i>,
    /// Copies of the mounts of the images, made by [`copies`].
    ///
    /// [`copies`]: super::seen_images::copies
    pub copies: Vec<OwnedFd>,
    /// The images as CRIU gets them; `None` without a user namespace.
    pub seen: Option<OwnedFd>,
    pub plan: &'r Plan,
    pub streams: [String; 3],
    /// The files that CRIU gets as its standard streams, by device and inode.
    pub passed: BTreeSet<(u64, u64)>,
    pub joins: Vec<Option<OwnedFd>>,
    /// Paths of the images that are looked at once the mounts are ready.
    pub paths: Paths,
    /// The parameters of joined namespaces, while CRIU may write them.
    pub parameters: Option<Parameters>,
    /// The stage, once the process that becomes CRIU has sent it.
    pub stage: Option<Stage>,
    /// The log's directory in CRIU's mount namespace, if CRIU manages cgroups.
    pub log: Option<OwnedFd>,
    pub progress: Progress,
    /// Whether CRIU has left the container's cgroup, or is about to.
    pub criu_is_outside: bool,
    /// Fetches the memory that is left for later.
    pub pages: Option<LazyPages>,
    pub timer: StepTimer,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Progress {
    /// CRIU has started.
    #[default]
    Begun,
    /// Init exists, in its namespaces.
    InitCreated,
    /// Init exists, and CRIU waits for `start`.
    Held,
    /// All processes exist, and init is recorded.
    Restored,
}

impl Restoring<'_, '_> {
    /// The namespaces that CRIU gets as descriptors, with their names in the images.
    fn passed(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        self.plan.topology.joined.iter().zip(&self.joins).filter_map(|(join, file)| {
            let name = match join.kind {
                Namespaces::NET => EXTERNAL_NET,
                Namespaces::PID => EXTERNAL_PID,
                _ => return None,
            };
            Some((name, file.as_ref()?.as_fd()))
        })
    }

    /// Starts the process that becomes CRIU, in the container's cgroup.
    pub(crate) fn start<'a>(
        &self,
        creation: NewContainer<'a>,
        theirs: OwnedFd,
        debug: bool,
        proof: &'a SingleThreaded,
    ) -> Result<Launch<NewContainer<'a>>> {
        let RestoreRequest { program, path, root, flags, directories, .. } = *self.images;
        let plan = self.plan;
        let procs = creation.cgroup.open_procs()?;
        let log =
            child::identity(directories.work.as_fd()).with_context(|| "cannot look at the directory of the log")?;
        let passed = self.passed().map(|(_, file)| fd::duplicate(file));
        let passed = passed.collect::<Result<Vec<_>, _>>().with_context(|| "cannot pass namespaces to CRIU")?;
        Launch::spawn(creation, debug, false, |creation, sync, watch| {
            let group = creation.cgroup.unified().map(Cgroup::dir_fd);
            if let Forked::Parent(child) =
                process::fork(CloneFlags::empty(), group, proof).with_context(|| "cannot clone the process for CRIU")?
            {
                return Ok(child);
            }
            if let Err(error) = procs.join() {
                init::fail(&sync, &error);
            }
            let (cgroup, bundle) = (creation.cgroup_path(), creation.request.bundle);
            let kept: Vec<_> = std::iter::once(&theirs).chain(&passed).chain(&self.copies).map(AsFd::as_fd).collect();
            let mut cx = creation.context(sync, watch, Barrier::Runtime, Vec::new(), &kept);
            let work = CriuLaunch {
                plan,
                bundle,
                program,
                path,
                images: &self.copies,
                socket: &theirs,
                log: LogDirectory { path: &directories.work_path, identity: log },
                place: root,
                cgroup: cgroup.as_deref(),
                in_cgroup_namespace: !flags.manages_cgroups(),
                passed: &passed,
                streams_apart: flags.shell_job,
            };
            let failed = child::become_criu(&work, &mut cx).err();
            init::fail(&cx.sync, &failed.unwrap_or_else(|| Error::new(Kind::Protocol, "CRIU was not executed")))
        })
    }

    /// Has CRIU make the processes, and does the runtime's part at each of its notifications.
    pub(crate) fn converse(
        &mut self,
        session: &mut Session,
        launch: &mut Launch<NewContainer<'_>>,
    ) -> Result<Progress> {
        let (stage, directories) = receive_stage(session.as_fd())?;
        let mut directories = directories.into_iter();
        self.seen = if self.copies.is_empty() { None } else { directories.next() };
        self.log = directories.next();
        if session.version()?.is_none() {
            let error = failure(&Outcome::Died, "VERSION", &self.log(), "");
            return Err(error.with_hint("it may be too old for this kernel: `criu check` says so"));
        }
        self.timer.done("start CRIU");
        self.paths = self.judge(&stage, launch.handler())?;
        self.timer.done("compare the images with the configuration");
        if self.images.flags.lazy_pages {
            let RestoreRequest { program, path, directories, page_server, .. } = *self.images;
            let pages = LazyPages::start(program, path, directories, page_server)?;
            if let Some(process) = pages.process().with_context(|| "cannot keep the process that fetches memory")? {
                session.needs(process);
            }
            self.pages = Some(pages);
            self.timer.done("start the process that fetches memory");
        }
        let message = self.message(&stage, launch.handler());
        self.stage = Some(stage);
        let outcome = session.perform(&message, &mut |step, fd| {
            self.timer.done(&format!("wait for CRIU up to {}", step.name));
            self.step(step, fd, launch)
        })?;
        self.finish(&outcome, launch)
    }

    /// Continues a restore that was held.
    pub(crate) fn resume(&mut self, session: &mut Session, launch: &mut Launch<NewContainer<'_>>) -> Result<Progress> {
        self.progress = Progress::InitCreated;
        self.parameters = Some(Parameters::read(&self.plan.topology, &self.joins)?);
        let outcome = session.resume(Type::Restore, &mut |step, fd| self.step(step, fd, launch))?;
        self.finish(&outcome, launch)
    }

    fn finish(&mut self, outcome: &Outcome, launch: &Launch<NewContainer<'_>>) -> Result<Progress> {
        self.timer.done("wait for CRIU");
        match outcome {
            // The memory is fetched later, and the process for it waits as well.
            Outcome::Held => return Ok(self.progress),
            Outcome::Done if self.progress == Progress::Restored => self.audit_and_thaw(launch.handler())?,
            Outcome::Done => {
                return Err(Error::new(Kind::Protocol, "CRIU reports success and has not restored init"));
            }
            Outcome::HelperDied => return Err(LazyPages::failure(self.images.directories)),
            failed => return Err(failure(failed, "RESTORE", &self.log(), "")),
        }
        if let Some(pages) = self.pages.take() {
            pages.leave(self.images.directories);
        }
        Ok(self.progress)
    }

    fn log(&self) -> Log<'_> {
        let Directories { work, work_path, .. } = self.images.directories;
        Log { work: work.as_fd(), work_path, name: LOG }
    }

    /// Refuses images that contradict the configuration, before anything is restored. Returns the paths that are to be
    /// looked at once the mounts are ready.
    fn judge(&self, stage: &Stage, handler: &NewContainer<'_>) -> Result<Paths> {
        if self.images.trusted {
            return Ok(Paths::default());
        }
        let (images, flags) = (self.images.directories.images.as_fd(), self.images.flags);
        let topology = &self.plan.topology;
        let chain = chain::open(images)?;
        let claims = claims::read(images)?;
        let paths = files::check(images, self.plan, &claims, &self.streams)?;
        let tasks = claims.threads.iter().map(|thread| thread.tid).collect();
        chain.iter().try_for_each(|dir| pages::check(dir.as_fd(), &tasks, flags.lazy_pages))?;
        if flags.manages_cgroups() {
            cgroups::check(images, &handler.cgroup_below_root().unwrap_or_default(), topology)?;
        }
        let there = |path: &str| std::fs::symlink_metadata(path).is_ok();
        let mut faults = contradictions(self.plan, handler.request.spec, &claims, &there);
        if (!topology.new.contains(Namespaces::CGROUP) || flags.manages_cgroups()) && sets_options() {
            faults.extend(sets_other_options(&claims, &options_of_cgroup2()?));
        }
        for mount in &claims.mounts {
            let Some(name) = &mount.external else { continue };
            let msg = match stage.sources.iter().find(|source| source.name == *name) {
                None => {
                    format!("the images have {} from outside, and the configuration has no such mount", mount.point)
                }
                Some(source) if !((source.flags - mount.flags) & RESTRICTING).is_empty() => {
                    format!("the mount {} of the images lacks flags of the configuration", mount.point)
                }
                Some(_) => continue,
            };
            faults.push(Diagnostic { pointer: "/mounts".into(), msg });
        }
        match faults.is_empty() {
            true => Ok(paths),
            false => Err(Error::faults(faults)
                .prefixed("the images contradict config.json")
                .with_hint("restore with the configuration of the dump; --trust-images restores them as they are")),
        }
    }

    fn message(&self, stage: &Stage, handler: &NewContainer<'_>) -> Request {
        let mut inherit_fd: Vec<InheritFd> = Vec::new();
        let first = if self.images.flags.shell_job { 4 + self.passed().count() as i32 } else { 0 };
        let streams = (first..).zip(&self.streams).map(|(at, key)| (key.clone(), at));
        let passed = (4..).zip(self.passed()).map(|(at, (name, _))| (name.to_string(), at));
        for (key, at) in streams.chain(passed).filter(|(key, _)| !key.is_empty()) {
            // CRIU accepts each key once.
            if !inherit_fd.iter().any(|known| known.key == key) {
                inherit_fd.push(InheritFd { key, fd: Some(at) });
            }
        }
        let topology = &self.plan.topology;
        let by_criu = Namespaces::IPC | Namespaces::UTS | Namespaces::TIME;
        let join_namespaces = topology
            .joined
            .iter()
            .filter(|join| by_criu.contains(join.kind))
            .map(|join| JoinNamespace { kind: join.kind.proc_name().into(), path: join.path.clone() });
        let images = self.seen.as_ref().unwrap_or(&self.images.directories.images);
        let flags = self.images.flags;
        let cgroup_roots = handler.cgroup_below_root().filter(|_| flags.manages_cgroups());
        let options = Options {
            images_dir_fd: Some(number(images.as_fd())),
            work_dir_fd: Some(number(self.log.as_ref().unwrap_or(&self.images.directories.work).as_fd())),
            log_file: LOG.into(),
            root: stage.root.clone(),
            rst_sibling: Some(true),
            evasive_devices: Some(true),
            external_mounts: stage
                .sources
                .iter()
                .map(|it| Pair { key: it.name.clone(), value: it.source.clone() })
                .collect(),
            inherit_fd,
            join_namespaces: join_namespaces.collect(),
            empty_namespaces: (!topology.joins(Namespaces::NET)).then_some(libc::CLONE_NEWNET),
            cgroup_roots: cgroup_roots
                .map(|path| CgroupRoot { controllers: String::new(), path })
                .into_iter()
                .collect(),
            config_file: self.images.config_file.into(),
            cgroup_mode: Some(flags.cgroup_mode_of_restore() as i32),
            ..flags.options()
        };
        Request { kind: Some(Type::Restore as i32), options: Some(options), ..Request::default() }
    }

    fn step(&mut self, step: &Step, fd: Option<OwnedFd>, launch: &mut Launch<NewContainer<'_>>) -> Result<Next> {
        match step.name.as_str() {
            "setup-namespaces" if self.progress == Progress::Begun => {
                let pid = step.pid.unwrap_or(0);
                let child =
                    Child { pid, pidfd: process::open_pid(pid).with_context(|| "cannot hold the restored init")? };
                // Everything that follows is done to this process.
                if !child.is_ours() {
                    return Err(Error::new(
                        Kind::Protocol,
                        format!("CRIU names process {pid}, which is not our child"),
                    ));
                }
                self.check_joins(pid, Namespaces::NET | Namespaces::PID)?;
                self.prepare(&child, launch)?;
                self.progress = Progress::InitCreated;
                launch.adopt(child)?;
                if launch.handler().request.purpose.waits_for_start() {
                    self.progress = Progress::Held;
                    launch.adopted_is_ready()?;
                    return Ok(Next::Hold);
                }
                self.parameters = Some(Parameters::read(&self.plan.topology, &self.joins)?);
                return Ok(self.move_criu(launch));
            }
            "post-setup-namespaces" if self.progress == Progress::InitCreated => {
                self.parameters.take().map_or(Ok(()), Parameters::write_back)?;
                files::stay_below(&self.paths, launch.child().pidfd.as_fd())?;
                return Ok(self.move_criu(launch));
            }
            "orphan-pts-master" => {
                let fd = fd.ok_or_else(|| Error::new(Kind::Protocol, "CRIU has sent no terminal"))?;
                let Some(socket) = launch.handler_mut().request.caller.console_socket.take() else {
                    let why = "the images have a terminal, and config.json has none";
                    return Err(Error::config("/process/terminal", why));
                };
                socket::send(socket.as_fd(), TERMINAL, &[fd.as_fd()]).with_context(|| "cannot send the terminal")?;
            }
            "post-restore" if self.progress == Progress::InitCreated => {
                self.progress = Progress::Restored;
                if launch.handler().request.caller.console_socket.is_some() {
                    let why = "config.json has a terminal, and the images have none";
                    return Err(Error::config("/process/terminal", why));
                }
                if !launch.handler().request.purpose.waits_for_start() {
                    launch.adopted_is_ready()?;
                }
            }
            "pre-resume" => {
                mounts::restrict(launch.child(), self.plan)?;
                self.check_mounts_and_hold(launch)?;
                if launch.handler().request.purpose.waits_for_start() {
                    begins_to_run(launch.handler())?;
                }
            }
            "setup-namespaces" | "post-restore" => {
                return Err(Error::new(Kind::Protocol, format!("CRIU reports {} out of its order", step.name)));
            }
            _ => {}
        }
        Ok(Next::GoOn)
    }

    /// Moves CRIU out of the container's cgroup while it goes on, unless that is done.
    fn move_criu(&mut self, launch: &Launch<NewContainer<'_>>) -> Next {
        if self.images.trusted || self.criu_is_outside || launch.handler().cgroup.unified().is_none() {
            return Next::GoOn;
        }
        self.criu_is_outside = true;
        Next::GoOnWith(audit::move_criu(launch.predecessor_pid()))
    }

    /// Refuses an init outside of namespaces of these kinds that the configuration names: CRIU makes new ones if the
    /// images do not say that theirs are from outside.
    fn check_joins(&self, init: i32, kinds: Namespaces) -> Result<()> {
        let context = || "cannot look at the namespaces of the restored init";
        let joins = self.plan.topology.joined.iter().zip(&self.joins).filter(|(join, _)| kinds.contains(join.kind));
        for (join, file) in joins.filter(|_| !self.images.trusted) {
            let Some(wanted) = file else { continue };
            let found = fd::open(format!("/proc/{init}/ns/{}", join.kind.proc_name()), OFlag::O_PATH);
            let found = found.and_then(|found| child::identity(found.as_fd())).with_context(context)?;
            if found != child::identity(wanted.as_fd()).with_context(context)? {
                return Err(Error::config(join.pointer.clone(), "the images have another namespace"));
            }
        }
        Ok(())
    }

    fn check_mounts_and_hold(&self, launch: &Launch<NewContainer<'_>>) -> Result<()> {
        let Some(stage) = self.stage.as_ref().filter(|_| !self.images.trusted) else { return Ok(()) };
        let init = launch.child();
        self.check_joins(init.pid, Namespaces::NET | Namespaces::PID | Namespaces::IPC | Namespaces::UTS)?;
        // CRIU goes on whatever we answer, so the processes must not run before the mounts are known.
        if let Some(cgroup) = launch.handler().cgroup.unified() {
            audit::hold(cgroup, init.pid)?;
        }
        mounts::check(init, self.plan, stage, &self.passed, launch.handler().cgroup_below_root())
    }

    /// Compares the processes with the configuration, and lets them run.
    fn audit_and_thaw(&mut self, handler: &NewContainer<'_>) -> Result<()> {
        let Some(cgroup) = handler.cgroup.unified().filter(|_| !self.images.trusted) else { return Ok(()) };
        audit::audit(cgroup, self.plan, &self.images.flags.lsm_profile)?;
        cgroup.thaw()?;
        self.timer.done("look at the restored processes");
        Ok(())
    }

    /// Sets up the network of init and runs the runtime's hooks. Init is in its namespaces, and nothing is restored
    /// yet.
    fn prepare(&self, child: &Child, launch: &Launch<NewContainer<'_>>) -> Result<()> {
        if self.plan.topology.new.contains(Namespaces::NET) {
            let _visit = JoinedNamespaces::visit(child.pidfd.as_fd(), Namespaces::NET)?;
            netlink::loopback_up().with_context(|| "cannot bring the loopback interface up")?;
            self.plan.init.iter().try_for_each(|step| match &step.action {
                Action::Sysctl(key, value) => {
                    net_sysctl(key, value).map_err(|error| error.with_origin(step.origin.clone()))
                }
                _ => Ok(()),
            })?;
        }
        netdevice::move_all(&self.plan.net_devices, child.pid)?;
        launch.handler().runtime_hooks(child.pid)
    }
}

/// A mount of cgroup2 whose options would be set for the whole host.
fn sets_other_options(claims: &Claims, options: &[String]) -> Option<Diagnostic> {
    let differs = |options_of: &str| !options_of.split(',').filter(|it| is_of_cgroup2(it)).eq(options);
    let made = claims.mounts.iter().filter(|mount| mount.kind == CGROUPS && mount.external.is_none());
    let found = made.into_iter().find(|mount| differs(&mount.options))?;
    let msg = format!("the images have the options {:?} for the cgroup2 of the whole host", found.options);
    Some(Diagnostic { pointer: "/mounts".into(), msg })
}

/// Sets a kernel parameter of the current network namespace. The images have the parameters of the other namespaces.
fn net_sysctl(key: &str, value: &str) -> Result<()> {
    let path = sysctl_path(key);
    if !path.starts_with("net/") {
        return Ok(());
    }
    fd::openat(fd::CWD, format!("/proc/sys/{path}"), OFlag::O_WRONLY, 0)
        .and_then(|file| fd::write_once(file.as_fd(), value.as_bytes()))
        .with_context(|| format!("cannot set sysctl {key:?} to {value:?}"))
}

/// Removes the start socket, because the processes are about to run. While it is there, the status is `created`.
fn begins_to_run(creation: &NewContainer<'_>) -> Result<()> {
    match fd::unlinkat(creation.root(), creation.start_socket()) {
        Err(failed) if failed.errno != Errno::ENOENT => Err(failed.context("cannot remove the start socket")),
        _ => Ok(()),
    }
}

/// Receives the stage from the process that becomes CRIU, and the directories that it has opened: the images' and the
/// log's, each only if it is needed.
fn receive_stage(socket: BorrowedFd<'_>) -> Result<(Stage, Vec<OwnedFd>)> {
    let mut text = vec![0; LIST];
    let (n, directories) =
        socket::receive_all(socket, &mut text).with_context(|| "cannot receive from the process for CRIU")?;
    serde_json::from_slice(&text[..n])
        .map(|stage| (stage, directories))
        .map_err(|_| Error::new(Kind::Protocol, "the process for CRIU ended before it was ready"))
}
