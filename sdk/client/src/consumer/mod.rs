//! The consumer: reads partitions of a topic or view from given offsets on, in order within each.
//!
//! ```text
//! partitions -> groups (by leader, and a few streams each) -> Fetch with long poll -> batches -> records
//!                  ^------- the next Fetch of a group is under way while its last answer is checked and handed out
//! ```
//!
//! Positions move by batches, not by records: a view's answer covers offsets whose records were filtered out, and says how
//! far it looked (`next_offset`), so that a consumer goes on where everything was filtered.

mod answer;
mod cursor;
mod fetch;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use millstream_env::BoxFuture;
use millstream_model::{Offset, PartitionId, TimestampMs};
use millstream_protocol::{
    ErrorCode,
    messages::offsets::{EARLIEST_TIMESTAMP, LATEST_TIMESTAMP},
};
use millstream_record::{Batch, Header};

use self::{
    cursor::Cursor,
    fetch::{Fetched, Flow, Group},
};
use crate::{
    CallError, ConsumeError,
    cluster::{Cluster, Retry, Topic},
    offsets::list_offsets,
};

/// Where reading starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// At the first record there is.
    #[default]
    Beginning,
    /// After the last record there is at the moment.
    End,
    /// At this offset, in every partition.
    Offset(Offset),
    /// At the first record of at least this time; after the last record where there is none.
    Timestamp(TimestampMs),
}

/// What a consumer reads, and how.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Which partitions; empty is all.
    pub partitions: Vec<PartitionId>,
    /// Where to start.
    pub start: StartFrom,
    /// Stop where the partitions ended when the consumer was made, instead of waiting for more.
    pub until_end: bool,
    /// How long a broker waits for `fetch_bytes_min` before it answers with less.
    pub fetch_wait: Duration,
    /// Fewest bytes that are worth an answer before that.
    pub fetch_bytes_min: i32,
    /// Most bytes of one answer, except that one batch always fits. Of each stream, the next answer is fetched once no more than
    /// half of this waits to be handed out: a consumer that nobody reads from holds up to one and a half times this per stream.
    pub fetch_bytes_max: i32,
    /// Most bytes of one partition in an answer, except that one batch always fits.
    pub partition_bytes_max: i32,
    /// Streams per broker that partitions are spread over, 1 to 8.
    pub fetch_streams: usize,
    /// How long reading is tried again when brokers cannot be reached or are electing, before that is an error.
    pub patience: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            partitions: Vec::new(),
            start: StartFrom::Beginning,
            until_end: false,
            fetch_wait: Duration::from_millis(500),
            fetch_bytes_min: 1,
            fetch_bytes_max: 8 << 20,
            partition_bytes_max: 2 << 20,
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
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The offset that is fetched next. Records already fetched but not handed out lie before it.
    pub next: Offset,
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

