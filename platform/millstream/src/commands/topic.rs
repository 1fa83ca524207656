//! `millstream topic`: partitioned logs.

use anyhow::Context;
use clap::{ArgGroup, Args, Subcommand};
use millstream_client::{Admin, CallError, ConfigChange, NewTopic, TopicDescription, TopicListing, ViewInfo};
use millstream_model::{ConfigKey, ConfigSource, DefaultKind, PARTITIONER, PARTITIONER_PARAM, TOPIC_SETTINGS};
use serde::Serialize;
use serde_json::json;

use super::connect::connect;
use crate::{
    failure::Usage,
    flags::{Common, Form, Named},
    output::{Details, Table, counted, joined},
    values::{Pair, pairs},
};

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Create a topic.
    Create(Create),
    /// List the topics.
    List(Form),
    /// Show one topic with its partitions and settings.
    Describe(Named),
    /// Change a topic's settings, or give it more partitions.
    Alter(Alter),
    /// Delete a topic and its records.
    Delete(Named),
}

/// How topics are created, and the names of what can be set of one.
fn create_help() -> String {
    let (mut text, mut line) = (String::from(CREATE_EXAMPLES), String::new());
    for (at, setting) in TOPIC_SETTINGS.iter().enumerate() {
        let separator = if at + 1 < TOPIC_SETTINGS.len() { "," } else { "" };
        if line.len() + setting.key.len() > HELP_COLUMNS {
            text.push_str(&format!("  {}\n", line.trim_end()));
            line.clear();
        }
        line.push_str(&format!("{}{separator} ", setting.key));
    }
    text.push_str(&format!("  {}\n\n{CREATE_SEE}", line.trim_end()));
    text
}

/// Where the lines of settings end.
const HELP_COLUMNS: usize = 94;
const CREATE_EXAMPLES: &str = "\
Examples:
  millstream topic create greetings --partitions 3
  millstream topic create flights --partitions 6 --partitioner partition-by-field@1 --param field=tailnum
  millstream topic create metrics --config millstream.durability=replicated

Settings:
";
const CREATE_SEE: &str = "\
They mean what they mean in Kafka, but compression.type takes producer only: batches are kept as they are sent. `millstream topic describe NAME` shows a topic's, `millstream topic alter` changes them.";

/// A topic to create.
#[derive(Debug, Args)]
#[command(after_help = create_help())]
pub(crate) struct Create {
    /// The topic's name.
    name: String,
    /// How many partitions; the default is the broker's `num.partitions`, which is 1 unless it was set.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one::<i32>)]
    partitions: Option<i32>,
    /// How many replicas each partition has.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one::<i16>)]
    replicas: Option<i16>,
    /// A setting, such as millstream.durability=replicated or max.message.bytes=1048576; may be repeated.
    #[arg(long, value_name = "K=V")]
    config: Vec<Pair>,
    /// The module that places records whose producer leaves the partition open.
    #[arg(long, value_name = "MODULE@VERSION")]
    partitioner: Option<String>,
    /// A parameter for the partitioner; may be repeated.
    #[arg(long, value_name = "K=V", requires = "partitioner")]
    param: Vec<Pair>,
    #[command(flatten)]
    form: Form,
}

/// A count as it is typed. On the wire -1 is the broker's default; who types it may mean anything.
fn at_least_one<T: TryFrom<i64>>(text: &str) -> Result<T, String> {
    let expected = || "expected 1 or more; leave it out to have the broker's default".to_owned();
    let count = text.parse::<i64>().ok().filter(|count| *count >= 1).ok_or_else(expected)?;
    T::try_from(count).map_err(|_| "that is more than there can be".to_owned())
}

/// As [`at_least_one`], where there is no default.
fn at_least_one_more(text: &str) -> Result<i32, String> {
    at_least_one(text).map_err(|_| "expected the new number of partitions, more than the topic has".to_owned())
}

impl Create {
    fn topic(self) -> Result<NewTopic, Usage> {
        let mut configs = pairs("--config", self.config)?;
        configs.extend(self.partitioner.map(|module| (PARTITIONER.to_owned(), module)));
        let params = pairs("--param", self.param)?.into_iter();
        configs.extend(params.map(|(name, value)| (format!("{PARTITIONER_PARAM}{name}"), value)));
        Ok(NewTopic { name: self.name, partitions: self.partitions, replicas: self.replicas, configs })
    }
}

/// What can be changed of a topic: one of them at least.
const CHANGES: [&str; 6] = ["config", "reset", "partitions", "partitioner", "param", "no_partitioner"];

