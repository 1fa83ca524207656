//! Records in and out, by topic: counted where they are appended and where answers are gathered, a batch or an answer at a time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_model::TopicId;
use parking_lot::Mutex;

use super::TrafficMetrics;

/// Of all topics that were ever there since the start.
#[derive(Default)]
pub(crate) struct AllTraffic {
    all: Arc<Flow>,
    topics: Mutex<HashMap<TopicId, Arc<Traffic>>>,
}

/// Of one topic, however its partitions come and go.
pub(crate) struct Traffic {
    topic: Flow,
    all: Arc<Flow>,
}

#[derive(Default)]
struct Flow {
    records_in: AtomicU64,
    bytes_in: AtomicU64,
    records_out: AtomicU64,
    bytes_out: AtomicU64,
}

impl Traffic {
    /// So much was appended.
    pub(crate) fn add_in(&self, records: u64, bytes: u64) {
        for flow in [&self.topic, &*self.all] {
            flow.records_in.fetch_add(records, Ordering::Relaxed);
            flow.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// So much was put into an answer.
    pub(crate) fn add_out(&self, records: u64, bytes: u64) {
        for flow in [&self.topic, &*self.all] {
            flow.records_out.fetch_add(records, Ordering::Relaxed);
            flow.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Flow {
    fn metrics(&self) -> TrafficMetrics {
        TrafficMetrics {
            records_in: self.records_in.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            records_out: self.records_out.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

impl AllTraffic {
    /// A topic's, for its partitions to count in.
    pub(crate) fn of(&self, topic: TopicId) -> Arc<Traffic> {
        let make = || Arc::new(Traffic { topic: Flow::default(), all: self.all.clone() });
        self.topics.lock().entry(topic).or_insert_with(make).clone()
    }

    /// Forgets topics that are gone. What they had counts on in the whole.
    pub(crate) fn retain(&self, is_there: impl Fn(TopicId) -> bool) {
        self.topics.lock().retain(|topic, _| is_there(*topic));
    }

    pub(super) fn all(&self) -> TrafficMetrics {
        self.all.metrics()
    }

    /// Each topic that has led partitions here, or had.
    pub(super) fn topics(&self) -> HashMap<TopicId, TrafficMetrics> {
        self.topics.lock().iter().map(|(topic, traffic)| (*topic, traffic.topic.metrics())).collect()
    }
}
