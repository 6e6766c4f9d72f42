//! `strftime_now`: today's date, for templates that begin with it.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const LONGEST_FORMAT: usize = 256;

/// The present time by a format of Python's `strftime`, in UTC: the standard library does not know the local time zone.
///
/// # Errors
/// The format is too long or uses a code that is not known.
pub(super) fn now(format: &str) -> Result<String, Error> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    strftime(format, seconds)
}

/// A time, in seconds since 1970, by a format.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    if format.len() > LONGEST_FORMAT {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "strftime_now: the format is too long",
        ));
    }
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day, of_year) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let twelve = (hour + 11) % 12 + 1;
    let weekday = DAYS
        .get(((days + 4) % 7) as usize)
        .copied()
        .unwrap_or_default();
    let month_name = MONTHS.get(month as usize).copied().unwrap_or_default();
    let short = |name: &'static str| name.get(..3).unwrap_or(name).to_owned();
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut code = characters.next();
        let bare = code == Some('-');
        if bare {
            code = characters.next();
        }
        let two = |number: u64| {
            if bare {
                number.to_string()
            } else {
                format!("{number:02}")
            }
        };
        let text = match code {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month + 1),
            Some('d') => two(day),
            Some('j') => {
                if bare {
                    of_year.to_string()
                } else {
                    format!("{of_year:03}")
                }
            }
            Some('H') => two(hour),
            Some('I') => two(twelve),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => short(month_name),
            Some('A') => weekday.to_owned(),
            Some('a') => short(weekday),
            Some('F') => format!("{year}-{:02}-{day:02}", month + 1),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            other => {
                let code = other.map(String::from).unwrap_or_default();
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: `%{code}` is not supported"),
                ));
            }
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// Year, month from 0, day from 1, and day of the year from 1, of a day counted from 1970.
fn date(mut days: u64) -> (u64, u64, u64, u64) {
    // 146,097 days are 400 years, after which the calendar repeats.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let length = |year: u64| if leap(year) { 366 } else { 365 };
    while days >= length(year) {
        days -= length(year);
        year += 1;
    }
    let of_year = days + 1;
    let mut month = 0;
    for length in [
        31,
        if leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(format: &str, seconds: u64) -> String {
        strftime(format, seconds).expect("a known format")
    }

    #[test]
    fn times_are_written_as_python_writes_them() {
        assert_eq!(at("%d %b %Y", 0), "01 Jan 1970");
        assert_eq!(
            at("%A, %B %-d, %Y", 951_782_400),
            "Tuesday, February 29, 2000"
        );
        assert_eq!(
            at("%Y-%m-%d %H:%M:%S %j %a %p %I %y %%", 1_735_689_599),
            "2024-12-31 23:59:59 366 Tue PM 11 24 %"
        );
        assert_eq!(at("%F %T %I%p", 4_107_542_400), "2100-03-01 00:00:00 12AM");
    }

    #[test]
    fn unknown_codes_are_errors() {
        for format in ["%Q", "%", "%-"] {
            assert!(strftime(format, 0).is_err(), "{format}");
        }
        assert!(strftime(&"x".repeat(300), 0).is_err());
    }
}
