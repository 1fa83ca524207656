//! Fetch: records below the high watermark, from topics as they lie on disk and from views as their modules show them.
//!
//! A fetch that waits for more holds no records: it counts what comes, and reads its answer once, in its turn. So a client
//! that asks for much many times over costs one answer at a time.

use std::{collections::HashSet, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use millstream_catalog::View;
use millstream_env::Share;
use millstream_log::{ReadError, ReadParts};
use millstream_model::{Offset, PartitionId, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{
        FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, PartitionData, RecordParts,
    },
};
use millstream_record::{BatchHeader, Compression};
use tokio::sync::watch;

use super::wire::client_wait;
use crate::{
    catch_up::Admitted,
    errors::{Messages, WireError},
    partition::Partition,
    readable::Readable,
    shared::Shared,
    turn::Turn,
    view::{self, Scan, Seen},
};

/// The first version whose readers can unpack zstd.
const VERSION_ZSTD: i16 = 10;
/// Most bytes in one answer, whatever the client allows: a frame and what the view or the last batch adds must fit.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// An answer of up to this size takes no share of the frames' memory, so that small fetches get through whatever others do.
const SMALL_BYTES: usize = 64 << 10;
/// So much is read in one go, bytes; between two, whoever waits for the thread has it: a producer's next packets above all.
const PIECE_BYTES: usize = 512 << 10;
/// Old records of a partition are not waited for where there are new ones of others: of them an answer has so much then, bytes.
const BESIDE_BYTES: usize = 64 << 10;

/// What one partition of the request reads.
struct Target {
    request: FetchPartition,
    source: Result<Source, Arc<WireError>>,
}

struct Source {
    partition: Arc<Partition>,
    view: Option<Arc<View>>,
}

impl Source {
    /// Whether there is something to read.
    fn has_news(&self, request: &FetchPartition) -> bool {
        (self.partition.log.start_offset()..self.partition.high_watermark()).contains(&request.fetch_offset)
    }

    /// Whether that is not among the newest batches that are kept in memory.
    fn is_old(&self, request: &FetchPartition) -> bool {
        self.has_news(request) && !self.partition.log.keeps(request.fetch_offset)
    }
}

/// Answers as soon as `min_bytes` are there, something is wrong, or `max_wait_ms` have passed.
pub(crate) async fn handle(shared: Arc<Shared>, version: i16, request: FetchRequest, mut turn: Turn) -> FetchResponse {
    if request.session_id != 0 {
        // We never hand out a session: this one is somebody else's, or older than our start.
        return FetchResponse { error_code: ErrorCode::FetchSessionIdNotFound, ..Default::default() };
    }
    let mut named = HashSet::new();
    let mut topics: Vec<_> =
        request.topics.into_iter().map(|topic| resolve_topic(&shared, version, topic, &mut named)).collect();
    drop(named);
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(ANSWER_BYTES_MAX);
    // More than the answer may hold would never come.
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let wait = client_wait(request.max_wait_ms);
    if !wait.is_zero() {
        tokio::select! {
            () = enough(&topics, bytes_min, bytes_max) => {}
            () = shared.env.clock.sleep(wait) => {}
            () = turn.hurried() => {}
        }
    }
    turn.come().await;
    let admitted = give_way(&shared, &mut topics, bytes_max, turn.hurried()).await;
    let bytes_max = admitted.as_ref().map_or(bytes_max, Admitted::bytes_max);
    let answer = gather(&shared, version, &topics, bytes_max).await;
    if let Some(admitted) = admitted {
        admitted.read(records_bytes(&answer));
    }
    answer
}

/// Has a request for old records wait where producers would suffer from it. Once there is something new to answer with, or to say, it
/// waits no longer, and has little room for the old. So it is once `hurried` resolves. None if it asks for nothing old.
async fn give_way<'a>(
    shared: &'a Shared,
    topics: &mut [Targets],
    bytes_max: usize,
    hurried: impl Future<Output = ()>,
) -> Option<Admitted<'a>> {
    let (mut old, mut others, mut news) = (Vec::new(), Vec::new(), false);
    for target in topics.iter_mut().flat_map(|(_, _, targets)| targets) {
        let Ok(source) = &target.source else {
            news = true;
            continue;
        };
        // Before it is looked at: what grows later ends the wait.
        let high_watermark = source.partition.subscribe();
        if source.is_old(&target.request) {
            old.push(&mut target.request);
        } else {
            news |= *high_watermark.borrow() != target.request.fetch_offset;
            others.push(high_watermark);
        }
    }
    if old.is_empty() {
        return None;
    }
    let admitted = shared.catch_up.ask(bytes_max);
    let mut due = pin!(admitted.due());
    if (&mut due).now_or_never().is_some() {
        return Some(admitted);
    }
    if !news {
        let mut grown: FuturesUnordered<_> = others.iter_mut().map(watch::Receiver::changed).collect();
        let grown = async {
            if grown.next().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = due => return Some(admitted),
            () = grown => {}
            () = hurried => {}
        }
    }
    let beside_bytes_max = i32::try_from(BESIDE_BYTES).unwrap_or(i32::MAX);
    for request in old {
        request.partition_max_bytes = request.partition_max_bytes.min(beside_bytes_max);
    }
    Some(admitted)
}

