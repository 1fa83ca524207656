//! The state machine of one replica of one partition.

use std::collections::BTreeMap;

use millstream_model::{BrokerId, Durability, LeaderEpoch, Offset};

use crate::acks::{Acks, AppendRefused};
pub use crate::progress::Progress;

/// What does not change while a replica is in place, or changes with the topic's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaOptions {
    /// The broker that this replica is on.
    pub broker: BrokerId,
    /// The topic's `millstream.durability`.
    pub durability: Durability,
    /// The topic's `min.insync.replicas`.
    pub insync_replicas_min: u32,
}

/// What the catalog agreed on for the partition, and where this replica's log stands as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Who leads; none while nobody may.
    pub leader: Option<BrokerId>,
    /// The leader's term.
    pub epoch: LeaderEpoch,
    /// Who has all that is committed.
    pub isr: Vec<BrokerId>,
    /// The end of this replica's log.
    pub log_end: Offset,
    /// The end of what of it survives a power cut.
    pub flushed_end: Offset,
}

/// What this replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes appends and serves reads.
    Leader,
    /// It follows a leader, or waits for one.
    Follower,
    /// It serves nothing more.
    Failed,
}

/// What has to be told to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The high watermark moved here: answer those who wait for it.
    HighWatermark(Offset),
    /// The replica failed: stop serving the partition here, and say so to the controller.
    Failed,
}

/// Why something that happened was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// News of an epoch that is over. Nothing changed.
    #[error("leader epoch {given} is over: {current} is in force")]
    StaleEpoch {
        /// What the news was of.
        given: LeaderEpoch,
        /// What is in force.
        current: LeaderEpoch,
    },
    /// News that only a leader may be told. Nothing changed.
    #[error("this replica does not lead")]
    NotLeader,
    /// News that only a follower may be told. Nothing changed.
    #[error("this replica leads")]
    NotFollower,
    /// The log was cut below what had been called committed: the replica has failed (rule 7).
    #[error("the log was cut at {end}, below the high watermark {high_watermark}: this replica has failed")]
    TruncatedBelowHighWatermark {
        /// Where it was cut.
        end: Offset,
        /// What had been called committed.
        high_watermark: Offset,
    },
    /// The replica failed before.
    #[error("this replica has failed")]
    Failed,
}

/// One broker's copy of one partition.
#[derive(Clone, Debug)]
pub struct Replica {
    options: ReplicaOptions,
    role: Role,
    leader: Option<BrokerId>,
    epoch: LeaderEpoch,
    /// Where this replica's log ended when the present epoch began.
    epoch_start: Offset,
    isr: Vec<BrokerId>,
    /// An ISR that was proposed to the catalog and not answered yet.
    isr_proposed: Option<Vec<BrokerId>>,
    own: Progress,
    /// What others acknowledged, in this epoch only (rule 4).
    others: BTreeMap<BrokerId, Progress>,
    high_watermark: Offset,
    told: Offset,
    failure_untold: bool,
}

impl Replica {
    /// A replica that has been told nothing yet: a follower without a leader, whose high watermark is `log_start`.
    #[must_use]
    pub fn new(options: ReplicaOptions, log_start: Offset) -> Self {
        Self {
            options,
            role: Role::Follower,
            leader: None,
            epoch: LeaderEpoch::UNKNOWN,
            epoch_start: log_start,
            isr: Vec::new(),
            isr_proposed: None,
            own: Progress { appended: log_start, flushed: log_start },
            others: BTreeMap::new(),
            high_watermark: log_start,
            told: log_start,
            failure_untold: false,
        }
    }

    /// What this replica is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who leads, as far as this replica was told.
    #[must_use]
    pub fn leader(&self) -> Option<BrokerId> {
        self.leader
    }

    /// The leader's term, as far as this replica was told; [`LeaderEpoch::UNKNOWN`] before anything was.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// The agreed ISR.
    #[must_use]
    pub fn isr(&self) -> &[BrokerId] {
        &self.isr
    }

    /// The end of what is committed, exclusive. Never goes back.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// This replica's own ends.
    #[must_use]
    pub fn own(&self) -> Progress {
        self.own
    }

