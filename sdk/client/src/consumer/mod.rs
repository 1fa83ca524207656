//! The consumer: reads partitions of a topic or view from given offsets on, in order within each.
//!
//! ```text
//! partitions -> groups (by leader, and a few streams each) -> Fetch with long poll -> batches -> records
//!                  ^------- the next Fetch of a group is under way while its last answer is checked and handed out
//! ```
//!
//! Positions move by batches, not by records: a view's answer covers offsets whose records were filtered out, and says how
//! far it looked (`next_offset`), so that a consumer goes on where everything was filtered.
//!
//! Or brokers push ([`ConsumerOptions::push`]): a group has a subscription then, whose answers come in the place of those to Fetch.
//!
//! A partition that fails holds up no other: it is left out of fetches for a pause and tried again (`failing`), which
//! [`Consumer::next_event`] tells. Also where not even the offsets can be asked for, from which it is to be read.

mod answer;
mod cursor;
mod failing;
mod fetch;
mod growth;
mod paused;
mod place;
mod seek;
mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::OptionFuture, stream::FuturesUnordered};
use millstream_env::BoxFuture;
use millstream_model::{Offset, PartitionId, TimestampMs};
use millstream_record::{Batch, Header};

use self::{
    cursor::Cursor,
    failing::{Change, Failures},
    fetch::{Fetched, Flow, Group},
    growth::Growth,
    place::{Placed, place},
    subscription::Pushed,
};
use crate::{
    CallError, ConsumeError,
    cluster::{Cluster, Retry, Topic},
};

/// Where reading starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// At the first record there is.
    #[default]
    Beginning,
    /// After the last record there is at the moment.
    End,
    /// At this offset, in every partition.
    Offset(Offset),
    /// In each partition at its own offset: where a reader before had come to, by its [`Consumer::positions`]. Partitions that are not
    /// named, as those that the topic has got meanwhile, are read from their beginning, unless [`ConsumerOptions::partitions`] leaves
    /// them out; those that are named and left out there are not read.
    Offsets(BTreeMap<PartitionId, Offset>),
    /// At the first record of at least this time; after the last record where there is none.
    Timestamp(TimestampMs),
}

/// What a consumer reads, and how.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Which partitions, each read once however often it is named; empty is all, and without [`ConsumerOptions::until_end`] also those that the topic gets later: they are read from
    /// their beginning, and noticed as soon as another one is read so far (of a view, within
    /// [`ClientOptions::metadata_max_age`](crate::ClientOptions::metadata_max_age)).
    pub partitions: Vec<PartitionId>,
    /// Where to start.
    pub start: StartFrom,
    /// Stop where the partitions ended when the consumer was made, instead of waiting for more.
    pub until_end: bool,
    /// Go on at the first record there is where those before it were deleted before they were read (Kafka's `auto.offset.reset` of
    /// `earliest`): by retention, say. Else that is [`ConsumeError::OutOfRange`], as is in any case an offset of [`StartFrom::Offset`]
    /// that is not there, and one that is beyond the end.
    pub pass_over_deleted: bool,
    /// How long a broker waits for `fetch_bytes_min` before it answers with less.
    pub fetch_wait: Duration,
    /// Fewest bytes that are worth an answer before that.
    pub fetch_bytes_min: i32,
    /// Most bytes of one answer, except that one batch always fits. Of each stream, the next answer is fetched once no more than
    /// half of this waits to be handed out: a consumer that nobody reads from holds up to one and a half times this per stream.
    pub fetch_bytes_max: i32,
    /// Most bytes of one partition in an answer, except that one batch always fits.
    pub partition_bytes_max: i32,
    /// Have brokers send records as they come, without being asked for each answer: a record is here one way after it could be read, and
    /// reading far away is not held up by round trips. Of each stream no more than `fetch_bytes_max` and one batch waits to be handed out:
    /// brokers send what they are given credit for, which is given back by what is handed out. With a broker that has no subscriptions, or
    /// too many, it is as if this were not set.
    pub push: bool,
    /// Streams per broker that partitions are spread over, 1 to 8.
    pub fetch_streams: usize,
    /// How long reading is tried again when brokers cannot be reached or are electing, before that is an error. With
    /// [`ConsumerOptions::until_end`], partitions whose storage has failed have five seconds at most, once all others are read.
    pub patience: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            partitions: Vec::new(),
            start: StartFrom::Beginning,
            until_end: false,
            pass_over_deleted: false,
            fetch_wait: Duration::from_millis(500),
            fetch_bytes_min: 1,
            fetch_bytes_max: 8 << 20,
            partition_bytes_max: 2 << 20,
            push: false,
            fetch_streams: 2,
            patience: Duration::from_secs(30),
        }
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset: in a view, the source's.
    pub offset: Offset,
    /// Its time.
    pub timestamp: TimestampMs,
    /// What placed it.
    pub key: Option<Bytes>,
    /// What it says; none is a tombstone.
    pub value: Option<Bytes>,
    /// What travels beside the value, in order; a name may come more than once.
    pub headers: Vec<Header>,
}

