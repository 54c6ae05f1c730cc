//! The seccomp filter: compiles the profile of a configuration to a program.

use windlass_base::error::Diagnostic;
use windlass_base::spec::Linux;
use windlass_seccomp::Profile;

use crate::builder::PlanBuilder;
use crate::step::Seccomp;

/// The filter of `linux.seccomp`, if it filters anything.
pub(crate) fn seccomp(linux: &Linux, builder: &mut PlanBuilder) -> Option<Seccomp> {
    let text = linux.seccomp.as_ref()?.get().as_bytes();
    let mended;
    let (profile, misspelt) = match windlass_base::spec::borrow::<Profile<'_>>(text) {
        Some(read) => read,
        None => {
            mended = mend_seccomp(text, builder)?;
            windlass_base::spec::borrow::<Profile<'_>>(&mended)?
        }
    };
    builder.warnings.extend(misspelt.into_iter().map(below_seccomp));
    if profile.is_empty() {
        return None;
    }
    match windlass_seccomp::compile(&profile, windlass_seccomp::Arch::native()) {
        Ok(filter) => {
            for problem in &filter.warnings {
                builder.warn(format!("{SECCOMP}{}", problem.pointer), problem.message.clone());
            }
            Some(Seccomp {
                filter: std::rc::Rc::new(filter),
                listener_path: profile.listener_path.to_string(),
                listener_metadata: profile.listener_metadata.to_string(),
            })
        }
        Err(problems) => {
            for problem in problems {
                builder.fault(format!("{SECCOMP}{}", problem.pointer), problem.message);
            }
            None
        }
    }
}

const SECCOMP: &str = "/linux/seccomp";

fn below_seccomp(fault: Diagnostic) -> Diagnostic {
    Diagnostic { pointer: format!("{SECCOMP}{}", fault.pointer), ..fault }
}

/// The text of a profile without the elements that cannot be read; each of these is a fault.
fn mend_seccomp(text: &[u8], builder: &mut PlanBuilder) -> Option<Vec<u8>> {
    let what = "the seccomp profile";
    match windlass_base::spec::mend(text, what, &|text| windlass_base::spec::fault_of::<Profile<'_>>(text, what)) {
        Ok(mended) => {
            builder.warnings.extend(mended.warnings.into_iter().map(below_seccomp));
            builder.faults.extend(mended.faults.into_iter().map(below_seccomp));
            Some(mended.text)
        }
        Err(error) => {
            builder.faults.extend(error.into_faults().into_iter().map(below_seccomp));
            None
        }
    }
}
