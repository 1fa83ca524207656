//! What the parts of a client share: connections to brokers, who leads what, and how to try again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{TryFutureExt, future::Either};
use millstream_env::{Connection, Env, FrameStream, Net};
use millstream_model::{Address, BrokerId, LeaderEpoch, PartitionId, TopicId};
use millstream_protocol::{
    Call, ErrorCode,
    messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataTopic},
    session::Versions,
};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub(crate) use crate::asking::{Retry, SILENCE_MAX, jittered};
use crate::{
    CallError, ClientOptions,
    asking::Deadline,
    channel::{Channel, Held},
};

/// Streams for produce requests, per broker. With the others they stay below the 64 that a connection may have.
const PRODUCE_STREAMS_MAX: usize = 32;
/// Streams of consumers on the connection that all share; each further one gets a connection of its own.
const OWN_STREAMS_MAX: usize = 28;
// Two more: one for admin, one for assign.
const _: () = assert!(PRODUCE_STREAMS_MAX + OWN_STREAMS_MAX + 2 < 64);

/// Which broker a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Whichever can be reached.
    Any,
    /// This one.
    Broker(BrokerId),
}

/// What a stream is used for: slow things must not stand in the way of quick ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Metadata and admin requests.
    Admin,
    /// Asking partitioners.
    Assign,
    /// Produce, by a partition's number among the streams.
    Produce(usize),
}

/// A topic (or view) as the metadata has it.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    /// By index.
    pub(crate) partitions: BTreeMap<PartitionId, Leader>,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    /// None while there is none.
    pub(crate) broker: Option<BrokerId>,
    pub(crate) epoch: LeaderEpoch,
    /// It says that its storage of the partition has failed.
    pub(crate) is_offline: bool,
}

impl Topic {
    pub(crate) fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// Whether the partition's leader says that its storage of it has failed.
    pub(crate) fn is_offline(&self, partition: PartitionId) -> bool {
        self.partitions.get(&partition).is_some_and(|leader| leader.is_offline)
    }

    pub(crate) fn leader(&self, partition: PartitionId) -> Result<(BrokerId, LeaderEpoch), CallError> {
        let what = || format!("{} partition {partition}", self.name);
        let leader = self
            .partitions
            .get(&partition)
            .ok_or_else(|| CallError::refused(what(), ErrorCode::UnknownTopicOrPartition, None))?;
        let broker = leader.broker.ok_or_else(|| CallError::refused(what(), ErrorCode::LeaderNotAvailable, None))?;
        Ok((broker, leader.epoch))
    }
}

/// A connection to one broker and the streams on it.
struct Link {
    broker: Arc<str>,
    connection: Arc<dyn Connection>,
    versions: Arc<Versions>,
    channels: Mutex<BTreeMap<Role, ChannelPlace>>,
    /// Places for streams that one consumer uses alone.
    own: Arc<Semaphore>,
}

/// A place for one stream; one task opens it, the others wait for it.
type ChannelPlace = Arc<AsyncMutex<Option<Arc<Channel>>>>;
/// A place for the connection to one address; one task connects, the others wait for it.
type LinkCell = Arc<AsyncMutex<Option<Arc<Link>>>>;

/// What the parts of a client share.
pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) options: ClientOptions,
    net: Arc<dyn Net>,
    client_id: Arc<str>,
    bootstrap: Vec<String>,
    places: Mutex<BTreeMap<String, LinkCell>>,
    /// Connections made for one stream each; they go with it.
    lone: Mutex<Vec<Weak<dyn Connection>>>,
    brokers: Mutex<BTreeMap<BrokerId, String>>,
    /// Brokers that were told to be lost, until one of them is connected to again.
    lost: Mutex<BTreeSet<Arc<str>>>,
    /// Brokers that were told to be silent, until one of them answers or is lost.
    silent: Mutex<BTreeSet<Arc<str>>>,
    topics: Mutex<BTreeMap<Arc<str>, Arc<Topic>>>,
    /// Once cancelled, nobody connects any more.
    pub(crate) closed: CancellationToken,
}

impl Cluster {
    pub(crate) fn new(env: Env, net: Arc<dyn Net>, bootstrap: Vec<String>, mut options: ClientOptions) -> Self {
        options.produce_streams = options.produce_streams.clamp(1, PRODUCE_STREAMS_MAX);
        let client_id = options.client_id.as_str().into();
        Self {
            env,
            options,
            net,
            client_id,
            bootstrap,
            places: Mutex::default(),
            lone: Mutex::default(),
            brokers: Mutex::default(),
            lost: Mutex::default(),
            silent: Mutex::default(),
            topics: Mutex::default(),
            closed: CancellationToken::new(),
        }
    }

    // ---- connections

