//! What can be asked of the catalog, and the bytes in which it travels.
//!
//! # The encoding
//!
//! One byte of version, then the command as JSON. To the agreed log it is opaque. A version newer than this build knows is
//! refused as such: an old broker must stop rather than skip what its peers apply. Within a version, new optional fields may
//! be added with a default; unknown fields are ignored.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_model::{
    Address, BrokerId, DefaultKind, Digest, ModuleKind, ModuleRef, Name, Needs, Offset, RoutingEpoch, TimestampMs,
    TopicConfig, TopicId, TopicName, TopicPartition, TransformId, ViewId,
};
use serde::{Deserialize, Serialize};

use crate::state::{
    BrokerEpoch, ClusterId, Declaration, DirectoryId, Incarnation, OnError, RecordAt, StartAt, TransformState,
};

/// The encoding's version that this build writes, and the newest that it reads.
pub const COMMAND_VERSION: u8 = 1;
/// Largest encoded command, bytes. It bounds an entry of the agreed log, and so a read of it.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Longest message of a failed transform that is kept, bytes.
pub const FAILURE_BYTES_MAX: usize = 4 << 10;

/// One change of the metadata. Ids and times are chosen by whoever proposes it, so that applying it needs neither
/// randomness nor a clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Gives the cluster its identity; the first command of every cluster. [`Catalog::open`](crate::Catalog::open)
    /// proposes it.
    CreateCluster {
        /// The identity.
        id: ClusterId,
    },
    /// Announces a run of a broker process. A new incarnation loses every leadership in the same entry; where it is elected
    /// again, even of itself, the leader epoch grows.
    RegisterBroker {
        /// Which broker.
        id: BrokerId,
        /// Which run of its process.
        incarnation: Incarnation,
        /// Its data directory. An unknown one leaves every ISR and ELR.
        directory: DirectoryId,
        /// Where clients reach it; at least one.
        addresses: Vec<Address>,
        /// Whether the run before ended with everything flushed. If not, the broker leaves ISR and ELR of topics in
        /// durability `replicated`.
        clean: bool,
        /// Partitions whose logs the run before kept in durability `replicated`, whatever their topics ask for now: an alteration is
        /// agreed on before it is carried out. Of those whose topics are in `replicated` it need not tell. (Earlier versions told of none.)
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        replicated: Vec<TopicPartition>,
        /// Whether the data directory holds logs: then the cluster must know it. (Earlier versions did not tell.)
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        holds_logs: bool,
    },
    /// Makes a topic and places its partitions on the registered brokers.
    CreateTopic {
        /// Its identity.
        id: TopicId,
        /// Its name.
        name: TopicName,
        /// How many partitions, 1..=[`PARTITIONS_MAX`](millstream_model::limits::PARTITIONS_MAX).
        partitions: i32,
        /// How many replicas of each, 1..= the number of registered brokers.
        replication_factor: i32,
        /// Its settings.
        config: TopicConfig,
        /// When.
        at: TimestampMs,
    },
    /// Gives a topic more partitions, as many replicas each as its first one has, and begins to open a routing epoch. Those that are there
    /// stay as they are. Refused while another epoch is being opened.
    CreatePartitions {
        /// Which.
        id: TopicId,
        /// How many it has then: more than now, at most [`PARTITIONS_MAX`](millstream_model::limits::PARTITIONS_MAX).
        partitions: i32,
        /// Who stores each new one, in their order, the preferred leader first; none where the brokers are to take turns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replicas: Option<Vec<Vec<BrokerId>>>,
    },
    /// Gives a broker the next [`PRODUCER_IDS_BLOCK`](crate::PRODUCER_IDS_BLOCK) producer ids, never given to anybody else,
    /// not even when the broker uses none of them.
    AllocateProducerIds {
        /// The broker that will hand them out, and its registration.
        reporter: Reporter,
    },
    /// Gives a topic other settings. Refused where they are not `from` any more, since whoever proposes it has made `to` of
    /// those; and where `millstream.partitioner` or what belongs to it would change: see [`Command::AlterRouting`].
    AlterTopic {
        /// Which.
        id: TopicId,
        /// Its settings that the proposer saw.
        from: Box<TopicConfig>,
        /// Its settings from now on.
        to: Box<TopicConfig>,
    },
    /// As [`Command::AlterTopic`], also where `millstream.partitioner` or what belongs to it changes. Of another partitioner, or other
    /// parameters, it begins to open a routing epoch, and they are the topic's once that is in force. That is refused while another is being
    /// opened. (A command of its own, since there are logs in which the other one was refused.)
    AlterRouting {
        /// Which.
        id: TopicId,
        /// Its settings that the proposer saw.
        from: Box<TopicConfig>,
        /// Its settings from now on.
        to: Box<TopicConfig>,
    },
    /// Gives the cluster other defaults of topics' settings, one kind of them; each topic that follows one of them has it from then on.
    /// Refused where they are not `from` any more.
    AlterTopicDefaults {
        /// Which of them.
        kind: DefaultKind,
        /// Those that the proposer saw, by topics' names for them.
        from: BTreeMap<String, String>,
        /// Those from now on. That each value can be is the proposer's to look to: one that cannot is passed over.
        to: BTreeMap<String, String>,
    },
    /// Puts a routing epoch in force: its marker is in every partition that there was before, durably, and nothing that was placed in an
    /// earlier epoch is taken there any more.
    RoutingOpened {
        /// Of which topic.
        id: TopicId,
        /// The epoch.
        epoch: RoutingEpoch,
        /// Where the markers are, see [`Routing`](crate::Routing).
        markers: Vec<Offset>,
    },
    /// Removes a topic. Refused while a view or a transform uses it.
    DeleteTopic {
        /// Which.
        id: TopicId,
    },
    /// Makes a module known. Its bytes are durable under its digest before this is proposed. The same again changes nothing;
    /// other bytes under the same version are refused.
    PushModule {
        /// Its name and version.
        module: ModuleRef,
        /// SHA-256 of its bytes.
        digest: Digest,
        /// Length of its bytes.
        size_bytes: u64,
        /// What it can be used as; at least one.
        kinds: BTreeSet<ModuleKind>,
        /// What it must be shown.
        needs: Needs,
        /// What it declares.
        declarations: Vec<Declaration>,
        /// When.
        at: TimestampMs,
    },
    /// Forgets a module. Refused while a topic, view or transform uses it.
    DeleteModule {
        /// Which.
        module: ModuleRef,
    },
    /// Makes a view.
    CreateView {
        /// Its identity.
        id: ViewId,
        /// Its name.
        name: TopicName,
        /// The topic that it shows.
        topic: TopicName,
        /// The modules that records pass, in order; at least one, each a filter or a mapper.
        chain: Vec<ModuleRef>,
        /// Parameters for the chain.
        params: BTreeMap<String, String>,
        /// When.
        at: TimestampMs,
    },
    /// Removes a view.
    DeleteView {
        /// Which.
        id: ViewId,
    },
    /// Deploys a transform, running.
    DeployTransform {
        /// This deployment's identity.
        id: TransformId,
        /// Its name.
        name: Name,
        /// What runs: a mapper or a transform.
        module: ModuleRef,
        /// Topics read; at least one.
        inputs: Vec<TopicName>,
        /// Topics appended to, by the module's output number; at least one. None may lead back to an input.
        outputs: Vec<TopicName>,
        /// Its parameters.
        params: BTreeMap<String, String>,
        /// What happens to a record that the module fails on.
        on_error: OnError,
        /// Where it starts.
        from: StartAt,
        /// Lanes a partition, at least 1.
        lanes: u32,
        /// When.
        at: TimestampMs,
    },
    /// Removes a transform.
    DeleteTransform {
        /// Which deployment.
        id: TransformId,
    },
    /// Says that a transform runs, is paused or has failed.
    SetTransformState {
        /// Which deployment.
        id: TransformId,
        /// The revision that the proposer saw; refused when the transform has changed since.
        revision: u64,
        /// The broker that reports, and its registration; none for an operator's act.
        reporter: Option<Reporter>,
        /// What it is now.
        state: TransformState,
    },
    /// Has a transform that stopped at a record run again, and leave that record out should it fail again.
    SkipRecord {
        /// Which deployment.
        id: TransformId,
        /// The revision that the proposer saw; refused when the transform has changed since.
        revision: u64,
        /// The record. Refused where it is another that the transform stands at.
        record: RecordAt,
    },
}

