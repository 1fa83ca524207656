//! Fetches under way: which partitions are asked for together, what answers become, and how failures are sat out.

use std::{collections::BTreeMap, sync::Arc};

use millstream_env::{BoxFuture, Monotonic};
use millstream_model::{BrokerId, LeaderEpoch, Offset, PartitionId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{FetchPartition, FetchRequest, FetchTopic},
};
use tokio::sync::oneshot;

use super::{
    Arrived, Consumer, FetchedBatches, Partition, Ready, StartFrom,
    answer::{self, Answer},
    subscription::Subscription,
};
use crate::{
    CallError, ConsumeError,
    channel::Channel,
    cluster::{Target, is_unknown},
};

/// Partitions that are fetched together: a leader and one of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) leader: BrokerId,
    stream: usize,
}

/// How far a group's fetching is.
#[derive(Default)]
pub(super) struct Flow {
    /// The stream, while no Fetch has it.
    channel: Option<Channel>,
    is_asking: bool,
    /// Instead of both, where its broker pushes.
    pub(super) subscription: Option<Subscription>,
    /// What came and is not handed out, bytes.
    pub(super) waiting_bytes: usize,
}

impl Flow {
    /// Whether the next Fetch may start.
    fn has_room(&self, waiting_max: usize) -> bool {
        !self.is_asking && self.waiting_bytes <= waiting_max
    }
}

/// What a Fetch ended with.
pub(super) struct Fetched {
    group: Group,
    /// The stream, for the next one; none when it is of no more use.
    channel: Option<Channel>,
    started: Monotonic,
    asked: Vec<(PartitionId, Offset)>,
    result: Result<Vec<Answer>, CallError>,
}

impl Consumer {
    /// So many bytes less wait to be handed out: there may be room for the group's next answer.
    pub(super) fn release(&mut self, group: Group, bytes: usize) {
        let waiting_max = self.waiting_max();
        let Some(flow) = self.flows.get_mut(&group) else { return };
        flow.waiting_bytes = flow.waiting_bytes.saturating_sub(bytes);
        if let Some(subscription) = &mut flow.subscription {
            subscription.give_back(bytes);
        } else if flow.has_room(waiting_max) {
            self.pump();
        }
    }

    /// The partitions that are to be read now, each with its group and its leader's epoch.
    pub(super) fn wanted(&mut self) -> Vec<(Group, PartitionId, LeaderEpoch)> {
        let mut wanted = Vec::with_capacity(self.partitions.len());
        for (partition, state) in &self.partitions {
            if state.is_done() || self.paused.contains(partition) || !self.failures.may_ask(*partition) {
                continue;
            }
            let (leader, epoch) = match self.topic.leader(*partition) {
                Ok(led) => led,
                Err(source) => {
                    let error = ConsumeError::Partition { partition: *partition, source };
                    self.failures.failed(*partition, error);
                    continue;
                }
            };
            let stream = partition.0.unsigned_abs() as usize % self.options.fetch_streams;
            wanted.push((Group { leader, stream }, *partition, epoch));
        }
        wanted
    }

    /// Starts a Fetch for every group that has none under way and little that waits to be handed out; or has its broker push.
    pub(super) fn pump(&mut self) {
        if self.stale {
            return;
        }
        if self.options.push {
            return self.pump_subscriptions();
        }
        let waiting_max = self.waiting_max();
        let mut groups: BTreeMap<Group, Vec<FetchPartition>> = BTreeMap::new();
        for (group, partition, epoch) in self.wanted() {
            if self.flows.get(&group).is_some_and(|flow| !flow.has_room(waiting_max)) {
                continue;
            }
            let Some(state) = self.partitions.get(&partition) else { continue };
            groups.entry(group).or_default().push(self.ask_for(partition, state.next, epoch));
        }
        for (group, mut partitions) in groups {
            // Whoever came first last time comes last this time: a full answer then starves nobody.
            let turn = self.cluster.env.rng.next_u64() as usize % partitions.len().max(1);
            partitions.rotate_left(turn);
            let flow = self.flows.entry(group).or_default();
            flow.is_asking = true;
            let channel = flow.channel.take();
            let fetch = self.start_fetch(group, channel, partitions);
            self.under_way.push(Box::pin(async move { Arrived::Fetched(fetch.await) }));
        }
    }

