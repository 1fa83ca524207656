//! One setting after the other: all that is given for it is looked at, the strongest is taken, and where it is from is noted.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use serde::Serialize;

use super::{
    file::{Entry, File, Value, suggest},
    origin::{Mistakes, Origin},
};

/// What a setting is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text in quotes.
    Text,
    /// A whole number.
    Number,
    /// Text or a list of them, which are joined by commas.
    Texts,
    /// Whatever can be written as one word.
    Any,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct InForce {
    pub(crate) setting: &'static str,
    /// Null: none.
    pub(crate) value: serde_json::Value,
    /// `flag`, `environment`, `file` or `default`.
    pub(crate) source: &'static str,
    /// The flag, the variable, or the place in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

/// What is given, by name. Flags come without their dashes.
pub(crate) struct Reader<'a> {
    pub(crate) flags: Vec<(&'static str, OsString)>,
    pub(crate) environment: &'a dyn Fn(&str) -> Option<OsString>,
    pub(crate) file: File,
    pub(crate) mistakes: Mistakes,
    pub(crate) in_force: Vec<InForce>,
    /// The names that were asked for.
    known: Vec<&'static str>,
}

/// The environment's name of a setting.
pub(crate) fn variable(name: &str) -> String {
    format!("MILLSTREAM_{}", name.to_uppercase().replace(['-', '.'], "_"))
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        flags: Vec<(&'static str, OsString)>,
        environment: &'a dyn Fn(&str) -> Option<OsString>,
        file: File,
        mistakes: Mistakes,
    ) -> Self {
        Self { flags, environment, file, mistakes, in_force: Vec::new(), known: Vec::new() }
    }

    /// The value of a setting, as the strongest of those who give it has it; none if nobody does, or it is wrong. `parse` says what
    /// is expected, where it does not take something.
    pub(crate) fn take<T>(
        &mut self,
        name: &'static str,
        form: Form,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<(T, Origin)> {
        self.take_as(name, form, of_text(parse))
    }

    /// The same of a path, whatever its bytes are.
    pub(crate) fn take_path(&mut self, name: &'static str) -> Option<(PathBuf, Origin)> {
        self.take_as(name, Form::Text, |path| {
            if path.is_empty() { Err("expected a path".to_owned()) } else { Ok(PathBuf::from(path)) }
        })
    }

    /// The same of one that need not be there, which is noted.
    pub(crate) fn take_path_or_none(&mut self, name: &'static str) -> Option<(PathBuf, Origin)> {
        let taken = self.take_path(name);
        let at = taken.as_ref().map_or(Origin::Default, |(_, at)| at.clone());
        self.note(name, taken.as_ref().map(|(path, _)| path.display().to_string()), &at);
        taken
    }

    fn take_as<T>(
        &mut self,
        name: &'static str,
        form: Form,
        parse: impl Fn(&OsStr) -> Result<T, String>,
    ) -> Option<(T, Origin)> {
        self.known.push(name);
        let mut taken = None;
        for entry in self.file.entries.extract_if(.., |entry| entry.name == name).collect::<Vec<_>>() {
            self.offer_entry(&mut taken, &entry, form, &parse);
        }
        let variable = variable(name);
        if let Some(value) = (self.environment)(&variable) {
            self.offer(&mut taken, Origin::Environment(variable), &value, &parse);
        }
        self.offer_flag(&mut taken, name, &parse);
        taken
    }

    /// As [`Reader::take`], of what only the command line gives.
    pub(crate) fn take_flag<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<(T, Origin)> {
        let mut taken = None;
        self.offer_flag(&mut taken, name, &of_text(parse));
        taken
    }

    fn offer_flag<T>(
        &mut self,
        taken: &mut Option<(T, Origin)>,
        name: &str,
        parse: &impl Fn(&OsStr) -> Result<T, String>,
    ) {
        for (_, value) in self.flags.extract_if(.., |(flag, _)| *flag == name).collect::<Vec<_>>() {
            self.offer(taken, Origin::Flag(format!("--{name}")), &value, parse);
        }
    }

    /// Takes a value, in the place of a weaker one, or tells what is wrong with it.
    pub(crate) fn offer<T>(
        &mut self,
        taken: &mut Option<(T, Origin)>,
        at: Origin,
        value: &OsStr,
        parse: &impl Fn(&OsStr) -> Result<T, String>,
    ) {
        match parse(value) {
            Ok(value) => *taken = Some((value, at)),
            Err(expected) => self.mistakes.add(Some(at), format!("{value:?}: {expected}")),
        }
    }

    /// The same, of the file.
    pub(crate) fn offer_entry<T>(
        &mut self,
        taken: &mut Option<(T, Origin)>,
        entry: &Entry,
        form: Form,
        parse: &impl Fn(&OsStr) -> Result<T, String>,
    ) {
        let (name, at) = (&entry.name, Origin::File(entry.at.clone()));
        let text = match form.text(&entry.value) {
            Ok(text) => text,
            Err(expected) => return self.mistakes.add(Some(at), format!("{name}: {expected}")),
        };
        match parse(OsStr::new(&text)) {
            Ok(value) => *taken = Some((value, at)),
            Err(expected) => {
                let shown = if let Value::Text(text) = &entry.value { format!("{text:?}") } else { text };
                self.mistakes.add(Some(at), format!("{name} = {shown}: {expected}"));
            }
        }
    }

    /// Notes a setting that is in force.
    pub(crate) fn note(&mut self, setting: &'static str, value: impl Into<serde_json::Value>, origin: &Origin) {
        let at = Some(origin).filter(|origin| **origin != Origin::Default).map(ToString::to_string);
        self.in_force.push(InForce { setting, value: value.into(), source: origin.kind(), at });
    }

    /// Tells of what is left in the file, which no setting has asked for. `kafka`: the names that belong into its table.
    pub(crate) fn finish(&mut self, kafka: &[&'static str]) {
        for entry in std::mem::take(&mut self.file.entries) {
            let name = entry.name.as_str();
            // `num.partitions` outside of its table is a table `num` for TOML.
            let is_kafkas = kafka.iter().any(|known| *known == name || known.starts_with(&format!("{name}.")));
            let told = match suggest(name, self.known.iter().copied()) {
                _ if is_kafkas => format!("{name} is of Kafka's settings: they belong into the table [kafka]"),
                Some(known) => format!("there is no setting {name}; did you mean {known}?"),
                None => format!("there is no setting {name}: `millstream serve --help` has those that there are"),
            };
            self.mistakes.add(Some(Origin::File(entry.key_at)), told);
        }
    }
}

impl Form {
    fn text(self, value: &Value) -> Result<String, String> {
        let text = match (self, value) {
            (Self::Texts, Value::List(texts)) => Some(texts.join(",")),
            (Self::Text | Self::Texts, Value::Text(_)) | (Self::Number, Value::Number(_)) | (Self::Any, _) => {
                value.text()
            }
            _ => None,
        };
        text.ok_or_else(|| {
            let expected = match self {
                Self::Text => "text, in quotes",
                Self::Number => "a number, without quotes",
                Self::Texts => "text, or a list of them",
                Self::Any => "a number, true, false or text",
            };
            format!("expected {expected}")
        })
    }
}

/// What takes text, of what may be none.
pub(crate) fn of_text<T>(parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&OsStr) -> Result<T, String> {
    move |text| parse(text.to_str().ok_or("expected UTF-8")?)
}
