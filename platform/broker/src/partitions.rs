//! The partitions that this broker leads, kept in step with the catalog.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::future::{Either, select};
use millstream_catalog::{Catalog, Command, ProposeError, Refused, Routing, State, Topic};
use millstream_env::Env;
use millstream_log::{
    AppendError, ChangeError, CommitError, DeleteError, Ended, LogId, LogOptions, OpenLogError, Storage,
};
use millstream_model::{
    BrokerId, Offset, PartitionId, RoutingEpoch, TimestampMs, TopicConfig, TopicId, TopicPartition,
};
use millstream_record::RoutingMarker;
use millstream_replica::{Leadership, Replica, ReplicaOptions};
use tracing::{debug, info, warn};

use crate::{
    logs::{Standing, standing},
    metrics::traffic::AllTraffic,
    partition::{Partition, PartitionAppendError},
    transform::{self, ProgressError},
};

type Led = HashMap<TopicPartition, Arc<Partition>>;
/// Partitions whose logs are out of service, and what to tell whoever asks for them.
type Damaged = HashMap<TopicPartition, String>;

/// The led partitions. Looking one up takes no lock.
pub(crate) struct Partitions {
    broker: BrokerId,
    storage: Arc<Storage>,
    env: Env,
    led: ArcSwap<Led>,
    damaged: ArcSwap<Damaged>,
    traffic: AllTraffic,
    /// Held while the table is brought in step, so that no step is lost to another.
    step: tokio::sync::Mutex<()>,
    /// Held while durabilities are changed: one change of a log at a time.
    changing: tokio::sync::Mutex<()>,
    /// Held while routing epochs are opened.
    opening: tokio::sync::Mutex<()>,
}

