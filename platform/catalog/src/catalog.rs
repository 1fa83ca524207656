//! The shell: opens the files, runs the group, proposes commands and publishes the state.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use millstream_env::{DiskLock, Env, Task};
use millstream_model::BrokerId;
use openraft::{BasicNode, Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::{
    apply::Outcome,
    command::{Command, CommandError},
    disk::{self, FileError, frame::EntryPlace},
    projection::{self, Projection},
    raft::{
        Answer, Group, Proposal,
        machine::{Applied, Machine, SnapshotBody},
        network::Alone,
        store::{Found, Store},
    },
    refused::Refused,
    state::{ClusterId, State},
};

/// Bytes of proposals that may wait for the log; proposers wait beyond it.
const PROPOSED_BYTES_MAX: usize = 8 << 20;
/// How long a sole voter may take to elect itself and apply what was committed.
const START_WAIT: Duration = Duration::from_secs(60);
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: (u64, u64) = (500, 1_000);

const _: () = assert!(crate::COMMAND_BYTES_MAX <= PROPOSED_BYTES_MAX);

/// Where a catalog lives and how it behaves.
#[derive(Clone, Debug)]
pub struct CatalogOptions {
    /// Its directory: made if missing, locked while open.
    pub dir: PathBuf,
    /// Which broker this is, from 0.
    pub broker: BrokerId,
    /// Where the projection is kept; none in simulation, since sled reaches the real disk by itself.
    pub projection_dir: Option<PathBuf>,
    /// Entries between snapshots; as many are kept behind one.
    pub snapshot_entries: u64,
    /// Up to which entry of the agreed log the data directory is known to have followed it ([`Catalog::state_at`]); 0: that is not known.
    pub followed: u64,
    /// A file of the agreed log is closed before it would grow past this, bytes.
    pub log_file_bytes: u64,
}

impl CatalogOptions {
    /// The defaults for a broker whose catalog lives in `dir` on a real disk.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, broker: BrokerId) -> Self {
        let dir = dir.into();
        Self {
            projection_dir: Some(dir.join("view")),
            dir,
            broker,
            snapshot_entries: 5_000,
            followed: 0,
            log_file_bytes: 8 << 20,
        }
    }
}

/// Why a catalog could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another broker process: stop that one, or choose another data directory", dir.display())]
    Locked {
        /// The catalog's directory.
        dir: PathBuf,
    },
    /// A file could not be read or written, or is damaged.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory is another broker's.
    #[error("this data directory belongs to broker {there}: start it with --node-id {there}, not {given}")]
    OtherBroker {
        /// Whose it is.
        there: u64,
        /// Who asked.
        given: BrokerId,
    },
    /// The log ends before an entry that was followed: these files are older than what was made by them.
    #[error(
        "they are older than what is beside them: their log ends with entry {last}, and entry {followed} had been followed. Put back the newest \
         copy of them, or restore the whole data directory from one copy. Nothing was touched"
    )]
    Older {
        /// The last entry that there is.
        last: u64,
        /// The one that there was.
        followed: u64,
    },
    /// A broker number below 0.
    #[error("broker number {0} is not legal: numbers start at 0")]
    BrokerNumber(BrokerId),
    /// The group did not come up.
    #[error("the catalog did not start: {0}")]
    Start(String),
}

/// Why a proposal did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The command was applied and refused; the state is unchanged.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The command cannot be proposed at all; nothing was written.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The catalog has stopped or failed. The command may or may not take effect after a restart.
    #[error("the catalog is not running: {0}")]
    Stopped(String),
}

/// The cluster's metadata, agreed on and durable. A cheap handle: clones share everything.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    group: Group,
    store: Store,
    applied: watch::Sender<Applied>,
    states: watch::Sender<Arc<State>>,
    projection: Option<Projection>,
    proposed_bytes: Arc<Semaphore>,
    running: Mutex<Option<Running>>,
}

/// What is taken down by a shutdown.
struct Running {
    io_loop: Task,
    projection: Option<Task>,
    states: Task,
    /// Taken before any file was touched, released after the last was closed.
    lock: Box<dyn DiskLock>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

/// A catalog's files as a start finds them: locked, read and judged, and not changed yet. Dropping it leaves them so.
pub struct FoundCatalog {
    options: CatalogOptions,
    node: u64,
    lock: Box<dyn DiskLock>,
    files: Found,
    snapshot: SnapshotBody,
    projection: Option<projection::Found>,
}

impl FoundCatalog {
    /// Whether nothing was ever agreed on in it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.files.last().is_none()
    }

    /// Refuses a log that ends before an entry that is known to have been followed. Of a new one that cannot be said: it may be of
    /// another cluster.
    ///
    /// # Errors
    /// [`OpenError::Older`].
    pub fn check_followed(&self, followed: u64) -> Result<(), OpenError> {
        match self.files.last() {
            Some(last) if last.index < followed => Err(OpenError::Older { last: last.index, followed }),
            _ => Ok(()),
        }
    }

