//! What clients did and were told, and what a broker may not answer after that: the checker of every test that breaks one.
//!
//! A [`History`] is told of every send, every acknowledgement and every end of the broker's process, and then holds whole
//! passes over a topic against all of it. It knows nothing of the broker but what clients can know. Each rule has a name,
//! [`Invariant`]; what breaks one is a [`Wrong`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What must hold, whatever happens to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A record that was acknowledged is read, at the offset that was acknowledged.
    AcknowledgedIsRead,
    /// What is read was sent, and its send was not refused.
    ReadWasSent,
    /// All acknowledgements and reads, now and later, agree on the value at an offset.
    OffsetHasOneValue,
    /// What was read once is read by every later pass.
    ReadIsKept,
    /// A value that was sent once has one offset at most: producers number what they send.
    ValueHasOneOffset,
    /// What a producer sends to a partition one after the other gets increasing offsets.
    ProducerOrder,
    /// What was acknowledged before something else was sent to the partition comes before it.
    RealTimeOrder,
    /// A pass goes forward and skips no offset.
    OffsetsAreDense,
    /// Nothing is read at or past the high watermark that was told with it.
    ReadBelowHighWatermark,
    /// The high watermark of a partition never goes back, and is past everything acknowledged.
    HighWatermarkIsKept,
    /// No two lives of a broker write in one leader epoch, no epoch follows a later one, and no offset is used twice in one.
    EpochIsOneLeaders,
}

/// One thing that may not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What it breaks.
    pub invariant: Invariant,
    /// What is where, for people.
    pub what: String,
}

/// A record as a pass over its topic found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The leader epoch that its batch carries, where the reader looked.
    pub epoch: Option<i32>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Everything of a topic from its beginning to its end, each partition in its order, and what was told with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// The records.
    pub seen: Vec<Seen>,
    /// The high watermark of each partition when its last record came, where the reader looked.
    pub high_watermarks: BTreeMap<i32, i64>,
}

/// A moment of a history, before which some of its events were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// What clients of one topic did. A value is sent once, so it names its record.
#[derive(Debug, Default)]
pub struct History {
    now: u64,
    life: u32,
    sent: BTreeMap<Vec<u8>, Sent>,
    /// By partition and offset: what was read or acknowledged there.
    known: BTreeMap<(i32, i64), Known>,
    high_watermarks: BTreeMap<i32, i64>,
    acknowledgements: usize,
    /// What was wrong before anything was read.
    wrong: Vec<Wrong>,
}

#[derive(Debug)]
struct Sent {
    producer: u64,
    at: Moment,
    life: u32,
    fate: Fate,
}

/// What is known of an offset.
#[derive(Debug)]
struct Known {
    value: Vec<u8>,
    /// As far as it was looked at.
    epoch: Option<i32>,
    /// A pass has found it there.
    read: bool,
}

#[derive(Debug)]
enum Fate {
    Unknown,
    Refused,
    Acknowledged { place: (i32, i64), at: Moment, life: u32 },
}