    /// The connection to an address, made if there is none that works.
    async fn link(&self, deadline: Deadline, address: &str) -> Result<Arc<Link>, CallError> {
        let broker: Arc<str> = address.into();
        let place = Arc::clone(self.places.lock().entry(address.into()).or_default());
        let mut place = self.within(deadline, &broker, NOT_CONNECTED, async { Ok(place.lock().await) }).await?;
        // Looked at with the place in hand: whoever closes empties the places after saying so.
        self.check_open()?;
        if let Some(link) = &*place {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(self.make_link(deadline, broker).await?);
        *place = Some(Arc::clone(&link));
        self.tell_found(&link.broker);
        Ok(link)
    }

    async fn make_link(&self, deadline: Deadline, broker: Arc<str>) -> Result<Link, CallError> {
        let connection = self.connect(deadline, &broker).await?;
        let stream = self.open_stream(deadline, &broker, &*connection).await?;
        let channel = self.start(&broker, stream, Held::default(), None);
        let asking = channel.ask_versions(deadline.left(&*self.env.clock));
        let versions = self.within(deadline, &broker, NOT_CONNECTED, asking).await?;
        let first = Arc::new(AsyncMutex::new(Some(Arc::new(channel))));
        let channels = Mutex::new(BTreeMap::from([(Role::Admin, first)]));
        let own = Arc::new(Semaphore::new(OWN_STREAMS_MAX));
        Ok(Link { broker, connection, versions, channels, own })
    }

    /// Begins to talk on a stream.
    fn start(&self, broker: &Arc<str>, stream: FrameStream, held: Held, versions: Option<Arc<Versions>>) -> Channel {
        Channel::start(&self.env, broker, &self.client_id, stream, held, versions, self.options.request_timeout)
    }

    fn check_open(&self) -> Result<(), CallError> {
        if self.closed.is_cancelled() { Err(CallError::Closed) } else { Ok(()) }
    }

    /// Why something failed: of what the end of its connection did, that the client was closed.
    pub(crate) fn cause(&self, error: CallError) -> CallError {
        match self.check_open() {
            Err(closed) if error.is_retriable() => closed,
            _ => error,
        }
    }

    /// Says, once until it is back, that a broker cannot be reached and that whoever works with it tries again, for so long.
    pub(crate) fn tell_lost(&self, error: &CallError, patience: Duration) {
        let (CallError::Disconnected { broker, .. } | CallError::Unreachable { broker, .. }) = error else { return };
        if self.closed.is_cancelled() || !self.lost.lock().insert(Arc::clone(broker)) {
            return;
        }
        self.silent.lock().remove(broker);
        match patience {
            Duration::MAX => tracing::warn!("lost {broker}, trying again until it is back"),
            patience => tracing::warn!("lost {broker}, trying again for {} s", patience.as_secs()),
        }
    }

    /// As [`Channel::call`], of an answer that is due after `due` at the latest: that none comes is said long before it is given up.
    pub(crate) async fn call_due<C: Call>(
        &self,
        channel: &Channel,
        request: C,
        due: Duration,
    ) -> Result<C::Response, CallError> {
        let mut call = std::pin::pin!(channel.call(request, self.options.request_timeout + due));
        let overdue = self.env.clock.sleep(due + SILENT_AFTER);
        if let Either::Left((answer, _)) = futures::future::select(call.as_mut(), overdue).await {
            return answer;
        }
        let broker = channel.broker();
        if self.silent.lock().insert(Arc::clone(broker)) {
            tracing::warn!("{broker} has not answered for {} s, waiting for it", SILENT_AFTER.as_secs());
        }
        let answer = call.await;
        if answer.is_ok() && self.silent.lock().remove(broker) {
            tracing::info!("{broker} answers again");
        }
        answer
    }

    /// Says that a broker is back, if it was told to be lost.
    fn tell_found(&self, broker: &Arc<str>) {
        if self.lost.lock().remove(broker) {
            tracing::info!("connected to {broker} again");
        }
    }

    async fn connect(&self, deadline: Deadline, broker: &Arc<str>) -> Result<Arc<dyn Connection>, CallError> {
        let connecting = self.net.connect(broker).map_err(|error| unreachable(broker, error));
        self.within(deadline, broker, NOT_CONNECTED, connecting).await
    }

    /// Forgets a connection that is of no more use, unless somebody has already replaced it.
    async fn drop_link(&self, link: &Arc<Link>) {
        let place = self.places.lock().get(&*link.broker).map(Arc::clone);
        if let Some(place) = place {
            let mut place = place.lock().await;
            if place.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
                *place = None;
            }
        }
    }

    /// A new stream on a connection. A broker that allows no more would never let it open.
    async fn open_stream(
        &self,
        deadline: Deadline,
        broker: &Arc<str>,
        connection: &dyn Connection,
    ) -> Result<FrameStream, CallError> {
        let opening = connection.open().map_err(|error| unreachable(broker, error));
        self.within(deadline, broker, "has let no further stream be opened on the connection", opening).await
    }

