//! The client over QUIC: producer, consumer, admin.
//!
//! One [`Client`] is one identity towards a cluster: it finds the brokers, keeps a connection to each that it needs, and
//! makes it again with growing pauses when it ends. Everything made from it shares those connections, on streams of their
//! own: admin requests, produce requests (partitions spread over a few streams) and fetches do not wait for each other.
//!
//! ```no_run
//! use millstream_client::{Client, ClientOptions, ConsumerOptions, NewTopic, ProducerOptions, ProducerRecord};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Brokers and CA come from the profile that a broker has written for this user.
//! let client = Client::connect(ClientOptions::default()).await?;
//! let topic = NewTopic { name: "flights".into(), partitions: Some(4), ..NewTopic::default() };
//! client.admin().create_topic(topic).await?;
//!
//! let producer = client.producer(ProducerOptions::default());
//! let record = ProducerRecord {
//!     topic: "flights".into(),
//!     key: Some("N14228".into()),
//!     value: Some(r#"{"origin":"EWR","dest":"IAH"}"#.into()),
//!     ..ProducerRecord::default()
//! };
//! // Ready when there is room; the delivery is ready when the record is as durable as the topic says.
//! let delivery = producer.send(record).await?;
//! println!("{:?}", delivery.await?);
//!
//! let options = ConsumerOptions { until_end: true, ..ConsumerOptions::default() };
//! let mut consumer = client.consumer("flights", options).await?;
//! while let Some(record) = consumer.next().await? {
//!     println!("{} {}: {:?}", record.partition, record.offset, record.value);
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Every type of the public functions has its name here; another crate is needed for none of them:
//!
//! ```no_run
//! use std::{collections::BTreeMap, sync::Arc, time::Duration};
//!
//! use millstream_client::{
//!     ApiKey, BrokerId, Bytes, CallError, Client, ClientOptions, ConfigEntry, ConfigSource, ConnectError, ConsumerOptions, DefaultKind,
//!     DeleteBefore, Delivered, Digest, LeaderEpoch, Offset, OwnError, PartitionDescription, PartitionId, ProfileError, RoutingEpoch,
//!     StartFrom, TcpNet, TimestampMs, TopicId, TransformId, TransportOptions, TrustError, ViewId, real_env,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let transport = TransportOptions { idle_timeout: Duration::from_secs(60), ..TransportOptions::default() };
//! let options = ClientOptions { transport, ..ClientOptions::default() };
//! // Kafka's plain TCP, where UDP does not get through.
//! let brokers = vec!["localhost:9092".to_owned()];
//! let client = Client::connect_over(real_env(), Arc::new(TcpNet::default()), brokers, options).await?;
//! let stored: BTreeMap<PartitionId, Offset> = [(PartitionId(0), Offset(17))].into();
//! let options = ConsumerOptions { start: StartFrom::Offsets(stored), ..ConsumerOptions::default() };
//! let mut consumer = client.consumer("flights", options).await?;
//! let found: Offset = consumer.seek_to_time(PartitionId(0), TimestampMs(1_357_034_400_000)).await?;
//! client.admin().delete_records("flights", PartitionId(0), DeleteBefore::Offset(found)).await?;
//! # Ok(())
//! # }
//! fn source(entry: &ConfigEntry) -> (ConfigSource, bool) {
//!     (entry.source, entry.source == ConfigSource::Defaults(DefaultKind::Dynamic))
//! }
//! ```
//!
//! A record's partition, where it is left open, is chosen by the topic's partitioner module in the broker, else by the key
//! as every Kafka client does. Views are read by their name like topics.
//!
//! With the feature `local-routing`, which links the module host, a producer can run the partitioner itself, so that no question goes over the
//! network before a record does: see `ProducerOptions::local_routing`.

mod admin;
mod asking;
mod assign_frame;
mod channel;
mod cluster;
mod consumer;
mod credentials;
mod error;
mod module_bytes;
mod offsets;
mod options;
mod producer;

use std::sync::Arc;

