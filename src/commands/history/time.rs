//! Moments on the command line: so long ago, or a date in UTC.

use std::time::Duration;

use crate::commands::drain::parse_time;
use crate::state::health::Time;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Ago(Duration),
    /// Milliseconds since 1970.
    At(Time),
}

impl Moment {
    /// Returns the moment in milliseconds since 1970, if the time is `now`.
    pub fn at(self, now: Time) -> Time {
        match self {
            Moment::Ago(time) => now.saturating_sub(time.as_millis() as Time),
            Moment::At(time) => time,
        }
    }
}

/// Parses a moment: `90s`, `2h`, `30d`, `2026-11-30`, `2026-11-30T14:05`, `2026-11-30T14:05:09`.
pub fn parse(text: &str) -> Result<Moment, String> {
    if let Ok(time) = parse_time(text) {
        return Ok(Moment::Ago(time));
    }
    let seconds = date(text.strip_suffix('Z').unwrap_or(text));
    let moment = seconds.and_then(|seconds| seconds.checked_mul(1000)).map(Moment::At);
    moment.ok_or_else(|| "expected a time such as 90s, 2h or 30d, or a date such as 2026-11-30T14:05".to_owned())
}

/// Returns the seconds since 1970 of a date in UTC.
fn date(text: &str) -> Option<u64> {
    let (day, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let mut parts = day.splitn(3, '-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let mut parts = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if day == 0 || day > lengths[month as usize - 1] {
        return None;
    }
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let days = years + lengths[..month as usize - 1].iter().sum::<u64>() + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_age_or_a_date() {
        let at = |text: &str| parse(text).map(|moment| moment.at(100_000));
        assert_eq!(at("90s"), Ok(10_000));
        assert_eq!(at("2h"), Ok(0));
        // As `date --utc --date TEXT +%s` says.
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2026-11-30", 1_795_996_800),
            ("2026-11-30T14:05", 1_796_047_500),
            ("2026-11-30 14:05:09Z", 1_796_047_509),
            ("2024-02-29", 1_709_164_800),
            ("2024-03-01", 1_709_251_200),
            ("2000-02-29T23:59:59", 951_868_799),
            ("2100-03-01", 4_107_542_400),
        ] {
            assert_eq!(at(text), Ok(seconds * 1000), "{text}");
        }
        for text in ["", "2", "yesterday", "2026-13-01", "2026-00-01", "2026-02-29", "2100-02-29", "2026-01-32"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["2026-01-00", "1969-12-31", "10000-01-01", "2026-01-01T24:00", "2026-01-01T00:60", "2026-01-01T00"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
