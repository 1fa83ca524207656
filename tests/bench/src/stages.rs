//! The stages of a batch's way, each alone in this process: what an append or a fetch costs before any network.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use millstream_log::{LogId, LogOptions, PartitionLog, Storage, StorageOptions};
use millstream_model::{LeaderEpoch, PartitionId, TopicId};
use millstream_record::Batch;
use uuid::Uuid;

use crate::{
    closed_loop::{Lane, Moved, Sample, measure},
    suite::Plan,
    workload::{self, RECORDS},
};

/// A stage that is pure computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// What the SDK's producer does: records to a batch with its CRC.
    Encode,
    /// What the broker does to a client's batch before it appends it: structure, CRC, records.
    Validate,
    /// What the SDK's consumer does: CRC, batch to records.
    Decode,
}

/// Runs a stage over and over.
pub(crate) async fn stage(plan: &Plan, stage: Stage) -> anyhow::Result<Sample> {
    let values = workload::values(1);
    let batch = workload::encode(&values)?;
    measure(vec![StageLane { stage, values, batch }], plan.time, None).await
}

struct StageLane {
    stage: Stage,
    values: Vec<Bytes>,
    batch: Bytes,
}

impl Lane for StageLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        match self.stage {
            Stage::Encode => drop(workload::encode(&self.values)?),
            Stage::Validate => Batch::parse_one(self.batch.clone())?.validate_for_append()?,
            Stage::Decode => {
                let batch = Batch::parse_one(self.batch.clone())?;
                batch.verify_crc()?;
                for record in batch.records(self.batch.len())? {
                    std::hint::black_box(record?);
                }
            }
        }
        Ok(Moved { bytes: self.batch.len() as u64, records: RECORDS as u64 })
    }
}

/// The log without a broker around it: as many partitions as producers, one batch of each under way, durable.
pub(crate) async fn log(plan: &Plan, dir: &Path, producers: usize) -> anyhow::Result<Sample> {
    let dir = tempfile::tempdir_in(dir)?;
    let (storage, _) = Storage::open(StorageOptions::new(dir.path()), millstream_env::real::env())?;
    let topic = TopicId(Uuid::from_u128(1));
    let lane = |partition: usize| {
        let id = LogId::records(topic, PartitionId(i32::try_from(partition)?));
        let log = storage.open_log(id, LogOptions::default())?;
        anyhow::Ok(LogLane { log, batch: workload::encode(&workload::values(1))? })
    };
    let lanes = (0..producers).map(lane).collect::<anyhow::Result<Vec<_>>>()?;
    let sample = measure(lanes, plan.time, None).await;
    storage.close().await?;
    sample
}

struct LogLane {
    log: Arc<PartitionLog>,
    batch: Bytes,
}

impl Lane for LogLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        self.log.append(self.batch.clone(), LeaderEpoch(0))?.ticket.await?;
        Ok(Moved { bytes: self.batch.len() as u64, records: RECORDS as u64 })
    }
}
