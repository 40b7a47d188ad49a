//! The time of a signature: `20261124T093000Z`, or an HTTP date, and seconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in seconds since 1970.
#[must_use]
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A moment, as signatures write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    seconds: i64,
    text: String,
}

impl Timestamp {
    /// Reads `YYYYMMDDTHHMMSSZ`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
            return None;
        }
        let number = |range: std::ops::Range<usize>| {
            let digits = bytes.get(range)?;
            digits
                .iter()
                .all(u8::is_ascii_digit)
                .then(|| digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0')))
        };
        let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
        let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
        let in_range = (1970..).contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60;
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        in_range.then(|| Self { seconds, text: text.to_owned() })
    }

    /// Reads the value of a Date header, in either form.
    #[must_use]
    pub fn parse_http(text: &str) -> Option<Self> {
        if let Some(timestamp) = Self::parse(text) {
            return Some(timestamp);
        }
        let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let seconds = since.as_secs();
        // ISO 8601 with punctuation and milliseconds, of which the basic form leaves both out.
        let iso = crate::s3::xml::iso8601(seconds.checked_mul(1000)?);
        let basic: String = iso.get(..19)?.chars().filter(char::is_ascii_alphanumeric).chain(['Z']).collect();
        Some(Self { seconds: i64::try_from(seconds).ok()?, text: basic })
    }

    /// `YYYYMMDDTHHMMSSZ`
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `YYYYMMDD`
    #[must_use]
    pub fn day(&self) -> &str {
        &self.text[..8]
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    /// As the standard library has it.
    #[must_use]
    pub fn system_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(self.seconds).unwrap_or(0))
    }
}

/// Days since 1970 of a date in the proleptic Gregorian calendar; years begin in March so that the leap day is last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_the_same_moment() {
        let iso = Timestamp::parse("20130524T000000Z").unwrap();
        assert_eq!(iso.seconds(), 1_369_353_600);
        assert_eq!(iso.day(), "20130524");
        assert_eq!(Timestamp::parse_http("Fri, 24 May 2013 00:00:00 GMT").unwrap(), iso);
        assert_eq!(Timestamp::parse("20240229T235959Z").unwrap().seconds(), 1_709_251_199);
        assert_eq!(Timestamp::parse("20000301T000000Z").unwrap().seconds(), 951_868_800);
    }

    #[test]
    fn anything_else_is_no_time() {
        for bad in ["", "20130524", "20130524T000000", "2013-05-24T00:00:00Z", "20131324T000000Z", "2013052400000000"] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
        assert_eq!(Timestamp::parse_http("yesterday"), None);
    }
}