/// Settings to change, the partitioner among them: all of them are changed, or none. Then the number of partitions.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream topic alter greetings --config retention.ms=86400000 --config segment.bytes=268435456
  millstream topic alter greetings --reset retention.ms
  millstream topic alter greetings --partitions 6
  millstream topic alter flights --partitioner partition-by-field@2 --param field=origin

`millstream topic describe NAME` shows the settings. Of another partitioner all parameters are given anew. Producers go over to more
partitions, or another partitioner, by themselves, and lose nothing and the order of no key; what came before stays where it is.")]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(CHANGES))]
pub(crate) struct Alter {
    /// The topic's name.
    name: String,
    /// A setting and its new value, such as retention.ms=86400000; may be repeated.
    #[arg(long, value_name = "K=V")]
    config: Vec<Pair>,
    /// A setting that gets its default again; may be repeated.
    #[arg(long, value_name = "K")]
    reset: Vec<String>,
    /// How many partitions it has from now on: more than before. Keys may go to other partitions then.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one_more)]
    partitions: Option<i32>,
    /// Another module that places records whose producer leaves the partition open.
    #[arg(long, value_name = "MODULE@VERSION")]
    partitioner: Option<String>,
    /// A parameter for the partitioner; may be repeated.
    #[arg(long, value_name = "K=V", requires = "partitioner")]
    param: Vec<Pair>,
    /// Without a module from now on: by the key's hash, as in Kafka.
    #[arg(long, conflicts_with = "partitioner")]
    no_partitioner: bool,
    #[command(flatten)]
    form: Form,
}

impl Alter {
    async fn run(self, admin: &Admin) -> anyhow::Result<()> {
        let Self { name, config, reset, partitions, partitioner, param, no_partitioner, form } = self;
        let compacts = config.iter().any(|pair| pair.name == "cleanup.policy" && pair.value.contains("compact"));
        let deletes = config.iter().any(|pair| pair.name == "cleanup.policy" && pair.value.contains("delete"));
        let (config, param) = (pairs("--config", config)?, pairs("--param", param)?);
        let set = config.into_iter().map(|(name, value)| ConfigChange::Set { name, value });
        let changes: Vec<_> = set.chain(reset.into_iter().map(|name| ConfigChange::Reset { name })).collect();
        let (mut done, count, mut json) = (Vec::new(), changes.len(), json!({"name": name}));
        if partitioner.is_some() || no_partitioner {
            admin.alter_partitioner(&name, partitioner.as_deref(), param, changes).await?;
            let by = partitioner.as_deref().unwrap_or("the key's hash");
            done.push(format!("topic {name} is routed by {by} now"));
            json["partitioner"] = partitioner.into();
        } else if count > 0 {
            admin.alter_topic(&name, changes).await?;
        }
        if count > 0 {
            let settings = if count == 1 { "a setting".into() } else { format!("{count} settings") };
            done.push(format!("{settings} of topic {name} changed"));
            if compacts {
                let until = if deletes { " until retention deletes it" } else { "" };
                done.push(format!("of each key its newest record stays{until}, and records without a key are removed"));
            }
        }
        if let Some(count) = partitions {
            let made = admin.create_partitions(&name, count).await;
            made.with_context(|| match done.is_empty() {
                true => "no partitions were added".into(),
                false => format!("{}; no partitions were added", done.join("; ")),
            })?;
            done.push(format!("topic {name} has {} now", counted(count.unsigned_abs().into(), "partition")));
            json["partitions"] = count.into();
        }
        form.output.done(&json, &done.join("; "))
    }
}

#[derive(Serialize)]
struct Line {
    name: String,
    topic_id: String,
    partitions: i32,
    replicas: i32,
    /// Partitions whose files are damaged somewhere.
    out_of_service: i32,
}

impl From<TopicListing> for Line {
    fn from(topic: TopicListing) -> Self {
        let TopicListing { name, topic_id, partitions, replicas, out_of_service } = topic;
        Self { name, topic_id: topic_id.to_string(), partitions, replicas, out_of_service }
    }
}

#[derive(Serialize)]
struct Shown {
    name: String,
    topic_id: String,
    /// What it is, if it is a view and no topic.
    view: Option<ShownView>,
    partitioner: Option<String>,
    routing_epoch: Option<i64>,
    partitions: Vec<ShownPartition>,
    configs: Vec<ShownConfig>,
    /// The views that show it and the transforms that read or write it.
    used_by: Vec<String>,
}

#[derive(Serialize)]
struct ShownView {
    topic: String,
    chain: Vec<String>,
}

#[derive(Serialize)]
struct ShownPartition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    offline: Vec<i32>,
    start_offset: Option<i64>,
    end_offset: Option<i64>,
}