    /// Whether answers may depend on the high watermark: it has reached the start of this leader's epoch (rule 3).
    #[must_use]
    pub fn answers_reads(&self) -> bool {
        self.role == Role::Leader && self.high_watermark >= self.epoch_start
    }

    /// Whether an append with these acks, from a client that believes in `epoch` ([`LeaderEpoch::UNKNOWN`] if it does not
    /// say), may be taken now.
    ///
    /// # Errors
    /// [`AppendRefused`].
    pub fn admits(&self, acks: Acks, epoch: LeaderEpoch) -> Result<(), AppendRefused> {
        self.leads(epoch)?;
        let in_sync = self.isr.len();
        if acks == Acks::All && in_sync < self.options.insync_replicas_min as usize {
            return Err(AppendRefused::NotEnoughReplicas { in_sync, min: self.options.insync_replicas_min });
        }
        Ok(())
    }

    /// Whether this replica leads, in the epoch that the client believes in ([`LeaderEpoch::UNKNOWN`] if it does not say).
    ///
    /// # Errors
    /// [`AppendRefused`], but not `NotEnoughReplicas`.
    pub fn leads(&self, epoch: LeaderEpoch) -> Result<(), AppendRefused> {
        match self.role {
            Role::Failed => return Err(AppendRefused::Failed),
            Role::Follower => return Err(AppendRefused::NotLeader { leader: self.leader }),
            Role::Leader => {}
        }
        let (given, current) = (epoch, self.epoch);
        if given == LeaderEpoch::UNKNOWN || given == current {
            Ok(())
        } else if given < current {
            Err(AppendRefused::Fenced { given, current })
        } else {
            Err(AppendRefused::Unknown { given, current })
        }
    }

    /// The end, exclusive, up to which appends with these acks are answered (rule 6); none if they never are.
    #[must_use]
    pub fn acknowledged_end(&self, acks: Acks) -> Option<Offset> {
        match acks {
            Acks::None => None,
            Acks::Leader => Some(self.own.counted(self.options.durability)),
            Acks::All => Some(self.high_watermark),
        }
    }

    /// Whether a follower may be proposed for the ISR (rule 5).
    #[must_use]
    pub fn may_join(&self, broker: BrokerId) -> bool {
        let Some(progress) = self.others.get(&broker) else { return false };
        let end = progress.counted(self.options.durability);
        self.answers_reads() && end >= self.high_watermark && end >= self.epoch_start
    }

    /// The catalog agreed on a configuration. The same epoch again changes the ISR; a new one begins a leadership, or ends
    /// it.
    ///
    /// # Errors
    /// `StaleEpoch` and `Failed`; nothing changed.
    pub fn handle_leadership(&mut self, agreed: Leadership) -> Result<(), HandleError> {
        if self.role == Role::Failed {
            return Err(HandleError::Failed);
        }
        if agreed.epoch < self.epoch {
            return Err(HandleError::StaleEpoch { given: agreed.epoch, current: self.epoch });
        }
        self.own.raise(Progress { appended: agreed.log_end, flushed: agreed.flushed_end });
        if agreed.epoch > self.epoch {
            self.epoch = agreed.epoch;
            self.epoch_start = self.own.appended;
            self.others.clear();
        }
        self.leader = agreed.leader;
        self.role = if agreed.leader == Some(self.options.broker) { Role::Leader } else { Role::Follower };
        self.isr = agreed.isr;
        self.isr_proposed = None;
        self.advance();
        Ok(())
    }

    /// The topic has other settings from now on. The high watermark moves where they allow more; it never goes back.
    pub fn handle_settings(&mut self, durability: Durability, insync_replicas_min: u32) {
        self.options = ReplicaOptions { durability, insync_replicas_min, ..self.options };
        self.advance();
    }

    /// An ISR was proposed to the catalog: until [`Replica::handle_leadership`] brings its answer, both count (rule 1). None
    /// says that the proposal failed for good.
    pub fn handle_isr_proposed(&mut self, isr: Option<Vec<BrokerId>>) {
        self.isr_proposed = isr;
        self.advance();
    }

