//! The context of a case: a workspace, and shorthands for bundles and containers.

use super::bundle::Bundle;
use super::container::Container;
use super::ran::Ran;
use super::runtime;
use super::stop::Verdict;
use super::workspace::Workspace;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

/// The context of one case.
pub struct T(Workspace);

impl Deref for T {
    type Target = Workspace;

    fn deref(&self) -> &Workspace {
        &self.0
    }
}

impl T {
    /// A context for these programs, the runtime and the shim, with a workspace in `dir`.
    pub fn new(programs: (PathBuf, PathBuf), dir: PathBuf, long: bool) -> Verdict<T> {
        Workspace::new(programs, dir, long).map(T)
    }

    /// A new bundle.
    pub fn bundle(&self) -> Verdict<Bundle> {
        Bundle::new(self.dir.join(format!("bundle{}", self.number())))
    }

    /// `run` in the foreground.
    pub fn run(&self, bundle: &Bundle) -> Verdict<Ran> {
        self.run_with(bundle, &[])
    }

    /// `run` in the foreground with further options.
    pub fn run_with(&self, bundle: &Bundle, options: &[&str]) -> Verdict<Ran> {
        bundle.write()?;
        let mut command = self.command();
        command.arg("run").args(options).arg("--bundle").arg(&bundle.dir).arg(self.id());
        self.finish(command)
    }

    /// `run` of a shell script in the default bundle.
    pub fn run_sh(&self, script: &str) -> Verdict<Ran> {
        self.run(&self.bundle()?.sh(script))
    }

    /// Runs `create`, which may fail. The container is deleted on drop.
    pub fn try_create(&self, bundle: &Bundle, options: &[&str]) -> Verdict<(Ran, Container<'_>)> {
        bundle.write()?;
        let id = self.id();
        let mut command = self.command();
        command.arg("create").args(options).arg("--bundle").arg(&bundle.dir).arg(&id);
        self.created(id, bundle, command)
    }

    /// A container made by a command that was built by hand.
    pub fn created(&self, id: String, bundle: &Bundle, command: Command) -> Verdict<(Ran, Container<'_>)> {
        let container = Container::new(self, id, bundle.dir.clone());
        let (ran, capture) = runtime::run(command, &self.dir)?;
        Ok((ran, container.with_output(capture)))
    }

    /// `create`, which must succeed.
    pub fn create(&self, bundle: &Bundle) -> Verdict<Container<'_>> {
        self.create_with(bundle, &[])
    }

    /// `create` with options, which must succeed.
    pub fn create_with(&self, bundle: &Bundle, options: &[&str]) -> Verdict<Container<'_>> {
        let (ran, container) = self.try_create(bundle, options)?;
        ran.ok()?;
        Ok(container)
    }

    /// A running container that sleeps.
    pub fn running(&self) -> Verdict<Container<'_>> {
        self.start(&self.bundle()?.args(&["/bin/sleep", "1000"]))
    }

    /// `create` and `start`, both of which must succeed.
    pub fn start(&self, bundle: &Bundle) -> Verdict<Container<'_>> {
        let container = self.create(bundle)?;
        container.start()?;
        Ok(container)
    }
}
