//! Runs real containers.
fn main() {}