/// What a consumer has to tell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerEvent {
    /// A record was read.
    Record(ConsumedRecord),
    /// A partition cannot be read: the others are read on, and it is tried again with growing pauses, from where it was. Told once,
    /// until it has recovered: at once where the storage has failed or the error is final, else after a few seconds.
    Failing {
        /// The partition.
        partition: PartitionId,
        /// Why.
        error: ConsumeError,
    },
    /// Records were deleted before they were read: reading goes on after them ([`ConsumerOptions::pass_over_deleted`]).
    PassedOver {
        /// The partition.
        partition: PartitionId,
        /// The first offset that was not read.
        from: Offset,
        /// Where reading goes on.
        to: Offset,
    },
    /// A partition of which that was told is read again.
    Recovered {
        /// The partition.
        partition: PartitionId,
    },
}

/// Whole batches of one partition, as they came; see [`Consumer::next_batches`].
#[derive(Clone, Debug)]
pub struct FetchedBatches {
    /// The partition.
    pub partition: PartitionId,
    /// The batches, checked; the first may begin before the position.
    pub batches: Vec<Batch>,
    /// Records before this offset were read before.
    pub from: Offset,
    /// Where reading goes on.
    pub next: Offset,
}

/// How far a consumer is in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that was not handed out: a consumer that starts there ([`StartFrom::Offsets`]) hands out what this one has not,
    /// and nothing twice. What was handed out of the record before it is the caller's to finish first.
    pub next: Offset,
    /// The offset that is fetched next. What lies between `next` and this is here, and waits to be handed out.
    pub fetched: Offset,
    /// Where reading stops, with [`ConsumerOptions::until_end`].
    pub end: Option<Offset>,
    /// The end of what could be read when last heard of.
    pub high_watermark: Option<Offset>,
}

/// One partition being read.
struct Partition {
    next: Offset,
    end: Option<Offset>,
    high_watermark: Option<Offset>,
}

