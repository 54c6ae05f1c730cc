//! Building images: each RUN is a container of the runtime.

use crate::case::chapter;
use crate::engine::Engine;
use crate::image::NAME;
use crate::session::Session;
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};
use std::fs;

chapter! { [Docker, Podman, Buildah] "build":
    a_build_runs_its_steps_in_containers,
    a_failing_step_fails_the_build_with_its_code,
    steps_run_as_their_user_in_their_directory,
}

/// Builds `lines` after `FROM` the image of the suite.
fn build(s: &Session, tag: &str, lines: &str) -> Verdict<integration::kit::Ran> {
    let dir = s.scratch()?;
    fs::write(dir.join("Dockerfile"), format!("FROM {NAME}\n{lines}\n"))?;
    fs::write(dir.join("file"), "copied\n")?;
    let runtime = match s.engine {
        Engine::Buildah => format!("--runtime {}", s.below.runtime.display()),
        _ => String::new(),
    };
    s.run(&format!("build {runtime} --network none -t {tag} {}", dir.display()))
}

/// The output of a command in a container of the image.
fn run_in(s: &Session, tag: &str, command: &str) -> Verdict<String> {
    if s.engine != Engine::Buildah {
        return s.ok(&format!("run --rm {tag} {command}"));
    }
    let name = s.ok(&format!("from {tag}"))?;
    s.ok(&format!("run --runtime {} {name} -- {command}", s.below.runtime.display()))
}

fn a_build_runs_its_steps_in_containers(s: &Session) -> Verdict {
    let lines = "COPY file /srv/file\nRUN tr a-z A-Z < /srv/file > /srv/upper && echo from a step\nRUN cat /srv/upper > /srv/again";
    let built = build(s, "localhost/built", lines)?.ok()?;
    ensure!(format!("{}{}", built.stdout, built.stderr).contains("from a step"), "{built}");
    ensure_eq!(run_in(s, "localhost/built", "cat /srv/again")?, "COPIED", "content");
    Ok(())
}

fn a_failing_step_fails_the_build_with_its_code(s: &Session) -> Verdict {
    let built = build(s, "localhost/broken", "RUN exit 42")?.fails()?;
    ensure!(format!("{}{}", built.stdout, built.stderr).contains("42"), "the code is not told: {built}");
    Ok(())
}

fn steps_run_as_their_user_in_their_directory(s: &Session) -> Verdict {
    let lines = "USER user\nWORKDIR /tmp\nENV X=y\nRUN echo $(id -u) $(pwd) $X > /tmp/seen";
    build(s, "localhost/as-user", lines)?.ok()?;
    ensure_eq!(run_in(s, "localhost/as-user", "cat /tmp/seen")?, "1000 /tmp y", "uid, directory, variable");
    Ok(())
}
