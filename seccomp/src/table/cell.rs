//! The shape of a row of the table.

/// The number of ABIs that have numbers of their own.
pub(crate) const COLUMNS: usize = 18;

/// The entry of a call which an ABI does not have.
pub(crate) const NO: u16 = u16::MAX;