impl Partition {
    fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

/// What came and is not handed out yet.
struct Ready {
    group: Group,
    bytes: usize,
    fetched: FetchedBatches,
}

/// What has come of reading.
enum Arrived {
    Fetched(Fetched),
    Pushed(Pushed),
}

/// Reads a topic or view. Made by [`crate::Client::consumer`].
///
/// Not a member of a group: positions are the caller's to keep. This one goes on where another has stopped:
///
/// ```no_run
/// use std::collections::BTreeMap;
/// use millstream_client::{Client, ConsumeError, Consumer, ConsumerOptions, StartFrom};
///
/// # async fn example(client: &Client, stopped: &Consumer) -> Result<(), ConsumeError> {
/// // To be stored with whatever came of the records.
/// let stored: BTreeMap<_, _> = stopped.positions().map(|at| (at.partition, at.next)).collect();
/// let options = ConsumerOptions { start: StartFrom::Offsets(stored), ..ConsumerOptions::default() };
/// let mut consumer = client.consumer("flights", options).await?;
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    cluster: Arc<Cluster>,
    options: ConsumerOptions,
    name: Arc<str>,
    topic: Arc<Topic>,
    partitions: BTreeMap<PartitionId, Partition>,
    /// Partitions whose broker cannot say yet from where they are read.
    unplaced: BTreeSet<PartitionId>,
    /// Of those, the ones that the caller has moved, and where to.
    sought: BTreeMap<PartitionId, Offset>,
    /// Partitions that are not read for now, as the caller wishes.
    paused: BTreeSet<PartitionId>,
    /// Asking for that again.
    placing: Option<BoxFuture<'static, Result<Placed, CallError>>>,
    growth: Growth,
    failures: Failures,
    /// Of those that fail, the ones whose answers are sound on the outside: only whoever unpacks the records finds the damage.
    undecoded: BTreeSet<PartitionId>,
    flows: BTreeMap<Group, Flow>,
    under_way: FuturesUnordered<BoxFuture<'static, Arrived>>,
    /// Counts subscriptions.
    subscriptions: u64,
    ready: VecDeque<Ready>,
    current: Option<Cursor>,
    retry: Option<Retry>,
    /// Set when leaders must be asked for anew before the next Fetch.
    stale: bool,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("name", &self.name).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Consumer {
    pub(crate) async fn new(
        cluster: Arc<Cluster>,
        name: &str,
        mut options: ConsumerOptions,
    ) -> Result<Self, ConsumeError> {
        options.fetch_streams = options.fetch_streams.clamp(1, 8);
        let topic = cluster.refresh_topic(name).await?;
        // What is named twice is read once: a broker would refuse to be asked for it twice.
        let wanted: BTreeSet<_> = match options.partitions.as_slice() {
            [] => topic.partitions.keys().copied().collect(),
            some => some.iter().copied().collect(),
        };
        let wanted: Vec<_> = wanted.into_iter().collect();
        for partition in &wanted {
            if !topic.partitions.contains_key(partition) {
                let (topic, partitions) = (Arc::clone(&topic.name), topic.partition_count());
                return Err(ConsumeError::NoSuchPartition { topic, partition: *partition, partitions });
            }
        }
        let placed = place(&cluster, &topic, &wanted, &options.start, options.until_end).await?;
        let failures = Failures::new(cluster.env.clone(), &cluster.options, options.patience, options.until_end);
        let growth = Growth::new(cluster.env.clock.now());
        let mut consumer = Self {
            growth,
            cluster,
            options,
            name: Arc::clone(&topic.name),
            topic,
            partitions: BTreeMap::new(),
            unplaced: BTreeSet::new(),
            sought: BTreeMap::new(),
            paused: BTreeSet::new(),
            placing: None,
            failures,
            undecoded: BTreeSet::new(),
            flows: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
            subscriptions: 0,
            ready: VecDeque::new(),
            current: None,
            retry: None,
            stale: false,
        };
        consumer.take_placed(placed);
        Ok(consumer)
    }

    /// The topic's or view's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far reading is, by partition. One whose broker has not been able to say from where it is read is not among them.
    ///
    /// Of [`Consumer::next_batches`], whole batches count as handed out, also where they reach beyond the end of
    /// [`ConsumerOptions::until_end`], at which the position stays.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.partitions.iter().map(|(partition, state)| Position {
            partition: *partition,
            next: self.next_of(*partition).unwrap_or(state.next),
            fetched: state.next,
            end: state.end,
            high_watermark: state.high_watermark,
        })
    }

    /// The next record; none when every partition has been read to its end ([`ConsumerOptions::until_end`]). Waits for records
    /// otherwise. Dropping the future loses nothing.
    ///
    /// A partition that fails holds up no other. What may pass is logged, and else only told by [`Consumer::next_event`].
    ///
    /// # Errors
    /// [`ConsumeError`]; what had arrived before was handed out first. Calling again tries again from the same offsets: of an error
    /// that is about one partition, the others go on meanwhile.
    pub async fn next(&mut self) -> Result<Option<ConsumedRecord>, ConsumeError> {
        loop {
            match self.next_event().await? {
                None => return Ok(None),
                Some(ConsumerEvent::Record(record)) => return Ok(Some(record)),
                Some(other) => other.log()?,
            }
        }
    }

    /// As [`Consumer::next`], and tells also when a partition begins to fail, and when it is read again.
    ///
    /// # Errors
    /// What is about one partition is an event, and an error only once nothing else is left to be read and it was tried for
    /// [`ConsumerOptions::patience`], or trying again cannot help. Calling again tries again from the same offsets.
    pub async fn next_event(&mut self) -> Result<Option<ConsumerEvent>, ConsumeError> {
        loop {
            if let Some(record) = self.next_ready() {
                return Ok(Some(ConsumerEvent::Record(record)));
            }
            if let Some(change) = self.failures.next_change() {
                return Ok(Some(change.into()));
            }
            if !self.step().await? {
                return Ok(None);
            }
        }
    }

    /// The next record if it is here already: does not wait for the network.
    ///
    /// Records that are damaged end here for their partition alone, which [`Consumer::next_event`] tells.
    pub fn next_ready(&mut self) -> Option<ConsumedRecord> {
        loop {
            if self.current.is_none() {
                self.current = Some(Cursor::over(self.pop_ready()?));
            }
            let current = self.current.as_mut()?;
            let partition = current.partition();
            match current.step(self.partitions.get(&partition).and_then(|at| at.end)) {
                Some(Ok(record)) => return Some(record),
                Some(Err((offset, detail))) => {
                    let from = current.next();
                    self.current = None;
                    let topic = Arc::clone(&self.name);
                    self.stop_at(partition, from, ConsumeError::Damaged { topic, partition, offset, detail });
                }
                None => {
                    self.current = None;
                    if self.undecoded.remove(&partition) {
                        self.failures.recovered(partition);
                    }
                }
            }
        }
    }

    /// The next answer with records, as whole batches: for those who copy or count rather than look inside. Do not mix with
    /// [`Consumer::next`] within one answer.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub async fn next_batches(&mut self) -> Result<Option<FetchedBatches>, ConsumeError> {
        loop {
            if let Some(fetched) = self.pop_ready() {
                return Ok(Some(fetched));
            }
            while let Some(change) = self.failures.next_change() {
                ConsumerEvent::from(change).log()?;
            }
            if !self.step().await? {
                return Ok(None);
            }
        }
    }

    /// Asks for what is to be asked for, and waits until something comes of it; false when all is read.
    async fn step(&mut self) -> Result<bool, ConsumeError> {
        if !self.is_any_left()? {
            return Ok(false);
        }
        self.stale |= self.failures.needs_leaders();
        if self.stale {
            self.refresh().await?;
        }
        self.look_again();
        self.pump();
        self.place_more();
        let pause = OptionFuture::from(self.failures.pause().map(|pause| self.cluster.env.clock.sleep(pause)));
        let placing = OptionFuture::from(self.placing.as_mut());
        let looking = OptionFuture::from(self.growth.looking.as_mut());
        tokio::select! {
            // The same order in every run of a simulation.
            biased;
            Some(placed) = placing => {
                self.placing = None;
                match placed {
                    Ok(placed) => self.take_placed(placed),
                    Err(error) => self.sit_out(error).await?,
                }
            }
            Some(found) = looking => self.looked(found),
            Some(arrived) = self.under_way.next() => match arrived {
                Arrived::Fetched(fetched) => self.take(fetched).await?,
                Arrived::Pushed(pushed) => self.take_pushed(pushed).await?,
            },
            // What has sat out its pause is asked for.
            Some(()) = pause => {}
            // Nothing was asked for: leaders are to be asked for first, or all that is left is paused.
            else => if self.is_all_paused() { std::future::pending::<()>().await }
        }
        Ok(true)
    }

    /// Whether anything is left to be read; an error where all of it has failed for good.
    fn is_any_left(&mut self) -> Result<bool, ConsumeError> {
        let placed = self.partitions.iter().filter(|(_, state)| !state.is_done()).map(|(at, _)| *at);
        let mut left = placed.chain(self.unplaced.iter().copied()).peekable();
        if left.peek().is_none() {
            return Ok(false);
        }
        self.failures.hopeless(left).map_or(Ok(true), Err)
    }

    /// Asks once more where partitions are read from, whose brokers could not say.
    fn place_more(&mut self) {
        let due = self.unplaced.iter().copied().filter(|at| self.failures.may_ask(*at));
        let (new, mut due): (Vec<_>, Vec<_>) = due.partition(|at| self.growth.new.contains(at));
        let is_new = !new.is_empty();
        if is_new {
            due = new;
        }
        if self.stale || self.placing.is_some() || due.is_empty() {
            return;
        }
        let start = if is_new { StartFrom::Beginning } else { self.options.start.clone() };
        let until_end = self.options.until_end;
        let (cluster, topic) = (Arc::clone(&self.cluster), Arc::clone(&self.topic));
        self.placing = Some(Box::pin(async move { place(&cluster, &topic, &due, &start, until_end).await }));
    }

    fn take_placed(&mut self, placed: Placed) {
        for (partition, placed) in placed {
            match placed {
                Ok(mut state) => {
                    state.next = self.sought.remove(&partition).unwrap_or(state.next);
                    self.unplaced.remove(&partition);
                    self.growth.new.remove(&partition);
                    self.failures.recovered(partition);
                    self.partitions.insert(partition, state);
                }
                Err(source) => {
                    self.unplaced.insert(partition);
                    self.failures.failed(partition, ConsumeError::Partition { partition, source });
                }
            }
        }
    }

    /// Notes that a partition's records cannot be used from an offset on: reading is tried again there.
    fn stop_at(&mut self, partition: PartitionId, from: Offset, error: ConsumeError) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.next = from;
        }
        // Those first: where there is room again, what is fetched next starts without this one.
        self.undecoded.insert(partition);
        self.failures.failed(partition, error);
        self.drop_ready(partition);
    }

    fn pop_ready(&mut self) -> Option<FetchedBatches> {
        let Ready { group, bytes, fetched } = self.ready.pop_front()?;
        self.release(group, bytes);
        Some(fetched)
    }
}

impl From<Change> for ConsumerEvent {
    fn from(change: Change) -> Self {
        match change {
            Change::Failing(partition, error) => Self::Failing { partition, error },
            Change::Recovered(partition) => Self::Recovered { partition },
            Change::PassedOver(partition, from, to) => Self::PassedOver { partition, from, to },
        }
    }
}

impl ConsumerEvent {
    /// For callers that take records only: an error that trying again cannot mend is theirs all the same.
    fn log(self) -> Result<(), ConsumeError> {
        match self {
            Self::Failing { error, .. } if !error.is_retriable() => return Err(error),
            Self::Failing { error, .. } => tracing::warn!("{error}; it is tried again, and the others are read"),
            Self::PassedOver { partition, from, to } => {
                tracing::warn!(
                    "partition {partition} is read on at {to}: what begins at {from} was deleted before it was read"
                );
            }
            Self::Recovered { partition } => tracing::info!("partition {partition} is read again"),
            Self::Record(_) => {}
        }
        Ok(())
    }
}
