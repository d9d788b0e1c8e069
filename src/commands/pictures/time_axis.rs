//! The ticks of a time axis: round times in UTC, and their labels.

use super::units::Date;
use crate::state::health::Time;

const SECOND: Time = 1000;
const MINUTE: Time = 60 * SECOND;
const HOUR: Time = 60 * MINUTE;
const DAY: Time = 24 * HOUR;

/// The steps of less than a month.
const STEPS: [Time; 24] = [
    10,
    50,
    100,
    500,
    SECOND,
    2 * SECOND,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    5 * DAY,
    7 * DAY,
    14 * DAY,
];

/// The steps in months.
const MONTHS: [usize; 7] = [1, 3, 6, 12, 60, 120, 600];

/// Returns at most `most` ticks from `from` to `to`, with their labels.
pub fn ticks(from: Time, to: Time, most: u64) -> Vec<(Time, String)> {
    let length = to.saturating_sub(from);
    match STEPS.iter().find(|step| length / *step < most) {
        Some(&step) => {
            let first = from.div_ceil(step).saturating_mul(step);
            let times = (0..most).map(|number| first.saturating_add(number * step)).take_while(|time| *time <= to);
            times.map(|time| (time, label(time, step))).collect()
        }
        None => month_ticks(from, to, most),
    }
}

fn label(time: Time, step: Time) -> String {
    let date = Date::of(time);
    if time.is_multiple_of(DAY) {
        format!("{} {}", date.day, date.month_name())
    } else if step < SECOND {
        format!("{}:{:02}.{:02}", date.clock(), date.second, time % SECOND / 10)
    } else if step < MINUTE {
        format!("{}:{:02}", date.clock(), date.second)
    } else {
        date.clock()
    }
}

fn month_ticks(from: Time, to: Time, most: u64) -> Vec<(Time, String)> {
    let first = Date::of(from);
    let all = |step: usize| {
        // Months since the year 0.
        let first = (first.year as usize * 12 + first.month).div_ceil(step) * step;
        let months = (first..).step_by(step).map(|month| (month / 12, month % 12));
        let ticks = months.map(|(year, month)| {
            let label = if month == 0 { year.to_string() } else { String::new() };
            let time = Date::month_begin(year as u64, month);
            (time, if label.is_empty() { Date::of(time).month_name().to_owned() } else { label })
        });
        let ticks = ticks.skip_while(|(time, _)| *time < from).take_while(|(time, _)| *time <= to);
        ticks.take(most as usize + 1).collect::<Vec<_>>()
    };
    let few = MONTHS.iter().map(|step| all(*step)).find(|ticks| ticks.len() as u64 <= most);
    few.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::pictures::units::MAX_TIME;

    const BEGIN: Time = 1_795_996_800_000; // 30 November 2026

    fn labels(from: Time, length: Time) -> Vec<String> {
        ticks(from, from + length, 6).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(labels(BEGIN + 1, 4 * HOUR), ["01:00", "02:00", "03:00", "04:00"]);
        assert_eq!(labels(BEGIN + 20 * HOUR, 8 * HOUR), ["20:00", "22:00", "1 Dec", "02:00", "04:00"]);
        assert_eq!(labels(BEGIN, 4 * DAY), ["30 Nov", "1 Dec", "2 Dec", "3 Dec", "4 Dec"]);
        let parts = ["00:00:00.50", "00:00:01.00", "00:00:01.50", "00:00:02.00", "00:00:02.50"];
        assert_eq!(labels(BEGIN + 500, 2 * SECOND), parts);
        assert_eq!(labels(BEGIN, 150 * DAY), ["Dec", "2027", "Feb", "Mar", "Apr"]);
        assert_eq!(labels(BEGIN, 366 * DAY), ["2027", "Apr", "Jul", "Oct"]);
        assert_eq!(labels(BEGIN, 30 * 366 * DAY).len(), 6);
        for length in [0, 1, 7, 999, 12_345, 1 << 25, 1 << 31, 1 << 37, MAX_TIME - BEGIN] {
            let found = labels(BEGIN, length).len();
            assert!(found <= 6 && (length < 20 || found >= 2), "{length}: {found}");
        }
        assert_eq!(ticks(BEGIN, 0, 6), []);
    }
}
