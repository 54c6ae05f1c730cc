//! Capability sets: converts the names of a configuration to bits.

use windlass_base::capability::CapabilitySet;
use windlass_base::spec::Capabilities;

use crate::builder::PlanBuilder;
use crate::step::ProcessCapabilities;

/// Converts names to bits. Warns of unknown names, and of capabilities that this host cannot grant: the specification
/// asks for warnings and not for a failure.
pub(crate) fn capabilities(
    sets: &Capabilities,
    grantable: CapabilitySet,
    pointer: &str,
    builder: &mut PlanBuilder,
) -> ProcessCapabilities {
    let mut unknown: Vec<String> = Vec::new();
    let mut missing = CapabilitySet::empty();
    let mut bits = |names: &Option<Vec<String>>, field: &str| {
        let mut out = CapabilitySet::empty();
        for (index, name) in names.iter().flatten().enumerate() {
            match name.parse::<caps::Capability>() {
                Ok(capability) => {
                    let one = CapabilitySet::from_bits_retain(capability.bitmask());
                    missing |= one & !grantable;
                    out |= one & grantable;
                }
                Err(_) if unknown.contains(name) => {}
                Err(_) => {
                    unknown.push(name.clone());
                    builder.warn(format!("{pointer}/{field}/{index}"), format!("ignoring unknown capability {name:?}"));
                }
            }
        }
        out
    };
    let out = ProcessCapabilities {
        bounding: bits(&sets.bounding, "bounding"),
        effective: bits(&sets.effective, "effective"),
        permitted: bits(&sets.permitted, "permitted"),
        inheritable: bits(&sets.inheritable, "inheritable"),
        ambient: bits(&sets.ambient, "ambient"),
    };
    let lists = [
        ("bounding", &sets.bounding),
        ("effective", &sets.effective),
        ("permitted", &sets.permitted),
        ("inheritable", &sets.inheritable),
        ("ambient", &sets.ambient),
    ];
    // The pointer of a capability in the first list that names it.
    let place = |lists: &[(&str, &Option<Vec<String>>)], capability: caps::Capability| {
        let at = lists.iter().find_map(|(field, names)| {
            let index = names.iter().flatten().position(|name| name.parse().ok() == Some(capability))?;
            Some(format!("{pointer}/{field}/{index}"))
        });
        at.unwrap_or_else(|| pointer.to_owned())
    };
    for capability in named(missing) {
        builder.warn(place(&lists, capability), format!("ignoring capability {capability}: this host cannot grant it"));
    }
    for capability in named(out.effective & !out.permitted) {
        let msg = format!("the effective capabilities must be permitted as well, and {capability} is not");
        builder.fault(place(&lists[1..2], capability), msg);
    }
    for capability in named(out.ambient & !(out.permitted & out.inheritable)) {
        let msg = format!("can't raise ambient capability {capability}: it must be permitted and inheritable as well");
        builder.warn(place(&lists[4..], capability), msg);
    }
    out
}

/// The capabilities of a set. The table of all capabilities is made only for a set that has any.
fn named(set: CapabilitySet) -> impl Iterator<Item = caps::Capability> {
    let all = (!set.is_empty()).then(caps::all);
    all.into_iter().flatten().filter(move |capability| set.bits() & capability.bitmask() != 0)
}
