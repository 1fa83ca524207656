//! Placing records that leave their partition open: by asking the topic's partitioner, ahead of producing them; and anew, when the topic
//! is routed anew. The broker is asked, or the module that runs here (`local`): whose answer it is makes no difference below.
//!
//! Records of a topic pass here in order. A few questions are under way at a time; their answers are used in the order
//! asked, so that records enter their partitions' queues as they came. An answer is kept: repeats of a Produce go where the first
//! attempt went, until the broker says that the routing epoch is over, and that it has not taken them.
//!
//! Then the producer turns to the next epoch. Nothing more is placed; each batch that is under way is repeated until it was taken or is
//! refused for that reason, so that none can be in the log in two places; what was not taken is placed in the next epoch, in the order in
//! which it was sent, and then what came meanwhile. (A partition's batches are numbered anew after that, in the producer's next epoch
//! there: see `window`.)
//!
//! A record that the partitioner refuses does not take its neighbours along: the question is asked again without it, and
//! it alone. Only a question about a single record is a verdict on that record.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, future::OptionFuture, stream::FuturesOrdered};
use millstream_env::{BoxFuture, Monotonic};
use millstream_model::{Needs, PartitionId, RoutingEpoch};
use millstream_protocol::{ErrorCode, extension::routing::AssignRequest};
use millstream_record::Header;
use tokio::sync::{mpsc, watch};

use super::{Entry, Item, Shared, queues::Queues, routing::Rules};
use crate::{
    CallError, ProduceError,
    assign_frame::{self, Shown},
    cluster::{Role, Target, is_unknown},
};

/// Questions under way at a time.
const IN_FLIGHT_MAX: usize = 2;
/// Records of one question.
const RECORDS_MAX: usize = 1000;
/// Bytes of one question's records; one record may exceed it.
const BYTES_MAX: usize = 128 << 10;

/// What became of a record's question.
enum Choice {
    /// Its partition, and the epoch of the choice.
    At(PartitionId, RoutingEpoch),
    /// There is none for it.
    Refused(ProduceError),
    /// It was asked in an epoch that is over.
    Stale,
}

type Chosen = Vec<(Item, Choice)>;
/// Questions, in the order asked.
type UnderWay<'a> = FuturesOrdered<Pin<Box<dyn Future<Output = Chosen> + Send + 'a>>>;

/// Routes one topic's records until the producer has let go of the topic and every record has its fate.
pub(super) async fn run(shared: Arc<Shared>, queues: Arc<Queues>, items: mpsc::UnboundedReceiver<Item>) {
    let stale = queues.spread.watch_stale();
    let mut route = Route {
        shared: &shared,
        queues: &queues,
        items,
        stale,
        open: true,
        first: VecDeque::new(),
        gave_up: false,
        look_due: look_due(&shared),
        looked_at_cuts: 0,
    };
    let mut under_way = UnderWay::new();
    loop {
        if route.is_to_turn() {
            route.turn(&mut under_way, Vec::new()).await;
            continue;
        }
        if under_way.is_empty() && route.first.is_empty() {
            route.queues.turned(|| route.items.is_empty() && !route.is_over());
            if !route.open {
                // What was placed may still come back.
                route.first.extend(route.queues.drain().await);
                if route.first.is_empty() && !route.is_to_turn() {
                    return;
                }
                continue;
            }
        }
        let may_place = under_way.len() < IN_FLIGHT_MAX;
        match route.next(&mut under_way, may_place).await {
            Event::Chosen(chosen) if chosen.iter().any(|(_, choice)| matches!(choice, Choice::Stale)) => {
                route.turn(&mut under_way, chosen).await;
            }
            Event::Chosen(chosen) => {
                for (item, choice) in chosen {
                    match choice {
                        Choice::At(partition, epoch) => {
                            route.queues.push(&shared, partition, Entry::Record(item, epoch));
                        }
                        Choice::Refused(error) => item.pending.done(Err(error)),
                        Choice::Stale => {}
                    }
                }
            }
            Event::Item(None) => route.open = false,
            Event::Item(Some(item)) if route.is_over() => route.first.push_front(item),
            Event::Item(Some(item)) => route.place(&mut under_way, item),
            Event::Stale => {}
            Event::LookDue => route.look_again(),
        }
    }
}

