//! The configuration file: what it gives, and where. It is read to its end, whatever is wrong on the way.

use std::{collections::HashSet, fs, ops::Range, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::origin::{Mistakes, Origin, Place};

/// The table whose keys are Kafka's names.
pub(crate) const KAFKA: &str = "kafka";

/// What a file gives.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// By key.
    pub(crate) entries: Vec<Entry>,
    /// Those of the table [`KAFKA`].
    pub(crate) kafka: Vec<Entry>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) key_at: Place,
    pub(crate) at: Place,
}

/// A value of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(String),
    Truth(bool),
    /// Texts only.
    List(Vec<String>),
    /// What no setting is: its type.
    Other(&'static str),
}

impl Value {
    /// As it would be given on the command line, and as it is shown.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text.clone()),
            Self::Truth(truth) => Some(truth.to_string()),
            Self::List(_) | Self::Other(_) => None,
        }
    }
}

impl File {
    /// Reads the file; what cannot be read is in `mistakes`.
    pub(crate) fn read(path: &Path, mistakes: &mut Mistakes) -> Self {
        match fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => Self::parse(path, &text, mistakes),
            Ok(Err(_)) => {
                mistakes.add(None, format!("the configuration file {} is not UTF-8", path.display()));
                Self::default()
            }
            Err(error) => {
                mistakes.add(None, format!("cannot read the configuration file {}: {error}", path.display()));
                Self::default()
            }
        }
    }

    /// What a file of this text gives.
    pub(crate) fn parse(path: &Path, text: &str, mistakes: &mut Mistakes) -> Self {
        let reading = Reading { path: path.into(), text };
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut broken = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let place = reading.place(&span);
            // What is made of such a line, its own first error explains.
            if !broken.contains(&place.line) {
                broken.push(place.line);
                mistakes.add(Some(Origin::File(place)), error.message());
            }
        }
        let mut file = Self::default();
        for (key, value) in table.get_ref() {
            if key.get_ref() != KAFKA {
                file.entries.push(reading.entry(key.get_ref(), key, value));
                continue;
            }
            match value.get_ref().as_table() {
                Some(table) => reading.walk("", table, &mut file.kafka),
                None => {
                    let entry = reading.entry(KAFKA, key, value);
                    if !broken.contains(&entry.at.line) {
                        mistakes.add(Some(Origin::File(entry.at)), "kafka: expected a table of Kafka's settings");
                    }
                }
            }
        }
        let is_whole = |entry: &Entry| !broken.contains(&entry.key_at.line) && !broken.contains(&entry.at.line);
        file.entries.retain(is_whole);
        file.kafka.retain(is_whole);
        // A name may be dotted and quoted, which are two for TOML.
        file.kafka.sort_by(|one, other| one.key_at.cmp(&other.key_at));
        let mut seen = HashSet::new();
        file.kafka.retain(|entry| {
            let is_new = seen.insert(entry.name.clone());
            if !is_new {
                mistakes.add(Some(Origin::File(entry.key_at.clone())), format!("{} is given twice", entry.name));
            }
            is_new
        });
        file
    }
}

struct Reading<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Reading<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        Place::new(&self.path, self.text, span.start)
    }

    fn entry<K>(&self, name: &str, key: &Spanned<K>, value: &Spanned<DeValue<'_>>) -> Entry {
        let (key_at, at) = (self.place(&key.span()), self.place(&value.span()));
        Entry { name: name.to_owned(), value: value_of(value.get_ref()), key_at, at }
    }

    /// As TOML has it, `num.partitions` is a table in a table; in quotes it is one name.
    fn walk(&self, above: &str, table: &DeTable<'_>, into: &mut Vec<Entry>) {
        for (key, value) in table {
            let name = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
            match value.get_ref().as_table() {
                Some(table) if !table.is_empty() => self.walk(&name, table, into),
                _ => into.push(self.entry(&name, key, value)),
            }
        }
    }
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number.to_string()),
            Err(_) => Value::Other("a number out of range"),
        },
        DeValue::Boolean(truth) => Value::Truth(*truth),
        DeValue::Array(items) => {
            let texts: Option<_> = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            texts.map_or(Value::Other("an array of something else than texts"), Value::List)
        }
        other => Value::Other(other.type_str()),
    }
}

/// The names most like one that there is not, if one is.
pub(crate) fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(&name.to_lowercase().replace('_', "-"), known);
    let best = known.map(|known| (likeness(known), known)).max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(likeness, _)| *likeness > 0.8).map(|(_, known)| known)
}

/// A path that a test may use, which is not read.
#[cfg(test)]
pub(crate) fn nowhere() -> &'static Path {
    Path::new("m.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (File, String) {
        let mut mistakes = Mistakes::default();
        let file = File::parse(nowhere(), text, &mut mistakes);
        (file, mistakes.to_string())
    }

    #[test]
    fn values_are_told_with_their_places() {
        let text =
            "listen = \"a\"\nnode-id = 0x10\n\n[kafka]\nnum.partitions = 3\n\"auto.create.topics.enable\" = false\n";
        let (file, mistakes) = parse(text);
        let told = |entries: &[Entry]| {
            let line = |entry: &Entry| format!("{} {:?} {} {}", entry.name, entry.value, entry.key_at, entry.at);
            let mut lines: Vec<_> = entries.iter().map(line).collect();
            lines.sort();
            lines
        };
        assert_eq!(mistakes, "");
        assert_eq!(
            told(&file.entries),
            ["listen Text(\"a\") m.toml:1:1 m.toml:1:10", "node-id Number(\"16\") m.toml:2:1 m.toml:2:11"]
        );
        assert_eq!(
            told(&file.kafka),
            [
                "auto.create.topics.enable Truth(false) m.toml:6:1 m.toml:6:31",
                "num.partitions Number(\"3\") m.toml:5:5 m.toml:5:18",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_told_and_what_is_around_it_is_read() {
        let (file, mistakes) = parse("node-id = \nlisten = \"a\"\nhttp = = 1\nadvertise = \"b\"\nlisten = \"c\"\n");
        for place in ["m.toml:1:", "m.toml:3:", "m.toml:5:"] {
            assert!(mistakes.contains(place), "no {place} in {mistakes}");
        }
        let names: Vec<_> = file.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert!(names.contains(&"advertise") && !names.contains(&"node-id") && !names.contains(&"http"), "{names:?}");
    }

    #[test]
    fn a_table_of_kafkas_settings_is_a_table_with_each_name_once() {
        let told = |text: &str| parse(text).1;
        assert_eq!(told("kafka = 1"), "m.toml:1:9: kafka: expected a table of Kafka's settings");
        let twice = told("[kafka]\nnum.partitions = 1\n\"num.partitions\" = 2\n");
        assert_eq!(twice, "m.toml:3:1: num.partitions is given twice");
        let apart = told("[kafka]\nnum.partitions = 1\ndefault.replication.factor = 1\n\"num.partitions\" = 2\n");
        assert_eq!(apart, "m.toml:4:1: num.partitions is given twice");
    }

    #[test]
    fn a_name_that_is_nearly_one_is_known_for_it() {
        let known = ["data-dir", "listen", "node-id", "frame-memory"];
        let check =
            |name: &str, expected: Option<&str>| assert_eq!(suggest(name, known.into_iter()), expected, "{name}");
        check("listne", Some("listen"));
        check("data_dir", Some("data-dir"));
        check("NODE-ID", Some("node-id"));
        check("framememory", Some("frame-memory"));
        check("zzz", None);
    }
}
