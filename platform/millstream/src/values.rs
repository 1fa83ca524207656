//! Pairs, as flags take them: parsed, and refused in words.

use std::{collections::HashSet, str::FromStr};

use crate::failure::Usage;

/// `K=V`. The value may be empty and may hold more of `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.into(), value: value.into() }),
            _ => Err("expected K=V: a name, `=`, a value".to_owned()),
        }
    }
}

/// The pairs as the client takes them.
///
/// # Errors
/// A name stands there twice: which of the two values is meant, nobody knows.
pub(crate) fn pairs(flag: &str, pairs: Vec<Pair>) -> Result<Vec<(String, String)>, Usage> {
    let mut names = HashSet::new();
    match pairs.iter().find(|pair| !names.insert(&pair.name)) {
        Some(Pair { name, .. }) => Err(Usage(format!("{flag} {name}=... is given twice: leave one of them out"))),
        None => Ok(pairs.into_iter().map(|pair| (pair.name, pair.value)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once() {
        let given = |texts: &[&str]| pairs("--config", texts.iter().map(|text| text.parse().unwrap()).collect());
        assert_eq!(given(&["a=1", "b=1"]).unwrap(), [("a".into(), "1".into()), ("b".into(), "1".into())]);
        let refused = given(&["a=1", "b=1", "a=2"]).unwrap_err();
        assert_eq!(refused.0, "--config a=... is given twice: leave one of them out");
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        let check = |text: &str, name: &str, value: &str| {
            assert_eq!(text.parse(), Ok(Pair { name: name.into(), value: value.into() }), "{text:?}");
        };
        check("a=b", "a", "b");
        check("a=", "a", "");
        check("a=b=c", "a", "b=c");
        for text in ["", "a", "=b"] {
            assert!(text.parse::<Pair>().is_err(), "{text:?}");
        }
    }
}