#[derive(Serialize)]
struct ShownConfig {
    name: String,
    value: Option<String>,
    is_default: bool,
    /// `topic`: it was given it; `default`: nobody has said anything; else what was said as brokers were started (`static`), or while
    /// they ran (`dynamic`).
    source: &'static str,
}

/// Who uses a topic, and the view if it is one.
#[derive(Default)]
struct Around {
    view: Option<ViewInfo>,
    used_by: Vec<String>,
}

impl Around {
    async fn of(admin: &Admin, name: &str) -> Result<Self, CallError> {
        let mut around = Self::default();
        for view in admin.list_views(None).await? {
            if view.topic == name {
                around.used_by.push(format!("view {}", view.name));
            }
            if view.name == name {
                around.view = Some(view);
            }
        }
        for transform in admin.list_transforms().await? {
            let reads = transform.inputs.iter().any(|input| input == name);
            let writes = transform.outputs.iter().any(|output| output == name);
            if reads || writes {
                around.used_by.push(format!("transform {}", transform.name));
            }
        }
        Ok(around)
    }
}

impl Shown {
    fn new(topic: TopicDescription, around: Around) -> Self {
        let partitions = topic.partitions.into_iter().map(|at| ShownPartition {
            partition: at.partition.0,
            leader: at.leader.map(|leader| leader.0),
            leader_epoch: at.leader_epoch.0,
            replicas: at.replicas.iter().map(|id| id.0).collect(),
            isr: at.isr.iter().map(|id| id.0).collect(),
            offline: at.offline.iter().map(|id| id.0).collect(),
            start_offset: at.start_offset.map(|offset| offset.0),
            end_offset: at.end_offset.map(|offset| offset.0),
        });
        let configs = topic.configs.into_iter().map(|entry| ShownConfig {
            name: entry.name,
            value: entry.value,
            is_default: entry.source == ConfigSource::Nobody,
            source: match entry.source {
                ConfigSource::Topic => "topic",
                ConfigSource::Defaults(DefaultKind::Dynamic) => "dynamic",
                ConfigSource::Defaults(DefaultKind::Static) => "static",
                ConfigSource::Nobody => "default",
            },
        });
        Self {
            name: topic.name,
            topic_id: topic.topic_id.to_string(),
            view: around.view.map(|view| ShownView { topic: view.topic, chain: view.chain }),
            partitioner: topic.routing.as_ref().and_then(|routing| routing.partitioner.clone()),
            routing_epoch: topic.routing.map(|routing| i64::from(routing.routing_epoch.0)),
            partitions: partitions.collect(),
            configs: configs.collect(),
            used_by: around.used_by,
        }
    }
}

impl Topic {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        let client = connect(common).await?;
        let admin = client.admin();
        match self {
            Self::Alter(alter) => alter.run(&admin).await,
            Self::Create(create) => {
                let (form, topic) = (create.form, create.topic()?);
                let name = topic.name.clone();
                let created = admin.create_topic(topic).await?;
                let count = created.partitions.unwrap_or_default();
                let sentence =
                    format!("topic {name} is created with {count} partition{}", if count == 1 { "" } else { "s" });
                let id = created.topic_id.to_string();
                form.output.done(&json!({"name": name, "topic_id": id, "partitions": created.partitions}), &sentence)
            }
            Self::List(form) => {
                let topics: Vec<Line> = admin.list_topics().await?.into_iter().map(Line::from).collect();
                form.output.list(&topics, "no topics: `millstream topic create NAME` makes one", |topics| {
                    let mut table = Table::new(["name", "partitions", "replicas", ""]);
                    for topic in topics {
                        let damage = match topic.out_of_service {
                            0 => String::new(),
                            count => format!("{count} out of service: see `millstream topic describe {}`", topic.name),
                        };
                        let (partitions, replicas) = (topic.partitions.to_string(), topic.replicas.to_string());
                        table.row([topic.name.clone(), partitions, replicas, damage]);
                    }
                    table
                })
            }
            Self::Describe(Named { name, form }) => {
                let topic = admin.describe_topic(&name).await?;
                let around = Around::of(&admin, &name).await?;
                form.output.one(&Shown::new(topic, around), details)
            }
            Self::Delete(Named { name, form }) => {
                // What goes is worth knowing, but no reason not to delete it: a damaged topic cannot tell.
                let there = admin.describe_topic(&name).await.ok();
                admin.delete_topic(&name).await?;
                let (partitions, records) =
                    there.as_ref().map_or((None, None), |topic| (Some(topic.partitions.len()), records(topic)));
                let json = json!({"name": name, "partitions": partitions, "records": records});
                form.output.done(&json, &format!("topic {name} is deleted{}", what_went(partitions, records)))
            }
        }
    }
}

