//! The engines: how each is started, given its image, and cleaned after a case.

mod buildah;
mod containerd;
#[cfg(feature = "cri")]
mod cri;
mod docker;
mod kind;
mod podman;
mod prepare;

#[cfg(feature = "cri")]
pub use containerd::version as containerd_version;
pub use containerd::{SOCKET as CONTAINERD_SOCKET, start_daemon as start_containerd};
#[cfg(feature = "cri")]
pub use cri::{restart as restart_cri, shim_tables, tables as cri_tables, tables_without_limits};
pub use docker::{SOCKET as DOCKER_SOCKET, configuration as docker_configuration, post, start_with as start_dockerd};
pub use kind::Engine;
pub use podman::configuration as podman_configuration;
pub use prepare::bind_over;

use crate::session::{Below, Session};
use integration::kit::Verdict;
#[cfg(not(feature = "cri"))]
use integration::kit::stop::skip;
use std::path::Path;

/// Starts `engine` with a session in `dir`, which is made, and loads the image of the suite.
pub fn open(engine: Engine, below: Below, dir: &Path) -> Verdict<Session> {
    let mut session = Session::new(engine, below, dir)?;
    session.client = start(&session)?;
    load(&session)?;
    Ok(session)
}

/// Starts the engine, and returns the command line of its client.
fn start(session: &Session) -> Verdict<Vec<String>> {
    match session.engine {
        Engine::Docker => docker::start(session),
        Engine::Containerd => containerd::start(session),
        #[cfg(feature = "cri")]
        Engine::Cri => cri::start(session),
        #[cfg(not(feature = "cri"))]
        Engine::Cri => skip("built without the feature `cri`"),
        Engine::Podman => podman::start(session),
        Engine::Buildah => buildah::start(session),
    }
}

/// Gives the engine the image of the suite.
pub fn load(session: &Session) -> Verdict {
    match session.engine {
        Engine::Docker => docker::load(session),
        Engine::Containerd => containerd::load(session),
        #[cfg(feature = "cri")]
        Engine::Cri => cri::load(session),
        #[cfg(not(feature = "cri"))]
        Engine::Cri => skip("built without the feature `cri`"),
        Engine::Podman => podman::load(session),
        Engine::Buildah => buildah::load(session),
    }
}

/// Removes the remains of a case.
pub fn clean(session: &Session) -> Verdict {
    match session.engine {
        Engine::Docker => docker::clean(session),
        Engine::Containerd => containerd::clean(session),
        #[cfg(feature = "cri")]
        Engine::Cri => cri::clean(session),
        #[cfg(not(feature = "cri"))]
        Engine::Cri => skip("built without the feature `cri`"),
        Engine::Podman => podman::clean(session),
        Engine::Buildah => buildah::clean(session),
    }
}
