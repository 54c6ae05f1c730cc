//! The scripts of a release, of `just test` and of the picture of the README, as far as they need no root and no build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A directory that is removed after the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn copy(&self, name: &str) -> &Dir {
        let to = self.0.join(name);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), to).expect("a copy");
        self
    }

    /// A shell script under this name.
    fn script(&self, name: &str, text: &str) -> &Dir {
        let to = self.0.join(name);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
        fs::write(to, format!("#!/bin/sh\n{text}\n")).expect("written");
        assert!(self.run("chmod", &["755", name]).status.success());
        self
    }

    /// Runs a program where the scripts in this directory stand for others.
    fn run_with_scripts(&self, program: &str, words: &[&str]) -> Output {
        let path = format!("PATH={}:{}", self.0.display(), std::env::var("PATH").unwrap_or_default());
        self.run("env", &[&[&path, program], words].concat())
    }

    fn run(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.0).env("GIT_CONFIG_GLOBAL", "/dev/null").env_remove("CARGO_TARGET_DIR");
        command.output().expect(program)
    }

    /// Links to these programs of the host in `bin`, and the setting of a PATH with nothing else.
    fn only(&self, programs: &[&str]) -> String {
        let bin = self.0.join("bin");
        fs::create_dir_all(&bin).expect("a directory");
        let path = std::env::var_os("PATH").expect("PATH");
        for program in programs {
            let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.exists());
            std::os::unix::fs::symlink(found.expect(program), bin.join(program)).expect("a link");
        }
        format!("PATH={}", bin.display())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn no_release_is_made_with_placeholders_or_of_what_is_not_committed() {
    let dir = Dir::new("release");
    dir.copy("contrib/release.sh");
    let settings = dir.0.join("contrib/release.conf");
    fs::write(&settings, "maintainer=\"N <n@example.invalid>\"\n").expect("written");
    let refused = dir.run("contrib/release.sh", &[]);
    assert!(!refused.status.success() && said(&refused).contains("placeholders"), "{}", said(&refused));

    fs::write(&settings, "maintainer=\"N <n@example.org>\"\n").expect("written");
    assert!(dir.run("git", &["init", "--quiet"]).status.success());
    let refused = dir.run("contrib/release.sh", &[]);
    assert!(!refused.status.success() && said(&refused).contains("has changes"), "{}", said(&refused));
    assert!(!dir.0.join("target").exists(), "nothing was begun");
}

/// Runs a recipe by `just.sh` where only these scripts and the shell's own programs are in PATH.
fn brought(name: &str, apt: &str) -> String {
    let dir = Dir::new(name);
    dir.copy("contrib/just.sh");
    let programs = [
        ("id", "echo 0"),
        ("apt-cache", ":"),
        ("apt-get", apt),
        ("cargo", "exit 1"),
        ("cc", ":"),
        ("rustc", "echo host: none"),
        ("python3", "exit 1"),
    ];
    for (program, text) in programs {
        dir.script(&format!("bin/{program}"), text);
    }
    let path = dir.only(&["sh", "dirname", "sed", "grep", "tail"]);
    said(&dir.run("env", &["-i", &path, &format!("CARGO_HOME={}", dir.0.display()), "contrib/just.sh", "demo"]))
}

#[test]
fn what_apt_says_is_passed_on_where_it_cannot_install() {
    let refused = brought("just-refused", "echo 'W: slow' >&2; echo \"E: no $1 today\" >&2; exit 100");
    assert!(refused.contains("just.sh: apt cannot install just: E: no update today"), "{refused}");
    let unknown = brought("just-unknown", "[ $1 = update ] || { echo 'E: Unable to locate package' >&2; exit 100; }");
    assert!(unknown.contains("just.sh: apt cannot install just: E: Unable to locate package"), "{unknown}");
    assert!(unknown.contains("building just from crates.io"), "the next way is tried: {unknown}");
}

/// Makes a release where nothing is built: the programs that it calls do nothing, but lintian ends with this code, and
/// Git answers with this script.
fn released(name: &str, lintian: u8, git: &str) -> (bool, String, bool) {
    let dir = Dir::new(name);
    dir.copy("contrib/release.sh").copy("Cargo.toml");
    for document in ["README.md", "CHANGELOG.md", "LICENSE"] {
        dir.copy(document);
    }
    let programs = [
        ("contrib/bom.sh", ": > \"$1\"".to_owned()),
        ("contrib/install.sh", "mkdir -p \"$2$3/share/doc/windlass\"".to_owned()),
        ("contrib/deb.sh", ": > \"$2/windlass_$3.deb\"".to_owned()),
        ("cargo", "exit 0".to_owned()),
        ("rustc", "echo \"$PWD\"".to_owned()),
        ("git", git.to_owned()),
        ("lintian", format!("echo \"lintian $*\"; exit {lintian}")),
    ];
    for (name, text) in programs {
        dir.script(name, &text);
    }
    let architecture = std::env::consts::ARCH;
    let library = format!("lib/rustlib/{architecture}-unknown-linux-musl/lib");
    fs::create_dir_all(dir.0.join(library)).expect("a directory");
    let output = dir.run_with_scripts("contrib/release.sh", &["--trial", architecture]);
    (output.status.success(), said(&output), dir.0.join("target/dist/SHA256SUMS").exists())
}

