//! Checks `linux.intelRdt` without looking at the resctrl filesystem.

use windlass_base::spec::Linux;

use crate::builder::PlanBuilder;

/// Refuses a class that is no name of a directory, and a schema that is not one line.
pub(crate) fn check(linux: &Linux, builder: &mut PlanBuilder) {
    let Some(rdt) = &linux.intel_rdt else { return };
    if matches!(rdt.clos_id.as_str(), "." | "..") || rdt.clos_id.contains(['/', '\n', '\0']) {
        builder.fault("/linux/intelRdt/closID", format!("invalid intelRdt.closID {:?}", rdt.clos_id));
    }
    let mut line = |pointer: String, schema: &str| {
        if schema.contains(['\n', '\0']) {
            builder.fault(pointer, format!("intelRdt schema {schema:?} is not one line"));
        }
    };
    line("/linux/intelRdt/l3CacheSchema".into(), &rdt.l3_cache_schema);
    for (index, schema) in rdt.schemata.iter().enumerate() {
        line(format!("/linux/intelRdt/schemata/{index}"), schema);
    }
    if !rdt.mem_bw_schema.is_empty() && (!rdt.mem_bw_schema.starts_with("MB:") || rdt.mem_bw_schema.contains('\n')) {
        let msg = format!("intelRdt.memBwSchema {:?} must start with \"MB:\" and be one line", rdt.mem_bw_schema);
        builder.fault("/linux/intelRdt/memBwSchema", msg);
    }
}
