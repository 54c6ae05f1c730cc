//! Images of other versions.
//!
//! `just upgrade-formats` builds a shim of another format, and `just upgrade-images` writes images for the test data.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use windlass_client::Client;

use super::world::World;
use super::{FOREVER, RUNTIME, conmon, containerd, opened, program, until};

/// The images of all formats that were ever released, by format and name.
const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/shim/tests/images");

/// The result of a program's check of an image.
fn look(program: &Path, image: &Path) -> Output {
    let script = "exec \"$0\" @check 3 3<\"$1\"";
    Command::new("sh").args(["-c", script]).arg(program).arg(image).output().expect("a shell")
}

#[test]
fn images_of_every_format_can_be_read() {
    let mut seen = 0;
    for format in fs::read_dir(IMAGES).expect("the images").flatten() {
        for image in fs::read_dir(format.path()).expect("a format").flatten().map(|entry| entry.path()) {
            let own = Path::new(env!("CARGO_BIN_EXE_windlass-shim"));
            let found = look(own, &image);
            let said = String::from_utf8_lossy(&found.stdout).into_owned();
            assert!(found.status.success() && said.starts_with("can go on with "), "{image:?}: {found:?}");
            let mut cut = fs::read(&image).expect("read");
            cut.pop();
            let path = std::env::temp_dir().join(format!("windlass-cut-{}", std::process::id()));
            fs::write(&path, cut).expect("written");
            assert!(!look(own, &path).status.success(), "{image:?} without its last byte");
            fs::remove_file(path).expect("removed");
            seen += 1;
        }
    }
    assert!(seen >= 3, "one of each mode");
}

/// The image that a shim shows to a new program; here the program never answers.
pub fn image_of(pid: i32, mut client: Client) -> Vec<u8> {
    let asked = std::thread::spawn(move || client.upgrade(opened(Path::new("/usr/bin/yes")).as_fd()));
    let mut image = None;
    until(|| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let looks = |child: &&str| {
            fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|words| words.ends_with(b"@check\x003\0"))
        };
        let child = children.split_whitespace().find(looks);
        image = child.and_then(|child| fs::read(format!("/proc/{child}/fd/3")).ok());
        image.is_some()
    });
    assert!(asked.join().expect("no panic").is_err());
    image.expect("it was awaited")
}

#[test]
fn images_of_all_modes_are_what_the_test_data_has() {
    let world = World::new("images", FOREVER);
    // An image names the runtime, and the test data must not name the path of a checkout.
    let runtime = world.path("runtime");
    std::os::unix::fs::symlink(RUNTIME, &runtime).expect("linked");
    let log = format!("json:{}", world.path("log").display());
    world.run_with(runtime.to_str().expect("text"), &["--stdin", "--log", &log]);
    let mut attached = world.client();
    attached.attach(None).expect("attached");
    world.client().call("exec", world.exec("e", FOREVER)).expect("started");
    let neutral = image_of(world.shim_pid(), world.client());
    let images = [("neutral", neutral), ("conmon", conmon::image()), ("containerd", containerd::image())];
    let directory = std::env::var_os("WINDLASS_IMAGES").map(PathBuf::from);
    for (name, image) in images {
        let format = u32::from_le_bytes(image[8..12].try_into().expect("four bytes"));
        let checkout = env!("CARGO_MANIFEST_DIR").as_bytes();
        assert!(!image.windows(checkout.len()).any(|part| part == checkout), "{name} names the checkout");
        let there = Path::new(IMAGES).join(format.to_string()).join(name);
        if let Some(directory) = &directory {
            let directory = directory.join(format.to_string());
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join(name), &image).expect("written");
        }
        assert!(there.exists(), "there is no image of format {format}: see `just upgrade-images`");
    }
}

/// Upgrades a container's shim to a program. Returns the printed line, or the reason of the refusal.
fn upgrade(world: &World, id: &str, to: &Path) -> Result<Value, String> {
    let output = world.output(&["upgrade", id, "--binary", to.to_str().expect("text")]);
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("JSON")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn formats_that_differ_go_over_forward_and_back_and_what_is_essential_is_refused() {
    let Some(next) = std::env::var_os("WINDLASS_SHIM_NEXT").map(PathBuf::from) else {
        return eprintln!("skipped: `just upgrade-formats` has the other program");
    };
    let own = PathBuf::from(env!("CARGO_BIN_EXE_windlass-shim"));
    let world = World::new("formats", FOREVER);
    let (bundle, root) = (world.path("bundle"), world.path("root"));
    for (id, essential) in [("plain", false), ("essential", true)] {
        let words = ["run", "--id", id, "--runtime", RUNTIME, "--bundle", bundle.to_str().expect("text")];
        let made = world.line(&[&words[..], &["--root", root.to_str().expect("text")]].concat());
        let pid = made["shim_pid"].as_i64().expect("a number") as i32;
        let forward = upgrade(&world, id, &next).expect("forward");
        assert_eq!((&forward["format"], &forward["upgrades"]), (&json!(2), &json!(1)));
        assert_eq!(program(pid), next);
        match upgrade(&world, id, &own) {
            Ok(back) if !essential => {
                // A field that only one of the formats has is lost in the other.
                assert_eq!((&back["format"], &back["upgrades"]), (&json!(1), &json!(1)));
                assert_eq!(program(pid), own);
            }
            Err(said) if essential => {
                assert!(said.contains("field 15 of Supervisor is unknown to this version"), "{said}");
                assert!(said.contains("an image of format 2"), "{said}");
                assert_eq!(program(pid), next);
            }
            other => panic!("{id}: {other:?}"),
        }
        assert_eq!(world.line(&["status", id])["state"], json!("running"));
        std::thread::sleep(Duration::from_millis(10));
        world.line(&["delete", "--force", id]);
    }
}
