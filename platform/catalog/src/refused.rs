//! Why a command is refused, in words for the person who asked.

use millstream_model::{BrokerId, Digest, ModuleRef, Name, RoutingEpoch, TopicId, TopicName, TransformId, ViewId};
use serde::{Deserialize, Serialize};

use crate::{
    apply::{CHAIN_MAX, TRANSFORM_TOPICS_MAX},
    state::{BrokerEpoch, ClusterId, DirectoryId},
};

/// Why a command was refused. The state is as it was. The text is for the person who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant's text says what happened; the fields are what it names")]
pub enum Refused {
    #[error("this is cluster {current}, not {asked}: the data directory belongs to another cluster")]
    OtherCluster { asked: ClusterId, current: ClusterId },
    #[error("broker {broker} gives no address under which clients reach it")]
    NoAddress { broker: BrokerId },
    #[error("broker number {0} is not legal: numbers start at 0")]
    BrokerNumber(BrokerId),
    #[error(
        "data directory {directory} is registered as broker {owner}'s: start it with --node-id {owner}, or give broker {broker} a directory of its own"
    )]
    DirectoryTaken { broker: BrokerId, directory: DirectoryId, owner: BrokerId },
    #[error(
        "data directory {directory} holds records, and the cluster's metadata knows of no such directory of broker {broker}: put back the metadata that belongs to it"
    )]
    UnknownDirectory { broker: BrokerId, directory: DirectoryId },
    #[error("broker {0} is not registered")]
    UnknownBroker(BrokerId),
    #[error(
        "broker {broker} speaks with registration {epoch}, but {current} is in force: it has been started again since"
    )]
    StaleBroker { broker: BrokerId, epoch: BrokerEpoch, current: BrokerEpoch },

    #[error("all {0} producer ids have been given out")]
    ProducerIdsUsedUp(i64),

    #[error("a topic named {0} exists already: choose another name, or delete it first")]
    TopicExists(TopicName),
    #[error(
        "a view named {0} exists already, and views and topics share their names: choose another name, or delete it first"
    )]
    ViewExists(TopicName),
    #[error("there is no topic named {0}: see `millstream topic list`")]
    UnknownTopic(TopicName),
    #[error("there is no topic with id {0}: it has been deleted")]
    UnknownTopicId(TopicId),
    #[error("{0} is a view: name the topic that it shows")]
    NotATopic(TopicName),
    #[error("{asked} partitions: a topic has from 1 to {max}")]
    Partitions { asked: i32, max: i32 },
    #[error("{asked} more partitions: the cluster has {there} and may have at most {max}")]
    TooManyPartitions { asked: i32, there: usize, max: usize },
    #[error(
        "{asked} replicas of each partition: there must be from 1 to as many as there are brokers, which is {brokers}"
    )]
    ReplicationFactor { asked: i32, brokers: usize },
    #[error("Topic already has {there} partition(s).")]
    SamePartitions { there: usize },
    #[error("The topic {topic} currently has {there} partition(s); {asked} would not be an increase.")]
    FewerPartitions { topic: TopicName, there: usize, asked: i32 },
    #[error("Attempted to add {more} additional partition(s), but only {given} assignment(s) were specified.")]
    Assignments { more: usize, given: usize },
    #[error("The manual partition assignment includes an empty replica list.")]
    NoReplicas,
    #[error("The manual partition assignment includes broker {0}, but no such broker is registered.")]
    AssignedUnknown(BrokerId),
    #[error("The manual partition assignment includes the broker {0} more than once.")]
    AssignedTwice(BrokerId),
    #[error(
        "The manual partition assignment includes a partition with {given} replica(s), but this is not consistent with \
         previous partitions, which have {there} replica(s)."
    )]
    AssignedOthers { given: usize, there: usize },
    #[error("topic {0} has been given other settings at the same time: look again, then retry")]
    StaleTopic(TopicName),
    #[error("the defaults of topics' settings have been changed at the same time: look again, then retry")]
    StaleDefaults,
    #[error("the partitioner of topic {0} and its parameters are not changed as other settings are")]
    PartitionerChanged(TopicName),
    #[error("the routing of topic {0} is being changed already: try again when that is done")]
    RoutingUnderWay(TopicName),
    #[error("routing epoch {epoch} of topic {topic} is not being opened")]
    NotOpening { topic: TopicName, epoch: RoutingEpoch },
    #[error("topic {topic} is used by {users}: delete what uses it first")]
    TopicInUse { topic: TopicName, users: String },

    #[error("there is no module {0}: push it first (`millstream module list` shows what there is)")]
    UnknownModule(ModuleRef),
    #[error("module {module} is a {is}; here a {wants} is needed")]
    WrongKind { module: ModuleRef, is: String, wants: String },
    #[error("module {module} is there already with other contents ({there}): versions never change, push a new one")]
    ModuleExists { module: ModuleRef, there: Digest },
    #[error("module {0} has no kind: it exports nothing that can be used")]
    NoKind(ModuleRef),
    #[error("module {module} is used by {user}: change or delete that first")]
    ModuleInUse { module: ModuleRef, user: String },

    #[error("a view's chain has from 1 to {CHAIN_MAX} modules, not {0}")]
    Chain(usize),
    #[error("there is no view with id {0}: it has been deleted")]
    UnknownViewId(ViewId),

    #[error("a transform named {0} exists already: delete it first, or use another name")]
    TransformExists(Name),
    #[error("there is no transform with id {0}: it has been deleted")]
    UnknownTransformId(TransformId),
    #[error("a transform has from 1 to {TRANSFORM_TOPICS_MAX} {what} topics, not {count}")]
    TransformTopics { what: String, count: usize },
    #[error("topic {topic} is named twice as {what}: name each once")]
    Twice { topic: TopicName, what: String },
    #[error("transform {name} would feed itself ({path}): let it write to another topic")]
    Loop { name: Name, path: String },
    #[error("0 lanes: a transform has at least 1")]
    NoLanes,
    #[error("transform {name} has changed since (revision {revision}, now {current}): look again, then retry")]
    StaleTransform { name: Name, revision: u64, current: u64 },
    #[error("transform {0} does not stand at that record: look again with `millstream transform describe {0}`")]
    NotAtRecord(Name),

    #[error("parameters take {bytes} bytes; at most {max} are allowed: shorten them")]
    Params { bytes: usize, max: usize },
    #[error("id {0} is taken: choose a new one for every proposal")]
    IdTaken(String),
}
