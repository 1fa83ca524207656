//! Settings under Kafka's names: in the table `[kafka]` of the configuration file, in the environment, and as `--set NAME=VALUE`.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use millstream_broker::NewTopics;
use millstream_model::limits::PARTITIONS_MAX;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, Visitor},
};

use crate::{failure::Malformed, values::Pair};

/// One of them.
#[derive(Debug)]
struct Setting {
    name: &'static str,
    /// Takes a value, or says what would be taken.
    set: fn(&mut NewTopics, &str) -> Result<(), String>,
}

static SETTINGS: [Setting; 3] = [
    Setting {
        name: "num.partitions",
        set: |to, text| number(text, PARTITIONS_MAX).map(|partitions| to.partitions = partitions),
    },
    Setting {
        name: "default.replication.factor",
        set: |to, text| number(text, i16::MAX).map(|replicas| to.replication_factor = replicas),
    },
    Setting {
        name: "auto.create.topics.enable",
        set: |to, text| truth(text).map(|enabled| to.made_when_asked_for = enabled),
    },
];

fn number<N: FromStr + PartialOrd + From<u8> + Display>(text: &str, max: N) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| N::from(1) <= *number && *number <= max);
    number.ok_or_else(|| format!("a number from 1 to {max}"))
}

fn truth(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "true or false".to_owned())
}

impl Setting {
    /// The environment's name of it.
    fn variable(&self) -> String {
        format!("MILLSTREAM_{}", self.name.to_uppercase().replace('.', "_"))
    }
}

/// A setting with a value that it takes.
#[derive(Clone, Debug)]
pub(super) struct Given {
    setting: &'static Setting,
    value: String,
}

impl Given {
    fn new(name: &str, value: &str) -> Result<Self, String> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
            let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
            return Err(format!("there is no {name} here; of Kafka's settings there are {}", known.join(", ")));
        };
        let given = Self { setting, value: value.to_owned() };
        given.apply(&mut NewTopics::default()).map(|()| given.clone())
    }

    fn apply(&self, to: &mut NewTopics) -> Result<(), String> {
        (self.setting.set)(to, &self.value).map_err(|taken| format!("{} takes {taken}", self.setting.name))
    }
}

/// `NAME=VALUE`.
impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Pair { name, value } = text.parse().map_err(|_| "expected NAME=VALUE")?;
        Self::new(&name, &value)
    }
}

/// The table of the configuration file. As TOML has it, `num.partitions` is a table in a table; in quotes it is one name.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Given>);

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut table = Self::default();
        Level { name: String::new(), table: &mut table }.deserialize(from)?;
        Ok(table)
    }
}

/// What is at a name: a value, or more names that begin with it.
struct Level<'a> {
    name: String,
    table: &'a mut Table,
}

impl Level<'_> {
    fn take<E: Error>(self, value: &str) -> Result<(), E> {
        if self.name.is_empty() {
            return Err(E::custom("expected a table of Kafka's settings"));
        }
        let given = Given::new(&self.name, value).map_err(E::custom)?;
        if self.table.0.iter().any(|other| other.setting.name == self.name) {
            return Err(E::custom(format!("{} is given twice", self.name)));
        }
        self.table.0.push(given);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.name.is_empty() {
            true => from.deserialize_map(self),
            false => from.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => f.write_str("a table of Kafka's settings"),
            name => write!(f, "a number, true, false or text as {name}"),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.take(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.take(&value.to_string())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.take(value)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let name = if self.name.is_empty() { key } else { format!("{}.{key}", self.name) };
            map.next_value_seed(Level { name, table: &mut *self.table })?;
        }
        Ok(())
    }
}

/// The environment.
pub(super) fn environment(variable: &str) -> Option<String> {
    std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned())
}

