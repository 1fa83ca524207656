//! Subscriptions under way: answers that brokers push, within the credit that what was handed out gives back.
//!
//! A subscription covers the partitions of a group from where they are on. Whatever else moves one of them (its caller, a failure, a pause)
//! makes it another subscription, on a stream of its own: so nothing that was sent for the place before is taken for the new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use millstream_env::Monotonic;
use millstream_model::{LeaderEpoch, Offset, PartitionId};
use millstream_protocol::{
    ApiKey, ErrorCode, Response,
    extension::subscriptions::{
        PushedPartition, SubscribeRequest, SubscribeResponse, SubscribedPartition, SubscribedTopic,
        SubscriptionCreditRequest,
    },
    messages::fetch::PartitionData,
};
use tokio::sync::{mpsc, watch};

use super::{
    Arrived, Consumer,
    answer::{self, Answer},
    fetch::Group,
};
use crate::{
    CallError, ConsumeError,
    channel::{Channel, Part},
    cluster::{Cluster, Target},
};

/// Where any record is worth an answer, one that says that the broker is there comes no more often than this.
const WAIT_MIN: Duration = Duration::from_secs(5);
/// The one subscription of a stream.
const ID: i32 = 0;

/// What the consumer keeps of a subscription. It ends when this is dropped.
pub(super) struct Subscription {
    number: u64,
    /// What it is to send next, of each partition.
    covers: BTreeMap<PartitionId, Offset>,
    window: u64,
    /// Handed out, and not given back to the broker.
    owed: u64,
    /// What the broker may send altogether, bytes.
    allowed: watch::Sender<u64>,
}

impl Subscription {
    /// So much was handed out, or not kept: told once it is worth a message.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.owed += bytes as u64;
        if self.owed >= self.window / 4 && self.owed > 0 {
            let owed = std::mem::take(&mut self.owed);
            self.allowed.send_modify(|allowed| *allowed = allowed.saturating_add(owed));
        }
    }
}

/// What a broker has pushed.
pub(super) struct Pushed {
    group: Group,
    number: u64,
    told: Result<Told, CallError>,
    others: mpsc::UnboundedReceiver<Result<Told, CallError>>,
}

/// One answer.
struct Told {
    answers: Vec<Answer>,
    bytes: usize,
    is_last: bool,
}

impl Consumer {
    /// Has the partitions of each group pushed from where they are.
    pub(super) fn pump_subscriptions(&mut self) {
        let wanted = self.wanted();
        let mut changed: BTreeSet<Group> = BTreeSet::new();
        let mut counts: BTreeMap<Group, usize> = BTreeMap::new();
        for (group, partition, _) in &wanted {
            *counts.entry(*group).or_default() += 1;
            let covered = self.subscription(*group).and_then(|open| open.covers.get(partition));
            if covered != self.partitions.get(partition).map(|state| &state.next) {
                changed.insert(*group);
            }
        }
        for (group, flow) in &self.flows {
            let covered = flow.subscription.as_ref().map_or(0, |open| open.covers.len());
            if covered != counts.get(group).copied().unwrap_or(0) {
                changed.insert(*group);
            }
        }
        for group in changed {
            let of_group = wanted.iter().filter(|(of, ..)| *of == group).map(|(_, at, epoch)| (*at, *epoch));
            let subscription = self.subscribe(group, of_group.collect());
            self.flows.entry(group).or_default().subscription = subscription;
        }
    }

    fn subscription(&self, group: Group) -> Option<&Subscription> {
        self.flows.get(&group)?.subscription.as_ref()
    }

