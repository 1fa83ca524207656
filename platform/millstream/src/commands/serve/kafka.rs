//! Settings under Kafka's names: in the table `[kafka]` of the configuration file, in the environment, and as `--set NAME=VALUE`.

use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    str::FromStr,
};

use millstream_broker::NewTopics;
use millstream_model::limits::PARTITIONS_MAX;
use serde_json::Value;

use super::settings::{Entry, Form, Origin, Reader, of_text, suggest, variable};
use crate::values::Pair;

/// One of them.
#[derive(Debug)]
struct Setting {
    name: &'static str,
    /// Takes a value, or says what is expected.
    set: fn(&mut NewTopics, &str) -> Result<(), String>,
    show: fn(&NewTopics) -> Value,
}

static SETTINGS: [Setting; 3] = [
    Setting {
        name: "num.partitions",
        set: |to, text| number(text, PARTITIONS_MAX).map(|partitions| to.partitions = partitions),
        show: |of| of.partitions.into(),
    },
    Setting {
        name: "default.replication.factor",
        set: |to, text| number(text, i16::MAX).map(|replicas| to.replication_factor = replicas),
        show: |of| of.replication_factor.into(),
    },
    Setting {
        name: "auto.create.topics.enable",
        set: |to, text| truth(text).map(|enabled| to.made_when_asked_for = enabled),
        show: |of| of.made_when_asked_for.into(),
    },
];

fn number<N: FromStr + PartialOrd + From<u8> + Display>(text: &str, max: N) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| N::from(1) <= *number && *number <= max);
    number.ok_or_else(|| format!("expected a number from 1 to {max}"))
}

fn truth(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".to_owned())
}

/// All names.
pub(super) fn names() -> [&'static str; SETTINGS.len()] {
    SETTINGS.each_ref().map(|setting| setting.name)
}

/// Why there is no such name.
fn unknown(name: &str) -> String {
    match suggest(name, names().into_iter()) {
        Some(known) => format!("there is no {name} here; did you mean {known}?"),
        None => format!("there is no {name} here; of Kafka's settings there are {}", names().join(", ")),
    }
}

/// What is in force: `set`, the last of a name, before the environment before the file before the defaults.
pub(super) fn resolve(reader: &mut Reader<'_>, set: &[OsString]) -> NewTopics {
    let of_file = std::mem::take(&mut reader.file.kafka);
    for Entry { name, key_at, .. } in of_file.iter().filter(|entry| !names().contains(&entry.name.as_str())) {
        reader.mistakes.add(Some(Origin::File(key_at.clone())), unknown(name));
    }
    let set: Vec<Pair> = set.iter().filter_map(|given| pair(reader, given)).collect();
    let mut resolved = NewTopics::default();
    for setting in &SETTINGS {
        let parse = of_text(|text: &str| (setting.set)(&mut NewTopics::default(), text).map(|()| text.to_owned()));
        let mut taken: Option<(String, Origin)> = None;
        for entry in of_file.iter().filter(|entry| entry.name == setting.name) {
            reader.offer_entry(&mut taken, entry, Form::Any, &parse);
        }
        let variable = variable(setting.name);
        if let Some(value) = (reader.environment)(&variable) {
            reader.offer(&mut taken, Origin::Environment(variable), &value, &parse);
        }
        for Pair { value, .. } in set.iter().filter(|pair| pair.name == setting.name) {
            reader.offer(&mut taken, Origin::Flag(format!("--set {}", setting.name)), OsStr::new(value), &parse);
        }
        let origin = match taken {
            Some((value, origin)) => {
                // It was taken just before.
                let _ = (setting.set)(&mut resolved, &value);
                origin
            }
            None => Origin::Default,
        };
        reader.note(setting.name, (setting.show)(&resolved), &origin);
    }
    resolved
}

/// `NAME=VALUE` of a name that there is.
fn pair(reader: &mut Reader<'_>, given: &OsStr) -> Option<Pair> {
    let at = || Some(Origin::Flag("--set".into()));
    match given.to_str().and_then(|text| text.parse::<Pair>().ok()) {
        Some(pair) if names().contains(&pair.name.as_str()) => Some(pair),
        Some(Pair { name, .. }) => {
            reader.mistakes.add(at(), unknown(&name));
            None
        }
        None => {
            reader.mistakes.add(at(), format!("{given:?}: expected NAME=VALUE"));
            None
        }
    }
}