/// Reads the answer. What views show is read first, with nothing held that readers of topics or producers wait for: modules
/// take their time.
async fn gather(shared: &Shared, version: i16, topics: &[Targets], bytes_max: usize) -> FetchResponse {
    let shown = Shown::read(shared, topics, bytes_max).await;
    let reading = Reading { topics, version, shown: &shown };
    let wanted = reading.wanted_bytes().min(bytes_max);
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
    partition.check_epoch(request.current_leader_epoch)?;
    let view = match readable {
        Readable::Topic(_) => None,
        Readable::View { view, .. } => Some(view.clone()),
    };
    Ok(Source { partition, view })
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
    async fn count(&mut self, bytes_max: usize, exactly: bool) -> Option<usize> {
        // Seen before the log is read: what grows later wakes the wait.
        let high_watermark = *self.high_watermark.borrow_and_update();
        let start = self.source.partition.log.start_offset();
        if self.next < start || self.next > high_watermark {
            return None;
        }
        if self.next == high_watermark {
            self.source.partition.log.follow();
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
            let (partition, from) = (&self.source.partition, self.next);
            let count = |read: ReadParts| (self.bytes, self.next) = (self.bytes + read.bytes(), read.next);
            read_in_pieces(partition, from, bytes_max, count).await.ok()?;
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
        let Some(bytes) = counted.count(bytes_max, exactly).await else { return };
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
        let Some(bytes) = counted.count(bytes_max, exactly).await else { return };
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
}

impl Budget {
    fn new(bytes_max: usize) -> Self {
        Self { left: bytes_max, given: 0 }
    }

    /// How many bytes of a partition there is room for; none when the answer is full. The first partition with data gives one
    /// batch even if that is larger than all limits (KIP-74).
    fn room(&self, request: &FetchPartition) -> Option<usize> {
        let bytes_max = usize::try_from(request.partition_max_bytes).unwrap_or(0).min(self.left);
        (bytes_max > 0 || self.given == 0).then_some(bytes_max)
    }

    /// Whether so many bytes fit: then they are given.
    fn take(&mut self, bytes: usize) -> bool {
        if self.given > 0 && bytes > self.left {
            return false;
        }
        self.given += bytes;
        self.left = self.left.saturating_sub(bytes);
        true
    }
}

/// What the views of a request show.
struct Shown {
    /// One for each target, in their order; none for topics and where there is nothing new.
    seen: Vec<Option<Result<Seen, Arc<WireError>>>>,
    /// Until it is part of an answer that has its share, or is not sent.
    _held: Option<Share>,
}

impl Shown {
    async fn read(shared: &Shared, topics: &[Targets], bytes_max: usize) -> Self {
        let targets: Vec<&Target> = topics.iter().flat_map(|(_, _, targets)| targets).collect();
        let mut seen: Vec<_> = targets.iter().map(|_| None).collect();
        // Loading a module may have to wait for others that are compiled: before anything is held.
        let mut chains: Vec<_> = targets.iter().map(|_| None).collect();
        for (index, target) in targets.iter().enumerate() {
            let Ok(source @ Source { view: Some(view), .. }) = &target.source else { continue };
            if !source.has_news(&target.request) {
                continue;
            }
            match view::open(shared, view).await {
                Ok(chain) => chains[index] = Some(chain),
                Err(error) => seen[index] = Some(Err(Arc::new(error))),
            }
        }
        let Some(last) = chains.iter().rposition(Option::is_some) else { return Self { seen, _held: None } };
        let views = targets.iter().zip(&chains).filter(|(_, chain)| chain.is_some()).map(|(target, _)| *target);
        let mut held = shared.memory.show(wanted_of_views(views).min(bytes_max)).await;
        let (mut budget, mut scan) = (Budget::new(bytes_max), Scan::new(&*shared.env.clock));
        for (index, (target, chain)) in targets.iter().zip(chains).enumerate().take(last + 1) {
            let (Ok(source), Some(room)) = (&target.source, budget.room(&target.request)) else { continue };
            let (partition, from) = (&source.partition, target.request.fetch_offset);
            if let Some(chain) = chain {
                let read = view::read(shared, chain, partition, from, room, &mut scan).await;
                budget.take(read.as_ref().map_or(0, Seen::bytes));
                seen[index] = Some(read.map_err(Arc::new));
            } else if source.view.is_none() && source.has_news(&target.request) {
                // Counted and let go, to be read with a share: what the request names first has the room first.
                let mut bytes = 0;
                // What it cannot read is told when it is read for the answer.
                let _ = read_in_pieces(partition, from, room, |read| bytes += read.bytes()).await;
                budget.take(bytes);
            }
        }
        held.shrink(seen.iter().flatten().flatten().map(Seen::bytes).sum());
        Self { seen, _held: Some(held) }
    }
}

/// The most that these views may show, and a batch that is larger than they should, bytes.
fn wanted_of_views<'a>(targets: impl Iterator<Item = &'a Target>) -> usize {
    let (mut wanted, mut largest) = (0_usize, 0);
    for target in targets {
        wanted = wanted.saturating_add(usize::try_from(target.request.partition_max_bytes).unwrap_or(0));
        let batch_bytes_max = target.source.as_ref().map_or(0, |source| source.partition.batch_bytes_max());
        largest = largest.max(batch_bytes_max);
    }
    wanted.min(view::SHOWN_BYTES_MAX) + largest
}

/// What an answer is gathered from.
struct Reading<'a> {
    topics: &'a [Targets],
    version: i16,
    shown: &'a Shown,
}

