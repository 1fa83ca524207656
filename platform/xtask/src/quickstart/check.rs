//! What the quickstart checks: the input as it was, against what was read back, every key's order included.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

/// The flights as they were before anything was sent.
pub(crate) struct Flights {
    rows: Vec<Row>,
    by_key: BTreeMap<String, Vec<usize>>,
}

struct Row {
    text: String,
    key: Option<String>,
    carrier: String,
    /// The worse of departure and arrival; none for a flight that did neither.
    late_minutes: Option<i64>,
}

/// A record as `consume --format json` shows it.
pub(crate) struct Record {
    pub(crate) partition: i64,
    pub(crate) offset: i64,
    pub(crate) key: Option<String>,
    pub(crate) value: String,
}

impl Record {
    /// For a person: where it is, its key, and the beginning of its value.
    pub(crate) fn shown(&self) -> String {
        let key = self.key.as_deref().unwrap_or("no key");
        format!("partition {} offset {}, {key}: {}", self.partition, self.offset, self.value)
    }
}

/// All that was read of a topic or a view, each partition in the order of its offsets.
pub(crate) struct Read {
    pub(crate) records: Vec<Record>,
}

impl Read {
    /// Parses what `consume --format json` printed, one object a line.
    pub(crate) fn parse(text: &str, partitions: u32) -> anyhow::Result<Self> {
        let mut records = Vec::new();
        let mut last: HashMap<i64, i64> = HashMap::new();
        for line in text.lines() {
            let said: Value = serde_json::from_str(line).with_context(|| format!("consume printed {line:?}"))?;
            let number = |name: &str| said[name].as_i64().with_context(|| format!("{line}: no {name}"));
            let (partition, offset) = (number("partition")?, number("offset")?);
            ensure!((0..i64::from(partitions)).contains(&partition), "{line}: no such partition");
            if let Some(before) = last.insert(partition, offset) {
                ensure!(before < offset, "{line}: came after offset {before} of its partition");
            }
            let key = said["key"].as_str().map(str::to_owned);
            let value = said["value"].as_str().with_context(|| format!("{line}: no value"))?.to_owned();
            records.push(Record { partition, offset, key, value });
        }
        Ok(Self { records })
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether both hold the same records at the same places.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let all = |read: &Self| -> BTreeMap<(i64, i64), (Option<String>, String)> {
            let entry = |r: &Record| ((r.partition, r.offset), (r.key.clone(), r.value.clone()));
            read.records.iter().map(entry).collect()
        };
        all(self) == all(other)
    }

    /// The values of each key, in the order in which they were read; and that every key is in one partition.
    fn by_key(&self) -> anyhow::Result<BTreeMap<&str, Vec<&str>>> {
        let mut partitions: HashMap<&str, i64> = HashMap::new();
        let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for record in &self.records {
            let Some(key) = record.key.as_deref() else { continue };
            let partition = *partitions.entry(key).or_insert(record.partition);
            ensure!(partition == record.partition, "{key} is in partitions {partition} and {}", record.partition);
            values.entry(key).or_default().push(&record.value);
        }
        Ok(values)
    }
}

impl Flights {
    /// Reads rows of JSON, keyed by `tailnum`.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut rows = Vec::new();
        let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (number, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let row: Value = serde_json::from_str(line).with_context(|| format!("row {}", number + 1))?;
            let key = row["tailnum"].as_str().map(str::to_owned);
            let carrier = row["carrier"].as_str().with_context(|| format!("row {}: no carrier", number + 1))?;
            if let Some(key) = &key {
                by_key.entry(key.clone()).or_default().push(rows.len());
            }
            rows.push(Row {
                text: line.to_owned(),
                key,
                carrier: carrier.to_owned(),
                late_minutes: row["dep_delay"].as_i64().max(row["arr_delay"].as_i64()),
            });
        }
        ensure!(!rows.is_empty(), "{} holds no flights", path.display());
        Ok(Self { rows, by_key })
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many different keys there are.
    pub(crate) fn aircraft(&self) -> usize {
        self.by_key.len()
    }

    /// Every row came back byte for byte, once; each key in one partition, in the order in which it was sent.
    pub(crate) fn check_source(&self, read: &Read) -> anyhow::Result<()> {
        ensure!(read.len() == self.len(), "{} flights were sent, {} were read", self.len(), read.len());
        let found = read.by_key()?;
        ensure!(found.len() == self.by_key.len(), "{} keys were sent, {} were read", self.by_key.len(), found.len());
        for (key, sent) in &self.by_key {
            let sent: Vec<&str> = sent.iter().map(|at| self.rows[*at].text.as_str()).collect();
            same_order(key, &sent, found.get(key.as_str()).map_or(&[], Vec::as_slice))?;
        }
        let sent = counted(self.rows.iter().filter(|row| row.key.is_none()).map(|row| row.text.as_str()));
        let found = counted(read.records.iter().filter(|r| r.key.is_none()).map(|r| r.value.as_str()));
        ensure!(sent == found, "the flights without a tail number are not those that were sent");
        Ok(())
    }

