//! The scope of systemd that is the container's cgroup: its name, its place and its properties.
//!
//! A limit that systemd has a property for is given to systemd, so that it stays in force when systemd writes the
//! settings of a unit again (`daemon-reload`). The exact values are written to the cgroup as well, because
//! systemd rounds some of them and reports no missing controller.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::cgroup::{Absent, Limits, Write};
use super::device_rules;
use windlass_base::abi::bits_of_list;
use windlass_base::error::{Diagnostic, Error, Result};
use windlass_base::spec::{DeviceRule, Resources, Spec, escape};
use windlass_base::variant::Value;

/// The systemd that makes the scope, and the default prefix of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Systemd {
    /// Whether it is the user's instance, not the system's.
    pub user: bool,
    /// The prefix of the container's id.
    pub prefix: &'static str,
}

/// A scope to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// For example `docker-1234.scope`.
    pub name: String,
    /// For example `system.slice`.
    pub slice: String,
    /// Whether it is a unit of the user's instance.
    pub user: bool,
    /// Its properties, in the order in which they are set.
    pub properties: Vec<Property>,
}

/// One property.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// Its name on D-Bus.
    pub name: Cow<'static, str>,
    /// Its value.
    pub value: Value,
    /// Its origin as a JSON Pointer, or a reason.
    pub pointer: String,
    /// The first version of systemd that has it.
    pub since: u32,
}

impl Property {
    fn new(name: &'static str, value: Value, pointer: &str) -> Property {
        Property { name: name.into(), value, pointer: pointer.into(), since: 0 }
    }
}

/// Annotations with this prefix are properties of the scope.
const ANNOTATION: &str = "org.systemd.property.";

impl Unit {
    /// The path of its cgroup below the cgroup of systemd.
    pub fn path(&self) -> String {
        format!("{}/{}", expand(&self.slice).unwrap_or_default(), self.name)
    }
}

/// Plans the scope of a container.
pub(super) fn unit(
    id: &str,
    spec: &Spec,
    limits: &Limits,
    systemd: Systemd,
    faults: &mut Vec<Diagnostic>,
) -> Option<Unit> {
    let asked = spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
    let (slice, name) = match place(asked, id, systemd) {
        Ok(place) => place,
        Err(error) => {
            faults.push(Diagnostic { pointer: "/linux/cgroupsPath".into(), msg: error.message().into() });
            return None;
        }
    };
    let always = "(every scope of a container)";
    let mut properties = vec![
        Property::new("Description", Value::text(format!("OCI container {id}")), always),
        Property::new(
            "Slice",
            Value::text(slice.clone()),
            if asked.is_empty() { always } else { "/linux/cgroupsPath" },
        ),
        Property::new("Delegate", Value::Bool(true), always),
        Property::new("DefaultDependencies", Value::Bool(false), always),
        // No trace of the unit must stay when its last process has ended.
        Property::new("CollectMode", Value::text("inactive-or-failed"), always),
    ];
    if !limits.writes.iter().any(|write| write.file == "pids.max") {
        // Without this property systemd sets a limit of its own.
        properties.push(Property::new("TasksMax", Value::U64(u64::MAX), "(no limit unless asked for)"));
    }
    annotations(&spec.annotations, &mut properties, faults);
    properties.extend(of_limits(&limits.writes));
    if !systemd.user {
        let none = Resources::default();
        let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref()).unwrap_or(&none);
        properties.extend(of_devices(&resources.devices));
    }
    Some(Unit { name, slice, user: systemd.user, properties })
}

/// Slice and name from `slice:prefix:name`, with runc's defaults.
fn place(cgroups_path: &str, id: &str, systemd: Systemd) -> Result<(String, String)> {
    let default = if systemd.user { "user.slice" } else { "system.slice" };
    let (slice, prefix, name) = match cgroups_path.split(':').collect::<Vec<_>>()[..] {
        [""] => ("", systemd.prefix, id),
        [slice, prefix, name] if !name.is_empty() => (slice, prefix, name),
        _ => {
            return Err(Error::usage(format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {cgroups_path:?} instead"
            )));
        }
    };
    let slice = if slice.is_empty() { default } else { slice };
    expand(slice)?;
    let unit = match prefix {
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    };
    // systemd.unit(5), "unit names".
    let valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if unit.len() > 255 || !unit.chars().all(valid) {
        return Err(Error::usage(format!("{unit:?} is not a valid name of a unit")));
    }
    Ok((slice.to_owned(), unit))
}

