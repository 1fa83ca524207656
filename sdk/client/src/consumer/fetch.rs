//! Fetches under way: which partitions are asked for together, what their answers become, and how failures are sat out.

use std::{collections::BTreeMap, sync::Arc};

use millstream_env::{BoxFuture, Monotonic};
use millstream_model::{BrokerId, LeaderEpoch, Offset, PartitionId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData},
};
use millstream_record::{Batch, BatchError, Batches, batches};
use tokio::sync::oneshot;

use super::{Consumer, FetchedBatches, Partition};
use crate::{
    CallError, ConsumeError,
    channel::Channel,
    cluster::{Target, is_unknown},
};

/// Partitions that are fetched together: a leader and one of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    leader: BrokerId,
    stream: usize,
}

/// What a Fetch ended with.
pub(super) struct Fetched {
    group: Group,
    /// The stream, for the next one; none when it is of no more use.
    channel: Option<Channel>,
    started: Monotonic,
    asked: Vec<(PartitionId, Offset)>,
    result: Result<FetchResponse, CallError>,
}

impl Consumer {
    /// One thing less to hand out before the group may fetch again.
    pub(super) fn release(&mut self, group: Group) {
        if let Some(count) = self.busy.get_mut(&group) {
            *count = count.saturating_sub(1);
            // The next answer may travel while the last piece of this one is handed out.
            if *count == 0 {
                self.busy.remove(&group);
                self.pump();
            }
        }
    }

