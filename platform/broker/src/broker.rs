//! The broker as a whole: how its parts start, hang together, and stop.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt;
use millstream_catalog::{
    Catalog, CatalogOptions, Command, DirectoryId, FoundCatalog, Incarnation, OpenError as CatalogError, ProposeError,
    Refused,
};
use millstream_env::{Env, Listener};
use millstream_log::{Locked, Recovered, Storage, StorageFailed, StorageOptions, Stream};
use millstream_model::{Address, Durability, TimestampMs, TopicPartition};
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    BrokerOptions,
    catch_up::CatchUp,
    compaction,
    handlers::alter_defaults,
    jobs::Jobs,
    logs,
    memory::Memory,
    metrics::counters::{Door, Requests},
    partitions::Partitions,
    pools::{Modules, ModulesError},
    producer_ids::ProducerIds,
    retention, serve,
    shared::Shared,
    transform::Transforms,
};

/// A running broker. Dropping it without [`Broker::shutdown`] leaves its tasks running: always shut down, or end the process.
pub struct Broker {
    shared: Arc<Shared>,
    doors: Vec<Arc<Door>>,
    tasks: Mutex<Vec<millstream_env::Task>>,
}

/// Why a broker did not start. Nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Bound to every interface, and no address is given for clients.
    #[error("listening on {bound}, every interface, there is no one address to tell clients: say which to advertise")]
    NoAddress {
        /// What was bound.
        bound: SocketAddr,
    },
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] millstream_log::OpenError),
    /// The cluster's metadata.
    #[error("the cluster's metadata in {}: {source}", path.display())]
    Catalog {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: CatalogError,
    },
    /// The logs belong to topics that this metadata knows nothing of, or may not. Nothing was deleted.
    #[error(
        "{} does not belong to the records in {}: it is new, an older copy, or another broker's. Put back the one that was there when the broker last \
         ran, or restore the whole data directory from one copy. Nothing of the records was deleted",
        path.display(), data_dir.display()
    )]
    ForeignCatalog {
        /// The metadata's directory.
        path: PathBuf,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// This broker could not be registered with its cluster.
    #[error("the broker could not be registered with its cluster: {0}")]
    Register(#[source] ProposeError),
    /// The defaults of topics' settings cannot be, or could not be agreed on.
    #[error("the defaults of topics' settings: {0}")]
    Defaults(String),
    /// The module host.
    #[error("the module host: {0}")]
    Modules(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A partition could not be opened.
    #[error("{0}")]
    Partitions(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a broker must be stopped. What it acknowledged is safe; the next start recovers.
#[derive(Debug, thiserror::Error)]
pub enum BrokerFailed {
    /// The log.
    #[error(transparent)]
    Storage(#[from] StorageFailed),
    /// The cluster's metadata.
    #[error(
        "the cluster's metadata cannot be written: {0}. The broker must stop, and what it acknowledged is safe. Mend that \
         before you start it again"
    )]
    Catalog(String),
}

impl From<ModulesError> for StartError {
    fn from(error: ModulesError) -> Self {
        Self::Modules(Box::new(error))
    }
}

/// A broker that has its data directory to itself and has recovered it, and serves nobody yet.
///
/// Between the two is the time for what must not be touched while another broker may have the directory: identity, profile.
/// Dropping it without [`Prepared::serve`] or [`Prepared::close`] is as a crash: the next start recovers.
pub struct Prepared {
    shared: Arc<Shared>,
    recovered: Recovered,
}

impl Prepared {
    /// What the data directory held.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Serves the listeners, which should have the address that [`Broker::prepare`] was told.
    #[must_use]
    pub fn serve(self, listeners: Vec<Arc<dyn Listener>>) -> Broker {
        let shared = self.shared;
        let mut tasks = vec![
            shared.env.spawn.spawn("follow catalog", follow_catalog(shared.clone()).boxed()),
            shared.env.spawn.spawn("retention", retention::run(shared.clone()).boxed()),
            shared.env.spawn.spawn("compaction", compaction::run(shared.clone()).boxed()),
        ];
        let doors: Vec<_> = listeners.into_iter().map(Door::new).collect();
        for door in &doors {
            let accept = serve::accept_connections(shared.clone(), door.clone());
            tasks.push(shared.env.spawn.spawn("accept", accept.boxed()));
        }
        Broker { shared, doors, tasks: Mutex::new(tasks) }
    }

    /// Gives the data directory back, in order.
    ///
    /// # Errors
    /// What could not be written; the next start recovers.
    pub async fn close(self) -> Result<(), StorageFailed> {
        self.serve(Vec::new()).shutdown().await
    }
}

impl Broker {
    /// [`Broker::prepare`] and [`Prepared::serve`] in one. `listeners` are bound already, so that a taken port is known before
    /// anything is touched.
    ///
    /// # Errors
    /// [`StartError`]; the data directory is as recoverable as before.
    pub async fn start(
        options: BrokerOptions,
        env: Env,
        listeners: Vec<Arc<dyn Listener>>,
    ) -> Result<(Self, Recovered), StartError> {
        let bound = listeners.first().map_or_else(|| ([127, 0, 0, 1], 0).into(), |listener| listener.local_address());
        let prepared = Self::prepare(options, env, bound).await?;
        let recovered = prepared.recovered.clone();
        Ok((prepared.serve(listeners), recovered))
    }

    /// Locks and recovers what the data directory holds, registers with the cluster (of one) and takes the lead of its
    /// partitions. `bound` is where the broker will listen.
    ///
    /// # Errors
    /// [`StartError`]; the data directory is as recoverable as before, and unchanged if another broker has it.
    pub async fn prepare(options: BrokerOptions, env: Env, bound: SocketAddr) -> Result<Prepared, StartError> {
        let address = advertised(&options, bound)?;
        let storage_options = StorageOptions {
            open_segments_max: options.open_segments_max,
            journal_file_bytes: options.journal_file_bytes,
            journal_bytes_max: options.journal_bytes_max,
            ..StorageOptions::new(&options.data_dir)
        };
        let locked = Storage::lock(storage_options, env.clone())?;
        // Judged before the logs are recovered: what is refused for its metadata is left as the last run left it.
        let found = find_catalog(&locked, &options, &env)?;
        let (storage, recovered) = locked.recover()?;
        let storage = Arc::new(storage);
        let refused = |source| refused_catalog(&options, source);
        found.check_followed(storage.followed()).map_err(refused)?;
        // A topic can be deleted on a full disk, or no room could ever be made.
        let catalog = found.start(Env { disk: storage.disk(), ..env.clone() }).await.map_err(refused)?;
        // The directory, too: an older copy in its place would be found by the next start, and not what was agreed since.
        storage.watch(catalog_dir(&options));
        storage.watch(catalog_dir(&options).join("LOCK"));
        if logs::are_ahead(&storage, &catalog.state()) {
            return Err(foreign_catalog(&options));
        }
        let modules = Modules::open(&options, &env)?;

        let holds_logs = !storage.logs().is_empty();
        let lossy = || if recovered.clean { Vec::new() } else { replicated_logs(&storage, &catalog) };
        // A new incarnation starts a new leader epoch everywhere: an unsynced tail of the last one may be gone.
        loop {
            let replicated = lossy();
            let register = Command::RegisterBroker {
                id: options.id,
                incarnation: Incarnation(Uuid::from_u128(env.rng.next_u128())),
                directory: DirectoryId(recovered.directory_id),
                addresses: vec![address.clone()],
                clean: recovered.clean,
                replicated: replicated.clone(),
                holds_logs,
            };
            catalog.propose(register).await.map_err(|source| match source {
                ProposeError::Refused(Refused::UnknownDirectory { .. }) => foreign_catalog(&options),
                source => StartError::Register(source),
            })?;
            // All that was agreed on before is applied now: more of them may be known for what they are, and are told of again.
            if lossy() == replicated {
                break;
            }
        }
        alter_defaults::tell(&catalog, &options.topic_defaults).await.map_err(StartError::Defaults)?;
        storage.follow(catalog.state_at().0).map_err(|error| StartError::Partitions(Box::new(error)))?;
        modules.sweep(&catalog.state()).await;
        let (asked, there) = (options.new_topics.replication_factor, catalog.state().brokers.len());
        if usize::try_from(asked).is_ok_and(|asked| asked > there) {
            warn!(
                "default.replication.factor is {asked}, of {there} brokers: no topic is made whose creator leaves that open"
            );
        }

        logs::settle(&storage, &catalog, options.id);
        let partitions = Partitions::new(options.id, storage.clone(), env.clone());
        partitions.follow(&catalog).await.map_err(|error| StartError::Partitions(Box::new(error)))?;
        let shared = Arc::new(Shared {
            started_at: TimestampMs(env.clock.wall_ms()),
            started: env.clock.now(),
            transforms: Transforms::new(catalog.state_at().0),
            producer_ids: ProducerIds::new(options.id, &storage, &catalog.state()),
            memory: Memory::new(),
            requests: Requests::new(),
            catch_up: CatchUp::new(options.catch_up_share, &env),
            unpacking: Jobs::new(env.spawn.clone()),
            searching: Jobs::new(env.spawn.clone()),
            retaining: Jobs::new(env.spawn.clone()),
            compacting: Jobs::new(env.spawn.clone()),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            options,
            env,
            storage,
            catalog,
            partitions,
            modules,
            bound,
            address,
        });
        Ok(Prepared { shared, recovered })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn doors(&self) -> &[Arc<Door>] {
        &self.doors
    }

    /// Resolves when the broker can no longer keep its word and must be stopped: a write or a sync has failed.
    pub async fn failed(&self) -> BrokerFailed {
        tokio::select! {
            failed = self.shared.storage.failed() => BrokerFailed::Storage(failed),
            reason = self.shared.catalog.failed() => BrokerFailed::Catalog(reason),
        }
    }

    /// Stops: takes no more connections and requests, answers those that it has taken (within a few seconds), closes the
    /// connections with that reason, ends the transforms, writes everything down.
    ///
    /// # Errors
    /// What could not be written; the next start recovers.
    pub async fn shutdown(&self) -> Result<(), StorageFailed> {
        for door in &self.doors {
            door.listener.close();
        }
        self.shared.stop.cancel();
        // They end by themselves, and not in the middle: one may be waiting for a transform that it has told to end.
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.join().await;
        }
        self.shared.connections.close();
        self.shared.connections.wait().await;
        self.shared.transforms.stop().await;
        self.shared.catalog.shutdown().await;
        self.shared.storage.close().await
    }
}

/// Finds the metadata that belongs to the data directory, before anything there is changed. It is made anew only where there are no logs.
fn find_catalog(locked: &Locked, options: &BrokerOptions, env: &Env) -> Result<FoundCatalog, StartError> {
    let (dir, holds_logs) = (catalog_dir(options), locked.holds_logs()?);
    // What cannot be looked at, opening it tells.
    if holds_logs && !env.disk.exists(&dir).unwrap_or(true) {
        return Err(foreign_catalog(options));
    }
    let catalog_options = CatalogOptions {
        projection_dir: options.projection_dir.clone(),
        followed: locked.followed(),
        ..CatalogOptions::new(&dir, options.id)
    };
    let found = Catalog::find(catalog_options, env).map_err(|source| refused_catalog(options, source))?;
    match holds_logs && found.is_new() {
        true => Err(foreign_catalog(options)),
        false => Ok(found),
    }
}

fn catalog_dir(options: &BrokerOptions) -> PathBuf {
    options.data_dir.join("catalog")
}

fn foreign_catalog(options: &BrokerOptions) -> StartError {
    StartError::ForeignCatalog { path: catalog_dir(options), data_dir: options.data_dir.clone() }
}

fn refused_catalog(options: &BrokerOptions, source: CatalogError) -> StartError {
    match source {
        CatalogError::Older { .. } => foreign_catalog(options),
        source => StartError::Catalog { path: catalog_dir(options), source },
    }
}

/// The partitions whose logs are in durability `replicated`, though the catalog, as far as it is known here, asks for another.
fn replicated_logs(storage: &Storage, catalog: &Catalog) -> Vec<TopicPartition> {
    let state = catalog.state();
    let asks_for = |id: &TopicPartition| state.topic_by_id(id.topic).map(|topic| topic.config.durability);
    let logs = storage.logs().into_iter().filter(|id| id.stream == Stream::Records);
    let logs = logs.filter(|id| storage.log(*id).is_some_and(|log| log.durability() == Durability::Replicated));
    let partitions = logs.map(|id| TopicPartition { topic: id.topic, partition: id.partition });
    partitions.filter(|id| asks_for(id).is_some_and(|durability| durability != Durability::Replicated)).collect()
}

/// When to try again to lead what could not be opened.
const FOLLOW_AGAIN: Duration = Duration::from_secs(5);

/// Brings partitions, transforms and pools of modules in step with every change of the catalog, whoever made it, until the
/// broker stops.
async fn follow_catalog(shared: Arc<Shared>) {
    let mut changes = shared.catalog.watch();
    while !shared.stop.is_cancelled() {
        changes.borrow_and_update();
        let mut followed = shared.partitions.follow(&shared.catalog).await;
        if let Err(error) = &followed {
            error!(%error, "this broker does not lead all that it should");
        }
        if let Err(error) = shared.partitions.change(&shared.catalog).await {
            warn!(%error, "a topic's durability is not in force yet");
            followed = Err(error);
        }
        if let Err(error) = shared.partitions.open_routings(&shared.catalog, None).await {
            warn!(%error, "a topic's routing is not in force yet");
            followed = Err(error);
        }
        shared.transforms.follow(&shared).await;
        shared.modules.follow(&shared.catalog.state());
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                info!("the catalog has stopped");
                return;
            },
            // A full disk, for one, gets room again without the catalog's doing.
            () = shared.env.clock.sleep(FOLLOW_AGAIN), if followed.is_err() => {}
            () = shared.stop.cancelled() => {}
        }
    }
}

fn advertised(options: &BrokerOptions, bound: SocketAddr) -> Result<Address, StartError> {
    match &options.advertise {
        Some(address) => Ok(address.clone()),
        // Bound to every interface there is no one address to name, and a wrong one would lead clients elsewhere.
        None if bound.ip().is_unspecified() => Err(StartError::NoAddress { bound }),
        None => Ok(Address { host: bound.ip().to_string(), port: bound.port() }),
    }
}
