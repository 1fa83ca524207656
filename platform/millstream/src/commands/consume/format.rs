//! What is printed of a record: its value, or all of it as a line of JSON.

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use millstream_client::ConsumedRecord;
use serde::{Serialize, Serializer, ser::SerializeMap};

/// What is printed of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Its value and a line feed.
    Value,
    /// All of it, one JSON object a line.
    Json,
}

/// A record, in the order in which its parts are printed.
#[derive(Serialize)]
struct Line<'a> {
    partition: i32,
    offset: i64,
    /// Milliseconds since 1970.
    timestamp: i64,
    key: Option<Text<'a>>,
    value: Option<Text<'a>>,
    /// In order: a name may come more than once.
    headers: Vec<(Text<'a>, Option<Text<'a>>)>,
}

/// Bytes as a string, or as `{"base64":"..."}` if they are not UTF-8.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(self.0))?;
                map.end()
            }
        }
    }
}

impl Format {
    /// Appends what is printed of a record; nothing for a value that is not there.
    pub(crate) fn write(self, record: &ConsumedRecord, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Value => {
                let Some(value) = &record.value else { return Ok(()) };
                out.extend_from_slice(value);
            }
            Self::Json => {
                let headers = record.headers.iter();
                let line = Line {
                    partition: record.partition.0,
                    offset: record.offset.0,
                    timestamp: record.timestamp.0,
                    key: record.key.as_deref().map(Text),
                    value: record.value.as_deref().map(Text),
                    headers: headers.map(|header| (Text(&header.key), header.value.as_deref().map(Text))).collect(),
                };
                serde_json::to_writer(&mut *out, &line)?;
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_client::Header;
    use millstream_model::{Offset, PartitionId, TimestampMs};

    use super::*;

    fn record(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> ConsumedRecord {
        ConsumedRecord {
            partition: PartitionId(2),
            offset: Offset(7),
            timestamp: TimestampMs(9),
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: vec![Header::new("a", Some(Bytes::from_static(b"1"))), Header::new("a", None)],
        }
    }

    fn check(format: Format, record: &ConsumedRecord, expected: &[u8]) {
        let mut out = Vec::new();
        format.write(record, &mut out).unwrap();
        assert_eq!(out, expected, "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn a_line_of_json_says_all_that_a_record_is() {
        check(
            Format::Json,
            &record(Some(b"k"), Some("é\n\"".as_bytes())),
            "{\"partition\":2,\"offset\":7,\"timestamp\":9,\"key\":\"k\",\"value\":\"é\\n\\\"\",\"headers\":[[\"a\",\"1\"],[\"a\",null]]}\n"
                .as_bytes(),
        );
        check(
            Format::Json,
            &record(None, Some(b"\xff\x00")),
            b"{\"partition\":2,\"offset\":7,\"timestamp\":9,\"key\":null,\"value\":{\"base64\":\"/wA=\"},\"headers\":[[\"a\",\"1\"],[\"a\",null]]}\n",
        );
    }

    #[test]
    fn a_value_is_its_bytes_and_a_tombstone_is_nothing() {
        check(Format::Value, &record(None, Some(b"\xff\x00")), b"\xff\x00\n");
        check(Format::Value, &record(None, Some(b"")), b"\n");
        check(Format::Value, &record(Some(b"k"), None), b"");
    }
}
