//! What a transform emits, on its way into the output topics: owned, placed, batched, appended, committed.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use millstream_catalog::{State, Topic, Transform};
use millstream_env::Share;
use millstream_model::{Offset, PartitionId, TimestampMs, TopicName, key_partition};
use millstream_record::{BatchBuilder, BatchOptions, BuildError, HEADER_BYTES, raw};
use millstream_replica::Acks;
use millstream_wasm::{
    Pool,
    frame::{Emitted, FrameBuilder, FrameOptions, OutputRecord},
};

use super::{
    Stats,
    backoff::Backoff,
    error::{TransformError, is_about_the_module},
};
use crate::{
    partition::{Partition, PartitionAppendError, PendingAppend},
    rows::{Row, plausible},
    shared::Shared,
};

/// The header that names an output record's input: `TRANSFORM/TOPIC/PARTITION/OFFSET/INDEX`, the index counting that
/// input record's outputs to the same topic. A guest cannot forge it.
const SOURCE_HEADER: &str = "millstream.src";
/// Outputs are written at the latest when they take this many bytes.
const COMMIT_BYTES: usize = 8 << 20;

/// The outputs of one input partition's task, between two commits.
pub(super) struct Outputs {
    /// `TRANSFORM/TOPIC/PARTITION`: how the source header begins.
    source: String,
    input_partition: PartitionId,
    /// As of this state.
    state: Arc<State>,
    /// What is taken is placed in the routing epochs of these.
    topics: Vec<Arc<Topic>>,
    /// Their partitioners, loaded: that may take long, and memory that others wait for is held while records are placed.
    partitioners: Vec<Option<Pool>>,
    /// By output, each with its place, in the order emitted.
    records: Vec<Vec<(PartitionId, Record)>>,
    bytes: usize,
    held: Vec<Share>,
    /// There is no more memory for outputs.
    crowded: bool,
    /// What was taken for this topic is not whole any more: nothing must be committed.
    broken: Option<TopicName>,
}

/// An output record on its own.
struct Record {
    partition: Option<PartitionId>,
    timestamp: TimestampMs,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(Bytes, Option<Bytes>)>,
    /// What it takes in a batch, at most.
    bytes: usize,
}

/// Why a call's output was not taken: none of it was.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// One of the records cannot be written: the records that the call was about are judged as when the call fails.
    Refused(String),
    /// It has nothing to do with the records.
    Failed(TransformError),
}

impl From<TransformError> for NotTaken {
    fn from(error: TransformError) -> Self {
        Self::Failed(error)
    }
}

impl Outputs {
    pub(super) async fn open(
        shared: &Shared,
        transform: &Transform,
        place: &str,
        input_partition: PartitionId,
    ) -> Result<Self, TransformError> {
        let state = shared.catalog.state();
        let topics: Vec<_> = transform.outputs.iter().filter_map(|id| state.topic_by_id(*id)).cloned().collect();
        if topics.len() != transform.outputs.len() {
            return Err(TransformError::OutputDeleted);
        }
        let partitioners = partitioners(shared, &state, &topics).await?;
        Ok(Self {
            source: format!("{}/{place}", transform.name),
            input_partition,
            records: topics.iter().map(|_| Vec::new()).collect(),
            state,
            topics,
            partitioners,
            bytes: 0,
            held: Vec::new(),
            crowded: false,
            broken: None,
        })
    }

    /// Takes the outputs as they are now: they may take larger records, have more partitions or another partitioner. What was taken and
    /// is not committed is placed anew where routing has changed. An output that is gone is found out by the append.
    ///
    /// # Errors
    /// What was taken may have been lost by that: then it cannot be committed.
    pub(super) async fn follow(&mut self, shared: &Shared) -> Result<(), TransformError> {
        let state = shared.catalog.state();
        if Arc::ptr_eq(&state, &self.state) {
            return Ok(());
        }
        let mut topics = self.topics.clone();
        for topic in &mut topics {
            if let Some(present) = state.topic_by_id(topic.id) {
                *topic = present.clone();
            }
        }
        let partitioners = partitioners(shared, &state, &topics).await?;
        let before = std::mem::replace(&mut self.topics, topics);
        (self.partitioners, self.state) = (partitioners, state);
        for (output, before) in before.iter().enumerate() {
            if before.routing_epoch != self.topics[output].routing_epoch {
                let records = std::mem::take(&mut self.records[output]);
                self.broken = Some(before.name.clone());
                self.records[output] = self.place_anew(output, records).await?;
                self.broken = None;
            }
        }
        Ok(())
    }

