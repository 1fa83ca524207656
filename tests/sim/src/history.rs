//! What clients were told, held against what the broker has in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use millstream_client::{ConsumedRecord, Delivered};

/// Values that were sent, and what became of them. A value is sent once, so it names its record.
#[derive(Debug, Default)]
pub struct History {
    sent: BTreeSet<Vec<u8>>,
    /// By partition and offset.
    acknowledged: BTreeMap<(i32, i64), Vec<u8>>,
}

/// What a broker may not do.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An acknowledged record is not where it was said to be.
    Lost {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// What was acknowledged.
        value: String,
        /// What is there.
        found: Option<String>,
    },
    /// A record was read that nobody sent.
    Invented {
        /// Its value.
        value: String,
    },
    /// A record is there more than once, though it was sent once and the producer numbers what it sends.
    Twice {
        /// Its value.
        value: String,
    },
    /// Offsets of a partition do not follow each other.
    Gap {
        /// The partition.
        partition: i32,
        /// The offset that should have come.
        expected: i64,
        /// The one that came.
        found: i64,
    },
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

impl History {
    /// Notes a value before it is sent.
    pub fn sent(&mut self, value: &[u8]) {
        self.sent.insert(value.to_vec());
    }

    /// Notes what the broker said of it.
    pub fn acknowledged(&mut self, value: &[u8], delivered: Delivered) {
        if let Some(offset) = delivered.offset {
            self.acknowledged.insert((delivered.partition.0, offset.0), value.to_vec());
        }
    }

    /// How many records were acknowledged.
    #[must_use]
    pub fn acknowledgements(&self) -> usize {
        self.acknowledged.len()
    }

    /// Holds all that was read, from the beginning to the end and each partition in its order, against the history.
    #[must_use]
    pub fn check(&self, read: &[ConsumedRecord]) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        let mut found = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for record in read {
            let (partition, offset) = (record.partition.0, record.offset.0);
            let expected = next.entry(partition).or_insert(0);
            if *expected != offset {
                wrong.push(Wrong::Gap { partition, expected: *expected, found: offset });
            }
            *expected = offset + 1;
            let value = record.value.as_deref().unwrap_or_default();
            if !self.sent.contains(value) {
                wrong.push(Wrong::Invented { value: text(value) });
            }
            if !seen.insert(value) {
                wrong.push(Wrong::Twice { value: text(value) });
            }
            found.insert((partition, offset), value);
        }
        for ((partition, offset), value) in &self.acknowledged {
            let there = found.get(&(*partition, *offset)).copied();
            if there != Some(value.as_slice()) {
                wrong.push(Wrong::Lost {
                    partition: *partition,
                    offset: *offset,
                    value: text(value),
                    found: there.map(text),
                });
            }
        }
        wrong
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { partition, offset, value, found: None } => {
                write!(f, "{value:?} was acknowledged at {partition}/{offset}, where nothing is")
            }
            Self::Lost { partition, offset, value, found: Some(found) } => {
                write!(f, "{value:?} was acknowledged at {partition}/{offset}, where {found:?} is")
            }
            Self::Invented { value } => write!(f, "{value:?} was read, and never sent"),
            Self::Twice { value } => write!(f, "{value:?} was sent once and is there twice"),
            Self::Gap { partition, expected, found } => {
                write!(f, "partition {partition}: {found} came where {expected} should have")
            }
        }
    }
}