    /// Records were appended to this replica's log: it ends at `end` now. Ends that were passed already are ignored.
    pub fn handle_appended(&mut self, end: Offset) {
        self.own.raise(Progress { appended: end, flushed: self.own.flushed });
        self.advance();
    }

    /// This replica's log is flushed up to `end`, and so appended. Ends that were passed already are ignored.
    pub fn handle_flushed(&mut self, end: Offset) {
        self.own.raise(Progress { appended: end, flushed: end });
        self.advance();
    }

    /// A follower acknowledged.
    ///
    /// # Errors
    /// `NotLeader`, `StaleEpoch` (rule 4) and `Failed`; nothing changed.
    pub fn handle_acknowledged(
        &mut self,
        follower: BrokerId,
        epoch: LeaderEpoch,
        progress: Progress,
    ) -> Result<(), HandleError> {
        match self.role {
            Role::Failed => return Err(HandleError::Failed),
            Role::Follower => return Err(HandleError::NotLeader),
            Role::Leader => {}
        }
        if epoch != self.epoch {
            return Err(HandleError::StaleEpoch { given: epoch, current: self.epoch });
        }
        self.others.entry(follower).or_default().raise(progress);
        self.advance();
        Ok(())
    }

    /// The leader told its high watermark. This replica's own never passes its own end.
    ///
    /// # Errors
    /// `NotFollower`, `StaleEpoch` and `Failed`; nothing changed.
    pub fn handle_high_watermark(&mut self, epoch: LeaderEpoch, end: Offset) -> Result<(), HandleError> {
        match self.role {
            Role::Failed => return Err(HandleError::Failed),
            Role::Leader => return Err(HandleError::NotFollower),
            Role::Follower => {}
        }
        if epoch != self.epoch {
            return Err(HandleError::StaleEpoch { given: epoch, current: self.epoch });
        }
        self.raise_high_watermark(end.min(self.own.counted(self.options.durability)));
        Ok(())
    }

    /// This replica's log was cut: it ends at `end` now.
    ///
    /// # Errors
    /// `NotFollower`: a leader's log is never cut. `TruncatedBelowHighWatermark`: the replica has failed (rule 7).
    pub fn handle_truncated(&mut self, end: Offset) -> Result<(), HandleError> {
        match self.role {
            Role::Failed => return Err(HandleError::Failed),
            Role::Leader => return Err(HandleError::NotFollower),
            Role::Follower => {}
        }
        if end < self.high_watermark {
            let high_watermark = self.high_watermark;
            self.fail();
            return Err(HandleError::TruncatedBelowHighWatermark { end, high_watermark });
        }
        self.own = Progress { appended: self.own.appended.min(end), flushed: self.own.flushed.min(end) };
        Ok(())
    }

    /// The next thing to tell; none when all is told. Watermarks that were overtaken are not told.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.failure_untold {
            self.failure_untold = false;
            return Some(Effect::Failed);
        }
        if self.told < self.high_watermark {
            self.told = self.high_watermark;
            return Some(Effect::HighWatermark(self.high_watermark));
        }
        None
    }

    fn fail(&mut self) {
        if self.role != Role::Failed {
            self.role = Role::Failed;
            self.failure_untold = true;
        }
    }

    /// Moves the leader's high watermark as far as rule 1 allows.
    fn advance(&mut self) {
        if self.role != Role::Leader || self.isr.len() < self.options.insync_replicas_min as usize {
            return;
        }
        let durability = self.options.durability;
        let mut end = self.own.counted(durability);
        for member in self.isr.iter().chain(self.isr_proposed.iter().flatten()) {
            if *member == self.options.broker {
                continue;
            }
            match self.others.get(member) {
                Some(progress) => end = end.min(progress.counted(durability)),
                // It has not been heard in this epoch: nothing is known of it.
                None => return,
            }
        }
        self.raise_high_watermark(end);
    }

    fn raise_high_watermark(&mut self, end: Offset) {
        if end > self.high_watermark {
            assert!(end <= self.own.counted(self.options.durability), "a watermark past the replica's own end");
            self.high_watermark = end;
        }
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
