//! From a line of the input to a key and a value.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// How a line becomes a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    /// The line is the value.
    Plain,
    /// The key, this text, the value.
    Split(String),
    /// The line is JSON, and the value as it stands.
    Json,
    /// The same; the key is this field of the object.
    JsonKey(String),
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Bytes,
}

/// Why a line is not a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("it has no {0:?} between key and value (--key-separator)")]
    NoSeparator(String),
    #[error("it is not JSON: {}", in_the_line(.0))]
    NotJson(serde_json::Error),
    #[error("it is not a JSON object, so it has no field {field:?}")]
    NotObject { field: String },
    #[error("it has no field {field:?}, which is to be the key (--key)")]
    NoField { field: String },
    #[error("its field {field:?} is {found}; a key is a string, a number, true, false or null")]
    NoKey { field: String, found: &'static str },
}

/// What is wrong with a line's JSON, and where in the line: that it is the first line of itself helps nobody.
fn in_the_line(error: &serde_json::Error) -> String {
    let (text, column) = (error.to_string(), error.column());
    match text.strip_suffix(&format!(" at line {} column {column}", error.line())) {
        Some(what) => format!("{what} at column {column}"),
        None => text,
    }
}

impl Lines {
    /// The record of a line; none for a line of blanks between lines of JSON.
    pub(crate) fn entry(&self, line: Bytes) -> Result<Option<Entry>, LineError> {
        let is_json = matches!(self, Self::Json | Self::JsonKey(_));
        if is_json && line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let (key, value) = match self {
            Self::Plain => (None, line),
            Self::Split(separator) => {
                let at = line.windows(separator.len()).position(|window| window == separator.as_bytes());
                let at = at.ok_or_else(|| LineError::NoSeparator(separator.clone()))?;
                (Some(line.slice(..at)), line.slice(at + separator.len()..))
            }
            Self::Json => {
                serde_json::from_slice::<IgnoredAny>(&line).map_err(LineError::NotJson)?;
                (None, line)
            }
            Self::JsonKey(field) => (json_key(&line, field)?, line),
        };
        Ok(Some(Entry { key, value }))
    }
}

/// The text of a field: a string's content, anything else as it is written; none for null.
fn json_key(line: &[u8], field: &str) -> Result<Option<Bytes>, LineError> {
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(line);
    let is_object = line.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !is_object {
        serde_json::from_slice::<IgnoredAny>(line).map_err(LineError::NotJson)?;
        return Err(LineError::NotObject { field: field.into() });
    }
    json.deserialize_map(FieldOf { field, found: &mut found }).and_then(|()| json.end()).map_err(LineError::NotJson)?;
    let raw = found.ok_or_else(|| LineError::NoField { field: field.into() })?.get();
    let no_key = |found| LineError::NoKey { field: field.into(), found };
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(raw).map_err(LineError::NotJson)?.0;
            Ok(Some(Bytes::copy_from_slice(text.as_bytes())))
        }
        Some(b'{') => Err(no_key("an object")),
        Some(b'[') => Err(no_key("an array")),
        Some(b'n') => Ok(None),
        _ => Ok(Some(Bytes::copy_from_slice(raw.as_bytes()))),
    }
}

/// Text that is copied only if it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Finds one field of an object and leaves the others unread. Of two of the same name the last counts, as in most of JSON's
/// readers.
struct FieldOf<'s, 'de> {
    field: &'s str,
    found: &'s mut Option<&'de RawValue>,
}

impl<'de> Visitor<'de> for FieldOf<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            if name == self.field {
                *self.found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lines: &Lines, line: &'static str) -> Result<Option<Entry>, String> {
        lines.entry(Bytes::from_static(line.as_bytes())).map_err(|error| error.to_string())
    }

    fn key(field: &str, line: &'static str) -> Result<Option<String>, String> {
        let entry = entry(&Lines::JsonKey(field.into()), line)?.unwrap();
        assert_eq!(entry.value, line, "the value is the line");
        Ok(entry.key.map(|key| String::from_utf8(key.into()).unwrap()))
    }

    #[test]
    fn a_key_is_the_fields_text() {
        let check =
            |line, expected: Option<&str>| assert_eq!(key("id", line), Ok(expected.map(str::to_owned)), "{line}");
        check(r#"{"id":"N14228","x":1}"#, Some("N14228"));
        check(r#"{"x":{"id":7},"id": "a\"b\u00e9\ud83d\ude00"}"#, Some("a\"bé😀"));
        check(r#" {"id" : 1.50e3 } "#, Some("1.50e3"));
        check(r#"{"id":18446744073709551616000}"#, Some("18446744073709551616000"));
        check(r#"{"id":true}"#, Some("true"));
        check(r#"{"id":""}"#, Some(""));
        check(r#"{"id":null}"#, None);
        check(r#"{"\u0069d":1}"#, Some("1"));
        check(r#"{"id":1,"id":2}"#, Some("2"));
    }

    #[test]
    fn what_has_no_key_is_refused_in_words() {
        for (line, word) in [
            (r#"{"no":1}"#, "no field \"id\""),
            (r#"{}"#, "no field \"id\""),
            (r#"{"id":[1]}"#, "an array"),
            (r#"{"id":{"a":1}}"#, "an object"),
            (r#"{"id": "#, "not JSON"),
            (r#"{"id":1} x"#, "not JSON"),
            (r#"{"id":01}"#, "not JSON"),
            ("17", "not a JSON object"),
            ("[1]", "not a JSON object"),
            ("words", "not JSON"),
        ] {
            let refused = key("id", line).unwrap_err();
            assert!(refused.contains(word), "{line}: {refused}");
        }
    }

    #[test]
    fn lines_are_values_as_they_stand() {
        let value = |lines: &Lines, line| entry(lines, line).unwrap().map(|entry| (entry.key, entry.value));
        assert_eq!(value(&Lines::Plain, ""), Some((None, "".into())));
        assert_eq!(value(&Lines::Plain, " a\r"), Some((None, " a\r".into())));
        assert_eq!(value(&Lines::Json, " [1, 2] "), Some((None, " [1, 2] ".into())));
        assert_eq!(value(&Lines::Json, " \r"), None);
        let refused = entry(&Lines::Json, "{").unwrap_err();
        assert_eq!(refused, "it is not JSON: EOF while parsing an object at column 1");
    }

    #[test]
    fn a_separator_ends_the_key_where_it_first_comes() {
        let lines = Lines::Split("::".into());
        let check = |line, key: &'static str, value: &'static str| {
            let expected = Entry { key: Some(key.into()), value: value.into() };
            assert_eq!(entry(&lines, line), Ok(Some(expected)), "{line:?}");
        };
        check("a::b", "a", "b");
        check("a::b::c", "a", "b::c");
        check("::", "", "");
        check("a:::b", "a", ":b");
        assert!(entry(&lines, "a:b").unwrap_err().contains("\"::\""));
    }
}