/// When it is next to be looked whether the topic is routed anew.
fn look_due(shared: &Shared) -> BoxFuture<'static, ()> {
    shared.cluster.env.clock.sleep(shared.cluster.options.metadata_max_age)
}

enum Event {
    Chosen(Chosen),
    /// None: there will be no more.
    Item(Option<Item>),
    /// A broker calls an epoch over.
    Stale,
    /// It is time to look whether the topic is routed anew.
    LookDue,
}

struct Route<'a> {
    shared: &'a Arc<Shared>,
    queues: &'a Arc<Queues>,
    items: mpsc::UnboundedReceiver<Item>,
    stale: watch::Receiver<RoutingEpoch>,
    /// More items may come.
    open: bool,
    /// What is to be placed before them.
    first: VecDeque<Item>,
    /// There was no other epoch for as long as a record may wait: it is looked for again when there is something to place.
    gave_up: bool,
    look_due: BoxFuture<'static, ()>,
    /// How many batches had been cut when that was looked for last.
    looked_at_cuts: u64,
}

impl<'a> Route<'a> {
    /// Looks whether the topic is routed anew by now, if anything was sent since that was done last. Nobody waits for it.
    fn look_again(&mut self) {
        self.look_due = look_due(self.shared);
        let cuts = self.queues.spread.cuts();
        if std::mem::replace(&mut self.looked_at_cuts, cuts) == cuts {
            return;
        }
        let (shared, queues) = (Arc::clone(self.shared), Arc::clone(self.queues));
        let look = async move {
            if let Err(error) = queues.look(&shared.cluster).await {
                tracing::debug!(topic = %queues.name, %error, "new partitions are looked for later");
            }
        };
        drop(self.shared.cluster.env.spawn.spawn("produce look", Box::pin(look)));
    }

    /// Whether a broker takes nothing any more that is placed by the known rules.
    fn is_over(&self) -> bool {
        self.queues.spread.is_stale(self.queues.routing.current().epoch)
    }

    fn is_to_turn(&self) -> bool {
        self.is_over() && (!self.gave_up || !self.first.is_empty() || !self.items.is_empty())
    }

    async fn next(&mut self, under_way: &mut UnderWay<'a>, may_place: bool) -> Event {
        if may_place && let Some(item) = self.first.pop_front() {
            return Event::Item(Some(item));
        }
        let may_take = may_place && self.open;
        let answered = OptionFuture::from(if under_way.is_empty() { None } else { Some(under_way.next()) });
        let taken = OptionFuture::from(if may_take { Some(self.items.recv()) } else { None });
        tokio::select! {
            // Answers first: they keep the queues filled. All can be dropped unfinished without losing anything.
            biased;
            Some(Some(chosen)) = answered => Event::Chosen(chosen),
            _ = self.stale.changed() => Event::Stale,
            Some(item) = taken => Event::Item(item),
            () = &mut self.look_due => Event::LookDue,
        }
    }

    /// Places an item, and what waits behind it, as far as one question goes.
    fn place(&mut self, under_way: &mut UnderWay<'a>, item: Item) {
        let rules = self.queues.routing.current();
        if !rules.partitioner {
            let partition = self.queues.default_partition(&self.shared.cluster, item.key.as_deref());
            self.queues.push(self.shared, partition, Entry::Record(item, rules.epoch));
            return;
        }
        let mut bytes = shown_bytes(&item, rules.needs);
        let mut group = vec![item];
        while group.len() < RECORDS_MAX {
            let Some(item) = self.first.pop_front().or_else(|| self.items.try_recv().ok()) else { break };
            bytes += shown_bytes(&item, rules.needs);
            if bytes > BYTES_MAX {
                self.first.push_front(item);
                break;
            }
            group.push(item);
        }
        under_way.push_back(Box::pin(choose(self.shared, self.queues, group)));
    }

