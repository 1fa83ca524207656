//! One input partition's task: read, call, append, remember.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering, time::Duration};

use millstream_catalog::{OnError, StartAt, Topic, Transform};
use millstream_model::{ModuleKind, Offset, TimestampMs};
use millstream_record::batches;
use millstream_wasm::{
    CallError, FailureCode, Freshness, InitParams, Phase, Pool,
    frame::{FrameOptions, InputFrame, OutputRules},
};
use tracing::{info, warn};

use super::{Stats, output::Outputs, progress::Progress};
use crate::{
    partition::Partition,
    rows::{self, Row},
    shared::Shared,
};

/// How much input is read and committed as one step.
const READ_BYTES: usize = 512 << 10;
/// How long to wait before trying again what may go better later.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// What a task works on.
pub(super) struct Work {
    pub(super) transform: Arc<Transform>,
    /// The input's number, as the module counts.
    pub(super) number: u32,
    pub(super) input: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
    pub(super) stats: Arc<Stats>,
}

/// Runs until it is aborted, or returns why the transform must stop.
pub(super) async fn run(shared: &Arc<Shared>, work: Work) -> Result<(), String> {
    let Work { transform, number, input, partition, stats } = work;
    let place = format!("{}/{}", input.name, partition.id.partition);
    let stop = |reason: String| format!("{place}: {reason}");
    let progress = Progress::open(shared, transform.id, partition.clone()).map_err(stop)?;
    let now = || TimestampMs(shared.env.clock.wall_ms());
    let mut next = match progress.load().map_err(|error| stop(format!("its progress cannot be read: {error}")))? {
        Some(next) => next,
        None => {
            let next = first_offset(&transform, &partition);
            // Written down before anything is done: "end" must mean the same end after a restart.
            progress.store(next, now()).map_err(stop)?;
            next
        }
    };
    stats.next_offset.store(next.0, Ordering::Relaxed);
    info!(transform = %transform.name, %place, %next, "running");

    let pool = open_pool(shared, &transform, &input).await.map_err(stop)?;
    let mut outputs = Outputs::open(shared, &transform, &place, partition.id.partition).map_err(stop)?;
    let rules = OutputRules::transform(outputs.partition_counts());
    let options = FrameOptions { input: number, partition: partition.id.partition, ..FrameOptions::default() };
    let mut high_watermark = partition.subscribe();
    loop {
        // The sender lives as long as the partition.
        let _ = high_watermark.wait_for(|end| *end > next).await;
        let read = partition.read(next, READ_BYTES).map_err(|error| stop(error.to_string()))?;
        let mut rows: Vec<Row> = Vec::new();
        for batch in batches(read.batches) {
            let batch = batch.map_err(|error| stop(error.to_string()))?;
            rows.extend(rows::from_batch(&batch, next).map_err(|error| stop(error.message))?);
        }
        for (first, frame) in rows::frames(&rows, options).map_err(|error| stop(error.message))? {
            let rows = &rows[first..first + frame.count() as usize];
            call(shared, &pool, &transform, &rules, frame, rows, &mut outputs, &stats).await.map_err(stop)?;
        }
        let written = outputs.commit(shared).await.map_err(stop)?;
        Stats::add(&stats.records_in, rows.len());
        Stats::add(&stats.records_out, written);
        next = read.next;
        progress.store(next, now()).map_err(stop)?;
        stats.next_offset.store(next.0, Ordering::Relaxed);
    }
}

fn first_offset(transform: &Transform, partition: &Partition) -> Offset {
    let (start, end) = (partition.log.start_offset(), partition.high_watermark());
    match transform.from {
        StartAt::Beginning => start,
        StartAt::End => end,
        // An offset that is not there yet is waited for.
        StartAt::Offset(offset) => offset.max(start),
    }
}

async fn open_pool(shared: &Shared, transform: &Transform, input: &Topic) -> Result<Pool, String> {
    let state = shared.catalog.state();
    let names = |ids: &[millstream_model::TopicId]| {
        ids.iter().filter_map(|id| state.topic_by_id(*id)).map(|topic| topic.name.to_string()).collect()
    };
    let params = InitParams {
        inputs: names(&transform.inputs),
        outputs: names(&transform.outputs),
        params: transform.params.clone(),
    };
    let owner = super::owner(&transform.name);
    let pool = shared.modules.pool(&state, &transform.module, ModuleKind::Mapper, owner, params).await;
    pool.map_err(|error| format!("{} for input {}: {}", transform.module, input.name, error.message))
}

/// Has the module process a frame. A frame that fails is halved until the record at fault is alone: the others pass, and
/// the policy decides about that one. Order is kept throughout.
#[expect(clippy::too_many_arguments, reason = "one step of one loop, taken out to be read on its own")]
async fn call(
    shared: &Shared,
    pool: &Pool,
    transform: &Transform,
    rules: &OutputRules,
    frame: InputFrame,
    rows: &[Row],
    outputs: &mut Outputs,
    stats: &Stats,
) -> Result<(), String> {
    // Frames with the index of their first row, in order.
    let mut queue = VecDeque::from([(0, frame)]);
    let mut wait = RETRY_FIRST;
    while let Some((first, frame)) = queue.pop_front() {
        // Only a call of one record on a new instance is a verdict on that record.
        let freshness = if frame.count() == 1 { Freshness::Fresh } else { Freshness::Any };
        let error = match pool.process(&frame, rules, freshness).await {
            Ok(emitted) => {
                wait = RETRY_FIRST;
                outputs.take(&emitted, &rows[first..]).map_err(|error| error.message)?;
                continue;
            }
            Err(error) => error,
        };
        if error.is_retriable() {
            *stats.error.lock() = Some(error.to_string());
            warn!(transform = %transform.name, %error, "trying again");
            shared.env.clock.sleep(wait).await;
            wait = (wait * 2).min(RETRY_LAST);
            queue.push_front((first, frame));
        } else if ends_all(&error) {
            return Err(error.to_string());
        } else if frame.count() > 1 {
            let half = frame.count() / 2;
            queue.push_front((first + half as usize, frame.slice(half..frame.count())));
            queue.push_front((first, frame.slice(0..half)));
        } else {
            verdict(transform, &rows[first], &error, stats)?;
        }
    }
    Ok(())
}

/// Whether the failure is not about records: wrong parameters, or an instance that does not start.
fn ends_all(error: &CallError) -> bool {
    match error {
        CallError::Guest(failure) => failure.code != FailureCode::Record,
        CallError::Trap { phase, .. } | CallError::OutOfFuel { phase, .. } | CallError::OutOfMemory { phase, .. } => {
            *phase != Phase::Call
        }
        CallError::Output(_) | CallError::Exhausted { .. } | CallError::Host { .. } => false,
    }
}

/// What the policy says about a record that cannot be processed.
fn verdict(transform: &Transform, row: &Row, error: &CallError, stats: &Stats) -> Result<(), String> {
    let message = format!("the record at offset {}: {error}", row.offset);
    Stats::add(&stats.errors, 1);
    *stats.error.lock() = Some(message.clone());
    match transform.on_error {
        OnError::Skip => {
            warn!(transform = %transform.name, offset = %row.offset, %error, "left out");
            Ok(())
        }
        // The others are refused when a transform is deployed.
        OnError::Fail | OnError::Retry | OnError::Dlq | OnError::ParkKey => Err(message),
    }
}
