//! Partitions that a topic has got since the consumer was made: looked for now and then, and when a partition says so, and read from their
//! beginning.
//!
//! Only for who reads all partitions, and not up to an end: that was the end when the consumer was made.

use std::{collections::BTreeSet, sync::Arc};

use millstream_env::{BoxFuture, Monotonic};
use millstream_model::PartitionId;

use super::Consumer;
use crate::{CallError, cluster::Topic};

/// What is known of new partitions.
pub(super) struct Growth {
    /// None: it is time to look.
    looked_at: Option<Monotonic>,
    /// Asking for the topic's partitions: what is read goes on meanwhile.
    pub(super) looking: Option<BoxFuture<'static, Result<Arc<Topic>, CallError>>>,
    /// Those that are new, and not placed yet. Their first record came after the consumer's start, whatever that was.
    pub(super) new: BTreeSet<PartitionId>,
}

impl Growth {
    pub(super) fn new(now: Monotonic) -> Self {
        Self { looked_at: Some(now), looking: None, new: BTreeSet::new() }
    }

    /// There is a reason to look now.
    pub(super) fn is_due(&mut self) {
        self.looked_at = None;
    }
}

impl Consumer {
    fn reads_all(&self) -> bool {
        self.options.partitions.is_empty() && !self.options.until_end
    }

    /// Asks for the partitions once more, if it is time.
    pub(super) fn look_again(&mut self) {
        let now = self.cluster.env.clock.now();
        let max_age = self.cluster.options.metadata_max_age;
        let due = self.growth.looked_at.is_none_or(|looked_at| now - looked_at >= max_age);
        if !due || self.growth.looking.is_some() || !self.reads_all() {
            return;
        }
        self.growth.looked_at = Some(now);
        let (cluster, name) = (Arc::clone(&self.cluster), Arc::clone(&self.name));
        self.growth.looking = Some(Box::pin(async move { cluster.refresh_topic(&name).await }));
    }

    /// Takes what was found. That nothing could be found is no matter: whoever reads finds out what is wrong.
    pub(super) fn looked(&mut self, found: Result<Arc<Topic>, CallError>) {
        self.growth.looking = None;
        match found {
            // Another topic of this name is found out by the Fetch, and judged there.
            Ok(topic) if topic.id == self.topic.id => self.learn(topic),
            Ok(_) => {}
            Err(error) => tracing::debug!(name = %self.name, %error, "new partitions are looked for later"),
        }
    }

    /// Takes the topic as it is now.
    pub(super) fn learn(&mut self, topic: Arc<Topic>) {
        self.topic = topic;
        if !self.reads_all() {
            return;
        }
        let known = |at: &PartitionId| self.partitions.contains_key(at) || self.unplaced.contains(at);
        let new: Vec<_> = self.topic.partitions.keys().copied().filter(|at| !known(at)).collect();
        if !new.is_empty() {
            tracing::info!("{} has {} partitions now", self.name, self.topic.partition_count());
        }
        self.unplaced.extend(&new);
        self.growth.new.extend(new);
    }
}
