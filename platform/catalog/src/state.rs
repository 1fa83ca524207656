//! The cluster's metadata as pure data: what every broker agrees on, and the questions that are asked of it.
//!
//! Deterministic by construction: ordered maps only, no clock, no randomness. Entries sit behind `Arc`, so that a copy of
//! the whole costs a pointer an entry; [`apply`](crate::apply) copies only what it changes.
//!
//! Names of topics and views share one space ([`State::names`]): a consumer reads either by name. Everything else refers to
//! a topic by its id, so a topic that was deleted and created again is never mistaken for the first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use millstream_model::{
    Address, BrokerId, Digest, LeaderEpoch, ModuleKind, ModuleRef, Name, Needs, Offset, PartitionId, ProducerId,
    RoutingEpoch, TimestampMs, TopicConfig, TopicDefaults, TopicId, TopicName, TransformId, ViewId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! unique {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unique! {
    /// The cluster's identity, chosen once. Nil before the first command.
    ClusterId
}
unique! {
    /// One run of one broker process: new at every start.
    Incarnation
}
unique! {
    /// A data directory's identity, written into it when it was made.
    DirectoryId
}

/// A broker's registration: the log index of the command that registered its present incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BrokerEpoch(pub u64);

impl fmt::Display for BrokerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A broker that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// Its number.
    pub id: BrokerId,
    /// Which run of its process registered last.
    pub incarnation: Incarnation,
    /// Its data directory.
    pub directory: DirectoryId,
    /// When it registered, as a log index. Commands that speak for the broker carry it, and are refused when it is old.
    pub epoch: BrokerEpoch,
    /// Where clients reach it, the preferred address first; at least one.
    pub addresses: Vec<Address>,
}

/// A replica that left the ISR last, with the data directory it had: it may lead again only if it returns with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LastKnown {
    /// The broker.
    pub broker: BrokerId,
    /// Its directory at that time.
    pub directory: DirectoryId,
}

/// One partition's agreed configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Who stores it, in order of preference for leadership. Never empty.
    pub replicas: Vec<BrokerId>,
    /// Who has all that is committed; a subset of `replicas`, in their order.
    pub isr: Vec<BrokerId>,
    /// Who left the ISR while it was too small, and still has all that was committed (KIP-966).
    pub elr: Vec<BrokerId>,
    /// Who was last in ISR or ELR when both became empty.
    pub last_known: Vec<LastKnown>,
    /// Who leads; none while nobody may.
    pub leader: Option<BrokerId>,
    /// Grows by one whenever the leader changes, is lost, or is elected again after a restart.
    pub leader_epoch: LeaderEpoch,
    /// Grows by one with every change of this partition's configuration.
    pub partition_epoch: i32,
    /// The present leader was elected without proof that it has all that was committed: records may have been lost.
    pub loss_possible: bool,
    /// The log index of the command that made it; 0: an earlier version, which did not note it, wrote the snapshot that it is from.
    #[serde(default)]
    pub made_by: u64,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Its settings.
    pub config: TopicConfig,
    /// Its partitions, by number. Never empty.
    pub partitions: Vec<Partition>,
    /// Which way of placing records is in force: grows with the partitioner's version and the number of partitions.
    pub routing_epoch: RoutingEpoch,
    /// The way that is in force, and up to [`ROUTINGS_MAX`](crate::ROUTINGS_MAX) - 1 before it, oldest first. Empty until one is to be
    /// changed: then the settings and the number of partitions say all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routings: Vec<Routing>,
    /// The way that is to be in force next, while partitions are passing to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Box<Routing>>,
    /// When its creation was proposed.
    pub created_at: TimestampMs,
}

/// One way of placing a topic's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// Its number: each is one more than the one before.
    pub epoch: RoutingEpoch,
    /// How many partitions records go to.
    pub partitions: i32,
    /// The module that places them; none: the key's hash.
    pub partitioner: Option<ModuleRef>,
    /// SHA-256 of the module's bytes.
    pub digest: Option<Digest>,
    /// The module's parameters.
    pub params: BTreeMap<String, String>,
    /// For each partition that there was before, where its marker is: what lies before that was placed earlier, by those who name the
    /// epoch. -1: the partition was out of service then, and got its marker later. Empty while it is being opened, and of epoch 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub markers: Vec<Offset>,
}

