//! What a storage and a log are opened with, and what opening found.

use std::{path::PathBuf, time::Duration};

use millstream_model::Durability;
use uuid::Uuid;

/// How a data directory is used. [`StorageOptions::new`] has the defaults that a broker wants.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The data directory; made if it does not exist. The storage owns `LOCK`, `FORMAT`, `CLEAN`, `journal/` and `logs/`
    /// in it, `BALLAST`, `RESERVE`, `JOURNAL`, `METADATA`, `held/` and `trash/`, and leaves the rest alone.
    pub dir: PathBuf,
    /// How large a journal file is, bytes; a multiple of 4096, 64 KiB to 2 GiB. A batch must fit into one with its frame.
    pub journal_file_bytes: u64,
    /// How large all journal files may grow together, bytes: at least two files. Segments are synced early enough that
    /// recycling keeps up; when it cannot, appends wait.
    pub journal_bytes_max: u64,
    /// How much may wait to be written to the journal, bytes, before appends are refused as overloaded.
    pub queue_bytes_max: usize,
    /// How much is written and synced as one group, bytes (one batch may be more).
    pub group_bytes_max: usize,
    /// From how many bytes on an append of a log in durability `fsync` is synced in its segment, with a reference to it in the
    /// journal instead of a second copy; the batches of one append count together. `usize::MAX`: none.
    ///
    /// 2 MiB: there writing once sustained 1.5 to 2.2 times what writing twice did, and at 1 MiB 0.92 to 1.18 times, with one
    /// producer and with eight (`append_spike`, see tests/bench/README.md).
    pub append_ref_bytes: usize,
    /// How long an idempotent producer is remembered after it was last heard of (Kafka's `producer.id.expiration.ms`).
    pub producer_expiration: Duration,
    /// How long data of logs in durability `replicated` stays in the page cache alone, at most.
    pub sync_interval: Duration,
    /// How many segments' files may be open at a time. Those that were written stay open until they are synced: that is done at once where
    /// they are three quarters of these, and an append to another is refused where they are all of these, and 32.
    pub open_segments_max: usize,
    /// How much of the newest batches is kept in memory for those who read at the end, bytes, of all logs together; 0: nothing.
    pub tail_bytes_max: usize,
    /// How much room is set aside for what must be written even on a full disk, bytes. Appends are refused while it is not.
    pub ballast_bytes: u64,
    /// How much room is set aside beside it for what makes room, bytes: the deletion of logs, and the metadata that asks for it. (A
    /// start writes the last file of the metadata's log anew, which has 8 MiB at most.)
    pub reserve_bytes: u64,
}

impl StorageOptions {
    /// The defaults, for a directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            journal_file_bytes: 128 << 20,
            journal_bytes_max: 1 << 30,
            queue_bytes_max: 64 << 20,
            group_bytes_max: 1 << 20,
            append_ref_bytes: 2 << 20,
            producer_expiration: Duration::from_secs(24 * 60 * 60),
            sync_interval: Duration::from_secs(5),
            open_segments_max: 512,
            tail_bytes_max: 64 << 20,
            ballast_bytes: 16 << 20,
            reserve_bytes: 16 << 20,
        }
    }
}

/// How one log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment is closed before it would grow past this, bytes; at most 2^31 - 1.
    pub segment_bytes: u64,
    /// A segment takes no batch whose greatest timestamp is further past its first batch's than this, milliseconds: that one
    /// begins the next segment. `u64::MAX`: time closes none.
    pub segment_ms: u64,
    /// When a ticket resolves. One that is there has its own.
    pub durability: Durability,
    /// The entry of the cluster's metadata by which it is made; 0: that is not known. One that is there has its own, or takes
    /// this where it has none.
    pub made_by: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, segment_ms: u64::MAX, durability: Durability::Fsync, made_by: 0 }
    }
}

/// What opening a data directory found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The data directory's identity, made with it: a broker registers with it.
    pub directory_id: Uuid,
    /// The directory was made just now.
    pub created: bool,
    /// The last run closed the storage: logs in durability `replicated` have their whole tails.
    pub clean: bool,
    /// Logs found that serve.
    pub logs: usize,
    /// Logs found that do not, of which the caller is to tell: [`crate::Storage::out_of_service`].
    pub out_of_service: usize,
    /// Logs that would be, but for their deletion, which the journal goes on to tell of. The disk may be failing all the same.
    pub damaged_deleted: usize,
    /// Journal frames applied: those that the segments did not durably hold.
    pub replayed_frames: u64,
    /// Their bytes.
    pub replayed_bytes: u64,
}
