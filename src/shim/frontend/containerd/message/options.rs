//! The options of the runtime.
//!
//! containerd sends `containerd.runc.v1.Options` for runc. CRI and docker send the options of other runtimes in
//! `runtimeoptions.v1.Options`, as the TOML or JSON text of a configuration file.

use serde::{Deserialize, Serialize};

use super::Any;
use crate::frontend::containerd::error::Error;
use windlass_base::protobuf::{Malformed, Message, message};
use windlass_sys::fd;

message! {
    /// `containerd.runc.v1.Options`.
    Runc {
        /// `--no-pivot` of create.
        1 no_pivot_root: bool,
        /// `--no-new-keyring` of create.
        2 no_new_keyring: bool,
        /// The cgroup that the shim moves to.
        3 shim_cgroup: String,
        /// Owner of the pipes.
        4 io_uid: u32,
        /// Group of the pipes.
        5 io_gid: u32,
        6 binary_name: String,
        /// The directory of its state, without the namespace.
        7 root: String,
        /// `--systemd-cgroup`.
        9 systemd_cgroup: bool,
        /// The directory of a checkpoint's images.
        10 criu_image_path: String,
        /// criu's working directory.
        11 criu_work_path: String,
    }
    /// `runtimeoptions.v1.Options`.
    Generic {
        /// The name of the type that the configuration has.
        1 type_url: String,
        /// The path of the configuration file.
        2 config_path: String,
        /// The content of the configuration file.
        3 config_body: Vec<u8>,
    }
    /// `containerd.runc.v1.CheckpointOptions`.
    Checkpoint {
        /// Whether the container ends after the checkpoint.
        1 exit: bool,
        /// `--tcp-established`.
        2 open_tcp: bool,
        /// `--ext-unix-sk`.
        3 external_unix_sockets: bool,
        /// `--shell-job`.
        4 terminal: bool,
        /// `--file-locks`.
        5 file_locks: bool,
        /// `--empty-ns`.
        6 empty_namespaces: Vec<String>,
        /// `--manage-cgroups-mode`.
        7 cgroups_mode: String,
        /// `--image-path`, if the request has no path.
        8 image_path: String,
        /// `--work-path`.
        9 work_path: String,
        /// `--parent-path`.
        10 parent_path: String,
    }
}

/// The options of either message. `options.json` in the bundle has the names that containerd's own shim writes, so
/// that the `delete` of each shim reads the file of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// See [`Runc`], as all others.
    #[serde(skip_serializing_if = "is_default")]
    pub no_pivot_root: bool,
    /// `--no-new-keyring` of create.
    #[serde(skip_serializing_if = "is_default")]
    pub no_new_keyring: bool,
    /// The cgroup that the shim moves to.
    #[serde(skip_serializing_if = "is_default")]
    pub shim_cgroup: String,
    /// Owner of the pipes.
    #[serde(skip_serializing_if = "is_default")]
    pub io_uid: u32,
    /// Group of the pipes.
    #[serde(skip_serializing_if = "is_default")]
    pub io_gid: u32,
    #[serde(skip_serializing_if = "is_default", alias = "BinaryName")]
    pub binary_name: String,
    /// The directory of its state.
    #[serde(skip_serializing_if = "is_default", alias = "Root")]
    pub root: String,
    /// `--systemd-cgroup`.
    #[serde(skip_serializing_if = "is_default", alias = "SystemdCgroup")]
    pub systemd_cgroup: bool,
    /// The directory of a checkpoint's images.
    #[serde(skip_serializing_if = "is_default")]
    pub criu_image_path: String,
    /// criu's working directory.
    #[serde(skip_serializing_if = "is_default")]
    pub criu_work_path: String,
    /// Bytes of output that are kept in a file while nobody reads it, and the behaviour when the file is full.
    /// `containerd.runc.v1.Options` has no such members.
    #[serde(skip_serializing_if = "is_default", alias = "SpoolMax")]
    pub spool_max: String,
    #[serde(skip_serializing_if = "is_default", alias = "SpoolFull")]
    pub spool_full: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const RUNC: &str = "containerd.runc.v1.Options";
const GENERIC: &str = "runtimeoptions.v1.Options";

impl Options {
    /// Whether [`Options::read`] knows the type.
    pub fn is(any: &Any) -> bool {
        matches!(any.name(), RUNC | GENERIC)
    }

    /// Reads either message. An unknown type is an error, because its options would have no effect.
    pub fn read(any: Option<&Any>) -> Result<Options, Error> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Options::default()) };
        let malformed = |Malformed| Error::Invalid(format!("malformed {}", any.type_url));
        match any.name() {
            RUNC => Runc::decode(&any.value).map(Options::from).map_err(malformed),
            GENERIC => {
                let generic = Generic::decode(&any.value).map_err(malformed)?;
                let text = match (&generic.config_body[..], &generic.config_path[..]) {
                    ([], "") => return Ok(Options::default()),
                    ([], path) => fd::document(path).map_err(|failed| Error::from(failed).context(path))?,
                    (body, _) => body.to_vec(),
                };
                parse(&String::from_utf8_lossy(&text))
            }
            _ => Err(Error::Invalid(format!("unknown options {:?}", any.type_url))),
        }
    }
}