pub use admin::{
    Admin, ClusterDescription, ConfigChange, ConfigEntry, CreatedTopic, DeleteBefore, NewTopic, PartitionDescription,
    PushedModule, Resumed, TopicDescription, TopicListing,
};
pub use bytes::Bytes;
pub use consumer::{ConsumedRecord, Consumer, ConsumerEvent, ConsumerOptions, FetchedBatches, Position, StartFrom};
pub use error::{CallError, ConnectError, ConsumeError, ProduceError};
pub use millstream_env::{Env, Net, real::env as real_env};
pub use millstream_model::{
    BrokerId, ConfigSource, DefaultKind, Digest, LeaderEpoch, Offset, PartitionId, RoutingEpoch, TimestampMs, TopicId,
    TransformId, ViewId,
};
pub use millstream_protocol::{
    ApiKey, ErrorCode,
    extension::{
        Pair,
        cluster::ClusterInfoResponse,
        modules::{ModuleDeclaration, ModuleDescribeResponse, ModuleInfo},
        routing::{EpochOfRouting, TopicRouting},
        transforms::{TransformDeployRequest, TransformDescribeResponse, TransformInfo, TransformPartition},
        views::ViewInfo,
    },
    messages::cluster::DescribeClusterBroker,
};
pub use millstream_record::{Batch, Compression, Header};
use millstream_transport::QuicNet;
pub use millstream_transport::{TcpNet, TrustError, own::OwnError, profile::ProfileError};
#[cfg(feature = "local-routing")]
pub use millstream_wasm::{COMPILE_ARGUMENT, Compiler, compile_main};
pub use options::{CertificateFiles, ClientOptions, Security, TransportOptions};
#[cfg(feature = "local-routing")]
pub use producer::LocalRouting;
pub use producer::{Acks, Delivered, Delivery, Producer, ProducerOptions, ProducerRecord};

use self::{cluster::Cluster, credentials::Files};

/// How long brokers have to hear that a connection is closed; three round trips are enough.
const IDLE_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// A client of one cluster. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Client {
    cluster: Arc<Cluster>,
    /// Kept for an orderly end, when the client has made it itself.
    quic: Option<Arc<QuicNet>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.cluster.options).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects over QUIC. Must be called on a tokio runtime.
    ///
    /// One broker of the list has been reached when this returns; nobody waits for a broker that is not there.
    ///
    /// # Errors
    /// No profile, no broker reached, a certificate that is not believed: the text says what to do.
    pub async fn connect(options: ClientOptions) -> Result<Self, ConnectError> {
        let (files, brokers) = Files::read(&options)?;
        let quic = Arc::new(QuicNet::client(files, (&options.transport).into()));
        let net = Arc::clone(&quic) as Arc<dyn Net>;
        let mut client = Self::connect_over(millstream_env::real::env(), net, brokers, options).await?;
        client.quic = Some(quic);
        Ok(client)
    }

    /// Connects over any network: Kafka's plain TCP ([`TcpNet`], with [`real_env`]), or a simulated one.
    /// [`ClientOptions::brokers`], [`ClientOptions::security`] and [`ClientOptions::certificate`] are not looked at.
    ///
    /// # Errors
    /// No broker reached.
    pub async fn connect_over(
        env: Env,
        net: Arc<dyn Net>,
        brokers: Vec<String>,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        if brokers.is_empty() {
            return Err(ConnectError::NoBroker);
        }
        let cluster = Arc::new(Cluster::new(env, net, brokers, options));
        cluster.reach().await?;
        Ok(Self { cluster, quic: None })
    }

    /// For changes and descriptions.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.cluster))
    }

    /// A producer of its own memory bound.
    #[must_use]
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::new(Arc::clone(&self.cluster), options)
    }

    /// A consumer of a topic or view.
    ///
    /// # Errors
    /// No such topic, view or partition; the offsets could not be asked for.
    pub async fn consumer(&self, name: &str, options: ConsumerOptions) -> Result<Consumer, ConsumeError> {
        Consumer::new(Arc::clone(&self.cluster), name, options).await
    }

    /// Ends every connection in order and for good, and tells the brokers so. This client and its clones connect to nobody any more:
    /// their requests, producers and consumers end with [`CallError::Closed`]; consumers hand out first what has arrived.
    /// Flush producers before: what they hold is not sent any more.
    ///
    /// What was sent without asking for acknowledgements ([`Acks::None`]) has been read and done by the brokers when this
    /// returns, unless a connection breaks meanwhile or [`ClientOptions::request_timeout`] ends first.
    pub async fn close(&self) {
        self.cluster.close("the client is done").await;
        if let Some(quic) = &self.quic {
            // A broker that says nothing any more is not waited for.
            let idle = std::pin::pin!(quic.wait_idle());
            let enough = self.cluster.env.clock.sleep(IDLE_WAIT_MAX);
            futures::future::select(idle, enough).await;
        }
    }
}
