//! What this host and this user can do with containers, and what to do about the rest.
//!
//! [`look()`] collects facts, [`judge()`] makes findings of them: it looks at nothing, so that its tests
//! can take one thing after the other away from a host that has all.

mod facts;
mod judge;
mod look;

pub use facts::{Bus, Cgroups, Facts, Helper, Kernel, Labels, User, UserNamespaces};
pub use judge::{Finding, Level, judge};
pub use look::look;

use serde_json::{Value, json};

/// Whether a container as `spec` writes it can run here.
pub fn can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Missing)
}

/// The page, for people.
pub fn text(facts: &Facts, findings: &[Finding]) -> String {
    let mut out = format!("Linux {}, user {} ({})\n\n", facts.kernel.release, facts.user.name, facts.user.uid);
    for finding in findings {
        out.push_str(&format!("{:<8} {:<16} {}\n", finding.level.word(), finding.name, finding.says));
        if let Some(remedy) = &finding.remedy {
            out.push_str(&format!("{:26}{remedy}\n", ""));
        }
    }
    let whose = if facts.user.rootless { "`windlass spec --rootless`" } else { "`windlass spec`" };
    let verdict = if can_run(findings) { "can run" } else { "cannot run" };
    out.push_str(&format!("\na container as {whose} describes it {verdict} here\n"));
    out
}

/// The same, for programs.
pub fn document(facts: &Facts, findings: &[Finding]) -> Value {
    json!({
        "ok": can_run(findings),
        "kernel": facts.kernel.release,
        "user": { "name": facts.user.name, "uid": facts.user.uid, "rootless": facts.user.rootless },
        "findings": findings,
    })
}