impl Reading<'_> {
    /// What the answer may take of what all answers share, bytes.
    fn wanted_bytes(&self) -> usize {
        let targets = self.topics.iter().flat_map(|(_, _, targets)| targets).zip(&self.shown.seen);
        let wanted = targets.map(|(target, seen)| match (&target.source, seen) {
            (Ok(_), Some(Ok(seen))) => seen.bytes(),
            (Ok(source), None) if source.view.is_none() && source.has_news(&target.request) => {
                // A single batch may be larger than was asked for.
                usize::try_from(target.request.partition_max_bytes).unwrap_or(0).max(source.partition.batch_bytes_max())
            }
            _ => 0,
        });
        wanted.fold(0, usize::saturating_add)
    }

    async fn read_all(&self, bytes_max: usize) -> FetchResponse {
        let (mut budget, mut messages) = (Budget::new(bytes_max), Messages::new());
        let mut seen = self.shown.seen.iter();
        let mut responses = Vec::with_capacity(self.topics.len());
        for (topic, topic_id, targets) in self.topics {
            let mut partitions = Vec::with_capacity(targets.len());
            for (target, seen) in targets.iter().zip(&mut seen) {
                partitions.push(read_target(target, seen.as_ref(), self.version, &mut budget, &mut messages).await);
            }
            responses.push(FetchableTopicResponse { topic: topic.clone(), topic_id: *topic_id, partitions });
        }
        FetchResponse { responses, ..Default::default() }
    }
}

