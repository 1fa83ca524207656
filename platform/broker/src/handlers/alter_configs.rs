//! AlterConfigs and IncrementalAlterConfigs: settings of topics, and their defaults, changed, agreed on, and in force on this broker before
//! the answer.

use std::sync::Arc;

use millstream_catalog::{Command, ProposeError, Refused, Topic};
use millstream_model::TopicConfig;
use millstream_protocol::{
    ErrorCode,
    messages::configs::{
        AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse, AlterableConfig,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, OPERATION_APPEND, OPERATION_DELETE,
        OPERATION_SET, OPERATION_SUBTRACT, RESOURCE_BROKER, RESOURCE_TOPIC, ReplacedConfig, ReplacedConfigs,
    },
};

use super::{
    alter_defaults,
    create_topics::{check_insync_replicas_min, check_partitioner},
    wire::times_named,
};
use crate::{
    errors::{Messages, WireError},
    readable::topic_named,
    shared::Shared,
};

/// How often a change is made anew because somebody else's came first. Each time one of them went ahead.
pub(super) const ATTEMPTS: usize = 10;

/// What a request asks of one resource.
pub(super) enum Changes {
    /// IncrementalAlterConfigs: these settings change.
    Named(Vec<AlterableConfig>),
    /// AlterConfigs: these settings are all that are given.
    All(Vec<ReplacedConfig>),
}

