//! One partition's queue: gathers batches, sends them, and sees each to its fate.
//!
//! What is under way, and in which order it may go again, is decided in `window`; this is the shell around it, that fills
//! batches, talks to brokers, waits and tells.

mod expiry;

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, future::OptionFuture, stream::FuturesUnordered};
use millstream_env::BoxFuture;
use millstream_model::{Offset, PartitionId, ProducerId, RoutingEpoch};
use millstream_protocol::{
    ErrorCode,
    messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
};
use tokio::sync::{mpsc, watch};

use self::expiry::Expiry;
use super::{
    Acks, Entry, Item, Shared,
    filling::{Batch, Filling},
    queues::Spread,
    route::not_in_force,
    waits::Wait,
    window::{Failure, Window},
};
use crate::{
    CallError, ProduceError,
    cluster::{Role, Target, is_unknown, jittered},
};

/// Runs a partition's queue until every producer is gone and everything was sent.
pub(super) async fn run(
    shared: Arc<Shared>,
    topic: Arc<str>,
    partition: PartitionId,
    spread: Arc<Spread>,
    entries: mpsc::UnboundedReceiver<Entry>,
) {
    let flushed = shared.flushed.subscribe();
    let window = Window::new(shared.is_idempotent());
    let mut queue = Queue {
        pause: shared.cluster.options.backoff_min,
        shared,
        topic,
        partition,
        spread,
        is_out: false,
        wait: Wait::default(),
        entries,
        open: true,
        held: None,
        filling: None,
        linger: None,
        flushed,
        flushes: 0,
        expiry: Expiry::default(),
        last: None,
        window,
        attempts: FuturesUnordered::new(),
        returned: BTreeMap::new(),
        behind: Vec::new(),
        waiting: None,
        first_id: true,
    };
    while !queue.is_done() {
        queue.cut();
        queue.send();
        let event = queue.event().await;
        queue.handle(event);
        queue.settle();
    }
}

type Answer = (u64, Result<Option<Offset>, CallError>);

/// What is waited for before anything more is sent.
enum Waited {
    /// A pause, and what the cluster said of the topic after it.
    Paused(Result<(), CallError>),
    /// A producer id.
    Id(Result<ProducerId, CallError>),
}

enum Event {
    Answer(Answer),
    Waited(Waited),
    /// None: there will be no more.
    Entry(Option<Entry>),
    /// The batch has lingered enough, or is to be sent at once.
    Enough,
    /// Something has waited long enough.
    Expired,
    /// Something has changed already.
    Nothing,
}

struct Queue {
    shared: Arc<Shared>,
    topic: Arc<str>,
    partition: PartitionId,
    spread: Arc<Spread>,
    /// Its storage has failed, as the last answer said.
    is_out: bool,
    /// How long what is under way has waited.
    wait: Wait,
    entries: mpsc::UnboundedReceiver<Entry>,
    /// More entries may come.
    open: bool,
    /// Taken, but it belongs to a later batch.
    held: Option<Entry>,
    filling: Option<Filling>,
    /// The time that the batch being filled still waits for more records.
    linger: Option<BoxFuture<'static, ()>>,
    flushed: watch::Receiver<u64>,
    /// How many there were when the batch being filled was begun.
    flushes: u64,
    expiry: Expiry,
    /// What the last attempt said, if it failed.
    last: Option<CallError>,
    window: Window<Batch>,
    attempts: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// What the broker does not take any more, since the topic is routed anew: by the batches' numbers.
    returned: BTreeMap<u64, Vec<Item>>,
    /// What came behind that and was not sent.
    behind: Vec<Item>,
    waiting: Option<BoxFuture<'static, Waited>>,
    /// The next pause.
    pause: Duration,
    /// The producer's common id was not used yet.
    first_id: bool,
}

impl Queue {
    fn is_done(&self) -> bool {
        !self.open && self.held.is_none() && self.filling.is_none() && self.window.is_empty()
    }

    // ---- gathering

