//! The options of `checkpoint` and `restore`.

use std::path::PathBuf;

use windlass_args::Matches;
use windlass_base::error::{Error, Origin, Result};
use windlass_criu::flags::Flags;
use windlass_criu::message::{CgroupMode, NetworkLock};

/// Options of `checkpoint`.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    pub id: String,
    /// The directory of the images.
    pub images: PathBuf,
    /// The directory of the log, if it is another one.
    pub work: Option<PathBuf>,
    /// The flags for CRIU.
    pub flags: Flags,
    /// A descriptor that gets a byte when the page server listens.
    pub status_fd: Option<i32>,
    /// Only list what a dump could not store.
    pub check: bool,
}

impl Checkpoint {
    pub(super) fn read(id: String, matches: &Matches) -> Result<Checkpoint> {
        let flags = Flags {
            leave_running: matches.switch("leave-running"),
            tcp_skip_in_flight: matches.switch("tcp-skip-in-flight"),
            link_remap: matches.switch("link-remap"),
            pre_dump: matches.switch("pre-dump"),
            parent: matches.text("parent-path")?.filter(|parent| !parent.is_empty()),
            page_server: server(matches)?,
            ..common(matches)?
        };
        if flags.lazy_pages && flags.page_server.is_none() {
            return Err(flag("lazy-pages", "--lazy-pages needs --page-server ADDRESS:PORT"));
        }
        let status = matches.text("status-fd")?.filter(|text| text != "-1");
        let status_fd = status.map(|text| {
            text.parse().ok().filter(|number| *number >= 0).ok_or_else(|| {
                flag(
                    "status-fd",
                    &format!("invalid --status-fd argument {text}: it must be the number of a descriptor"),
                )
            })
        });
        Ok(Checkpoint {
            id,
            images: images(matches),
            work: work(matches),
            flags,
            status_fd: status_fd.transpose()?,
            check: matches.switch("check"),
        })
    }
}

/// The options of `restore` besides those of `run`.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// The directory of the images.
    pub directory: PathBuf,
    /// The directory of the log, if it is another one.
    pub work: Option<PathBuf>,
    /// The flags for CRIU.
    pub flags: Flags,
    /// Do not compare the images with the configuration.
    pub trusted: bool,
    /// Make only init: `start` restores the processes.
    pub hold: bool,
    /// Where memory that is left for later is fetched from, if not from the images.
    pub page_server: Option<(String, u16)>,
}

impl RestoreOptions {
    pub(super) fn read(matches: &Matches) -> Result<RestoreOptions> {
        let flags = Flags {
            tcp_close: matches.switch("tcp-close"),
            lsm_profile: lsm_profile(matches.text("lsm-profile")?.unwrap_or_default())?,
            lsm_mount_context: matches.text("lsm-mount-context")?.unwrap_or_default(),
            ..common(matches)?
        };
        let trusted = matches.switch("trust-images");
        let hold = matches.switch("hold");
        let page_server = server(matches)?;
        if page_server.is_some() && !flags.lazy_pages {
            return Err(flag("page-server", "--page-server needs --lazy-pages"));
        }
        Ok(RestoreOptions { directory: images(matches), work: work(matches), flags, trusted, hold, page_server })
    }
}

/// `selinux:LABEL` or `apparmor:PROFILE`.
fn lsm_profile(text: String) -> Result<String> {
    match text.split_once(':') {
        None if text.is_empty() => Ok(text),
        Some(("selinux" | "apparmor", name)) if !name.is_empty() => Ok(text),
        _ => Err(flag(
            "lsm-profile",
            &format!("invalid --lsm-profile {text:?}: it must be selinux:LABEL or apparmor:PROFILE"),
        )),
    }
}

/// The directory of the images: `./checkpoint`, unless another is given.
pub(super) fn images(matches: &Matches) -> PathBuf {
    matches.path("image-path").filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| "checkpoint".into())
}

