//! What a broker tells of itself in numbers: one snapshot, for whoever watches it.
//!
//! Counters are atomics that grow where things happen ([`counters`], [`traffic`], and those of the log and of modules); all else is
//! looked up when it is asked for. No lock is held for longer than it takes to read what is behind it, and no two at a time: the
//! snapshot is of no one moment, and nobody waits for it.
//!
//! Its size is bounded. What clients can make without end is told one by one up to a number, and only as a whole above it.

pub(crate) mod counters;
pub(crate) mod traffic;

use std::collections::{BTreeMap, HashMap};

use futures::FutureExt;
use millstream_catalog::{State, Topic, TransformState};
use millstream_env::Buckets;
use millstream_log::{JournalMetrics, LogMetrics, Stream};
use millstream_model::{BrokerId, PartitionId, TimestampMs, TopicId};
use millstream_wasm::{CallMetrics, RuntimeMetrics};

use crate::{Broker, shared::Shared, transform::TransformCounts};

/// Up to so many topics are told one by one.
pub const TOPICS_MAX: usize = 1000;
/// Up to so many partitions, if the topics are.
pub const PARTITIONS_MAX: usize = 2000;
/// Up to so many modules at work.
pub const MODULES_MAX: usize = 100;
/// Up to so many transforms.
pub const TRANSFORMS_MAX: usize = 200;

/// A broker in numbers. What is counted begins at 0 with the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Its number in its cluster.
    pub broker: BrokerId,
    /// The cluster's id.
    pub cluster: String,
    /// When it started.
    pub started_at: TimestampMs,
    /// Whether records may be sent to it: as [`Broker::readiness`] says.
    pub ready: bool,
    /// A write or a sync has failed: it stops by itself.
    pub failed: bool,
    /// The room that is set aside on the disk is not there: records and new topics are refused.
    pub disk_full: bool,
    /// By listener.
    pub connections: Vec<ConnectionMetrics>,
    /// What was asked.
    pub requests: RequestMetrics,
    /// Of all topics, those that are gone included.
    pub traffic: TrafficMetrics,
    /// By topic, in the order of their names; none where there are too many.
    pub topics: Vec<TopicMetrics>,
    /// Of all partitions that are led, offsets added up.
    pub offsets: OffsetMetrics,
    /// What the logs of those take on disk, bytes.
    pub topics_log_bytes: u64,
    /// Of all logs, those of transforms included.
    pub logs: LogTotals,
    /// The journal.
    pub journal: JournalMetrics,
    /// Open files of segments.
    pub segments_open: usize,
    /// Partitions that it leads and serves.
    pub partitions_led: usize,
    /// Partitions that it should lead, and whose logs are out of service.
    pub partitions_out_of_service: usize,
    /// What the cluster has agreed on, as far as it is applied.
    pub catalog: CatalogMetrics,
    /// What is bounded together, each.
    pub memory: Vec<MemoryMetrics>,
    /// Requests for old records that wait for leave to read.
    pub catch_up_waiting: usize,
    /// The module host.
    pub runtime: RuntimeMetrics,
    /// Modules at work, or that were since the start and can still be used; in order. None where there are too many.
    pub modules: Vec<ModuleMetrics>,
    /// Transforms, in order; none where there are too many.
    pub transforms: Vec<TransformMetrics>,
    /// Of all transforms, those that are gone included.
    pub transform_totals: TransformTotals,
    /// What is told as a whole only, there being too many.
    pub limited: Limited,
}

/// Connections of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionMetrics {
    /// `quic`, `tcp` or `tcp+tls`.
    pub transport: &'static str,
    /// Those that stand.
    pub open: u64,
    /// Those that were taken.
    pub accepted: u64,
    /// Those for which there was no place.
    pub refused: u64,
}

/// Requests.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    /// Each api's name, how often it was asked, and how many answers told of an error.
    pub by_api: Vec<(&'static str, u64, u64)>,
    /// How long Produce requests took, from when they were read until their answers were complete.
    pub produce: Buckets,
    /// The same of Fetch requests: those that wait for records take as long as they wait.
    pub fetch: Buckets,
    /// The same of all others.
    pub others: Buckets,
}

/// What came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficMetrics {
    /// Records that were appended, by producers and transforms.
    pub records_in: u64,
    /// The bytes of their batches, as stored.
    pub bytes_in: u64,
    /// Records in answers to Fetch requests: whole batches, also where their reader asked for the end of one.
    pub records_out: u64,
    /// The bytes of those.
    pub bytes_out: u64,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetrics {
    /// Its name.
    pub name: String,
    /// What came and went.
    pub traffic: TrafficMetrics,
    /// What its partitions' logs take on disk, bytes.
    pub log_bytes: u64,
    /// Of all its partitions that are led, added up.
    pub offsets: OffsetMetrics,
    /// Those partitions, by number; none where there are too many in all.
    pub partitions: Vec<(PartitionId, OffsetMetrics)>,
}

