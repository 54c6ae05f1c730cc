//! No circle between the files of a crate: files are nodes, uses are edges. The `mod` of a parent and its re-exports do
//! not count; a child's use of an item of its parent does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The source folders of the root package and of the workspace's members, except those of tests: cases use the kit,
/// which lists them. Crates below `src` are not part of the root package, since they have their own manifests.
fn crates(root: &Path) -> Vec<PathBuf> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
    let members = manifest.split_once("members = [").expect("members").1.split_once(']').expect("their end").0;
    let members = members.split('"').skip(1).step_by(2);
    let tests = |name: &&str| name.starts_with("integration") || name.contains("/simulation");
    let members = members.filter(|name| !tests(name)).map(|name| root.join(name));
    let sources = members.map(|folder| if folder.join("src").is_dir() { folder.join("src") } else { folder });
    [root.join("src")].into_iter().chain(sources).collect()
}

/// The path of a module in its crate. The crate's root is the empty path.
type Module = Vec<String>;

/// A module's file: the paths that it uses, and those that it re-exports, by name.
#[derive(Debug, Default)]
struct File {
    uses: Vec<Vec<String>>,
    exports: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
struct Crate(BTreeMap<Module, File>);

impl Crate {
    fn read(folder: &Path) -> Crate {
        let mut files = BTreeMap::new();
        collect(folder, &Vec::new(), &mut files);
        let modules: BTreeSet<Module> = files.keys().cloned().collect();
        Crate(files.iter().map(|(module, text)| (module.clone(), File::of(module, text, &modules))).collect())
    }

    /// The module in whose file the item of a path is.
    fn owner(&self, path: &[String], depth: usize) -> Option<Module> {
        let mut module = Module::new();
        for (at, name) in path.iter().enumerate() {
            let below: Module = module.iter().chain([name]).cloned().collect();
            if self.0.contains_key(&below) {
                module = below;
                continue;
            }
            let exported = self.0.get(&module)?.exports.get(name).filter(|_| depth < 8);
            return match exported {
                Some(target) => {
                    let target: Vec<String> = target.iter().chain(&path[at + 1..]).cloned().collect();
                    self.owner(&target, depth + 1)
                }
                None => Some(module),
            };
        }
        Some(module)
    }

    fn edges(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let targets = |module: &Module, file: &File| {
            let owners = file.uses.iter().filter_map(|path| self.owner(path, 0));
            owners.filter(|owner| owner != module).collect()
        };
        self.0.iter().map(|(module, file)| (module.clone(), targets(module, file))).collect()
    }

    /// The modules that can be reached from themselves.
    fn circles(&self) -> Vec<String> {
        let edges = self.edges();
        let reaches_itself = |start: &Module| {
            let mut seen: BTreeSet<&Module> = BTreeSet::new();
            let mut next: Vec<&Module> = edges[start].iter().collect();
            while let Some(module) = next.pop() {
                if seen.insert(module) {
                    next.extend(&edges[module]);
                }
            }
            seen.contains(start)
        };
        let named = |module: &Module| match module.as_slice() {
            [] => "the root".to_string(),
            path => path.join("/"),
        };
        edges.keys().filter(|module| reaches_itself(module)).map(named).collect()
    }
}

/// Reads the modules below a folder. Folders with their own manifests are other crates.
fn collect(folder: &Path, module: &Module, files: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut below = module.clone();
        if path.is_dir() && !path.join("Cargo.toml").exists() {
            below.push(name);
            collect(&path, &below, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
            if name != "mod" && name != "lib" {
                below.push(name);
            }
            files.insert(below, code(&fs::read_to_string(&path).expect("a source")));
        }
    }
}

/// The text without comments, and without the unit tests at its end.
fn code(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap_or("").to_string() + "\n").collect()
}

