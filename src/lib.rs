//! windlass: an OCI container runtime.
