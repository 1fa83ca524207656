//! The consumer: reads partitions of a topic or view from given offsets on, in order within each.
//!
//! ```text
//! partitions -> groups (by leader, and a few streams each) -> Fetch with long poll -> batches -> records
//!                  ^------- the next Fetch of a group is under way while its last answer is handed out
//! ```
//!
//! Positions move by batches, not by records: a view's answer covers offsets whose records were filtered out, and says how
//! far it looked (`next_offset`), so that a consumer goes on where everything was filtered.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use millstream_env::{BoxFuture, Monotonic};
use millstream_model::{BrokerId, LeaderEpoch, Offset, PartitionId, TimestampMs, limits::BATCH_BYTES_MAX};
use millstream_protocol::{
    ErrorCode,
    messages::{
        fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData},
        offsets::{EARLIEST_TIMESTAMP, LATEST_TIMESTAMP},
    },
};
use millstream_record::{Batch, BatchError, Batches, Header, Records, batches};
use tokio::sync::oneshot;

use crate::{
    CallError, ConsumeError,
    channel::Channel,
    cluster::{Cluster, Retry, Target, Topic, is_unknown},
    offsets::list_offsets,
};

/// Most bytes that one compressed batch may unpack to.
const UNPACKED_BYTES_MAX: usize = BATCH_BYTES_MAX;

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
    /// Most bytes of one answer, except that one batch always fits.
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

/// Partitions that are fetched together: a leader and one of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    leader: BrokerId,
    stream: usize,
}

/// What a Fetch ended with.
struct Fetched {
    group: Group,
    /// The stream, for the next one; none when it is of no more use.
    channel: Option<Channel>,
    started: Monotonic,
    asked: Vec<(PartitionId, Offset)>,
    result: Result<FetchResponse, CallError>,
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
    /// Streams that wait for their group's next Fetch.
    channels: BTreeMap<Group, Channel>,
    under_way: FuturesUnordered<BoxFuture<'static, Fetched>>,
    /// Groups with a Fetch under way, or with an answer that is not handed out to its last batch.
    busy: BTreeMap<Group, usize>,
    ready: VecDeque<(Group, FetchedBatches)>,
    current: Option<Current>,
    retry: Option<Retry>,
    /// Set when leaders must be asked for anew before the next Fetch.
    stale: bool,
}

