//! `kill` and `delete`.

use crate::container;
use crate::error::Result;

use super::Session;

pub(super) fn kill(id: &str, signal: i32, all: bool, session: &mut Session<'_>) -> Result<()> {
    container::kill(&session.store()?.load(id)?, signal, all)
}

pub(super) fn delete(id: &str, force: bool, session: &mut Session<'_>) -> Result<()> {
    let warnings = container::delete(&session.store()?, id, force)?;
    session.warn(warnings)
}
