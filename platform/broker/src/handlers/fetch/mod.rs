//! Fetch: records below the high watermark, from topics as they lie on disk and from views as their modules show them.
//!
//! A fetch that waits for more holds no records: it counts what comes ([`wait`]), and reads its answer once, in its turn ([`views`], then
//! [`answer`]). So a client that asks for much many times over costs one answer at a time.

mod answer;
mod session;
mod subscription;
#[cfg(test)]
mod tests;
mod views;
mod wait;

use std::{collections::HashSet, sync::Arc};

use millstream_catalog::View;
use millstream_env::Share;
use millstream_model::{PartitionId, TopicId};
use millstream_protocol::{
    RecordParts,
    messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, READ_COMMITTED},
};
use millstream_record::count_records;

use self::{
    answer::Reading,
    views::Shown,
    wait::{enough, give_way},
};
pub(crate) use self::{session::StreamSession, subscription::handle as subscribe};
use super::wire::client_wait;
use crate::{errors::WireError, partition::Partition, readable::Readable, shared::Shared, turn::Turn};

/// Most bytes in one answer, whatever the client allows: a frame and what the view or the last batch adds must fit.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// An answer of up to this size takes no share of the frames' memory, so that small fetches get through whatever others do.
const SMALL_BYTES: usize = 64 << 10;

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

/// Answers as soon as `min_bytes` are there, something is wrong, or `max_wait_ms` have passed. `room`: what one holds that names many
/// partitions; it waits no longer once others wait for some.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    version: i16,
    mut request: FetchRequest,
    room: Option<Share>,
    mut turn: Turn,
    session: StreamSession,
) -> FetchResponse {
    let told = match session.ask(version, &mut request, &shared.memory.sessions, session_id(&shared)) {
        Ok(told) => told,
        Err(error_code) => return FetchResponse { error_code, ..Default::default() },
    };
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
            () = shared.memory.is_pressed(), if room.is_some() => {}
        }
    }
    turn.come().await;
    let place = give_way(turn.reading(), &mut topics, bytes_max, turn.hurried()).await;
    let bytes_max = place.as_ref().map_or(bytes_max, |place| place.bytes_max().min(bytes_max));
    let mut answer = gather(&shared, version, &topics, bytes_max).await;
    tell_aborted(&mut answer, request.isolation_level);
    count(&topics, &answer);
    if let Some(place) = place {
        place.read(records_bytes(&answer));
    }
    told.tell(&mut answer);
    drop(room);
    answer
}

/// No transaction was aborted. As Kafka's brokers do, that is told by an empty list to who asks for committed records only; who asks for
/// all records is told none.
fn tell_aborted(answer: &mut FetchResponse, isolation_level: i8) {
    for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
        partition.aborted_transactions = (isolation_level == READ_COMMITTED).then(Vec::new);
    }
}

/// A session's number: positive, and hardly one from before our start.
fn session_id(shared: &Shared) -> i32 {
    let random = shared.env.rng.next_u64() >> 33;
    i32::try_from(random).unwrap_or(i32::MAX).max(1)
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

/// Notes what is in an answer, by what it was read from.
fn count(topics: &[Targets], answer: &FetchResponse) {
    let targets = topics.iter().flat_map(|(_, _, targets)| targets);
    let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
    for (target, partition) in targets.zip(partitions) {
        let RecordParts(parts) = &partition.records;
        if let (Ok(source), false) = (&target.source, parts.is_empty()) {
            let records = parts.iter().map(|part| count_records(part)).sum();
            source.partition.traffic.add_out(records, partition.records.len() as u64);
        }
    }
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
