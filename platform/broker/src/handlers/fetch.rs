//! Fetch: records below the high watermark, from topics as they lie on disk and from views as their modules show them.
//!
//! A fetch that waits for more holds no records: it counts what comes, and reads its answer once, in its turn. So a client
//! that asks for much many times over costs one answer at a time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use millstream_catalog::View;
use millstream_env::Share;
use millstream_model::{LeaderEpoch, Offset, PartitionId, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{
        FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, PartitionData, RecordParts,
    },
};
use millstream_record::{BatchHeader, Compression};
use tokio::sync::watch;

use crate::{
    errors::{Messages, WireError},
    partition::Partition,
    readable::Readable,
    shared::Shared,
    turn::Turn,
    view::{self, Scan},
};

/// The first version whose readers can unpack zstd.
const VERSION_ZSTD: i16 = 10;
/// Most bytes in one answer, whatever the client allows: a frame and what the view or the last batch adds must fit.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// An answer of less needs no share of what all answers have: whatever others do, it gets through.
const SMALL_BYTES: usize = 64 << 10;
/// The longest wait, whatever the client allows: who waits holds a place that others may need.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What one partition of the request reads.
struct Target {
    request: FetchPartition,
    source: Result<Source, Arc<WireError>>,
}

struct Source {
    partition: Arc<Partition>,
    view: Option<Arc<View>>,
}

/// Answers as soon as `min_bytes` are there, something is wrong, or `max_wait_ms` have passed.
pub(crate) async fn handle(shared: Arc<Shared>, version: i16, request: FetchRequest, mut turn: Turn) -> FetchResponse {
    if request.session_id != 0 {
        // We never hand out a session: this one is somebody else's, or older than our start.
        return FetchResponse { error_code: ErrorCode::FetchSessionIdNotFound, ..Default::default() };
    }
    let mut named = HashSet::new();
    let topics: Vec<_> =
        request.topics.into_iter().map(|topic| resolve_topic(&shared, version, topic, &mut named)).collect();
    drop(named);
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(ANSWER_BYTES_MAX);
    // More than the answer may hold would never come.
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
    if !wait.is_zero() {
        tokio::select! {
            () = enough(&topics, bytes_min, bytes_max) => {}
            () = shared.env.clock.sleep(wait) => {}
            () = turn.hurried() => {}
        }
    }
    turn.come().await;
    let reading = Reading { shared: &shared, topics: &topics, version };
    let wanted = wanted_bytes(&topics).min(bytes_max);
    if wanted <= SMALL_BYTES {
        return reading.read_all(bytes_max).await;
    }
    let share = match shared.options.frames.try_take(wanted) {
        Some(share) => share,
        None => {
            // Others have it all. What is small in fact needs no share; what is not is read again when it has one.
            let small = reading.read_all(SMALL_BYTES).await;
            if records_bytes(&small) <= SMALL_BYTES {
                return small;
            }
            drop(small);
            shared.options.frames.take(wanted).await
        }
    };
    hold(reading.read_all(bytes_max).await, share)
}

type Targets = (String, TopicId, Vec<Target>);

/// A partition that is named again is left out, as in Kafka's brokers: one entry is answered.
fn resolve_topic(
    shared: &Shared,
    version: i16,
    topic: FetchTopic,
    named: &mut HashSet<(TopicId, PartitionId)>,
) -> Targets {
    let state = shared.catalog.state();
    let readable = Readable::resolve(&state, version, &topic.topic, topic.topic_id).map_err(Arc::new);
    let mut targets = Vec::with_capacity(topic.partitions.len());
    for request in topic.partitions {
        let source = match &readable {
            Ok(readable) if !named.insert((readable.id(), request.partition)) => continue,
            Ok(readable) => resolve_partition(shared, readable, &request).map_err(Arc::new),
            Err(error) => Err(error.clone()),
        };
        targets.push(Target { request, source });
    }
    (topic.topic, topic.topic_id, targets)
}

fn resolve_partition(shared: &Shared, readable: &Readable, request: &FetchPartition) -> Result<Source, WireError> {
    let partition = shared.led(readable, request.partition)?;
    check_epoch(request.current_leader_epoch, partition.epoch)?;
    let view = match readable {
        Readable::Topic(_) => None,
        Readable::View { view, .. } => Some(view.clone()),
    };
    Ok(Source { partition, view })
}