    /// A stream on a connection of its own.
    async fn open_lone(&self, deadline: Deadline, link: &Link) -> Result<Channel, CallError> {
        let connection = self.connect(deadline, &link.broker).await?;
        let stream = self.open_stream(deadline, &link.broker, &*connection).await?;
        {
            let mut lone = self.lone.lock();
            // As with the places: what is put here after they were closed, nobody would close.
            self.check_open()?;
            lone.retain(|connection| connection.strong_count() > 0);
            lone.push(Arc::downgrade(&connection));
        }
        Ok(self.talk(link, stream, Held { _connection: Some(connection), _place: None }))
    }

    async fn open_channel(
        &self,
        deadline: Deadline,
        link: &Link,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Channel, CallError> {
        // Every further stream is a connection of its own.
        if !link.connection.has_many_streams() {
            return self.open_lone(deadline, link).await;
        }
        let stream = self.open_stream(deadline, &link.broker, &*link.connection).await?;
        Ok(self.talk(link, stream, Held { _place: place, _connection: None }))
    }

    fn talk(&self, link: &Link, stream: FrameStream, held: Held) -> Channel {
        self.start(&link.broker, stream, held, Some(Arc::clone(&link.versions)))
    }

    /// A stream that nobody else uses.
    pub(crate) async fn own_channel(&self, target: Target) -> Result<Channel, CallError> {
        let deadline = self.deadline();
        let link = self.target_link(deadline, target).await?;
        let opened = match Arc::clone(&link.own).try_acquire_owned() {
            Ok(place) => self.open_channel(deadline, &link, Some(place)).await,
            Err(_) => return self.open_lone(deadline, &link).await,
        };
        match &opened {
            Ok(_) => self.tell_found(&link.broker),
            Err(_) => self.drop_link(&link).await,
        }
        opened
    }

    /// The stream for a kind of request, opened if there is none that works.
    pub(crate) async fn channel(&self, target: Target, role: Role) -> Result<Arc<Channel>, CallError> {
        self.channel_by(self.deadline(), target, role).await
    }

    /// As [`Cluster::channel`], as part of something that has a deadline.
    pub(crate) async fn channel_by(
        &self,
        deadline: Deadline,
        target: Target,
        role: Role,
    ) -> Result<Arc<Channel>, CallError> {
        let link = self.target_link(deadline, target).await?;
        let place = Arc::clone(link.channels.lock().entry(role).or_default());
        let mut place = self.within(deadline, &link.broker, NOT_CONNECTED, async { Ok(place.lock().await) }).await?;
        if let Some(channel) = place.as_ref().filter(|channel| !channel.is_over()) {
            return Ok(Arc::clone(channel));
        }
        match self.open_channel(deadline, &link, None).await {
            Ok(channel) => {
                self.tell_found(&link.broker);
                let channel = Arc::new(channel);
                *place = Some(Arc::clone(&channel));
                Ok(channel)
            }
            Err(error) => {
                // The whole connection is gone: the next attempt makes a new one.
                self.drop_link(&link).await;
                Err(error)
            }
        }
    }

    async fn target_link(&self, deadline: Deadline, target: Target) -> Result<Arc<Link>, CallError> {
        match target {
            Target::Broker(id) => {
                let address = self.brokers.lock().get(&id).cloned();
                let address = address.ok_or_else(|| {
                    CallError::refused(
                        format!("broker {id}"),
                        ErrorCode::LeaderNotAvailable,
                        Some("its address is not known"),
                    )
                })?;
                self.link(deadline, &address).await
            }
            Target::Any => {
                let mut addresses = self.bootstrap.clone();
                addresses.extend(self.brokers.lock().values().filter(|known| !self.bootstrap.contains(known)).cloned());
                let mut last = None;
                for (at, address) in addresses.iter().enumerate() {
                    // One that is silent leaves time for the others.
                    let share = deadline.share(&*self.env.clock, addresses.len() - at);
                    match self.link(share, address).await {
                        Ok(link) => return Ok(link),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| CallError::Protocol {
                    broker: "the cluster".into(),
                    detail: "no broker's address is known".into(),
                }))
            }
        }
    }

    /// Reaches one broker, without trying twice, and learns of the others.
    pub(crate) async fn reach(&self) -> Result<(), CallError> {
        let deadline = self.deadline();
        let request = MetadataRequest {
            topics: Some(Vec::new()),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        let channel = self.channel_by(deadline, Target::Any, Role::Admin).await?;
        let response = channel.call(request, deadline.left(&*self.env.clock)).await?;
        self.learn(&response);
        Ok(())
    }

    /// Ends every connection for good, once what was sent has been read by the brokers; the reason reaches them.
    pub(crate) async fn close(&self, reason: &str) {
        self.closed.cancel();
        let places: Vec<_> = std::mem::take(&mut *self.places.lock()).into_values().collect();
        let closing = places.into_iter().map(|place| async move {
            let Some(link) = place.lock().await.take() else { return };
            let channels: Vec<_> = std::mem::take(&mut *link.channels.lock()).into_values().collect();
            let finishing = channels.into_iter().map(|place| async move {
                let channel = place.lock().await.take();
                if let Some(channel) = channel {
                    channel.finish(self.options.request_timeout).await;
                }
            });
            futures::future::join_all(finishing).await;
            link.connection.close(reason);
        });
        futures::future::join_all(closing).await;
        let lone = std::mem::take(&mut *self.lone.lock());
        for connection in lone.iter().filter_map(Weak::upgrade) {
            connection.close(reason);
        }
    }

    // ---- metadata

    /// A topic or view as last heard of.
    pub(crate) fn known_topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.lock().get(name).map(Arc::clone)
    }

    /// A topic or view as last heard of; asked for when never heard of.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<Topic>, CallError> {
        match self.known_topic(name) {
            Some(topic) => Ok(topic),
            None => self.refresh_topic(name).await,
        }
    }

