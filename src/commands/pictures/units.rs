//! Numbers and times for people: with units, and dates in UTC.
//!
//! Source of the calendar: the proleptic Gregorian one, as in ISO 8601.

use crate::commands::terminal::HumanDuration;
use crate::state::health::Time;

/// The last time that is shown, in milliseconds since 1970: the year 2200 begins. A clock could have been wrong. In
/// nanoseconds, which trace viewers use, it fits in 64 bits.
pub const MAX_TIME: Time = 7_258_118_400_000;

const DAY: Time = 86_400_000;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment in the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    pub year: u64,
    /// From 0.
    pub month: usize,
    /// From 1.
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_lengths(year: u64) -> [u64; 12] {
    [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

impl Date {
    /// Returns the date of a time in milliseconds since 1970.
    pub fn of(time: Time) -> Date {
        let time = time.min(MAX_TIME);
        let (mut day, seconds) = (time / DAY, time % DAY / 1000);
        let mut year = 1970;
        while day >= if is_leap(year) { 366 } else { 365 } {
            day -= if is_leap(year) { 366 } else { 365 };
            year += 1;
        }
        let mut month = 0;
        for length in month_lengths(year) {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        Date { year, month, day: day + 1, hour: seconds / 3600, minute: seconds / 60 % 60, second: seconds % 60 }
    }

    /// Returns the time of the first day of a month, in milliseconds since 1970.
    pub fn month_begin(year: u64, month: usize) -> Time {
        let days: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
        (days + month_lengths(year)[..month].iter().sum::<u64>()) * DAY
    }

    pub fn month_name(&self) -> &'static str {
        MONTHS[self.month]
    }

    /// Returns the time of day, such as `14:05`.
    pub fn clock(&self) -> String {
        format!("{:02}:{:02}", self.hour, self.minute)
    }
}

/// Returns a date and a time such as `30 Nov 2026, 14:05`.
pub fn date(time: Time) -> String {
    let date = Date::of(time);
    format!("{} {} {}, {}", date.day, date.month_name(), date.year, date.clock())
}

/// Returns a date and a time with seconds, as in ISO 8601.
pub fn iso(time: Time) -> String {
    let Date { year, month, day, second, .. } = Date::of(time);
    format!("{year}-{:02}-{day:02}T{}:{second:02}Z", month + 1, Date::of(time).clock())
}

/// Returns milliseconds for people, such as `420 ms`, `4.2 s`, `3 min 5 s` or `2 h 1 min`.
pub fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..10_000 => format!("{seconds}.{} s", millis % 1000 / 100),
        60_000..3_600_000 if !seconds.is_multiple_of(60) => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => HumanDuration(seconds).to_string(),
    }
}

/// Returns a number with separated thousands, such as `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a number with its noun, such as `1 build` or `2 builds`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Returns a share from 0 to 1 for people. A small one is not 0, and a large one not the whole.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        small if small > 0.0 && small < 1.0 => "< 1 %".to_owned(),
        large if large > 99.0 && large < 100.0 => "> 99 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date --utc --date @SECONDS` says.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX / 1000 - 1, "2200-01-01T00:00:00Z"),
        ] {
            assert_eq!(iso(seconds * 1000 + 999), text);
        }
        assert_eq!(date(1_795_996_800_000 + 50_700_000), "30 Nov 2026, 14:05");
        assert_eq!(iso(Date::month_begin(2024, 2)), "2024-03-01T00:00:00Z");
    }

    #[test]
    fn numbers_have_units_and_two_parts_at_most() {
        let texts = [0, 999, 1000, 4290, 9999, 10_000, 60_000, 185_000, 3_600_000, 90_000_000, u64::MAX].map(duration);
        assert_eq!(
            texts[..10],
            ["0 ms", "999 ms", "1.0 s", "4.2 s", "9.9 s", "10 s", "1 min", "3 min 5 s", "1 h 0 min", "1 d 1 h"]
        );
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "build"), counted(2000, "build")], ["1 build", "2,000 builds"]);
        assert_eq!([0.0, 0.001, 0.264, 0.995, 1.0].map(percent), ["0 %", "< 1 %", "26 %", "> 99 %", "100 %"]);
    }
}
