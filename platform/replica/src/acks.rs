//! What a producer asks for before it is answered, and why an append is refused beforehand.

use millstream_model::{BrokerId, LeaderEpoch};

/// The `acks` of a produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// No answer at all.
    None,
    /// Once the leader has it: flushed under `fsync`, appended under `replicated`.
    Leader,
    /// Once `min.insync.replicas` and the whole ISR have it: at the high watermark.
    All,
}

/// A number that is no `acks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("acks {0}: takes -1 (all), 0 or 1")]
pub struct AcksError(pub i16);

impl TryFrom<i16> for Acks {
    type Error = AcksError;

    /// From the wire: -1, 0 or 1.
    fn try_from(acks: i16) -> Result<Self, AcksError> {
        match acks {
            -1 => Ok(Self::All),
            0 => Ok(Self::None),
            1 => Ok(Self::Leader),
            other => Err(AcksError(other)),
        }
    }
}

/// Why a partition takes no append, or serves no read, now. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// This broker does not lead the partition.
    #[error("this broker does not lead the partition{}", known(*leader))]
    NotLeader {
        /// Who does, if anybody.
        leader: Option<BrokerId>,
    },
    /// The client knows an older leader.
    #[error("leader epoch {given} is over: {current} is in force")]
    Fenced {
        /// The client's.
        given: LeaderEpoch,
        /// Ours.
        current: LeaderEpoch,
    },
    /// The client knows a newer leader than this broker does.
    #[error("leader epoch {given} is not known here yet: {current} is")]
    Unknown {
        /// The client's.
        given: LeaderEpoch,
        /// Ours.
        current: LeaderEpoch,
    },
    /// acks=all, and too few replicas are in sync.
    #[error("{in_sync} replicas are in sync; min.insync.replicas asks for {min}")]
    NotEnoughReplicas {
        /// How many are.
        in_sync: usize,
        /// How many must be.
        min: u32,
    },
    /// The replica failed; it serves nothing.
    #[error("this replica has failed")]
    Failed,
}

fn known(leader: Option<BrokerId>) -> String {
    leader.map_or_else(|| String::from("; nobody does"), |leader| format!("; broker {leader} does"))
}
