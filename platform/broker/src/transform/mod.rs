//! Transforms: which ones run here, kept in step with the catalog.
//!
//! One task for each input partition that this broker leads. Delivery is at least once: progress is stored after the
//! outputs are committed, so a crash between the two repeats the records in between. Each output record names its
//! input in the header `millstream.src`, by which a reader can tell.

mod output;
mod progress;
mod task;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use futures::FutureExt;
use millstream_catalog::{Command, Reporter, Transform, TransformState};
use millstream_env::Task;
use millstream_model::{PartitionId, TopicId, TransformId};
use parking_lot::Mutex;
use tracing::{error, info};

use crate::shared::Shared;

/// The transforms at work on this broker.
pub(crate) struct Transforms {
    running: Mutex<HashMap<TransformId, Running>>,
    step: tokio::sync::Mutex<()>,
}

struct Running {
    name: String,
    revision: u64,
    partitions: HashMap<(TopicId, PartitionId), Arc<Stats>>,
    tasks: Vec<Task>,
}

/// What one input partition's task has done since it started.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) next_offset: AtomicI64,
    pub(crate) records_in: AtomicI64,
    pub(crate) records_out: AtomicI64,
    pub(crate) errors: AtomicI64,
    /// Why it stands still or left a record out, last.
    pub(crate) error: Mutex<Option<String>>,
}

impl Stats {
    pub(crate) fn add(counter: &AtomicI64, count: usize) {
        counter.fetch_add(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Transforms {
    pub(crate) fn new() -> Self {
        Self { running: Mutex::default(), step: tokio::sync::Mutex::default() }
    }

    /// Starts what the catalog says should run and does not, and stops what should not.
    pub(crate) async fn follow(&self, shared: &Arc<Shared>) {
        let _step = self.step.lock().await;
        let state = shared.catalog.state();
        let wanted: HashMap<_, _> = state
            .transforms
            .values()
            .filter(|transform| transform.state == TransformState::Running)
            .map(|transform| (transform.id, transform.clone()))
            .collect();
        let stopped: Vec<_> = {
            let mut running = self.running.lock();
            let gone: Vec<_> = running
                .iter()
                .filter(|(id, running)| wanted.get(id).is_none_or(|wanted| wanted.revision != running.revision))
                .map(|(id, _)| *id)
                .collect();
            gone.into_iter().filter_map(|id| running.remove(&id)).collect()
        };
        for running in stopped {
            info!(transform = running.name, "stopped");
            end(running).await;
        }
        for transform in wanted.values() {
            self.start_missing(shared, transform);
        }
    }

    /// Starts a task for each input partition that this broker leads and that has none yet.
    fn start_missing(&self, shared: &Arc<Shared>, transform: &Arc<Transform>) {
        let state = shared.catalog.state();
        let mut running = self.running.lock();
        let running = running.entry(transform.id).or_insert_with(|| Running {
            name: transform.name.to_string(),
            revision: transform.revision,
            partitions: HashMap::new(),
            tasks: Vec::new(),
        });
        for (number, input) in (0..).zip(&transform.inputs) {
            let Some(topic) = state.topic_by_id(*input) else { continue };
            for index in 0..topic.partition_count() {
                let id = PartitionId(index);
                let Some(partition) = shared.partitions.find(*input, id) else { continue };
                if running.partitions.contains_key(&(*input, id)) {
                    continue;
                }
                let stats = Arc::new(Stats::default());
                running.partitions.insert((*input, id), stats.clone());
                let work = task::Work { transform: transform.clone(), number, input: topic.clone(), partition, stats };
                let shared_for_task = shared.clone();
                let task = async move {
                    let transform = work.transform.clone();
                    if let Err(reason) = task::run(&shared_for_task, work).await {
                        fail(&shared_for_task, &transform, reason).await;
                    }
                };
                running.tasks.push(shared.env.spawn.spawn("transform", task.boxed()));
            }
        }
    }

    /// What the task of an input partition has done; none where none runs here.
    pub(crate) fn stats(&self, transform: TransformId, topic: TopicId, partition: PartitionId) -> Option<Arc<Stats>> {
        self.running.lock().get(&transform)?.partitions.get(&(topic, partition)).cloned()
    }

    /// Stops all, and waits for them.
    pub(crate) async fn stop(&self) {
        let _step = self.step.lock().await;
        let all: Vec<_> = self.running.lock().drain().collect();
        for (_, running) in all {
            end(running).await;
        }
    }
}

async fn end(running: Running) {
    for mut task in running.tasks {
        task.abort();
        task.join().await;
    }
}

/// Stops a transform for everybody, and lets everybody see why.
async fn fail(shared: &Shared, transform: &Transform, reason: String) {
    error!(transform = %transform.name, reason, "the transform has stopped");
    let state = shared.catalog.state();
    let reporter =
        state.brokers.get(&shared.options.id).map(|broker| Reporter { broker: broker.id, epoch: broker.epoch });
    let message = reason.chars().take(1000).collect();
    let command = Command::SetTransformState {
        id: transform.id,
        revision: transform.revision,
        reporter,
        state: TransformState::Failed { message },
    };
    if let Err(error) = shared.catalog.propose(command).await {
        // Another partition's task was first, or the transform was deleted meanwhile.
        info!(transform = %transform.name, %error, "the stop was not recorded");
    }
}

/// Who owns the pools of a transform.
pub(crate) fn owner(name: &millstream_model::Name) -> String {
    format!("transform {name}")
}
