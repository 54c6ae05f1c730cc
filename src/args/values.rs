//! The values of flags and operands: container ids, signals, sizes, durations.

use std::ffi::OsStr;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;

use windlass_base::error::{Error, Result};
use windlass_base::id::check_id;

/// A container id. Every verb checks it, because the id becomes a file name.
pub fn container_id(word: &OsStr) -> Result<String> {
    if word.is_empty() {
        return Err(Error::usage("container id cannot be empty"));
    }
    // The replacement character of a word that is not UTF-8 is refused like any other.
    let id = word.to_string_lossy();
    check_id(&id)?;
    Ok(id.into_owned())
}

/// A signal by number or name, with or without `SIG`, in any case; `RTMIN+3`, `RTMAX-1`.
pub fn signal(text: &str) -> Result<i32> {
    let unknown = || Error::usage(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=libc::SIGRTMAX()).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = realtime(name) {
        return number.filter(|n| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(n)).ok_or_else(unknown);
    }
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        "UNUSED" => "SYS",
        other => other,
    };
    Signal::from_str(&format!("SIG{name}")).map(|signal| signal as i32).map_err(|_| unknown())
}

/// The number of a realtime signal. The outer `None` means that the name is none of a realtime signal, the inner that
/// its offset is not valid.
fn realtime(name: &str) -> Option<Option<i32>> {
    let (base, offset) = if let Some(offset) = name.strip_prefix("RTMIN") {
        (libc::SIGRTMIN(), offset)
    } else {
        (libc::SIGRTMAX(), name.strip_prefix("RTMAX")?)
    };
    if offset.is_empty() {
        return Some(Some(base));
    }
    Some(offset.parse::<i32>().ok().filter(|_| offset.starts_with(['+', '-'])).and_then(|n| base.checked_add(n)))
}

/// A number of bytes: decimal, with an optional suffix b, k, m, g, t or p for powers of 1024. `kb` and `kib` mean the
/// same as `k`. -1 means no limit.
pub fn bytes(text: &str) -> Result<i64> {
    let invalid =
        || Error::usage(format!("invalid size {text:?}: it must be a number with an optional suffix k, m, g, t or p"));
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (digits, suffix) = lower.split_at(split);
    let shift = match suffix.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(invalid()),
    };
    scaled(digits, shift).ok_or_else(invalid)
}

/// `digits` times 2^`shift`. A fraction is rounded down.
fn scaled(digits: &str, shift: u32) -> Option<i64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let whole = whole.parse::<i128>().ok().filter(|n| *n <= i128::from(i64::MAX))? << shift;
    let fraction = match fraction {
        "" => 0,
        digits => (digits.parse::<i128>().ok()? << shift) / 10_i128.pow(digits.len() as u32),
    };
    i64::try_from(whole + fraction).ok()
}

/// A duration above 0 as Go writes it: `5s`, `1m30s`, `500ms`, `1.5h`.
pub fn duration(text: &str) -> Result<Duration> {
    let invalid = || Error::usage(format!("invalid duration {text:?}: it must be like 5s, 500ms or 1m30s"));
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        total += number.parse::<f64>().map_err(|_| invalid())? * scale;
        rest = tail;
    }
    let duration = Duration::try_from_secs_f64(total).map_err(|_| invalid())?;
    if duration.is_zero() {
        return Err(Error::usage("duration interval must be greater than 0"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_file_name() {
        for id in ["a", "A-b_c+d.e", "...", "0", &"x".repeat(1024)] {
            assert!(container_id(id.as_ref()).is_ok(), "{id}");
        }
        for id in [".", "..", "a/b", "a b", "ü", "a\n", &"x".repeat(1025)] {
            let error = container_id(id.as_ref()).expect_err(id);
            assert!(error.message().starts_with(&format!("invalid container ID format: {id:?}")), "{error}");
        }
        use std::os::unix::ffi::OsStrExt;
        assert!(container_id(OsStr::from_bytes(b"a\xff")).is_err());
        assert_eq!(container_id(OsStr::new("")).expect_err("empty").message(), "container id cannot be empty");
    }

    #[test]
    fn a_signal_has_many_names() {
        for name in ["9", "KILL", "SIGKILL", "sigkill", "kill", "SigKill"] {
            assert_eq!(signal(name).expect(name), 9, "{name}");
        }
        assert_eq!(signal("RTMIN+3").expect("valid"), libc::SIGRTMIN() + 3);
        assert_eq!(signal("SIGRTMIN").expect("valid"), libc::SIGRTMIN());
        assert_eq!(signal("rtmax-1").expect("valid"), libc::SIGRTMAX() - 1);
        assert_eq!(signal("IOT").expect("valid"), libc::SIGABRT);
        assert_eq!(signal("0").expect("valid"), 0);
        for name in ["", "SIG", "KILLER", "-1", "65", "9.0", "RTMIN+99", "RTMIN3", "RTMAX+1", "SIGSIGKILL"] {
            assert_eq!(signal(name).expect_err(name).message(), format!("unknown signal {name:?}"));
        }
    }

    #[test]
    fn sizes_have_suffixes() {
        let cases = [
            ("0", 0),
            ("-1", -1),
            ("1024", 1024),
            ("1k", 1 << 10),
            ("1KB", 1 << 10),
            ("64m", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2 t", 2 << 40),
            ("1p", 1 << 50),
            ("9223372036854775807", i64::MAX),
        ];
        for (text, value) in cases {
            assert_eq!(bytes(text).expect(text), value, "{text}");
        }
        for text in ["", "k", "-2", "1x", "1kk", ".5g", "1.2.3", "8192p", "9223372036854775808", "1e3"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let cases = [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000)];
        for (text, milliseconds) in cases {
            assert_eq!(duration(text).expect(text), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "0s", "5", "s", "-5s", "5x", "1..5s", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