    /// So much of a group may wait to be handed out while its next answer is fetched, bytes.
    fn waiting_max(&self) -> usize {
        usize::try_from(self.options.fetch_bytes_max / 2).unwrap_or(0)
    }

    fn ask_for(&self, partition: PartitionId, fetch_offset: Offset, epoch: LeaderEpoch) -> FetchPartition {
        FetchPartition {
            partition,
            current_leader_epoch: epoch,
            fetch_offset,
            partition_max_bytes: self.options.partition_bytes_max,
            ..FetchPartition::default()
        }
    }

    /// Starts a Fetch that goes on whether or not anybody polls: the answer travels while the last one is handed out.
    fn start_fetch(
        &self,
        group: Group,
        channel: Option<Channel>,
        partitions: Vec<FetchPartition>,
    ) -> BoxFuture<'static, Fetched> {
        let cluster = Arc::clone(&self.cluster);
        let asked: Vec<_> = partitions.iter().map(|at| (at.partition, at.fetch_offset)).collect();
        let request = FetchRequest {
            max_wait_ms: i32::try_from(self.options.fetch_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: self.options.fetch_bytes_min,
            max_bytes: self.options.fetch_bytes_max,
            topics: vec![FetchTopic { topic: self.topic.name.as_ref().into(), topic_id: self.topic.id, partitions }],
            ..FetchRequest::default()
        };
        let due = self.options.fetch_wait;
        let (started, lost) = (self.cluster.env.clock.now(), asked.clone());
        let name = Arc::clone(&self.name);
        let fetch = async move {
            let opened = match channel.filter(|channel| !channel.is_over()) {
                Some(channel) => Ok(channel),
                None => cluster.own_channel(Target::Broker(group.leader)).await,
            };
            let channel = match opened {
                Ok(channel) => channel,
                Err(error) => return Fetched { group, channel: None, started, asked, result: Err(error) },
            };
            let answered = cluster.call_due(&channel, request, due).await.and_then(|response| {
                CallError::check(&name, response.error_code, None)?;
                Ok(response)
            });
            let result = answered.map(|response| answer::check(response, &asked));
            let channel = Some(channel).filter(|channel| !channel.is_over());
            Fetched { group, channel, started, asked, result }
        };
        let (tell, told) = oneshot::channel();
        let task = async move {
            // Nobody listens once the consumer is dropped.
            let _ = tell.send(fetch.await);
        };
        drop(self.cluster.env.spawn.spawn("fetch", Box::pin(task)));
        let name = Arc::clone(&self.name);
        Box::pin(async move {
            told.await.unwrap_or_else(|_| {
                let error = CallError::Disconnected { broker: name, reason: "the runtime is shutting down".into() };
                Fetched { group, channel: None, started, asked: lost, result: Err(error) }
            })
        })
    }

    /// Takes an answer: what it holds becomes ready.
    pub(super) async fn take(&mut self, fetched: Fetched) -> Result<(), ConsumeError> {
        let Fetched { group, channel, started, asked, result } = fetched;
        let flow = self.flows.entry(group).or_default();
        flow.is_asking = false;
        flow.channel = channel;
        let answers = match result {
            Ok(answers) => answers,
            Err(error) => return self.sit_out(error).await,
        };
        let progress = |partitions: &BTreeMap<PartitionId, Partition>| {
            asked.iter().any(|(at, from)| partitions.get(at).is_none_or(|state| state.next != *from))
        };
        for answer in answers {
            self.take_answer(group, answer);
        }
        self.retry = None;
        // A broker that answers at once and leads nowhere must not keep both sides busy.
        let early = self.cluster.env.clock.now() - started < self.options.fetch_wait;
        if early && !progress(&self.partitions) {
            self.cluster.env.clock.sleep(self.cluster.options.backoff_min).await;
        }
        Ok(())
    }

