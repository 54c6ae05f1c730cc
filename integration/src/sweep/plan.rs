//! From a recording to the list of injections.

use super::errnos::Table;
use super::point::{Action, Point};
use super::tracer::Trace;
use nix::errno::Errno;

/// Which injections are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Whether calls fail.
    pub calls: bool,
    /// Whether processes are killed.
    pub kills: bool,
    /// Whether the sweep is the short one.
    pub short: bool,
}

/// The number of kills for a scenario in the short sweep.
const SAMPLE: usize = 24;

/// All injections of a recording, and how many of its calls cannot fail.
pub struct Plan {
    /// The points and the actions.
    pub injections: Vec<(Point, Action)>,
    /// The number of calls that cannot fail.
    pub infallible: usize,
}

/// Makes the list. `Err` names the calls that have no row in the table.
pub fn plan(trace: &Trace, table: &Table, extent: Extent) -> Result<Plan, String> {
    let mut plan = Plan { injections: Vec::new(), infallible: 0 };
    for call in &trace.calls {
        let errors = table.errors(&call.point.call)?;
        plan.infallible += usize::from(errors.is_empty());
        if !extent.calls {
            continue;
        }
        // Injecting the error that the call returns anyway would change nothing.
        let other = |errno: &&Errno| call.error != Some(**errno as i32);
        let errors = errors.iter().filter(other).take(if extent.short { 1 } else { usize::MAX });
        plan.injections.extend(errors.map(|errno| (call.point.clone(), Action::Fail(*errno))));
    }
    if extent.kills {
        let stride = if extent.short { trace.calls.len().div_ceil(SAMPLE).max(1) } else { 1 };
        plan.injections.extend(trace.calls.iter().step_by(stride).map(|call| (call.point.clone(), Action::Kill)));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::tracer::Call;

    fn trace(calls: &[(&str, Option<i32>)]) -> Trace {
        let call = |(call, error): &(&str, Option<i32>)| Call {
            point: format!("main/{call}#1").parse().expect("a point"),
            error: *error,
        };
        Trace { calls: calls.iter().map(call).collect(), ..Trace::default() }
    }

    fn actions(trace: &Trace, extent: Extent) -> Vec<String> {
        let table = Table::load().expect("the table");
        let plan = plan(trace, &table, extent).expect("a plan");
        plan.injections.iter().map(|(point, action)| format!("{point} {action}")).collect()
    }

    #[test]
    fn each_call_has_the_errors_of_its_row() {
        let extent = Extent { calls: true, kills: true, short: false };
        let found = actions(&trace(&[("umount2", None), ("getpid", None)]), extent);
        let all = ["umount2#1 EBUSY", "umount2#1 EPERM", "umount2#1 SIGKILL", "getpid#1 SIGKILL"];
        assert_eq!(found, all.map(|text| format!("main/{text}")));
    }

    #[test]
    fn an_error_of_its_own_is_none() {
        let extent = Extent { calls: true, kills: false, short: true };
        let found = actions(&trace(&[("umount2", Some(libc::EBUSY))]), extent);
        assert_eq!(found, ["main/umount2#1 EPERM"]);
    }

    #[test]
    fn a_call_that_another_run_does_not_make_is_no_point() {
        let call = |text: &str| Call { point: text.parse().expect("a point"), error: None };
        let run = |texts: &[&str]| Trace { calls: texts.iter().map(|text| call(text)).collect(), ..Trace::default() };
        let mut trace = run(&["main/read#1", "main/read#2", "main.1/read#1", "main/poll#1"]);
        trace.keep_common(&[run(&["main/poll#1", "main/read#2", "main/read#1"]), run(&["main/read#1", "main/poll#1"])]);
        let left: Vec<String> = trace.calls.iter().map(|call| call.point.to_string()).collect();
        assert_eq!(left, ["main/read#1", "main/poll#1"]);
    }

    #[test]
    fn a_call_without_a_row_is_named() {
        let table = Table::load().expect("the table");
        let extent = Extent { calls: true, kills: true, short: true };
        let error = plan(&trace(&[("call999", None)]), &table, extent).err();
        assert!(error.is_some_and(|error| error.contains("call999")));
    }
}