/// The path of a slice's cgroup: each dash in its name is a level (systemd.slice(5)).
fn expand(slice: &str) -> Result<String> {
    let invalid = || Error::usage(format!("invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if name == "-" {
        return Ok(String::new());
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c);
    if name.split('-').any(str::is_empty) || !name.chars().all(valid) {
        return Err(invalid());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.map(|end| format!("/{}.slice", &name[..end])).collect())
}

fn annotations(annotations: &BTreeMap<String, String>, properties: &mut Vec<Property>, faults: &mut Vec<Diagnostic>) {
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let pointer = format!("/annotations/{}", escape(key));
        let mut fault = |msg: String| faults.push(Diagnostic { pointer: pointer.clone(), msg });
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            fault(format!("{name:?} is not the name of a property: it has ASCII letters only, three at least"));
            continue;
        }
        let Some(value) = Value::parse(text) else {
            // The value is shown in part, since it may be of any length.
            let shown: String = text.chars().take(100).collect();
            fault(format!(
                "{shown:?} is not a value that D-Bus can carry, in GVariant's text form, such as true, uint64 5 or ['a', 'b']"
            ));
            continue;
        };
        // Unit files have seconds where D-Bus has microseconds.
        let seconds = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        let (name, value) = match seconds {
            None => (name.to_owned(), value),
            Some(stem) => match microseconds(&value) {
                Some(value) => (format!("{stem}USec"), value),
                None => {
                    fault(format!("{text:?} is not a number of seconds"));
                    continue;
                }
            },
        };
        properties.push(Property { name: name.into(), value, pointer, since: 0 });
    }
}

fn microseconds(seconds: &Value) -> Option<Value> {
    let whole = |seconds: i128| u64::try_from(seconds).ok()?.checked_mul(1_000_000);
    let microseconds = match seconds {
        Value::I16(n) => whole((*n).into()),
        Value::U16(n) => whole((*n).into()),
        Value::I32(n) => whole((*n).into()),
        Value::U32(n) => whole((*n).into()),
        Value::I64(n) => whole((*n).into()),
        Value::U64(n) => whole((*n).into()),
        Value::Double(n) if *n >= 0.0 && *n < 1e12 => Some((n * 1e6) as u64),
        _ => None,
    };
    microseconds.map(Value::U64)
}

/// The properties with the meaning of these writes.
pub fn of_limits(writes: &[Write]) -> Vec<Property> {
    let mut out: Vec<Property> = Vec::new();
    for write in writes {
        for mut property in of_write(write) {
            property.pointer.clone_from(&write.pointer);
            match out.iter_mut().find(|other| other.name == property.name) {
                // The last write holds, but limits of different devices are collected.
                Some(Property { value: Value::Array(of, list), .. }) if of == "(st)" => {
                    if let Value::Array(_, more) = property.value {
                        list.extend(more);
                    }
                }
                Some(other) => *other = property,
                None => out.push(property),
            }
        }
    }
    out
}

fn of_write(write: &Write) -> Vec<Property> {
    let value = write.value.trim();
    let number = || if value == "max" { Some(u64::MAX) } else { value.parse().ok() };
    let one = |name: &'static str| number().map(|n| Property::new(name, Value::U64(n), "")).into_iter().collect();
    match &*write.file {
        "memory.max" => one("MemoryMax"),
        "memory.low" => one("MemoryLow"),
        "memory.min" => one("MemoryMin"),
        "memory.high" => one("MemoryHigh"),
        "memory.swap.max" => one("MemorySwapMax"),
        "pids.max" => one("TasksMax"),
        "cpu.weight" => one("CPUWeight"),
        // For systemd an idle cgroup has the weight 0.
        "cpu.idle" if value == "1" => {
            vec![Property { since: 252, ..Property::new("CPUWeight", Value::U64(0), "") }]
        }
        "cpu.max" => quota(value),
        "cpuset.cpus" => cpus("AllowedCPUs", value),
        "cpuset.mems" => cpus("AllowedMemoryNodes", value),
        "io.weight" => io_weight(value),
        "io.bfq.weight" => match &write.absent {
            Absent::Instead { value, .. } => io_weight(value),
            _ => Vec::new(),
        },
        "io.max" => io_limits(value),
        _ => Vec::new(),
    }
}

