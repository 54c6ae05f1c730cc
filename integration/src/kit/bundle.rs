//! A bundle: a directory with a root file system and a configuration.

use super::rootfs;
use super::stop::{Context, Verdict};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A bundle under construction. Written by [`Bundle::write`], which every
/// helper that takes a bundle calls.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The bundle's directory.
    pub dir: PathBuf,
    /// The configuration.
    pub spec: Value,
}

impl Bundle {
    /// A bundle in a new directory, with the default configuration.
    pub fn new(dir: PathBuf) -> Verdict<Bundle> {
        fs::create_dir_all(&dir).context(dir.display())?;
        rootfs::build(&dir.join("rootfs"))?;
        Ok(Bundle { dir, spec: super::spec::default() })
    }

    /// The root file system as the host sees it.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Sets `process.args`.
    pub fn args(self, words: &[&str]) -> Bundle {
        self.set("/process/args", json!(words))
    }

    /// Runs a shell script.
    pub fn sh(self, script: &str) -> Bundle {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Changes the configuration.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Bundle {
        change(&mut self.spec);
        self
    }

    /// Sets the value at a JSON Pointer, and makes missing objects on the way. The last token `-` appends to an array.
    pub fn set(mut self, pointer: &str, value: Value) -> Bundle {
        put(&mut self.spec, pointer, value);
        self
    }

    /// Removes the value at a JSON Pointer.
    pub fn unset(mut self, pointer: &str) -> Bundle {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if let Some(Value::Object(map)) = self.spec.pointer_mut(parent) {
            map.remove(key);
        }
        self
    }

    /// Adds a mount.
    pub fn mount(self, mount: Value) -> Bundle {
        self.set("/mounts/-", mount)
    }

    /// Adds a bind mount of a host path.
    pub fn bind(self, source: &Path, destination: &str, options: &[&str]) -> Bundle {
        self.mount(json!({"destination": destination, "type": "bind", "source": source, "options": options}))
    }

    /// Gives the payload all capabilities of this machine.
    pub fn privileged(self) -> Bundle {
        let names = super::machine::bounding_capabilities();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.set("/process/capabilities", super::spec::capabilities(&names))
            .unset("/linux/maskedPaths")
            .unset("/linux/readonlyPaths")
    }

    /// Replaces a namespace entry, or removes it with `None`.
    pub fn namespace(mut self, kind: &str, entry: Option<Value>) -> Bundle {
        if let Some(Value::Array(list)) = self.spec.pointer_mut("/linux/namespaces") {
            list.retain(|ns| ns["type"] != kind);
            list.extend(entry);
        }
        self
    }

    /// Makes this program available in the container as `/helper`, with the
    /// host's libraries, so that a payload can make any system call.
    pub fn helper(mut self) -> Verdict<Bundle> {
        let me = std::env::current_exe().context("/proc/self/exe")?;
        for library in ["/lib", "/lib64", "/usr/lib"] {
            if Path::new(library).exists() {
                self = self.bind(Path::new(library), library, &["rbind", "ro"]);
            }
        }
        Ok(self.bind(&me, "/helper", &["bind", "ro"]))
    }

    /// Writes `config.json`.
    pub fn write(&self) -> Verdict {
        let text = serde_json::to_vec(&self.spec)?;
        fs::write(self.dir.join("config.json"), text).context("config.json")
    }
}

/// Sets a value below `root`, see [`Bundle::set`].
pub fn put(root: &mut Value, pointer: &str, value: Value) {
    let mut here = root;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        if here.is_null() {
            *here = if token == "-" { json!([]) } else { Value::Object(Map::new()) };
        }
        here = match here {
            Value::Array(list) => {
                let at = token.parse().unwrap_or(list.len());
                if at == list.len() {
                    list.push(Value::Null);
                }
                &mut list[at]
            }
            other => &mut other[token.as_str()],
        };
    }
    *here = value;
}

#[cfg(test)]
mod tests {
    use super::put;
    use serde_json::json;

    #[test]
    fn a_pointer_makes_the_objects_on_its_way() {
        let mut value = json!({});
        put(&mut value, "/linux/resources/pids/limit", json!(3));
        assert_eq!(value, json!({"linux": {"resources": {"pids": {"limit": 3}}}}));
    }

    #[test]
    fn a_dash_appends_to_an_array_that_may_be_new() {
        let mut value = json!({"old": [1]});
        put(&mut value, "/old/-", json!(2));
        put(&mut value, "/new/-", json!(3));
        assert_eq!(value, json!({"old": [1, 2], "new": [3]}));
    }

    #[test]
    fn escaped_tokens_name_keys_with_slashes() {
        let mut value = json!({});
        put(&mut value, "/linux/sysctl/net~1ipv4", json!("1"));
        assert_eq!(value["linux"]["sysctl"]["net/ipv4"], "1");
    }
}