impl File {
    fn of(module: &Module, text: &str, modules: &BTreeSet<Module>) -> File {
        let mut file = File::default();
        let mut rest = String::new();
        for statement in text.split_inclusive(';') {
            let before = |at: usize| statement[..at].rsplit('\n').next().unwrap_or("").trim();
            let begins =
                |word: &str| word.is_empty() || word == "pub" || (word.starts_with("pub(") && word.ends_with(')'));
            let Some(at) = statement.rfind("use ").filter(|&at| begins(before(at))) else {
                rest.push_str(statement);
                continue;
            };
            let exported = before(at).starts_with("pub");
            rest.push_str(&statement[..at]);
            for path in expanded(statement[at + 4..].trim_end_matches(';')) {
                let Some(absolute) = absolute(module, &path, modules) else { continue };
                match path.last().filter(|_| exported) {
                    Some(name) => drop(file.exports.insert(name.clone(), absolute)),
                    None => file.uses.push(absolute),
                }
            }
        }
        file.uses.extend(paths_in(&rest).iter().filter_map(|path| absolute(module, path, modules)));
        file
    }
}

/// The paths of a use tree: `a::{b, c::d}` has `a::b` and `a::c::d`.
fn expanded(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((prefix, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return vec![path.split("::").map(|part| part.trim().to_string()).filter(|part| part != "self").collect()];
    };
    let prefix: Vec<String> =
        prefix.split("::").map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect();
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let mut depth = 0;
    let parts = group.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let inner = parts.map(str::trim).filter(|part| !part.is_empty()).flat_map(expanded);
    inner.map(|path| prefix.iter().cloned().chain(path).collect()).collect()
}

/// The paths in an expression or a type: `super::exit::put`, `child::function`.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !word(c))
        .filter(|path| path.contains("::"))
        .map(|path| path.split("::").map(str::to_string).filter(|part| !part.is_empty()).collect())
        .collect()
}

/// A path from the root of the crate. `None`: it leads out of the crate, or begins with an item in scope.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Vec<String>> {
    let first = path.first()?;
    let above = path.iter().take_while(|part| *part == "super").count();
    let below: Module = module.iter().chain([first]).cloned().collect();
    let (base, rest) = match first.as_str() {
        "crate" => (&module[..0], &path[1..]),
        "super" => (&module[..module.len().checked_sub(above)?], &path[above..]),
        _ if modules.contains(&below) => (&module[..], path),
        _ => return None,
    };
    Some(base.iter().chain(rest).cloned().collect())
}

#[test]
fn no_files_of_a_crate_use_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut circles = Vec::new();
    for folder in crates(root) {
        let name = folder.strip_prefix(root).expect("a folder below the root").display();
        let found = Crate::read(&folder);
        let uses = found.edges().values().any(|uses| !uses.is_empty());
        assert!(uses || found.0.len() < 3, "{name}: no uses are found");
        circles.extend(found.circles().into_iter().map(|file| format!("{name}: {file}")));
    }
    assert_eq!(circles, [""; 0], "files that use themselves by way of others");
}

/// A crate whose files are given as text.
fn crate_of(files: &[(&str, &str)]) -> Crate {
    let path = |name: &str| name.split('/').filter(|part| !part.is_empty()).map(str::to_string).collect::<Module>();
    let modules: BTreeSet<Module> = files.iter().map(|(name, _)| path(name)).collect();
    Crate(files.iter().map(|(name, text)| (path(name), File::of(&path(name), &code(text), &modules))).collect())
}

#[test]
fn a_circle_is_found_and_what_is_none_is_not() {
    let circle = crate_of(&[("", "mod a; mod b; pub use a::A;"), ("a", "use crate::b::B;"), ("b", "use super::A;")]);
    assert_eq!(circle.circles(), ["a", "b"], "b uses a by what the root re-exports");
    let parent = crate_of(&[("", "mod a;\nfn f() { a::g() }\npub struct S;"), ("a", "pub fn g() -> super::S { S }")]);
    assert_eq!(parent.circles(), ["the root", "a"], "a child uses its parent's item, and the parent the child's");
    let none = crate_of(&[
        ("", "mod a;\nmod b;\npub use a::{A, c::C};"),
        ("a", "pub mod c;\nuse crate::b::{self, B};\n// crate::C in a comment"),
        ("a/c", "use crate::b::B as Other;"),
        ("b", "use std::fmt;\nfn f() { fmt::g(crate_a::h()) }"),
    ]);
    assert_eq!(none.circles(), [""; 0]);
}