/// How many offsets a topic has, which is how many records unless it is compacted; none if a partition cannot tell.
fn records(topic: &TopicDescription) -> Option<i64> {
    let each = topic.partitions.iter().map(|at| Some(at.end_offset?.0 - at.start_offset?.0));
    each.sum()
}

/// What to tell of a topic that is no more.
fn what_went(partitions: Option<usize>, records: Option<i64>) -> String {
    let partitions = partitions.map(|count| counted(count as u64, "partition"));
    // What was compacted away has an offset too, and so have the marks where the topic was routed anew.
    let records = records.map(|count| match count {
        0 => "no records".into(),
        count => format!("at most {}", counted(count.unsigned_abs(), "record")),
    });
    match (partitions, records) {
        (Some(partitions), Some(records)) => format!(" with its {partitions} and {records}"),
        (Some(partitions), None) => format!(" with its {partitions}"),
        (None, _) => String::new(),
    }
}

/// What to tell of a partition whose files are damaged on these brokers.
fn out_of_service(brokers: &[i32]) -> String {
    match brokers {
        [] => String::new(),
        brokers => format!("out of service on broker {}: its log says why", joined(brokers)),
    }
}

fn details(topic: &Shown) -> Details {
    let or_none = |number: Option<i64>| number.map_or("none".to_owned(), |number| number.to_string());
    let mut partitions = Table::new(["partition", "leader", "epoch", "replicas", "isr", "start", "end", ""]);
    for at in &topic.partitions {
        partitions.row([
            at.partition.to_string(),
            or_none(at.leader.map(i64::from)),
            at.leader_epoch.to_string(),
            joined(&at.replicas),
            joined(&at.isr),
            or_none(at.start_offset),
            or_none(at.end_offset),
            out_of_service(&at.offline),
        ]);
    }
    let mut configs = Table::new(["setting", "value", ""]);
    for entry in &topic.configs {
        let remark = match entry.source {
            "topic" => String::new(),
            "default" => "default".into(),
            // By the name under which it is changed.
            _ => {
                let known = ConfigKey::named(&entry.name).and_then(|known| known.broker);
                format!("from {}", known.unwrap_or("the brokers"))
            }
        };
        configs.row([entry.name.clone(), entry.value.clone().unwrap_or_default(), remark]);
    }
    let known = match &topic.view {
        // What it shows is in the partitions where the topic has it.
        Some(view) => Details::default()
            .field("view", &topic.name)
            .field("id", &topic.topic_id)
            .field("topic", &view.topic)
            .field("chain", joined(&view.chain)),
        None => Details::default()
            .field("topic", &topic.name)
            .field("id", &topic.topic_id)
            .field("partitioner", topic.partitioner.as_deref().unwrap_or("none: the key's hash, as in Kafka"))
            .field("routing epoch", or_none(topic.routing_epoch))
            .field("used by", if topic.used_by.is_empty() { "nobody".into() } else { joined(&topic.used_by) }),
    };
    known.table(partitions).table(configs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_begin_at_one() {
        assert_eq!((at_least_one::<i32>("1"), at_least_one::<i16>("3")), (Ok(1), Ok(3)));
        for text in ["0", "-1", "-2", "", "one", "1.5"] {
            assert!(at_least_one::<i32>(text).unwrap_err().contains("leave it out"), "{text:?}");
        }
        assert!(at_least_one::<i16>("40000").unwrap_err().contains("more than"));
    }

    #[test]
    fn what_a_deletion_took_is_told_as_far_as_it_is_known() {
        assert_eq!(what_went(Some(3), Some(1)), " with its 3 partitions and at most 1 record");
        assert_eq!(what_went(Some(1), Some(0)), " with its 1 partition and no records");
        assert_eq!(what_went(Some(1), None), " with its 1 partition");
        assert_eq!(what_went(None, None), "");
    }

    #[test]
    fn a_partitioner_and_its_parameters_are_settings() {
        let pair = |text: &str| text.parse().unwrap();
        let create = Create {
            name: "t".into(),
            partitions: Some(3),
            replicas: None,
            config: vec![pair("max.message.bytes=2048")],
            partitioner: Some("by-field@1".into()),
            param: vec![pair("field=tailnum")],
            form: Form::default(),
        };
        let expected = [
            ("max.message.bytes", "2048"),
            ("millstream.partitioner", "by-field@1"),
            ("millstream.partitioner.param.field", "tailnum"),
        ];
        let configs = create.topic().unwrap().configs;
        assert!(configs.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{configs:?}");
    }
}