/// How long a change of durabilities is waited for: as long as a sync of much, on a disk with others' work to do.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why the partitions could not follow the catalog.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("cannot open a partition: {0}")]
    Open(#[from] OpenLogError),
    #[error("cannot start a leader epoch of a partition: {0}")]
    Epoch(#[from] AppendError),
    #[error("the replication rules refuse to lead: {0}")]
    Rules(#[from] millstream_replica::HandleError),
    #[error("cannot change a partition's durability: {0}")]
    Durability(#[from] ChangeError),
    #[error("a partition's durability is not changed yet: its disk is slow or full; it is tried on")]
    Slow,
    #[error("cannot write down where transforms begin in a partition: {0}")]
    Begin(#[from] ProgressError),
    #[error("cannot write routing epoch {epoch} into partition {partition}: {source}")]
    Routing { epoch: RoutingEpoch, partition: PartitionId, source: PartitionAppendError },
    #[error(
        "partition {partition} is not led yet, and routing epoch {epoch} is not in force before it is: it is tried on"
    )]
    SlowRouting { epoch: RoutingEpoch, partition: PartitionId },
    #[error("cannot agree on a routing epoch: {0}")]
    Agree(#[from] ProposeError),
    #[error("cannot make a leader epoch durable: {0}")]
    Commit(#[from] CommitError),
}

impl Partitions {
    pub(crate) fn new(broker: BrokerId, storage: Arc<Storage>, env: Env) -> Self {
        Self {
            broker,
            storage,
            env,
            led: ArcSwap::default(),
            damaged: ArcSwap::default(),
            traffic: AllTraffic::default(),
            step: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// The partition, if this broker leads it.
    pub(crate) fn find(&self, topic: TopicId, partition: PartitionId) -> Option<Arc<Partition>> {
        self.led.load().get(&TopicPartition { topic, partition }).cloned()
    }

    /// Why a partition that this broker was to lead is out of service, if it is.
    pub(crate) fn damage(&self, topic: TopicId, partition: PartitionId) -> Option<String> {
        self.damaged.load().get(&TopicPartition { topic, partition }).cloned()
    }

    /// All that this broker leads now.
    pub(crate) fn all(&self) -> Vec<Arc<Partition>> {
        self.led.load().values().cloned().collect()
    }

    /// Records in and out.
    pub(crate) fn traffic(&self) -> &AllTraffic {
        &self.traffic
    }

    /// How many this broker leads, and how many more it should and cannot, their logs being out of service.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.led.load().len(), self.damaged.load().len())
    }

    /// Opens what the catalog says this broker leads and does not lead yet, closes and deletes what is no longer there, and puts
    /// topics' present settings in force.
    ///
    /// A failure concerns one partition: the others are opened all the same, and the first failure is returned. A log that is out of
    /// service for damage is none: it stays so until the next start, and was told of as the broker started.
    pub(crate) async fn follow(&self, catalog: &Catalog) -> Result<(), FollowError> {
        let _step = self.step.lock().await;
        let (applied, state) = catalog.state_at();
        let before = self.led.load_full();
        let mut led = Led::clone(&before);
        led.retain(|id, _| state.topic_by_id(id.topic).is_some());
        let mut damaged = Damaged::new();
        let mut first_failure = None;
        let mut epochs = Vec::new();
        // Whether there are logs that a start would not miss, and whether all that are asked for are made.
        let made_through = self.storage.made_through();
        let (mut unnoted, mut all_made) = (made_through == 0, true);
        for topic in state.topics.values() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let id = TopicPartition { topic: topic.id, partition: PartitionId(index) };
                if partition.leader != Some(self.broker) {
                    continue;
                }
                unnoted |= partition.made_by > made_through;
                if let Some(led) = led.get(&id).filter(|led| led.epoch == partition.leader_epoch) {
                    if !Arc::ptr_eq(&led.topic(), topic)
                        && let Err(error) = self.alter(led, topic)
                    {
                        warn!(topic = %topic.name, partition = index, %error, "settings are not in force yet");
                        first_failure.get_or_insert(error);
                    }
                    continue;
                }
                let made_by = if partition.made_by > 0 { partition.made_by } else { applied };
                let opened = self.lead(topic, id, partition, made_by).and_then(|(opened, epoch)| {
                    let is_new = partition.made_by > made_through;
                    let begun = if is_new { self.begin_transforms(&state, applied, &opened)? } else { Vec::new() };
                    Ok((opened, epoch, begun))
                });
                match opened {
                    Ok((opened, epoch, begun)) => {
                        led.insert(id, opened);
                        epochs.push(epoch);
                        epochs.extend(begun);
                    }
                    Err(FollowError::Open(error @ OpenLogError::OutOfService { .. })) => {
                        damaged.insert(id, error.to_string());
                    }
                    Err(error) => {
                        warn!(topic = %topic.name, partition = index, %error, "a partition could not be opened");
                        all_made = false;
                        first_failure.get_or_insert(error);
                    }
                }
            }
        }
        for ticket in epochs {
            if let Err(error) = ticket.await {
                all_made = false;
                first_failure.get_or_insert(error.into());
            }
        }
        // Before anything is appended to the new ones.
        if unnoted
            && all_made
            && let Err(error) = self.storage.note_all_made(applied)
        {
            warn!(%error, "new logs would not be missed if they went");
            first_failure.get_or_insert(error.into());
        }
        self.led.store(Arc::new(led));
        self.traffic.retain(|topic| state.topic_by_id(topic).is_some());
        self.damaged.store(Arc::new(damaged));
        self.delete_unknown(catalog).await;
        first_failure.map_or(Ok(()), Err)
    }

    fn lead(
        &self,
        topic: &Arc<Topic>,
        id: TopicPartition,
        partition: &millstream_catalog::Partition,
        made_by: u64,
    ) -> Result<(Arc<Partition>, millstream_log::Ticket), FollowError> {
        let options = LogOptions { made_by, ..log_options(&topic.config) };
        let log = self.storage.open_log(LogId::records(id.topic, id.partition), options)?;
        // The epoch is in the journal before any append of it: a later leader could not tell its records apart otherwise.
        let ticket = log.start_epoch(partition.leader_epoch)?;
        let insync_replicas_min = topic.config.insync_replicas_min;
        // Where the topic asks for the other one, the log is changed once it is led.
        let options = ReplicaOptions { broker: self.broker, durability: log.durability(), insync_replicas_min };
        let mut replica = Replica::new(options, log.start_offset());
        replica.handle_leadership(Leadership {
            leader: partition.leader,
            epoch: partition.leader_epoch,
            isr: partition.isr.clone(),
            log_end: log.end_offset(),
            flushed_end: log.flushed_end(),
        })?;
        let traffic = self.traffic.of(id.topic);
        let led = Partition::new(id, partition.leader_epoch, topic.clone(), log, replica, traffic, self.env.clone());
        Ok((led, ticket))
    }

    /// Has the transforms that read a topic begin in a partition that it has got since they were deployed. Nobody can append to it yet.
    fn begin_transforms(
        &self,
        state: &State,
        applied: u64,
        led: &Arc<Partition>,
    ) -> Result<Vec<millstream_log::Ticket>, FollowError> {
        let (topic, now) = (led.topic(), TimestampMs(self.env.clock.wall_ms()));
        let Some(partition) = topic.partition(led.id.partition) else { return Ok(Vec::new()) };
        let mut begun = Vec::new();
        for transform in state.transforms.values().filter(|transform| transform.inputs.contains(&topic.id)) {
            if topic.has_grown_since(partition, transform.deployed_by) {
                match transform::begin(&self.storage, applied, transform.id, led, now) {
                    Ok(ticket) => begun.extend(ticket),
                    // The transform itself will say so, and the partition is there for all others.
                    Err(error) if !error.is_retriable() => warn!(transform = %transform.name, %error, "does not begin"),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(begun)
    }

    /// Puts the present settings of its topic in force for a partition that is led already.
    fn alter(&self, led: &Partition, topic: &Arc<Topic>) -> Result<(), FollowError> {
        self.storage.open_log(led.log.id(), log_options(&topic.config))?;
        led.alter(topic.clone());
        Ok(())
    }

    /// Puts a topic's change in force, as the catalog has it: settings, durability, more partitions, a new routing. Returns once all of
    /// it is; dropped, or after an error, the rest is done at the next change or start.
    pub(crate) async fn put_in_force(&self, catalog: &Catalog, altered: TopicId) -> Result<(), FollowError> {
        self.follow(catalog).await?;
        self.change(catalog).await?;
        self.open_routings(catalog, Some(altered)).await?;
        // What has come into force by that.
        self.follow(catalog).await
    }

    /// Changes the durability of the led partitions whose topics ask for another than their logs have: of an altered topic, or of
    /// one that was altered shortly before a crash. The catalog says what it is to be; the logs say what it is.
    ///
    /// A failure concerns one partition: the others are changed all the same, and the first failure is returned.
    pub(crate) async fn change(&self, catalog: &Catalog) -> Result<(), FollowError> {
        let _change = self.changing.lock().await;
        let state = catalog.state();
        let mut first_failure = None;
        let mut changes = Vec::new();
        for led in self.all() {
            let Some(topic) = state.topic_by_id(led.id.topic) else { continue };
            let (before, to) = (led.log.durability(), topic.config.durability);
            match led.log.change_durability(to) {
                Ok(_) if before == to => {}
                Ok(ticket) => changes.push((led, topic, ticket)),
                // It was deleted meanwhile.
                Err(ChangeError::Ended(Ended::Deleted)) => {}
                Err(error) => {
                    first_failure.get_or_insert(error.into());
                }
            }
        }
        let mut deadline = self.env.clock.sleep(CHANGE_WAIT_MAX);
        for (led, topic, ticket) in changes {
            match select(ticket, &mut deadline).await {
                Either::Left((Ok(()), _)) => {
                    info!(topic = %topic.name, partition = %led.id.partition, durability = ?led.log.durability(), "changed");
                }
                Either::Left((Err(CommitError::Deleted), _)) => {}
                Either::Left((Err(error), _)) => {
                    first_failure.get_or_insert(error.into());
                }
                // It is done when the disk allows it.
                Either::Right(_) => {
                    first_failure.get_or_insert(FollowError::Slow);
                    deadline = self.env.clock.sleep(Duration::ZERO);
                }
            }
        }
        // Also those that were changed after somebody had waited long enough.
        self.all().iter().for_each(|led| led.follow_durability());
        first_failure.map_or(Ok(()), Err)
    }

    /// Opens the routing epochs that are to be opened, of one topic or of all: has each partition that there was before pass to the new one,
    /// waits until the markers are committed, and puts it in force. What a crash has interrupted is finished so at the next start.
    ///
    /// A failure concerns one topic: the others are seen to all the same, and the first failure is returned.
    pub(crate) async fn open_routings(&self, catalog: &Catalog, only: Option<TopicId>) -> Result<(), FollowError> {
        let _opening = self.opening.lock().await;
        let state = catalog.state();
        let mut first_failure = None;
        for topic in state.topics.values().filter(|topic| only.is_none_or(|only| only == topic.id)) {
            if let Err(error) = self.mend_markers(topic).await {
                first_failure.get_or_insert(error);
            }
            let Some(opening) = &topic.opening else { continue };
            if let Err(error) = self.open_routing(catalog, topic, opening).await {
                warn!(topic = %topic.name, epoch = %opening.epoch, %error, "the new routing is not in force yet");
                first_failure.get_or_insert(error);
            }
        }
        first_failure.map_or(Ok(()), Err)
    }

    async fn open_routing(&self, catalog: &Catalog, topic: &Topic, opening: &Routing) -> Result<(), FollowError> {
        let epoch = opening.epoch;
        let mut entered = Vec::new();
        for partition in (0..topic.routed_partitions()).map(PartitionId) {
            entered.push((partition, self.enter(topic, partition, opening).await?));
        }
        let mut deadline = self.env.clock.sleep(CHANGE_WAIT_MAX);
        let mut markers = Vec::with_capacity(entered.len());
        for (partition, entered) in entered {
            // One that is out of service takes nothing, and passes to the epoch before it takes anything again.
            let Some((led, marker)) = entered else {
                markers.push(Offset(-1));
                continue;
            };
            let committed = std::pin::pin!(led.committed(marker.plus(1)));
            if let Either::Right(_) = select(committed, &mut deadline).await {
                return Err(FollowError::SlowRouting { epoch, partition });
            }
            markers.push(marker);
        }
        let command = Command::RoutingOpened { id: topic.id, epoch, markers };
        match catalog.propose(command).await {
            Ok(_) => {
                let partitioner = opening.partitioner.as_ref().map(ToString::to_string);
                info!(topic = %topic.name, %epoch, partitions = opening.partitions, partitioner, "routed anew");
                Ok(())
            }
            // It was deleted meanwhile.
            Err(ProposeError::Refused(Refused::UnknownTopicId(_))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has one partition pass to a routing epoch; none where it is out of service.
    async fn enter(
        &self,
        topic: &Topic,
        partition: PartitionId,
        to: &Routing,
    ) -> Result<Option<(Arc<Partition>, Offset)>, FollowError> {
        let epoch = to.epoch;
        let Some(led) = self.find(topic.id, partition) else {
            let is_ours = topic.partition(partition).is_some_and(|at| at.leader == Some(self.broker));
            return match is_ours && self.damage(topic.id, partition).is_none() {
                true => Err(FollowError::SlowRouting { epoch, partition }),
                false => Ok(None),
            };
        };
        self.storage.writable().await;
        let marker = led.enter(RoutingMarker { epoch, partitions: to.partitions });
        let marker = marker.map_err(|source| FollowError::Routing { epoch, partition, source })?;
        Ok(Some((led, marker)))
    }

    /// Writes markers of the epoch that is in force again, which a power cut has taken from logs that are not synced before they are
    /// acknowledged, or which a partition could not be given while it was out of service.
    async fn mend_markers(&self, topic: &Topic) -> Result<(), FollowError> {
        let Some(routing) = topic.routings.last().filter(|_| topic.opening.is_none()) else { return Ok(()) };
        for (partition, marker) in (0..).map(PartitionId).zip(&routing.markers) {
            let Some(led) = self.find(topic.id, partition) else { continue };
            let is_there = marker.0 >= 0 && led.has_still(*marker);
            if !is_there {
                self.enter(topic, partition, routing).await?;
            }
        }
        Ok(())
    }

    /// Deletes the logs of topics and transforms that were deleted.
    async fn delete_unknown(&self, catalog: &Catalog) {
        // The logs first: one that is made meanwhile is then known to the state that is looked at.
        let logs = self.storage.logs();
        let (applied, state) = catalog.state_at();
        for id in logs {
            if standing(&self.storage, (applied, &state), id) != Standing::Deleted {
                continue;
            }
            match self.storage.delete_log(id) {
                Ok(ticket) => {
                    // A failed commit stops the broker through the storage; the log is deleted at the next start.
                    if ticket.await.is_ok() {
                        debug!(log = %id, "deleted");
                    }
                }
                Err(DeleteError::Unknown { .. }) => {}
                Err(error) => warn!(log = %id, %error, "a log could not be deleted"),
            }
        }
    }
}

/// How the log of a topic's partition is kept.
fn log_options(config: &TopicConfig) -> LogOptions {
    let TopicConfig { segment_bytes, segment_ms, durability, .. } = *config;
    LogOptions { segment_bytes, segment_ms, durability, ..LogOptions::default() }
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod routing_tests;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use millstream_env::{Disk, sim::World};
    use millstream_protocol::{
        ErrorCode,
        messages::{
            metadata::MetadataRequest,
            topics::{CreatableTopic, CreateTopicsRequest},
        },
    };

    use super::*;
    use crate::{
        Broker,
        handlers::{create_topics, metadata},
        readable::Readable,
        testing::{TOPIC, append, create, delete, start, stop},
    };

    async fn create_by_name(broker: &Broker, name: &str) -> ErrorCode {
        let topic =
            CreatableTopic { name: name.into(), num_partitions: 20, replication_factor: 1, ..Default::default() };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        create_topics::handle(broker.shared().clone(), request).await.topics[0].error_code
    }

    /// Topics are refused, deleted, and taken again once there is room; the metadata's own writes are none of the broker's ends.
    #[test]
    fn on_a_full_disk_topics_are_deleted_and_not_created() {
        let world = World::new(3);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        world.disk().set_capacity(Some(world.disk().used_bytes()));
        // The first may find a place in what is begun, or be the one that the room is given up for.
        let refused = (0..50).find(|at| world.run_until(create_by_name(&broker, &format!("t{at}"))) != ErrorCode::None);
        assert!(refused.is_some_and(|at| at < 10), "{refused:?}");
        assert_eq!(world.run_until(create_by_name(&broker, "more")), ErrorCode::KafkaStorage);
        assert_eq!(world.run_until(delete(&broker)), ErrorCode::None);
        world.disk().set_capacity(None);
        stop(&world, broker);
        let broker = start(&world);
        assert!(broker.shared().catalog.state().topic("t").is_none());
        assert_eq!(world.run_until(create_by_name(&broker, "more")), ErrorCode::None);
    }

    /// Who asks for a partition whose mark is damaged is told why, others go on, and the topic can be deleted with all that was kept.
    #[test]
    fn a_partition_that_is_out_of_service_says_so_and_can_be_deleted() {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        world.run_until(append(&broker, 0).commit).unwrap();
        stop(&world, broker);
        // From here on, the journal has what the segments need not have.
        let broker = start(&world);
        (0..2).for_each(|partition| world.run_until(append(&broker, partition).commit).unwrap());
        world.first().crash();
        drop(broker);
        let topic_dir = PathBuf::from(format!("/data/logs/{TOPIC}"));
        let dir = topic_dir.join("0/records-0");
        for slot in [0, 4096] {
            world.disk().corrupt(&dir.join("mark"), slot + 40, 1).unwrap();
        }
        for _ in 0..2 {
            let broker = start(&world);
            let shared = broker.shared();
            world.run_until(append(&broker, 1).commit).unwrap();
            let topic = Readable::by_name(&shared.catalog.state(), "t").unwrap();
            let refused = shared.led(&topic, PartitionId(0)).err().unwrap();
            assert_eq!(refused.kafka_code(), ErrorCode::KafkaStorage);
            let file = format!("{}/mark is damaged", dir.display());
            assert!(
                refused.message.contains(&file) && refused.message.contains("start the broker again"),
                "{refused:?}"
            );
            let told = world.run_until(metadata::handle(shared.clone(), MetadataRequest::default()));
            let offline = told.topics[0].partitions.iter().map(|at| at.offline_replicas.clone());
            assert_eq!(offline.collect::<Vec<_>>(), [vec![BrokerId(1)], vec![]]);
            assert!(world.disk().exists(&dir.join("held")).unwrap(), "what the journal had is not kept");
            world.first().crash();
        }
        let broker = start(&world);
        assert_eq!(world.run_until(delete(&broker)), ErrorCode::None);
        assert!(broker.shared().partitions.damage(TOPIC, PartitionId(0)).is_none());
        world.run_until(broker.shutdown()).unwrap();
        assert!(!world.disk().exists(&dir).unwrap(), "its files are there");
        drop(broker);
        world.first().kill();
        let broker = start(&world);
        assert_eq!(broker.shared().storage.out_of_service().len(), 0);
        assert!(world.disk().read_dir(&PathBuf::from("/data/trash")).unwrap().is_empty());
    }
}
