//! Subscribe: what Fetch reads, as it comes; see [`millstream_protocol::extension::subscriptions`].
//!
//! As a fetch, a subscription that waits holds no records. It reads an answer once there is something to tell, what was sent before has
//! left, and its reader has given credit: so one that reads slowly costs what its partitions take, and one answer.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use millstream_catalog::State;
use millstream_env::{BoxFuture, Share};
use millstream_model::{Offset, PartitionId, TopicId};
use millstream_protocol::{
    ErrorCode, Response,
    extension::subscriptions::{
        PushedPartition, PushedTopic, SubscribeRequest, SubscribeResponse, SubscribedPartition, SubscribedTopic,
    },
    messages::fetch::{FetchPartition, FetchTopic, PartitionData},
};
use tokio::sync::watch;

use super::{
    Target, Targets,
    answer::headers,
    count, gather, records_bytes, resolve_partition, resolve_topic,
    wait::{enough, give_way},
};
use crate::{
    handlers::wire::client_wait,
    readable::{Readable, VERSION_BY_ID},
    reply::Reply,
    shared::Shared,
    turn::Turn,
};

/// Most bytes of records in one answer, whatever the client allows: they follow each other anyway, and whoever takes none of them has not
/// more than this and a batch in memory.
const PUSH_BYTES_MAX: usize = 1 << 20;
/// What was told to be there, and is not when it is read, is looked for again after this.
const PAUSE: Duration = Duration::from_millis(10);
/// So often at most an answer says that the broker is there.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Gives the answers of a subscription, one after the other.
pub(crate) fn handle(shared: Arc<Shared>, request: SubscribeRequest, turn: Turn) -> BoxFuture<'static, Reply> {
    let partitions = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    match shared.memory.subscribe(partitions) {
        Some(room) => Subscription::new(shared, request, room, turn).answer(),
        None => {
            let message = "there are too many subscriptions: read with Fetch, or later";
            let refused = SubscribeResponse {
                error_code: ErrorCode::ThrottlingQuotaExceeded,
                error_message: Some(message.into()),
                is_last: true,
                ..Default::default()
            };
            std::future::ready(Reply::Answer(refused.into())).boxed()
        }
    }
}

struct Subscription {
    shared: Arc<Shared>,
    turn: Turn,
    /// What it reads on; without partitions that have ended.
    topics: Vec<Targets>,
    /// What the topics stood for when they were looked up, in their order.
    readables: Vec<Option<Readable>>,
    /// Where partitions end, of those that do.
    ends: BTreeMap<(TopicId, PartitionId), Offset>,
    /// What the topics stand for may change with it.
    catalog: watch::Receiver<Arc<State>>,
    bytes_min: usize,
    bytes_max: usize,
    partition_max_bytes: i32,
    wait: Duration,
    _room: Share,
}

impl Subscription {
    fn new(shared: Arc<Shared>, request: SubscribeRequest, room: Share, turn: Turn) -> Self {
        // Before anything is looked up there.
        let mut catalog = shared.catalog.watch();
        catalog.mark_unchanged();
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(PUSH_BYTES_MAX);
        let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
        let partition_max_bytes = request.partition_max_bytes;
        let (mut named, mut ends) = (HashSet::new(), BTreeMap::new());
        let mut resolve = |SubscribedTopic { topic_id, partitions }| {
            let ask = |SubscribedPartition { partition, current_leader_epoch, offset, end_offset }| {
                if end_offset.0 >= 0 {
                    ends.insert((topic_id, partition), end_offset);
                }
                let fetch_offset = offset;
                FetchPartition {
                    partition,
                    current_leader_epoch,
                    fetch_offset,
                    partition_max_bytes,
                    ..Default::default()
                }
            };
            let partitions = Vec::from_iter(partitions.into_iter().map(ask));
            resolve_topic(&shared, VERSION_BY_ID, FetchTopic { topic_id, partitions, ..Default::default() }, &mut named)
        };
        let topics = request.topics.into_iter().map(&mut resolve).collect();
        drop(named);
        // None: they are looked up again at the first change.
        let readables = Vec::new();
        let wait = client_wait(request.max_wait_ms).max(WAIT_MIN);
        Self {
            shared,
            turn,
            topics,
            readables,
            ends,
            catalog,
            bytes_min,
            bytes_max,
            partition_max_bytes,
            wait,
            _room: room,
        }
    }

