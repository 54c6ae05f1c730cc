//! Makes the exchange at its lookups, and checks the files that the runtime has opened.

use super::exchange::{Exchange, Form};
use crate::kit::canary::Canary;
use crate::kit::follow::{Lookup, Watcher, opens};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The watcher of one run.
pub struct Watch<'a> {
    /// The exchange, if there is one.
    pub exchange: Option<Exchange>,
    /// When it is in place.
    pub form: Form,
    /// Files that must not be opened.
    pub canary: &'a Canary,
    /// The host's files that the container must not have as its directory, root, program or descriptor.
    pub host: &'a [(u64, u64)],
    /// All lookups.
    pub lookups: Vec<Lookup>,
    /// The violations.
    pub wrong: Vec<String>,
}

impl Watch<'_> {
    fn at(&self, lookup: &Lookup) -> bool {
        matches!(self.form, Form::From(p, i) | Form::During(p, i) if (p, i) == (lookup.process, lookup.index))
    }

    /// Looks whether the target of a link in `/proc` is part of the canary, or the host's.
    fn look(&mut self, link: &str, of_the_container: bool, when: &str) {
        let Ok(meta) = fs::metadata(link) else {
            return;
        };
        let id = (meta.dev(), meta.ino());
        let is_of_the_host = of_the_container && self.host.contains(&id);
        if self.canary.has(id) || is_of_the_host {
            let target = fs::read_link(link).unwrap_or_default();
            self.wrong.push(format!("{link} is {} {when}", target.display()));
        }
    }
}

impl Watcher for Watch<'_> {
    fn before(&mut self, lookup: &Lookup) {
        let here = self.at(lookup);
        match (&mut self.exchange, self.form) {
            (Some(exchange), Form::Flip(_)) => exchange.flip(),
            (Some(exchange), _) if here => exchange.there(),
            _ => {}
        }
        self.lookups.push(lookup.clone());
    }

    fn after(&mut self, pid: Pid, lookup: &Lookup, value: i64) {
        if self.at(lookup)
            && matches!(self.form, Form::During(..))
            && let Some(exchange) = &mut self.exchange
        {
            exchange.back();
        }
        let after = format!("after {lookup:?}");
        if value >= 0 && opens(lookup.call) {
            self.look(&format!("/proc/{pid}/fd/{value}"), false, &after);
        }
        if lookup.call == libc::SYS_chdir {
            self.look(&format!("/proc/{pid}/cwd"), false, &after);
        }
    }

    fn executed(&mut self, pid: Pid) {
        for name in ["cwd", "root", "exe"] {
            self.look(&format!("/proc/{pid}/{name}"), true, "in what was executed");
        }
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            self.look(&entry.path().display().to_string(), true, "in what was executed");
        }
    }
}