    /// Starts a Fetch for every group that has none under way.
    pub(super) fn pump(&mut self) {
        if self.stale {
            return;
        }
        let mut groups: BTreeMap<Group, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, state) in &self.partitions {
            let Ok((leader, epoch)) = self.topic.leader(*partition) else { continue };
            let stream = partition.0.unsigned_abs() as usize % self.options.fetch_streams;
            let group = Group { leader, stream };
            if state.is_done() || self.busy.contains_key(&group) {
                continue;
            }
            groups.entry(group).or_default().push(self.ask_for(*partition, state.next, epoch));
        }
        for (group, mut partitions) in groups {
            // Whoever came first last time comes last this time: a full answer then starves nobody.
            let turn = self.cluster.env.rng.next_u64() as usize % partitions.len().max(1);
            partitions.rotate_left(turn);
            self.busy.insert(group, 1);
            let channel = self.channels.remove(&group);
            self.under_way.push(self.start_fetch(group, channel, partitions));
        }
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
        let timeout = cluster.options.request_timeout + self.options.fetch_wait;
        let (started, lost) = (self.cluster.env.clock.now(), asked.clone());
        let fetch = async move {
            let opened = match channel.filter(|channel| !channel.is_over()) {
                Some(channel) => Ok(channel),
                None => cluster.own_channel(Target::Broker(group.leader)).await,
            };
            let channel = match opened {
                Ok(channel) => channel,
                Err(error) => return Fetched { group, channel: None, started, asked, result: Err(error) },
            };
            let result = channel.call(request, timeout).await;
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

    /// Takes an answer apart; what it holds becomes ready.
    pub(super) async fn take(&mut self, fetched: Fetched) -> Result<(), ConsumeError> {
        let Fetched { group, channel, started, asked, result } = fetched;
        if let Some(channel) = channel {
            self.channels.insert(group, channel);
        }
        let response = match result.and_then(|response| {
            CallError::check(&self.name, response.error_code, None)?;
            Ok(response)
        }) {
            Ok(response) => response,
            Err(error) => {
                self.busy.remove(&group);
                return self.pause(error).await;
            }
        };
        let mut failed = None;
        let progress = |partitions: &BTreeMap<PartitionId, Partition>| {
            asked.iter().any(|(at, from)| partitions.get(at).is_none_or(|state| state.next != *from))
        };
        let answers = response.responses.into_iter().flat_map(|topic| topic.partitions);
        let mut pieces = Vec::new();
        for answer in answers {
            let Some((partition, from)) = asked.iter().copied().find(|(at, _)| *at == answer.partition_index) else {
                continue;
            };
            match self.take_partition(partition, from, answer) {
                Ok(None) => {}
                Ok(Some(piece)) => pieces.push(piece),
                Err(error) => failed = Some(error),
            }
        }
        match pieces.len() {
            0 => drop(self.busy.remove(&group)),
            count => drop(self.busy.insert(group, count)),
        }
        self.ready.extend(pieces.into_iter().map(|piece| (group, piece)));
        match failed {
            None => {
                self.retry = None;
                // A broker that answers at once and leads nowhere must not keep both sides busy.
                let early = self.cluster.env.clock.now() - started < self.options.fetch_wait;
                if early && !progress(&self.partitions) {
                    self.cluster.env.clock.sleep(self.cluster.options.backoff_min).await;
                }
                Ok(())
            }
            Some(ConsumeError::Call(error)) => self.pause(error).await,
            Some(error) => Err(error),
        }
    }

    /// Takes one partition's part of an answer: moves the position over it.
    fn take_partition(
        &mut self,
        partition: PartitionId,
        from: Offset,
        answer: PartitionData,
    ) -> Result<Option<FetchedBatches>, ConsumeError> {
        let Some(state) = self.partitions.get_mut(&partition) else { return Ok(None) };
        let topic = || Arc::clone(&self.name);
        if answer.error_code == ErrorCode::OffsetOutOfRange {
            let known = |offset: Offset| Some(offset).filter(|offset| offset.0 >= 0);
            let (start, end) = (known(answer.log_start_offset), known(answer.high_watermark));
            return Err(ConsumeError::OutOfRange { topic: topic(), partition, offset: from, start, end });
        }
        // For other requests this may pass; what is on a broker's disk stays as it is.
        if answer.error_code == ErrorCode::CorruptMessage {
            let detail = answer.error_message.as_deref().unwrap_or("the broker found them so").into();
            return Err(ConsumeError::Damaged { topic: topic(), partition, offset: from, detail });
        }
        let what = || format!("{} partition {partition}", self.name);
        if !answer.error_code.is_ok() {
            return Err(CallError::refused(what(), answer.error_code, answer.error_message.as_deref()).into());
        }
        // Moved by the caller meanwhile: the answer is for another place.
        if state.next != from {
            return Ok(None);
        }
        if answer.high_watermark.0 >= 0 {
            state.high_watermark = Some(answer.high_watermark);
        }
        let mut batches_found = Vec::new();
        let mut next = from;
        let damaged = |offset: Offset, detail: String| ConsumeError::Damaged {
            topic: topic(),
            partition,
            offset,
            detail: detail.into(),
        };
        let mut rest: Batches = batches(answer.records.to_bytes());
        let mut damage = None;
        for batch in &mut rest {
            match check_batch(batch, next) {
                // Wholly before the position: a broker may begin earlier, never twice.
                Ok(None) => {}
                Ok(Some((batch, end))) => {
                    next = end;
                    if !batch.header().attributes.is_control() {
                        batches_found.push(batch);
                    }
                }
                Err(found) => {
                    damage = Some(found);
                    break;
                }
            }
        }
        // What came before the damage is handed out first; the next answer begins with it.
        if next == from
            && let Some((offset, detail)) = damage
        {
            return Err(damaged(offset, detail));
        }
        if damage.is_none() {
            next = next.max(answer.next_offset);
        }
        // Brokers cut an answer anywhere but in its first batch: asked again, this one would say the same for ever.
        if next == from && !answer.records.is_empty() {
            let detail = match rest.rest().len() {
                0 => "the answer has only batches before it".into(),
                cut => format!("the answer ends within the batch, of which it has {cut} bytes"),
            };
            return Err(damaged(from, detail));
        }
        state.next = next;
        if batches_found.is_empty() {
            return Ok(None);
        }
        Ok(Some(FetchedBatches { partition, batches: batches_found, from, next }))
    }

    /// After something failed: waits a while if trying again can help, else gives the error out.
    pub(super) async fn pause(&mut self, error: CallError) -> Result<(), ConsumeError> {
        let patience = self.options.patience;
        if !error.is_retriable() || (is_unknown(&error) && self.retry.is_some()) {
            self.retry = None;
            return Err(error.into());
        }
        tracing::debug!(name = %self.name, %error, "reading is tried again");
        self.cluster.tell_lost(&error);
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
                self.topic = topic;
                self.stale = false;
                Ok(())
            }
            Err(error) => self.pause(error).await,
        }
    }
}

/// Checks a batch and says where it ends; none if that is before `next`. What is damaged is told with where it begins.
fn check_batch(batch: Result<Batch, BatchError>, next: Offset) -> Result<Option<(Batch, Offset)>, (Offset, String)> {
    let batch = batch.map_err(|error| (next, error.to_string()))?;
    let (base, delta) = {
        let header = batch.header();
        (header.base_offset, header.last_offset_delta)
    };
    let end = base.0.checked_add(i64::from(delta)).and_then(|last| last.checked_add(1)).map(Offset);
    let end = end.ok_or_else(|| (base, "its offsets overflow".to_owned()))?;
    if end <= next {
        return Ok(None);
    }
    batch.verify_crc().map_err(|error| (base, error.to_string()))?;
    Ok(Some((batch, end)))
}
