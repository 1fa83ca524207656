//! Asking a topic's partitioner where records go, ahead of producing them.
//!
//! Records of a topic pass here in order. A few questions are under way at a time; their answers are used in the order
//! asked, so that records enter their partitions' queues as they came. An answer is kept for good: repeats of a Produce go
//! where the first attempt went.
//!
//! A record that the partitioner refuses does not take its neighbours along: the question is asked again without it, and
//! it alone. Only a question about a single record is a verdict on that record.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, future::Either, stream::FuturesOrdered};
use millstream_model::{PartitionId, RoutingEpoch};
use millstream_protocol::{ErrorCode, extension::routing::AssignRequest};
use tokio::sync::mpsc;

use super::{Entry, Item, Shared, queues::Queues, routing::Rules};
use crate::{
    CallError, ProduceError,
    assign_frame::{self, Shown},
    cluster::{Role, Target},
};

/// Questions under way at a time.
const IN_FLIGHT_MAX: usize = 2;
/// Records of one question.
const RECORDS_MAX: usize = 1000;
/// Bytes of one question's records; one record may exceed it.
const BYTES_MAX: usize = 128 << 10;

/// A record's partition and the epoch of the choice, or why it has none.
type Choice = Result<(PartitionId, RoutingEpoch), ProduceError>;

/// Routes one topic's records until the producer has let go of the topic and every record is in its partition's queue.
pub(super) async fn run(shared: Arc<Shared>, queues: Arc<Queues>, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut under_way = FuturesOrdered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        let may_ask = open && under_way.len() < IN_FLIGHT_MAX;
        let next = {
            let answered = async {
                match under_way.next().await {
                    Some(answer) => answer,
                    None => std::future::pending::<Vec<(Item, Choice)>>().await,
                }
            };
            let asked = async {
                match may_ask {
                    true => items.recv().await,
                    false => std::future::pending().await,
                }
            };
            // Answers first: they keep the queues filled. Both can be dropped unfinished without losing anything.
            match futures::future::select(std::pin::pin!(answered), std::pin::pin!(asked)).await {
                Either::Left((answer, _)) => Either::Left(answer),
                Either::Right((item, _)) => Either::Right(item),
            }
        };
        match next {
            Either::Left(choices) => {
                for (item, choice) in choices {
                    match choice {
                        Ok((partition, epoch)) => queues.push(&shared, partition, Entry::Record(item, epoch)),
                        Err(error) => item.pending.done(Err(error)),
                    }
                }
            }
            Either::Right(None) => open = false,
            Either::Right(Some(first)) => {
                let mut bytes = shown_bytes(&first);
                let mut group = vec![first];
                while group.len() < RECORDS_MAX && bytes < BYTES_MAX {
                    let Ok(item) = items.try_recv() else { break };
                    bytes += shown_bytes(&item);
                    group.push(item);
                }
                under_way.push_back(choose(&shared, &queues, group));
            }
        }
    }
}

fn shown_bytes(item: &Item) -> usize {
    item.key.as_ref().map_or(0, Bytes::len) + item.value.as_ref().map_or(0, Bytes::len) + 16
}

/// Finds every record's partition, in order.
async fn choose(shared: &Shared, queues: &Queues, group: Vec<Item>) -> Vec<(Item, Choice)> {
    let mut chosen = Vec::with_capacity(group.len());
    let mut groups = VecDeque::from([group]);
    while let Some(mut group) = groups.pop_front() {
        match ask(shared, queues, &group).await {
            Ok((epoch, partitions)) => {
                for (item, partition) in group.into_iter().zip(partitions) {
                    // -1 leaves it to the host: where it would go without a partitioner.
                    let partition = match partition.0 {
                        -1 => queues.default_partition(&shared.cluster, item.key.as_deref()),
                        _ => partition,
                    };
                    chosen.push((item, queues.check(partition).map(|()| (partition, epoch))));
                }
            }
            Err(refusal) if group.len() > 1 && refusal.is_about_records => {
                // Before the record, it alone, after it; in halves when it is not known which one.
                let (at, count) = match refusal.record.filter(|at| *at < group.len()) {
                    Some(at) => (at, 1),
                    None => (group.len() / 2, 0),
                };
                let after = group.split_off(at + count);
                let alone = group.split_off(at);
                for part in [after, alone, group] {
                    if !part.is_empty() {
                        groups.push_front(part);
                    }
                }
            }
            Err(refusal) => chosen.extend(group.into_iter().map(|item| (item, Err(refusal.error.clone())))),
        }
    }
    chosen
}

/// Why a question was not answered.
struct Refusal {
    error: ProduceError,
    /// Whether the records are to blame, so that a smaller question may fare better.
    is_about_records: bool,
    /// Which one, if the broker says so.
    record: Option<usize>,
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self { error: error.into(), is_about_records: false, record: None }
    }
}

/// Asks about one group, until there is an answer for good.
async fn ask(shared: &Shared, queues: &Queues, group: &[Item]) -> Result<(RoutingEpoch, Vec<PartitionId>), Refusal> {
    let after = shared.options.delivery_timeout;
    let mut retry = shared.cluster.retry(after);
    loop {
        let rules = queues.routing.current();
        let refusal = match ask_once(shared, queues, rules, group).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        let ProduceError::Call(call) = &refusal.error else { return Err(refusal) };
        let stale = call.code() == Some(ErrorCode::StaleRouting);
        if !stale && !call.is_retriable() {
            return Err(refusal);
        }
        if !retry.wait().await {
            return Err(Refusal { error: ProduceError::Expired { after, last: call.clone() }, ..refusal });
        }
        if stale {
            queues.routing.refresh(&shared.cluster, &queues.name).await?;
        }
    }
}

async fn ask_once(
    shared: &Shared,
    queues: &Queues,
    rules: Rules,
    group: &[Item],
) -> Result<(RoutingEpoch, Vec<PartitionId>), Refusal> {
    let shown = group.iter().map(|item| Shown {
        timestamp: item.timestamp,
        key: item.key.as_deref(),
        value: item.value.as_deref(),
        headers: &item.headers,
    });
    let request = AssignRequest {
        topic: queues.name.as_ref().into(),
        routing_epoch: rules.epoch,
        count: i32::try_from(group.len()).unwrap_or(i32::MAX),
        frame: assign_frame::encode(shown, rules.needs),
    };
    let cluster = &shared.cluster;
    let channel = cluster.channel(Target::Any, Role::Assign).await?;
    let answer = channel.call(request, cluster.options.request_timeout).await?;
    let what = format!("the partitioner of topic {}", queues.name);
    CallError::check(&what, answer.error_code, answer.error_message.as_deref()).map_err(|error| Refusal {
        is_about_records: matches!(answer.error_code, ErrorCode::CallFailed | ErrorCode::PartitionOutOfRange),
        record: usize::try_from(answer.error_record).ok(),
        error: error.into(),
    })?;
    if answer.partitions.len() != group.len() {
        let detail = format!("{} partitions were chosen for {} records", answer.partitions.len(), group.len());
        return Err(CallError::refused(what, ErrorCode::UnknownServer, Some(&detail)).into());
    }
    Ok((answer.routing_epoch, answer.partitions))
}
