//! Time as callers read it: RFC 3339 in UTC.
//!
//! Two conversions are all that is needed. The crate `time` would add a dependency and make no program smaller.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;

/// The time to the second, as in log lines: `2026-11-24T02:34:45Z`.
pub fn seconds(time: SystemTime) -> String {
    let (seconds, _) = since_epoch(time);
    format!("{}Z", date_and_time(seconds))
}

/// The time to the nanosecond without trailing zeros, as Go writes it into JSON: `2026-11-24T02:34:45.12Z`.
pub fn nanoseconds(time: SystemTime) -> String {
    let (seconds, nanoseconds) = since_epoch(time);
    let fraction = format!("{nanoseconds:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{}Z", date_and_time(seconds)),
        digits => format!("{}.{digits}Z", date_and_time(seconds)),
    }
}

/// Whether one time in UTC is before another. Their fractions may differ in length, and their zones in form.
pub fn is_before(one: &str, other: &str) -> bool {
    moment(one) < moment(other)
}

/// A time without its zone, which is UTC, and without trailing zeros of its fraction.
fn moment(time: &str) -> &str {
    let bare = time.trim_end_matches('Z').trim_end_matches("+00:00");
    if bare.contains('.') { bare.trim_end_matches('0').trim_end_matches('.') } else { bare }
}

/// Whole seconds, rounded down, and the nanoseconds above them.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map(|seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanoseconds => (seconds.map(|seconds| seconds - 1), 1_000_000_000 - nanoseconds),
            }
        }
    };
    (seconds.unwrap_or(i64::MAX / 2), nanoseconds)
}

fn date_and_time(seconds: i64) -> String {
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// The Gregorian date of a day counted from 1970-01-01.
///
/// Counts in years that begin on the first of March, so that the leap day is the last of its
/// year, within the 400 years after which the calendar repeats.
fn date(day: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    const DAYS_TO_1970: i64 = 719_468;
    let day = day + DAYS_TO_1970;
    let era = day.div_euclid(DAYS_IN_400_YEARS);
    let day = day.rem_euclid(DAYS_IN_400_YEARS);
    let leaps = day / 1_460 - day / 36_524 + day / 146_096;
    let year = (day - leaps) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March on have 153 days in each five.
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + next, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_compared_with_fractions_of_any_length() {
        for (one, other) in [
            ("2026-01-01T00:00:04Z", "2026-01-01T00:00:04.000000001Z"),
            ("2026-01-01T00:00:05Z", "2026-01-01T00:00:05.1Z"),
            ("2026-01-01T00:00:05.1Z", "2026-01-01T00:00:05.12Z"),
        ] {
            assert!(is_before(one, other) && !is_before(other, one), "{one}");
        }
        assert!(!is_before("2026-01-01T00:00:05.1Z", "2026-01-01T00:00:05.100+00:00"));
    }

    #[test]
    fn known_moments_read_as_they_are_known() {
        // Computed with `date -u -d @N`.
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(seconds(UNIX_EPOCH + Duration::from_secs(unix)), text);
        }
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut last = date(-200_000);
        for day in -199_999..200_000 {
            let now = date(day);
            let follows = now == (last.0, last.1, last.2 + 1)
                || (now.2 == 1
                    && last.2 >= 28
                    && (now.1 == last.1 + 1 || (now.1 == 1 && last.1 == 12 && now.0 == last.0 + 1)));
            assert!(follows, "{last:?} then {now:?}");
            last = now;
        }
    }

    #[test]
    fn a_fraction_has_no_trailing_zeros() {
        let at = |nanos| nanoseconds(UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(at(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(at(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(at(2_000_000_000), "1970-01-01T00:00:02Z");
    }

    #[test]
    fn before_the_epoch_is_no_panic() {
        assert_eq!(nanoseconds(UNIX_EPOCH - Duration::from_millis(500)), "1969-12-31T23:59:59.5Z");
    }
}