    /// Replays what was committed, and waits until this broker, the only voter, has elected itself. A new catalog gets its cluster id.
    /// `env` may have another view of the disk than that by which the files were found, for what is written from here on.
    ///
    /// Must be called on a tokio runtime. Blocks before its first await point.
    ///
    /// # Errors
    /// [`OpenError`] says which file and what to do.
    pub async fn start(self, env: Env) -> Result<Catalog, OpenError> {
        let Self { options, node, lock, files, snapshot, projection } = self;
        let (store, io_loop) = Store::start(&env, files)?;
        let (applied, _) = watch::channel(Applied::default());
        let group = match start_group(node, options.snapshot_entries, snapshot, &store, &applied).await {
            Ok(group) => group,
            Err(error) => {
                store.close().await;
                io_loop.join().await;
                return Err(error);
            }
        };
        let (projection, projection_task) = match projection {
            Some(found) => {
                let (projection, task) = Projection::start(&env, found, applied.subscribe());
                (Some(projection), Some(task))
            }
            None => (None, None),
        };
        let (states, _) = watch::channel(applied.borrow().state.clone());
        let forward = forward(applied.subscribe(), states.clone());
        let states_task = env.spawn.spawn("catalog-states", Box::pin(forward));
        let running = Running { io_loop, projection: projection_task, states: states_task, lock };
        let catalog = Catalog {
            inner: Arc::new(Inner {
                group,
                store,
                applied,
                states,
                projection,
                proposed_bytes: Arc::new(Semaphore::new(PROPOSED_BYTES_MAX)),
                running: Mutex::new(Some(running)),
            }),
        };
        if catalog.state().cluster_id == ClusterId::default() {
            let id = ClusterId(uuid::Builder::from_random_bytes(env.rng.next_u128().to_le_bytes()).into_uuid());
            if let Err(error) = catalog.propose(Command::CreateCluster { id }).await {
                catalog.shutdown().await;
                return Err(OpenError::Start(error.to_string()));
            }
        }
        Ok(catalog)
    }
}

impl Catalog {
    /// Locks a catalog's files, made if they are missing, and reads and judges them. Blocks. (Only the projection is opened, which is
    /// rebuildable.)
    ///
    /// # Errors
    /// [`OpenError`] says which file and what to do; what the files hold is left as it is.
    pub fn find(options: CatalogOptions, env: &Env) -> Result<FoundCatalog, OpenError> {
        let node = u64::try_from(options.broker.0).map_err(|_| OpenError::BrokerNumber(options.broker))?;
        let dir = &options.dir;
        disk::make_dir(&*env.disk, dir)?;
        let lock = env.disk.lock(&dir.join("LOCK")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.clone() },
            _ => FileError::io(&dir.join("LOCK"), "lock")(error).into(),
        })?;
        let mut files = Found::read(env, dir, options.log_file_bytes)?;
        let snapshot = SnapshotBody::of(&mut files, dir)?;
        let projection = options.projection_dir.clone().map(projection::Found::open);
        check_witness(dir, files.last(), projection.as_ref())?;
        let found = FoundCatalog { node, lock, files, snapshot, projection, options };
        found.check_followed(found.options.followed)?;
        Ok(found)
    }

    /// [`Catalog::find`] and [`FoundCatalog::start`] in one. It reads the catalog's files before its first await point.
    ///
    /// # Errors
    /// Of both.
    pub async fn open(options: CatalogOptions, env: Env) -> Result<Self, OpenError> {
        Self::find(options, &env)?.start(env).await
    }

    /// Proposes a command and waits until it is committed, durable and applied; [`Catalog::state`] shows it then.
    ///
    /// Dropping the future does not take the proposal back.
    ///
    /// # Errors
    /// [`ProposeError`]; on `Stopped` it is unknown whether the command takes effect.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let bytes = command.encode()?;
        let inner = &self.inner;
        if let Some(reason) = inner.store.failed().borrow().clone() {
            return Err(ProposeError::Stopped(reason));
        }
        let permits = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let waiting = inner.proposed_bytes.acquire_many(permits).await;
        let _permit = waiting.map_err(|_| ProposeError::Stopped(String::from("it has been closed")))?;
        match inner.group.client_write(Proposal(bytes)).await {
            Ok(written) => {
                let Answer(answer) = written.data;
                Ok(answer?)
            }
            Err(error) => {
                let failed = inner.store.failed().borrow().clone();
                Err(ProposeError::Stopped(failed.unwrap_or_else(|| error.to_string())))
            }
        }
    }

    /// The state as last applied.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.inner.applied.borrow().state.clone()
    }

    /// The state as last applied, and the entry of the agreed log that it is of, which is durable. It never goes back.
    #[must_use]
    pub fn state_at(&self) -> (u64, Arc<State>) {
        let applied = self.inner.applied.borrow();
        (applied.id.map_or(0, |id| id.index), applied.state.clone())
    }

    /// Follows the state: each change is seen, or a later one. It may lag [`Catalog::state`] by a moment.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.inner.states.subscribe()
    }

    /// Entries of the projection whose keys begin with `prefix` (`topic/`, `module/`, ...), at most `limit`, each with its
    /// value as JSON. Empty where there is no projection; it follows the state with a delay. Blocks for a read of the disk.
    #[must_use]
    pub fn projected_entries(&self, prefix: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
        self.inner.projection.as_ref().map_or_else(Vec::new, |projection| projection.entries(prefix, limit))
    }

    /// Resolves with the reason once the catalog cannot go on (a failed write or sync): the process must stop then.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.store.failed();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::from("the catalog has ended"),
        }
    }

    /// Ends the catalog: what was proposed is finished or fails, files are synced and closed, the lock is released. A
    /// second call does nothing. Dropping the catalog without it is a crash: safe, and slower to start from.
    pub async fn shutdown(&self) {
        let Some(running) = self.inner.running.lock().take() else { return };
        let Running { io_loop, projection, mut states, lock } = running;
        self.inner.proposed_bytes.close();
        if let Err(error) = self.inner.group.shutdown().await {
            tracing::warn!(%error, "the catalog's group did not end well");
        }
        self.inner.store.close().await;
        io_loop.join().await;
        states.abort();
        if let (Some(projection), Some(task)) = (&self.inner.projection, projection) {
            projection.close();
            task.join().await;
        }
        drop(lock);
    }

    #[cfg(test)]
    pub(crate) fn projection(&self) -> Option<&Projection> {
        self.inner.projection.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn group(&self) -> &Group {
        &self.inner.group
    }

    #[cfg(test)]
    pub(crate) fn applied(&self) -> Applied {
        self.inner.applied.borrow().clone()
    }
}

