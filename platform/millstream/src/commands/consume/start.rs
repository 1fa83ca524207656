//! Where reading starts, as it is typed.

use std::str::FromStr;

use millstream_client::StartFrom;
use millstream_model::{Offset, TimestampMs};

use crate::time::parse_rfc3339;

/// A bare number from here on is milliseconds since 1970 (September 2001), below it an offset.
const TIMESTAMP_MIN: i64 = 1_000_000_000_000;

/// Where reading starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct From(pub(crate) StartFrom);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let start = match text {
            // The latter are what Kafka's tools say.
            "beginning" | "start" | "earliest" => StartFrom::Beginning,
            "end" | "latest" => StartFrom::End,
            _ => match text.parse::<i64>() {
                Ok(offset @ 0..TIMESTAMP_MIN) => StartFrom::Offset(Offset(offset)),
                Ok(ms @ TIMESTAMP_MIN..) => StartFrom::Timestamp(TimestampMs(ms)),
                Ok(_) => return Err("an offset is 0 or more".into()),
                Err(_) => StartFrom::Timestamp(parse_rfc3339(text).ok_or(
                    "expected beginning, end, an offset, or a time such as 2013-01-01T10:00:00Z or 2013-01-01 (UTC)",
                )?),
            },
        };
        Ok(Self(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_offsets_and_times_are_told_apart() {
        let check = |text: &str, expected: StartFrom| assert_eq!(text.parse(), Ok(From(expected)), "{text}");
        check("beginning", StartFrom::Beginning);
        check("end", StartFrom::End);
        check("earliest", StartFrom::Beginning);
        check("start", StartFrom::Beginning);
        check("latest", StartFrom::End);
        check("2013-01-01T10:00", StartFrom::Timestamp(TimestampMs(1_357_034_400_000)));
        check("0", StartFrom::Offset(Offset(0)));
        check("999999999999", StartFrom::Offset(Offset(999_999_999_999)));
        check("1000000000000", StartFrom::Timestamp(TimestampMs(1_000_000_000_000)));
        check("2013-01-01T10:00:00Z", StartFrom::Timestamp(TimestampMs(1_357_034_400_000)));
        for text in ["", "-1", "yesterday", "1.5", "99999999999999999999"] {
            assert!(text.parse::<From>().is_err(), "{text:?}");
        }
    }
}
