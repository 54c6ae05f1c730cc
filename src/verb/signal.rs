//! `kill` and `delete`.

use windlass_apply as apply;
use windlass_base::error::Result;

use super::session::Session;

pub(super) fn kill(id: &str, signal: i32, all: bool, session: &mut Session<'_>) -> Result<()> {
    apply::kill(&session.store()?.load(id)?, signal, all)
}

pub(super) fn delete(id: &str, force: bool, session: &mut Session<'_>) -> Result<()> {
    let warnings = apply::delete(&session.store()?, id, force)?;
    session.warn(warnings)
}