#[test]
fn an_error_that_lintian_finds_in_a_package_is_one_of_the_release() {
    let (made, said, sums) = released("release-sound", 0, "echo 1");
    assert!(made && sums, "{said}");
    assert!(said.contains("lintian --fail-on error target/dist/windlass_"), "{said}");
    let (made, said, sums) = released("release-unsound", 2, "echo 1");
    assert!(!made && !sums, "{said}");
}

#[test]
fn a_release_is_of_one_commit() {
    let committed_meanwhile = "echo >> calls; wc -l < calls";
    let (made, said, sums) = released("release-changed", 0, committed_meanwhile);
    assert!(!made && !sums && said.contains("has changed meanwhile"), "{said}");
}

#[test]
fn a_release_says_what_is_missing_before_it_builds() {
    let dir = Dir::new("release-lacks");
    dir.copy("contrib/release.sh");
    dir.script("bin/cargo", ": > cargo-was-called").script("bin/rustc", "echo \"$PWD\"").script("bin/git", ":");
    fs::create_dir_all(dir.0.join("lib/rustlib/none-unknown-linux-musl/lib")).expect("a directory");
    fs::write(dir.0.join("contrib/release.conf"), "maintainer=\"N <n@example.org>\"\n").expect("written");
    let path = dir.only(&["sh", "dirname", "grep", "tr", "uname"]);
    for (words, lacks) in [
        (&["--trial", "none"][..], "install Debian's packages dpkg gcc-none-linux-gnu\n"),
        (&["none"], "install Debian's packages dpkg lintian gcc-none-linux-gnu\n"),
    ] {
        let output = dir.run("env", &[&["-i", &path, "contrib/release.sh"], words].concat());
        assert!(!output.status.success() && said(&output).contains(lacks), "{}", said(&output));
        assert!(!dir.0.join("cargo-was-called").exists(), "something was built");
    }
}

