//! One input partition's task: read, call, append, remember.
//!
//! A step reads a stretch of the input and unpacks it batch by batch, calls the module with a frame's worth at a time, and
//! ends when the stretch is done, when enough output has gathered, or after a while: then the outputs are committed and the
//! first record that is not done is remembered, be it in the middle of a batch. So the memory of a step is bounded whatever
//! the input holds, and no transform keeps the others waiting for theirs.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use millstream_catalog::{OnError, RecordAt, StartAt, State, Topic, Transform};
use millstream_env::Monotonic;
use millstream_model::{Offset, TimestampMs};
use millstream_record::batches;
use millstream_wasm::{
    Freshness, Pool,
    frame::{FrameOptions, InputFrame, OutputRules},
};
use tracing::{debug, warn};

use super::{
    Stats,
    backoff::Backoff,
    error::{ProgressError, TransformError, is_about_the_module},
    output::{NotTaken, Outputs},
    pace::Pace,
    progress::Progress,
    telling::Telling,
};
use crate::{
    partition::Partition,
    pools::Use,
    rows::{self, Room, Row, RowsError},
    shared::Shared,
};

/// How much input is read for one step, bytes.
const READ_BYTES: usize = 512 << 10;
/// How long a step may hold memory that others wait for; the call under way is finished first.
const STEP_MAX: Duration = Duration::from_secs(1);

/// What a task works on.
pub(super) struct Work {
    pub(super) transform: Arc<Transform>,
    /// The input's number, as the module counts.
    pub(super) number: u32,
    pub(super) input: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
    pub(super) stats: Arc<Stats>,
}

/// Runs until it is aborted, or returns why the transform must stop. What may pass by itself is waited for.
pub(super) async fn run(shared: &Arc<Shared>, work: Work) -> Result<(), TransformError> {
    let mut backoff = Backoff::for_faults();
    let mut task = loop {
        match Task::open(shared, &work).await {
            Ok(task) => break task,
            Err(error) => again_later(shared, &work, error, &mut backoff).await?,
        }
    };
    debug!(transform = %work.transform.name, place = task.place, next = %task.stored, "running");
    let mut high_watermark = work.partition.subscribe();
    loop {
        let next = task.stored;
        // The sender lives as long as the partition.
        let _ = high_watermark.wait_for(|end| *end > next).await;
        match task.step(shared).await {
            Ok(()) => work.stats.goes_on(),
            Err(error) => again_later(shared, &work, error, &mut backoff).await?,
        }
        if task.stored > next {
            backoff.reset();
        }
        if let Some(wait) = task.pace.take_wait() {
            shared.env.clock.sleep(wait).await;
        }
    }
}

/// Waits and shows why, unless waiting is of no use.
async fn again_later(
    shared: &Shared,
    work: &Work,
    error: TransformError,
    backoff: &mut Backoff,
) -> Result<(), TransformError> {
    if !error.is_retriable() {
        return Err(error);
    }
    warn!(transform = %work.transform.name, partition = %work.partition.id.partition, %error, "trying again");
    work.stats.stands_still(error.to_string());
    backoff.wait(&*shared.env.clock).await;
    Ok(())
}

struct Task<'a> {
    work: &'a Work,
    /// `TOPIC/PARTITION` of the input.
    place: String,
    progress: Progress,
    pool: Pool,
    /// What the pool was chosen by.
    state: Arc<State>,
    outputs: Outputs,
    rules: OutputRules,
    options: FrameOptions,
    pace: Pace,
    telling: Telling,
    /// Everything below is done, but not stored.
    done: Offset,
    /// Records that were read since progress was stored.
    records: usize,
    /// Everything below is done, committed and stored.
    stored: Offset,
    room: Room,
}

impl<'a> Task<'a> {
    async fn open(shared: &Arc<Shared>, work: &'a Work) -> Result<Self, TransformError> {
        let Work { transform, number, input, partition, stats } = work;
        let index = partition.id.partition;
        let place = format!("{}/{index}", input.name);
        let progress = Progress::open(&shared.storage, shared.catalog.state_at().0, transform.id, partition.clone())?;
        let next = match progress.load()? {
            Some(next) => still_there(transform, partition, next),
            // Beginning anew would repeat all that was done.
            None if shared.transforms.has_run_before(transform) => {
                return Err(ProgressError::Gone { first: first_offset(transform, partition) }.into());
            }
            None => {
                let next = first_offset(transform, partition);
                // Written down before the deployment is acknowledged or anything done: "end" means the same end after a restart.
                let ticket = progress.store(next, TimestampMs(shared.env.clock.wall_ms()))?;
                ticket.await.map_err(ProgressError::from)?;
                next
            }
        };
        stats.next_offset.store(next.0, Ordering::Relaxed);
        stats.placed.send_replace(true);
        let state = shared.catalog.state();
        let pool = open_pool(shared, &state, transform).await?;
        let outputs = Outputs::open(shared, transform, &place, index).await?;
        Ok(Self {
            work,
            place,
            progress,
            pool,
            state,
            rules: OutputRules::transform(outputs.partition_counts()),
            outputs,
            options: FrameOptions { input: *number, partition: index, ..FrameOptions::default() },
            pace: Pace::new(),
            telling: Telling::default(),
            done: next,
            records: 0,
            stored: next,
            room: Room::FIRST,
        })
    }

