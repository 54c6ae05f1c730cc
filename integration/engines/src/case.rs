//! A case: a sentence about what a user sees, and the code that checks it.

use crate::engine::Engine;
use crate::session::Session;
use integration::kit::{Need, Verdict};

/// A case as its chapter lists it.
#[derive(Clone, Copy)]
pub struct Case {
    /// The engines that it is for.
    pub engines: &'static [Engine],
    /// The chapter, a row of the table in the README.
    pub chapter: &'static str,
    /// The sentence.
    pub name: &'static str,
    /// The case's needs from the machine. `Slow` stands for minutes: such a case runs with `--long`.
    pub needs: &'static [Need],
    /// Runs it.
    pub run: fn(&Session) -> Verdict,
}

impl Case {
    /// `engine::chapter::sentence`.
    pub fn full_name(&self, engine: Engine) -> String {
        format!("{}::{}::{}", engine.name(), self.chapter, self.name)
    }
}

/// Defines the cases of a chapter: its engines, its name, and functions `fn(&Session) -> Verdict`, each followed by its
/// needs.
macro_rules! chapter {
    ($engines:tt $chapter:literal: $($case:ident $([$($need:expr),*])?),* $(,)?) => {
        /// The cases of this chapter.
        pub const CASES: &[$crate::case::Case] = &[$(
            $crate::case::Case {
                engines: {
                    use $crate::engine::Engine::*;
                    &$engines
                },
                chapter: $chapter,
                name: stringify!($case),
                needs: &[$($($need),*)?],
                run: $case,
            }
        ),*];
    };
}

pub(crate) use chapter;