/// A client of an older epoch must look the leader up again; one of a newer epoch knows more than this broker (KIP-320).
pub(crate) fn check_epoch(client: LeaderEpoch, current: LeaderEpoch) -> Result<(), WireError> {
    if client == LeaderEpoch::UNKNOWN || client == current {
        return Ok(());
    }
    let code = if client < current { ErrorCode::FencedLeaderEpoch } else { ErrorCode::UnknownLeaderEpoch };
    Err(WireError::new(code, format!("leader epoch {client}; this broker is in {current}")))
}

/// How far one source has been counted.
struct Counted<'a> {
    source: &'a Source,
    partition_bytes_max: usize,
    next: Offset,
    bytes: usize,
    high_watermark: watch::Receiver<Offset>,
}

impl Counted<'_> {
    /// How many bytes have come, counted once; none when that must be said at once, whatever else is missing.
    ///
    /// What there is to read is read and let go. Only what came since the last time: a wait costs as much as what it waits for.
    fn count(&mut self, bytes_max: usize, exactly: bool) -> Option<usize> {
        // Seen before the log is read: what grows later wakes the wait.
        let high_watermark = *self.high_watermark.borrow_and_update();
        let start = self.source.partition.log.start_offset();
        if self.next < start || self.next > high_watermark {
            return None;
        }
        if self.next == high_watermark {
            return Some(self.bytes);
        }
        // What a view shows is known once its modules have seen it: its reader is answered at any progress.
        if self.source.view.is_some() {
            return None;
        }
        if !exactly {
            return Some(1);
        }
        let bytes_max = self.partition_bytes_max.min(bytes_max).saturating_sub(self.bytes);
        if bytes_max > 0 {
            let read = self.source.partition.read(self.next, bytes_max).ok()?;
            self.bytes += read.batches.len();
            self.next = read.next;
        }
        Some(self.bytes)
    }
}

/// Resolves once there are `bytes_min` bytes to answer with, or something to say at once: an error, or progress of a view.
async fn enough(topics: &[Targets], bytes_min: usize, bytes_max: usize) {
    let exactly = bytes_min > 1;
    let (mut total, mut waits) = (0_usize, FuturesUnordered::new());
    for target in topics.iter().flat_map(|(_, _, targets)| targets) {
        let Ok(source) = &target.source else { return };
        let mut counted = Counted {
            source,
            partition_bytes_max: usize::try_from(target.request.partition_max_bytes).unwrap_or(0),
            next: target.request.fetch_offset,
            bytes: 0,
            high_watermark: source.partition.subscribe(),
        };
        let Some(bytes) = counted.count(bytes_max, exactly) else { return };
        total = total.saturating_add(bytes);
        if total >= bytes_min.max(1) {
            return;
        }
        waits.push(grown(counted, bytes));
    }
    loop {
        // With nothing to wait for, only time ends the wait.
        let Some(grew) = waits.next().await else { return std::future::pending().await };
        let Some((mut counted, before)) = grew else { return };
        let Some(bytes) = counted.count(bytes_max, exactly) else { return };
        total = total.saturating_add(bytes - before);
        if total >= bytes_min.max(1) {
            return;
        }
        waits.push(grown(counted, bytes));
    }
}

/// Resolves when the high watermark has moved; none if it cannot any more.
async fn grown(mut counted: Counted<'_>, bytes: usize) -> Option<(Counted<'_>, usize)> {
    counted.high_watermark.changed().await.ok()?;
    Some((counted, bytes))
}

/// What the answer may take of what all answers share, bytes.
fn wanted_bytes(topics: &[Targets]) -> usize {
    let targets = topics.iter().flat_map(|(_, _, targets)| targets);
    let wanted = targets.map(|target| match &target.source {
        Ok(source) if target.request.fetch_offset < source.partition.high_watermark() => {
            // A single batch may be larger than was asked for.
            usize::try_from(target.request.partition_max_bytes).unwrap_or(0).max(source.partition.batch_bytes_max)
        }
        _ => 0,
    });
    wanted.fold(0, usize::saturating_add)
}

fn records_bytes(response: &FetchResponse) -> usize {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.records.len()).sum()
}

/// Has the records hold their share until they have left.
fn hold(mut response: FetchResponse, mut share: Share) -> FetchResponse {
    share.shrink(records_bytes(&response));
    let share = Arc::new(share);
    let partitions = response.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
    for part in partitions.flat_map(|partition| &mut partition.records.0) {
        *part = Share::hold_shared(&share, std::mem::take(part));
    }
    response
}

/// What is left of the answer's room.
struct Budget {
    left: usize,
    given: usize,
    /// What views may still look through.
    scan: Scan,
}

