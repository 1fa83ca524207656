//! Fetch: records below the high watermark, from topics as they lie on disk and from views as their modules show them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use millstream_catalog::View;
use millstream_model::{LeaderEpoch, Offset, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{
        FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, PartitionData, RecordParts,
    },
};
use tokio::sync::watch;

use crate::{
    errors::WireError,
    partition::Partition,
    readable::Readable,
    shared::Shared,
    view::{self, Scan},
};

/// The first version whose topics are named by id.
const VERSION_BY_ID: i16 = 13;
/// Most bytes in one answer, whatever the client allows: a frame and what the view or the last batch adds must fit.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// What one partition of the request reads.
struct Target {
    request: FetchPartition,
    source: Result<Source, WireError>,
}

struct Source {
    partition: Arc<Partition>,
    view: Option<Arc<View>>,
    high_watermark: watch::Receiver<Offset>,
}

/// Answers as soon as `min_bytes` are there, something is wrong, or `max_wait_ms` have passed.
pub(crate) async fn handle(shared: Arc<Shared>, version: i16, request: FetchRequest) -> FetchResponse {
    if request.session_id != 0 {
        // We never hand out a session: this one is somebody else's, or older than our start.
        return FetchResponse { error_code: ErrorCode::FetchSessionIdNotFound, ..Default::default() };
    }
    let mut topics: Vec<_> = request.topics.into_iter().map(|topic| resolve_topic(&shared, version, topic)).collect();
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(ANSWER_BYTES_MAX);
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let mut deadline = (!wait.is_zero()).then(|| shared.env.clock.sleep(wait).fuse());
    loop {
        let mut budget = Budget { left: bytes_max, given: 0, decided: false, scan: Scan::new(&*shared.env.clock) };
        let mut responses = Vec::with_capacity(topics.len());
        for (name, topic_id, targets) in &mut topics {
            let mut partitions = Vec::with_capacity(targets.len());
            for target in targets {
                partitions.push(read_target(&shared, target, &mut budget).await);
            }
            responses.push(FetchableTopicResponse { topic: name.clone(), topic_id: *topic_id, partitions });
        }
        let expired = match &mut deadline {
            None => true,
            Some(deadline) => futures::future::FusedFuture::is_terminated(deadline),
        };
        if budget.decided || budget.given >= bytes_min.max(1) || expired {
            return FetchResponse { responses, ..Default::default() };
        }
        let mut grown: FuturesUnordered<_> = topics
            .iter_mut()
            .flat_map(|(_, _, targets)| targets)
            .filter_map(|target| target.source.as_mut().ok())
            .map(|source| source.high_watermark.changed())
            .collect();
        if let Some(deadline) = &mut deadline {
            tokio::select! {
                _ = deadline => {}
                Some(_) = grown.next(), if !grown.is_empty() => {}
            }
        }
    }
}

/// What is left of the answer's room.
struct Budget {
    left: usize,
    given: usize,
    /// There is something to say at once: an error, or progress of a view.
    decided: bool,
    /// What views may still look through.
    scan: Scan,
}

type Targets = (String, TopicId, Vec<Target>);

fn resolve_topic(shared: &Shared, version: i16, topic: FetchTopic) -> Targets {
    let state = shared.catalog.state();
    let readable = if version >= VERSION_BY_ID {
        Readable::by_id(&state, topic.topic_id).ok_or(ErrorCode::UnknownTopicId)
    } else {
        Readable::by_name(&state, &topic.topic).ok_or(ErrorCode::UnknownTopicOrPartition)
    };
    let targets = topic.partitions.into_iter().map(|request| {
        let source = match &readable {
            Ok(readable) => resolve_partition(shared, readable, &request),
            Err(code) => Err(WireError::new(*code, code.text())),
        };
        Target { request, source }
    });
    let targets = targets.collect();
    (topic.topic, topic.topic_id, targets)
}

fn resolve_partition(shared: &Shared, readable: &Readable, request: &FetchPartition) -> Result<Source, WireError> {
    let topic = readable.topic();
    let Some(partition) = shared.partitions.find(topic.id, request.partition) else {
        let code = if topic.partition(request.partition).is_some() {
            ErrorCode::NotLeaderOrFollower
        } else {
            ErrorCode::UnknownTopicOrPartition
        };
        return Err(WireError::new(code, format!("{} has no partition {} here", readable.name(), request.partition)));
    };
    check_epoch(request.current_leader_epoch, partition.epoch)?;
    let view = match readable {
        Readable::Topic(_) => None,
        Readable::View { view, .. } => Some(view.clone()),
    };
    let high_watermark = partition.subscribe();
    Ok(Source { partition, view, high_watermark })
}

/// A client of an older epoch must look the leader up again; one of a newer epoch knows more than this broker (KIP-320).
pub(crate) fn check_epoch(client: LeaderEpoch, current: LeaderEpoch) -> Result<(), WireError> {
    if client == LeaderEpoch::UNKNOWN || client == current {
        return Ok(());
    }
    let code = if client < current { ErrorCode::FencedLeaderEpoch } else { ErrorCode::UnknownLeaderEpoch };
    Err(WireError::new(code, format!("leader epoch {client}; this broker is in {current}")))
}

async fn read_target(shared: &Shared, target: &mut Target, budget: &mut Budget) -> PartitionData {
    let mut answer = PartitionData { partition_index: target.request.partition, ..Default::default() };
    let outcome = match &mut target.source {
        Err(error) => Err(error.clone()),
        Ok(source) => read_source(shared, source, &target.request, budget, &mut answer).await,
    };
    if let Err(error) = outcome {
        budget.decided = true;
        answer.error_code = error.code;
        answer.error_message = Some(error.message);
        answer.records = RecordParts::default();
    }
    answer
}

async fn read_source(
    shared: &Shared,
    source: &mut Source,
    request: &FetchPartition,
    budget: &mut Budget,
    answer: &mut PartitionData,
) -> Result<(), WireError> {
    // Seen before the log is read: what grows later wakes the wait.
    let high_watermark = *source.high_watermark.borrow_and_update();
    let partition = &source.partition;
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
            budget.decided |= seen.next > from;
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