    /// Moves what is due from the batch being filled into the window.
    fn cut(&mut self) {
        while self.window.has_room() {
            if let Some(filling) = &self.filling {
                // While something is under way, only full batches join it: the others gather more meanwhile.
                let is_full = filling.is_full() || self.held.is_some() || !self.open;
                if !is_full && (self.linger.is_some() || !self.window.is_empty()) {
                    return;
                }
                self.linger = None;
                match self.filling.take() {
                    Some(stale) if self.spread.is_stale(stale.routing_epoch()) => self.give_back(stale),
                    Some(filling) => {
                        if let Some(batch) = filling.cut() {
                            let count = batch.count();
                            self.push(batch, count, false);
                        }
                    }
                    None => {}
                }
            }
            match self.held.take() {
                Some(Entry::Record(item, routing_epoch)) => self.take(Entry::Record(item, routing_epoch)),
                // It goes as it is, without a number: nothing else is under way then.
                Some(Entry::Encoded(bytes, pending)) if self.window.is_empty() => {
                    if let Some(batch) = Batch::new(bytes, RoutingEpoch::UNKNOWN, vec![pending]) {
                        self.push(batch, 1, true);
                    }
                }
                // All before it have their fate.
                Some(Entry::Turn(tell)) if self.window.is_empty() => {
                    let returned = std::mem::take(&mut self.returned).into_values().flatten();
                    let _ = tell.send(returned.chain(std::mem::take(&mut self.behind)).collect());
                }
                Some(other) => {
                    self.held = Some(other);
                    return;
                }
                None => {}
            }
            if self.filling.is_none() {
                return;
            }
        }
    }

    /// Keeps what was gathered to be placed anew: the broker would not take it.
    fn give_back(&mut self, filling: Filling) {
        let items = filling.cut().map(|batch| batch.into_items(&self.topic));
        self.behind.extend(items.into_iter().flatten());
    }

    fn push(&mut self, batch: Batch, count: i32, alone: bool) {
        self.spread.cut();
        self.window.push(batch, count, alone);
    }

    fn wants_entries(&self) -> bool {
        self.open && self.held.is_none() && self.filling.as_ref().is_none_or(|filling| !filling.is_full())
    }

    /// Takes an entry into the batch being filled, or keeps it for later.
    fn take(&mut self, entry: Entry) {
        if let Some(deadline) = entry.deadline() {
            self.expiry.notes(deadline);
        }
        let Entry::Record(item, routing_epoch) = entry else {
            self.held = Some(entry);
            return;
        };
        if self.spread.is_stale(routing_epoch) {
            // Behind what is being gathered, if that is of the same epoch.
            if let Some(filling) = self.filling.take_if(|filling| filling.routing_epoch() == routing_epoch) {
                self.linger = None;
                self.give_back(filling);
            }
            self.behind.push(item);
            return;
        }
        if let Some(filling) = &mut self.filling {
            match filling.has_room(&item, routing_epoch) {
                true => {
                    if self.linger.is_some() && item.is_flushed(self.flushes) {
                        self.linger = None;
                    }
                    filling.push(item);
                }
                false => self.held = Some(Entry::Record(item, routing_epoch)),
            }
            return;
        }
        let options = &self.shared.options;
        let mut filling = Filling::new(&self.topic, options, routing_epoch);
        // A flush from here on is told; of those before, each record says whether it was sent by then.
        self.flushes = *self.flushed.borrow_and_update();
        let lingers = !options.linger.is_zero() && !item.is_flushed(self.flushes);
        filling.push(item);
        if !filling.is_empty() {
            self.filling = Some(filling);
            self.linger = lingers.then(|| self.shared.cluster.env.clock.sleep(options.linger));
        }
    }

    // ---- sending

    /// Starts what may be sent now, or the wait that it needs.
    fn send(&mut self) {
        while let Some((serial, batch, stamp)) = self.window.next() {
            batch.stamp(stamp);
            let attempt = attempt(
                Arc::clone(&self.shared),
                Arc::clone(&self.topic),
                self.partition,
                batch.bytes.clone(),
                batch.routing_epoch,
            );
            self.attempts.push(Box::pin(async move { (serial, attempt.await) }));
        }
        if self.waiting.is_some() {
            return;
        }
        if self.window.is_stalled() {
            if self.window.renumbers() {
                return self.window.resume();
            }
            self.expire();
            let now = self.shared.cluster.env.clock.now();
            match self.window.oldest().map(|batch| batch.deadline - now) {
                Some(left) => self.waiting = Some(Box::pin(self.recover(left))),
                None => self.window.resume(),
            }
        } else if self.window.needs_id() {
            let (shared, common) = (Arc::clone(&self.shared), std::mem::take(&mut self.first_id));
            self.waiting = Some(Box::pin(async move {
                Waited::Id(match common {
                    true => shared.common_id().await,
                    false => shared.new_id().await,
                })
            }));
        }
    }

