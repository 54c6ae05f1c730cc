//! The engine of `examples/` is killed and called again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::RUNTIME;
use super::world::World;

/// Cargo builds examples with the tests, unless it is told which test to build.
fn engine() -> PathBuf {
    let tests = std::env::current_exe().expect("this test");
    let path = tests.parent().and_then(|deps| deps.parent()).expect("a directory").join("examples/engine");
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo).args(["build", "--quiet", "--example", "engine"]).status();
        assert!(built.is_ok_and(|status| status.success()), "the example is built");
    }
    path
}

#[test]
fn the_example_engine_goes_on_where_it_was_killed() {
    let world = World::new(
        "example",
        "echo first\nwhile [ ! -e \"$(dirname \"$0\")/go\" ]; do sleep 0.02; done\necho last\nexit 7\n",
    );
    let root = world.path("root");
    let shim = world.script(
        "shim",
        &format!(
            "#!/bin/sh\nverb=$1; shift\n[ $verb != run ] || set -- --runtime {RUNTIME} --root {} \"$@\"\nexec {} $verb \"$@\"\n",
            root.display(),
            env!("CARGO_BIN_EXE_windlass-shim"),
        ),
    );
    assert!(Command::new("chmod").args(["755", &shim]).status().is_ok_and(|status| status.success()));
    let (state, bundle) = (world.state(), world.path("bundle"));
    let command = || {
        let mut command = Command::new(engine());
        command.arg(&state).arg("c").arg(&bundle).env("WINDLASS_SHIM", &shim).stdin(Stdio::null());
        command
    };
    let mut first = command().stdout(Stdio::piped()).spawn().expect("the engine");
    let mut line = String::new();
    BufReader::new(first.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "first\n");
    first.kill().expect("killed");
    first.wait().expect("waited");

    fs::write(world.path("go"), "").expect("written");
    let second = command().output().expect("the engine");
    assert_eq!(String::from_utf8_lossy(&second.stdout), "first\nlast\n", "{second:?}");
    assert_eq!(second.status.code(), Some(7));
    assert!(!world.state().join("c").exists(), "nothing stays");
}