impl History {
    /// The moment that is now: what is noted from here on is later.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(self.now)
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        Moment(self.now)
    }

    /// Notes a value before it is sent; `producer`: who numbers it.
    pub fn sent(&mut self, producer: u64, value: &[u8]) {
        let (at, life) = (self.tick(), self.life);
        let before = self.sent.insert(value.to_vec(), Sent { producer, at, life, fate: Fate::Unknown });
        assert!(before.is_none(), "{} is sent twice: the test cannot tell its records apart", text(value));
    }

    /// Notes that the broker has refused a value for good: it must never be read.
    pub fn refused(&mut self, value: &[u8]) {
        if let Some(sent) = self.sent.get_mut(value) {
            sent.fate = Fate::Refused;
        }
    }

    /// Notes that the broker has said where a value is.
    pub fn acknowledged(&mut self, value: &[u8], partition: i32, offset: i64) {
        let (at, life, place) = (self.tick(), self.life, (partition, offset));
        self.acknowledgements += 1;
        match self.sent.get_mut(value) {
            Some(sent) => sent.fate = Fate::Acknowledged { place, at, life },
            None => self.wrong.push(Wrong::new(
                Invariant::ReadWasSent,
                format_args!("{} was acknowledged at {partition}/{offset}, and never sent", text(value)),
            )),
        }
        self.agree(place, Known { value: value.to_vec(), epoch: None, read: false });
    }

    /// Notes that the broker's process has ended, however: what is written from here on is another life's.
    pub fn ended(&mut self) {
        self.tick();
        self.life += 1;
    }

    /// Notes that the broker's power failed, between `cut` and `off`, and that its process is gone now. What was sent before
    /// `off` and acknowledged after `cut` is no promise: its sync may have been under way, and ext4 tells such a one that it
    /// went well though its records are gone. A machine without power acknowledges nothing. What was sent later is held to its
    /// acknowledgement: of a sync that begins then, every file system says that it failed. Gives the values of the former.
    pub fn power_failed(&mut self, cut: Moment, off: Moment) -> Vec<Vec<u8>> {
        self.ended();
        let mut doubtful = Vec::new();
        for (value, sent) in &mut self.sent {
            if let Fate::Acknowledged { place, at, .. } = sent.fate
                && at > cut
                && sent.at <= off
            {
                sent.fate = Fate::Unknown;
                doubtful.push(value.clone());
                if self.known.get(&place).is_some_and(|known| !known.read) {
                    self.known.remove(&place);
                }
            }
        }
        doubtful
    }

    /// Whether a pass has found this value.
    #[must_use]
    pub fn has_read(&self, value: &[u8]) -> bool {
        self.known.values().any(|known| known.read && known.value == value)
    }

    /// How many acknowledgements were noted.
    #[must_use]
    pub fn acknowledgements(&self) -> usize {
        self.acknowledgements
    }

    /// Holds a pass against the history, and remembers it for the passes to come. `begun`: when the pass began; what was
    /// acknowledged later need not be in it.
    #[must_use]
    pub fn check(&mut self, begun: Moment, pass: &Pass) -> Vec<Wrong> {
        let mut found: BTreeMap<&[u8], (i32, i64)> = BTreeMap::new();
        let mut partitions: BTreeMap<i32, Vec<&Seen>> = BTreeMap::new();
        for seen in &pass.seen {
            self.check_sent(seen);
            if let Some((partition, offset)) = found.insert(&seen.value, (seen.partition, seen.offset)) {
                let (here, there) = (seen.place(), format!("{partition}/{offset}"));
                self.report(Invariant::ValueHasOneOffset, format_args!("{} is at {there} and at {here}", seen.text()));
            }
            let place = (seen.partition, seen.offset);
            self.agree(place, Known { value: seen.value.clone(), epoch: seen.epoch, read: true });
            partitions.entry(seen.partition).or_default().push(seen);
        }
        for (partition, seen) in &partitions {
            self.check_dense(*partition, seen);
            self.check_order(*partition, seen);
        }
        self.check_watermarks(&partitions, pass);
        self.check_lives(pass);
        self.check_kept(begun, pass);
        std::mem::take(&mut self.wrong)
    }

    fn report(&mut self, invariant: Invariant, what: fmt::Arguments<'_>) {
        self.wrong.push(Wrong::new(invariant, what));
    }

    fn check_sent(&mut self, seen: &Seen) {
        let why = match self.sent.get(&seen.value) {
            Some(Sent { fate: Fate::Refused, .. }) => "refused",
            Some(_) => return,
            None => "never sent",
        };
        self.report(Invariant::ReadWasSent, format_args!("{} was read at {}, and {why}", seen.text(), seen.place()));
    }

    /// Compares what is told of an offset with what was told of it before.
    fn agree(&mut self, place: (i32, i64), told: Known) {
        let Some(known) = self.known.get_mut(&place) else {
            self.known.insert(place, told);
            return;
        };
        known.read |= told.read;
        if known.value == told.value {
            known.epoch = known.epoch.or(told.epoch);
            return;
        }
        let invariant = match known.epoch.zip(told.epoch) {
            Some((before, now)) if before == now => Invariant::EpochIsOneLeaders,
            _ => Invariant::OffsetHasOneValue,
        };
        let (before, now, verb) =
            (text(&known.value), text(&told.value), if told.read { "read" } else { "acknowledged" });
        let (partition, offset) = place;
        self.report(invariant, format_args!("{before} was at {partition}/{offset}, and {now} is {verb} there"));
    }

    fn check_dense(&mut self, partition: i32, seen: &[&Seen]) {
        for (expected, seen) in (0..).zip(seen) {
            if seen.offset != expected {
                let what = format_args!("partition {partition}: {} came where {expected} should have", seen.offset);
                // One hole moves all that follows.
                return self.report(Invariant::OffsetsAreDense, what);
            }
        }
    }

    /// The orders that offsets must keep: a producer's own, that of real time, and that of epochs.
    fn check_order(&mut self, partition: i32, seen: &[&Seen]) {
        let mut by_producer: BTreeMap<u64, (Moment, &Seen)> = BTreeMap::new();
        let mut latest: Option<(Moment, &Seen)> = None;
        let mut epoch: Option<(i32, &Seen)> = None;
        let mut wrong = Vec::new();
        for seen in seen.iter().copied() {
            if let Some((before, at)) = epoch.filter(|(before, _)| seen.epoch.is_some_and(|epoch| epoch < *before)) {
                let (here, there) = (seen.place(), at.place());
                let what = format_args!("epoch {:?} at {here} follows {before} at {there}", seen.epoch.unwrap_or(-1));
                wrong.push(Wrong::new(Invariant::EpochIsOneLeaders, what));
            }
            epoch = seen.epoch.map(|epoch| (epoch, seen)).or(epoch);
            let Some(sent) = self.sent.get(&seen.value) else { continue };
            if let Some((_, before)) = by_producer.get(&sent.producer).filter(|(at, _)| *at > sent.at) {
                let (what, later) = (seen.text(), before.text());
                let what = format_args!("partition {partition}: {what} comes after {later}, which was sent after it");
                wrong.push(Wrong::new(Invariant::ProducerOrder, what));
            }
            by_producer.insert(sent.producer, (sent.at, seen));
            if let (Fate::Acknowledged { at, .. }, Some((sent_at, before))) = (&sent.fate, latest)
                && *at < sent_at
            {
                let (what, later) = (seen.text(), before.text());
                let what = format_args!(
                    "partition {partition}: {what} comes after {later}, which was sent when it was acknowledged"
                );
                wrong.push(Wrong::new(Invariant::RealTimeOrder, what));
            }
            latest = latest.filter(|(at, _)| *at > sent.at).or(Some((sent.at, seen)));
        }
        self.wrong.append(&mut wrong);
    }

    fn check_watermarks(&mut self, partitions: &BTreeMap<i32, Vec<&Seen>>, pass: &Pass) {
        for (partition, high_watermark) in &pass.high_watermarks {
            let beyond = partitions.get(partition).into_iter().flatten().find(|seen| seen.offset >= *high_watermark);
            if let Some(seen) = beyond {
                let what = format_args!(
                    "{} was read at {}, the high watermark is {high_watermark}",
                    seen.text(),
                    seen.place()
                );
                self.report(Invariant::ReadBelowHighWatermark, what);
            }
            let before = self.high_watermarks.entry(*partition).or_default();
            if *high_watermark < *before {
                let what = format!("partition {partition}: the high watermark is {high_watermark}, it was {before}");
                self.wrong.push(Wrong { invariant: Invariant::HighWatermarkIsKept, what });
            }
            *before = (*high_watermark).max(*before);
        }
    }

    /// Of records that were sent and acknowledged within one life it is known which life wrote them.
    fn check_lives(&mut self, pass: &Pass) {
        let mut lives: BTreeMap<(i32, i32), BTreeSet<u32>> = BTreeMap::new();
        for seen in &pass.seen {
            if let (Some(epoch), Some(Sent { life, fate: Fate::Acknowledged { life: until, .. }, .. })) =
                (seen.epoch, self.sent.get(&seen.value))
                && life == until
            {
                lives.entry((seen.partition, epoch)).or_default().insert(*life);
            }
        }
        for ((partition, epoch), lives) in lives.into_iter().filter(|(_, lives)| lives.len() > 1) {
            let what = format_args!("partition {partition}: the broker's lives {lives:?} all wrote in epoch {epoch}");
            self.report(Invariant::EpochIsOneLeaders, what);
        }
    }

    fn check_kept(&mut self, begun: Moment, pass: &Pass) {
        let read: BTreeMap<(i32, i64), &Seen> =
            pass.seen.iter().map(|seen| ((seen.partition, seen.offset), seen)).collect();
        let mut wrong = Vec::new();
        for (value, sent) in &self.sent {
            let Fate::Acknowledged { place, at, .. } = &sent.fate else { continue };
            if *at > begun {
                continue;
            }
            let (partition, offset) = place;
            let what = format!("{} was acknowledged at {partition}/{offset}", text(value));
            let there = match read.get(place) {
                None => Some(String::from("nothing")),
                Some(seen) => (seen.value != *value).then(|| seen.text()),
            };
            if let Some(there) = there {
                wrong.push(Wrong::new(Invariant::AcknowledgedIsRead, format_args!("{what}, where {there} is")));
            }
            if pass.high_watermarks.get(partition).is_some_and(|high_watermark| high_watermark <= offset) {
                wrong.push(Wrong::new(Invariant::HighWatermarkIsKept, format_args!("{what}, and it is not past that")));
            }
        }
        for ((partition, offset), known) in
            self.known.iter().filter(|(place, known)| known.read && !read.contains_key(place))
        {
            let what =
                format_args!("{} was read at {partition}/{offset}, where nothing is any more", text(&known.value));
            wrong.push(Wrong::new(Invariant::ReadIsKept, what));
        }
        self.wrong.append(&mut wrong);
    }
}

impl Seen {
    fn place(&self) -> String {
        format!("{}/{}", self.partition, self.offset)
    }

    fn text(&self) -> String {
        text(&self.value)
    }
}

impl Wrong {
    fn new(invariant: Invariant, what: fmt::Arguments<'_>) -> Self {
        Self { invariant, what: what.to_string() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// The beginning of a value, as far as people need it.
fn text(value: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&value[..value.len().min(40)]))
}

#[cfg(test)]
mod tests;