/// Where a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffsetMetrics {
    /// The first offset that can be read.
    pub start: i64,
    /// The offset that the next record gets.
    pub end: i64,
    /// The end of what consumers may read.
    pub high_watermark: i64,
}

/// All logs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTotals {
    /// Logs in service.
    pub logs: usize,
    /// What their batches take on disk.
    pub bytes: u64,
    /// Their segments.
    pub segments: usize,
}

/// The cluster's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogMetrics {
    /// The last entry of the agreed log that is applied.
    pub entry: u64,
    /// Topics.
    pub topics: usize,
    /// Partitions of topics.
    pub partitions: usize,
    /// Modules.
    pub modules: usize,
    /// Views.
    pub views: usize,
    /// Transforms that run, that are paused and that have failed.
    pub transforms: [(&'static str, usize); 3],
}

/// Memory that many share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMetrics {
    /// What it is for.
    pub purpose: &'static str,
    /// What is held, bytes.
    pub used: usize,
    /// What may be held, bytes.
    pub max: usize,
}

/// A module at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleMetrics {
    /// Its name and version.
    pub module: String,
    /// What its calls have come to, in all its uses.
    pub calls: CallMetrics,
}

/// A transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformMetrics {
    /// Its name.
    pub name: String,
    /// `running`, `paused` or `failed`.
    pub state: &'static str,
    /// What it has done here.
    pub counts: TransformCounts,
    /// Records that it has not come to, of all input partitions; none where that is not known: it has stood still since the start.
    pub lag: Option<u64>,
}

/// All transforms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransformTotals {
    /// What they have done here, those included that are gone.
    pub counts: TransformCounts,
    /// As far as it is known.
    pub lag: u64,
}

/// What is told as a whole only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// There are more than [`TOPICS_MAX`].
    pub topics: bool,
    /// There are more than [`PARTITIONS_MAX`], or too many topics.
    pub partitions: bool,
    /// More than [`MODULES_MAX`] are at work.
    pub modules: bool,
    /// There are more than [`TRANSFORMS_MAX`].
    pub transforms: bool,
}

/// Up to how many are told one by one.
struct Bounds {
    topics: usize,
    partitions: usize,
    modules: usize,
    transforms: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { topics: TOPICS_MAX, partitions: PARTITIONS_MAX, modules: MODULES_MAX, transforms: TRANSFORMS_MAX }
    }
}

impl OffsetMetrics {
    fn add(&mut self, other: Self) {
        // As large as they may be, a few of them do not fit.
        self.start = self.start.saturating_add(other.start);
        self.end = self.end.saturating_add(other.end);
        self.high_watermark = self.high_watermark.saturating_add(other.high_watermark);
    }
}

impl Broker {
    /// The broker in numbers, now. Looks at each log once, and asks the file system for its room: where there are thousands, keep it
    /// away from threads that others wait for.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics_within(&Bounds::default())
    }

    fn metrics_within(&self, bounds: &Bounds) -> Metrics {
        let shared = self.shared();
        let (entry, state) = shared.catalog.state_at();
        let (partitions_led, partitions_out_of_service) = shared.partitions.counts();
        let logs = shared.storage.log_metrics();
        let mut limited = Limited {
            topics: state.topics.len() > bounds.topics,
            partitions: state.topics.len() > bounds.topics || partitions_led > bounds.partitions,
            transforms: state.transforms.len() > bounds.transforms,
            modules: false,
        };
        let (topics, offsets, topics_log_bytes) = topics(shared, &state, &logs, limited);
        let modules = shared.modules.metrics();
        limited.modules = modules.len() > bounds.modules;
        let (transforms, transform_totals) = transforms(shared, &state);
        Metrics {
            broker: shared.options.id,
            cluster: state.cluster_id.to_string(),
            started_at: shared.started_at,
            ready: self.readiness().is_ok(),
            failed: self.failed().now_or_never().is_some(),
            disk_full: !shared.storage.has_room(0),
            connections: self.doors().iter().map(|door| door.metrics()).collect(),
            requests: shared.requests.metrics(),
            traffic: shared.partitions.traffic().all(),
            topics,
            offsets,
            topics_log_bytes,
            logs: totals(&logs),
            journal: shared.storage.journal_metrics(),
            segments_open: shared.storage.segments_open(),
            partitions_led,
            partitions_out_of_service,
            catalog: catalog(entry, &state),
            memory: shared.memory.metrics(&shared.options.frames),
            catch_up_waiting: shared.catch_up.waiting(),
            runtime: shared.modules.runtime_metrics(),
            modules: if limited.modules { Vec::new() } else { modules },
            transforms: if limited.transforms { Vec::new() } else { transforms },
            transform_totals,
            limited,
        }
    }
}

