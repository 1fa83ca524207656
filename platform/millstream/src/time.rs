//! Points in time as people write and read them: RFC 3339, and milliseconds since 1970.

use millstream_model::TimestampMs;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Reads `2013-01-01T10:00:00Z`, with a fraction and an offset from UTC if wanted (`2013-01-01 05:00:00.250-05:00`). Without an
/// offset it is UTC, seconds may be left out, and a date alone is its midnight. `None` for anything else.
pub(crate) fn parse_rfc3339(text: &str) -> Option<TimestampMs> {
    if !text.is_ascii() {
        return None;
    }
    let (date, rest) = text.split_at_checked(10)?;
    let days = parse_date(date)?;
    if rest.is_empty() {
        return days.checked_mul(DAY_MS).map(TimestampMs);
    }
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let has_seconds = time.as_bytes().get(5) == Some(&b':');
    let (clock, rest) = time.split_at_checked(if has_seconds { 8 } else { 5 })?;
    let clock_ms = parse_clock(clock)?;
    let (fraction_ms, zone) = if has_seconds { parse_fraction(rest)? } else { (0, rest) };
    let zone_ms = parse_zone(zone)?;
    Some(TimestampMs(days.checked_mul(DAY_MS)? + clock_ms + fraction_ms - zone_ms))
}

/// `2013-01-01T10:00:00.000Z`; the bare number for a time that no calendar of ours reaches.
pub(crate) fn format_rfc3339(at: TimestampMs) -> String {
    let (days, ms) = (at.0.div_euclid(DAY_MS), at.0.rem_euclid(DAY_MS));
    let (year, month, day) = civil_from_days(days);
    if !(0..=9999).contains(&year) {
        return at.0.to_string();
    }
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

fn number(text: &str, low: i64, high: i64) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|value| digits && (low..=high).contains(value))
}

/// Days since 1970.
fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() != 4 || month.len() != 2 {
        return None;
    }
    let (year, month, day) = (number(year, 0, 9999)?, number(month, 1, 12)?, number(day, 1, 31)?);
    let days = days_from_civil(year, month, day);
    // A 30th of February comes back as another day.
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

/// `HH:MM:SS` or `HH:MM` in milliseconds. A leap second counts as the one after it.
fn parse_clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() || hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute, second) = (number(hour, 0, 23)?, number(minute, 0, 59)?, number(second, 0, 60)?);
    Some((hour * 3600 + minute * 60 + second) * 1000)
}

/// A fraction of a second, if there is one, in whole milliseconds; and what follows it.
fn parse_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(text) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let ms = digits.bytes().chain(*b"000").take(3).fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
    Some((ms, rest))
}

/// `Z`, nothing or `+HH:MM` in milliseconds ahead of UTC.
fn parse_zone(text: &str) -> Option<i64> {
    if matches!(text, "" | "Z" | "z") {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    Some(sign * (number(hours, 0, 23)? * 60 + number(minutes, 0, 59)?) * 60_000)
}

/// Days since 1970 of a date in the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown() {
        for (text, ms, shown) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00.000Z"),
            ("2013-01-01T10:00:00Z", 1_357_034_400_000, "2013-01-01T10:00:00.000Z"),
            ("2013-01-01 05:00:00.25-05:00", 1_357_034_400_250, "2013-01-01T10:00:00.250Z"),
            ("2013-01-01t15:30:00.123456+05:30", 1_357_034_400_123, "2013-01-01T10:00:00.123Z"),
            ("2013-01-01T10:00:00", 1_357_034_400_000, "2013-01-01T10:00:00.000Z"),
            ("2013-01-01T10:00", 1_357_034_400_000, "2013-01-01T10:00:00.000Z"),
            ("2013-01-01 10:00Z", 1_357_034_400_000, "2013-01-01T10:00:00.000Z"),
            ("2013-01-01T05:00-05:00", 1_357_034_400_000, "2013-01-01T10:00:00.000Z"),
            ("2013-01-01T10:00:00.25", 1_357_034_400_250, "2013-01-01T10:00:00.250Z"),
            ("2013-01-01", 1_356_998_400_000, "2013-01-01T00:00:00.000Z"),
            ("2024-02-29", 1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", -1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(parse_rfc3339(text), Some(TimestampMs(ms)), "{text}");
            assert_eq!(format_rfc3339(TimestampMs(ms)), shown);
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "yesterday",
            "2013",
            "2013-1-1",
            "2013-02-30",
            "2013-13-01",
            "2013-01-01T",
            "2013-01-01T10",
            "2013-01-01T10:",
            "2013-01-01T10:00.5",
            "2013-01-01T1:00",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:00:",
            "2013-01-01T10:00:00+5",
            "2013-01-01T10:00:00.Z",
            "2013-01-01x10:00:00Z",
            "+013-01-01",
            "2013-01-0é",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_day_survives_its_calendar() {
        for days in (-800_000..3_000_000).step_by(13) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn times_beyond_the_calendar_are_shown_as_numbers() {
        for ms in [i64::MAX, i64::MIN, 253_402_300_800_000] {
            assert_eq!(format_rfc3339(TimestampMs(ms)), ms.to_string());
        }
    }
}