    fn subscribe(&mut self, group: Group, partitions: Vec<(PartitionId, LeaderEpoch)>) -> Option<Subscription> {
        let waiting_bytes = self.flows.get(&group).map_or(0, |flow| flow.waiting_bytes);
        let window = u64::try_from(self.options.fetch_bytes_max).unwrap_or(0).max(1);
        let credit_bytes = window.saturating_sub(waiting_bytes as u64);
        let ask = |(partition, current_leader_epoch)| {
            let state = self.partitions.get(&partition)?;
            let end_offset = state.end.unwrap_or(Offset(-1));
            Some(SubscribedPartition { partition, current_leader_epoch, offset: state.next, end_offset })
        };
        let partitions: Vec<_> = partitions.into_iter().filter_map(ask).collect();
        if partitions.is_empty() {
            return None;
        }
        let covers: BTreeMap<_, _> = partitions.iter().map(|at| (at.partition, at.offset)).collect();
        let min_wait = if self.options.fetch_bytes_min > 1 { Duration::ZERO } else { WAIT_MIN };
        let wait = self.options.fetch_wait.max(min_wait);
        let request = SubscribeRequest {
            subscription_id: ID,
            credit_bytes: i64::try_from(credit_bytes).unwrap_or(i64::MAX),
            min_bytes: self.options.fetch_bytes_min,
            max_wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
            // The next is on its way while one is looked at.
            max_bytes: (self.options.fetch_bytes_max / 4).max(1),
            partition_max_bytes: self.options.partition_bytes_max,
            topics: vec![SubscribedTopic { topic_id: self.topic.id, partitions }],
        };
        let (tell, told) = mpsc::unbounded_channel();
        let (allow, allowed) = watch::channel(credit_bytes);
        self.subscriptions += 1;
        let number = self.subscriptions;
        let (cluster, name) = (Arc::clone(&self.cluster), Arc::clone(&self.name));
        let reader = Reader { name, covers: covers.clone(), received: 0, told: credit_bytes, wait };
        let task = async move {
            if let Err(error) = reader.run(&cluster, group, request, allowed, &tell).await {
                // Nobody listens once the subscription is dropped.
                let _ = tell.send(Err(error));
            }
        };
        drop(self.cluster.env.spawn.spawn("subscription", Box::pin(task)));
        self.wait_for_push(group, number, told);
        Some(Subscription { number, covers, window, owed: 0, allowed: allow })
    }

    fn wait_for_push(&self, group: Group, number: u64, mut others: mpsc::UnboundedReceiver<Result<Told, CallError>>) {
        let name = Arc::clone(&self.name);
        self.under_way.push(Box::pin(async move {
            let ended = || CallError::Disconnected { broker: name, reason: "the subscription has ended".into() };
            let told = others.recv().await.unwrap_or_else(|| Err(ended()));
            Arrived::Pushed(Pushed { group, number, told, others })
        }));
    }

    /// Takes what was pushed: what it holds becomes ready.
    pub(super) async fn take_pushed(&mut self, pushed: Pushed) -> Result<(), ConsumeError> {
        let Pushed { group, number, told, others } = pushed;
        // Of one that was left, nothing more is taken.
        if self.subscription(group).is_none_or(|open| open.number != number) {
            return Ok(());
        }
        let Told { answers, bytes, is_last } = match told {
            Ok(told) => told,
            Err(error) => {
                self.end_subscription(group);
                let is_refused = error.code() == Some(ErrorCode::ThrottlingQuotaExceeded);
                if is_refused || matches!(error, CallError::NotServed { .. }) {
                    tracing::info!(name = %self.name, "{error}; records are fetched instead");
                    self.options.push = false;
                    for flow in self.flows.values_mut() {
                        flow.subscription = None;
                    }
                    return Ok(());
                }
                return self.sit_out(error).await;
            }
        };
        self.retry = None;
        let mut kept = 0;
        for answer in answers {
            let (partition, next) = (answer.partition, answer.next);
            let goes_on = answer.error.is_none() && answer.damage.is_none();
            kept += self.take_answer(group, answer);
            let is_read = self.partitions.get(&partition).is_some_and(|state| !state.is_done());
            let Some(open) = self.flows.get_mut(&group).and_then(|flow| flow.subscription.as_mut()) else { continue };
            match goes_on && is_read {
                true => drop(open.covers.insert(partition, next)),
                false => drop(open.covers.remove(&partition)),
            }
        }
        if is_last {
            let left = self.end_subscription(group);
            if left.is_some_and(|left| !left.covers.is_empty()) {
                let reason = "it has ended the subscription".into();
                return self.sit_out(CallError::Disconnected { broker: Arc::clone(&self.name), reason }).await;
            }
            return Ok(());
        }
        if let Some(open) = self.flows.get_mut(&group).and_then(|flow| flow.subscription.as_mut()) {
            open.give_back(bytes.saturating_sub(kept));
        }
        self.wait_for_push(group, number, others);
        Ok(())
    }

