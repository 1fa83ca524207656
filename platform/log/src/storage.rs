//! The storage: one data directory with its lock, its journal and its logs.

use std::sync::Arc;

use millstream_env::Env;
use uuid::Uuid;

use crate::{
    DeleteError, LogId, LogOptions, OpenError, OpenLogError, PartitionLog, Recovered, StorageFailed, StorageOptions,
    Ticket,
};

/// An open data directory. Dropping it without [`Storage::close`] is like a crash that lets the operating system finish
/// its writes: nothing acknowledged is lost, the next start replays the journal.
pub struct Storage {}

impl Storage {
    /// Opens a data directory, makes it if it is not there, and recovers what it holds: takes the directory's lock, cuts
    /// every log to its mark, replays the journal and syncs. Blocks on the disk. Spawns the commit and the sync loop.
    ///
    /// # Errors
    /// [`OpenError`]; the directory is left as recoverable as it was.
    pub fn open(options: StorageOptions, env: Env) -> Result<(Self, Recovered), OpenError> {
        let _ = (options, env);
        todo!()
    }

    /// The data directory's identity, made with it.
    #[must_use]
    pub fn directory_id(&self) -> Uuid {
        todo!()
    }

    /// Opens a log, made empty if it does not exist; one that is open already is shared, and takes `segment_bytes` from
    /// now on.
    ///
    /// # Errors
    /// [`OpenLogError`].
    pub fn open_log(&self, id: LogId, options: LogOptions) -> Result<Arc<PartitionLog>, OpenLogError> {
        let _ = (id, options);
        todo!()
    }

    /// The logs that there are, on disk or open, but for those being deleted; sorted.
    #[must_use]
    pub fn logs(&self) -> Vec<LogId> {
        todo!()
    }

    /// Deletes a log: it takes no more appends or reads from now on, the deletion is durable when the ticket resolves, and
    /// the files go in the background. The id is never used again (while this storage is open, [`Storage::open_log`]
    /// refuses it).
    ///
    /// # Errors
    /// [`DeleteError`].
    pub fn delete_log(&self, id: LogId) -> Result<Ticket, DeleteError> {
        let _ = id;
        todo!()
    }

    /// Waits until the journal has room for more. Appenders await it before [`PartitionLog::append`], so that a slow disk
    /// slows them instead of refusing them. Returns at once when the storage has failed or is closed.
    pub async fn writable(&self) {}

    /// Resolves when a write or a sync has failed: the process must stop then, with this message. Pending otherwise.
    pub async fn failed(&self) -> StorageFailed {
        todo!()
    }

    /// Commits what is queued, syncs every segment, persists the marks, and leaves a note that nothing is to be replayed.
    /// Appends are refused from now on. Idempotent.
    ///
    /// # Errors
    /// The failure of this close or of an earlier write; the next start recovers.
    pub async fn close(&self) -> Result<(), StorageFailed> {
        todo!()
    }

    /// Stops the loops where they are, without syncing, and waits for them: what a crash leaves, for tests of recovery.
    pub async fn abandon(self) {}
}