/// What an answer is gathered from.
struct Reading<'a> {
    shared: &'a Shared,
    topics: &'a [Targets],
    version: i16,
}

impl Reading<'_> {
    async fn read_all(&self, bytes_max: usize) -> FetchResponse {
        let mut budget = Budget { left: bytes_max, given: 0, scan: Scan::new(&*self.shared.env.clock) };
        let mut messages = Messages::new();
        let mut responses = Vec::with_capacity(self.topics.len());
        for (topic, topic_id, targets) in self.topics {
            let mut partitions = Vec::with_capacity(targets.len());
            for target in targets {
                partitions.push(read_target(self.shared, target, self.version, &mut budget, &mut messages).await);
            }
            responses.push(FetchableTopicResponse { topic: topic.clone(), topic_id: *topic_id, partitions });
        }
        FetchResponse { responses, ..Default::default() }
    }
}

async fn read_target(
    shared: &Shared,
    target: &Target,
    version: i16,
    budget: &mut Budget,
    messages: &mut Messages,
) -> PartitionData {
    let mut answer = PartitionData { partition_index: target.request.partition, ..Default::default() };
    let outcome = match &target.source {
        Err(error) => Err(error.clone()),
        Ok(source) => read_source(shared, source, &target.request, budget, &mut answer).await.map_err(Arc::new),
    };
    let outcome = outcome.and_then(|()| check_codecs(version, &answer.records));
    if let Err(error) = outcome {
        answer.error_code = error.code;
        answer.error_message = messages.say(&error.message);
        answer.records = RecordParts::default();
    }
    answer
}

/// Readers of old versions cannot unpack zstd: as in Kafka's brokers, they are told so.
fn check_codecs(version: i16, records: &RecordParts) -> Result<(), Arc<WireError>> {
    if version >= VERSION_ZSTD {
        return Ok(());
    }
    let zstd = |header: BatchHeader| header.attributes.compression() == Ok(Compression::Zstd);
    let found = records.0.iter().flat_map(|part| headers(part)).any(zstd);
    match found {
        false => Ok(()),
        true => {
            let message = format!("the records are packed with zstd: read them with version {VERSION_ZSTD} or later");
            Err(Arc::new(WireError::new(ErrorCode::UnsupportedCompressionType, message)))
        }
    }
}

/// The headers of batches that follow each other.
fn headers(mut batches: &[u8]) -> impl Iterator<Item = BatchHeader> {
    std::iter::from_fn(move || {
        let header = BatchHeader::parse(batches).ok()?;
        batches = batches.get(header.batch_bytes()..)?;
        Some(header)
    })
}

async fn read_source(
    shared: &Shared,
    source: &Source,
    request: &FetchPartition,
    budget: &mut Budget,
    answer: &mut PartitionData,
) -> Result<(), WireError> {
    let partition = &source.partition;
    let high_watermark = partition.high_watermark();
    answer.high_watermark = high_watermark;
    answer.last_stable_offset = high_watermark;
    answer.log_start_offset = partition.log.start_offset();
    let from = request.fetch_offset;
    if from < answer.log_start_offset || from > high_watermark {
        let (start, end) = (answer.log_start_offset, high_watermark);
        let message = format!("offset {from} is outside of {start}..={end} of partition {}", request.partition);
        return Err(WireError::new(ErrorCode::OffsetOutOfRange, message));
    }
    let bytes_max = usize::try_from(request.partition_max_bytes).unwrap_or(0).min(budget.left);
    // The first partition with data gives one batch even if that is larger than all limits (KIP-74).
    if from == high_watermark || (bytes_max == 0 && budget.given > 0) {
        return Ok(());
    }
    let parts = match &source.view {
        None => {
            let read = partition.read(from, bytes_max)?;
            if read.batches.is_empty() { Vec::new() } else { vec![read.batches] }
        }
        Some(view) => {
            let seen = view::read(shared, view, partition, from, bytes_max, &mut budget.scan).await?;
            answer.next_offset = seen.next;
            seen.batches
        }
    };
    let bytes: usize = parts.iter().map(Bytes::len).sum();
    if budget.given > 0 && bytes > budget.left {
        // A batch too large for what is left of the answer: it comes first in a later one.
        answer.next_offset = Offset(-1);
        return Ok(());
    }
    budget.given += bytes;
    budget.left = budget.left.saturating_sub(bytes);
    answer.records = RecordParts(parts);
    Ok(())
}
