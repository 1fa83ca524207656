//! Recovery: every log is cut to its mark, then the journal is replayed, then all of it is synced.

mod files;
pub(crate) mod load;
mod replay;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
};

use self::{files::JournalFiles, load::load_logs, replay::Replay};
use crate::{
    LogId, OpenError, PartitionLog, ReadError, StorageFailed, data_dir::io, journal::Journal, journal_file::ReadyFile,
    sync_all::sync_all, sync_log::Cause,
};

/// What recovery hands over.
pub(crate) struct Outcome {
    pub(crate) logs: HashMap<LogId, Arc<PartitionLog>>,
    /// The journal file to go on with.
    pub(crate) active: ReadyFile,
    pub(crate) replayed_frames: u64,
    pub(crate) replayed_bytes: u64,
}

/// Recovers a data directory; `clean`: the last run closed it. Every step can be repeated: a crash on the way only means to begin again.
pub(crate) fn recover(journal: &Arc<Journal>, clean: bool) -> Result<Outcome, OpenError> {
    let disk = &*journal.disk;
    let logs_dir = journal.options.dir.join("logs");
    // The trash, too: a full disk must not stand in the way of deleting.
    for dir in [&journal.dir(), &logs_dir, &journal.options.dir.join("trash")] {
        disk.create_dir_all(dir).map_err(io("make", dir))?;
    }
    disk.sync_dir(&journal.options.dir).map_err(io("sync", &journal.options.dir))?;
    let mut replay = Replay {
        journal,
        logs: load_logs(journal, &logs_dir)?,
        orphans: HashMap::new(),
        unmade: HashSet::new(),
        touched: HashMap::new(),
        clean,
        frames: 0,
        bytes: 0,
    };
    journal.load_span().map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => OpenError::Damaged { path: journal.span_path(), reason: source.to_string() },
        _ => OpenError::Io { action: "read", path: journal.span_path(), source },
    })?;
    let files = JournalFiles::list(journal)?;
    // After an orderly close the segments have everything.
    if !clean {
        files.check_whole(journal, !replay.logs.is_empty())?;
    }
    let next = replay.run(&files)?;
    journal.queue().next_lsn = next;
    journal.ring().committed_lsn = next - 1;
    for id in &replay.unmade {
        let dir = journal.options.dir.join(id.path());
        disk.create_dir_all(&dir).map_err(io("make", &dir))?;
    }
    let mut touched: Vec<_> = replay.touched.values().cloned().collect();
    touched.sort_by_key(|log| log.id());
    sync_all(journal, &touched, Cause::Turn).map_err(failed)?;
    let active = files.start_afresh(journal)?;
    Ok(Outcome { logs: replay.logs, active, replayed_frames: replay.frames, replayed_bytes: replay.bytes })
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
        other => OpenError::Damaged { path: PathBuf::new(), reason: other.to_string() },
    }
}
