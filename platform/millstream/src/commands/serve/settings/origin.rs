//! Where settings come from, and what is wrong with them: all of it at once, each with its place.

use std::{
    fmt::{self, Display},
    path::Path,
    sync::Arc,
};

use serde::Serialize;

use crate::failure::{Malformed, NotBuilt};

/// Where a value is from. The later wins over the earlier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The program's own.
    Default,
    /// The configuration file.
    File(Place),
    /// A variable of the environment.
    Environment(String),
    /// The command line.
    Flag(String),
}

/// A place in the configuration file. Lines and columns (characters, not bytes) are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) path: Arc<Path>,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    /// Of the byte `at` of a file's text.
    pub(crate) fn new(path: &Arc<Path>, text: &str, at: usize) -> Self {
        let before = &text[..text.floor_char_boundary(at)];
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = 1 + before.matches('\n').count();
        Self { path: path.clone(), line, column: 1 + before[start..].chars().count() }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

impl Origin {
    /// `default`, `file`, `environment` or `flag`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File(_) => "file",
            Self::Environment(_) => "environment",
            Self::Flag(_) => "flag",
        }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => place.fmt(f),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// None: of no one place.
    at: Option<Origin>,
    text: String,
    /// It is no mistake, but of a version to come.
    not_built: Option<(String, &'static str)>,
}

/// All that is wrong, in the order of places: in the file from its top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mistakes(Vec<Mistake>);

/// A mistake as programs read it.
#[derive(Debug, Serialize)]
pub(crate) struct MistakeShown<'a> {
    mistake: &'a str,
    /// The flag or variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

impl Mistakes {
    pub(crate) fn add(&mut self, at: Option<Origin>, text: impl Into<String>) {
        self.push(Mistake { at, text: text.into(), not_built: None });
    }

    /// Something that this version does not have.
    pub(crate) fn add_not_built(&mut self, at: Origin, what: &str, instead: &'static str) {
        let text = format!("{what} is not built yet: {instead}");
        self.push(Mistake { at: Some(at), text, not_built: Some((what.to_owned(), instead)) });
    }

    fn push(&mut self, mistake: Mistake) {
        let is_before = |other: &Mistake| other.at.is_some() && other.at <= mistake.at;
        let at = if mistake.at.is_none() { self.0.len() } else { self.0.partition_point(is_before) };
        self.0.insert(at, mistake);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each, for programs.
    pub(crate) fn shown(&self) -> Vec<MistakeShown<'_>> {
        let shown = self.0.iter().map(|mistake| {
            let place = match &mistake.at {
                Some(Origin::File(place)) => Some(place),
                _ => None,
            };
            MistakeShown {
                mistake: &mistake.text,
                at: mistake.at.as_ref().filter(|_| place.is_none()).map(ToString::to_string),
                file: place.map(|place| place.path.display().to_string()),
                line: place.map(|place| place.line),
                column: place.map(|place| place.column),
            }
        });
        shown.collect()
    }

    /// The refusal of words that make no sense.
    pub(crate) fn into_usage(self) -> anyhow::Error {
        Malformed(self.to_string()).into()
    }

    /// The refusal of a start.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self.0.as_slice() {
            [Mistake { not_built: Some((what, instead)), .. }] => NotBuilt::new(what.clone(), instead).into(),
            _ => self.into_usage(),
        }
    }
}

impl Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > 1 {
            write!(f, "{} settings are wrong:", self.0.len())?;
        }
        for Mistake { at, text, .. } in &self.0 {
            if self.0.len() > 1 {
                f.write_str("\n  ")?;
            }
            match at {
                Some(at) => write!(f, "{at}: {text}")?,
                None => f.write_str(text)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let path: Arc<Path> = Path::new("m.toml").into();
        let text = "a = 1\nä = \"é\" # x\n\nb";
        let check = |part: &str, expected: &str| {
            assert_eq!(Place::new(&path, text, text.find(part).unwrap()).to_string(), expected, "{part}");
        };
        check("a", "m.toml:1:1");
        check("1", "m.toml:1:5");
        check("ä", "m.toml:2:1");
        check("# x", "m.toml:2:9");
        check("b", "m.toml:4:1");
        assert_eq!(Place::new(&path, text, text.len()).to_string(), "m.toml:4:2");
        assert_eq!(Place::new(&path, text, 7).to_string(), "m.toml:2:1", "within a character");
        assert_eq!(Place::new(&path, "", 9).to_string(), "m.toml:1:1");
    }

    #[test]
    fn mistakes_are_told_in_the_order_of_their_places() {
        let place = |line, column| Some(Origin::File(Place { path: Path::new("m.toml").into(), line, column }));
        let mut mistakes = Mistakes::default();
        mistakes.add(None, "no place");
        mistakes.add(Some(Origin::Flag("--a".into())), "one");
        assert!(!mistakes.is_empty());
        mistakes.add(place(10, 1), "two");
        mistakes.add(place(9, 7), "three");
        mistakes.add(Some(Origin::Environment("A".into())), "four");
        let told = "5 settings are wrong:\n  m.toml:9:7: three\n  m.toml:10:1: two\n  A: four\n  --a: one\n  no place";
        assert_eq!(mistakes.to_string(), told);
        let one = |mistakes: Mistakes| mistakes.into_error().to_string();
        let mut single = Mistakes::default();
        single.add(place(2, 3), "five");
        assert_eq!(one(single.clone()), "m.toml:2:3: five");
        let shown = serde_json::to_string(&single.shown()).unwrap();
        assert_eq!(shown, r#"[{"mistake":"five","file":"m.toml","line":2,"column":3}]"#);
        let mut later = Mistakes::default();
        later.add_not_built(Origin::Flag("--join".into()), "--join", "not now");
        assert!(later.into_error().is::<NotBuilt>());
    }
}
