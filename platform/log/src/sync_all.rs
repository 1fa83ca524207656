//! Syncing many logs: at a start those that the journal names, at the end those that still pin it.
//!
//! Each takes a few syncs, and each sync waits for the disk: several logs at a time, and every directory above them once.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_env::lack;
use parking_lot::Mutex;

use crate::{
    PartitionLog, StorageFailed, bytes_io::failing, journal::Journal, sync_error::sync_dir, sync_log::Synced,
    sync_plan::Cause,
};

/// Syncs all of `logs`, several at a time. Nobody else may be syncing one of them.
///
/// # Errors
/// The first failure; also where the disk lacks something, since nobody will try again.
pub(crate) fn sync_all(journal: &Journal, logs: &[Arc<PartitionLog>], cause: Cause) -> Result<(), StorageFailed> {
    sync_parents(journal, logs)?;
    let again = Mutex::new(Vec::new());
    each(journal, logs, |log| {
        if let Synced::Postponed(..) = log.sync(cause)? {
            again.lock().push(log.clone());
        }
        Ok(())
    })?;
    // One that was refused just before another gave up the ballast finds room now.
    for log in again.into_inner() {
        if let Synced::Postponed(_, failure) = log.sync(cause)? {
            return Err(failure);
        }
    }
    Ok(())
}

/// Makes the names above the logs' own directories durable, each directory once: a topic's partitions share most of them.
fn sync_parents(journal: &Journal, logs: &[Arc<PartitionLog>]) -> Result<(), StorageFailed> {
    // What was deleted may have taken the directories above it along.
    let is_new = |log: &&Arc<PartitionLog>| {
        let state = log.state();
        state.unsynced.parents_changed && !state.life.discarded
    };
    let new: Vec<_> = logs.iter().filter(is_new).collect();
    let dirs: BTreeSet<&Path> = new.iter().flat_map(|log| log.dir().ancestors().skip(1).take(3)).collect();
    let dirs: Vec<PathBuf> = dirs.into_iter().map(Path::to_owned).collect();
    let lacking = AtomicBool::new(false);
    each(journal, &dirs, |dir| match sync_dir(&*journal.disk, dir) {
        Err(error) if lack(&error).is_some() => {
            lacking.store(true, Ordering::Relaxed);
            Ok(())
        }
        outcome => outcome.map_err(failing("sync", dir)),
    })?;
    // Else each log syncs them itself, or tells what it lacks.
    if !lacking.into_inner() {
        for log in new {
            log.state().unsynced.parents_changed = false;
        }
    }
    Ok(())
}

/// Does the same for all, several at a time; the first failure, after all were done.
pub(crate) fn each<T: Sync, E: Send>(
    journal: &Journal,
    all: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let first = Mutex::new(None);
    journal.spawn.each(all.len(), &|turn| {
        if let Err(failure) = work(&all[turn]) {
            first.lock().get_or_insert(failure);
        }
    });
    first.into_inner().map_or(Ok(()), Err)
}