    /// Turns to the topic's present routing epoch. `asked`: what was asked in the one before, the oldest answer.
    async fn turn(&mut self, under_way: &mut UnderWay<'a>, asked: Chosen) {
        self.queues.turn();
        let mut again = VecDeque::new();
        let mut answers = Some(asked);
        while let Some(chosen) = answers {
            for (item, choice) in chosen {
                match choice {
                    Choice::Refused(error) => item.pending.done(Err(error)),
                    Choice::At(..) | Choice::Stale => again.push_back(item),
                }
            }
            answers = under_way.next().await;
        }
        let before = self.queues.routing.current().epoch;
        if again.is_empty() && self.first.is_empty() {
            self.first.extend(self.items.try_recv().ok());
        }
        let oldest = again.iter().chain(&self.first).map(|item| item.pending.deadline).min();
        let outcome = self.next_epoch(oldest).await;
        if matches!(outcome, Ok(true)) {
            // What is not sent yet need not be.
            self.queues.spread.set_stale(before);
        }
        if !matches!(outcome, Ok(false)) {
            // The oldest first.
            let mut returned = VecDeque::from(self.queues.drain().await);
            returned.append(&mut again);
            again = returned;
        }
        if matches!(outcome, Ok(true)) {
            self.queues.spread.clear_stale();
        }
        again.append(&mut self.first);
        self.first = again;
        self.gave_up = outcome.is_err();
        if let Err(error @ ProduceError::Expired { .. }) = &outcome {
            // Those that came later may wait a little more.
            let now = self.shared.cluster.env.clock.now();
            let (due, left) = std::mem::take(&mut self.first).into_iter().partition(|item| item.is_due(now));
            self.first = left;
            let due: VecDeque<Item> = due;
            due.into_iter().for_each(|item| item.pending.done(Err(error.clone())));
        } else if let Err(error) = outcome {
            while let Some(item) = self.first.pop_front().or_else(|| self.items.try_recv().ok()) {
                item.pending.done(Err(error.clone()));
            }
        }
    }

    /// Takes the topic's present rules. Whether they are of another epoch; waited for where a broker has called the known one over.
    /// Until the oldest record that waits for it is given up.
    async fn next_epoch(&mut self, oldest: Option<Monotonic>) -> Result<bool, ProduceError> {
        let Shared { cluster, options, .. } = &**self.shared;
        let patience = oldest.map_or(options.delivery_timeout, |at| at - cluster.env.clock.now());
        let mut retry = cluster.retry(patience);
        loop {
            let over = self.is_over();
            let last = match self.queues.routing.refresh(cluster, &self.queues.name).await {
                Ok(true) => return Ok(true),
                Ok(false) if !over => {
                    // Asked again at once, it might say the same.
                    retry.wait().await;
                    return Ok(false);
                }
                Ok(false) => not_in_force(&self.queues.name),
                Err(error) if !error.is_retriable() || is_unknown(&error) => return Err(error.into()),
                Err(error) => error,
            };
            if !retry.wait().await {
                return Err(self.shared.expired(Some(&last)));
            }
        }
    }
}

/// What records wait for that brokers do not take any more where they were placed.
pub(super) fn not_in_force(topic: &str) -> CallError {
    let why = "its next routing epoch is not in force yet";
    CallError::refused(format!("topic {topic}"), ErrorCode::StaleRouting, Some(why))
}

/// What a record takes of a question, more or less.
fn shown_bytes(item: &Item, needs: Needs) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let header = |header: &Header| header.key.len() + len(&header.value) + 8;
    let value = if needs.values { len(&item.value) } else { 0 };
    let headers = if needs.headers { item.headers.iter().map(header).sum() } else { 0 };
    len(&item.key) + value + headers + 16
}