impl From<Runc> for Options {
    fn from(runc: Runc) -> Options {
        Options {
            no_pivot_root: runc.no_pivot_root,
            no_new_keyring: runc.no_new_keyring,
            shim_cgroup: runc.shim_cgroup,
            io_uid: runc.io_uid,
            io_gid: runc.io_gid,
            binary_name: runc.binary_name,
            root: runc.root,
            systemd_cgroup: runc.systemd_cgroup,
            criu_image_path: runc.criu_image_path,
            criu_work_path: runc.criu_work_path,
            ..Options::default()
        }
    }
}

/// Reads a configuration: JSON, or the flat `key = value` lines of TOML that CRI writes for the table `options` of a
/// runtime. The keys are those of containerd's configuration (`BinaryName`) or those of `options.json`
/// (`binary_name`).
fn parse(text: &str) -> Result<Options, Error> {
    let wrong = |what: String| Error::Invalid(format!("the runtime's options: {what}"));
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| wrong(error.to_string()));
    }
    let mut options = Options::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
        let (key, value) = line.split_once('=').ok_or_else(|| wrong(format!("{line:?}")))?;
        let (key, value) = (key.trim(), value.trim());
        let word = || unquoted(value).ok_or_else(|| wrong(format!("{key} is {value}, not text")));
        let flag = || value.parse().map_err(|_| wrong(format!("{key} is {value}, not true or false")));
        let number = || value.parse().map_err(|_| wrong(format!("{key} is {value}, not a number")));
        match key.replace(['_', '-'], "").to_ascii_lowercase().as_str() {
            "nopivotroot" => options.no_pivot_root = flag()?,
            "nonewkeyring" => options.no_new_keyring = flag()?,
            "shimcgroup" => options.shim_cgroup = word()?,
            "iouid" => options.io_uid = number()?,
            "iogid" => options.io_gid = number()?,
            "binaryname" => options.binary_name = word()?,
            "root" => options.root = word()?,
            "systemdcgroup" => options.systemd_cgroup = flag()?,
            "criuimagepath" => options.criu_image_path = word()?,
            "criuworkpath" => options.criu_work_path = word()?,
            "spoolmax" => options.spool_max = unquoted(value).unwrap_or_else(|| value.into()),
            "spoolfull" => options.spool_full = word()?,
            // A shared file may have the settings of other programs.
            _ => {}
        }
    }
    Ok(options)
}

fn unquoted(value: &str) -> Option<String> {
    let literal = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    // The escapes that a path needs are the same in JSON as in a basic string of TOML.
    literal.map(str::to_owned).or_else(|| serde_json::from_str(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Options {
        Options { binary_name: "/opt/windlass".into(), systemd_cgroup: true, ..Options::default() }
    }

    #[test]
    fn both_kinds_say_the_same() {
        let runc = Runc { binary_name: "/opt/windlass".into(), systemd_cgroup: true, ..Runc::default() };
        let prefixed = format!("type.googleapis.com/{RUNC}");
        assert_eq!(Options::read(Some(&Any { type_url: prefixed, value: runc.encode() })).ok(), Some(wanted()));
        for body in [
            "BinaryName = \"/opt/windlass\"\nSystemdCgroup = true\nCriuPath = \"\"\n",
            "# ours\nbinary_name = '/opt/windlass'\nsystemd_cgroup = true\n",
            "{\"BinaryName\": \"/opt/windlass\", \"systemd_cgroup\": true, \"else\": 1}",
        ] {
            let generic = Generic { config_body: body.into(), ..Generic::default() };
            let any = Any { type_url: GENERIC.into(), value: generic.encode() };
            assert_eq!(Options::read(Some(&any)).ok(), Some(wanted()), "{body}");
        }
    }

    #[test]
    fn the_spool_has_options() {
        for body in ["SpoolMax = \"1m\"\nSpoolFull = 'drop'", "{\"SpoolMax\": \"1m\", \"spool_full\": \"drop\"}"] {
            let options = parse(body).expect("read");
            assert_eq!((&*options.spool_max, &*options.spool_full), ("1m", "drop"), "{body}");
        }
        assert_eq!(parse("spool_max = 4096").expect("read").spool_max, "4096");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let unknown = Any { type_url: "example.Options".into(), value: Vec::new() };
        assert!(Options::read(Some(&unknown)).is_err_and(|error| error.to_string().contains("example.Options")));
        let generic = Generic { config_body: b"SystemdCgroup = 1".into(), ..Generic::default() };
        let any = Any { type_url: GENERIC.into(), value: generic.encode() };
        assert!(Options::read(Some(&any)).is_err_and(|error| error.to_string().contains("SystemdCgroup")));
        assert_eq!(Options::read(None).ok(), Some(Options::default()));
    }

    #[test]
    fn the_file_has_the_names_of_containerds_shim() {
        let text = serde_json::to_string(&wanted()).expect("plain data");
        assert_eq!(text, r#"{"binary_name":"/opt/windlass","systemd_cgroup":true}"#);
        let theirs = r#"{"binary_name":"/opt/windlass","systemd_cgroup":true,"task_api_version":2}"#;
        assert_eq!(serde_json::from_str::<Options>(theirs).expect("read"), wanted());
    }
}