/// On whose behalf a command speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reporter {
    /// The broker.
    pub broker: BrokerId,
    /// Its registration: a broker that has registered again since is another.
    pub epoch: BrokerEpoch,
}

/// Why a command could not be written or read as bytes.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Too many bytes.
    #[error("the change takes {bytes} bytes of metadata; at most {max} are allowed in one")]
    TooLarge {
        /// How many it takes.
        bytes: usize,
        /// How many may be.
        max: usize,
    },
    /// Nothing at all.
    #[error("an empty metadata command")]
    Empty,
    /// Written by another build, newer than this one.
    #[error(
        "metadata command of version {version}: this build reads version {COMMAND_VERSION}; run the newer millstream"
    )]
    Version {
        /// The version.
        version: u8,
    },
    /// Not what the version says it is.
    #[error("metadata command that cannot be read")]
    Malformed(#[source] serde_json::Error),
}

impl Command {
    /// Whether it only takes something away, or must be recorded whatever the disk's room: so it is proposed on a full disk, too, where
    /// others are refused. Otherwise nobody could make room.
    #[must_use]
    pub fn makes_room(&self) -> bool {
        match self {
            Self::DeleteTopic { .. }
            | Self::DeleteModule { .. }
            | Self::DeleteView { .. }
            | Self::DeleteTransform { .. }
            // Each start makes one, each transform fails once, and each change of routing, which was let in, ends once.
            | Self::RoutingOpened { .. }
            | Self::RegisterBroker { .. }
            | Self::SetTransformState { reporter: Some(_), .. } => true,
            Self::AlterTopic { from, to, .. } => to.keeps_less_than(from),
            Self::CreateCluster { .. }
            | Self::CreateTopic { .. }
            | Self::CreatePartitions { .. }
            | Self::AllocateProducerIds { .. }
            | Self::AlterRouting { .. }
            | Self::AlterTopicDefaults { .. }
            | Self::PushModule { .. }
            | Self::CreateView { .. }
            | Self::DeployTransform { .. }
            | Self::SkipRecord { .. }
            | Self::SetTransformState { reporter: None, .. } => false,
        }
    }

    /// The command as bytes.
    ///
    /// # Errors
    /// [`CommandError::TooLarge`] past [`COMMAND_BYTES_MAX`].
    pub fn encode(&self) -> Result<Bytes, CommandError> {
        let mut bytes = vec![COMMAND_VERSION];
        serde_json::to_writer(&mut bytes, self).map_err(CommandError::Malformed)?;
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLarge { bytes: bytes.len(), max: COMMAND_BYTES_MAX });
        }
        Ok(bytes.into())
    }

    /// Reads a command back.
    ///
    /// # Errors
    /// What is too long, of a newer version, or not a command.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLarge { bytes: bytes.len(), max: COMMAND_BYTES_MAX });
        }
        match bytes.split_first() {
            None => Err(CommandError::Empty),
            Some((&COMMAND_VERSION, json)) => serde_json::from_slice(json).map_err(CommandError::Malformed),
            Some((&version, _)) => Err(CommandError::Version { version }),
        }
    }
}