    /// Pauses, at most for the time left, and asks who leads the partition now.
    fn recover(&mut self, left: Duration) -> impl Future<Output = Waited> + Send + use<> {
        let env = &self.shared.cluster.env;
        let sleep = env.clock.sleep(jittered(&*env.rng, self.pause).min(left));
        self.pause = (self.pause * 2).min(self.shared.cluster.options.backoff_max);
        let (shared, topic) = (Arc::clone(&self.shared), Arc::clone(&self.topic));
        async move {
            sleep.await;
            Waited::Paused(shared.cluster.refresh_topic(&topic).await.map(|_| ()))
        }
    }

    // ---- what happens

    async fn event(&mut self) -> Event {
        // What `send` has changed without waiting: it may have made room for a batch that has gathered long enough.
        let is_due = self.filling.is_some() && self.linger.is_none();
        if self.waiting.is_none() && self.attempts.is_empty() && (!self.window.is_empty() || is_due) {
            return Event::Nothing;
        }
        if self.is_done() {
            return Event::Nothing;
        }
        self.arm();
        let wants_entries = self.wants_entries();
        let lingers = self.linger.is_some();
        let answered =
            pin!(OptionFuture::from(if self.attempts.is_empty() { None } else { Some(self.attempts.next()) }));
        let waited = pin!(OptionFuture::from(self.waiting.as_mut()));
        let entry = pin!(OptionFuture::from(if wants_entries { Some(self.entries.recv()) } else { None }));
        let lingered = pin!(OptionFuture::from(self.linger.as_mut()));
        let flushed = pin!(OptionFuture::from(if lingers { Some(self.flushed.changed()) } else { None }));
        tokio::select! {
            // The same order in every run of a simulation, and answers first: they make room.
            biased;
            Some(Some(answer)) = answered => Event::Answer(answer),
            Some(waited) = waited => Event::Waited(waited),
            Some(entry) = entry => Event::Entry(entry),
            Some(()) = lingered => Event::Enough,
            Some(_) = flushed => Event::Enough,
            () = self.expiry.due() => Event::Expired,
            else => Event::Nothing,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Answer((serial, Ok(base))) => {
                self.pause = self.shared.cluster.options.backoff_min;
                self.last = None;
                self.is_well(true);
                if let Some(batch) = self.window.acknowledged(serial) {
                    batch.delivered(self.partition, base);
                }
            }
            Event::Answer((serial, Err(error))) => self.failed(serial, error),
            Event::Waited(waited) => {
                self.waiting = None;
                self.waited(waited);
            }
            Event::Entry(None) => self.open = false,
            Event::Entry(Some(entry)) => {
                self.take(entry);
                // What is there already needs no waiting.
                while self.wants_entries() {
                    let Ok(entry) = self.entries.try_recv() else { break };
                    self.take(entry);
                }
            }
            Event::Enough => self.linger = None,
            Event::Expired => self.expire(),
            Event::Nothing => {}
        }
    }

    fn failed(&mut self, serial: u64, error: CallError) {
        let Some(batch) = self.window.batch(serial) else { return };
        let epoch = batch.routing_epoch;
        if error.code() == Some(ErrorCode::StaleRouting) && epoch.is_known() {
            // It is certainly not in the log, nor will it be.
            if let Some(batch) = self.window.failed(serial, Failure::Final) {
                tracing::debug!(topic = %self.topic, partition = %self.partition, %epoch, "is placed anew");
                self.returned.insert(serial, batch.into_items(&self.topic));
            }
            self.last = Some(not_in_force(&self.topic));
            return self.spread.set_stale(epoch);
        }
        let again = batch.last.is_some();
        let failure = match error.code() {
            Some(ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId) => Failure::OutOfOrder,
            _ if is_final(&error, again) => Failure::Final,
            _ => Failure::Retry,
        };
        tracing::debug!(topic = %self.topic, partition = %self.partition, %error, ?failure, "a batch was not taken");
        batch.last = Some(error.clone());
        self.last = Some(error.clone());
        if matches!(failure, Failure::Retry) {
            self.waits_for(&error);
        }
        if let Some(mut batch) = self.window.failed(serial, failure) {
            batch.given_up(&ProduceError::refused(&self.topic, self.partition, error));
        }
    }