async fn read_target(
    target: &Target,
    seen: Option<&Result<Seen, Arc<WireError>>>,
    version: i16,
    budget: &mut Budget,
    messages: &mut Messages,
) -> PartitionData {
    let partition_index = target.request.partition;
    let mut answer = PartitionData { partition_index, high_watermark: Offset(-1), ..Default::default() };
    let outcome = match &target.source {
        Err(error) => Err(error.clone()),
        Ok(source) => read_source(source, seen, &target.request, budget, &mut answer).await,
    };
    let outcome = outcome.and_then(|()| check_codecs(version, &answer.records));
    if let Err(error) = outcome {
        answer.error_code = error.kafka_code();
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
    source: &Source,
    seen: Option<&Result<Seen, Arc<WireError>>>,
    request: &FetchPartition,
    budget: &mut Budget,
    answer: &mut PartitionData,
) -> Result<(), Arc<WireError>> {
    let partition = &source.partition;
    let high_watermark = partition.high_watermark();
    answer.high_watermark = high_watermark;
    answer.last_stable_offset = high_watermark;
    answer.log_start_offset = partition.log.start_offset();
    let from = request.fetch_offset;
    if from < answer.log_start_offset || from > high_watermark {
        let (start, end) = (answer.log_start_offset, high_watermark);
        let message = format!("offset {from} is outside of {start}..={end} of partition {}", request.partition);
        return Err(Arc::new(WireError::new(ErrorCode::OffsetOutOfRange, message)));
    }
    let Some(bytes_max) = budget.room(request) else { return Ok(()) };
    if from == high_watermark {
        return Ok(());
    }
    let (parts, next) = match (&source.view, seen) {
        (None, _) => {
            let mut parts = Vec::new();
            let take = |read: ReadParts| parts.extend(read.parts);
            read_in_pieces(partition, from, bytes_max, take).await.map_err(|error| Arc::new(error.into()))?;
            (parts, answer.next_offset)
        }
        (Some(_), Some(Ok(seen))) => (seen.batches.clone(), seen.next),
        (Some(_), Some(Err(error))) => return Err(error.clone()),
        // It had nothing new when the views were read.
        (Some(_), None) => return Ok(()),
    };
    // Again: it may have moved since, and what was read lies below where it was then.
    answer.high_watermark = partition.high_watermark();
    answer.last_stable_offset = answer.high_watermark;
    // Too much for what is left of the answer: it comes first in a later one.
    if budget.take(parts.iter().map(Bytes::len).sum()) {
        answer.next_offset = next;
        answer.records = RecordParts(parts);
    }
    Ok(())
}

/// Reads about `bytes_max` bytes, piece by piece, and gives each away before others have the thread. What the first piece cannot give is
/// an error; where a later one cannot, the answer ends, and the next fetch is told why.
async fn read_in_pieces(
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
    mut give: impl FnMut(ReadParts),
) -> Result<(), ReadError> {
    let mut read = partition.read(from, bytes_max.min(PIECE_BYTES))?;
    let mut left = bytes_max;
    loop {
        let (bytes, next) = (read.bytes(), read.next);
        left = left.saturating_sub(bytes);
        give(read);
        if bytes == 0 || left == 0 || next >= partition.high_watermark() {
            return Ok(());
        }
        tokio::task::yield_now().await;
        read = match partition.read(next, left.min(PIECE_BYTES)) {
            // The first batch is given even if it is too large: here it is not the answer's first.
            Ok(more) if more.bytes() <= left => more,
            _ => return Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use millstream_catalog::Command;
    use millstream_env::{Budget, sim::World};
    use millstream_model::{BrokerId, TimestampMs, TopicConfig, TopicName, ViewId};
    use millstream_record::{BatchBuilder, BatchOptions};
    use millstream_replica::Acks;
    use uuid::Uuid;

    use super::*;
    use crate::{Broker, BrokerOptions, catch_up::HELD_MAX, testing};

    /// Who reads what is old waits where producers suffer from it: not if it has something new to be told, no longer than until
    /// it has, and nobody else.
    #[test]
    fn only_reading_what_is_old_waits_and_nothing_new_waits_with_it() {
        const SOON: Duration = Duration::from_millis(100);
        let world = World::new(7);
        let broker = testing::start(&world);
        world.run_until(testing::create(&broker, 3));
        let (shared, clock) = (broker.shared(), world.env().clock);
        let append = |partition| testing::append(&broker, partition).commit;
        for partition in [0, 1, 2, 0, 1, 2] {
            world.run_until(append(partition)).unwrap();
        }
        // Somebody waits at the end of the first two.
        for partition in [0, 1] {
            let led = shared.partitions.find(testing::TOPIC, PartitionId(partition)).unwrap();
            led.log.follow();
            world.run_until(append(partition)).unwrap();
        }
        let old = |partition| (partition, 0);
        let (kept, unknown) = ((0, 2), old(7));
        let check = |asked: &[(i32, i64)], is_hurried: bool, expected: Duration, full: bool| {
            let ask = |(partition, from): &(i32, i64)| FetchPartition {
                partition: PartitionId(*partition),
                fetch_offset: Offset(*from),
                partition_max_bytes: 1 << 20,
                ..Default::default()
            };
            let topic =
                FetchTopic { topic: "t".into(), partitions: asked.iter().map(ask).collect(), ..Default::default() };
            let mut topics = [resolve_topic(shared, 12, topic, &mut HashSet::new())];
            // Somebody is before it.
            shared.catch_up.hold(1.0);
            let before = shared.catch_up.ask(1 << 20);
            let begun = clock.now();
            let hurried = async move {
                if !is_hurried {
                    std::future::pending::<()>().await;
                }
            };
            let waits = async {
                give_way(shared, &mut topics, 1 << 20, hurried).await;
                clock.now() - begun
            };
            let news = async {
                clock.sleep(SOON).await;
                append(1).await.unwrap();
            };
            let (waited, ()) = world.run_until(async { futures::join!(waits, news) });
            drop(before);
            assert!(waited.abs_diff(expected) < SOON / 2, "{asked:?}: {waited:?}");
            let first = &topics[0].2[0].request;
            assert_eq!(first.partition_max_bytes == 1 << 20, full, "{asked:?}");
        };
        check(&[old(0)], false, HELD_MAX, true);
        check(&[old(0), old(2)], false, HELD_MAX, true);
        check(&[kept], false, Duration::ZERO, true);
        check(&[old(0), old(1)], false, HELD_MAX, true);
        check(&[old(0)], true, Duration::ZERO, false);
        check(&[old(2), kept], false, Duration::ZERO, false);
        check(&[old(2), unknown], false, Duration::ZERO, false);
        let end = shared.partitions.find(testing::TOPIC, PartitionId(1)).unwrap().high_watermark();
        check(&[old(0), (1, end.0)], false, SOON, false);
        testing::stop(&world, broker);
    }

    /// Two partitions, each with more than a small answer.
    async fn two_partitions(broker: &Broker) -> [Arc<Partition>; 2] {
        let shared = broker.shared();
        let command = Command::CreateTopic {
            id: TopicId(Uuid::from_u128(7)),
            name: TopicName::new("t").unwrap(),
            partitions: 2,
            replication_factor: 1,
            config: TopicConfig::default(),
            at: TimestampMs(0),
        };
        shared.catalog.propose(command).await.unwrap();
        shared.partitions.follow(&shared.catalog).await.unwrap();
        let partitions = [0, 1].map(|index| shared.partitions.find(TopicId(Uuid::from_u128(7)), PartitionId(index)));
        let partitions = partitions.map(Option::unwrap);
        for partition in &partitions {
            append(partition, 3 * SMALL_BYTES).await;
        }
        partitions
    }

    /// Appends one record of so many bytes.
    async fn append(partition: &Arc<Partition>, bytes: usize) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(5), None, Some(&vec![b'x'; bytes]), &[]).unwrap();
        partition.append(vec![builder.build().unwrap()], Acks::All).unwrap().commit.await.unwrap();
    }

    fn targets(partition: &Arc<Partition>, view: Option<&Arc<View>>) -> Vec<Targets> {
        let (partition, view) = (partition.clone(), view.cloned());
        let index = partition.id.partition;
        let request = FetchPartition { partition: index, partition_max_bytes: 1 << 20, ..Default::default() };
        vec![("t".into(), TopicId::NIL, vec![Target { request, source: Ok(Source { partition, view }) }])]
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_what_cannot_be_read_no_offset_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let options = BrokerOptions::new(BrokerId(1), dir.path().into());
        let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
        let refused = || WireError::new(ErrorCode::UnknownTopicOrPartition, "no topic");
        let request = FetchPartition { partition: PartitionId(3), ..Default::default() };
        let targets = vec![("t".into(), TopicId::NIL, vec![Target { request, source: Err(refused().into()) }])];
        let answer = gather(broker.shared(), 12, &targets, 1 << 20).await;
        let [partition] = &answer.responses[0].partitions[..] else { panic!("{answer:?}") };
        assert_eq!((partition.partition_index, partition.error_code), (PartitionId(3), refused().code));
        assert_eq!((partition.high_watermark, partition.log_start_offset), (Offset(-1), Offset(-1)));
        broker.shutdown().await.unwrap();
    }

    /// A view that waits for its modules, or for the memory that all modules share, holds up no reader of a topic and nobody
    /// who produces: they need a share of the frames.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_view_holds_no_share_of_the_frames_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        // So little that one answer takes it all.
        let frames = Budget::new(1 << 20);
        let options = BrokerOptions { frames: frames.clone(), ..BrokerOptions::new(BrokerId(1), dir.path().into()) };
        let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
        let [first, second] = two_partitions(&broker).await;
        let shared = broker.shared();
        let view = Arc::new(View {
            id: ViewId(Uuid::from_u128(8)),
            name: TopicName::new("v").unwrap(),
            topic: TopicId(Uuid::from_u128(7)),
            // Records pass as they are.
            chain: Vec::new(),
            params: BTreeMap::new(),
            created_at: TimestampMs(0),
        });
        let (of_view, of_topic) = (targets(&first, Some(&view)), targets(&second, None));
        let others_unpack = shared.memory.unpack(usize::MAX).await;
        let mut viewed = Box::pin(gather(shared, 12, &of_view, 1 << 20));
        assert!((&mut viewed).now_or_never().is_none(), "it had room to unpack");
        let read = gather(shared, 12, &of_topic, 1 << 20).now_or_never().expect("a reader of a topic waits for a view");
        assert!(records_bytes(&read) > SMALL_BYTES && frames.free_bytes() < 1 << 20);
        drop(read);
        let all = frames.take(1 << 20).await;
        drop(others_unpack);
        assert!((&mut viewed).now_or_never().is_none(), "it had no share");
        assert!(shared.memory.unpack(usize::MAX).now_or_never().is_some(), "others wait for a share to unpack");
        drop(all);
        assert!(records_bytes(&viewed.await) > SMALL_BYTES);
        broker.shutdown().await.unwrap();
    }

    /// Records become durable while a partition is read: the high watermark that is told lies past those that are in the answer.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_record_is_at_or_past_the_high_watermark_of_its_answer() {
        const APPENDS: usize = 400;
        let dir = tempfile::tempdir().unwrap();
        let options = BrokerOptions::new(BrokerId(1), dir.path().into());
        let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
        let [partition, _] = two_partitions(&broker).await;
        let appender = partition.clone();
        let appends = tokio::spawn(async move {
            for _ in 0..APPENDS {
                append(&appender, 10).await;
            }
        });
        let source = Source { partition: partition.clone(), view: None };
        let mut wrong = None;
        while !appends.is_finished() {
            let from = Offset(partition.high_watermark().0 - 1);
            let request = FetchPartition { fetch_offset: from, partition_max_bytes: 1 << 20, ..Default::default() };
            let mut answer = PartitionData::default();
            read_source(&source, None, &request, &mut super::Budget::new(1 << 20), &mut answer).await.unwrap();
            let end = answer.records.0.iter().flat_map(|part| headers(part)).map(|header| header.end_offset()).max();
            let told = answer.high_watermark;
            if !end.is_some_and(|end| from < end && end <= told) {
                wrong = Some(format!("read {from}..{end:?}, told {told}"));
            }
        }
        appends.await.unwrap();
        broker.shutdown().await.unwrap();
        assert_eq!(wrong, None);
    }
}
