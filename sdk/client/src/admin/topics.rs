//! Topics: created, altered, given more partitions, deleted, listed, described.

use std::collections::BTreeMap;

use millstream_model::{
    BrokerId, ConfigSource, DefaultKind, LeaderEpoch, Offset, PARTITIONER, PARTITIONER_PARAM, PartitionId, TopicId,
};
use millstream_protocol::{
    ErrorCode,
    extension::routing::{DescribeRoutingRequest, TopicRouting},
    messages::{
        configs::{
            AlterConfigsResource, AlterableConfig, DescribeConfigsEntry, DescribeConfigsRequest,
            DescribeConfigsResource, IncrementalAlterConfigsRequest, OPERATION_APPEND, OPERATION_DELETE, OPERATION_SET,
            OPERATION_SUBTRACT, RESOURCE_TOPIC, SOURCE_DEFAULT, SOURCE_DYNAMIC_DEFAULT_BROKER, SOURCE_STATIC_BROKER,
        },
        metadata::MetadataTopic,
        offsets::{EARLIEST_TIMESTAMP, LATEST_TIMESTAMP},
        records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic, HIGH_WATERMARK},
        topics::{
            CreatableTopic, CreatableTopicConfig, CreatePartitionsRequest, CreatePartitionsTopic, CreateTopicsRequest,
            DeleteTopicState, DeleteTopicsRequest,
        },
    },
};

use super::{Admin, left_out};
use crate::{
    CallError,
    cluster::{Target, is_unknown},
    offsets::{Found, list_offsets},
};

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; none is the broker's default.
    pub partitions: Option<i32>,
    /// How many replicas each; none is the broker's default.
    pub replicas: Option<i16>,
    /// Settings by name (`millstream.partitioner`, `max.message.bytes`, ...); those not named have their default.
    pub configs: Vec<(String, String)>,
}

/// A change of one of a topic's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Gives it a value.
    Set {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// Gives it its default again.
    Reset {
        /// The setting.
        name: String,
    },
    /// Adds to a setting that is a list.
    Add {
        /// The setting.
        name: String,
        /// What to add, comma-separated.
        value: String,
    },
    /// Takes from a setting that is a list.
    Subtract {
        /// The setting.
        name: String,
        /// What to take, comma-separated.
        value: String,
    },
}

/// Which of a partition's records are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBefore {
    /// Those before this offset, 0 or more.
    Offset(Offset),
    /// All that can be read when the partition's leader is asked.
    End,
}

impl From<ConfigChange> for AlterableConfig {
    fn from(change: ConfigChange) -> Self {
        let (name, config_operation, value) = match change {
            ConfigChange::Set { name, value } => (name, OPERATION_SET, Some(value)),
            ConfigChange::Reset { name } => (name, OPERATION_DELETE, None),
            ConfigChange::Add { name, value } => (name, OPERATION_APPEND, Some(value)),
            ConfigChange::Subtract { name, value } => (name, OPERATION_SUBTRACT, Some(value)),
        };
        Self { name, config_operation, value }
    }
}

/// A topic that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id.
    pub topic_id: TopicId,
    /// How many partitions it has; none if the broker did not say.
    pub partitions: Option<i32>,
}

/// One line of a list of topics. Views are not listed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// Its id.
    pub topic_id: TopicId,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas each.
    pub replicas: i32,
    /// How many partitions have a replica whose log is out of service.
    pub out_of_service: i32,
}