impl Topic {
    /// How many partitions records go to that nobody places himself. There may be more already, to which they will go soon.
    #[must_use]
    pub fn routed_partitions(&self) -> i32 {
        self.routings.last().map_or_else(|| self.partition_count(), |routing| routing.partitions)
    }

    /// The routing epoch that the partitions are in, or are passing to.
    #[must_use]
    pub fn latest_routing_epoch(&self) -> RoutingEpoch {
        self.opening.as_ref().map_or(self.routing_epoch, |opening| opening.epoch)
    }

    /// The way of placing records that is in force.
    #[must_use]
    pub fn routing(&self, modules: &BTreeMap<ModuleRef, Arc<Module>>) -> Routing {
        if let Some(routing) = self.routings.last() {
            return routing.clone();
        }
        let partitioner = self.config.partitioner.clone();
        Routing {
            epoch: self.routing_epoch,
            partitions: self.partition_count(),
            digest: partitioner.as_ref().and_then(|module| modules.get(module)).map(|module| module.digest),
            partitioner,
            params: self.config.partitioner_params.clone(),
            markers: Vec::new(),
        }
    }

    /// One partition's configuration; none when there is no such partition.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&Partition> {
        self.partitions.get(usize::try_from(partition.0).ok()?)
    }

    /// Whether a partition was made after the topic, and after the change of that log index.
    #[must_use]
    pub fn has_grown_since(&self, partition: &Partition, index: u64) -> bool {
        self.partitions.first().is_some_and(|first| partition.made_by > first.made_by) && partition.made_by > index
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        // `limits::PARTITIONS_MAX` is checked when they are made.
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }
}

/// One thing that a module said about itself when it was pushed (`describe()` in `wit/`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    /// `param`, `needs`, `metric`, ...
    pub kind: String,
    /// The name, within the kind.
    pub name: String,
    /// What more is said of it.
    pub value: String,
}

/// A module that was pushed: what is known of it. Its bytes are a file named by the digest, not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its name and version.
    pub module: ModuleRef,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Length of its bytes.
    pub size_bytes: u64,
    /// What it can be used as. Never empty.
    pub kinds: BTreeSet<ModuleKind>,
    /// What it must be shown.
    pub needs: Needs,
    /// What it declares, in its order.
    pub declarations: Vec<Declaration>,
    /// When its push was proposed.
    pub pushed_at: TimestampMs,
}

impl Module {
    /// Whether it may place a topic's records.
    #[must_use]
    pub fn serves_partitioning(&self) -> bool {
        self.kinds.contains(&ModuleKind::Partitioner)
    }

    /// Whether it may stand in a view's chain.
    #[must_use]
    pub fn serves_views(&self) -> bool {
        self.kinds.contains(&ModuleKind::Filter) || self.kinds.contains(&ModuleKind::Mapper)
    }

    /// Whether it may be deployed as a transform.
    #[must_use]
    pub fn serves_transforms(&self) -> bool {
        self.kinds.contains(&ModuleKind::Transform) || self.kinds.contains(&ModuleKind::Mapper)
    }

    /// The kinds as text, comma-separated.
    #[must_use]
    pub fn kinds_text(&self) -> String {
        self.kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// A view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its identity.
    pub id: ViewId,
    /// Its name, from the same space as topics'.
    pub name: TopicName,
    /// The topic that it shows.
    pub topic: TopicId,
    /// The modules that records pass, in order. Never empty.
    pub chain: Vec<ModuleRef>,
    /// Parameters, given to every module of the chain.
    pub params: BTreeMap<String, String>,
    /// When its creation was proposed.
    pub created_at: TimestampMs,
}

/// What a transform does with a record that its module fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// Stop, and show why.
    Fail,
    /// Leave the record out.
    Skip,
    /// Try again.
    Retry,
    /// Send the record to a dead-letter topic.
    Dlq,
    /// As `Dlq`, and the key's later records follow.
    ParkKey,
}

/// Where a transform starts in each input partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// The oldest record.
    Beginning,
    /// What is appended from now on.
    End,
    /// An offset, the same in every partition.
    Offset(Offset),
}

/// Whether a transform runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransformState {
    /// It does.
    Running,
    /// An operator stopped it.
    Paused,
    /// It stopped itself.
    Failed {
        /// Why, for a person; at most [`FAILURE_BYTES_MAX`](crate::FAILURE_BYTES_MAX) bytes.
        message: String,
        /// The record that it stopped at, where one record is to blame. (Earlier versions did not tell.)
        #[serde(default, skip_serializing_if = "Option::is_none")]
        record: Option<RecordAt>,
    },
}