    /// One step; see the file's head. After an error all that was done before the record at fault is committed, unless
    /// committing is what failed: then the step begins again.
    async fn step(&mut self, shared: &Arc<Shared>) -> Result<(), TransformError> {
        let processed = self.process(shared).await;
        if let Err(error) = self.commit(shared).await {
            self.outputs.clear();
            (self.done, self.records) = (self.stored, 0);
            return Err(error);
        }
        processed
    }

    async fn process(&mut self, shared: &Arc<Shared>) -> Result<(), TransformError> {
        let partition = &self.work.partition;
        let clock = &shared.env.clock;
        let held = shared.memory.unpack(self.room.bytes(READ_BYTES, partition.batch_bytes_max())).await;
        let started = clock.now();
        self.pass_over_deleted();
        let read = partition.read(self.done, READ_BYTES)?;
        let mut largest = 0;
        for batch in read.parts.into_iter().flat_map(batches) {
            let batch = batch.map_err(RowsError::from)?;
            let Some(mut unpacked) = self.room.unpack(&batch, self.done)? else { return Ok(()) };
            largest = largest.max(unpacked.bytes());
            loop {
                let rows = unpacked.next_rows()?;
                if rows.is_empty() {
                    break;
                }
                self.call_all(shared, &rows).await?;
                if self.outputs.is_full() || self.pace.must_wait() || clock.now() - started > STEP_MAX {
                    return Ok(());
                }
            }
            self.done = batch.header().end_offset();
        }
        self.room.fit(largest);
        drop(held);
        Ok(())
    }

    /// Goes on at the input's first record where those before it had their time before they were read.
    fn pass_over_deleted(&mut self) {
        let start = self.work.partition.log.start_offset();
        if start > self.done {
            let (transform, from) = (&self.work.transform, self.done);
            warn!(transform = %transform.name, place = self.place, %from, to = %start, "deleted before they were read");
            self.done = start;
        }
    }