/// Passes states on without their places.
async fn forward(mut applied: watch::Receiver<Applied>, states: watch::Sender<Arc<State>>) {
    while applied.changed().await.is_ok() {
        let state = applied.borrow_and_update().state.clone();
        states.send_if_modified(|last| {
            let changed = !Arc::ptr_eq(last, &state);
            *last = state;
            changed
        });
    }
}

/// Refuses a log that ends before what the projection was written of: it was durable then. Started on it, the broker would take the
/// topics that it lacks for deleted ones, and delete their records.
fn check_witness(
    dir: &std::path::Path,
    last: Option<EntryPlace>,
    projection: Option<&projection::Found>,
) -> Result<(), FileError> {
    let Some(seen) = projection.and_then(projection::Found::applied) else { return Ok(()) };
    if last.is_some_and(|last| last.index >= seen.index) {
        return Ok(());
    }
    let end = last.map_or_else(|| String::from("has no entries"), |last| format!("ends with entry {}", last.index));
    let what = format!("its log {end}, though the view beside it is of entry {}, which had been synced", seen.index);
    Err(FileError::damaged(dir, what))
}

/// Runs the group and waits until it leads itself and has applied what was committed.
async fn start_group(
    node: u64,
    snapshot_entries: u64,
    snapshot: SnapshotBody,
    store: &Store,
    applied: &watch::Sender<Applied>,
) -> Result<Group, OpenError> {
    let start = |error: &dyn std::fmt::Display| OpenError::Start(error.to_string());
    let machine = Machine::new(store.clone(), applied.clone(), snapshot);
    let config = Config {
        cluster_name: String::from("millstream"),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_entries),
        max_in_snapshot_log_to_keep: snapshot_entries,
        enable_pre_vote: Some(true),
        // A sole voter has nobody to send heartbeats to or to lose an election to: an idle catalog sleeps. The clock must be
        // switched on before a second voter joins.
        enable_tick: false,
        // A restarted leader would hold its old term without having applied what it had committed.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let config = Arc::new(config.validate().map_err(|error| start(&error))?);
    let group = Group::new(node, config, Alone, store.clone(), machine).await.map_err(|error| start(&error))?;
    match bring_up(node, &group).await {
        Ok(()) => Ok(group),
        Err(error) => {
            let _ = group.shutdown().await;
            Err(match store.failed().borrow().clone() {
                Some(reason) => OpenError::Start(reason),
                None => error,
            })
        }
    }
}

async fn bring_up(node: u64, group: &Group) -> Result<(), OpenError> {
    let start = |error: &dyn std::fmt::Display| OpenError::Start(error.to_string());
    if group.is_initialized().await.map_err(|error| start(&error))? {
        let mut voters = group.voter_ids();
        if let Some(there) = voters.find(|voter| *voter != node) {
            let given = BrokerId(i32::try_from(node).unwrap_or(i32::MAX));
            return Err(OpenError::OtherBroker { there, given });
        }
        // A sole voter has nobody to wait for.
        group.trigger().elect(false).await.map_err(|error| start(&error))?;
    } else {
        let members = BTreeMap::from([(node, BasicNode::default())]);
        group.initialize(members).await.map_err(|error| start(&error))?;
    }
    let led = group.wait(Some(START_WAIT)).current_leader(node, "a sole voter leads itself").await;
    led.map_err(|error| start(&error))?;
    // Answered once everything before it is applied.
    group.write_blank().await.map_err(|error| start(&error))?;
    Ok(())
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
