//! The defaults of topics' settings: told by who starts a broker, and changed while it runs, as Kafka's clients change settings of all
//! brokers (`--entity-type brokers --entity-default`). Topics that follow them have them before the answer.

use std::collections::BTreeMap;

use millstream_catalog::{Catalog, Command, ProposeError, Refused, State};
use millstream_model::{ConfigError, DefaultKind, TopicDefaults};
use millstream_protocol::{
    ErrorCode,
    messages::configs::{
        AlterableConfig, OPERATION_APPEND, OPERATION_DELETE, OPERATION_SET, OPERATION_SUBTRACT, ReplacedConfig,
    },
};

use super::{
    alter_configs::{ATTEMPTS, Changes, each_once, given, no_operation},
    create_topics::check_insync_replicas_min,
    describe_configs::is_brokers,
};
use crate::{errors::WireError, shared::Shared};

/// `name`: of all brokers, which is none, or one of them.
pub(super) async fn alter(
    shared: &Shared,
    name: &str,
    changes: &Changes,
    validate_only: bool,
) -> Result<(), WireError> {
    if !name.is_empty() {
        let message = "settings of one broker are given when it is started (`millstream serve --help`), and not changed while it runs. \
                       The defaults of topics' settings can be, for all brokers: leave the broker's number out \
                       (`--entity-default`)";
        return Err(WireError::new(ErrorCode::InvalidRequest, message));
    }
    let mut attempts = ATTEMPTS;
    loop {
        let state = shared.catalog.state();
        let kind = DefaultKind::Dynamic;
        let to = match changes {
            Changes::Named(changes) => changed(shared, &state.topic_defaults, changes)?,
            Changes::All(settings) => replaced(shared, settings)?,
        };
        check(&state, &state.topic_defaults.with(kind, to.clone()))?;
        let command = Command::AlterTopicDefaults { kind, from: state.topic_defaults.of(kind).clone(), to };
        if validate_only {
            return Ok(());
        }
        shared.require_room(0)?;
        attempts -= 1;
        match shared.catalog.propose(command).await {
            Err(ProposeError::Refused(Refused::StaleDefaults)) if attempts > 0 => {}
            outcome => {
                outcome?;
                return Ok(shared.partitions.follow(&shared.catalog).await?);
            }
        }
    }
}

/// Has the cluster know what defaults a broker was started with; all that were not told are as in Kafka, or were changed since.
///
/// # Errors
/// In words for the operator.
pub(crate) async fn tell(catalog: &Catalog, defaults: &BTreeMap<String, String>) -> Result<(), String> {
    let kind = DefaultKind::Static;
    loop {
        let state = catalog.state();
        let from = state.topic_defaults.of(kind).clone();
        if from == *defaults {
            return Ok(());
        }
        let to = defaults.clone();
        check(&state, &state.topic_defaults.with(kind, to.clone())).map_err(|error| error.message)?;
        match catalog.propose(Command::AlterTopicDefaults { kind, from, to }).await {
            Err(ProposeError::Refused(Refused::StaleDefaults)) => {}
            outcome => return outcome.map(drop).map_err(|error| error.to_string()),
        }
    }
}

/// Whether every topic can have them that follows them, and a new one.
fn check(state: &State, defaults: &TopicDefaults) -> Result<(), WireError> {
    let config = defaults.config();
    if config.insync_replicas_min == state.topic_defaults.config().insync_replicas_min {
        return Ok(());
    }
    let followers = state.topics.values().filter(|topic| !topic.config.given.has("min.insync.replicas"));
    let replicas = followers.flat_map(|topic| &topic.partitions).map(|partition| partition.replicas.len());
    check_insync_replicas_min(&config, replicas.chain([state.brokers.len()]).min().unwrap_or(1))
}

/// What was changed of them after these changes, too.
fn changed(
    shared: &Shared,
    defaults: &TopicDefaults,
    changes: &[AlterableConfig],
) -> Result<BTreeMap<String, String>, WireError> {
    each_once(changes.iter().map(|change| change.name.as_str()))?;
    let mut changed = defaults.of(DefaultKind::Dynamic).clone();
    let in_force = defaults.config();
    for AlterableConfig { name, config_operation, value, .. } in changes {
        let key = topics_name(shared, name)?;
        let mut config = in_force.clone();
        match *config_operation {
            OPERATION_SET => {
                changed.extend(part(name, value)?);
                continue;
            }
            OPERATION_DELETE => {
                changed.remove(key);
                continue;
            }
            OPERATION_APPEND => config.add(key, given(name, value)?).map_err(unfit)?,
            OPERATION_SUBTRACT => config.subtract(key, given(name, value)?).map_err(unfit)?,
            other => return Err(no_operation(name, other)),
        }
        let shown = config.pairs().find(|(known, ..)| known == key).and_then(|(_, value, _)| value);
        changed.insert(key.to_owned(), shown.unwrap_or_default());
    }
    Ok(changed)
}