/// systemd's unit of a quota in its files is a percent. A fraction would be lost when it reads them again, so it is
/// rounded up.
const PERCENT: u64 = 10_000;

/// The microseconds in a second that `cpu.max` grants, exact, and its period.
fn per_second(value: &str) -> Option<(u64, Option<u64>)> {
    let mut words = value.split_whitespace();
    let (quota, period) = (words.next()?, words.next().map(|period| period.parse::<u64>()));
    let period = period.transpose().ok()?;
    match quota {
        "max" => Some((u64::MAX, period)),
        quota => {
            let micros = quota.parse::<u64>().ok()?.checked_mul(1_000_000)?;
            Some((micros.div_ceil(period.unwrap_or(100_000).max(1)), period))
        }
    }
}

fn quota(value: &str) -> Vec<Property> {
    let Some((micros, period)) = per_second(value) else { return Vec::new() };
    let rounded = micros.checked_next_multiple_of(PERCENT).unwrap_or(u64::MAX);
    let mut out = vec![Property::new("CPUQuotaPerSecUSec", Value::U64(rounded), "")];
    out.extend(period.map(|period| Property::new("CPUQuotaPeriodUSec", Value::U64(period), "")));
    out
}

/// A mask of numbers, lowest byte first.
fn cpus(name: &'static str, list: &str) -> Vec<Property> {
    let Some(bits) = bits_of_list(list) else { return Vec::new() };
    let mut bytes: Vec<u8> = bits.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    vec![Property::new(name, Value::Array("y".into(), bytes.into_iter().map(Value::Byte).collect()), "")]
}

/// The weight for all devices. systemd has no property for the weight of a single device, which is only written to the
/// file.
fn io_weight(value: &str) -> Vec<Property> {
    let weight = value.strip_prefix("default ").unwrap_or(value).parse().ok();
    weight.map(|weight| Property::new("IOWeight", Value::U64(weight), "")).into_iter().collect()
}

const IO: &[(&str, &str)] = &[
    ("rbps", "IOReadBandwidthMax"),
    ("wbps", "IOWriteBandwidthMax"),
    ("riops", "IOReadIOPSMax"),
    ("wiops", "IOWriteIOPSMax"),
];

fn io_limits(value: &str) -> Vec<Property> {
    let mut words = value.split_whitespace();
    let Some(device) = words.next().map(|numbers| format!("/dev/block/{numbers}")) else { return Vec::new() };
    let limit = |word: &str| {
        let (key, limit) = word.split_once('=')?;
        let (_, name) = IO.iter().find(|row| row.0 == key)?;
        let limit = if limit == "max" { u64::MAX } else { limit.parse().ok()? };
        let entry = Value::Struct(vec![Value::text(device.clone()), Value::U64(limit)]);
        Some(Property::new(name, Value::Array("(st)".into(), vec![entry]), ""))
    };
    words.filter_map(limit).collect()
}

/// Removes the devices that a unit allows: another list would be added to them.
pub fn no_devices() -> Property {
    Property::new("DeviceAllow", Value::Array("(ss)".into(), Vec::new()), "/devices")
}

/// The devices that systemd's own filter must allow, so that the runtime's filter decides. systemd cannot express that
/// a rule takes away a part of what another grants, so then its filter allows all of it.
pub fn of_devices(rules: &[DeviceRule]) -> Vec<Property> {
    let pointer = if rules.is_empty() { "(containers may use few devices)" } else { "/linux/resources/devices" };
    match device_rules::allowed(rules) {
        None => {
            vec![Property::new("DevicePolicy", Value::text("auto"), pointer)]
        }
        Some(allowed) => {
            let entry =
                |(name, letters): (String, String)| Value::Struct(vec![Value::Text(name), Value::Text(letters)]);
            let entries = allowed.into_iter().map(entry).collect();
            vec![
                Property::new("DevicePolicy", Value::text("strict"), pointer),
                Property::new("DeviceAllow", Value::Array("(ss)".into(), entries), pointer),
            ]
        }
    }
}

#[cfg(test)]
mod tests;
