//! What a transform emits, on its way into the output topics: placed, batched, appended, committed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_catalog::{Topic, Transform};
use millstream_model::{PartitionId, TimestampMs, key_partition};
use millstream_protocol::ErrorCode;
use millstream_record::{BatchBuilder, BatchOptions};
use millstream_replica::Acks;
use millstream_wasm::frame::{Emitted, FrameBuilder, FrameOptions, OutputRecord};
use tracing::warn;

use crate::{errors::WireError, partition::PendingAppend, rows::Row, shared::Shared};

/// The header that names an output record's input: `TRANSFORM/TOPIC/PARTITION/OFFSET/INDEX`, the index counting that
/// input record's outputs to the same topic. A guest cannot forge it.
const SOURCE_HEADER: &str = "millstream.src";
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// The outputs of one input partition's task, between two commits.
pub(super) struct Outputs {
    /// `TRANSFORM/TOPIC/PARTITION`: how the source header begins.
    source: String,
    input_partition: PartitionId,
    topics: Vec<Arc<Topic>>,
    /// Not placed yet, by output: those go to the output topic's partitioner together.
    records: Vec<Vec<Record>>,
    /// By output: the input record that was emitted for last, and how many records it has there so far.
    last: Vec<Option<(i64, u32)>>,
}

/// An output record on its own.
struct Record {
    partition: Option<PartitionId>,
    timestamp: TimestampMs,
    key: Option<bytes::Bytes>,
    value: Option<bytes::Bytes>,
    headers: Vec<(bytes::Bytes, Option<bytes::Bytes>)>,
}

impl Outputs {
    pub(super) fn open(
        shared: &Shared,
        transform: &Transform,
        place: &str,
        input_partition: PartitionId,
    ) -> Result<Self, String> {
        let state = shared.catalog.state();
        let topics: Vec<_> = transform.outputs.iter().filter_map(|id| state.topic_by_id(*id)).cloned().collect();
        if topics.len() != transform.outputs.len() {
            return Err("an output topic has been deleted".into());
        }
        Ok(Self {
            source: format!("{}/{place}", transform.name),
            input_partition,
            records: topics.iter().map(|_| Vec::new()).collect(),
            last: vec![None; topics.len()],
            topics,
        })
    }

    /// How many partitions each output has.
    pub(super) fn partition_counts(&self) -> Vec<u32> {
        self.topics.iter().map(|topic| topic.partition_count().cast_unsigned()).collect()
    }

    /// Takes what a call emitted; `rows` begins with the call's records.
    pub(super) fn take(&mut self, emitted: &[Emitted], rows: &[Row]) -> Result<(), WireError> {
        for frame in emitted {
            for record in frame.records() {
                // The output and the source exist: the frame was checked against the rules.
                let Some(row) = rows.get(record.source() as usize) else { continue };
                let record = self.own(frame, record, row);
                self.records[frame.output as usize].push(record);
            }
        }
        Ok(())
    }

    fn own(&mut self, frame: &Emitted, record: OutputRecord<'_>, row: &Row) -> Record {
        let last = &mut self.last[frame.output as usize];
        let index = match *last {
            Some((offset, count)) if offset == row.offset.0 => count,
            _ => 0,
        };
        *last = Some((row.offset.0, index + 1));
        let share = |bytes: &[u8]| frame.bytes().slice_ref(bytes);
        let mut headers: Vec<_> = record
            .headers()
            .filter(|(name, _)| *name != SOURCE_HEADER)
            .map(|(name, value)| (share(name.as_bytes()), value.map(share)))
            .collect();
        let source = format!("{}/{}/{index}", self.source, row.offset);
        headers.push((SOURCE_HEADER.into(), Some(source.into())));
        // Output times derive from input: a record without one has its source's.
        let timestamp = if record.timestamp().0 < 0 { row.timestamp } else { record.timestamp() };
        Record {
            partition: record.partition(),
            timestamp,
            key: record.key().map(share),
            value: record.value().map(share),
            headers,
        }
    }

    /// Appends all that was taken and waits until it is committed; says how many records that were.
    pub(super) async fn commit(&mut self, shared: &Arc<Shared>) -> Result<usize, String> {
        let mut written = 0;
        let mut pending = Vec::new();
        for output in 0..self.topics.len() {
            let records = std::mem::take(&mut self.records[output]);
            if records.is_empty() {
                continue;
            }
            let topic = self.topics[output].clone();
            let name = topic.name.clone();
            written += records.len();
            let placed = self.place(shared, &topic, &records).await.map_err(|error| format!("{name}: {error}"))?;
            for (partition, batches) in batch(&records, &placed, topic.config.message_bytes_max)? {
                let appended = append(shared, &topic, partition, batches).await;
                pending.push(appended.map_err(|error| format!("output {name}/{partition}: {error}"))?);
            }
        }
        for (partition, pending) in pending {
            pending.commit.await.map_err(|error| error.to_string())?;
            partition.committed(pending.end_offset).await;
        }
        Ok(written)
    }

