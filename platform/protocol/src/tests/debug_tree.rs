//! Compares values of unrelated types by what their `Debug` says: the same fields by name, the same values.
//!
//! Type names are ignored, tuples of one (newtypes, `Some`) are what they hold, and error codes are their numbers.

use std::{collections::BTreeMap, fmt::Debug};

use crate::ErrorCode;

/// The leaves of a value by their path, e.g. `topics[0].name`.
pub(super) fn leaves(value: &impl Debug) -> BTreeMap<String, String> {
    let text = format!("{value:?}");
    let mut parser = Parser { rest: &text, leaves: BTreeMap::new() };
    parser.value(String::new());
    assert_eq!(parser.rest, "", "in {text}");
    parser.leaves
}

struct Parser<'a> {
    rest: &'a str,
    leaves: BTreeMap<String, String>,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find([' ', '{', '}', '[', ']', '(', ')', ':', ',', '"']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn text(&mut self) -> &'a str {
        let mut escaped = false;
        let end = self.rest[1..]
            .find(|c| match c {
                _ if escaped => {
                    escaped = false;
                    false
                }
                '\\' => {
                    escaped = true;
                    false
                }
                c => c == '"',
            })
            .unwrap();
        let (text, rest) = self.rest.split_at(end + 2);
        self.rest = rest;
        text
    }

    fn value(&mut self, path: String) {
        let word = self.word();
        if self.rest.starts_with('"') {
            let text = self.text();
            let empty_records = path.ends_with("records") && text == "\"\"";
            self.leaves.insert(path, if empty_records { "None".into() } else { text.into() });
        } else if self.eat(" { ") || self.eat("{") {
            // A struct, or the map of unknown tags, whose keys are numbers.
            while !(self.eat(" }") || self.eat("}")) {
                let name = self.word();
                assert!(self.eat(": "), "at {}", self.rest);
                self.value(format!("{path}.{name}"));
                self.eat(", ");
            }
        } else if self.eat("(") {
            self.value(path);
            assert!(self.eat(")"), "at {}", self.rest);
        } else if self.eat("[") {
            let mut count = 0;
            let parts = path.ends_with("records");
            while !self.eat("]") {
                self.value(if parts { path.clone() } else { format!("{path}[{count}]") });
                count += 1;
                self.eat(", ");
            }
            if parts && count == 0 {
                self.leaves.insert(path, "None".into());
            } else if !parts {
                self.leaves.insert(format!("{path}.count"), count.to_string());
            }
        } else {
            let code = ErrorCode::ALL.iter().find(|code| path.ends_with("error_code") && format!("{code:?}") == word);
            self.leaves.insert(path, code.map_or_else(|| word.to_owned(), |code| code.code().to_string()));
        }
    }
}