/// Finds every record's partition, in order.
async fn choose(shared: &Shared, queues: &Queues, group: Vec<Item>) -> Chosen {
    let mut chosen = Vec::with_capacity(group.len());
    let mut groups = VecDeque::from([group]);
    let mut last = None;
    while let Some(mut group) = groups.pop_front() {
        // Others may have taken their time before it.
        let now = shared.cluster.env.clock.now();
        for item in group.extract_if(.., |item| item.is_due(now)) {
            item.pending.done(Err(shared.expired(last.as_ref())));
        }
        if group.is_empty() {
            continue;
        }
        match ask(shared, queues, &group).await {
            Ok((epoch, partitions)) => {
                for (item, partition) in group.into_iter().zip(partitions) {
                    // -1 leaves it to the host: where it would go without a partitioner.
                    let partition = match partition.0 {
                        -1 => queues.default_partition(&shared.cluster, item.key.as_deref()),
                        _ => partition,
                    };
                    let choice = match queues.check(partition) {
                        Ok(()) => Choice::At(partition, epoch),
                        Err(error) => Choice::Refused(error),
                    };
                    chosen.push((item, choice));
                }
            }
            Err(refusal) if refusal.is_stale() => {
                let rest = std::iter::once(group).chain(std::mem::take(&mut groups)).flatten();
                chosen.extend(rest.map(|item| (item, Choice::Stale)));
            }
            Err(Refusal { error: ProduceError::Expired { last: why, .. }, .. }) => {
                // The oldest is due by now; those that came later may wait a little more.
                last = why;
                groups.push_front(group);
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
            Err(refusal) => {
                chosen.extend(group.into_iter().map(|item| (item, Choice::Refused(refusal.error.clone()))));
            }
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

impl Refusal {
    /// Whether the question was about an epoch that is over.
    fn is_stale(&self) -> bool {
        matches!(&self.error, ProduceError::Call(call) if call.code() == Some(ErrorCode::StaleRouting))
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self { error: error.into(), is_about_records: false, record: None }
    }
}

/// Asks about one group, until there is an answer for good.
async fn ask(shared: &Shared, queues: &Queues, group: &[Item]) -> Result<(RoutingEpoch, Vec<PartitionId>), Refusal> {
    #[cfg(feature = "local-routing")]
    if let Some(answer) = choose_here(shared, queues, group).await {
        return Ok(answer);
    }
    let oldest = group.iter().map(|item| item.pending.deadline).min();
    let patience = oldest.map_or(shared.options.delivery_timeout, |at| at - shared.cluster.env.clock.now());
    let mut retry = shared.cluster.retry(patience);
    let mut is_gone = false;
    loop {
        let rules = queues.routing.current();
        let refusal = match ask_once(shared, queues, rules, group).await {
            Ok(answer) => return Ok(answer),
            Err(refusal) => refusal,
        };
        let ProduceError::Call(call) = &refusal.error else { return Err(refusal) };
        // What exists no more is not waited for, once it was looked for again.
        if !call.is_retriable() || (is_unknown(call) && std::mem::replace(&mut is_gone, true)) {
            return Err(refusal);
        }
        if !retry.wait().await {
            return Err(Refusal { error: shared.expired(Some(call)), ..refusal });
        }
    }
}

/// What the partitioner chooses that runs here; none: the broker is to be asked.
#[cfg(feature = "local-routing")]
async fn choose_here(shared: &Shared, queues: &Queues, group: &[Item]) -> Option<(RoutingEpoch, Vec<PartitionId>)> {
    let Rules { partitions, epoch, told, .. } = queues.routing.current();
    let frame = |needs| frame(group, needs);
    let chosen = queues.local.choose(&shared.cluster, &queues.name, (&told?, partitions), frame).await?;
    Some((epoch, chosen))
}

/// What the partitioner is shown of records.
fn frame(group: &[Item], needs: Needs) -> Bytes {
    let shown = group.iter().map(|item| Shown {
        timestamp: item.timestamp,
        key: item.key.as_deref(),
        value: item.value.as_deref(),
        headers: &item.headers,
    });
    assign_frame::encode(shown, needs)
}

async fn ask_once(
    shared: &Shared,
    queues: &Queues,
    rules: Rules,
    group: &[Item],
) -> Result<(RoutingEpoch, Vec<PartitionId>), Refusal> {
    let request = AssignRequest {
        topic: queues.name.as_ref().into(),
        routing_epoch: rules.epoch,
        count: i32::try_from(group.len()).unwrap_or(i32::MAX),
        frame: frame(group, rules.needs),
    };
    let cluster = &shared.cluster;
    let channel = cluster.channel(Target::Any, Role::Assign).await?;
    let answer = channel.call(request, cluster.options.request_timeout).await?;
    let what = format!("the partitioner of topic {}", queues.name);
    CallError::check(&what, answer.error_code, answer.error_message.as_deref()).map_err(|error| Refusal {
        is_about_records: matches!(
            answer.error_code,
            ErrorCode::CallFailed | ErrorCode::PartitionOutOfRange | ErrorCode::MessageTooLarge
        ),
        record: usize::try_from(answer.error_record).ok(),
        error: error.into(),
    })?;
    if answer.partitions.len() != group.len() {
        let detail = format!("{} partitions were chosen for {} records", answer.partitions.len(), group.len());
        return Err(CallError::refused(what, ErrorCode::UnknownServer, Some(&detail)).into());
    }
    Ok((answer.routing_epoch, answer.partitions))
}
