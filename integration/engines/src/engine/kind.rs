//! The engines of the suite.

/// An engine under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// dockerd and its client.
    Docker,
    /// containerd, by `ctr`.
    Containerd,
    /// containerd's CRI plugin, by a client of the suite.
    Cri,
    /// podman.
    Podman,
    /// buildah.
    Buildah,
}

impl Engine {
    /// All of them, in the order in which they run.
    pub const ALL: [Engine; 5] = [Engine::Docker, Engine::Containerd, Engine::Cri, Engine::Podman, Engine::Buildah];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Containerd => "containerd",
            Engine::Cri => "cri",
            Engine::Podman => "podman",
            Engine::Buildah => "buildah",
        }
    }

    /// The engine of this name.
    pub fn named(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// The programs of which it consists.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Engine::Docker => &["dockerd", "containerd"],
            Engine::Containerd | Engine::Cri => &["containerd"],
            Engine::Podman => &["podman", "conmon"],
            Engine::Buildah => &["buildah"],
        }
    }

    /// Whether another shim can be put below the engine: buildah calls the runtime itself.
    pub fn has_shim(self) -> bool {
        self != Engine::Buildah
    }
}