    /// Takes one partition's part of an answer. How many bytes of it wait to be handed out now.
    pub(super) fn take_answer(&mut self, group: Group, answer: Answer) -> usize {
        let (partition, bytes) = (answer.partition, answer.bytes());
        if answer.is_routed_anew {
            self.growth.is_due();
        }
        match self.take_partition(answer) {
            Ok(taken) => {
                if !self.undecoded.contains(&partition) {
                    self.failures.recovered(partition);
                }
                let Some(fetched) = taken else { return 0 };
                self.flows.entry(group).or_default().waiting_bytes += bytes;
                self.ready.push_back(Ready { group, bytes, fetched });
                return bytes;
            }
            Err(error) => self.failures.failed(partition, error),
        }
        0
    }

    /// Moves the position over what came.
    fn take_partition(&mut self, answer: Answer) -> Result<Option<FetchedBatches>, ConsumeError> {
        let Answer { partition, from, error, log_start, high_watermark, batches, next, damage, .. } = answer;
        let Some(state) = self.partitions.get_mut(&partition) else { return Ok(None) };
        let topic = || Arc::clone(&self.name);
        // Moved meanwhile, by the caller or back to where records are damaged: the answer is for another place.
        if state.next != from || self.paused.contains(&partition) {
            return Ok(None);
        }
        if let Some((code, message)) = error {
            let passed = log_start.filter(|start| self.options.pass_over_deleted && *start > from);
            let is_asked_for = self.options.start == StartFrom::Offset(from);
            if let Some(start) = passed.filter(|_| code == ErrorCode::OffsetOutOfRange && !is_asked_for) {
                state.next = start;
                self.failures.passed_over(partition, from, start);
                return Ok(None);
            }
            return Err(match code {
                ErrorCode::OffsetOutOfRange => ConsumeError::OutOfRange {
                    topic: topic(),
                    partition,
                    offset: from,
                    start: log_start,
                    end: high_watermark,
                },
                // For other requests this may pass; what is on a broker's disk stays as it is.
                ErrorCode::CorruptMessage => {
                    let detail = message.as_deref().unwrap_or("the broker found them so").into();
                    ConsumeError::Damaged { topic: topic(), partition, offset: from, detail }
                }
                code => {
                    let what = format!("{} partition {partition}", self.name);
                    let source = CallError::refused(what, code, message.as_deref());
                    ConsumeError::Partition { partition, source }
                }
            });
        }
        state.high_watermark = high_watermark.or(state.high_watermark);
        // What came before the damage is handed out first; the next answer begins with it.
        if next == from
            && let Some((offset, detail)) = damage
        {
            return Err(ConsumeError::Damaged { topic: topic(), partition, offset, detail: detail.into() });
        }
        // What a batch has beyond the end is not handed out.
        state.next = state.end.map_or(next, |end| next.min(end));
        if batches.is_empty() {
            return Ok(None);
        }
        Ok(Some(FetchedBatches { partition, batches, from, next }))
    }

    /// After something failed: waits a while if trying again can help, else gives the error out.
    pub(super) async fn sit_out(&mut self, error: CallError) -> Result<(), ConsumeError> {
        let patience = self.options.patience;
        let error = self.cluster.cause(error);
        if !error.is_retriable() || (is_unknown(&error) && self.retry.is_some()) {
            self.retry = None;
            return Err(error.into());
        }
        tracing::debug!(name = %self.name, %error, "reading is tried again");
        self.cluster.tell_lost(&error, patience);
        self.stale = true;
        let cluster = &self.cluster;
        let retry = self.retry.get_or_insert_with(|| cluster.retry(patience));
        if error.code().is_some() && retry.takes_long() {
            tracing::warn!("{error}; trying again");
        }
        if !retry.wait().await {
            self.retry = None;
            return Err(error.into());
        }
        Ok(())
    }

    /// Asks anew who leads what.
    pub(super) async fn refresh(&mut self) -> Result<(), ConsumeError> {
        match self.cluster.refresh_topic(&self.name).await {
            Ok(topic) => {
                self.learn(topic);
                self.stale = false;
                Ok(())
            }
            Err(error) => self.sit_out(error).await,
        }
    }
}