/// A topic with its partitions and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id.
    pub topic_id: TopicId,
    /// How it is routed; none of a view, and for brokers without partitioners.
    pub routing: Option<TopicRouting>,
    /// By index.
    pub partitions: Vec<PartitionDescription>,
    /// In the broker's order.
    pub configs: Vec<ConfigEntry>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its index.
    pub partition: PartitionId,
    /// Who leads it, if anybody does.
    pub leader: Option<BrokerId>,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Where its replicas are.
    pub replicas: Vec<BrokerId>,
    /// The replicas in sync.
    pub isr: Vec<BrokerId>,
    /// The replicas whose logs are out of service. Where the leader's is, the partition has no offsets to tell, and whoever reads or
    /// produces is told why.
    pub offline: Vec<BrokerId>,
    /// Its first offset.
    pub start_offset: Option<Offset>,
    /// The end of what may be read, exclusive.
    pub end_offset: Option<Offset>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value, if it has one.
    pub value: Option<String>,
    /// Where the value is from.
    pub source: ConfigSource,
}

impl Admin {
    /// Creates a topic. It can be produced to when this returns.
    ///
    /// # Errors
    /// The name is taken or illegal, a setting is refused, or the broker could not be asked.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<CreatedTopic, CallError> {
        let NewTopic { name, partitions, replicas, configs } = topic;
        let what = format!("topic {name:?}");
        let configs = configs.into_iter().map(|(name, value)| CreatableTopicConfig { name, value: Some(value) });
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: name.clone(),
                num_partitions: partitions.unwrap_or(-1),
                replication_factor: replicas.unwrap_or(-1),
                assignments: Vec::new(),
                configs: configs.collect(),
            }],
            timeout_ms: self.timeout_ms(),
            validate_only: false,
        };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        let created = response.topics.into_iter().find(|topic| topic.name == name).ok_or_else(|| left_out(&what))?;
        CallError::check(&what, created.error_code, created.error_message.as_deref())?;
        let partitions = Some(created.num_partitions).filter(|count| *count >= 0);
        Ok(CreatedTopic { topic_id: created.topic_id, partitions })
    }

    /// Gives a topic more partitions, so that it has `count`. They can be produced to when this returns. Consumers and producers that run
    /// notice them by themselves.
    ///
    /// # Errors
    /// There is no such topic, it has as many partitions already or more, or the broker allows no more.
    pub async fn create_partitions(&self, name: &str, count: i32) -> Result<(), CallError> {
        let what = format!("topic {name:?}");
        let topic = CreatePartitionsTopic { name: name.into(), count, assignments: None };
        let request =
            CreatePartitionsRequest { topics: vec![topic], timeout_ms: self.timeout_ms(), validate_only: false };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        let altered = response.results.into_iter().next().ok_or_else(|| left_out(&what))?;
        CallError::check(&what, altered.error_code, altered.error_message.as_deref())
    }

    /// Changes a topic's settings: all that are named, or none. They are in force when this returns. What others change of the
    /// same topic at the same time stays changed.
    ///
    /// # Errors
    /// There is no such topic; a setting is unknown, or named twice, or a value is refused.
    pub async fn alter_topic(&self, name: &str, changes: Vec<ConfigChange>) -> Result<(), CallError> {
        let what = format!("topic {name:?}");
        let resource = AlterConfigsResource {
            resource_type: RESOURCE_TOPIC,
            resource_name: name.into(),
            configs: changes.into_iter().map(AlterableConfig::from).collect(),
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        let altered = response.responses.into_iter().next().ok_or_else(|| left_out(&what))?;
        CallError::check(&what, altered.error_code, altered.error_message.as_deref())
    }

    /// Gives a topic another partitioner, or none, with these parameters and no others; together with other changes of its settings, as
    /// [`Admin::alter_topic`]. It is in force when this returns. Producers that run place what they send by it from then on; each key keeps
    /// its order for who reads all that was placed before, in every partition, before what was placed after.
    ///
    /// # Errors
    /// There is no such topic or module, the module does not start with these parameters, or as [`Admin::alter_topic`].
    pub async fn alter_partitioner(
        &self,
        name: &str,
        partitioner: Option<&str>,
        params: Vec<(String, String)>,
        mut changes: Vec<ConfigChange>,
    ) -> Result<(), CallError> {
        let param = |name: &str| format!("{PARTITIONER_PARAM}{name}");
        for there in self.topic_configs(name).await? {
            let is_given = || params.iter().any(|(given, _)| param(given) == there.name);
            if there.name.starts_with(PARTITIONER_PARAM) && !is_given() {
                changes.push(ConfigChange::Reset { name: there.name });
            }
        }
        changes.push(match partitioner {
            Some(module) => ConfigChange::Set { name: PARTITIONER.into(), value: module.into() },
            None => ConfigChange::Reset { name: PARTITIONER.into() },
        });
        changes.extend(params.into_iter().map(|(name, value)| ConfigChange::Set { name: param(&name), value }));
        self.alter_topic(name, changes).await
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// There is none of this name, or something still uses it.
    pub async fn delete_topic(&self, name: &str) -> Result<(), CallError> {
        let what = format!("topic {name:?}");
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicState { name: Some(name.into()), ..DeleteTopicState::default() }],
            topic_names: vec![name.into()],
            timeout_ms: self.timeout_ms(),
        };
        let response = self.cluster.ask_once(Target::Any, request).await?;
        let deleted = response.responses.into_iter().next().ok_or_else(|| left_out(&what))?;
        CallError::check(&what, deleted.error_code, deleted.error_message.as_deref())
    }

    /// Deletes a partition's first records. Gives the first offset that is kept, which may be a later one than asked for. Durable when it
    /// returns; room on the disk comes later, in whole segments.
    ///
    /// # Errors
    /// There is no such topic or partition, or it ends before the offset, which may not be negative (`OffsetOutOfRange`).
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: PartitionId,
        before: DeleteBefore,
    ) -> Result<Offset, CallError> {
        let what = format!("{topic} partition {partition}");
        let offset = match before {
            DeleteBefore::End => HIGH_WATERMARK,
            // On the wire, a negative one may mean the end.
            DeleteBefore::Offset(offset) if offset.0 < 0 => {
                let message = format!("an offset is 0 or more, not {offset}");
                return Err(CallError::refused(what, ErrorCode::OffsetOutOfRange, Some(&message)));
            }
            DeleteBefore::Offset(offset) => offset,
        };
        let (leader, _) = self.cluster.refresh_topic(topic).await?.leader(partition)?;
        let asked = DeleteRecordsPartition { partition_index: partition, offset };
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic { name: topic.into(), partitions: vec![asked] }],
            timeout_ms: self.timeout_ms(),
        };
        let response = self.cluster.ask_once(Target::Broker(leader), request).await?;
        let mut partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
        let deleted = partitions.next().ok_or_else(|| left_out(&what))?;
        CallError::check(&what, deleted.error_code, None)?;
        Ok(deleted.low_watermark)
    }

    /// The topics, by name; without views and the cluster's own, which brokers call internal.
    ///
    /// # Errors
    /// The broker could not be asked.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>, CallError> {
        let metadata = self.cluster.metadata(self.cluster.deadline(), None).await?;
        let line = |topic: MetadataTopic| TopicListing {
            out_of_service: out_of_service(&topic),
            name: topic.name.unwrap_or_default(),
            topic_id: topic.topic_id,
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
            replicas: topic.partitions.iter().map(|at| at.replica_nodes.len()).max().unwrap_or(0) as i32,
        };
        let mut topics: Vec<_> = metadata.topics.into_iter().filter(|topic| !topic.is_internal).map(line).collect();
        topics.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(topics)
    }

    /// A topic (or view) with its partitions, offsets and settings. A view has no settings.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, CallError> {
        let (topic, found) = self.cluster.look_up(self.cluster.deadline(), name).await?;
        // A partition without a leader, or one that is out of service, has no offsets to tell, and must not hide those that have.
        let offline: Vec<_> =
            found.partitions.iter().filter(|at| at.offline_replicas.contains(&at.leader_id)).collect();
        let is_offline = |at: PartitionId| offline.iter().any(|offline| offline.partition_index == at);
        let led: Vec<_> = topic
            .partitions
            .iter()
            .filter(|(at, leader)| leader.broker.is_some() && !is_offline(**at))
            .map(|(at, _)| *at)
            .collect();
        let starts = list_offsets(&self.cluster, &topic, &led, EARLIEST_TIMESTAMP).await?;
        let ends = list_offsets(&self.cluster, &topic, &led, LATEST_TIMESTAMP).await?;
        let offset = |from: &BTreeMap<PartitionId, Found>, at| {
            from.get(&at).and_then(|found| found.as_ref().ok().copied().flatten())
        };
        let mut partitions: Vec<_> = found
            .partitions
            .into_iter()
            .map(|at| PartitionDescription {
                partition: at.partition_index,
                leader: Some(at.leader_id).filter(|leader| leader.0 >= 0),
                leader_epoch: at.leader_epoch,
                replicas: at.replica_nodes,
                isr: at.isr_nodes,
                offline: at.offline_replicas,
                start_offset: offset(&starts, at.partition_index),
                end_offset: offset(&ends, at.partition_index),
            })
            .collect();
        partitions.sort_by_key(|at| at.partition);
        let routing = match self.describe_routing(name).await {
            Ok(routing) => Some(routing),
            Err(CallError::NotServed { .. }) => None,
            // Of a view: it is its topic that is routed.
            Err(error) if error.code() == Some(ErrorCode::InvalidTopic) => None,
            Err(error) => return Err(error),
        };
        let configs = match self.topic_configs(name).await {
            Ok(configs) => configs,
            // A view's name is known, its settings are not: it has none.
            Err(error) if is_unknown(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(TopicDescription { name: name.into(), topic_id: topic.id, routing, partitions, configs })
    }

    /// How a topic's records find their partitions.
    ///
    /// # Errors
    /// There is no topic of this name.
    pub async fn describe_routing(&self, topic: &str) -> Result<TopicRouting, CallError> {
        let what = format!("topic {topic:?}");
        let request = DescribeRoutingRequest { topics: vec![topic.into()] };
        let response = self.cluster.ask(Target::Any, request).await?;
        CallError::check(&what, response.error_code, response.error_message.as_deref())?;
        let routing = response.topics.into_iter().next().ok_or_else(|| left_out(&what))?;
        CallError::check(&what, routing.error_code, routing.error_message.as_deref())?;
        Ok(routing)
    }

    /// A topic's settings.
    ///
    /// # Errors
    /// There is no topic of this name.
    pub async fn topic_configs(&self, topic: &str) -> Result<Vec<ConfigEntry>, CallError> {
        let what = format!("topic {topic:?}");
        let resource = DescribeConfigsResource {
            resource_type: RESOURCE_TOPIC,
            resource_name: topic.into(),
            configuration_keys: None,
        };
        let request =
            DescribeConfigsRequest { resources: vec![resource], include_synonyms: false, include_documentation: false };
        let response = self.cluster.ask(Target::Any, request).await?;
        let result = response.results.into_iter().next().ok_or_else(|| left_out(&what))?;
        CallError::check(&what, result.error_code, result.error_message.as_deref())?;
        let entry = |entry: DescribeConfigsEntry| ConfigEntry {
            name: entry.name,
            value: entry.value,
            source: match entry.config_source {
                SOURCE_DYNAMIC_DEFAULT_BROKER => ConfigSource::Defaults(DefaultKind::Dynamic),
                SOURCE_STATIC_BROKER => ConfigSource::Defaults(DefaultKind::Static),
                SOURCE_DEFAULT => ConfigSource::Nobody,
                _ => ConfigSource::Topic,
            },
        };
        Ok(result.configs.into_iter().map(entry).collect())
    }
}

/// How many of a topic's partitions have a replica whose log is out of service.
fn out_of_service(topic: &MetadataTopic) -> i32 {
    let count = topic.partitions.iter().filter(|at| !at.offline_replicas.is_empty()).count();
    i32::try_from(count).unwrap_or(i32::MAX)
}