/// These, and nothing else.
fn replaced(shared: &Shared, settings: &[ReplacedConfig]) -> Result<BTreeMap<String, String>, WireError> {
    each_once(settings.iter().map(|setting| setting.name.as_str()))?;
    let pair = |setting: &ReplacedConfig| -> Result<_, WireError> {
        topics_name(shared, &setting.name)?;
        part(&setting.name, &setting.value)
    };
    settings.iter().map(pair).try_fold(BTreeMap::new(), |mut all, one| {
        all.extend(one?);
        Ok(all)
    })
}

fn part(name: &str, value: &Option<String>) -> Result<BTreeMap<String, String>, WireError> {
    TopicDefaults::part([(name, given(name, value)?)]).map_err(unfit)
}

/// A value that cannot be, with the code that Kafka has for it where it is no topic's own.
fn unfit(error: ConfigError) -> WireError {
    WireError::new(ErrorCode::InvalidRequest, error)
}

fn topics_name(shared: &Shared, name: &str) -> Result<&'static str, WireError> {
    TopicDefaults::topics_name(name).map_err(|error| match is_brokers(shared, name) {
        true => {
            let message = format!(
                "{name} is given when a broker is started (`millstream serve --help`), and not changed while it runs"
            );
            WireError::new(ErrorCode::InvalidRequest, message)
        }
        false => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_model::{PartitionId, TopicConfig};
    use millstream_protocol::messages::{
        configs::{
            AlterConfigsRequest, AlterConfigsResource, DescribeConfigsEntry, DescribeConfigsRequest,
            DescribeConfigsResource, IncrementalAlterConfigsRequest, RESOURCE_BROKER, RESOURCE_TOPIC, ReplacedConfigs,
            SOURCE_DEFAULT, SOURCE_DYNAMIC_DEFAULT_BROKER, SOURCE_STATIC_BROKER, SOURCE_TOPIC,
        },
        topics::{CreatableTopic, CreatableTopicConfig},
    };

    use super::*;
    use crate::{
        Broker, StartError,
        handlers::{alter_configs, create_topics, describe_configs},
        testing::{TOPIC, create, start, stop, try_start_as},
    };

    fn change(
        world: &World,
        broker: &Broker,
        (kind, name): (i8, &str),
        changes: &[(&str, i8, Option<&str>)],
        validate_only: bool,
    ) -> (ErrorCode, String) {
        let configs = changes.iter().map(|(name, config_operation, value)| AlterableConfig {
            name: (*name).into(),
            config_operation: *config_operation,
            value: value.map(Into::into),
        });
        let resource =
            AlterConfigsResource { resource_type: kind, resource_name: name.into(), configs: configs.collect() };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only };
        let mut answer = world.run_until(alter_configs::change(broker.shared().clone(), request));
        let told = answer.responses.remove(0);
        (told.error_code, told.error_message.unwrap_or_default())
    }

    const ALL_BROKERS: (i8, &str) = (RESOURCE_BROKER, "");

    fn taken(world: &World, broker: &Broker, changes: &[(&str, i8, Option<&str>)]) {
        assert_eq!(change(world, broker, ALL_BROKERS, changes, false), (ErrorCode::None, String::new()), "{changes:?}");
    }

    fn described(broker: &Broker, (kind, name): (i8, &str), key: &str) -> Option<DescribeConfigsEntry> {
        let resource = DescribeConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configuration_keys: Some(vec![key.into()]),
        };
        let request =
            DescribeConfigsRequest { resources: vec![resource], include_synonyms: true, include_documentation: false };
        describe_configs::handle(broker.shared(), 4, request).results.remove(0).configs.pop()
    }

    fn source(broker: &Broker, topic: &str, key: &str) -> (String, i8) {
        let entry = described(broker, (RESOURCE_TOPIC, topic), key).unwrap();
        (entry.value.unwrap(), entry.config_source)
    }

    /// As the partition has it by which a topic's records are kept.
    fn in_force(broker: &Broker) -> TopicConfig {
        broker.shared().partitions.find(TOPIC, PartitionId(0)).unwrap().topic().config.clone()
    }

    fn make(world: &World, broker: &Broker, name: &str, settings: &[(&str, &str)]) {
        let configs = settings
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).into(), value: Some((*value).into()) });
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: 1,
            replication_factor: 1,
            configs: configs.collect(),
            ..Default::default()
        };
        world.run_until(create_topics::create(broker.shared(), topic, false)).unwrap();
    }

    #[test]
    fn topics_that_are_given_nothing_have_the_new_default_when_it_is_answered_and_others_keep_theirs() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        make(&world, &broker, "given", &[("retention.ms", "604800000")]);
        taken(&world, &broker, &[("log.retention.ms", OPERATION_SET, Some("5000"))]);
        assert_eq!(in_force(&broker).retention_ms, Some(5000));
        assert_eq!(source(&broker, "t", "retention.ms"), ("5000".into(), SOURCE_DYNAMIC_DEFAULT_BROKER));
        assert_eq!(source(&broker, "given", "retention.ms"), ("604800000".into(), SOURCE_TOPIC));
        make(&world, &broker, "later", &[("segment.ms", "1")]);
        assert_eq!(source(&broker, "later", "retention.ms"), ("5000".into(), SOURCE_DYNAMIC_DEFAULT_BROKER));

        // What stands behind it, and what the brokers have.
        let synonyms = |entry: DescribeConfigsEntry| {
            let told = entry.synonyms.into_iter().map(|synonym| (synonym.name, synonym.value.unwrap(), synonym.source));
            told.collect::<Vec<_>>()
        };
        let dynamic = ("log.retention.ms".to_owned(), "5000".to_owned(), SOURCE_DYNAMIC_DEFAULT_BROKER);
        let usual = ("log.retention.ms".to_owned(), "604800000".to_owned(), SOURCE_DEFAULT);
        let own = ("retention.ms".to_owned(), "604800000".to_owned(), SOURCE_TOPIC);
        let of_topic = |topic| synonyms(described(&broker, (RESOURCE_TOPIC, topic), "retention.ms").unwrap());
        assert_eq!(of_topic("t"), [dynamic.clone(), usual.clone()]);
        assert_eq!(of_topic("given"), [own, dynamic.clone(), usual.clone()]);
        // Of all of them only what was changed is told.
        for (of, expected) in
            [(ALL_BROKERS, vec![dynamic.clone()]), ((RESOURCE_BROKER, "1"), vec![dynamic.clone(), usual.clone()])]
        {
            let entry = described(&broker, of, "log.retention.ms").unwrap();
            assert!(!entry.read_only && entry.value.as_deref() == Some("5000"), "{entry:?}");
            assert_eq!(synonyms(entry), expected);
        }
        assert_eq!(described(&broker, ALL_BROKERS, "log.roll.ms"), None, "it was not changed");

        // Given to a topic, and taken back.
        let set = |name, operation, value| {
            let told = change(&world, &broker, (RESOURCE_TOPIC, "t"), &[(name, operation, value)], false);
            assert_eq!(told.0, ErrorCode::None, "{}", told.1);
        };
        set("retention.ms", OPERATION_SET, Some("7"));
        assert_eq!(source(&broker, "t", "retention.ms"), ("7".into(), SOURCE_TOPIC));
        set("retention.ms", OPERATION_DELETE, None);
        assert_eq!(source(&broker, "t", "retention.ms"), ("5000".into(), SOURCE_DYNAMIC_DEFAULT_BROKER));
        assert_eq!(in_force(&broker).retention_ms, Some(5000));

        // A list is added to; and all is as it was once it is taken back.
        taken(&world, &broker, &[("log.cleanup.policy", OPERATION_APPEND, Some("compact"))]);
        assert!(in_force(&broker).cleanup_policy.compacts());
        taken(
            &world,
            &broker,
            &[("log.cleanup.policy", OPERATION_DELETE, None), ("log.retention.ms", OPERATION_DELETE, None)],
        );
        assert_eq!(in_force(&broker), TopicConfig::default());
        assert_eq!(source(&broker, "t", "retention.ms"), ("604800000".into(), SOURCE_DEFAULT));
        stop(&world, broker);
    }

    #[test]
    fn the_older_way_replaces_all_of_them() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        taken(&world, &broker, &[("log.retention.ms", OPERATION_SET, Some("5000"))]);
        let configs = vec![ReplacedConfig { name: "log.roll.ms".into(), value: Some("9".into()) }];
        let resource = ReplacedConfigs { resource_type: RESOURCE_BROKER, resource_name: String::new(), configs };
        let request = AlterConfigsRequest { resources: vec![resource], validate_only: false };
        let answer = world.run_until(alter_configs::replace(broker.shared().clone(), request));
        assert_eq!(answer.responses[0].error_code, ErrorCode::None, "{answer:?}");
        assert_eq!((in_force(&broker).retention_ms, in_force(&broker).segment_ms), (Some(604_800_000), 9));
        stop(&world, broker);
    }

    #[test]
    fn what_cannot_be_is_refused_and_what_is_checked_only_changes_nothing() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        let (unclear, bad) = (ErrorCode::InvalidRequest, ErrorCode::InvalidConfig);
        let set = OPERATION_SET;
        for (resource, changes, code, words) in [
            ((RESOURCE_BROKER, "1"), vec![("log.retention.ms", set, Some("1"))], unclear, "--entity-default"),
            (ALL_BROKERS, vec![("num.partitions", set, Some("2"))], unclear, "not changed while it runs"),
            (ALL_BROKERS, vec![("no.such", set, Some("2"))], bad, "no.such"),
            (ALL_BROKERS, vec![("retention.ms", set, Some("2"))], bad, "log.retention.ms"),
            (ALL_BROKERS, vec![("log.retention.ms", set, Some("soon"))], unclear, "log.retention.ms = \"soon\""),
            (ALL_BROKERS, vec![("log.retention.ms", set, None)], unclear, "no value"),
            (ALL_BROKERS, vec![("log.retention.ms", OPERATION_APPEND, Some("1"))], unclear, "not a list"),
            (ALL_BROKERS, vec![("log.retention.ms", 9, Some("1"))], unclear, "9 is no operation"),
            (ALL_BROKERS, vec![("min.insync.replicas", set, Some("2"))], bad, "which is 1"),
            (
                ALL_BROKERS,
                vec![("log.roll.ms", set, Some("1")), ("log.roll.ms", OPERATION_DELETE, None)],
                unclear,
                "twice",
            ),
            (
                ALL_BROKERS,
                vec![("log.roll.ms", set, Some("1")), ("log.segment.bytes", set, Some("1"))],
                unclear,
                "log.segment.bytes",
            ),
        ] {
            let (told, message) = change(&world, &broker, resource, &changes, false);
            assert!(told == code && message.contains(words), "{changes:?}: {told:?} {message}");
        }
        let only = change(&world, &broker, ALL_BROKERS, &[("log.roll.ms", set, Some("1"))], true);
        assert_eq!(only, (ErrorCode::None, String::new()));
        assert!(broker.shared().catalog.state().topic_defaults.is_empty());
        assert_eq!(in_force(&broker), TopicConfig::default());
        stop(&world, broker);
    }

    #[test]
    fn what_a_broker_is_started_with_is_in_force_until_it_is_started_with_something_else() {
        let world = World::new(1);
        let started_with = |pairs: &[(&str, &str)]| {
            let defaults = TopicDefaults::part(pairs.iter().copied()).unwrap();
            try_start_as(&world, |options| options.topic_defaults = defaults)
        };
        let broker = started_with(&[("log.retention.ms", "5000"), ("log.roll.ms", "9")]).unwrap();
        world.run_until(create(&broker, 1));
        assert_eq!(source(&broker, "t", "retention.ms"), ("5000".into(), SOURCE_STATIC_BROKER));
        taken(&world, &broker, &[("log.roll.ms", OPERATION_SET, Some("11"))]);
        stop(&world, broker);
        // A change goes before what it is started with, and is kept.
        let broker = started_with(&[("log.roll.ms", "10")]).unwrap();
        assert_eq!((in_force(&broker).retention_ms, in_force(&broker).segment_ms), (Some(604_800_000), 11));
        assert_eq!(source(&broker, "t", "segment.ms"), ("11".into(), SOURCE_DYNAMIC_DEFAULT_BROKER));
        taken(&world, &broker, &[("log.roll.ms", OPERATION_DELETE, None)]);
        assert_eq!(source(&broker, "t", "segment.ms"), ("10".into(), SOURCE_STATIC_BROKER));
        stop(&world, broker);
        // Nothing could be read of a topic with so many.
        let Err(StartError::Defaults(why)) = started_with(&[("min.insync.replicas", "2")]) else { panic!("started") };
        assert!(why.contains("which is 1"), "{why}");
        world.first().kill();
        let broker = start(&world);
        assert_eq!(in_force(&broker), TopicConfig::default());
        stop(&world, broker);
    }
}
