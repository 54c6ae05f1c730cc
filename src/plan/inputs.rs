//! The inputs of planning `create`.

use windlass_base::spec::{Linux, Spec};

use crate::options::Options;
use crate::topology::Topology;

/// The configuration and what is known about the host; `linux` is the section of `spec`, or an empty one.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub spec: &'a Spec,
    pub linux: &'a Linux,
    pub topology: &'a Topology,
    pub options: &'a Options,
}
