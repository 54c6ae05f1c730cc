//! `doctor` reports what this host and this user can do with containers, and how to get what is missing.
//!
//! [`collect()`] collects facts. [`judge()`] is a pure function from facts to findings, so its tests need no special
//! hosts.

mod collect;
mod facts;
mod judge;

pub(crate) use collect::collect;
pub(crate) use facts::Facts;
pub(crate) use judge::{Finding, Level, judge};

use serde_json::{Value, json};

/// Whether a container as `spec` writes it can run here.
pub(crate) fn can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Missing)
}

/// The findings as text.
pub(crate) fn text(facts: &Facts, findings: &[Finding]) -> String {
    let mut out = format!("Linux {}, user {} ({})\n\n", facts.kernel.release, facts.user.name, facts.user.uid);
    for finding in findings {
        out.push_str(&format!("{:<8} {:<16} {}\n", finding.level.word(), finding.name, finding.says));
        if let Some(remedy) = &finding.remedy {
            out.push_str(&format!("{:26}{remedy}\n", ""));
        }
    }
    let template = if facts.user.rootless { "`windlass spec --rootless`" } else { "`windlass spec`" };
    let verdict = if can_run(findings) { "can run" } else { "cannot run" };
    out.push_str(&format!("\na container as {template} describes it {verdict} here\n"));
    out
}

/// The findings as JSON.
pub(crate) fn document(facts: &Facts, findings: &[Finding]) -> Value {
    json!({
        "ok": can_run(findings),
        "kernel": facts.kernel.release,
        "user": { "name": facts.user.name, "uid": facts.user.uid, "rootless": facts.user.rootless },
        "findings": findings,
    })
}
