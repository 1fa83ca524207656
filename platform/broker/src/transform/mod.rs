//! Transforms: which ones run here, kept in step with the catalog.
//!
//! One task for each input partition that this broker leads. Delivery is at least once: progress is stored after the
//! outputs are committed, so a crash between the two repeats the records in between. Each output record names its
//! input in the header `millstream.src`, by which a reader can tell.

mod backoff;
mod error;
mod output;
mod pace;
mod progress;
mod task;
mod telling;

pub(crate) use self::{error::ProgressError, progress::begin};

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use futures::FutureExt;
use millstream_catalog::{Command, RecordAt, Reporter, Transform, TransformState};
use millstream_env::Task;
use millstream_model::{LeaderEpoch, Offset, PartitionId, TopicId, TransformId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, info};

use crate::shared::Shared;

/// The transforms at work on this broker.
pub(crate) struct Transforms {
    /// The metadata's last entry as the broker started.
    started_at: u64,
    running: Mutex<HashMap<TransformId, Running>>,
    /// What the tasks of transforms that stand still had done.
    stopped: Mutex<HashMap<TransformId, StatsByInput>>,
    /// What those had done that are gone.
    gone: Mutex<TransformCounts>,
    step: tokio::sync::Mutex<()>,
}

type StatsByInput = HashMap<(TopicId, PartitionId), Arc<Stats>>;
/// An input partition, what was done for it, and the offset to go on from.
type InputCounts = ((TopicId, PartitionId), TransformCounts, Offset);

/// What a transform has done since the broker was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransformCounts {
    /// Records that it has gone through.
    pub records_in: u64,
    /// Records that it has appended.
    pub records_out: u64,
    /// Records that failed, each time.
    pub errors: u64,
    /// Records that it has left out.
    pub left_out: u64,
}

impl std::ops::AddAssign for TransformCounts {
    fn add_assign(&mut self, other: Self) {
        self.records_in += other.records_in;
        self.records_out += other.records_out;
        self.errors += other.errors;
        self.left_out += other.left_out;
    }
}

struct Running {
    name: String,
    revision: u64,
    inputs: HashMap<(TopicId, PartitionId), Input>,
}

/// An input partition's task.
struct Input {
    /// The leadership that the task appends its progress under.
    epoch: LeaderEpoch,
    stats: Arc<Stats>,
    task: Task,
}

/// What one input partition's tasks have done, each going on where the last one was stopped.
#[derive(Default)]
pub(crate) struct Stats {
    /// Whether it is decided, durably, where the task begins; or the task was stopped.
    placed: watch::Sender<bool>,
    pub(crate) next_offset: AtomicI64,
    pub(crate) records_in: AtomicI64,
    pub(crate) records_out: AtomicI64,
    pub(crate) errors: AtomicI64,
    pub(crate) left_out: AtomicI64,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    stands_still: Option<String>,
    failed: Option<String>,
}

impl Stats {
    fn add(counter: &AtomicI64, count: usize) {
        counter.fetch_add(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// It waits for something to pass.
    fn stands_still(&self, why: String) {
        self.trouble.lock().stands_still = Some(why);
    }

    fn goes_on(&self) {
        self.trouble.lock().stands_still = None;
    }

    /// A record failed.
    fn has_failed(&self, why: String) {
        Self::add(&self.errors, 1);
        self.trouble.lock().failed = Some(why);
    }

    /// Goes on counting where the task before was stopped.
    fn go_on_from(&self, before: &Self) {
        let counters = |stats: &'_ Self| {
            [&stats.records_in, &stats.records_out, &stats.errors, &stats.left_out]
                .map(|counter| counter.load(Ordering::Relaxed))
        };
        let [records_in, records_out, errors, left_out] = counters(before);
        self.records_in.store(records_in, Ordering::Relaxed);
        self.records_out.store(records_out, Ordering::Relaxed);
        self.errors.store(errors, Ordering::Relaxed);
        self.left_out.store(left_out, Ordering::Relaxed);
    }

    fn counts(&self) -> TransformCounts {
        let count = |counter: &AtomicI64| u64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(0);
        TransformCounts {
            records_in: count(&self.records_in),
            records_out: count(&self.records_out),
            errors: count(&self.errors),
            left_out: count(&self.left_out),
        }
    }

    /// Why it stands still, else which record failed last.
    pub(crate) fn error(&self) -> Option<String> {
        let trouble = self.trouble.lock();
        trouble.stands_still.clone().or_else(|| trouble.failed.clone())
    }
}

impl Transforms {
    /// `started_at`: the metadata's last entry now, as the broker starts.
    pub(crate) fn new(started_at: u64) -> Self {
        let (running, stopped, gone, step) = Default::default();
        Self { started_at, running, stopped, gone, step }
    }

    /// Whether a transform was told to run before the broker was started: then it has begun everywhere, unless the broker ended just
    /// then.
    fn has_run_before(&self, transform: &Transform) -> bool {
        transform.revision <= self.started_at
    }