fn work(matches: &Matches) -> Option<PathBuf> {
    matches.path("work-path").filter(|path| !path.as_os_str().is_empty())
}

/// The flags that both verbs have.
fn common(matches: &Matches) -> Result<Flags> {
    for kind in matches.texts("empty-ns")? {
        if kind != "network" {
            return Err(flag("empty-ns", &format!("namespace {kind:?} is not supported")));
        }
    }
    let network_lock =
        [("iptables", NetworkLock::Iptables), ("nftables", NetworkLock::Nftables), ("skip", NetworkLock::Skip)];
    Ok(Flags {
        tcp_established: matches.switch("tcp-established"),
        ext_unix_sk: matches.switch("ext-unix-sk"),
        shell_job: matches.switch("shell-job"),
        file_locks: matches.switch("file-locks"),
        lazy_pages: matches.switch("lazy-pages"),
        auto_dedup: matches.switch("auto-dedup"),
        cgroup_mode: matches.text("manage-cgroups-mode")?.map(|mode| cgroup_mode(&mode)).transpose()?.flatten(),
        network_lock: network_lock.into_iter().find(|(word, _)| matches.is("network-lock", word)).map(|(_, lock)| lock),
        ..Flags::default()
    })
}

fn flag(name: &str, why: &str) -> Error {
    Error::usage(why).with_origin(Origin::Flag(format!("--{name}").into()))
}

/// An empty mode is the default, as with runc.
fn cgroup_mode(mode: &str) -> Result<Option<CgroupMode>> {
    Ok(Some(match mode {
        "" => return Ok(None),
        "ignore" => CgroupMode::Ignore,
        "soft" => CgroupMode::Soft,
        "full" => CgroupMode::Full,
        "strict" => CgroupMode::Strict,
        other => {
            let why = format!("invalid manage-cgroups-mode value {other:?}: it must be soft, full, strict or ignore");
            return Err(flag("manage-cgroups-mode", &why));
        }
    }))
}

/// `--page-server`, if it is given.
fn server(matches: &Matches) -> Result<Option<(String, u16)>> {
    matches.text("page-server")?.filter(|text| !text.is_empty()).map(page_server).transpose()
}

fn page_server(text: String) -> Result<(String, u16)> {
    let Some((address, port)) = text.rsplit_once(':').filter(|(address, _)| !address.is_empty()) else {
        return Err(flag("page-server", "Use --page-server ADDRESS:PORT to specify page server"));
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match port.parse() {
        Ok(port) => Ok((address.into(), port)),
        Err(_) => Err(flag("page-server", "Invalid port number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        assert_eq!(page_server("10.0.0.1:27".into()).expect("valid"), ("10.0.0.1".into(), 27));
        assert_eq!(page_server("[::1]:27".into()).expect("valid"), ("::1".into(), 27));
        for text in ["10.0.0.1", ":27", ""] {
            assert!(page_server(text.into()).expect_err("no port").message().contains("ADDRESS:PORT"), "{text}");
        }
        for text in ["a:", "a:x", "a:65536", "a:-1"] {
            assert_eq!(page_server(text.into()).expect_err("no port").message(), "Invalid port number", "{text}");
        }
    }

    #[test]
    fn a_profile_names_its_module() {
        for text in ["", "selinux:u:r:t:s0", "apparmor:docker-default"] {
            assert_eq!(lsm_profile(text.into()).expect("valid"), text);
        }
        for text in ["docker-default", "selinux:", "smack:x", ":x"] {
            assert!(lsm_profile(text.into()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_mode_is_one_of_four() {
        assert_eq!(cgroup_mode("").expect("the default"), None);
        assert_eq!(cgroup_mode("ignore").expect("valid"), Some(CgroupMode::Ignore));
        assert!(cgroup_mode("cgroup").expect_err("none").message().starts_with("invalid manage-cgroups-mode value"));
    }
}