    /// Exactly the late flights are there, each with its airline's name and otherwise as it was, each key in order.
    /// Returns the number of airlines.
    pub(crate) fn check_delayed(&self, read: &Read, late_from: i64) -> anyhow::Result<usize> {
        let late = |row: &&Row| row.late_minutes.is_some_and(|minutes| minutes >= late_from);
        let expected = self.rows.iter().filter(late).count();
        ensure!(read.len() == expected, "{expected} flights were late, the transform found {}", read.len());
        let mut airlines: BTreeMap<&str, String> = BTreeMap::new();
        let mut without: Vec<(Option<&str>, Map<String, Value>)> = Vec::new();
        for record in &read.records {
            let Value::Object(mut row) = serde_json::from_str(&record.value)? else {
                bail!("not an object: {}", record.value)
            };
            let Some(Value::String(airline)) = row.remove("airline") else {
                bail!("no airline's name: {}", record.value)
            };
            ensure!(!airline.is_empty(), "an empty airline's name: {}", record.value);
            let carrier = row.get("carrier").and_then(Value::as_str).unwrap_or_default();
            let carrier = self.rows.iter().map(|row| row.carrier.as_str()).find(|known| *known == carrier);
            let carrier = carrier.with_context(|| format!("an unknown carrier: {}", record.value))?;
            ensure!(airline != carrier, "the airline of {carrier} is only its code");
            let known = airlines.entry(carrier).or_insert_with(|| airline.clone());
            ensure!(*known == airline, "{carrier} is {known} and {airline}");
            without.push((record.key.as_deref(), row));
        }
        // The transform may order fields as it likes, so rows are compared as objects.
        read.by_key()?;
        let mut found: BTreeMap<Option<&str>, Vec<&Map<String, Value>>> = BTreeMap::new();
        for (key, row) in &without {
            found.entry(*key).or_default().push(row);
        }
        let mut sent: BTreeMap<Option<&str>, Vec<Map<String, Value>>> = BTreeMap::new();
        for row in self.rows.iter().filter(late) {
            sent.entry(row.key.as_deref()).or_default().push(serde_json::from_str(&row.text)?);
        }
        for (key, rows) in &sent {
            let found = found.get(key).map_or(&[] as &[_], Vec::as_slice);
            if key.is_some() {
                ensure!(
                    rows.iter().eq(found.iter().copied()),
                    "the late flights of {key:?} differ, or their order does"
                );
            } else {
                ensure!(
                    rows.len() == found.len(),
                    "late flights without a tail number: {} of {}",
                    found.len(),
                    rows.len()
                );
            }
        }
        Ok(airlines.len())
    }

    /// The view shows every record of the source at its place, with all but the tail number, which is nowhere.
    pub(crate) fn check_public(&self, source: &Read, public: &Read) -> anyhow::Result<()> {
        ensure!(public.len() == source.len(), "the topic has {} flights, the view {}", source.len(), public.len());
        let places: HashMap<(i64, i64), &Record> =
            source.records.iter().map(|record| ((record.partition, record.offset), record)).collect();
        for record in &public.records {
            let shown = record.shown();
            let place = places.get(&(record.partition, record.offset));
            let behind = place.with_context(|| format!("not at its source's offset: {shown}"))?;
            let mut expected: Map<String, Value> = serde_json::from_str(&behind.value)?;
            expected.remove("tailnum");
            let found: Map<String, Value> = serde_json::from_str(&record.value)?;
            ensure!(found == expected, "not its source without the tail number: {shown}");
            ensure!(record.key.is_none(), "the key still tells the tail number: {shown}");
        }
        // Once more without trusting names of fields: no tail number's text anywhere.
        let tails: BTreeSet<&str> = self.by_key.keys().map(String::as_str).collect();
        for record in &public.records {
            let words = record.value.split(|c: char| !c.is_ascii_alphanumeric());
            if let Some(tail) = words.into_iter().find(|word| tails.contains(word)) {
                bail!("the view shows {tail}: {}", record.shown());
            }
        }
        Ok(())
    }
}

fn same_order(key: &str, sent: &[&str], found: &[&str]) -> anyhow::Result<()> {
    ensure!(sent.len() == found.len(), "{key}: {} flights were sent, {} were read", sent.len(), found.len());
    for (at, (sent, found)) in sent.iter().zip(found).enumerate() {
        ensure!(sent == found, "{key}: flight {} should be\n  {sent}\nbut is\n  {found}", at + 1);
    }
    Ok(())
}

fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What must be found, and the damage that makes it so.
    type Broken = (&'static str, fn(&mut Vec<Record>));

    /// Four flights of two aircraft and one of an unknown one; the first, third and last are late.
    fn flights() -> Flights {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let row = |tail: &str, late: i64| {
            format!("{{\"tailnum\":{tail},\"carrier\":\"UA\",\"dep_delay\":null,\"arr_delay\":{late}}}\n")
        };
        let rows = [("\"N1\"", 20), ("\"N2\"", 1), ("\"N1\"", 30), ("\"N2\"", 2), ("null", 40)];
        std::fs::write(&path, rows.map(|(tail, late)| row(tail, late)).concat()).unwrap();
        Flights::read(&path).unwrap()
    }

    fn record(partition: i64, offset: i64, key: Option<&str>, value: &str) -> Record {
        Record { partition, offset, key: key.map(str::to_owned), value: value.to_owned() }
    }

    fn as_sent(flights: &Flights) -> Vec<Record> {
        let place = |key: Option<&str>| i64::from(key == Some("N2"));
        let mut next = [0, 0];
        let mut records = Vec::new();
        for row in &flights.rows {
            let partition = place(row.key.as_deref());
            let offset = &mut next[usize::try_from(partition).unwrap()];
            records.push(record(partition, *offset, row.key.as_deref(), &row.text));
            *offset += 1;
        }
        records
    }

    fn delayed(flights: &Flights) -> Vec<Record> {
        let named = |text: &str| text.replace("\"UA\"", "\"UA\",\"airline\":\"United\"");
        let late = as_sent(flights).into_iter().filter(|r| !r.value.contains(":1}") && !r.value.contains(":2}"));
        late.map(|r| Record { value: named(&r.value), ..r }).collect()
    }

    fn public(flights: &Flights) -> Vec<Record> {
        let bare = |text: &str| format!("{{{}", &text[text.find("\"carrier\"").unwrap()..]);
        as_sent(flights).into_iter().map(|r| Record { value: bare(&r.value), key: None, ..r }).collect()
    }

    #[test]
    fn what_is_right_is_taken() {
        let flights = flights();
        let source = Read { records: as_sent(&flights) };
        flights.check_source(&source).unwrap();
        assert_eq!(flights.check_delayed(&Read { records: delayed(&flights) }, 15).unwrap(), 1);
        flights.check_public(&source, &Read { records: public(&flights) }).unwrap();
    }

    #[test]
    fn whatever_is_wrong_with_the_source_is_found() {
        let flights = flights();
        let broken: [Broken; 6] = [
            ("were read", |records| drop(records.pop())),
            ("is in partitions", |records| records[2].partition = 1),
            ("should be", |records| records.swap(0, 2)),
            ("should be", |records| records[0].value.push(' ')),
            ("keys were sent", |records| records[0].key = Some("N3".into())),
            ("without a tail number", |records| records[4].value.push(' ')),
        ];
        for (word, damage) in broken {
            let mut records = as_sent(&flights);
            damage(&mut records);
            let error = flights.check_source(&Read { records }).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn whatever_is_wrong_with_the_transform_is_found() {
        let flights = flights();
        let broken: [Broken; 5] = [
            ("the transform found", |records| drop(records.pop())),
            ("or their order does", |records| records.swap(0, 1)),
            ("no airline", |records| records[0].value = records[0].value.replace("airline", "name")),
            ("only its code", |records| records[0].value = records[0].value.replace("United", "UA")),
            ("is in partitions", |records| records[1].partition = 1),
        ];
        for (word, damage) in broken {
            let mut records = delayed(&flights);
            damage(&mut records);
            let error = flights.check_delayed(&Read { records }, 15).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn whatever_is_wrong_with_the_view_is_found() {
        let flights = flights();
        let broken: [Broken; 4] = [
            ("the view", |records| drop(records.pop())),
            ("key still tells", |records| records[0].key = Some("N1".into())),
            ("not its source", |records| records[0].value = "{\"tailnum\":\"N1\"}".into()),
            ("source's offset", |records| records[0].offset = 77),
        ];
        for (word, damage) in broken {
            let mut records = public(&flights);
            damage(&mut records);
            let error = flights.check_public(&Read { records: as_sent(&flights) }, &Read { records }).unwrap_err();
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn output_that_is_no_record_is_refused() {
        for (text, word) in [
            ("not json", "printed"),
            ("{\"partition\":6,\"offset\":0,\"key\":null,\"value\":\"\"}", "no such partition"),
            ("{\"partition\":0,\"key\":null,\"value\":\"\"}", "no offset"),
            (
                "{\"partition\":0,\"offset\":1,\"value\":\"\"}\n{\"partition\":0,\"offset\":1,\"value\":\"\"}",
                "came after",
            ),
        ] {
            let error = Read::parse(text, 6).err().unwrap();
            assert!(format!("{error:#}").contains(word), "{text}: {error:#}");
        }
    }
}