/// What is in force: flags, the last of a name, before the environment before the file before the defaults.
///
/// # Errors
/// What the environment has is not taken.
pub(super) fn resolve(
    flags: &[Given],
    environment: impl Fn(&str) -> Option<String>,
    file: &Table,
) -> Result<NewTopics, Malformed> {
    let mut of_environment = Vec::new();
    for setting in &SETTINGS {
        let variable = setting.variable();
        if let Some(value) = environment(&variable) {
            let given = Given::new(setting.name, &value);
            of_environment.push(given.map_err(|refused| Malformed(format!("{variable} is {value:?}: {refused}")))?);
        }
    }
    let mut resolved = NewTopics::default();
    for given in file.0.iter().chain(&of_environment).chain(flags) {
        given.apply(&mut resolved).map_err(Malformed)?;
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    fn table(text: &str) -> Result<Table, toml::de::Error> {
        toml::from_str(text)
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn nothing_given_is_what_kafka_has() {
        let kafka = NewTopics { partitions: 1, replication_factor: 1, made_when_asked_for: true };
        assert_eq!(resolve(&[], nothing, &Table::default()).unwrap(), kafka);
    }

    #[test]
    fn names_may_be_dotted_quoted_or_tables() {
        let expected = NewTopics { partitions: 6, replication_factor: 3, made_when_asked_for: false };
        for text in [
            "num.partitions = 6\ndefault.replication.factor = 3\nauto.create.topics.enable = false",
            "\"num.partitions\" = 6\n\"default.replication.factor\" = \"3\"\n\"auto.create.topics.enable\" = \"false\"",
            "num.partitions = 6\n[default]\nreplication.factor = 3\n[auto.create.topics]\nenable = false",
        ] {
            assert_eq!(resolve(&[], nothing, &table(text).unwrap()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file =
            table("num.partitions = 2\ndefault.replication.factor = 2\nauto.create.topics.enable = false").unwrap();
        let environment = |name: &str| match name {
            "MILLSTREAM_NUM_PARTITIONS" => Some("3".to_owned()),
            "MILLSTREAM_DEFAULT_REPLICATION_FACTOR" => Some("4".to_owned()),
            _ => None,
        };
        let flags = ["num.partitions=5", "num.partitions=7"].map(|text| text.parse().unwrap());
        let expected = NewTopics { partitions: 7, replication_factor: 4, made_when_asked_for: false };
        assert_eq!(resolve(&flags, environment, &file).unwrap(), expected);
    }

    #[test]
    fn a_mistake_is_told_with_what_is_taken_and_where_it_is() {
        for (text, line, told) in [
            ("\nnum.partitions = 0", "line 2", "num.partitions takes a number from 1 to 10000"),
            ("num.partitions = 10001", "line 1", "num.partitions takes a number from 1 to 10000"),
            ("num.partitions = \"many\"", "line 1", "num.partitions takes a number from 1 to 10000"),
            (
                "default.replication.factor = 32768",
                "line 1",
                "default.replication.factor takes a number from 1 to 32767",
            ),
            ("num.partitions = 1\nauto.create.topics.enable = \"yes\"", "line 2", "enable takes true or false"),
            ("num.partitions = 1\nnum.partition = 1", "line 2", "there is no num.partition here"),
            ("num.partitions = 1\n\"num.partitions\" = 1", "line 2", "num.partitions is given twice"),
            ("num = 1", "line 1", "there is no num here; of Kafka's settings there are num.partitions, "),
            ("num.partitions = [1]", "line 1", "a number, true, false or text as num.partitions"),
        ] {
            let refused = table(text).unwrap_err().to_string();
            for part in [line, told] {
                assert!(refused.contains(part), "{text:?}: no {part:?} in {refused}");
            }
        }
        for text in ["num.partitions", "=1", "num.partitions=", "num.partitions=-1", "log.dirs=/"] {
            assert!(text.parse::<Given>().is_err(), "{text}");
        }
        let refused = resolve(&[], |_| Some("perhaps".into()), &Table::default()).unwrap_err().to_string();
        assert_eq!(refused, "MILLSTREAM_NUM_PARTITIONS is \"perhaps\": num.partitions takes a number from 1 to 10000");
    }

    #[test]
    fn each_is_in_the_help() {
        let mut cli = Cli::command();
        let help = cli.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        for setting in &SETTINGS {
            assert!(help.contains(setting.name), "{}", setting.name);
        }
    }
}
