//! Names that users give: topics (Kafka's rules) and our own things, checked where they enter.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::limits::{NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX};

/// Why a name was refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// No characters at all.
    #[error("the {what} is empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// Too many bytes.
    #[error("the {what} has {bytes} bytes; at most {max} are allowed")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// `.` or `..`, which would be directories.
    #[error("the {what} may not be {text:?}")]
    Reserved {
        /// Which kind of name.
        what: &'static str,
        /// The name.
        text: String,
    },
    /// A character outside the legal ones.
    #[error("the {what} {text:?} may hold only ASCII letters, digits, '.', '_' and '-'")]
    Character {
        /// Which kind of name.
        what: &'static str,
        /// The name, cut to what a person wants to see.
        text: String,
    },
    /// A module reference without its version.
    #[error("{text:?} names no version: write NAME@VERSION")]
    Version {
        /// The reference.
        text: String,
    },
}

fn check(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > max {
        return Err(NameError::TooLong { what, bytes: text.len(), max });
    }
    if text == "." || text == ".." {
        return Err(NameError::Reserved { what, text: text.into() });
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(NameError::Character { what, text: text.chars().take(80).collect() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] says which rule the name breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($what, text, $max)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                (*name.0).into()
            }
        }
    };
}

name! {
    /// A topic's name: 1..=249 bytes of ASCII letters, digits, `.`, `_` and `-`, not `.` or `..` (Kafka's rules).
    /// Views are read by name wherever a topic is, so they share the rules and the name space.
    TopicName, "topic name", TOPIC_NAME_BYTES_MAX
}
name! {
    /// The name of a module or transform: 1..=128 bytes of ASCII letters, digits, `.`, `_` and `-`, not `.` or `..`.
    Name, "name", NAME_BYTES_MAX
}
name! {
    /// A module's version: any text that is a legal name; versions are compared for equality only.
    ModuleVersion, "version", NAME_BYTES_MAX
}

/// A module by name and version, written `name@version`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleRef {
    /// The module's name.
    pub name: Name,
    /// The module's version.
    pub version: ModuleVersion,
}

impl fmt::Display for ModuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl FromStr for ModuleRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, version) =
            text.split_once('@').ok_or_else(|| NameError::Version { text: text.chars().take(80).collect() })?;
        Ok(Self { name: name.parse()?, version: version.parse()? })
    }
}

impl TryFrom<String> for ModuleRef {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ModuleRef> for String {
    fn from(module: ModuleRef) -> Self {
        module.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_are_taken() {
        for text in ["a", "flights", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(TopicName::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn illegal_names_are_refused_by_the_rule_they_break() {
        assert_eq!(TopicName::new(""), Err(NameError::Empty { what: "topic name" }));
        assert!(matches!(TopicName::new(&"x".repeat(250)), Err(NameError::TooLong { bytes: 250, max: 249, .. })));
        for text in [".", ".."] {
            assert!(matches!(TopicName::new(text), Err(NameError::Reserved { .. })), "{text:?}");
        }
        for text in ["a/b", "../x", "a b", "a\0b", "é", "a@1"] {
            assert!(matches!(TopicName::new(text), Err(NameError::Character { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_module_reference_needs_a_version() {
        let module: ModuleRef = "by-field@1.0.0".parse().unwrap();
        assert_eq!(module.to_string(), "by-field@1.0.0");
        assert!(matches!("by-field".parse::<ModuleRef>(), Err(NameError::Version { .. })));
        assert!("a@b@c".parse::<ModuleRef>().is_err());
    }
}