/// Reads a topic or view. Made by [`crate::Client::consumer`].
///
/// Not a member of a group: positions are the caller's to keep ([`Consumer::positions`]).
pub struct Consumer {
    cluster: Arc<Cluster>,
    options: ConsumerOptions,
    name: Arc<str>,
    topic: Arc<Topic>,
    partitions: BTreeMap<PartitionId, Partition>,
    flows: BTreeMap<Group, Flow>,
    under_way: FuturesUnordered<BoxFuture<'static, Fetched>>,
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
        let wanted: Vec<_> = match options.partitions.as_slice() {
            [] => topic.partitions.keys().copied().collect(),
            some => some.to_vec(),
        };
        for partition in &wanted {
            if !topic.partitions.contains_key(partition) {
                let (topic, partitions) = (Arc::clone(&topic.name), topic.partition_count());
                return Err(ConsumeError::NoSuchPartition { topic, partition: *partition, partitions });
            }
        }
        let ends = match options.until_end || options.start == StartFrom::End {
            true => Some(list_offsets(&cluster, &topic, &wanted, LATEST_TIMESTAMP).await?),
            false => None,
        };
        let end_of = |partition: &PartitionId| ends.as_ref().and_then(|ends| ends.get(partition).copied().flatten());
        let starts = match options.start {
            StartFrom::Beginning => list_offsets(&cluster, &topic, &wanted, EARLIEST_TIMESTAMP).await?,
            StartFrom::End => wanted.iter().map(|partition| (*partition, end_of(partition))).collect(),
            StartFrom::Offset(offset) => wanted.iter().map(|partition| (*partition, Some(offset))).collect(),
            StartFrom::Timestamp(time) => {
                let found = list_offsets(&cluster, &topic, &wanted, time).await?;
                let latest = match found.values().any(Option::is_none) {
                    true => list_offsets(&cluster, &topic, &wanted, LATEST_TIMESTAMP).await?,
                    false => BTreeMap::new(),
                };
                let or_end = |(at, found): (PartitionId, Option<Offset>)| {
                    (at, found.or_else(|| latest.get(&at).copied().flatten()))
                };
                found.into_iter().map(or_end).collect()
            }
        };
        let partitions = wanted
            .iter()
            .map(|at| {
                let next = starts.get(at).copied().flatten().unwrap_or_default();
                let end = end_of(at).filter(|_| options.until_end);
                (*at, Partition { next, end, high_watermark: end_of(at) })
            })
            .collect();
        Ok(Self {
            cluster,
            options,
            name: Arc::clone(&topic.name),
            topic,
            partitions,
            flows: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
            ready: VecDeque::new(),
            current: None,
            retry: None,
            stale: false,
        })
    }

    /// The topic's or view's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far reading is, by partition.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.partitions.iter().map(|(partition, state)| Position {
            partition: *partition,
            next: state.next,
            end: state.end,
            high_watermark: state.high_watermark,
        })
    }

    /// The next record; none when every partition has been read to its end ([`ConsumerOptions::until_end`]). Waits for records
    /// otherwise. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ConsumeError`]; what had arrived before was handed out first. Calling again tries again from the same offsets.
    pub async fn next(&mut self) -> Result<Option<ConsumedRecord>, ConsumeError> {
        loop {
            if let Some(record) = self.next_ready()? {
                return Ok(Some(record));
            }
            let Some(fetched) = self.next_batches().await? else { return Ok(None) };
            self.current = Some(Cursor::over(fetched));
        }
    }

    /// The next record if it is here already: does not wait for the network.
    ///
    /// # Errors
    /// [`ConsumeError::Damaged`].
    pub fn next_ready(&mut self) -> Result<Option<ConsumedRecord>, ConsumeError> {
        loop {
            if self.current.is_none() {
                let Some(fetched) = self.pop_ready() else { return Ok(None) };
                self.current = Some(Cursor::over(fetched));
            }
            let Some(current) = &mut self.current else { return Ok(None) };
            if let Some(record) = current.step(self.partitions.get(&current.partition()).and_then(|at| at.end)) {
                let record = record.map_err(|(offset, detail)| ConsumeError::Damaged {
                    topic: Arc::clone(&self.name),
                    partition: current.partition(),
                    offset,
                    detail,
                });
                if record.is_err() {
                    self.current = None;
                }
                return record.map(Some);
            }
            self.current = None;
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
            if self.partitions.values().all(Partition::is_done) {
                return Ok(None);
            }
            if self.stale {
                self.refresh().await?;
            }
            self.pump();
            match self.under_way.next().await {
                Some(fetched) => self.take(fetched).await?,
                // Every partition that is left has no leader: ask again who leads.
                None => {
                    self.pause(CallError::refused(
                        self.name.as_ref(),
                        ErrorCode::LeaderNotAvailable,
                        Some("no partition has a leader at the moment"),
                    ))
                    .await?
                }
            }
        }
    }

    fn pop_ready(&mut self) -> Option<FetchedBatches> {
        let Ready { group, bytes, fetched } = self.ready.pop_front()?;
        self.release(group, bytes);
        Some(fetched)
    }
}