    async fn place_anew(
        &self,
        output: usize,
        records: Vec<(PartitionId, Record)>,
    ) -> Result<Vec<(PartitionId, Record)>, TransformError> {
        let records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
        let topic = &self.topics[output];
        let placed = self.place(topic, self.partitioners[output].as_ref(), &records).await;
        let placed = placed.map_err(|error| match error {
            NotTaken::Failed(error) => error,
            // Which one of them that is about is found when they are processed again.
            NotTaken::Refused(reason) => TransformError::Rerouted { topic: topic.name.clone(), reason },
        })?;
        Ok(placed.into_iter().zip(records).collect())
    }

    /// How many partitions each output has.
    pub(super) fn partition_counts(&self) -> Vec<u32> {
        self.topics.iter().map(|topic| topic.partition_count().cast_unsigned()).collect()
    }

    /// Whether it is time to commit.
    pub(super) fn is_full(&self) -> bool {
        self.crowded || self.bytes >= COMMIT_BYTES
    }

    /// Forgets what was not committed.
    pub(super) fn clear(&mut self) {
        self.records.iter_mut().for_each(Vec::clear);
        self.bytes = 0;
        self.held.clear();
        (self.crowded, self.broken) = (false, None);
    }

    /// Takes what a call about `rows` emitted, all of it or nothing.
    pub(super) async fn take(&mut self, shared: &Shared, emitted: &[Emitted], rows: &[Row]) -> Result<(), NotTaken> {
        self.follow(shared).await?;
        let mut taken: Vec<Vec<Record>> = self.topics.iter().map(|_| Vec::new()).collect();
        // By output: the row that was emitted for last, and how many records it has there so far.
        let mut last = vec![(0, 0); self.topics.len()];
        for frame in emitted {
            let output = frame.output as usize;
            let topic = &self.topics[output];
            for record in frame.records() {
                // The output and the source exist: the frame was checked against the rules.
                let Some(row) = rows.get(record.source() as usize) else { continue };
                let (source, index) = &mut last[output];
                if *source != record.source() {
                    (*source, *index) = (record.source(), 0);
                }
                let source = format!("{}/{}/{index}", self.source, row.offset);
                *index += 1;
                let record = Record::new(frame, record, row, source);
                let (bytes, max) = (HEADER_BYTES + record.bytes_with(0, 0), topic.config.message_bytes_max);
                if bytes > max {
                    let name = &topic.name;
                    let what =
                        format!("output {name}: a record of {bytes} bytes; the topic's max.message.bytes is {max}");
                    return Err(NotTaken::Refused(what));
                }
                taken[output].push(record);
            }
        }
        let mut placed = Vec::with_capacity(taken.len());
        for ((topic, partitioner), records) in self.topics.iter().zip(&self.partitioners).zip(&taken) {
            placed.push(self.place(topic, partitioner.as_ref(), records).await?);
        }
        for (records, (taken, placed)) in self.records.iter_mut().zip(taken.into_iter().zip(placed)) {
            self.bytes += taken.iter().map(|record| record.bytes).sum::<usize>();
            records.extend(placed.into_iter().zip(taken));
        }
        match shared.memory.emit(emitted.iter().map(|frame| frame.bytes().len()).sum()) {
            Some(held) => self.held.push(held),
            None => self.crowded = true,
        }
        Ok(())
    }

    /// Each record's partition: the module's choice, else that of the output topic's partitioner, else the key's hash; records
    /// without a key stay beside those of their input partition.
    async fn place(
        &self,
        topic: &Topic,
        partitioner: Option<&Pool>,
        records: &[Record],
    ) -> Result<Vec<PartitionId>, NotTaken> {
        let count = topic.routed_partitions();
        let mut placed: Vec<_> = records
            .iter()
            .map(|record| match (record.partition, &record.key) {
                (Some(chosen), _) => chosen,
                (None, Some(key)) => key_partition(key, count),
                (None, None) => PartitionId(self.input_partition.0 % count),
            })
            .collect();
        let open: Vec<usize> = (0..records.len()).filter(|index| records[*index].partition.is_none()).collect();
        let Some(pool) = partitioner else { return Ok(placed) };
        let needs = pool.factory().declarations().needs;
        let options =
            FrameOptions { elide_values: !needs.values, elide_headers: !needs.headers, ..FrameOptions::default() };
        let mut builder = FrameBuilder::new(options);
        let mut asked = 0;
        for (at, index) in open.iter().enumerate() {
            let record = &records[*index];
            let headers: Vec<_> = record.headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            // Offsets are not given yet; the position stands for them.
            let offset = Offset(at as i64);
            let pushed = builder.push(offset, record.timestamp, key, value, &headers);
            pushed.map_err(|source| TransformError::Frame { topic: topic.name.clone(), source })?;
            let next = open.get(at + 1).map(|next| records[*next].shown_bytes(needs.values, needs.headers));
            if next.is_none_or(|next| builder.is_full(next)) {
                let chosen = assign(pool, topic, &mut builder).await?;
                for (index, chosen) in open[asked..=at].iter().zip(chosen) {
                    if chosen >= 0 {
                        placed[*index] = PartitionId(chosen);
                    }
                }
                asked = at + 1;
            }
        }
        Ok(placed)
    }

