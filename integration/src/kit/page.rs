//! Runs the console blocks of a page of documentation and compares their output with the page.
//!
//! In a block that is marked `console`, a line that begins with `# ` is a command of root, and one with `$ ` a
//! command of an ordinary user. The lines below it are its output, in which `…` stands for anything. A comment
//! `<!-- before: SCRIPT -->` above the block prepares its directory, `<!-- needs: PROGRAM… -->` names what it runs.

use super::rootfs;
use super::runtime;
use super::stop::{Context, Verdict, fail};
use super::t::T;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

/// The line between the outputs of two commands.
const MARK: char = '\u{1e}';
/// An id that is not in use on this machine.
const USER: u32 = 47_124;
/// The default directories of the state of the programs under test.
const STATES: [&str; 2] = ["/run/windlass", "/run/windlass-shim"];

/// A block of commands, each with its output.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The line of the page on which it begins.
    pub line: usize,
    /// Programs that it runs, besides those under test.
    pub needs: Vec<String>,
    before: String,
    user: bool,
    commands: Vec<(String, String)>,
}

/// The console blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut next = Block::default();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(first) = line.strip_prefix("<!-- ") {
            let mut comment = first.to_owned();
            while !comment.ends_with("-->") {
                let Some((_, more)) = lines.next() else { break };
                comment = format!("{comment}\n{more}");
            }
            let comment = comment.trim_end_matches("-->").trim_end();
            if let Some(script) = comment.strip_prefix("before:") {
                next.before = script.to_owned();
            } else if let Some(programs) = comment.strip_prefix("needs:") {
                next.needs = programs.split_whitespace().map(str::to_owned).collect();
            }
        } else if line == "```console" {
            let mut block = Block { line: number + 1, ..std::mem::take(&mut next) };
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").for_each(|line| block.add(line));
            found.push(block);
        } else if !line.is_empty() {
            next = Block::default();
        }
    }
    found
}

impl Block {
    fn add(&mut self, line: &str) {
        if let Some((command, _)) = self.commands.last_mut().filter(|(command, _)| command.ends_with('\\')) {
            *command += "\n";
            *command += line;
            return;
        }
        let prompt = [("# ", false), ("$ ", true)].iter().find_map(|(prompt, user)| {
            let command = line.strip_prefix(prompt)?;
            Some((command, *user))
        });
        match (prompt, self.commands.last_mut()) {
            (Some((command, user)), _) => {
                self.user = user;
                self.commands.push((command.to_owned(), String::new()));
            }
            (None, Some((_, output))) => {
                *output += line;
                *output += "\n";
            }
            (None, None) => {}
        }
    }

    /// The shell script of the whole block, which marks where the output of each command begins.
    pub fn script(&self) -> String {
        let mut script = format!("exec 2>&1\nset -e\n{}\nset +e\n", self.before);
        for (command, _) in &self.commands {
            script += &format!("printf '\\036'\n{command}\n");
        }
        script
    }

    /// Runs it in a new directory with `rootfs` and these files, and compares the output.
    pub fn run(&self, t: &T, files: &[(&str, &str)]) -> Verdict {
        let dir = t.path(&format!("block{}", self.line));
        prepare(t, &dir, self.user, files)?;
        fs::write(dir.join("script"), self.script()).context("script")?;
        let mut command = self.command(&dir);
        command.stdin(Stdio::null());
        let ran = runtime::run(command, &t.dir).map(|(ran, _)| ran);
        for state in STATES {
            // The directory was a mount point in a mount namespace that has ended; in this one it is empty.
            let _ = fs::remove_dir(state);
        }
        self.judge(&ran?.stdout)
    }

    fn command(&self, dir: &Path) -> Command {
        let states =
            STATES.map(|state| format!("mkdir -p {state}; mount -t tmpfs -o mode=700 none {state}; ")).concat();
        let home = dir.join("home");
        let become_user =
            if self.user { format!("setpriv --reuid {USER} --regid {USER} --clear-groups ") } else { String::new() };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec"]).arg(format!("{states}exec {become_user}sh {}/script", dir.display()));
        let path = format!("{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", dir.display());
        command.env_clear().env("PATH", path).env("HOME", &home).current_dir(&home);
        if self.user {
            command.env("XDG_RUNTIME_DIR", &home);
        }
        command
    }

    /// Compares the output of the script with the page.
    pub fn judge(&self, printed: &str) -> Verdict {
        let mut outputs = printed.split(MARK);
        let before = outputs.next().unwrap_or_default();
        for (command, expected) in &self.commands {
            let Some(output) = outputs.next() else {
                return fail(format!("line {}: `{command}` was not reached: {before}", self.line));
            };
            if !matches(expected.trim_end(), output.trim_end()) {
                return fail(format!("line {}: `{command}` printed\n{output}\nand not\n{expected}", self.line));
            }
        }
        Ok(())
    }
}

/// Puts the programs, a root file system and files where a block expects them.
fn prepare(t: &T, dir: &Path, user: bool, files: &[(&str, &str)]) -> Verdict {
    let home = dir.join("home");
    fs::create_dir_all(dir.join("bin")).context("bin")?;
    fs::create_dir_all(&home).context("home")?;
    for (program, name) in [(&t.runtime, "windlass"), (&t.shim, "windlass-shim")] {
        // The directory may be accessible to root alone.
        fs::copy(program, dir.join("bin").join(name)).context(program.display())?;
    }
    rootfs::build(&home.join("rootfs"))?;
    for (name, content) in files {
        fs::write(home.join(name), content).context(name)?;
    }
    for dir in home.ancestors().take_while(|dir| dir.starts_with("/run/windlass-integration")) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).context(dir.display())?;
    }
    if user { own(&home) } else { Ok(()) }
}

/// Changes the owner of a directory and of those in it.
fn own(dir: &Path) -> Verdict {
    chown(dir, Some(USER), Some(USER)).context(dir.display())?;
    let entries = fs::read_dir(dir).context(dir.display())?.flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).try_for_each(|dir| own(&dir))
}

/// Whether the text matches the expected one, in which `…` stands for anything.
fn matches(expected: &str, text: &str) -> bool {
    let parts: Vec<&str> = expected.split('…').collect();
    let [first, middle @ .., last] = &parts[..] else {
        return expected == text;
    };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::{blocks, matches};

    const PAGE: &str = "\
text
<!-- before:
mkdir a
-->
<!-- needs: jq tar -->

```console
# one \\
  two
out
more
# three
```
```text
# not run
```
```console
$ four
```
";

    #[test]
    fn blocks_have_commands_and_what_they_print() {
        let found = blocks(PAGE);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].line, 7);
        assert_eq!(found[0].before.trim(), "mkdir a");
        assert_eq!(found[0].needs, ["jq", "tar"]);
        assert_eq!(found[0].commands[0], ("one \\\n  two".into(), "out\nmore\n".into()));
        assert_eq!(found[0].commands[1], ("three".into(), String::new()));
        assert!(!found[0].user && found[1].user);
        assert_eq!(found[1].before, "", "the comment was the first block's");
    }

    #[test]
    fn what_is_printed_must_be_what_stands_there() {
        assert!(matches("a", "a") && !matches("a", "b") && !matches("", "a"));
        assert!(matches("…", "") && matches("…", "a\nb") && matches("a … d", "a b\nc d"));
        assert!(!matches("a…c", "a b") && !matches("a…b…c", "a c") && matches("a…b…c", "a1b2c"));
        assert!(!matches("ab…ba", "aba"), "nothing is used twice");
    }
}