/// The answer that is being handed out record by record.
struct Current {
    partition: PartitionId,
    from: Offset,
    /// The batches still to come, then the one at hand: where it begins, and its records.
    batches: std::vec::IntoIter<Batch>,
    records: Option<(Offset, Records)>,
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
            channels: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
            busy: BTreeMap::new(),
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
            self.current = Some(Current {
                partition: fetched.partition,
                from: fetched.from,
                batches: fetched.batches.into_iter(),
                records: None,
            });
        }
    }

    /// The next record if it is here already: does not wait for the network.
    ///
    /// # Errors
    /// [`ConsumeError::Damaged`].
    pub fn next_ready(&mut self) -> Result<Option<ConsumedRecord>, ConsumeError> {
        loop {
            if self.current.is_none() {
                let Some((group, fetched)) = self.ready.pop_front() else { return Ok(None) };
                self.release(group);
                self.current = Some(Current {
                    partition: fetched.partition,
                    from: fetched.from,
                    batches: fetched.batches.into_iter(),
                    records: None,
                });
            }
            let Some(current) = &mut self.current else { return Ok(None) };
            if let Some(record) = current.step(self.partitions.get(&current.partition).and_then(|at| at.end)) {
                let record = record.map_err(|(offset, detail)| ConsumeError::Damaged {
                    topic: Arc::clone(&self.name),
                    partition: current.partition,
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
            if let Some((group, fetched)) = self.ready.pop_front() {
                self.release(group);
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

    /// One thing less to hand out before the group may fetch again.
    fn release(&mut self, group: Group) {
        if let Some(count) = self.busy.get_mut(&group) {
            *count = count.saturating_sub(1);
            // The next answer may travel while the last piece of this one is handed out.
            if *count == 0 {
                self.busy.remove(&group);
                self.pump();
            }
        }
    }

    /// Starts a Fetch for every group that has none under way.
    fn pump(&mut self) {
        if self.stale {
            return;
        }
        let mut groups: BTreeMap<Group, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, state) in &self.partitions {
            let Ok((leader, epoch)) = self.topic.leader(*partition) else { continue };
            let stream = partition.0.unsigned_abs() as usize % self.options.fetch_streams;
            let group = Group { leader, stream };
            if state.is_done() || self.busy.contains_key(&group) {
                continue;
            }
            groups.entry(group).or_default().push(self.ask_for(*partition, state.next, epoch));
        }
        for (group, mut partitions) in groups {
            // Whoever came first last time comes last this time: a full answer then starves nobody.
            let turn = self.cluster.env.rng.next_u64() as usize % partitions.len().max(1);
            partitions.rotate_left(turn);
            self.busy.insert(group, 1);
            let channel = self.channels.remove(&group);
            self.under_way.push(self.start_fetch(group, channel, partitions));
        }
    }

    fn ask_for(&self, partition: PartitionId, fetch_offset: Offset, epoch: LeaderEpoch) -> FetchPartition {
        FetchPartition {
            partition,
            current_leader_epoch: epoch,
            fetch_offset,
            partition_max_bytes: self.options.partition_bytes_max,
            ..FetchPartition::default()
        }
    }

    /// Starts a Fetch that goes on whether or not anybody polls: the answer travels while the last one is handed out.
    fn start_fetch(
        &self,
        group: Group,
        channel: Option<Channel>,
        partitions: Vec<FetchPartition>,
    ) -> BoxFuture<'static, Fetched> {
        let cluster = Arc::clone(&self.cluster);
        let asked: Vec<_> = partitions.iter().map(|at| (at.partition, at.fetch_offset)).collect();
        let request = FetchRequest {
            max_wait_ms: i32::try_from(self.options.fetch_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: self.options.fetch_bytes_min,
            max_bytes: self.options.fetch_bytes_max,
            topics: vec![FetchTopic { topic: self.topic.name.as_ref().into(), topic_id: self.topic.id, partitions }],
            ..FetchRequest::default()
        };
        let timeout = cluster.options.request_timeout + self.options.fetch_wait;
        let (started, lost) = (self.cluster.env.clock.now(), asked.clone());
        let fetch = async move {
            let opened = match channel.filter(|channel| !channel.is_over()) {
                Some(channel) => Ok(channel),
                None => cluster.own_channel(Target::Broker(group.leader)).await,
            };
            let channel = match opened {
                Ok(channel) => channel,
                Err(error) => return Fetched { group, channel: None, started, asked, result: Err(error) },
            };
            let result = channel.call(request, timeout).await;
            let channel = Some(channel).filter(|channel| !channel.is_over());
            Fetched { group, channel, started, asked, result }
        };
        let (tell, told) = oneshot::channel();
        let task = async move {
            // Nobody listens once the consumer is dropped.
            let _ = tell.send(fetch.await);
        };
        drop(self.cluster.env.spawn.spawn("fetch", Box::pin(task)));
        let name = Arc::clone(&self.name);
        Box::pin(async move {
            told.await.unwrap_or_else(|_| {
                let error = CallError::Disconnected { broker: name, reason: "the runtime is shutting down".into() };
                Fetched { group, channel: None, started, asked: lost, result: Err(error) }
            })
        })
    }

    /// Takes an answer apart; what it holds becomes ready.
    async fn take(&mut self, fetched: Fetched) -> Result<(), ConsumeError> {
        let Fetched { group, channel, started, asked, result } = fetched;
        if let Some(channel) = channel {
            self.channels.insert(group, channel);
        }
        let response = match result.and_then(|response| {
            CallError::check(&self.name, response.error_code, None)?;
            Ok(response)
        }) {
            Ok(response) => response,
            Err(error) => {
                self.busy.remove(&group);
                return self.pause(error).await;
            }
        };
        let mut failed = None;
        let progress = |partitions: &BTreeMap<PartitionId, Partition>| {
            asked.iter().any(|(at, from)| partitions.get(at).is_none_or(|state| state.next != *from))
        };
        let answers = response.responses.into_iter().flat_map(|topic| topic.partitions);
        let mut pieces = Vec::new();
        for answer in answers {
            let Some((partition, from)) = asked.iter().copied().find(|(at, _)| *at == answer.partition_index) else {
                continue;
            };
            match self.take_partition(partition, from, answer) {
                Ok(None) => {}
                Ok(Some(piece)) => pieces.push(piece),
                Err(error) => failed = Some(error),
            }
        }
        match pieces.len() {
            0 => drop(self.busy.remove(&group)),
            count => drop(self.busy.insert(group, count)),
        }
        self.ready.extend(pieces.into_iter().map(|piece| (group, piece)));
        match failed {
            None => {
                self.retry = None;
                // A broker that answers at once and leads nowhere must not keep both sides busy.
                let early = self.cluster.env.clock.now() - started < self.options.fetch_wait;
                if early && !progress(&self.partitions) {
                    self.cluster.env.clock.sleep(self.cluster.options.backoff_min).await;
                }
                Ok(())
            }
            Some(ConsumeError::Call(error)) => self.pause(error).await,
            Some(error) => Err(error),
        }
    }

    /// Takes one partition's part of an answer: moves the position over it.
    fn take_partition(
        &mut self,
        partition: PartitionId,
        from: Offset,
        answer: PartitionData,
    ) -> Result<Option<FetchedBatches>, ConsumeError> {
        let Some(state) = self.partitions.get_mut(&partition) else { return Ok(None) };
        let topic = || Arc::clone(&self.name);
        if answer.error_code == ErrorCode::OffsetOutOfRange {
            let known = |offset: Offset| Some(offset).filter(|offset| offset.0 >= 0);
            let (start, end) = (known(answer.log_start_offset), known(answer.high_watermark));
            return Err(ConsumeError::OutOfRange { topic: topic(), partition, offset: from, start, end });
        }
        let what = || format!("{} partition {partition}", self.name);
        if !answer.error_code.is_ok() {
            return Err(CallError::refused(what(), answer.error_code, answer.error_message.as_deref()).into());
        }
        // Moved by the caller meanwhile: the answer is for another place.
        if state.next != from {
            return Ok(None);
        }
        if answer.high_watermark.0 >= 0 {
            state.high_watermark = Some(answer.high_watermark);
        }
        let mut batches_found = Vec::new();
        let mut next = from;
        let damaged = |offset: Offset, detail: String| ConsumeError::Damaged {
            topic: topic(),
            partition,
            offset,
            detail: detail.into(),
        };
        let mut rest: Batches = batches(answer.records.to_bytes());
        let mut damage = None;
        for batch in &mut rest {
            match check_batch(batch, next) {
                // Wholly before the position: a broker may begin earlier, never twice.
                Ok(None) => {}
                Ok(Some((batch, end))) => {
                    next = end;
                    if !batch.header().attributes.is_control() {
                        batches_found.push(batch);
                    }
                }
                Err(found) => {
                    damage = Some(found);
                    break;
                }
            }
        }
        // What came before the damage is handed out first; the next answer begins with it.
        if next == from
            && let Some((offset, detail)) = damage
        {
            return Err(damaged(offset, detail));
        }
        if damage.is_none() {
            next = next.max(answer.next_offset);
        }
        // Brokers cut an answer anywhere but in its first batch: asked again, this one would say the same for ever.
        if next == from && !answer.records.is_empty() {
            let detail = match rest.rest().len() {
                0 => "the answer has only batches before it".into(),
                cut => format!("the answer ends within the batch, of which it has {cut} bytes"),
            };
            return Err(damaged(from, detail));
        }
        state.next = next;
        if batches_found.is_empty() {
            return Ok(None);
        }
        Ok(Some(FetchedBatches { partition, batches: batches_found, from, next }))
    }

    /// After something failed: waits a while if trying again can help, else gives the error out.
    async fn pause(&mut self, error: CallError) -> Result<(), ConsumeError> {
        let patience = self.options.patience;
        if !error.is_retriable() || (is_unknown(&error) && self.retry.is_some()) {
            self.retry = None;
            return Err(error.into());
        }
        tracing::debug!(name = %self.name, %error, "reading is tried again");
        self.stale = true;
        let cluster = &self.cluster;
        let retry = self.retry.get_or_insert_with(|| cluster.retry(patience));
        if !retry.wait().await {
            self.retry = None;
            return Err(error.into());
        }
        Ok(())
    }

    /// Asks anew who leads what.
    async fn refresh(&mut self) -> Result<(), ConsumeError> {
        match self.cluster.refresh_topic(&self.name).await {
            Ok(topic) => {
                self.topic = topic;
                self.stale = false;
                Ok(())
            }
            Err(error) => self.pause(error).await,
        }
    }
}

/// Checks a batch and says where it ends; none if that is before `next`. What is damaged is told with where it begins.
fn check_batch(batch: Result<Batch, BatchError>, next: Offset) -> Result<Option<(Batch, Offset)>, (Offset, String)> {
    let batch = batch.map_err(|error| (next, error.to_string()))?;
    let (base, delta) = {
        let header = batch.header();
        (header.base_offset, header.last_offset_delta)
    };
    let end = base.0.checked_add(i64::from(delta)).and_then(|last| last.checked_add(1)).map(Offset);
    let end = end.ok_or_else(|| (base, "its offsets overflow".to_owned()))?;
    if end <= next {
        return Ok(None);
    }
    batch.verify_crc().map_err(|error| (base, error.to_string()))?;
    Ok(Some((batch, end)))
}

impl Current {
    /// The next record that was not read before and lies before `end`; none when the answer is used up.
    fn step(&mut self, end: Option<Offset>) -> Option<Result<ConsumedRecord, (Offset, Arc<str>)>> {
        loop {
            let Some((base, records)) = &mut self.records else {
                let batch = self.batches.next()?;
                let base = batch.header().base_offset;
                match batch.records(UNPACKED_BYTES_MAX) {
                    Ok(records) => self.records = Some((base, records)),
                    Err(error) => return Some(Err((base, error.to_string().into()))),
                }
                continue;
            };
            match records.next() {
                None => self.records = None,
                Some(Err(error)) => return Some(Err((*base, error.to_string().into()))),
                Some(Ok(record)) if record.offset < self.from => {}
                Some(Ok(record)) if end.is_some_and(|end| record.offset >= end) => {}
                Some(Ok(record)) => {
                    return Some(Ok(ConsumedRecord {
                        partition: self.partition,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        headers: record.headers.iter().collect(),
                        key: record.key,
                        value: record.value,
                    }));
                }
            }
        }
    }
}