    /// Appends all that was taken and waits until it is committed; says how many records that were. What may pass is waited
    /// for; after an error nothing is known of what was taken, and it is forgotten.
    pub(super) async fn commit(&mut self, shared: &Arc<Shared>, stats: &Stats) -> Result<usize, TransformError> {
        if let Some(topic) = self.broken.clone() {
            return Err(TransformError::Rerouted { topic, reason: "they were given up".into() });
        }
        let mut written = 0;
        let mut pending = Vec::new();
        for output in 0..self.topics.len() {
            let mut records = std::mem::take(&mut self.records[output]);
            written += records.len();
            while !records.is_empty() {
                let stale = self.append(shared, output, &records, stats, &mut pending).await?;
                records.retain(|(partition, _)| stale.contains(partition));
                if !records.is_empty() {
                    records = self.reroute(shared, output, records, stats).await?;
                }
            }
        }
        for (partition, pending) in pending {
            pending.commit.await?;
            partition.committed(pending.end_offset).await;
        }
        self.clear();
        Ok(written)
    }

    /// Appends records of one output. Gives the partitions that take none of theirs, since they were placed in a routing epoch that is over.
    async fn append(
        &self,
        shared: &Shared,
        output: usize,
        records: &[(PartitionId, Record)],
        stats: &Stats,
        pending: &mut Vec<(Arc<Partition>, PendingAppend)>,
    ) -> Result<Vec<PartitionId>, TransformError> {
        let (topic, mut stale) = (&self.topics[output], Vec::new());
        let batches = batches(records, topic.config.message_bytes_max)
            .map_err(|source| TransformError::Build { topic: topic.name.clone(), source })?;
        for (partition, batches) in batches {
            match append(shared, topic, partition, batches, stats).await {
                Ok(appended) => pending.push(appended),
                Err(PartitionAppendError::StaleRouting { .. }) => stale.push(partition),
                Err(source) => return Err(TransformError::Append { topic: topic.name.clone(), source }),
            }
        }
        Ok(stale)
    }

    /// Waits until the output's next routing epoch is in force, and places records in it.
    async fn reroute(
        &mut self,
        shared: &Shared,
        output: usize,
        records: Vec<(PartitionId, Record)>,
        stats: &Stats,
    ) -> Result<Vec<(PartitionId, Record)>, TransformError> {
        let (topic, mut backoff) = (self.topics[output].clone(), Backoff::for_faults());
        loop {
            self.follow(shared).await?;
            if self.state.topic_by_id(topic.id).is_none() {
                return Err(TransformError::OutputDeleted);
            }
            if self.topics[output].routing_epoch > topic.routing_epoch {
                break;
            }
            stats.stands_still(format!("output {}: it is being routed anew", topic.name));
            backoff.wait(&*shared.env.clock).await;
        }
        self.place_anew(output, records).await
    }
}

impl Record {
    fn new(frame: &Emitted, record: OutputRecord<'_>, row: &Row, source: String) -> Self {
        let share = |bytes: &[u8]| frame.bytes().slice_ref(bytes);
        let mut headers: Vec<_> = record
            .headers()
            .filter(|(name, _)| *name != SOURCE_HEADER)
            .map(|(name, value)| (share(name.as_bytes()), value.map(share)))
            .collect();
        headers.push((SOURCE_HEADER.into(), Some(source.into())));
        let (key, value) = (record.key().map(share), record.value().map(share));
        // Output times derive from input: a record without one has its source's, if that is one.
        let timestamp = if record.timestamp().0 < 0 { plausible(row.timestamp) } else { record.timestamp() };
        let mut owned = Self { partition: record.partition(), timestamp, key, value, headers, bytes: 0 };
        owned.bytes = owned.bytes_with(i64::MAX, i32::MAX);
        owned
    }

    fn bytes_with(&self, timestamp_delta: i64, offset_delta: i32) -> usize {
        let headers = self.headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
        raw::record_bytes(timestamp_delta, offset_delta, self.key.as_deref(), self.value.as_deref(), headers)
    }

    /// About what it takes in a partitioner's frame.
    fn shown_bytes(&self, values: bool, headers: bool) -> usize {
        let value = self.value.as_ref().filter(|_| values).map_or(0, Bytes::len);
        let of = |(name, value): &(Bytes, Option<Bytes>)| name.len() + value.as_ref().map_or(0, Bytes::len) + 10;
        let headers = if headers { self.headers.iter().map(of).sum() } else { 0 };
        self.key.as_ref().map_or(0, Bytes::len) + value + headers
    }
}

