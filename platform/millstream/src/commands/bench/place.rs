//! The topic that is measured with: the user's, or one that is made and deleted again.

use anyhow::Context;
use millstream_client::{Client, NewTopic};

use super::Shared;
use crate::{failure::explain, output::say, signals::Signals};

/// Partitions of a topic that is made.
const PARTITIONS_DEFAULT: i32 = 6;

/// Where records go.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    /// It was made for this.
    is_made: bool,
}

impl Place {
    /// The topic that was named, or a new one.
    pub(super) async fn find(client: &Client, shared: &Shared) -> anyhow::Result<Self> {
        if let Some(name) = &shared.topic {
            return Ok(Self { name: name.clone(), is_made: false });
        }
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let name = format!("millstream-bench-{}-{nanos:x}", std::process::id());
        let durability =
            shared.durability.map(|durability| ("millstream.durability".to_owned(), durability.word().to_owned()));
        let topic = NewTopic {
            name: name.clone(),
            partitions: Some(shared.partitions.unwrap_or(PARTITIONS_DEFAULT)),
            replicas: None,
            configs: durability.into_iter().collect(),
        };
        client.admin().create_topic(topic).await.context("cannot make a topic to measure with")?;
        Ok(Self { name, is_made: true })
    }

    /// How many partitions it has, and whether a partitioner chooses among them.
    pub(super) async fn partitions(&self, client: &Client) -> anyhow::Result<(i32, bool)> {
        let topic = client.admin().describe_topic(&self.name).await;
        let topic = topic.with_context(|| format!("cannot measure with {}", self.name))?;
        let is_routed = topic.routing.is_some_and(|routing| routing.partitioner.is_some());
        Ok((i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX), is_routed))
    }

    /// In words, for people.
    pub(super) fn told(&self) -> String {
        if self.is_made { format!("{}, made for this and deleted", self.name) } else { self.name.clone() }
    }

    /// Deletes it if it was made. A signal ends that.
    pub(super) async fn leave(&self, client: &Client, signals: &mut Signals) {
        if !self.is_made {
            return;
        }
        let admin = client.admin();
        let why = tokio::select! {
            deleted = admin.delete_topic(&self.name) => match deleted {
                Ok(()) => return,
                Err(error) => explain(&error),
            },
            signal = signals.next() => format!("stopped by {signal}"),
        };
        say(format_args!("the topic that was made is not deleted ({why}): millstream topic delete {}", self.name));
    }
}
