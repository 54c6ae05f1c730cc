//! systemd as who makes and removes the container's cgroup: a transient scope.
//!
//! All is said in one `StartTransientUnit`, and its job is awaited for a bounded time. Nothing is
//! read back but what cannot be known: the version, for its feature of taking processes by pidfd,
//! and the cgroup of a user's instance. Both are asked for while there is other work to do.
//!
//! systemd's own socket comes first: it needs no bus, no greeting and no subscription. Where it is
//! out of reach (another user, a container) the bus is used.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass_base::error::{Error, Kind, Origin, Result};
use windlass_base::variant::Value;
use windlass_dbus::{Answer, Call, Connection, Message, Peer};
use windlass_plan::unit::{Property, Unit};
use windlass_sys::probe;
use windlass_sys::process::Child;

/// A connection to systemd.
pub struct Systemd {
    connection: Connection,
    user: bool,
    version: Asked,
    root: Asked,
}

/// An answer that is not asked for, on its way, or here.
enum Asked {
    Not,
    Serial(u32),
    Here(String),
}

/// How long a job of systemd's may take. It makes a cgroup, so it is one of a host in trouble.
const PATIENCE: Duration = Duration::from_secs(30);

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// What a bus is to pass on: the ends of jobs of this unit, whose name has no quotes.
fn ends_of_jobs(unit: &str) -> String {
    format!("type='signal',sender='{NAME}',path='{OBJECT}',interface='{MANAGER}',member='JobRemoved',arg2='{unit}'")
}

/// The first version that takes processes by pidfd (`PIDFDs`).
const TAKES_PIDFDS: u32 = 253;

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Systemd {{ user: {} }}", self.user)
    }
}

impl Systemd {
    /// Connects to the system's instance, or to the user's. What is asked of it first waits until it lets
    /// us in, so connecting early is waiting less.
    pub fn connect(user: bool) -> Result<Systemd> {
        let sockets = if user { sockets_of_user() } else { sockets_of_system() };
        let mut last = None;
        for (path, peer) in &sockets {
            let opened = match peer {
                Peer::Service => Connection::begin(path, *peer, PATIENCE),
                // One that refuses us is known before the next is tried.
                Peer::Bus => Connection::open(path, *peer, PATIENCE),
            };
            match opened {
                Ok(connection) => return Ok(Systemd { connection, user, version: Asked::Not, root: Asked::Not }),
                Err(failed) => last = Some((path, failed)),
            }
        }
        let whose = if user { "the user's systemd" } else { "systemd" };
        let error = match last {
            Some((path, failed)) => failed.doing(format!("cannot reach {whose} at {path:?}")).kind_is(Kind::Systemd),
            None => Error::new(Kind::Systemd, format!("cannot reach {whose}: it is not known where it listens")),
        };
        Err(error.origin(Origin::Flag("--systemd-cgroup".into())).hint(if user {
            "it runs for users who are logged in, or who linger (`loginctl enable-linger`), and is found by \
             XDG_RUNTIME_DIR, which su(1) and sudo(8) do not set"
        } else {
            "without --systemd-cgroup the runtime makes the cgroup itself; in docker: --exec-opt native.cgroupdriver=cgroupfs"
        }))
    }

    fn ask_property(&mut self, name: &str) -> Result<u32> {
        let arguments = [Value::text(MANAGER), Value::text(name)];
        let call = Call { interface: "org.freedesktop.DBus.Properties", ..call(&self.connection, "Get", &arguments) };
        self.connection.ask(&call, &[]).map_err(|failed| lost(failed, self.user))
    }

    fn property(&mut self, name: &str, which: fn(&mut Systemd) -> &mut Asked) -> Result<String> {
        let serial = match which(self) {
            Asked::Here(text) => return Ok(text.clone()),
            Asked::Serial(serial) => *serial,
            Asked::Not => self.ask_property(name)?,
        };
        let answer = self.connection.answer(serial).map_err(|failed| lost(failed, self.user))?;
        let text = match returned(answer, "cannot ask systemd")?.pop() {
            Some(Value::Variant(value)) => match *value {
                Value::Text(text) => text,
                _ => String::new(),
            },
            _ => String::new(),
        };
        *which(self) = Asked::Here(text.clone());
        Ok(text)
    }

    /// The path of the scope's cgroup below the root of the hierarchy. A scope will be started, so the
    /// version is asked for as well, to be there when it is needed.
    pub fn path(&mut self, unit: &Unit) -> Result<String> {
        self.version = Asked::Serial(self.ask_property("Version")?);
        Ok(format!("{}{}", self.root()?, unit.path()))
    }

    /// The path of its own cgroup, below which all units are; empty for the root.
    pub fn root(&mut self) -> Result<String> {
        // The system's is the root itself.
        if !self.user {
            return Ok(String::new());
        }
        let root = self.property("ControlGroup", |systemd| &mut systemd.root)?;
        Ok(root.trim_end_matches('/').to_owned())
    }

