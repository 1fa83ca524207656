//! Retention: what topics need not keep any longer goes, whole segments at a time (`retention.ms`, `retention.bytes`).
//!
//! Every [`BrokerOptions::retention_check`](crate::BrokerOptions) each led partition is looked at in turn. Where its start may
//! move, it moves; the files go in the background of the log. Nothing at or past the high watermark goes.

use std::sync::Arc;

use millstream_log::{Ended, MoveStartError, ReadError, Retention, Ticket};
use millstream_model::{Offset, TimestampMs};
use tracing::{info, warn};

use crate::{partition::Partition, shared::Shared};

/// Looks after all led partitions until the broker stops or the storage takes no more changes.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.env.clock.sleep(shared.options.retention_check) => {}
            () = shared.stop.cancelled() => return,
        }
        for partition in shared.partitions.all() {
            if shared.stop.is_cancelled() {
                return;
            }
            if partition.retention() == Retention::default() {
                continue;
            }
            let now = TimestampMs(shared.env.clock.wall_ms());
            let job = { move |_: &_| check(&partition, now) };
            match shared.retaining.run("retain", job).await {
                Some(Ok(true)) | None => {}
                // It has failed or is closing, which is told elsewhere.
                Some(Ok(false)) => return,
                Some(Err(error)) => warn!("{error}"),
            }
        }
    }
}

/// A partition's records could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("nothing of {topic} partition {partition} can be let go: {source}")]
struct Unreadable {
    topic: String,
    partition: i32,
    source: ReadError,
}

/// Moves one partition's start, if it may. False if the storage takes no more changes.
fn check(partition: &Partition, now: TimestampMs) -> Result<bool, Unreadable> {
    let log = &partition.log;
    let before = (log.start_offset(), log.size_bytes());
    let start = match start(partition, now) {
        // What lies below the start is on its way already.
        Ok(Some(start)) if start > before.0 => start,
        Ok(_) | Err(ReadError::Deleted) => return Ok(true),
        Err(source) => {
            let (topic, partition) = (partition.topic().name.to_string(), partition.id.partition.0);
            return Err(Unreadable { topic, partition, source });
        }
    };
    match log.advance_start(start) {
        // Whether it is durable is of no matter here: if it is not, it is done again.
        Ok(ticket) => drop::<Ticket>(ticket),
        Err(MoveStartError::Ended(Ended::Deleted) | MoveStartError::BeyondEnd { .. }) => return Ok(true),
        Err(MoveStartError::Ended(Ended::Closed | Ended::Failed(_))) => return Ok(false),
    }
    info!(
        topic = %partition.topic().name,
        partition = %partition.id.partition,
        from = %before.0,
        to = %start,
        bytes = before.1.saturating_sub(log.size_bytes()),
        "records past their retention deleted"
    );
    Ok(true)
}

/// Where the partition may start now; none if nothing may go.
fn start(partition: &Partition, now: TimestampMs) -> Result<Option<Offset>, ReadError> {
    let (log, below, retention) = (&partition.log, partition.high_watermark(), partition.retention());
    let closed = log.closed_segments()?;
    let start = retention.start(&closed, log.size_bytes(), below, now);
    // A topic that nobody writes to any more: its last segment goes too, once it is the only one left.
    let is_all = closed.last().is_none_or(|last| start == Some(last.end_offset));
    let Some(ms) = retention.ms.filter(|_| is_all) else { return Ok(start) };
    match log.roll_older(TimestampMs(now.0.saturating_sub(ms)))? {
        true => Ok(retention.start(&log.closed_segments()?, log.size_bytes(), below, now)),
        false => Ok(start),
    }
}