    /// Has the module process these rows. Where a call fails, fewer go into the next, until the record at fault is alone: the
    /// others pass, and the policy decides about that one. Order is kept throughout. May end early, when it is time to
    /// commit or to wait: `done` says how far it came.
    async fn call_all(&mut self, shared: &Arc<Shared>, rows: &[Row]) -> Result<(), TransformError> {
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let count = self.pace.records(rest.len());
            let (count, frame) = rows::frame(&rest[..count], self.options).map_err(RowsError::from)?;
            match self.call(shared, &frame, &rest[..count]).await? {
                None => self.pace.succeeded(count),
                Some(_) if count > 1 => {
                    self.pace.failed(count);
                    continue;
                }
                Some(reason) => self.judge(first, reason, shared.env.clock.now())?,
            }
            self.done = rest[count - 1].offset.plus(1);
            self.records += count;
            rest = &rest[count..];
            if self.outputs.is_full() || self.pace.must_wait() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One call; why it failed, if it did and the records are to blame.
    async fn call(
        &mut self,
        shared: &Arc<Shared>,
        frame: &InputFrame,
        rows: &[Row],
    ) -> Result<Option<String>, TransformError> {
        let mut freshness = Freshness::Any;
        let state = shared.catalog.state();
        if !Arc::ptr_eq(&state, &self.state) {
            // A topic may take larger records by now, and this may be one; or have more partitions.
            self.pool = open_pool(shared, &state, &self.work.transform).await?;
            self.outputs.follow(shared).await?;
            self.rules = OutputRules::transform(self.outputs.partition_counts());
            self.state = state;
        }
        loop {
            let error = match self.pool.process(frame, &self.rules, freshness).await {
                Ok(emitted) => {
                    return match self.outputs.take(shared, &emitted, rows).await {
                        Ok(()) => Ok(None),
                        Err(NotTaken::Refused(reason)) => Ok(Some(reason)),
                        Err(NotTaken::Failed(error)) => Err(error),
                    };
                }
                Err(error) => error,
            };
            if error.is_retriable() || is_about_the_module(&error) {
                return Err(TransformError::Call(error));
            }
            // Only a new instance's failure is a verdict on a record: what earlier calls left behind has no part in it.
            if rows.len() > 1 || freshness == Freshness::Fresh {
                return Ok(Some(error.to_string()));
            }
            freshness = Freshness::Fresh;
        }
    }

    /// What the policy says about a record that cannot be processed.
    fn judge(&mut self, row: &Row, reason: String, now: Monotonic) -> Result<(), TransformError> {
        let Work { transform, input, partition, stats, .. } = self.work;
        let offset = row.offset;
        let at = RecordAt { topic: input.id, partition: partition.id.partition, offset };
        stats.has_failed(format!("the record at offset {offset}: {reason}"));
        let by_operator = transform.skips.contains(&at);
        match transform.on_error {
            OnError::Skip => {}
            _ if by_operator => {}
            // The others are refused when a transform is deployed.
            OnError::Fail | OnError::Retry | OnError::Dlq | OnError::ParkKey => {
                return Err(TransformError::Record { at, reason });
            }
        }
        if !self.pace.left_out() && !by_operator {
            return Err(TransformError::AllRecords { offset, reason });
        }
        Stats::add(&stats.left_out, 1);
        if let Some(others) = self.telling.turn(now) {
            let others = (others > 0).then_some(others);
            warn!(transform = %transform.name, place = self.place, %offset, reason, others, "a record is left out");
        }
        Ok(())
    }

    /// Commits the outputs of all that is done, then remembers that it is.
    async fn commit(&mut self, shared: &Arc<Shared>) -> Result<(), TransformError> {
        if self.done == self.stored {
            return Ok(());
        }
        let stats = &self.work.stats;
        let written = self.outputs.commit(shared, stats).await?;
        // The outputs are there: they are not written again because their progress cannot be stored at once.
        let mut backoff = Backoff::for_faults();
        loop {
            shared.storage.writable().await;
            match self.progress.store(self.done, TimestampMs(shared.env.clock.wall_ms())) {
                Ok(ticket) => {
                    drop(ticket);
                    break;
                }
                Err(error) if error.is_retriable() => {
                    stats.stands_still(format!("its progress: {error}"));
                    backoff.wait(&*shared.env.clock).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Stats::add(&stats.records_in, std::mem::take(&mut self.records));
        Stats::add(&stats.records_out, written);
        self.stored = self.done;
        stats.next_offset.store(self.stored.0, Ordering::Relaxed);
        Ok(())
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

/// Progress is on disk at once; the records of a topic in durability `replicated` are not. Where a power cut took some that
/// were transformed, others get their offsets, and those must not be passed over.
fn still_there(transform: &Transform, partition: &Partition, next: Offset) -> Offset {
    let end = partition.high_watermark();
    let is_waited_for = transform.from == StartAt::Offset(next);
    if next <= end || is_waited_for {
        return next;
    }
    warn!(transform = %transform.name, partition = %partition.id.partition, %next, %end, "the input has lost records");
    end
}

async fn open_pool(shared: &Shared, state: &State, transform: &Transform) -> Result<Pool, TransformError> {
    let pool = shared.modules.pool(state, Use::transform(state, transform)).await;
    pool.map_err(|error| TransformError::Module { module: transform.module.clone(), error })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_catalog::TransformState;
    use millstream_env::sim::World;
    use millstream_model::{Name, PartitionId, TransformId};
    use uuid::Uuid;

    use super::*;
    use crate::testing;

    /// It began anew without a word, and repeated all that it had done.
    #[test]
    fn a_transform_whose_progress_has_gone_stops_and_says_what_to_do() {
        let world = World::new(1);
        let broker = testing::start(&world);
        world.run_until(testing::create(&broker, 1));
        let shared = broker.shared();
        let partition = shared.partitions.find(testing::TOPIC, PartitionId(0)).unwrap();
        let topic = partition.topic().clone();
        let run = |revision| {
            let transform = Transform {
                id: TransformId(Uuid::from_u128(9)),
                name: Name::new("upper").unwrap(),
                // Nobody has it: that is found once it is known where to begin.
                module: "none@1".parse().unwrap(),
                inputs: vec![testing::TOPIC],
                outputs: vec![testing::TOPIC],
                params: BTreeMap::new(),
                on_error: OnError::Fail,
                from: StartAt::Beginning,
                lanes: 1,
                state: TransformState::Running,
                revision,
                skips: Default::default(),
                deployed_by: 0,
                deployed_at: TimestampMs(0),
            };
            let (transform, input) = (Arc::new(transform), topic.clone());
            let work = Work { transform, number: 0, input, partition: partition.clone(), stats: Arc::default() };
            world.run_until(run(shared, work)).unwrap_err()
        };
        let error = run(0);
        assert!(matches!(error, TransformError::Progress(ProgressError::Gone { .. })), "{error}");
        assert!(error.to_string().contains("`millstream transform resume`"), "{error}");
        // Nothing was written down by that.
        assert!(matches!(run(0), TransformError::Progress(ProgressError::Gone { .. })));
        // It is deployed, or resumed, now; and goes on from there, whenever that was.
        for revision in [u64::MAX, 0] {
            let error = run(revision);
            assert!(matches!(error, TransformError::Module { .. }), "{error}");
        }
        testing::stop(&world, broker);
    }
}
