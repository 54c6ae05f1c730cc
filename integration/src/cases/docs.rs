//! The documentation: runs the console blocks and compares their output (`kit/page.rs`).

use crate::chapter;
use crate::kit::Need::Windlass;
use crate::kit::page::{self, Block};
use crate::kit::stop::skip;
use crate::kit::{T, Verdict};
use std::path::Path;

chapter! { "docs":
    the_readme_does_what_it_says [Windlass],
    examples_do_what_they_say [Windlass],
    the_page_about_ordinary_users_does_what_it_says [Windlass],
    the_page_about_performance_does_what_it_says [Windlass],
}

/// The pages that have console blocks, by their paths in the repository.
const PAGES: [(&str, &str); 4] = [
    ("README.md", include_str!("../../../README.md")),
    ("docs/examples.md", include_str!("../../../docs/examples.md")),
    ("docs/rootless-and-systemd.md", include_str!("../../../docs/rootless-and-systemd.md")),
    ("docs/performance.md", include_str!("../../../docs/performance.md")),
];

/// The page whose blocks the suite of engines runs.
#[cfg(test)]
const OF_ENGINES: &str = "docs/kubernetes.md";

/// Files of the repository that are copied to the directory of each block.
const FILES: [(&str, &str); 1] = [("client.sh", include_str!("../../../examples/client.sh"))];

fn run(t: &T, name: &str) -> Verdict {
    let page = PAGES.iter().find(|(path, _)| *path == name).map_or("", |(_, text)| text);
    let blocks = page::blocks(page);
    crate::ensure!(!blocks.is_empty(), "{name} has no block that is marked console");
    let (able, unable): (Vec<Block>, Vec<Block>) = blocks.into_iter().partition(|block| lacking(block).is_none());
    able.iter().try_for_each(|block| block.run(t, &FILES))?;
    match unable.iter().find_map(|block| Some((block.line, lacking(block)?))) {
        Some((line, program)) => skip(format!("the block in line {line} of {name} needs {program}")),
        None => Ok(()),
    }
}

/// A program that a block needs and this machine does not have.
fn lacking(block: &Block) -> Option<&str> {
    let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let there = |program: &&String| dirs.iter().any(|dir| Path::new(dir).join(program).exists());
    block.needs.iter().find(|program| !there(program)).map(String::as_str)
}

fn the_readme_does_what_it_says(t: &T) -> Verdict {
    run(t, "README.md")
}

fn examples_do_what_they_say(t: &T) -> Verdict {
    run(t, "docs/examples.md")
}

fn the_page_about_ordinary_users_does_what_it_says(t: &T) -> Verdict {
    run(t, "docs/rootless-and-systemd.md")
}

fn the_page_about_performance_does_what_it_says(t: &T) -> Verdict {
    run(t, "docs/performance.md")
}

#[cfg(test)]
mod tests {
    use super::{FILES, OF_ENGINES, PAGES};
    use crate::kit::page;
    use std::path::{Path, PathBuf};

    fn pages() -> Vec<PathBuf> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let docs = top.join("docs").read_dir().expect("docs").flatten().map(|entry| entry.path());
        let readmes = ["README.md", "integration/README.md", "integration/engines/README.md", "seccomp/README.md"];
        docs.chain(readmes.map(|name| top.join(name))).filter(|path| path.extension() == Some("md".as_ref())).collect()
    }

    #[test]
    fn every_console_block_is_run() {
        for path in pages() {
            let text = std::fs::read_to_string(&path).expect("a page");
            let mut names = PAGES.iter().map(|(name, _)| *name).chain([OF_ENGINES]);
            let named = names.any(|name| path.ends_with(name) && !page::blocks(&text).is_empty());
            assert!(named || !text.contains("```console"), "{}: it has console blocks and no case", path.display());
            assert_eq!(text.matches("```console").count(), page::blocks(&text).len(), "{}", path.display());
        }
    }

    #[test]
    fn the_client_of_the_page_is_the_file() {
        let page = include_str!("../../../docs/shim-protocol.md");
        assert!(page.contains(FILES[0].1), "docs/shim-protocol.md shows another examples/client.sh");
    }
}