    /// Starts what the catalog says should run and does not, and stops what should not. When this returns, what is stopped
    /// appends nothing more. Starts nothing once the broker stops.
    ///
    /// Dropping it half-way leaves tasks that were told to stop, and lets a later call start their successors before they
    /// have: run it in a task that nobody ends.
    pub(crate) async fn follow(&self, shared: &Arc<Shared>) {
        let _step = self.step.lock().await;
        let state = shared.catalog.state();
        let wanted: HashMap<_, _> = state
            .transforms
            .values()
            .filter(|transform| transform.state == TransformState::Running && !shared.stop.is_cancelled())
            .map(|transform| (transform.id, transform.clone()))
            .collect();
        let mut stopped = Vec::new();
        self.running.lock().retain(|id, running| {
            let stays = wanted.get(id).is_some_and(|wanted| wanted.revision == running.revision);
            if !stays {
                info!(transform = running.name, "stopped");
                // The statistics are kept, and whoever waits for the start would wait on.
                for input in running.inputs.values() {
                    input.stats.placed.send_replace(true);
                }
                let stats = running.inputs.iter().map(|(place, input)| (*place, input.stats.clone()));
                self.stopped.lock().insert(*id, stats.collect());
                stopped.extend(running.inputs.drain().map(|(_, input)| input.task));
                return false;
            }
            // A task of a former leadership could store no more progress: another one takes over.
            let epoch_of = |(topic, partition)| shared.partitions.find(topic, partition).map(|led| led.epoch);
            let over = running.inputs.extract_if(|place, input| epoch_of(*place) != Some(input.epoch));
            stopped.extend(over.map(|(_, input)| input.task));
            true
        });
        end(stopped).await;
        for transform in wanted.values() {
            self.start_missing(shared, transform);
        }
        let mut stopped = self.stopped.lock();
        let over = |id: &TransformId| wanted.contains_key(id) || state.transform_by_id(*id).is_none();
        for (id, stats) in stopped.extract_if(|id, _| over(id)) {
            // Those that run again go on counting.
            if !wanted.contains_key(&id) {
                let mut gone = self.gone.lock();
                stats.values().for_each(|stats| *gone += stats.counts());
            }
        }
    }

    /// Starts a task for each input partition that this broker leads and that has none yet.
    fn start_missing(&self, shared: &Arc<Shared>, transform: &Arc<Transform>) {
        let state = shared.catalog.state();
        let mut running = self.running.lock();
        let stopped = self.stopped.lock();
        let running = running.entry(transform.id).or_insert_with(|| Running {
            name: transform.name.to_string(),
            revision: transform.revision,
            inputs: HashMap::new(),
        });
        let before = running.inputs.len();
        for (number, input) in (0..).zip(&transform.inputs) {
            let Some(topic) = state.topic_by_id(*input) else { continue };
            for index in (0..topic.partition_count()).map(PartitionId) {
                let Some(partition) = shared.partitions.find(*input, index) else { continue };
                let Entry::Vacant(place) = running.inputs.entry((*input, index)) else { continue };
                let (epoch, stats) = (partition.epoch, Arc::new(Stats::default()));
                if let Some(before) = stopped.get(&transform.id).and_then(|before| before.get(&(*input, index))) {
                    stats.go_on_from(before);
                }
                let (transform, input, stats_of_task) = (transform.clone(), topic.clone(), stats.clone());
                let work = task::Work { transform, number, input, partition, stats: stats_of_task };
                let task = shared.env.spawn.spawn("transform", watched(shared.clone(), work).boxed());
                place.insert(Input { epoch, stats, task });
            }
        }
        // One line for all of them: a topic may have thousands.
        if running.inputs.len() > before {
            info!(transform = %transform.name, partitions = running.inputs.len(), "runs");
        }
    }

    /// Resolves once it is decided for every input partition, durably, where the transform begins there; or the transform
    /// runs no more.
    pub(crate) async fn placed(&self, transform: TransformId) {
        let placed: Vec<_> = {
            let running = self.running.lock();
            let inputs = running.get(&transform).into_iter().flat_map(|running| running.inputs.values());
            inputs.map(|input| input.stats.placed.subscribe()).collect()
        };
        for mut placed in placed {
            // The sender goes with the task's statistics when the partition is led anew.
            let _ = placed.wait_for(|placed| *placed).await;
        }
    }

    /// Why a task of a transform that runs stands still, if one does.
    pub(crate) fn trouble(&self, transform: TransformId) -> Option<String> {
        self.running.lock().get(&transform)?.inputs.values().find_map(|input| input.stats.error())
    }

