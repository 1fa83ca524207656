//! Pairs, as flags take them: parsed, and refused in words.

use std::str::FromStr;

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
pub(crate) fn pairs(pairs: Vec<Pair>) -> Vec<(String, String)> {
    pairs.into_iter().map(|pair| (pair.name, pair.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
