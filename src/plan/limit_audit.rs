//! The limits of restored processes as the kernel has them, compared with the configuration: CRIU sets those of the
//! images, and may raise any.

use windlass_base::capability::CapabilitySet;
use windlass_base::error::Diagnostic;
use windlass_base::namespaces::Namespaces;

use crate::create::Plan;
use crate::step::Action;

/// Which limits of a process are above those that the configuration gives it. `oom`: its `oom_score_adj` and that of the
/// runtime, which processes have if the configuration does not say another. `hard`: a hard limit of it by its number,
/// where that can be read.
pub fn raised(plan: &Plan, oom: [i64; 2], hard: &dyn Fn(u32) -> Option<u64>) -> Vec<Diagnostic> {
    if may_raise(plan) {
        return Vec::new();
    }
    let [found, own] = oom;
    let least = plan.oom_score_adj.unwrap_or(own);
    let protected = (found < least).then(|| Diagnostic {
        pointer: "/process/oomScoreAdj".into(),
        msg: format!("a process of the images has oom_score_adj {found}, below {least}"),
    });
    let limits = plan.init.iter().filter_map(|step| {
        let Action::Limit(number, name, _, most) = &step.action else { return None };
        let found = hard(*number).filter(|found| found > most)?;
        let msg = format!("a process of the images has the hard limit {found} of {name}, above {most}");
        Some(Diagnostic { pointer: step.origin.to_string(), msg })
    });
    protected.into_iter().chain(limits).collect()
}

/// Whether the processes of the container may raise their own limits. The kernel asks for the capability on the host.
fn may_raise(plan: &Plan) -> bool {
    let has = plan.init.iter().any(|step| match &step.action {
        Action::Identity(identity) => identity.capabilities.bounding.contains(CapabilitySet::SYS_RESOURCE),
        _ => false,
    });
    has && !plan.topology.new.contains(Namespaces::USER)
}
