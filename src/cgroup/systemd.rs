//! The cgroup manager systemd: it makes and removes the cgroup of a transient scope.
//!
//! One `StartTransientUnit` has all properties, and the wait for its job is bounded. Two properties of the manager
//! are read: its version, since newer ones take processes by pidfd, and the cgroup of a user's instance. Their
//! requests are sent early, so that the replies are there when they are needed.
//!
//! systemd's own socket is tried first: it needs no bus, no Hello and no match rule. If it cannot be used (as another
//! user, in a container), the bus is tried.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass_base::error::{Error, Kind, Origin, Result};
use windlass_base::variant::Value;
use windlass_dbus::{Call, Connection, Message, Peer, Reply};
use windlass_plan::unit::{Property, Unit};
use windlass_sys::probe;
use windlass_sys::process::Child;

/// A connection to systemd.
pub struct Systemd {
    connection: Connection,
    user: bool,
    version: Request,
    root: Request,
}

/// The state of a request for a property.
enum Request {
    NotSent,
    /// The serial of the call.
    Sent(u32),
    Answered(String),
}

/// How long all replies and jobs of systemd may take. They take milliseconds, unless the host is in trouble.
const TIMEOUT: Duration = Duration::from_secs(30);

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The match rule for the ends of a unit's jobs. A unit name has no quotes.
fn job_removed_rule(unit: &str) -> String {
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
    /// Connects to the system's instance, or to the user's. The first request waits for the authentication, so it
    /// waits less if this is called early.
    pub fn connect(user: bool) -> Result<Systemd> {
        let sockets = if user { sockets_of_user() } else { sockets_of_system() };
        let mut last = None;
        for (path, peer) in &sockets {
            let opened = match peer {
                Peer::Service => Connection::begin(path, *peer, TIMEOUT),
                // A bus that refuses this user must be noticed now, so that the next socket is tried.
                Peer::Bus => Connection::open(path, *peer, TIMEOUT),
            };
            match opened {
                Ok(connection) => {
                    return Ok(Systemd { connection, user, version: Request::NotSent, root: Request::NotSent });
                }
                Err(failed) => last = Some((path, failed)),
            }
        }
        let manager = if user { "the user's systemd" } else { "systemd" };
        let error = match last {
            Some((path, failed)) => {
                failed.context(format!("cannot reach {manager} at {path:?}")).with_kind(Kind::Systemd)
            }
            None => Error::new(Kind::Systemd, format!("cannot reach {manager}: it is not known where it listens")),
        };
        Err(error.with_origin(Origin::Flag("--systemd-cgroup".into())).with_hint(if user {
            "it runs for users who are logged in, or who linger (`loginctl enable-linger`), and is found by \
             XDG_RUNTIME_DIR, which su(1) and sudo(8) do not set"
        } else {
            "without --systemd-cgroup the runtime makes the cgroup itself; in docker: --exec-opt native.cgroupdriver=cgroupfs"
        }))
    }

    fn request_property(&mut self, name: &str) -> Result<u32> {
        let arguments = [Value::text(MANAGER), Value::text(name)];
        let call =
            Call { interface: "org.freedesktop.DBus.Properties", ..to_manager(&self.connection, "Get", &arguments) };
        self.connection.send(&call, &[]).map_err(|failed| connection_failed(failed, self.user))
    }

    fn property(&mut self, name: &str, which: fn(&mut Systemd) -> &mut Request) -> Result<String> {
        let serial = match which(self) {
            Request::Answered(text) => return Ok(text.clone()),
            Request::Sent(serial) => *serial,
            Request::NotSent => self.request_property(name)?,
        };
        let reply = self.connection.reply(serial).map_err(|failed| connection_failed(failed, self.user))?;
        let text = match returned(reply, "cannot ask systemd")?.pop() {
            Some(Value::Variant(value)) => match *value {
                Value::Text(text) => text,
                _ => String::new(),
            },
            _ => String::new(),
        };
        *which(self) = Request::Answered(text.clone());
        Ok(text)
    }

    /// The path of the scope's cgroup below the root of the hierarchy. This also requests the version, which
    /// [`Systemd::request_scope`] needs.
    pub fn scope_path(&mut self, unit: &Unit) -> Result<String> {
        self.version = Request::Sent(self.request_property("Version")?);
        Ok(format!("{}{}", self.root()?, unit.path()))
    }

    /// The path of systemd's own cgroup, which is above the cgroups of all its units. It is empty for the root.
    pub fn root(&mut self) -> Result<String> {
        // The system's instance manages the whole hierarchy.
        if !self.user {
            return Ok(String::new());
        }
        let root = self.property("ControlGroup", |systemd| &mut systemd.root)?;
        Ok(root.trim_end_matches('/').to_owned())
    }

    /// The version of systemd: 252 for "252 (252.39-1~deb12u1)".
    pub fn version(&mut self) -> Result<u32> {
        let text = self.property("Version", |systemd| &mut systemd.version)?;
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        // An unknown version counts as an old one.
        Ok(digits.parse().unwrap_or(0))
    }

    /// Requests the scope for this process. The returned serial is for [`Systemd::await_scope`].
    pub fn request_scope(&mut self, unit: &Unit, child: &Child) -> Result<u32> {
        let version = self.version()?;
        self.connection
            .add_match(&job_removed_rule(&unit.name))
            .map_err(|failed| connection_failed(failed, self.user))?;
        let mut fds = Vec::new();
        let process = if version >= TAKES_PIDFDS {
            fds.push(child.pidfd.as_fd());
            pair("PIDFDs", Value::Array("h".into(), vec![Value::Fd(0)]))
        } else {
            // A child that is not reaped keeps its pid.
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
        self.call("StartTransientUnit", &arguments, &fds)
    }

    /// Waits until the scope is started and the process is in it.
    pub fn await_scope(&mut self, serial: u32, unit: &Unit) -> Result<()> {
        let what = format!("systemd does not start the scope {:?}", unit.name);
        let reply = self.connection.reply(serial).map_err(|failed| connection_failed(failed, self.user))?;
        let job = match reply {
            Reply::Error(name, _) if name.ends_with(".UnitExists") => {
                return Err(Error::new(Kind::AlreadyExists, format!("{what}: there is one of that name"))
                    .with_origin(Origin::config("/linux/cgroupsPath"))
                    .with_hint(format!(
                        "`systemctl {}status {}` shows whose it is",
                        if self.user { "--user " } else { "" },
                        unit.name
                    )));
            }
            reply => returned(reply, &what)?,
        };
        self.await_job(job, &what, &unit.name)
    }

    /// Waits for the end of the job that a call has returned.
    fn await_job(&mut self, mut returned: Vec<Value>, what: &str, unit: &str) -> Result<()> {
        let Some(Value::Path(job)) = returned.pop() else { return Ok(()) };
        let ours = |message: &Message| {
            message.member == "JobRemoved"
                && matches!(message.arguments.get(1), Some(Value::Path(path)) if *path == job)
        };
        let arguments = self.connection.signal(ours).map_err(|failed| connection_failed(failed, self.user))?;
        match arguments.last() {
            Some(Value::Text(result)) if result != "done" && result != "skipped" => Err(Error::new(
                Kind::Systemd,
                format!("{what}: its job is {result}"),
            )
            .with_hint(format!("`journalctl {}--unit {unit}` has its reason", if self.user { "--user " } else { "" }))),
            _ => Ok(()),
        }
    }

    /// Changes properties of a unit.
    pub fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let version = self.version()?;
        let list = Value::Array("(sv)".into(), pairs(&by_name(properties), version));
        let arguments = [Value::text(unit), Value::Bool(true), list];
        let serial = self.call("SetUnitProperties", &arguments, &[])?;
        let reply = self.connection.reply(serial).map_err(|failed| connection_failed(failed, self.user))?;
        returned(reply, &format!("systemd does not change the scope {unit:?}")).map(drop)
    }

    /// Stops a unit and does not wait for its job, which is enough if its cgroup was removed already. Succeeds if the
    /// unit does not exist any more.
    pub fn stop_nowait(&mut self, unit: &str) -> Result<()> {
        let serial = self.call("StopUnit", &[Value::text(unit), Value::text("replace")], &[])?;
        match self.connection.reply(serial).map_err(|failed| connection_failed(failed, self.user))? {
            Reply::Error(name, _) if name.ends_with(".NoSuchUnit") => Ok(()),
            reply => returned(reply, &format!("systemd does not stop the scope {unit:?}")).map(drop),
        }
    }

    /// Stops a unit, waits for its job, and resets its failed state. Succeeds if the unit does not exist any more.
    pub fn stop(&mut self, unit: &str) -> Result<()> {
        self.connection.add_match(&job_removed_rule(unit)).map_err(|failed| connection_failed(failed, self.user))?;
        let what = format!("systemd does not stop the scope {unit:?}");
        let serial = self.call("StopUnit", &[Value::text(unit), Value::text("replace")], &[])?;
        match self.connection.reply(serial).map_err(|failed| connection_failed(failed, self.user))? {
            Reply::Error(name, _) if name.ends_with(".NoSuchUnit") => Ok(()),
            reply => {
                let job = returned(reply, &what)?;
                let stopped = self.await_job(job, &what, unit);
                // A failed unit keeps its name until its state is reset.
                let call = Call { reply_expected: false, ..to_manager(&self.connection, "ResetFailedUnit", &[]) };
                let arguments = [Value::text(unit)];
                self.connection
                    .send(&Call { arguments: &arguments, ..call }, &[])
                    .map_err(|failed| connection_failed(failed, self.user))?;
                stopped
            }
        }
    }

    /// Moves a process into the cgroup of a unit, or into its sub-cgroup at the path `below`.
    pub fn attach(&mut self, unit: &str, below: &str, pid: i32) -> Result<()> {
        let pids = Value::Array("u".into(), vec![Value::U32(pid.unsigned_abs())]);
        let arguments = [Value::text(unit), Value::text(below), pids];
        let serial = self.call("AttachProcessesToUnit", &arguments, &[])?;
        let reply = self.connection.reply(serial).map_err(|failed| connection_failed(failed, self.user))?;
        returned(reply, &format!("systemd does not move a process into the scope {unit:?}")).map(drop)
    }

    fn call(&mut self, member: &str, arguments: &[Value], fds: &[BorrowedFd<'_>]) -> Result<u32> {
        let call = Call { fds: fds.len() as u32, ..to_manager(&self.connection, member, arguments) };
        self.connection.send(&call, fds).map_err(|failed| connection_failed(failed, self.user))
    }
}

/// A call of a method of the manager.
fn to_manager<'a>(connection: &Connection, member: &'a str, arguments: &'a [Value]) -> Call<'a> {
    let destination = if connection.peer() == Peer::Bus { NAME } else { "" };
    Call { destination, path: OBJECT, interface: MANAGER, member, arguments, fds: 0, reply_expected: true }
}

fn pair(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))])
}

