//! Requests that are sent to both brokers as they are, and the topics that they are about.

use millstream_model::{PartitionId, TopicId};
use millstream_protocol::{Request, messages::metadata::*};
use millstream_record::Compression;

use crate::{data, server::Server};

mod configs;
mod records;
mod topics;

/// Two partitions; ten records a second apart in the first; `retention.ms` is set.
pub(super) const THERE: &str = "there";
/// One partition, compacted.
pub(super) const COMPACTED: &str = "compacted";
/// One partition, of records of 2,000 bytes at most.
pub(super) const SMALL: &str = "small";
/// No topic.
pub(super) const ABSENT: &str = "absent";

/// What is known of one broker when requests are made for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The id of [`THERE`].
    pub(super) there: TopicId,
}

/// How a request of one version is made; none where that version cannot say it.
type Make = Box<dyn Fn(&Known, i16) -> Option<Request>>;

/// A request in all of its versions.
pub(super) struct Probe {
    /// What is asked, beside the api.
    pub(super) name: &'static str,
    /// How it is made.
    pub(super) make: Make,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A request that is the same in every version.
fn probe<R: Into<Request>>(name: &'static str, make: impl Fn(&Known) -> R + 'static) -> Probe {
    Probe { name, make: Box::new(move |known, _| Some(make(known).into())) }
}

/// A request that is made for its version: of a topic of its own, say.
fn of_version<R: Into<Request>>(name: &'static str, make: impl Fn(&Known, i16) -> Option<R> + 'static) -> Probe {
    Probe { name, make: Box::new(move |known, version| make(known, version).map(Into::into)) }
}

/// All of them, in the order in which they are sent.
#[must_use]
pub(super) fn all() -> Vec<Probe> {
    let mut probes = topics::probes();
    probes.extend(configs::probes());
    probes.extend(records::probes());
    probes
}

/// Makes the topics that the requests are about.
///
/// # Errors
/// When the broker refuses.
pub(super) fn prepare(server: &Server) -> anyhow::Result<Known> {
    let mut wire = server.wire()?;
    wire.create(THERE, 2, &[("retention.ms", "-1")])?;
    wire.create(COMPACTED, 1, &[("cleanup.policy", "compact")])?;
    wire.create(SMALL, 1, &[("max.message.bytes", "2000")])?;
    server.write(THERE, &data::by_the_second(10), Compression::None)?;
    let asked = MetadataRequestTopic { name: Some(THERE.to_owned()), ..Default::default() };
    let answer = wire.call(12, MetadataRequest { topics: Some(vec![asked]), ..Default::default() })?;
    let there = answer.topics.first().map(|topic| topic.topic_id).unwrap_or_default();
    Ok(Known { there })
}

const fn partition(number: i32) -> PartitionId {
    PartitionId(number)
}

/// An id that no topic has.
fn nobodys_id() -> TopicId {
    serde_json::from_value("01234567-89ab-cdef-0123-456789abcdef".into()).unwrap_or_default()
}