    /// The next answer, with what comes after it.
    fn answer(mut self) -> BoxFuture<'static, Reply> {
        let answer = async move {
            let answer = self.next().await;
            if answer.is_last {
                return Reply::Answer(answer.into());
            }
            Reply::More(Response::from(answer), self.answer())
        };
        answer.boxed()
    }

    async fn next(&mut self) -> SubscribeResponse {
        let due = self.shared.env.clock.sleep(self.wait).shared();
        if self.has_ended() {
            return last();
        }
        loop {
            self.follow_catalog();
            tokio::select! {
                () = enough(&self.topics, self.bytes_min, self.bytes_max) => {}
                () = due.clone() => {}
                () = self.turn.hurried() => return last(),
                Ok(()) = self.catalog.changed() => {
                    self.resolve_anew();
                    continue;
                }
            }
            let hurried = self.turn.hurried();
            let credit_bytes = tokio::select! {
                credit_bytes = self.turn.come_with_credit() => credit_bytes,
                () = hurried => return last(),
            };
            self.follow_catalog();
            let bytes_max = usize::try_from(credit_bytes).unwrap_or(usize::MAX).min(self.bytes_max);
            let topics = self.read(bytes_max).await;
            let is_last = self.has_ended();
            if is_last || !topics.is_empty() || due.clone().now_or_never().is_some() {
                return SubscribeResponse { is_last, topics, ..Default::default() };
            }
            self.shared.env.clock.sleep(PAUSE).await;
        }
    }

    fn has_ended(&self) -> bool {
        self.topics.iter().all(|(_, _, targets)| targets.is_empty())
    }

    /// A topic may be gone, a view another one, a partition led anew.
    fn follow_catalog(&mut self) {
        // The catalog lives as long as the broker.
        if self.catalog.has_changed().unwrap_or(false) {
            self.catalog.mark_unchanged();
            self.resolve_anew();
        }
    }

    fn resolve_anew(&mut self) {
        let state = self.shared.catalog.state();
        self.readables.resize(self.topics.len(), None);
        for ((name, id, targets), before) in self.topics.iter_mut().zip(&mut self.readables) {
            let readable = Readable::resolve(&state, VERSION_BY_ID, name, *id).map_err(Arc::new);
            // Most changes are about others.
            if let (Ok(readable), Some(before)) = (&readable, &*before)
                && readable.is_same(before)
            {
                continue;
            }
            *before = readable.as_ref().ok().cloned();
            for target in targets {
                target.source = match &readable {
                    Ok(readable) => resolve_partition(&self.shared, readable, &target.request).map_err(Arc::new),
                    Err(error) => Err(error.clone()),
                };
            }
        }
    }

    /// Reads what there is, and moves over it.
    async fn read(&mut self, bytes_max: usize) -> Vec<PushedTopic> {
        for target in self.topics.iter_mut().flat_map(|(_, _, targets)| targets) {
            // Somebody who gives way has less, once.
            target.request.partition_max_bytes = self.partition_max_bytes;
        }
        let place = give_way(self.turn.reading(), &mut self.topics, bytes_max, self.turn.hurried()).await;
        let bytes_max = place.as_ref().map_or(bytes_max, |place| place.bytes_max().min(bytes_max));
        let answer = gather(&self.shared, VERSION_BY_ID, &self.topics, bytes_max).await;
        count(&self.topics, &answer);
        if let Some(place) = place {
            place.read(records_bytes(&answer));
        }
        let mut pushed = Vec::new();
        for ((_, topic_id, targets), answered) in self.topics.iter_mut().zip(answer.responses) {
            let partitions = advance(targets, answered.partitions, |at| self.ends.get(&(*topic_id, at)).copied());
            if !partitions.is_empty() {
                pushed.push(PushedTopic { topic_id: *topic_id, partitions });
            }
        }
        pushed
    }
}

/// The end of a subscription of which nobody waits for more.
fn last() -> SubscribeResponse {
    SubscribeResponse { is_last: true, ..Default::default() }
}

/// Moves the targets over what was answered, in their order. Those that have failed or are read to their end are left out from now on;
/// those that gave something come last next time, so that a full answer starves nobody.
fn advance(
    targets: &mut Vec<Target>,
    answered: Vec<PartitionData>,
    end: impl Fn(PartitionId) -> Option<Offset>,
) -> Vec<PushedPartition> {
    let (mut pushed, mut gave) = (Vec::new(), Vec::new());
    let mut rest = Vec::with_capacity(targets.len());
    for (mut target, data) in targets.drain(..).zip(answered) {
        let offset = target.request.fetch_offset;
        let read = data.records.0.iter().flat_map(|part| headers(part)).map(|header| header.end_offset()).last();
        let next_offset = read.unwrap_or(offset).max(data.next_offset).max(offset);
        let is_over = !data.error_code.is_ok() || end(data.partition_index).is_some_and(|end| next_offset >= end);
        target.request.fetch_offset = next_offset;
        if next_offset == offset && !is_over {
            rest.push(target);
            continue;
        }
        if !is_over {
            gave.push(target);
        }
        pushed.push(PushedPartition {
            partition: data.partition_index,
            error_code: data.error_code,
            error_message: data.error_message,
            offset,
            next_offset,
            high_watermark: data.high_watermark,
            log_start_offset: data.log_start_offset,
            records: data.records,
        });
    }
    rest.append(&mut gave);
    *targets = rest;
    pushed
}