fn pairs(properties: &[Property], version: u32) -> Vec<Value> {
    let known = properties.iter().filter(|property| property.since <= version);
    known.map(|property| pair(&property.name, property.value.clone())).collect()
}

/// The properties in the order of their names; those of one name stay in theirs. systemd writes a drop-in for each, and
/// a unit whose drop-ins were not written in this order needs a daemon-reload for it.
fn by_name(properties: &[Property]) -> Vec<Property> {
    let mut sorted: Vec<Property> = Vec::with_capacity(properties.len());
    for property in properties {
        let place = sorted.partition_point(|other| other.name <= property.name);
        sorted.insert(place, property.clone());
    }
    sorted
}

fn returned(reply: Reply, what: &str) -> Result<Vec<Value>> {
    match reply {
        Reply::Return(values) => Ok(values),
        Reply::Error(name, text) => {
            let error = Error::new(Kind::Systemd, format!("{what}: {text}"));
            Err(match name.rsplit('.').next() {
                Some("InteractiveAuthorizationRequired" | "AccessDenied") => {
                    error.with_hint("this user may not ask the system's systemd: --rootless=true takes the user's own")
                }
                _ => error.with_hint(format!("its error is {name}")),
            })
        }
    }
}

fn connection_failed(failed: windlass_sys::SyscallError, user: bool) -> Error {
    let manager = if user { "the user's systemd" } else { "systemd" };
    let timed_out = failed.errno == nix::errno::Errno::ETIMEDOUT;
    let error = failed.context(format!("{manager} does not answer")).with_kind(Kind::Systemd);
    match timed_out {
        true => error.with_hint(format!(
            "nothing came for {} s: `systemctl list-jobs` shows what it is busy with",
            TIMEOUT.as_secs()
        )),
        false => error,
    }
}