    /// Notes why what is under way must wait.
    fn waits_for(&mut self, error: &CallError) {
        let Shared { cluster, options, waits, .. } = &*self.shared;
        cluster.tell_lost(error, options.delivery_timeout);
        self.wait.goes_on(cluster, waits, error, options.delivery_timeout);
        if error.code() == Some(ErrorCode::KafkaStorage) && !self.is_out {
            self.is_out = true;
            self.spread.set_out(self.partition, true);
        }
    }

    /// Notes that nothing waits any more: `taken` says whether because records were taken.
    fn is_well(&mut self, taken: bool) {
        self.wait.ends(&self.shared.waits, &self.topic, self.partition, taken);
        if std::mem::take(&mut self.is_out) {
            self.spread.set_out(self.partition, false);
        }
    }

    /// What was given up waits for nothing: others may try the partition.
    fn settle(&mut self) {
        if self.window.is_empty() {
            self.is_well(false);
        }
    }

    fn waited(&mut self, waited: Waited) {
        let error = match waited {
            Waited::Paused(Ok(())) => return self.window.resume(),
            Waited::Id(Ok(id)) => return self.window.set_id(id),
            Waited::Paused(Err(error)) | Waited::Id(Err(error)) => error,
        };
        tracing::debug!(topic = %self.topic, partition = %self.partition, %error, "nothing can be sent");
        if error.is_retriable() {
            self.waits_for(&error);
        }
        self.window.stall();
        self.last = Some(error.clone());
        let Some(batch) = self.window.oldest() else { return };
        batch.last = Some(error.clone());
        if is_final(&error, true)
            && let Some(mut batch) = self.window.give_up_oldest()
        {
            batch.given_up(&ProduceError::Call(error));
        }
    }
}

/// Whether trying again cannot help. What exists no more is not waited for, once it was looked for again.
fn is_final(error: &CallError, again: bool) -> bool {
    !error.is_retriable() || (again && is_unknown(error))
}

/// Sends a batch once; the first record's offset, if the broker tells it.
async fn attempt(
    shared: Arc<Shared>,
    topic: Arc<str>,
    partition: PartitionId,
    records: bytes::Bytes,
    routing_epoch: RoutingEpoch,
) -> Result<Option<Offset>, CallError> {
    let Shared { cluster, options, .. } = &*shared;
    let topic = cluster.topic(&topic).await?;
    let (leader, _) = topic.leader(partition)?;
    // Partitions keep to their stream: what was sent first arrives first.
    let stream = partition.0.unsigned_abs() as usize % cluster.options.produce_streams;
    let channel = cluster.channel(Target::Broker(leader), Role::Produce(stream)).await?;
    let timeout = cluster.options.request_timeout;
    // Of what is not answered, nobody would hear that it is placed anew.
    let routing_epoch = if options.acks == Acks::None { RoutingEpoch::UNKNOWN } else { routing_epoch };
    let data = PartitionProduceData { index: partition, records: Some(records), routing_epoch };
    let request = ProduceRequest {
        transactional_id: None,
        acks: options.acks.wire(),
        timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        topic_data: vec![TopicProduceData {
            name: topic.name.as_ref().into(),
            topic_id: topic.id,
            partition_data: vec![data],
        }],
    };
    if options.acks == Acks::None {
        channel.tell(request.into(), timeout).await?;
        return Ok(None);
    }
    let response = cluster.call_due(&channel, request, Duration::ZERO).await?;
    let what = || format!("topic {} partition {partition}", topic.name);
    let mut answers = response.responses.into_iter().flat_map(|topic| topic.partition_responses);
    let answer = answers.find(|answer| answer.index == partition).ok_or_else(|| {
        CallError::refused(what(), ErrorCode::UnknownServer, Some("the broker's answer leaves the partition out"))
    })?;
    CallError::check(&what(), answer.error_code, answer.error_message.as_deref())?;
    Ok(Some(answer.base_offset))
}