    /// Its version: 252 of "252 (252.39-1~deb12u1)".
    pub fn version(&mut self) -> Result<u32> {
        let text = self.property("Version", |systemd| &mut systemd.version)?;
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        // One that does not tell is taken for an old one.
        Ok(digits.parse().unwrap_or(0))
    }

    /// Asks for the scope, with this process in it; the job is to be awaited.
    pub fn begin(&mut self, unit: &Unit, child: &Child) -> Result<u32> {
        let version = self.version()?;
        self.connection.listen(&ends_of_jobs(&unit.name)).map_err(|failed| lost(failed, self.user))?;
        let mut fds = Vec::new();
        let process = if version >= TAKES_PIDFDS {
            fds.push(child.pidfd.as_fd());
            pair("PIDFDs", Value::Array("h".into(), vec![Value::Fd(0)]))
        } else {
            // It is our child and not reaped, so its number is not given to another.
            pair("PIDs", Value::Array("u".into(), vec![Value::U32(child.pid.unsigned_abs())]))
        };
        let mut properties = pairs(&unit.properties, version);
        properties.push(process);
        let arguments = [
            Value::text(unit.name.clone()),
            Value::text("fail"),
            Value::Array("(sv)".into(), properties),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        self.send("StartTransientUnit", &arguments, &fds)
    }

    /// Waits until the scope is there and the process in it.
    pub fn finish(&mut self, serial: u32, unit: &Unit) -> Result<()> {
        let what = format!("systemd does not start the scope {:?}", unit.name);
        let answer = self.connection.answer(serial).map_err(|failed| lost(failed, self.user))?;
        let job = match answer {
            Answer::Error(name, _) if name.ends_with(".UnitExists") => {
                return Err(Error::new(Kind::AlreadyExists, format!("{what}: there is one of that name"))
                    .origin(Origin::config("/linux/cgroupsPath"))
                    .hint(format!(
                        "`systemctl {}status {}` shows whose it is",
                        if self.user { "--user " } else { "" },
                        unit.name
                    )));
            }
            answer => returned(answer, &what)?,
        };
        self.job(job, &what, &unit.name)
    }

    /// Waits for the end of a job that a call has returned.
    fn job(&mut self, mut returned: Vec<Value>, what: &str, unit: &str) -> Result<()> {
        let Some(Value::Path(job)) = returned.pop() else { return Ok(()) };
        let ours = |message: &Message| {
            message.member == "JobRemoved"
                && matches!(message.arguments.get(1), Some(Value::Path(path)) if *path == job)
        };
        let arguments = self.connection.signal(ours).map_err(|failed| lost(failed, self.user))?;
        match arguments.last() {
            Some(Value::Text(result)) if result != "done" && result != "skipped" => Err(Error::new(
                Kind::Systemd,
                format!("{what}: its job is {result}"),
            )
            .hint(format!("`journalctl {}--unit {unit}` has its reason", if self.user { "--user " } else { "" }))),
            _ => Ok(()),
        }
    }

    /// Changes properties of a unit that is there.
    pub fn set(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let version = self.version()?;
        let list = Value::Array("(sv)".into(), pairs(properties, version));
        let arguments = [Value::text(unit), Value::Bool(true), list];
        let serial = self.send("SetUnitProperties", &arguments, &[])?;
        let answer = self.connection.answer(serial).map_err(|failed| lost(failed, self.user))?;
        returned(answer, &format!("systemd does not change the scope {unit:?}")).map(drop)
    }

    /// Has a unit stopped whose cgroup is gone already: there is nothing left to wait for.
    pub fn release(&mut self, unit: &str) -> Result<()> {
        let serial = self.send("StopUnit", &[Value::text(unit), Value::text("replace")], &[])?;
        match self.connection.answer(serial).map_err(|failed| lost(failed, self.user))? {
            Answer::Error(name, _) if name.ends_with(".NoSuchUnit") => Ok(()),
            answer => returned(answer, &format!("systemd does not stop the scope {unit:?}")).map(drop),
        }
    }

    /// Stops a unit, waits until it is, and forgets it. One that is not there is as good.
    pub fn stop(&mut self, unit: &str) -> Result<()> {
        self.connection.listen(&ends_of_jobs(unit)).map_err(|failed| lost(failed, self.user))?;
        let what = format!("systemd does not stop the scope {unit:?}");
        let serial = self.send("StopUnit", &[Value::text(unit), Value::text("replace")], &[])?;
        match self.connection.answer(serial).map_err(|failed| lost(failed, self.user))? {
            Answer::Error(name, _) if name.ends_with(".NoSuchUnit") => Ok(()),
            answer => {
                let job = returned(answer, &what)?;
                let stopped = self.job(job, &what, unit);
                // One that has failed keeps its name until somebody says so.
                let call = Call { answered: false, ..call(&self.connection, "ResetFailedUnit", &[]) };
                let arguments = [Value::text(unit)];
                self.connection
                    .ask(&Call { arguments: &arguments, ..call }, &[])
                    .map_err(|failed| lost(failed, self.user))?;
                stopped
            }
        }
    }

    /// Moves a process into a unit's cgroup, or one below it.
    pub fn attach(&mut self, unit: &str, below: &str, pid: i32) -> Result<()> {
        let pids = Value::Array("u".into(), vec![Value::U32(pid.unsigned_abs())]);
        let arguments = [Value::text(unit), Value::text(below), pids];
        let serial = self.send("AttachProcessesToUnit", &arguments, &[])?;
        let answer = self.connection.answer(serial).map_err(|failed| lost(failed, self.user))?;
        returned(answer, &format!("systemd does not move a process into the scope {unit:?}")).map(drop)
    }

    fn send(&mut self, member: &str, arguments: &[Value], fds: &[BorrowedFd<'_>]) -> Result<u32> {
        let call = Call { fds: fds.len() as u32, ..call(&self.connection, member, arguments) };
        self.connection.ask(&call, fds).map_err(|failed| lost(failed, self.user))
    }
}

fn call<'a>(connection: &Connection, member: &'a str, arguments: &'a [Value]) -> Call<'a> {
    let destination = if connection.peer() == Peer::Bus { NAME } else { "" };
    Call { destination, path: OBJECT, interface: MANAGER, member, arguments, fds: 0, answered: true }
}

fn pair(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))])
}

