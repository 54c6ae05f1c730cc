//! The scripts of a release, of `just test` and of the picture of the README, as far as that needs no root and no build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory that goes with the test.
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

    fn run(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.0).env("GIT_CONFIG_GLOBAL", "/dev/null").env_remove("CARGO_TARGET_DIR");
        command.output().expect(program)
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
