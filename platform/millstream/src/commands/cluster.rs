//! `millstream cluster`: what there is, and how it is.

use std::collections::BTreeMap;

use clap::Subcommand;
use millstream_client::{ClusterDescription, DescribeClusterBroker};
use millstream_model::Address;
use serde::Serialize;

use super::{connect::connect, not_built};
use crate::{
    flags::{Common, Form},
    output::{Details, Table, joined},
    time::format_rfc3339,
};

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show the cluster, its brokers and what it holds.
    Describe(Form),
    #[command(hide = true, disable_help_flag = true)]
    Add(not_built::Words),
    #[command(hide = true, disable_help_flag = true)]
    Remove(not_built::Words),
    #[command(hide = true, disable_help_flag = true)]
    Move(not_built::Words),
}

#[derive(Serialize)]
struct Shown {
    cluster_id: String,
    controller: i32,
    /// The broker that answered.
    broker_id: i32,
    version: String,
    started_at: String,
    topics: i32,
    partitions: i32,
    /// Partitions whose files are damaged somewhere.
    out_of_service: i32,
    /// The same by topic; others are not named.
    damaged_topics: BTreeMap<String, i32>,
    modules: i32,
    views: i32,
    transforms: i32,
    brokers: Vec<ShownBroker>,
    details: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct ShownBroker {
    id: i32,
    host: String,
    port: i32,
}

impl Cluster {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        const ONE: &str = "a cluster is one broker for now";
        match self {
            Self::Describe(form) => {
                let client = connect(common).await?;
                let shown = Shown::from(client.admin().describe_cluster().await?);
                form.output.one(&shown, details)
            }
            Self::Add(_) => not_built::refuse("cluster add", ONE),
            Self::Remove(_) => not_built::refuse("cluster remove", ONE),
            Self::Move(_) => not_built::refuse("cluster move", ONE),
        }
    }
}

impl From<ClusterDescription> for Shown {
    fn from(found: ClusterDescription) -> Self {
        let ClusterDescription { info, controller, brokers, out_of_service } = found;
        let broker = |broker: DescribeClusterBroker| ShownBroker {
            id: broker.broker_id.0,
            host: broker.host,
            port: broker.port,
        };
        Self {
            cluster_id: info.cluster_id,
            controller: controller.0,
            broker_id: info.broker_id.0,
            version: info.version,
            started_at: format_rfc3339(info.started_at),
            topics: info.topics,
            partitions: info.partitions,
            out_of_service: out_of_service.values().sum(),
            damaged_topics: out_of_service,
            modules: info.modules,
            views: info.views,
            transforms: info.transforms,
            brokers: brokers.into_iter().map(broker).collect(),
            details: info.details.into_iter().map(|pair| (pair.name, pair.value.into())).collect(),
        }
    }
}

/// How many partitions there are, and which topics to look at if some are out of service.
fn partitions(shown: &Shown) -> String {
    let topics: Vec<_> = shown.damaged_topics.keys().collect();
    match topics.as_slice() {
        [] => shown.partitions.to_string(),
        topics => format!(
            "{}, {} out of service (`millstream topic describe` shows more): {}",
            shown.partitions,
            shown.out_of_service,
            joined(topics)
        ),
    }
}

fn details(shown: &Shown) -> Details {
    let mut brokers = Table::new(["broker", "address", "role"]);
    for broker in &shown.brokers {
        let address = Address::from_wire(&broker.host, broker.port);
        let role = if broker.id == shown.controller { "controller" } else { "" };
        brokers.row([broker.id.to_string(), address.to_string(), role.into()]);
    }
    let details = Details::default()
        .field("cluster", &shown.cluster_id)
        .field("answered by", format!("broker {}, version {}", shown.broker_id, shown.version))
        .field("started", &shown.started_at)
        .field("topics", shown.topics)
        .field("partitions", partitions(shown))
        .field("modules", shown.modules)
        .field("views", shown.views)
        .field("transforms", shown.transforms);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let details = shown.details.iter().fold(details, |details, (name, value)| details.field(name, text(value)));
    details.table(brokers)
}