/// The outputs' partitioners, loaded.
async fn partitioners(
    shared: &Shared,
    state: &State,
    topics: &[Arc<Topic>],
) -> Result<Vec<Option<Pool>>, TransformError> {
    let mut partitioners = Vec::with_capacity(topics.len());
    for topic in topics {
        let pool = shared.modules.partitioner(state, topic).await;
        let no_pool = |error| TransformError::NoPartitioner { topic: topic.name.clone(), error };
        partitioners.push(pool.map_err(no_pool)?);
    }
    Ok(partitioners)
}

async fn assign(pool: &Pool, topic: &Topic, builder: &mut FrameBuilder) -> Result<Vec<i32>, NotTaken> {
    let Some(frame) = builder.take() else { return Ok(Vec::new()) };
    pool.assign(&frame, topic.routed_partitions().cast_unsigned()).await.map_err(|source| {
        if source.is_retriable() || is_about_the_module(&source) {
            return NotTaken::Failed(TransformError::Partitioner { topic: topic.name.clone(), source });
        }
        NotTaken::Refused(format!("the partitioner of output {}: {source}", topic.name))
    })
}

type Batches = BTreeMap<PartitionId, Vec<Bytes>>;

/// The records in batches for their partitions, each in the order of the records and within the topic's limit.
fn batches(records: &[(PartitionId, Record)], bytes_max: usize) -> Result<Batches, BuildError> {
    let mut open: BTreeMap<PartitionId, BatchBuilder> = BTreeMap::new();
    let mut full = Batches::new();
    for (partition, record) in records {
        let builder = open.entry(*partition).or_insert_with(|| BatchBuilder::new(BatchOptions::default()));
        if !builder.is_empty() && builder.size_estimate() + record.bytes > bytes_max {
            let done = std::mem::replace(builder, BatchBuilder::new(BatchOptions::default()));
            full.entry(*partition).or_default().push(done.build()?);
        }
        let headers = record.headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
        let delta = i32::try_from(builder.len()).unwrap_or(i32::MAX);
        builder.push_at(delta, record.timestamp, record.key.as_deref(), record.value.as_deref(), headers)?;
    }
    for (partition, builder) in open {
        full.entry(partition).or_default().push(builder.build()?);
    }
    Ok(full)
}

/// Appends, again and again while what is wrong may pass (a full disk, too few replicas, no leader at the moment).
async fn append(
    shared: &Shared,
    topic: &Topic,
    partition: PartitionId,
    batches: Vec<Bytes>,
    stats: &Stats,
) -> Result<(Arc<Partition>, PendingAppend), PartitionAppendError> {
    let mut backoff = Backoff::for_faults();
    loop {
        shared.storage.writable().await;
        let wrong = match shared.partitions.find(topic.id, partition) {
            None => "this broker does not lead it".to_owned(),
            Some(led) => match led.append_routed(batches.clone(), Acks::All, topic.routing_epoch) {
                Ok(pending) => return Ok((led, pending)),
                Err(error) if super::error::append_again(&error) => error.to_string(),
                Err(error) => return Err(error),
            },
        };
        stats.stands_still(format!("output {}/{partition}: {wrong}", topic.name));
        backoff.wait(&*shared.env.clock).await;
    }
}

#[cfg(test)]
mod tests {
    use millstream_record::Batch;

    use super::*;

    fn record(key: u8, bytes: usize) -> Record {
        let value = Some(Bytes::from(vec![key; bytes]));
        let mut record =
            Record { partition: None, timestamp: TimestampMs(5), key: None, value, headers: Vec::new(), bytes: 0 };
        record.bytes = record.bytes_with(i64::MAX, i32::MAX);
        record
    }

    #[test]
    fn batches_keep_the_order_and_the_topics_limit() {
        let max = 1000;
        let records: Vec<_> = (0..50_u8).map(|at| (PartitionId(i32::from(at % 2)), record(at, 150))).collect();
        let batches = batches(&records, max).unwrap();
        for (partition, batches) in batches {
            assert!(batches.len() > 3 && batches.iter().all(|batch| batch.len() <= max));
            let read: Vec<u8> = batches
                .into_iter()
                .flat_map(|batch| Batch::parse_one(batch).unwrap().records(1 << 20).unwrap())
                .map(|record| record.unwrap().value.unwrap()[0])
                .collect();
            let expected: Vec<u8> = (0..50).filter(|at| i32::from(at % 2) == partition.0).collect();
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn the_largest_record_that_is_taken_fits_its_batch() {
        let record = record(0, 900);
        let max = HEADER_BYTES + record.bytes_with(0, 0);
        let batches = batches(&[(PartitionId(0), record)], max).unwrap();
        assert_eq!(batches[&PartitionId(0)][0].len(), max);
    }
}