    fn end_subscription(&mut self, group: Group) -> Option<Subscription> {
        self.flows.get_mut(&group)?.subscription.take()
    }
}

/// The task of a subscription: gives credit, and looks at what comes beside whoever reads what came before.
struct Reader {
    name: Arc<str>,
    /// Where the next answer of each partition must begin.
    covers: BTreeMap<PartitionId, Offset>,
    /// Bytes of answers that have come, and that were allowed.
    received: u64,
    told: u64,
    wait: Duration,
}

impl Reader {
    /// Until the subscription has ended, or nobody keeps it any more.
    async fn run(
        mut self,
        cluster: &Cluster,
        group: Group,
        request: SubscribeRequest,
        mut allowed: watch::Receiver<u64>,
        tell: &mpsc::UnboundedSender<Result<Told, CallError>>,
    ) -> Result<(), CallError> {
        let channel = cluster.own_channel(Target::Broker(group.leader)).await?;
        let mut parts = channel.subscribe(request.into())?;
        let clock = &cluster.env.clock;
        let silence_max = self.wait + cluster.options.request_timeout;
        let mut heard_at: Monotonic = clock.now();
        loop {
            let silent_for = clock.now() - heard_at;
            tokio::select! {
                // The same order in every run of a simulation.
                biased;
                part = parts.recv() => {
                    let Some(part) = part else { return Err(channel.protocol("it answers no more".into())) };
                    let told = self.check(&channel, part?)?;
                    let is_last = told.is_last;
                    if tell.send(Ok(told)).is_err() || is_last {
                        return Ok(());
                    }
                    heard_at = clock.now();
                }
                changed = allowed.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.told = *allowed.borrow_and_update();
                    let credit_bytes = i64::try_from(self.told).unwrap_or(i64::MAX);
                    channel.hand_over(SubscriptionCreditRequest { subscription_id: ID, credit_bytes }.into())?;
                    heard_at = clock.now();
                }
                // With no credit left there is nothing to be heard.
                () = clock.sleep(silence_max.saturating_sub(silent_for)), if self.received < self.told => {
                    let broker = Arc::clone(channel.broker());
                    return Err(CallError::TimedOut { broker, api: ApiKey::Subscribe, after: silence_max });
                }
            }
        }
    }

    fn check(&mut self, channel: &Channel, part: Part) -> Result<Told, CallError> {
        let Part { response, frame_bytes } = part;
        let Response::Subscribe(response) = response else {
            return Err(channel.protocol("the answer to Subscribe is of another kind".into()));
        };
        let SubscribeResponse { error_code, error_message, is_last, topics } = response;
        CallError::check(&self.name, error_code, error_message.as_deref())?;
        if self.received >= self.told && !is_last {
            let detail = format!("it sent more than the {} bytes that it was allowed", self.told);
            return Err(channel.protocol(detail));
        }
        self.received += frame_bytes as u64;
        let mut answers = Vec::new();
        for pushed in topics.into_iter().flat_map(|topic| topic.partitions) {
            // One that was given up here.
            let Some(from) = self.covers.get(&pushed.partition).copied() else { continue };
            if pushed.offset != from {
                let PushedPartition { partition, offset, .. } = pushed;
                return Err(
                    channel.protocol(format!("it sent partition {partition} from {offset} on, where {from} was due"))
                );
            }
            let answer = answer::check_partition(pushed.partition, from, data(pushed));
            match answer.error.is_none() && answer.damage.is_none() {
                true => drop(self.covers.insert(answer.partition, answer.next)),
                false => drop(self.covers.remove(&answer.partition)),
            }
            answers.push(answer);
        }
        Ok(Told { answers, bytes: frame_bytes, is_last })
    }
}

/// The same as Fetch would answer it.
fn data(pushed: PushedPartition) -> PartitionData {
    PartitionData {
        partition_index: pushed.partition,
        error_code: pushed.error_code,
        error_message: pushed.error_message,
        high_watermark: pushed.high_watermark,
        log_start_offset: pushed.log_start_offset,
        next_offset: pushed.next_offset,
        records: pushed.records,
        ..PartitionData::default()
    }
}
