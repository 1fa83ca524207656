//! Partitions that cannot be read at the moment: each is tried again with growing pauses, while the others are read.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use millstream_env::{Env, Monotonic};
use millstream_model::{Offset, PartitionId};

use crate::{
    ConsumeError,
    cluster::{SILENCE_MAX, is_unknown, jittered},
    offsets::is_of_storage,
    options::ClientOptions,
};

/// How long a partition whose broker says that its storage has failed is waited for where reading is to end: what is damaged stays so,
/// and what comes back by itself (a disk that stutters, another leader) comes soon.
const STORAGE_PATIENCE_MAX: Duration = Duration::from_secs(5);

/// A change that is told once.
#[derive(Debug)]
pub(super) enum Change {
    /// The partition cannot be read.
    Failing(PartitionId, ConsumeError),
    /// It can again.
    Recovered(PartitionId),
    /// It is read on at the second offset: what begins at the first is not there any more.
    PassedOver(PartitionId, Offset, Offset),
}

/// The partitions that fail, and what is to be told of them.
pub(super) struct Failures {
    env: Env,
    pause_min: Duration,
    pause_max: Duration,
    patience: Duration,
    /// The same where the storage has failed.
    storage_patience: Duration,
    failing: BTreeMap<PartitionId, Failing>,
    changes: VecDeque<Change>,
}

struct Failing {
    error: ConsumeError,
    since: Monotonic,
    /// Not asked for before this.
    again: Monotonic,
    /// The next pause.
    pause: Duration,
    /// Whether it was tried for long enough, or trying again cannot help.
    given_up: bool,
    told: bool,
    /// Who leads it must be asked before it is asked for again.
    stale: bool,
}

impl Failures {
    pub(super) fn new(env: Env, options: &ClientOptions, patience: Duration, until_end: bool) -> Self {
        let storage_patience = if until_end { patience.min(STORAGE_PATIENCE_MAX) } else { patience };
        let (pause_min, pause_max) = (options.backoff_min, options.backoff_max);
        let (failing, changes) = (BTreeMap::new(), VecDeque::new());
        Self { env, pause_min, pause_max, patience, storage_patience, failing, changes }
    }

    /// Notes that a partition could not be read: it sits out a pause.
    pub(super) fn failed(&mut self, partition: PartitionId, error: ConsumeError) {
        let now = self.env.clock.now();
        let known = self.failing.contains_key(&partition);
        let failing = self.failing.entry(partition).or_insert_with(|| Failing {
            error: error.clone(),
            since: now,
            again: now,
            pause: self.pause_min,
            given_up: false,
            told: false,
            stale: false,
        });
        let is_storage = error.call().is_some_and(is_of_storage);
        let patience = if is_storage { self.storage_patience } else { self.patience };
        let (waited, is_gone) = (now - failing.since, known && error.call().is_some_and(is_unknown));
        let is_final = !error.is_retriable() || is_gone;
        failing.given_up = is_final || waited >= patience;
        failing.stale = error.call().is_some();
        // And once more when patience ends.
        let left = patience.saturating_sub(waited);
        let pause = jittered(&*self.env.rng, failing.pause);
        failing.again = Monotonic(now.0 + if left.is_zero() { pause } else { pause.min(left) });
        failing.pause = (failing.pause * 2).min(self.pause_max);
        // A leader that moves is there again before anybody could do anything about it.
        if !failing.told && (is_final || is_storage || waited >= SILENCE_MAX) {
            failing.told = true;
            self.changes.push_back(Change::Failing(partition, error.clone()));
        }
        failing.error = error;
    }

    /// Notes that a partition was read, or need not be any more.
    pub(super) fn recovered(&mut self, partition: PartitionId) {
        if self.failing.remove(&partition).is_some_and(|failing| failing.told) {
            self.changes.push_back(Change::Recovered(partition));
        }
    }

    /// Notes that the caller has moved a partition: what was wrong where it was is of no more use, and is not told if it was not yet.
    pub(super) fn moved(&mut self, partition: PartitionId) {
        let is_untold = |change: &Change| matches!(change, Change::Failing(at, _) if *at == partition);
        match self.changes.iter().any(is_untold) {
            true => drop(self.failing.remove(&partition)),
            false => self.recovered(partition),
        }
        self.changes.retain(|change| !is_untold(change));
    }

    /// Notes that records are not read.
    pub(super) fn passed_over(&mut self, partition: PartitionId, from: Offset, to: Offset) {
        self.changes.push_back(Change::PassedOver(partition, from, to));
    }

    /// Whether a partition may be asked for now.
    pub(super) fn may_ask(&self, partition: PartitionId) -> bool {
        self.failing.get(&partition).is_none_or(|failing| failing.again <= self.env.clock.now())
    }

    /// How long until the first pause that is not over yet is.
    pub(super) fn pause(&self) -> Option<Duration> {
        let now = self.env.clock.now();
        self.failing.values().filter(|failing| failing.again > now).map(|failing| failing.again - now).min()
    }

    /// Whether a partition whose pause is over needs its leader asked for; true once for each pause.
    pub(super) fn needs_leaders(&mut self) -> bool {
        let now = self.env.clock.now();
        let mut needs = false;
        for failing in self.failing.values_mut().filter(|failing| failing.again <= now) {
            needs |= std::mem::take(&mut failing.stale);
        }
        needs
    }

    /// Of partitions that all fail and were tried for long enough, the first one's error: each is tried anew after this. `left`: those that
    /// are not read to their end.
    pub(super) fn hopeless(&mut self, mut left: impl Iterator<Item = PartitionId>) -> Option<ConsumeError> {
        if self.failing.is_empty() || !left.all(|at| self.failing.get(&at).is_some_and(|failing| failing.given_up)) {
            return None;
        }
        let now = self.env.clock.now();
        for failing in self.failing.values_mut() {
            (failing.given_up, failing.since) = (false, now);
        }
        self.failing.values().next().map(|failing| failing.error.clone())
    }

    /// The next change, in the order in which they came.
    pub(super) fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }
}
