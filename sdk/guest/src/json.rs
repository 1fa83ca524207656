//! JSON objects, one level deep: fields are read and replaced, everything else keeps its bytes.
//!
//! Most records are JSON objects, and most modules look at one field of them. Values that are not asked about are skipped, not
//! decoded, and numbers are never rewritten, so a record that loses a field is otherwise what it was.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub use serde_json::Error;

/// The fields of a JSON object in their order, repeated names included.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    /// Name, and the value's JSON text.
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Object<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// `bytes` are not one JSON object, alone.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes)
    }

    /// The value of a field: of the last one, if its name repeats.
    pub fn field(&self, name: &str) -> Option<Value<'_>> {
        self.fields.iter().rev().find(|(have, _)| have == name).map(|(_, value)| Value(value))
    }

    /// Drops every field called `name`; whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.fields.len();
        self.fields.retain(|(have, _)| have != name);
        self.fields.len() < before
    }

    /// Sets a field to a text: in its place if it is there, else at the end.
    pub fn set(&mut self, name: &str, text: &str) {
        let value = Cow::Owned(quoted(text));
        match self.fields.iter_mut().rev().find(|(have, _)| have == name) {
            Some((_, have)) => *have = value,
            None => self.fields.push((Cow::Owned(name.to_owned()), value)),
        }
    }

    /// The object as JSON text, without white space between fields.
    pub fn to_text(&self) -> String {
        let size = self.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
        let mut text = String::with_capacity(size + 2);
        text.push('{');
        for (index, (name, value)) in self.fields.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(&quoted(name));
            text.push(':');
            text.push_str(value);
        }
        text.push('}');
        text
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a str);

impl<'a> Value<'a> {
    /// Its JSON text as it stands in the record.
    pub fn raw(self) -> &'a str {
        self.0
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// A string's content, or a number's, `true`'s or `false`'s text; `None` for null, arrays and objects.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self.0.as_bytes().first()? {
            b'"' => serde_json::from_str::<Text>(self.0).ok().map(|text| text.0),
            b'{' | b'[' | b'n' => None,
            _ => Some(Cow::Borrowed(self.0)),
        }
    }

    /// A number, also one that is written as a string.
    pub fn number(self) -> Option<f64> {
        // Rust reads words like "inf" and "nan" as numbers, too; nobody who writes JSON means one.
        self.text()?.trim().parse().ok().filter(|number: &f64| number.is_finite())
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl<'a, 'de: 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::with_capacity(16);
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    fields.push((name.0, Cow::Borrowed(value.get())));
                }
                Ok(Object { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A string that is borrowed where it holds no escape.
struct Text<'a>(Cow<'a, str>);

impl<'a, 'de: 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_touched_keeps_its_bytes() {
        let text = br#" { "a" : 1.50e3 , "t\u0061il":"N1\n" , "list":[1,  2], "z": null, "a":2 } "#;
        let mut object = Object::parse(text).unwrap();
        assert!(object.remove("tail"));
        assert!(!object.remove("tail"));
        assert_eq!(object.to_text(), r#"{"a":1.50e3,"list":[1,  2],"z":null,"a":2}"#);
        object.set("z", "a \"b\"");
        object.set("new", "é");
        assert_eq!(object.to_text(), r#"{"a":1.50e3,"list":[1,  2],"z":"a \"b\"","a":2,"new":"é"}"#);
    }

    #[test]
    fn values_as_text_and_as_numbers() {
        let object =
            Object::parse(br#"{"n":-2.5,"s":"15","na":"NA","inf":"inf","t":true,"z":null,"o":{"n":1}}"#).unwrap();
        let check = |name: &str, text: Option<&str>, number: Option<f64>| {
            let value = object.field(name).unwrap();
            assert_eq!((value.text().as_deref(), value.number()), (text, number), "{name}");
        };
        check("n", Some("-2.5"), Some(-2.5));
        check("s", Some("15"), Some(15.0));
        check("na", Some("NA"), None);
        check("inf", Some("inf"), None);
        check("t", Some("true"), None);
        check("z", None, None);
        check("o", None, None);
        assert_eq!(object.field("absent"), None);
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in ["", "null", "[1]", "{\"a\":1", "{\"a\":1}x", "{\"a\":1,}", "{a:1}"] {
            assert!(Object::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err());
    }
}