    /// Each record's partition: the module's choice, else that of the output topic's partitioner, else the key's hash; records
    /// without a key stay beside those of their input partition.
    async fn place(&self, shared: &Shared, topic: &Topic, records: &[Record]) -> Result<Vec<PartitionId>, String> {
        let count = topic.partition_count();
        let default = |record: &Record| match &record.key {
            Some(key) => key_partition(key, count),
            None => PartitionId(self.input_partition.0 % count),
        };
        let state = shared.catalog.state();
        let pool = shared.modules.partitioner(&state, topic).await.map_err(|error| error.message)?;
        let Some(pool) = pool else {
            return Ok(records.iter().map(|record| record.partition.unwrap_or_else(|| default(record))).collect());
        };
        let mut placed: Vec<_> = records.iter().map(|record| record.partition).collect();
        let mut open = Vec::new();
        let mut builder = FrameBuilder::new(FrameOptions::default());
        for (index, record) in (0..).zip(records) {
            if record.partition.is_some() {
                continue;
            }
            let headers: Vec<_> = record.headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
            builder
                .push(
                    millstream_model::Offset(index),
                    record.timestamp,
                    record.key.as_deref(),
                    record.value.as_deref(),
                    &headers,
                )
                .map_err(|error| error.to_string())?;
            open.push(index as usize);
        }
        if let Some(frame) = builder.take() {
            let assigned = pool.assign(&frame, count.cast_unsigned()).await.map_err(|error| error.to_string())?;
            for (index, partition) in open.into_iter().zip(assigned) {
                placed[index] = Some(if partition < 0 { default(&records[index]) } else { PartitionId(partition) });
            }
        }
        Ok(placed.into_iter().zip(records).map(|(placed, record)| placed.unwrap_or_else(|| default(record))).collect())
    }
}

type Batches = BTreeMap<PartitionId, Vec<bytes::Bytes>>;

/// The records in batches for their partitions, each in the order of the records and within the topic's limit.
fn batch(records: &[Record], placed: &[PartitionId], bytes_max: usize) -> Result<Batches, String> {
    let mut open: BTreeMap<PartitionId, BatchBuilder> = BTreeMap::new();
    let mut full = Batches::new();
    for (record, partition) in records.iter().zip(placed) {
        let headers = record.headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
        let size: usize = record.key.as_ref().map_or(0, bytes::Bytes::len)
            + record.value.as_ref().map_or(0, bytes::Bytes::len)
            + record.headers.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, bytes::Bytes::len) + 10).sum::<usize>()
            + 40;
        let builder = open.entry(*partition).or_insert_with(|| BatchBuilder::new(BatchOptions::default()));
        if !builder.is_empty() && builder.size_estimate() + size > bytes_max {
            let done = std::mem::replace(builder, BatchBuilder::new(BatchOptions::default()));
            full.entry(*partition).or_default().push(done.build().map_err(|error| error.to_string())?);
        }
        let delta = i32::try_from(builder.len()).unwrap_or(i32::MAX);
        builder
            .push_at(delta, record.timestamp, record.key.as_deref(), record.value.as_deref(), headers)
            .map_err(|error| error.to_string())?;
    }
    for (partition, builder) in open {
        full.entry(partition).or_default().push(builder.build().map_err(|error| error.to_string())?);
    }
    Ok(full)
}

type Appended = (Arc<crate::partition::Partition>, PendingAppend);

/// Appends, again and again while what is wrong may pass (a full disk, too few replicas).
async fn append(
    shared: &Shared,
    topic: &Topic,
    partition: PartitionId,
    batches: Vec<bytes::Bytes>,
) -> Result<Appended, String> {
    let mut wait = RETRY_FIRST;
    loop {
        let led = shared.partitions.find(topic.id, partition).ok_or("this broker does not lead it")?;
        if let Some(large) = batches.iter().find(|batch| batch.len() > led.batch_bytes_max) {
            return Err(format!("a record of {} bytes; max.message.bytes is {}", large.len(), led.batch_bytes_max));
        }
        shared.storage.writable().await;
        match led.append(batches.clone(), Acks::All) {
            Ok(pending) => return Ok((led, pending)),
            Err(error) => {
                let error = WireError::from(error);
                if !error.code.retriable() || error.code == ErrorCode::UnknownTopicOrPartition {
                    return Err(error.message);
                }
                warn!(topic = %topic.name, partition = partition.0, error = error.message, "trying again");
                shared.env.clock.sleep(wait).await;
                wait = (wait * 2).min(RETRY_LAST);
            }
        }
    }
}