/// Topics by name, as far as they are told; and of all partitions the offsets and the bytes of their logs.
fn topics(
    shared: &Shared,
    state: &State,
    logs: &[(millstream_log::LogId, LogMetrics)],
    limited: Limited,
) -> (Vec<TopicMetrics>, OffsetMetrics, u64) {
    let traffic = shared.partitions.traffic().topics();
    let new = |topic: &Topic| TopicMetrics {
        name: topic.name.to_string(),
        traffic: traffic.get(&topic.id).copied().unwrap_or_default(),
        log_bytes: 0,
        offsets: OffsetMetrics::default(),
        partitions: Vec::new(),
    };
    let mut topics: HashMap<TopicId, TopicMetrics> = match limited.topics {
        true => HashMap::new(),
        false => state.topics.values().map(|topic| (topic.id, new(topic))).collect(),
    };
    let (mut all, mut bytes) = (OffsetMetrics::default(), 0);
    for (id, log) in logs.iter().filter(|(id, _)| id.stream == Stream::Records) {
        let Some(led) = shared.partitions.find(id.topic, id.partition) else { continue };
        let offsets = OffsetMetrics { start: log.start.0, end: log.end.0, high_watermark: led.high_watermark().0 };
        all.add(offsets);
        bytes += log.bytes;
        let Some(topic) = topics.get_mut(&id.topic) else { continue };
        topic.log_bytes += log.bytes;
        topic.offsets.add(offsets);
        if !limited.partitions {
            topic.partitions.push((id.partition, offsets));
        }
    }
    let mut topics: Vec<_> = topics.into_values().collect();
    topics.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for topic in &mut topics {
        topic.partitions.sort_unstable_by_key(|(partition, _)| *partition);
    }
    (topics, all, bytes)
}

fn totals(logs: &[(millstream_log::LogId, LogMetrics)]) -> LogTotals {
    let mut totals = LogTotals { logs: logs.len(), ..LogTotals::default() };
    for (_, log) in logs {
        totals.bytes += log.bytes;
        totals.segments += log.segments;
    }
    totals
}

fn catalog(entry: u64, state: &State) -> CatalogMetrics {
    let mut transforms = ["running", "paused", "failed"].map(|name| (name, 0));
    for transform in state.transforms.values() {
        let name = state_name(&transform.state);
        transforms.iter_mut().filter(|(of, _)| *of == name).for_each(|(_, count)| *count += 1);
    }
    CatalogMetrics {
        entry,
        topics: state.topics.len(),
        partitions: state.partition_count(),
        modules: state.modules.len(),
        views: state.views.len(),
        transforms,
    }
}

/// Each transform, and what all have done.
fn transforms(shared: &Shared, state: &State) -> (Vec<TransformMetrics>, TransformTotals) {
    let mut all = BTreeMap::new();
    let (known, gone) = shared.transforms.counts();
    let mut totals = TransformTotals { counts: gone, lag: 0 };
    known.values().flatten().for_each(|(_, counts, _)| totals.counts += *counts);
    for transform in state.transforms.values() {
        let inputs = known.get(&transform.id).map(Vec::as_slice).unwrap_or_default();
        let mut told = TransformMetrics {
            name: transform.name.to_string(),
            state: state_name(&transform.state),
            counts: TransformCounts::default(),
            lag: None,
        };
        for &((topic, partition), counts, next_offset) in inputs {
            told.counts += counts;
            if let Some(led) = shared.partitions.find(topic, partition) {
                let lag = led.high_watermark().0.saturating_sub(next_offset.0);
                *told.lag.get_or_insert(0) += u64::try_from(lag).unwrap_or(0);
            }
        }
        totals.lag += told.lag.unwrap_or(0);
        all.insert(told.name.clone(), told);
    }
    (all.into_values().collect(), totals)
}

fn state_name(state: &TransformState) -> &'static str {
    match state {
        TransformState::Running => "running",
        TransformState::Paused => "paused",
        TransformState::Failed { .. } => "failed",
    }
}

#[cfg(test)]
mod tests;