    /// What was done for each input partition and where it goes on, by transform, as far as tasks ran since the broker was started;
    /// and what those transforms had done that are gone.
    pub(crate) fn counts(&self) -> (HashMap<TransformId, Vec<InputCounts>>, TransformCounts) {
        let counts = |(place, stats): (&(TopicId, PartitionId), &Stats)| {
            (*place, stats.counts(), Offset(stats.next_offset.load(Ordering::Relaxed)))
        };
        let running = self.running.lock();
        let stopped = self.stopped.lock();
        let of_stopped = stopped
            .iter()
            .map(|(id, inputs)| (*id, inputs.iter().map(|(place, stats)| counts((place, &**stats))).collect()));
        let of_running = running.iter().map(|(id, running)| {
            (*id, running.inputs.iter().map(|(place, input)| counts((place, &*input.stats))).collect())
        });
        // Those that were started again just now are still in both: what runs goes on counting.
        (of_stopped.chain(of_running).collect(), *self.gone.lock())
    }

    /// What the task of an input partition has done, also when it was stopped since; none where none ran since the broker was
    /// started.
    pub(crate) fn stats(&self, transform: TransformId, topic: TopicId, partition: PartitionId) -> Option<Arc<Stats>> {
        let place = (topic, partition);
        if let Some(running) = self.running.lock().get(&transform) {
            return running.inputs.get(&place).map(|input| input.stats.clone());
        }
        self.stopped.lock().get(&transform)?.get(&place).cloned()
    }

    /// Stops all, and waits for them. For good, if the broker is known to stop.
    pub(crate) async fn stop(&self) {
        let _step = self.step.lock().await;
        let all: Vec<_> = self.running.lock().drain().collect();
        end(all.into_iter().flat_map(|(_, running)| running.inputs).map(|(_, input)| input.task).collect()).await;
    }
}

/// Ends tasks: all at once, then waits for each.
async fn end(mut tasks: Vec<Task>) {
    tasks.iter_mut().for_each(Task::abort);
    for task in tasks {
        task.join().await;
    }
}

/// Runs a task; what ends it, its own fault included, ends the transform and is shown.
async fn watched(shared: Arc<Shared>, work: task::Work) {
    let transform = work.transform.clone();
    let place = format!("{}/{}", work.input.name, work.partition.id.partition);
    let (reason, record) = match AssertUnwindSafe(task::run(&shared, work)).catch_unwind().await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => (error.to_string(), error.record()),
        Err(_) => {
            let panic =
                "the broker itself is at fault: its log holds a panic; report it, then `millstream transform resume`";
            (panic.to_owned(), None)
        }
    };
    fail(&shared, &transform, format!("{place}: {reason}"), record).await;
}

/// Stops a transform for everybody, and lets everybody see why.
async fn fail(shared: &Shared, transform: &Transform, reason: String, record: Option<RecordAt>) {
    error!(transform = %transform.name, reason, "the transform has stopped");
    let state = shared.catalog.state();
    let reporter =
        state.brokers.get(&shared.options.id).map(|broker| Reporter { broker: broker.id, epoch: broker.epoch });
    let command = Command::SetTransformState {
        id: transform.id,
        revision: transform.revision,
        reporter,
        state: TransformState::Failed { message: reason, record },
    };
    if let Err(error) = shared.catalog.propose(command).await {
        // Another partition's task was first, or the transform was deleted meanwhile.
        info!(transform = %transform.name, %error, "the stop was not recorded");
    }
}

/// What a transform has stored of an input partition.
#[cfg(test)]
pub(crate) fn stored(
    shared: &Shared,
    transform: TransformId,
    topic: TopicId,
    partition: PartitionId,
) -> Option<Offset> {
    let partition = shared.partitions.find(topic, partition)?;
    progress::Progress::open(&shared.storage, 0, transform, partition).ok()?.load().ok()?
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use millstream_env::sim::World;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{TOPIC, start};

    /// One partition's first record may stop the transform before another's start is on disk. Who deploys it waited for that start.
    #[test]
    fn a_transform_that_is_stopped_before_all_of_it_has_started_is_waited_for_no_longer() {
        let world = World::new(1);
        let broker = start(&world);
        let shared = broker.shared();
        let id = TransformId(Uuid::from_u128(9));
        let stats = Arc::new(Stats::default());
        let task = shared.env.spawn.spawn("transform", std::future::pending().boxed());
        let input = Input { epoch: LeaderEpoch(0), stats: stats.clone(), task };
        stats.stands_still("the disk is full".into());
        let inputs = HashMap::from([((TOPIC, PartitionId(0)), input)]);
        shared.transforms.running.lock().insert(id, Running { name: "t".into(), revision: 0, inputs });
        assert_eq!(shared.transforms.trouble(id).as_deref(), Some("the disk is full"));
        let mut placed = pin!(shared.transforms.placed(id));
        assert!((&mut placed).now_or_never().is_none(), "it has not started");
        // The catalog does not want it to run.
        world.run_until(shared.transforms.follow(shared));
        assert!(placed.now_or_never().is_some(), "it never will");
        assert_eq!(shared.transforms.trouble(id), None);
    }
}
