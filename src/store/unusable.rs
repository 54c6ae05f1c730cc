//! The reasons for which a container of the state root cannot be used.

use windlass_base::error::{Error, Kind};

use super::record::Unreadable;
use super::state::VERSION;

/// The reason why a container cannot be used. [`Store::load_to_remove`](super::Store::load_to_remove) goes on with a
/// damaged one.
pub enum Unusable {
    /// Its state is damaged.
    Damaged(Error),
    /// Any other reason.
    Other(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Unusable {
        Unusable::Other(error)
    }
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Error {
        match unusable {
            Unusable::Damaged(error) | Unusable::Other(error) => error,
        }
    }
}

impl Unusable {
    /// Converts the reason for which the state of `id` cannot be read.
    pub fn new(id: &str, unreadable: Unreadable) -> Unusable {
        match unreadable {
            Unreadable::Damaged(why) => {
                let msg = format!("the state of {id:?} is damaged: {why}");
                Unusable::Damaged(
                    Error::new(Kind::State, msg).with_hint("`delete --force` clears what is left of it away"),
                )
            }
            Unreadable::Version(version) => {
                let msg = format!(
                    "the state of {id:?} has version {version}, and this windlass knows versions up to {VERSION}"
                );
                Unusable::Other(
                    Error::new(Kind::State, msg).with_hint("use the windlass that made the container, or a newer one"),
                )
            }
        }
    }
}
