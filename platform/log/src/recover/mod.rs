//! Recovery: every log is cut to its mark, then the journal is replayed, then all of it is synced.

mod beside;
pub(crate) mod cut;
mod files;
mod load;
mod replay;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{files::JournalFiles, load::load_logs, replay::Replay};
use crate::{
    LogId, OpenError, PartitionLog, ReadError, StorageFailed, bytes_io::missing_is_fine, data_dir::io, held,
    journal::Journal, journal_file::ReadyFile, sync_all::sync_all, sync_plan::Cause,
};

/// The logs that serve.
type Logs = HashMap<LogId, Arc<PartitionLog>>;
/// The logs that cannot, and why.
type Refused = HashMap<LogId, OpenError>;

/// What recovery hands over.
pub(crate) struct Outcome {
    pub(crate) logs: Logs,
    /// Logs that are out of service, and why.
    pub(crate) refused: Refused,
    /// Logs that would be, had they not been deleted.
    pub(crate) damaged_deleted: usize,
    /// The journal file to go on with.
    pub(crate) active: ReadyFile,
    pub(crate) replayed_frames: u64,
    pub(crate) replayed_bytes: u64,
}

/// Recovers a data directory; `clean`: the last run closed it, and nothing has been done to it since. It stays set where this fails before
/// that. Every step can be repeated: a crash on the way only means to begin again.
pub(crate) fn recover(journal: &Arc<Journal>, clean: &mut bool) -> Result<Outcome, OpenError> {
    let disk = &*journal.disk;
    let logs_dir = journal.options.dir.join("logs");
    let trash = journal.options.dir.join("trash");
    let leads_away = |trash: &Path| Ok(disk.is_link(trash)? && disk.exists(trash)?);
    if leads_away(&trash).map_err(io("look at", &trash))? {
        // All that is where it leads would be removed.
        let link = "it is a symbolic link, and everything in it is deleted: remove the link";
        return Err(io("use", &trash)(io::Error::new(io::ErrorKind::InvalidInput, link)));
    }
    // The trash, too: a full disk must not stand in the way of deleting.
    for dir in [&journal.dir(), &logs_dir, &trash] {
        disk.create_dir_all(dir).map_err(io("make", dir))?;
    }
    disk.sync_dir(&journal.options.dir).map_err(io("sync", &journal.options.dir))?;
    let (logs, refused) = load_logs(journal, &logs_dir)?;
    let mut replay = Replay {
        journal,
        logs,
        refused,
        damaged_deleted: 0,
        held: HashSet::new(),
        drops: HashMap::new(),
        orphans: HashMap::new(),
        unmade: HashSet::new(),
        touched: HashMap::new(),
        clean: *clean,
        frames: 0,
        bytes: 0,
    };
    journal.load_span().map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => OpenError::Damaged { path: journal.span_path(), reason: source.to_string() },
        _ => OpenError::Io { action: "read", path: journal.span_path(), source },
    })?;
    let files = JournalFiles::list(journal)?;
    // After an orderly close the segments have everything.
    if !*clean {
        files.check_whole(journal, !replay.logs.is_empty() || !replay.refused.is_empty())?;
    }
    let next = replay.run(&files);
    *clean &= next.is_err() && replay.touched.is_empty() && replay.held.is_empty();
    let next = next?;
    journal.queue().next_lsn = next;
    journal.ring().committed_lsn = next - 1;
    let mut touched: Vec<_> = replay.touched.values().cloned().collect();
    touched.sort_by_key(|log| log.id());
    sync_all(journal, &touched, Cause::Turn).map_err(failed)?;
    for id in &replay.held {
        // The log is synced: what it says comes back after a crash is passed over. (What is aside would come back after the log was
        // deleted, too.)
        let dir = journal.options.dir.join(id.path());
        missing_is_fine(disk.remove_file(&dir.join(held::FILE))).map_err(io("remove", &dir))?;
        held::remove_aside(disk, &journal.options.dir, *id).map_err(io("remove", &dir))?;
    }
    let active = files.start_afresh(journal)?;
    let Replay { logs, refused, damaged_deleted, frames, bytes, .. } = replay;
    Ok(Outcome { logs, refused, damaged_deleted, active, replayed_frames: frames, replayed_bytes: bytes })
}

fn failed(failure: StorageFailed) -> OpenError {
    let StorageFailed { action, path, source } = failure;
    OpenError::Io { action, path, source: io::Error::new(source.kind(), source.to_string()) }
}

fn unreadable(error: ReadError) -> OpenError {
    match error {
        ReadError::Damaged { path, at, reason, .. } => {
            OpenError::Damaged { path, reason: format!("byte {at}: {reason}") }
        }
        ReadError::Io { path, source } => OpenError::Io { action: "read", path, source },
        // Nobody deletes a log, or asks for an offset, while it is being recovered.
        other @ (ReadError::OutOfRange { .. } | ReadError::Deleted) => {
            OpenError::Io { action: "read", path: PathBuf::from("a log"), source: io::Error::other(other) }
        }
    }
}