#[test]
fn the_bill_of_materials_has_what_is_linked_and_nothing_of_the_tests() {
    let dir = Dir::new("bom");
    let (project, file) = (Path::new(env!("CARGO_MANIFEST_DIR")), dir.0.join("bom.json"));
    let script = project.join("contrib/bom.sh");
    let made = dir.run("env", &["SOURCE_DATE_EPOCH=0", &script.to_string_lossy(), &file.to_string_lossy()]);
    assert!(made.status.success(), "{}", said(&made));
    let text = fs::read_to_string(file).expect("the bill");
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "it names a directory of this machine");
    let bill: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(bill["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
    assert_eq!(bill["metadata"]["component"]["name"], "windlass");

    let components = bill["components"].as_array().expect("components");
    let scope = |name: &str| components.iter().find(|part| part["name"] == name).map(|part| part["scope"].clone());
    for name in ["std", "nix", "serde_json", "procfs-core", "seccompiler", "windlass-shim"] {
        assert_eq!(scope(name), Some("required".into()), "{name} is linked");
    }
    // A macro, what it needs, and what a build script needs.
    for name in ["serde_derive", "syn", "autocfg"] {
        assert_eq!(scope(name), Some("excluded".into()), "{name} is only for the build");
    }
    // Of a feature that the programs are built without, and of tests.
    for name in ["oci-spec", "regex", "proptest", "rustbus"] {
        assert_eq!(scope(name), None, "{name} is in no program");
    }

    let lock = fs::read_to_string(project.join("Cargo.lock")).expect("Cargo.lock");
    let mut refs = vec![&bill["metadata"]["component"]["bom-ref"]];
    for part in components {
        refs.push(&part["bom-ref"]);
        let name = part["name"].as_str().expect("a name");
        let head = format!("name = \"{name}\"\nversion = {}\n", part["version"]);
        let section = lock.split("[[package]]\n").find(|section| section.starts_with(&head)).unwrap_or_default();
        assert!(name == "std" || !section.is_empty(), "{name} is not in Cargo.lock");
        let sum = section.lines().find_map(|line| line.strip_prefix("checksum = "));
        assert_eq!(sum.unwrap_or("null"), part["hashes"][0]["content"].to_string(), "the checksum of {name}");
    }
    for entry in bill["dependencies"].as_array().expect("dependencies") {
        let needs = entry["dependsOn"].as_array().expect("an array");
        assert!(needs.iter().chain([&entry["ref"]]).all(|name| refs.contains(&name)), "{entry} leads nowhere");
    }
}

/// Runs `just test` with a `just` whose recipes are this script; `$1` is the recipe.
fn tested(name: &str, recipes: &str) -> (bool, String) {
    let dir = Dir::new(name);
    dir.copy("contrib/test.sh");
    dir.script("just", &format!("case $1 in\n{recipes}\nesac"));
    let output = dir.run("contrib/test.sh", &["./just"]);
    (output.status.success(), said(&output))
}

#[test]
fn the_tests_have_a_line_a_stage_and_name_what_was_skipped() {
    let unit = r#"unit) echo "test a::b ... ignored, no such kernel"; echo "test result: ok. 7 passed; 0 failed; 1 ignored;"
        echo "test result: ok. 5 passed; 0 failed; 0 ignored;";;"#;
    let (passed, said) = tested("test-passes", &format!("{unit}\nintegrate) echo \"chapters $2\";;"));
    assert!(passed, "{said}");
    assert!(said.lines().any(|line| line.starts_with("ok") && line.contains("lint")), "{said}");
    assert!(said.contains("12 passed, 1 skipped") && said.contains("chapters --brief"), "{said}");
    assert!(said.contains("skipped: no such kernel\n    a::b"), "{said}");
    assert!(said.contains("all passed, 0 min"), "{said}");
}

#[test]
fn a_stage_that_fails_shows_what_it_said_and_fails_the_tests() {
    let (passed, said) = tested("test-fails", "lint) echo 'error: unused'; exit 1;;\nintegrate) echo chapters;;");
    assert!(!passed && said.contains("error: unused") && said.contains("FAILED: 1 of 9"), "{said}");
    assert!(said.contains("chapters"), "the stages after it run: {said}");
    let (passed, said) = tested("test-unbuilt", "build) echo 'error: E0425'; exit 1;;\nintegrate) echo chapters;;");
    assert!(!passed && said.contains("E0425") && !said.contains("chapters"), "{said}");
}

/// Whatever form a program gives its report, and if it dies.
#[test]
fn tests_that_fail_are_named() {
    let log = [
        "test a::b ... FAILED",
        "test c::d ... ok",
        "failures:",
        "---- a::b stdout ----",
        "left: 1",
        "test result: FAILED. 1 passed; 1 failed; 0 ignored;",
        "test e::f ... FAILED: exit status: 1",
        "free(): double free detected",
        "Caused by:",
        "  process didn't exit successfully: `h` (signal: 6, SIGABRT: process abort signal)",
        &"test g::h ... ok\n".repeat(50),
        "error: 2 targets failed:",
        "    `-p x --test a`",
        "    `-p x --test h`",
    ];
    let (passed, said) = tested("test-names", &format!("unit) cat <<'END'\n{}\nEND\nexit 1;;", log.join("\n")));
    assert!(!passed && said.contains("1 passed, 1 failed"), "{said}");
    for line in log.iter().filter(|line| !line.starts_with("test g::h")) {
        assert!(said.contains(line), "no {line:?} in {said}");
    }
}

#[test]
fn the_picture_of_the_readme_shows_the_recorded_figures() {
    let dir = Dir::new("picture");
    dir.copy("contrib/picture.sh").copy("docs/numbers.txt").copy("docs/numbers.svg");
    let drawn = dir.run("contrib/picture.sh", &["docs/numbers.txt"]);
    assert!(drawn.status.success(), "{}", said(&drawn));
    let kept = fs::read(dir.0.join("docs/numbers.svg")).expect("the picture");
    assert_eq!(String::from_utf8_lossy(&drawn.stdout), String::from_utf8_lossy(&kept), "`just picture` draws it anew");
}

/// Runs the script for emulated machines as the user of this id, for a machine that no host has. `apt-get` is a script
/// that notes its arguments, and finds packages only after an update.
fn set_up(name: &str, user: u32) -> (Output, String) {
    let dir = Dir::new(name);
    dir.copy("integration/apt.sh").copy("integration/guests/setup.sh");
    dir.script("id", &format!("echo {user}"));
    dir.script("apt-get", "echo \"$1\" >> called\n[ \"$1\" = update ] || grep -q update called");
    let output = dir.run_with_scripts("integration/guests/setup.sh", &["none"]);
    (output, fs::read_to_string(dir.0.join("called")).unwrap_or_default())
}

#[test]
fn a_script_that_installs_names_the_packages_or_looks_for_them_anew() {
    let (refused, called) = set_up("setup-user", 1000);
    assert_eq!((refused.status.code(), called.as_str()), (Some(1), ""));
    let text = said(&refused);
    assert!(text.contains("integration/guests/setup.sh: as root, install: qemu-system-misc"), "{text}");
    let (installed, called) = set_up("setup-root", 0);
    assert!(installed.status.success(), "{}", said(&installed));
    assert_eq!(called.split_whitespace().collect::<Vec<_>>(), ["install", "update", "install"]);
}

#[test]
fn a_tree_whose_making_was_interrupted_is_made_anew() {
    let dir = Dir::new("bare");
    dir.copy("contrib/bare.sh").script("git", "exit 1");
    let unpack =
        "for word; do tree=$before before=$word; done; mkdir -p \"$tree/etc\"; : > \"$tree/etc/debian_version\"";
    dir.script("mmdebstrap", &format!("echo made >> calls; {unpack}; exit 1"));
    for calls in 1..=2 {
        assert!(!dir.run_with_scripts("contrib/bare.sh", &["none"]).status.success());
        assert_eq!(fs::read_to_string(dir.0.join("calls")).expect("calls").lines().count(), calls);
    }
}