/// One record, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordAt {
    /// Of which topic.
    pub topic: TopicId,
    /// In which partition.
    pub partition: PartitionId,
    /// Where.
    pub offset: Offset,
}

/// A deployed transform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transform {
    /// This deployment's identity.
    pub id: TransformId,
    /// Its name.
    pub name: Name,
    /// What runs.
    pub module: ModuleRef,
    /// What it reads. Never empty, no topic twice.
    pub inputs: Vec<TopicId>,
    /// What it appends to, by the module's output number. Never empty, no topic twice.
    pub outputs: Vec<TopicId>,
    /// Its parameters.
    pub params: BTreeMap<String, String>,
    /// What happens to a record that the module fails on.
    pub on_error: OnError,
    /// Where it started.
    pub from: StartAt,
    /// Lanes a partition, at least 1.
    pub lanes: u32,
    /// Whether it runs.
    pub state: TransformState,
    /// Log index of the last change: a report that was made of an older one is refused.
    pub revision: u64,
    /// Log index of the command that deployed it; 0: an earlier version, which did not note it and gave no topic more partitions.
    #[serde(default)]
    pub deployed_by: u64,
    /// When its deployment was proposed.
    pub deployed_at: TimestampMs,
    /// Records that an operator has it leave out should they fail, whatever `on_error` says: of each input partition the last
    /// [`SKIPS_MAX`](crate::SKIPS_MAX). They are kept when it has passed them, since it may have to go back a little after a crash.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub skips: BTreeSet<RecordAt>,
}

/// What a name that can be read stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// A topic.
    Topic(TopicId),
    /// A view.
    View(ViewId),
}

/// All of the cluster's metadata, as of one log index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The cluster's identity; nil before [`Command::CreateCluster`](crate::Command::CreateCluster).
    pub cluster_id: ClusterId,
    /// Brokers that have registered.
    pub brokers: BTreeMap<BrokerId, Arc<Broker>>,
    /// What can be read, by name: topics and views.
    pub names: BTreeMap<TopicName, Named>,
    /// Topics.
    pub topics: BTreeMap<TopicId, Arc<Topic>>,
    /// Views.
    pub views: BTreeMap<ViewId, Arc<View>>,
    /// Modules.
    pub modules: BTreeMap<ModuleRef, Arc<Module>>,
    /// Transforms.
    pub transforms: BTreeMap<Name, Arc<Transform>>,
    /// The first producer id that no broker was given yet.
    #[serde(default)]
    pub next_producer_id: ProducerId,
    /// What topics have of settings that they are not given. (Each topic's `config` has them already.)
    #[serde(default, skip_serializing_if = "TopicDefaults::is_empty")]
    pub topic_defaults: TopicDefaults,
}

impl State {
    /// The topic of that name; none if there is none or it is a view's.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        match self.names.get(name)? {
            Named::Topic(id) => self.topics.get(id),
            Named::View(_) => None,
        }
    }

    /// The topic of that id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// The view of that name; none if there is none or it is a topic's.
    #[must_use]
    pub fn view(&self, name: &str) -> Option<&Arc<View>> {
        match self.names.get(name)? {
            Named::View(id) => self.views.get(id),
            Named::Topic(_) => None,
        }
    }

    /// The view of that id. Fetches by id find views as they find topics.
    #[must_use]
    pub fn view_by_id(&self, id: ViewId) -> Option<&Arc<View>> {
        self.views.get(&id)
    }

    /// Topics in the order of their names.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.names.values().filter_map(|named| match named {
            Named::Topic(id) => self.topics.get(id),
            Named::View(_) => None,
        })
    }

    /// Views in the order of their names.
    pub fn views_by_name(&self) -> impl Iterator<Item = &Arc<View>> {
        self.names.values().filter_map(|named| match named {
            Named::View(id) => self.views.get(id),
            Named::Topic(_) => None,
        })
    }

    /// The transform of that deployment.
    #[must_use]
    pub fn transform_by_id(&self, id: TransformId) -> Option<&Arc<Transform>> {
        self.transforms.values().find(|transform| transform.id == id)
    }

    /// How many partitions there are in all topics.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.topics.values().map(|topic| topic.partitions.len()).sum()
    }
}