fn sockets_of_system() -> Vec<(PathBuf, Peer)> {
    let bus = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().and_then(|address| path_in(&address));
    let bus = (bus.unwrap_or_else(|| "/run/dbus/system_bus_socket".into()), Peer::Bus);
    // systemd closes connections of all users except root.
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

/// The first path in a D-Bus address list such as `unix:path=/run/bus,guid=...;...`.
fn path_in(addresses: &str) -> Option<PathBuf> {
    let mut keys = addresses.split(';').filter_map(|address| address.strip_prefix("unix:"));
    let path = keys.find_map(|keys| keys.split(',').find_map(|key| key.strip_prefix("path=")))?;
    Some(percent_decoded(path).into())
}

/// Decodes the `%20` of D-Bus addresses.
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

    #[test]
    fn an_update_sends_properties_in_the_order_of_their_names() {
        let property = |name: &'static str, number| Property {
            name: name.into(),
            value: Value::U32(number),
            pointer: String::new(),
            since: 0,
        };
        let given = [("TasksMax", 0), ("DeviceAllow", 1), ("MemoryMax", 2), ("DevicePolicy", 3), ("DeviceAllow", 4)];
        let sorted = by_name(&given.map(|(name, number)| property(name, number)));
        // The first DeviceAllow clears the list that the second one fills.
        let expected = [("DeviceAllow", 1), ("DeviceAllow", 4), ("DevicePolicy", 3), ("MemoryMax", 2), ("TasksMax", 0)];
        assert_eq!(sorted, expected.map(|(name, number)| property(name, number)));
    }
}