/// Answers IncrementalAlterConfigs.
pub(crate) async fn change(
    shared: Arc<Shared>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let resource = |resource: AlterConfigsResource| {
        ((resource.resource_type, resource.resource_name), Changes::Named(resource.configs))
    };
    let resources = request.resources.into_iter().map(resource).collect();
    let responses = alter_all(&shared, resources, request.validate_only).await;
    IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

/// Answers AlterConfigs.
pub(crate) async fn replace(shared: Arc<Shared>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let resource =
        |resource: ReplacedConfigs| ((resource.resource_type, resource.resource_name), Changes::All(resource.configs));
    let resources = request.resources.into_iter().map(resource).collect();
    let responses = alter_all(&shared, resources, request.validate_only).await;
    AlterConfigsResponse { responses, ..Default::default() }
}

/// `resources`: by type and name.
async fn alter_all(
    shared: &Shared,
    resources: Vec<((i8, String), Changes)>,
    validate_only: bool,
) -> Vec<AlterConfigsResourceResponse> {
    let mut named = times_named(resources.iter().map(|(key, _)| key.clone()));
    let (mut responses, mut messages) = (Vec::new(), Messages::new());
    for (key, changes) in resources {
        let Some(times) = named.remove(&key) else { continue };
        let outcome = match times {
            1 => alter(shared, &key, &changes, validate_only).await,
            _ => Err(WireError::new(ErrorCode::InvalidRequest, "each resource must appear at most once")),
        };
        let (resource_type, resource_name) = key;
        let mut response = AlterConfigsResourceResponse { resource_type, resource_name, ..Default::default() };
        if let Err(error) = outcome {
            response.error_code = error.kafka_code();
            response.error_message = messages.say(&error.message);
        }
        responses.push(response);
    }
    responses
}

async fn alter(
    shared: &Shared,
    (resource_type, name): &(i8, String),
    changes: &Changes,
    validate_only: bool,
) -> Result<(), WireError> {
    match *resource_type {
        RESOURCE_TOPIC if name.is_empty() => {
            return Err(WireError::new(ErrorCode::InvalidRequest, "Default topic resources are not allowed."));
        }
        RESOURCE_TOPIC => {}
        RESOURCE_BROKER => return alter_defaults::alter(shared, name, changes, validate_only).await,
        other => {
            let message = format!("resources of type {other} have no settings here: 2 is a topic");
            return Err(WireError::new(ErrorCode::InvalidRequest, message));
        }
    }
    let mut attempts = ATTEMPTS;
    let altered;
    loop {
        let state = shared.catalog.state();
        let topic = topic_named(&state, name, "alter the topic's settings")?;
        let mut config = match changes {
            Changes::Named(changes) => changed(&topic.config, changes)?,
            Changes::All(settings) => replaced(&topic.config, settings)?,
        };
        config.follow(&state.topic_defaults);
        // A topic that asks for too many since before that was refused can be altered otherwise.
        if config.insync_replicas_min != topic.config.insync_replicas_min {
            let replicas = topic.partitions.iter().map(|partition| partition.replicas.len()).min();
            check_insync_replicas_min(&config, replicas.unwrap_or(1))?;
        }
        let (id, from, to) = (topic.id, Box::new(topic.config.clone()), Box::new(config));
        let routes_anew = !from.routes_as(&to);
        let would_be = Topic { config: (*to).clone(), ..(**topic).clone() };
        let command = match from.alters_routing(&to) {
            true => Command::AlterRouting { id, from, to },
            false => Command::AlterTopic { id, from, to },
        };
        attempts -= 1;
        if routes_anew || validate_only {
            match shared.dry_run(&command) {
                // One change of its routing at a time: that one first.
                Err(Refused::RoutingUnderWay(_)) if attempts > 0 => {
                    shared.partitions.open_routings(&shared.catalog, Some(id)).await?;
                    continue;
                }
                outcome => drop(outcome?),
            }
        }
        if validate_only {
            return Ok(());
        }
        if !command.makes_room() {
            shared.require_room(0)?;
        }
        if routes_anew {
            check_partitioner(shared, &state, &would_be).await?;
        }
        match shared.catalog.propose(command).await {
            Err(ProposeError::Refused(Refused::StaleTopic(_) | Refused::RoutingUnderWay(_))) if attempts > 0 => {}
            outcome => {
                outcome?;
                altered = id;
                break;
            }
        }
    }
    shared.partitions.put_in_force(&shared.catalog, altered).await?;
    Ok(())
}

/// The settings as they are after the changes.
fn changed(config: &TopicConfig, changes: &[AlterableConfig]) -> Result<TopicConfig, WireError> {
    each_once(changes.iter().map(|change| change.name.as_str()))?;
    let mut config = config.clone();
    for AlterableConfig { name, config_operation, value, .. } in changes {
        match *config_operation {
            OPERATION_SET => config.set(name, given(name, value)?)?,
            OPERATION_DELETE => config.reset(name)?,
            OPERATION_APPEND => config.add(name, given(name, value)?)?,
            OPERATION_SUBTRACT => config.subtract(name, given(name, value)?)?,
            other => return Err(no_operation(name, other)),
        }
    }
    Ok(config)
}

/// The settings as they are when all are replaced, except the partitioner: Kafka's clients, which put back what they know of, may not name
/// it, and it decides the order of what is produced.
fn replaced(config: &TopicConfig, settings: &[ReplacedConfig]) -> Result<TopicConfig, WireError> {
    each_once(settings.iter().map(|setting| setting.name.as_str()))?;
    let mut replaced = TopicConfig {
        partitioner: config.partitioner.clone(),
        partitioner_enforce: config.partitioner_enforce,
        partitioner_params: config.partitioner_params.clone(),
        ..TopicConfig::default()
    };
    for ReplacedConfig { name, value } in settings {
        replaced.set(name, given(name, value)?)?;
    }
    Ok(replaced)
}

pub(super) fn no_operation(name: &str, other: i8) -> WireError {
    let message = format!("{name:?}: {other} is no operation: 0 sets, 1 deletes, 2 appends, 3 subtracts");
    WireError::new(ErrorCode::InvalidRequest, message)
}

pub(super) fn each_once<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), WireError> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    match names.array_windows().find(|[one, two]| one == two) {
        Some([twice, _]) => Err(WireError::new(ErrorCode::InvalidRequest, format!("{twice:?} is changed twice"))),
        None => Ok(()),
    }
}

pub(super) fn given<'a>(name: &str, value: &'a Option<String>) -> Result<&'a str, WireError> {
    value.as_deref().ok_or_else(|| WireError::new(ErrorCode::InvalidRequest, format!("{name:?} is given no value")))
}

#[cfg(test)]
mod tests {
    use millstream_catalog::{Catalog, CatalogOptions};
    use millstream_log::Retention;
    use millstream_model::{BrokerId, CleanupPolicy, Durability, PartitionId, TimestampMs, TopicId, TopicName, ViewId};
    use millstream_protocol::messages::configs::DescribeConfigsRequest;
    use millstream_record::{BatchBuilder, BatchOptions};
    use millstream_replica::Acks;
    use uuid::Uuid;

    use super::*;
    use crate::{Broker, BrokerOptions, handlers::describe_configs, partition::Partition, testing::push_module};

    const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