    /// Asks for a topic or view anew. One that does not exist is forgotten.
    pub(crate) async fn refresh_topic(&self, name: &str) -> Result<Arc<Topic>, CallError> {
        self.refresh_topic_by(self.deadline(), name).await
    }

    /// As [`Cluster::refresh_topic`], as part of something that has a deadline.
    pub(crate) async fn refresh_topic_by(&self, deadline: Deadline, name: &str) -> Result<Arc<Topic>, CallError> {
        Ok(self.look_up(deadline, name).await?.0)
    }

    /// Asks for a topic or view anew: as the client uses it, and in the broker's words.
    pub(crate) async fn look_up(
        &self,
        deadline: Deadline,
        name: &str,
    ) -> Result<(Arc<Topic>, MetadataTopic), CallError> {
        let response = self.metadata(deadline, Some(name)).await?;
        let found = response.topics.into_iter().find(|topic| topic.name.as_deref() == Some(name));
        let what = || format!("topic or view {name:?}");
        let Some(found) = found else {
            return Err(CallError::refused(what(), ErrorCode::UnknownTopicOrPartition, None));
        };
        if !found.error_code.is_ok() {
            self.topics.lock().remove(name);
            let message = match found.error_code {
                ErrorCode::UnknownTopicOrPartition => {
                    Some(format!("there is no {}: see `millstream topic list` and `millstream view list`", what()))
                }
                _ => None,
            };
            return Err(CallError::refused(what(), found.error_code, message.as_deref()));
        }
        let leader = |id: BrokerId| (id.0 >= 0).then_some(id);
        let partitions = found
            .partitions
            .iter()
            .map(|at| {
                let is_offline = at.offline_replicas.contains(&at.leader_id);
                (at.partition_index, Leader { broker: leader(at.leader_id), epoch: at.leader_epoch, is_offline })
            })
            .collect();
        let topic = Arc::new(Topic { name: name.into(), id: found.topic_id, partitions });
        self.topics.lock().insert(Arc::clone(&topic.name), Arc::clone(&topic));
        Ok((topic, found))
    }

    /// Asks for brokers, and one topic or all.
    pub(crate) async fn metadata(
        &self,
        deadline: Deadline,
        topic: Option<&str>,
    ) -> Result<MetadataResponse, CallError> {
        let one = |name: &str| vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }];
        let request =
            MetadataRequest { topics: topic.map(one), allow_auto_topic_creation: false, ..MetadataRequest::default() };
        let response = self.ask_by(deadline, Target::Any, request).await?;
        CallError::check("metadata", response.error_code, None)?;
        self.learn(&response);
        Ok(response)
    }

    /// Notes where the brokers are.
    fn learn(&self, response: &MetadataResponse) {
        let found = response.brokers.iter();
        *self.brokers.lock() =
            found.map(|broker| (broker.node_id, Address::from_wire(&broker.host, broker.port).to_string())).collect();
    }
}

/// Whether a code means "there is none", although the wire counts it as worth another try (a broker that has just started may
/// not have heard of a topic yet; ours answer from the catalog).
pub(crate) fn is_unknown(error: &CallError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId | ErrorCode::ViewNotFound)
    )
}

fn unreachable(broker: &Arc<str>, error: io::Error) -> CallError {
    CallError::Unreachable { broker: Arc::clone(broker), source: Arc::new(error) }
}

/// What is said of a broker that does not become of use in time.
const NOT_CONNECTED: &str = "was not connected to";
/// An answer that is overdue for so long is told to be waited for.
const SILENT_AFTER: Duration = Duration::from_secs(2);