fn pairs(properties: &[Property], version: u32) -> Vec<Value> {
    let known = properties.iter().filter(|property| property.since <= version);
    known.map(|property| pair(&property.name, property.value.clone())).collect()
}

fn returned(answer: Answer, what: &str) -> Result<Vec<Value>> {
    match answer {
        Answer::Return(values) => Ok(values),
        Answer::Error(name, text) => {
            let error = Error::new(Kind::Systemd, format!("{what}: {text}"));
            Err(match name.rsplit('.').next() {
                Some("InteractiveAuthorizationRequired" | "AccessDenied") => {
                    error.hint("this user may not ask the system's systemd: --rootless=true takes the user's own")
                }
                _ => error.hint(format!("its error is {name}")),
            })
        }
    }
}

fn lost(failed: windlass_sys::Failed, user: bool) -> Error {
    let whose = if user { "the user's systemd" } else { "systemd" };
    let timed_out = failed.errno == nix::errno::Errno::ETIMEDOUT;
    let error = failed.doing(format!("{whose} does not answer")).kind_is(Kind::Systemd);
    match timed_out {
        true => error.hint(format!(
            "nothing came for {} s: `systemctl list-jobs` shows what it is busy with",
            PATIENCE.as_secs()
        )),
        false => error,
    }
}

fn sockets_of_system() -> Vec<(PathBuf, Peer)> {
    let bus = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().and_then(|address| path_in(&address));
    let bus = (bus.unwrap_or_else(|| "/run/dbus/system_bus_socket".into()), Peer::Bus);
    // It hangs up on everybody but root.
    let private = nix::unistd::geteuid().is_root() && probe::in_first_user_namespace();
    private.then(|| ("/run/systemd/private".into(), Peer::Service)).into_iter().chain([bus]).collect()
}

fn sockets_of_user() -> Vec<(PathBuf, Peer)> {
    let mut sockets = Vec::new();
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    if let Some(dir) = dir.as_deref().map(Path::new) {
        sockets.push((dir.join("systemd/private"), Peer::Service));
        sockets.push((dir.join("bus"), Peer::Bus));
    }
    let bus = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok().and_then(|address| path_in(&address));
    sockets.extend(bus.map(|path| (path, Peer::Bus)));
    sockets
}

/// The first path of a list of addresses (`unix:path=/run/bus,guid=...;...`).
fn path_in(addresses: &str) -> Option<PathBuf> {
    let mut keys = addresses.split(';').filter_map(|address| address.strip_prefix("unix:"));
    let path = keys.find_map(|keys| keys.split(',').find_map(|key| key.strip_prefix("path=")))?;
    Some(percent_decoded(path).into())
}

/// Addresses escape bytes as in `%20`.
fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend(&part.as_bytes()[2..]);
            }
            None => out.extend(format!("%{part}").as_bytes()),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_an_address() {
        let path = |address| path_in(address).map(|path| path.display().to_string());
        assert_eq!(path("unix:path=/run/user/1000/bus,guid=1"), Some("/run/user/1000/bus".into()));
        assert_eq!(path("tcp:host=x;unix:abstract=/tmp/x;unix:path=/a%20b"), Some("/a b".into()));
        assert_eq!(path("autolaunch:"), None);
    }
}
