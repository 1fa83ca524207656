//! From which size on is an append better synced in its segment, with a reference in the journal, than written twice?
//!
//! `cargo run --release -p millstream-tests-bench --bin append_spike -- [DIR] [ROUNDS]`
//!
//! The log without a broker: as many partitions as producers, one append of each under way, durable. Writes real files (some
//! gigabytes, removed afterwards). The ways take turns; compare lines that follow each other, not runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use millstream_log::{AppendError, LogId, LogOptions, PartitionLog, Storage, StorageOptions};
use millstream_model::{LeaderEpoch, PartitionId, TimestampMs, TopicId};
use millstream_record::{BatchBuilder, BatchOptions};
use tokio::task::JoinSet;

const SIZES_KIB: [usize; 4] = [512, 1024, 2048, 4096];
const PRODUCERS: [usize; 2] = [1, 8];
/// How long each way is measured in a round.
const TIME: Duration = Duration::from_secs(1);

/// What one way did.
struct Measured {
    appends: usize,
    /// Until the last acknowledgement, and until the segments had it all.
    acknowledged: Duration,
    on_disk: Duration,
    /// Of acknowledgements, sorted.
    waits: Vec<Duration>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: u32 = arguments.next().map_or(Ok(3), |rounds| rounds.parse()).context("ROUNDS is a number")?;
    println!("  KiB producers            MB/s acknowledged   all on disk   p50 us   p99 us");
    for _ in 0..rounds {
        for kib in SIZES_KIB {
            for producers in PRODUCERS {
                for (with, append_ref_bytes) in [("twice", usize::MAX), ("by reference", 0)] {
                    let Measured { appends, acknowledged, on_disk, waits } =
                        measure(&parent, batch(kib)?, producers, append_ref_bytes).await?;
                    let rate = |time: Duration| (appends * kib) as f64 / 1024.0 / time.as_secs_f64();
                    let wait = |percent| waits.get(waits.len() * percent / 100).map_or(0, Duration::as_micros);
                    println!(
                        "{kib:5} {producers:9} {with:>12} {:14.0} {:13.0} {:8} {:8}",
                        rate(acknowledged),
                        rate(on_disk),
                        wait(50),
                        wait(99)
                    );
                }
            }
        }
    }
    Ok(())
}

fn batch(kib: usize) -> Result<Bytes> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..kib {
        builder.push(TimestampMs(1), None, Some(&[7; 1024]), &[])?;
    }
    builder.build().context("encode the batch")
}

async fn measure(parent: &Path, batch: Bytes, producers: usize, append_ref_bytes: usize) -> Result<Measured> {
    let dir = tempfile::tempdir_in(parent)?;
    // What the way before left is not to be written beside this one.
    rustix::fs::sync();
    let options = StorageOptions { append_ref_bytes, ..StorageOptions::new(dir.path()) };
    let storage = Arc::new(Storage::open(options, millstream_env::real::env())?.0);
    let mut running = JoinSet::new();
    let start = Instant::now();
    for partition in 0..producers {
        let id = LogId::records(TopicId::NIL, PartitionId(i32::try_from(partition)?));
        let log = storage.open_log(id, LogOptions::default())?;
        running.spawn(produce(storage.clone(), log, batch.clone(), start + TIME));
    }
    let mut waits = Vec::new();
    while let Some(some) = running.join_next().await {
        waits.extend(some??);
    }
    let acknowledged = start.elapsed();
    storage.close().await?;
    let on_disk = start.elapsed();
    waits.sort();
    Ok(Measured { appends: waits.len(), acknowledged, on_disk, waits })
}

async fn produce(storage: Arc<Storage>, log: Arc<PartitionLog>, batch: Bytes, until: Instant) -> Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while Instant::now() < until {
        storage.writable().await;
        let start = Instant::now();
        match log.append(batch.clone(), LeaderEpoch(0)) {
            Ok(appended) => appended.ticket.await?,
            Err(AppendError::Overloaded { .. }) => continue,
            Err(error) => return Err(error.into()),
        }
        waits.push(start.elapsed());
    }
    Ok(waits)
}