    /// A broker with a topic `t`, and a view of it `v`.
    async fn broker(dir: &std::path::Path) -> Broker {
        let options = BrokerOptions::new(BrokerId(1), dir.into());
        let (broker, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
        let shared = broker.shared();
        let name = |name| TopicName::new(name).unwrap();
        let topic = Command::CreateTopic {
            id: TOPIC,
            name: name("t"),
            partitions: 1,
            replication_factor: 1,
            config: TopicConfig::default(),
            at: TimestampMs(0),
        };
        shared.catalog.propose(topic).await.unwrap();
        let module = "m@1".parse::<millstream_model::ModuleRef>().unwrap();
        let push = push_module(&module);
        shared.catalog.propose(push).await.unwrap();
        let view = Command::CreateView {
            id: ViewId(Uuid::from_u128(8)),
            name: name("v"),
            topic: name("t"),
            chain: vec![module],
            params: Default::default(),
            at: TimestampMs(0),
        };
        shared.catalog.propose(view).await.unwrap();
        shared.partitions.follow(&shared.catalog).await.unwrap();
        broker
    }

    fn to(name: &str, config_operation: i8, value: Option<&str>) -> AlterableConfig {
        AlterableConfig { name: name.into(), config_operation, value: value.map(Into::into) }
    }

    fn resource(resource_type: i8, name: &str, configs: Vec<AlterableConfig>) -> AlterConfigsResource {
        AlterConfigsResource { resource_type, resource_name: name.into(), configs }
    }

    async fn ask(
        broker: &Broker,
        resources: Vec<AlterConfigsResource>,
        validate_only: bool,
    ) -> Vec<(ErrorCode, String)> {
        let request = IncrementalAlterConfigsRequest { resources, validate_only };
        let answer = change(broker.shared().clone(), request).await;
        let told =
            |response: AlterConfigsResourceResponse| (response.error_code, response.error_message.unwrap_or_default());
        answer.responses.into_iter().map(told).collect()
    }

    async fn alter_t(broker: &Broker, changes: &[(&str, i8, Option<&str>)]) {
        let changes = changes.iter().map(|(name, operation, value)| to(name, *operation, *value)).collect();
        let told = ask(broker, vec![resource(RESOURCE_TOPIC, "t", changes)], false).await;
        assert_eq!(told, [(ErrorCode::None, String::new())]);
    }

    /// Ends the task that follows the catalog by itself: what is in force from here on is so by who has changed it.
    async fn follow_no_more(broker: &Broker) {
        let shared = broker.shared();
        shared.stop.cancel();
        // After the step that it may be in.
        shared.partitions.follow(&shared.catalog).await.unwrap();
        shared.partitions.change(&shared.catalog).await.unwrap();
    }

    fn config(broker: &Broker) -> TopicConfig {
        broker.shared().catalog.state().topic("t").unwrap().config.clone()
    }

    fn led(broker: &Broker) -> Arc<Partition> {
        broker.shared().partitions.find(TOPIC, PartitionId(0)).unwrap()
    }

    fn append(partition: &Arc<Partition>, bytes: usize) -> bool {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(5), Some(b"k"), Some(&vec![b'x'; bytes]), &[]).unwrap();
        partition.append(vec![builder.build().unwrap()], Acks::All).is_ok()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_cannot_be_is_refused_with_kafkas_codes_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path()).await;
        let before = config(&broker);
        for (kind, name, changes, code, said) in [
            (RESOURCE_TOPIC, "absent", vec![], ErrorCode::UnknownTopicOrPartition, "absent"),
            (RESOURCE_TOPIC, "v", vec![], ErrorCode::InvalidTopic, "view"),
            (RESOURCE_TOPIC, "", vec![], ErrorCode::InvalidRequest, "Default topic"),
            (RESOURCE_BROKER, "1", vec![("retention.ms", 0, Some("1"))], ErrorCode::InvalidRequest, "broker"),
            (8, "1", vec![], ErrorCode::InvalidRequest, "type 8"),
            (RESOURCE_TOPIC, "t", vec![("no.such", 0, Some("1"))], ErrorCode::InvalidConfig, "no.such"),
            (RESOURCE_TOPIC, "t", vec![("no.such", 1, None)], ErrorCode::InvalidConfig, "no.such"),
            (RESOURCE_TOPIC, "t", vec![("segment.bytes", 0, Some("1"))], ErrorCode::InvalidConfig, "segment.bytes"),
            (RESOURCE_TOPIC, "t", vec![("compression.type", 0, Some("zstd"))], ErrorCode::InvalidConfig, "not built"),
            (RESOURCE_TOPIC, "t", vec![("min.insync.replicas", 0, Some("2"))], ErrorCode::InvalidConfig, "which is 1"),
            (RESOURCE_TOPIC, "t", vec![("retention.ms", 2, Some("1"))], ErrorCode::InvalidConfig, "not a list"),
            (RESOURCE_TOPIC, "t", vec![("cleanup.policy", 3, Some("delete"))], ErrorCode::InvalidConfig, "takes"),
            (RESOURCE_TOPIC, "t", vec![("retention.ms", 0, None)], ErrorCode::InvalidRequest, "no value"),
            (RESOURCE_TOPIC, "t", vec![("retention.ms", 4, Some("1"))], ErrorCode::InvalidRequest, "4 is no operation"),
            (
                RESOURCE_TOPIC,
                "t",
                vec![("retention.ms", 0, Some("1")), ("retention.ms", 1, None)],
                ErrorCode::InvalidRequest,
                "twice",
            ),
            // The first change is sound; the second is not, so neither is made.
            (
                RESOURCE_TOPIC,
                "t",
                vec![("retention.ms", 0, Some("1")), ("segment.ms", 0, Some("0"))],
                ErrorCode::InvalidConfig,
                "segment.ms",
            ),
            (
                RESOURCE_TOPIC,
                "t",
                vec![("millstream.partitioner", 0, Some("m@1"))],
                ErrorCode::InvalidConfig,
                "a partitioner is needed",
            ),
        ] {
            let changes: Vec<_> =
                changes.into_iter().map(|(name, operation, value)| to(name, operation, value)).collect();
            // Who only asks whether it may be is told the same.
            for validate_only in [true, false] {
                let told = ask(&broker, vec![resource(kind, name, changes.clone())], validate_only).await;
                let at = format!("{code:?} {said}, validate only: {validate_only}");
                assert!(told.len() == 1 && told[0].0 == code && told[0].1.contains(said), "{at}: {told:?}");
                assert_eq!(config(&broker), before, "{at}");
            }
        }
        let retention = |name: &str| resource(RESOURCE_TOPIC, name, vec![to("retention.ms", OPERATION_SET, Some("1"))]);
        // Named twice: told once, and neither counts. Others of the request are no matter.
        let told = ask(&broker, vec![retention("t"), retention("absent"), retention("t")], false).await;
        assert_eq!(
            told.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
            [ErrorCode::InvalidRequest, ErrorCode::UnknownTopicOrPartition]
        );
        assert_eq!(ask(&broker, vec![retention("t")], true).await, [(ErrorCode::None, String::new())]);
        assert_eq!(config(&broker), before, "a check changes nothing");
        broker.shutdown().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_changed_is_in_force_when_it_is_answered_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path()).await;
        follow_no_more(&broker).await;
        let partition = led(&broker);
        let mib = 1 << 20;
        assert!(append(&partition, 3 * mib / 4) && append(&partition, 3 * mib / 4));
        assert_eq!(partition.log.closed_segments().unwrap().len(), 0);
        alter_t(
            &broker,
            &[
                ("segment.bytes", OPERATION_SET, Some("1048576")),
                ("retention.ms", OPERATION_SET, Some("86400000")),
                ("retention.bytes", OPERATION_SET, Some("5000")),
                ("max.message.bytes", OPERATION_SET, Some("900000")),
                ("cleanup.policy", OPERATION_APPEND, Some("compact")),
            ],
        )
        .await;
        assert_eq!(partition.batch_bytes_max(), 900_000);
        assert_eq!(partition.retention(), Retention { ms: Some(86_400_000), bytes: Some(5000) });
        assert_eq!(partition.topic().config.cleanup_policy, CleanupPolicy::CompactDelete);
        assert!(append(&partition, 3 * mib / 4));
        assert_eq!(partition.log.closed_segments().unwrap().len(), 1, "the segment was full by the new size");
        alter_t(
            &broker,
            &[("retention.ms", OPERATION_DELETE, None), ("cleanup.policy", OPERATION_SUBTRACT, Some("delete"))],
        )
        .await;
        assert_eq!(partition.retention(), Retention::default(), "a topic that is compacted only deletes nothing");
        // Refused today, and taken by earlier versions: such a topic can be altered, and mended.
        let from = config(&broker);
        let to = TopicConfig { insync_replicas_min: 2, ..from.clone() };
        let command = Command::AlterTopic { id: TOPIC, from: Box::new(from), to: Box::new(to) };
        broker.shared().catalog.propose(command).await.unwrap();
        alter_t(&broker, &[("max.message.bytes", OPERATION_SET, Some("900001"))]).await;
        assert!(!append(&partition, 1), "one replica is not enough any more");
        let mend =
            [("min.insync.replicas", OPERATION_DELETE, None), ("max.message.bytes", OPERATION_SET, Some("900000"))];
        alter_t(&broker, &mend).await;
        assert!(append(&partition, 1));
        let asked = millstream_protocol::messages::configs::DescribeConfigsResource {
            resource_type: RESOURCE_TOPIC,
            resource_name: "t".into(),
            configuration_keys: None,
        };
        let told = describe_configs::handle(
            broker.shared(),
            4,
            DescribeConfigsRequest { resources: vec![asked], ..Default::default() },
        );
        let entry = |name: &str| told.results[0].configs.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry("cleanup.policy").value.as_deref(), Some("compact"));
        assert_eq!(entry("retention.ms").value.as_deref(), Some("604800000"));
        assert!(!entry("retention.ms").read_only && !entry("millstream.partitioner").read_only);
        let changed = config(&broker);
        broker.shutdown().await.unwrap();
        drop((partition, broker));
        // They hold for whoever leads the partition next, too.
        let options = BrokerOptions::new(BrokerId(1), dir.path().into());
        let (again, _) = Broker::start(options, millstream_env::real::env(), Vec::new()).await.unwrap();
        assert_eq!(config(&again), changed);
        assert_eq!(led(&again).batch_bytes_max(), 900_000);
        again.shutdown().await.unwrap();
    }

    /// Kafka's older way, in which a client names all that it wants to keep.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_replacement_does_not_name_has_its_default_again_except_the_partitioner() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path()).await;
        let settings = [("retention.ms", "1"), ("segment.ms", "2"), ("millstream.partitioner.param.field", "tailnum")];
        let with_settings = TopicConfig::from_pairs(settings).unwrap();
        let topic = Command::CreateTopic {
            id: TopicId(Uuid::from_u128(9)),
            name: TopicName::new("p").unwrap(),
            partitions: 1,
            replication_factor: 1,
            config: with_settings.clone(),
            at: TimestampMs(0),
        };
        broker.shared().catalog.propose(topic).await.unwrap();
        let config = || broker.shared().catalog.state().topic("p").unwrap().config.clone();
        let replaced = async |settings: &[(&str, Option<&str>)], validate_only| {
            let setting = |(name, value): &(&str, Option<&str>)| ReplacedConfig {
                name: (*name).into(),
                value: value.map(Into::into),
            };
            let configs = settings.iter().map(setting).collect();
            let resource = ReplacedConfigs { resource_type: RESOURCE_TOPIC, resource_name: "p".into(), configs };
            let request = AlterConfigsRequest { resources: vec![resource], validate_only };
            let answer = replace(broker.shared().clone(), request).await.responses.remove(0);
            (answer.error_code, answer.error_message.unwrap_or_default())
        };
        let refused = [
            (vec![("retention.ms", None)], ErrorCode::InvalidRequest, "no value"),
            (vec![("retention.ms", Some("1")), ("retention.ms", Some("2"))], ErrorCode::InvalidRequest, "twice"),
            (vec![("segment.ms", Some("5")), ("no.such", Some("1"))], ErrorCode::InvalidConfig, "no.such"),
            (vec![("millstream.partitioner", Some("m@1"))], ErrorCode::InvalidConfig, "a partitioner is"),
        ];
        for (settings, code, said) in refused {
            let told = replaced(&settings, false).await;
            assert!(told.0 == code && told.1.contains(said), "{said}: {told:?}");
        }
        assert_eq!(replaced(&[("segment.ms", Some("5"))], true).await.0, ErrorCode::None);
        assert_eq!(config(), with_settings, "neither a refusal nor a check changes anything");
        assert_eq!(replaced(&[("segment.ms", Some("5"))], false).await.0, ErrorCode::None);
        let left = [("segment.ms", "5"), ("millstream.partitioner.param.field", "tailnum")];
        assert_eq!(config(), TopicConfig::from_pairs(left).unwrap());
        broker.shutdown().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_acknowledgement_means_what_the_topic_asks_for_from_the_answer_on() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path()).await;
        follow_no_more(&broker).await;
        let partition = led(&broker);
        assert!(append(&partition, 100));
        alter_t(&broker, &[("millstream.durability", OPERATION_SET, Some("replicated"))]).await;
        let log = &partition.log;
        assert_eq!((log.durability(), log.flushed_end()), (Durability::Replicated, log.end_offset()));
        assert_eq!(partition.high_watermark(), log.end_offset(), "what was under way is done");
        for _ in 0..100 {
            assert!(append(&partition, 100));
            assert_eq!(partition.high_watermark(), log.end_offset(), "in memory is enough");
        }
        alter_t(&broker, &[("millstream.durability", OPERATION_DELETE, None)]).await;
        assert_eq!((log.durability(), log.flushed_end()), (Durability::Fsync, log.end_offset()));
        assert!(append(&partition, 100));
        partition.committed(log.end_offset()).await;
        assert_eq!(partition.high_watermark(), log.flushed_end(), "what counts is on disk");
        broker.shutdown().await.unwrap();
    }

    /// The broker ended between the catalog's change and the log's.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_the_catalog_says_is_made_so_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path()).await;
        assert!(append(&led(&broker), 100));
        broker.shutdown().await.unwrap();
        drop(broker);
        let env = millstream_env::real::env();
        let options = CatalogOptions::new(dir.path().join("catalog"), BrokerId(1));
        let catalog = Catalog::open(CatalogOptions { projection_dir: None, ..options }, env.clone()).await.unwrap();
        let from = TopicConfig::default();
        let to = TopicConfig { durability: Durability::Replicated, ..from.clone() };
        catalog.propose(Command::AlterTopic { id: TOPIC, from: from.into(), to: to.into() }).await.unwrap();
        catalog.shutdown().await;
        let options = BrokerOptions::new(BrokerId(1), dir.path().into());
        let (broker, _) = Broker::start(options, env, Vec::new()).await.unwrap();
        let partition = led(&broker);
        // As nothing else would tell it, ask until it is so.
        let start = std::time::Instant::now();
        while partition.log.durability() != Durability::Replicated {
            assert!(start.elapsed() < std::time::Duration::from_secs(60), "the log is not changed");
            tokio::task::yield_now().await;
        }
        broker.shutdown().await.unwrap();
    }

    /// The catalog calls the topic durable, and the log was not changed yet when the machine lost its power.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_log_that_was_still_to_be_changed_may_have_lost_records() {
        for clean in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let broker = broker(dir.path()).await;
            alter_t(&broker, &[("millstream.durability", OPERATION_SET, Some("replicated"))]).await;
            assert!(append(&led(&broker), 100));
            let from = config(&broker);
            broker.shutdown().await.unwrap();
            drop(broker);
            let env = millstream_env::real::env();
            let options = CatalogOptions::new(dir.path().join("catalog"), BrokerId(1));
            let catalog = Catalog::open(CatalogOptions { projection_dir: None, ..options }, env.clone()).await.unwrap();
            let to = TopicConfig { durability: Durability::Fsync, ..from.clone() };
            catalog.propose(Command::AlterTopic { id: TOPIC, from: from.into(), to: to.into() }).await.unwrap();
            catalog.shutdown().await;
            if !clean {
                std::fs::remove_file(dir.path().join("CLEAN")).unwrap();
            }
            let options = BrokerOptions::new(BrokerId(1), dir.path().into());
            let (broker, recovered) = Broker::start(options, env, Vec::new()).await.unwrap();
            assert_eq!(recovered.clean, clean);
            let state = broker.shared().catalog.state();
            assert_eq!(state.topic("t").unwrap().partitions[0].loss_possible, !clean);
            drop(state);
            broker.shutdown().await.unwrap();
        }
    }

    /// Each changes what it names and no more, whoever comes first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn changes_at_the_same_time_lose_none() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path()).await;
        let set = |name: &'static str, value: &'static str| alter_t_owned(&broker, name, value);
        futures::join!(
            set("retention.ms", "1000"),
            set("retention.bytes", "2000"),
            set("segment.ms", "3000"),
            set("delete.retention.ms", "4000"),
        );
        let expected = [
            ("retention.ms", "1000"),
            ("retention.bytes", "2000"),
            ("segment.ms", "3000"),
            ("delete.retention.ms", "4000"),
        ];
        assert_eq!(config(&broker), TopicConfig::from_pairs(expected).unwrap());
        broker.shutdown().await.unwrap();
    }

    async fn alter_t_owned(broker: &Broker, name: &str, value: &str) {
        alter_t(broker, &[(name, OPERATION_SET, Some(value))]).await;
    }
}
