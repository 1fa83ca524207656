//! The sync loop: keeps the next journal file ready, syncs segments so that journal files can be recycled, and clears away
//! what was deleted. (How the files are made and recycled is in `ring`, how the
//! trash is cleared in `trash`.)

use std::sync::Arc;

use millstream_env::Lack;

use crate::{
    PartitionLog, StorageFailed,
    carry::{self, Carry},
    data_dir,
    journal::{Journal, PanicGuard},
    pin::Pin,
    relief::relieve,
    ring::{self, Means, prepare_next},
    sync_all::sync_all,
    sync_error::{SyncError, refused},
    sync_log::Synced,
    sync_plan::Cause,
    trash::{Reaper, remove_empty_dirs},
};

/// Runs until the journal is closed, stopped or failed. After an orderly end everything is synced and the clean mark is set.
pub(crate) async fn run(journal: Arc<Journal>) {
    let _guard = PanicGuard::new(&journal, "log-sync");
    let mut reaping = true;
    let mut reaper = Reaper::default();
    loop {
        let finishing = {
            let queue = journal.queue();
            if queue.is_stopped() {
                return;
            }
            queue.is_finishing()
        };
        let outcome = if finishing { finish(&journal) } else { work(&journal) };
        match outcome {
            Err(failure) => return journal.fail(failure),
            Ok(_) if finishing => return journal.stop(),
            Ok(true) => reaping = true,
            Ok(false) => {
                // Nothing is urgent: one step of what is not.
                if reaping && reaper.step(&journal) {
                    continue;
                }
                // What was refused is tried again at the next tick.
                reaping = reaper.is_refused();
                journal.sync_work.notified().await;
            }
        }
    }
}

/// Does one piece of what is to be done, the most urgent first. Whether there was any.
fn work(journal: &Arc<Journal>) -> Result<bool, StorageFailed> {
    set_aside(journal);
    carry::settle(journal);
    match clear_dropped(journal) {
        Ok(false) => {}
        Ok(true) => return Ok(true),
        Err(SyncError::Lacking(lack, failure)) => {
            postpone(journal, lack, &failure, "a deleted log cannot be moved away for now");
        }
        Err(SyncError::Failed(failure)) => return Err(failure),
    }
    if prepare_next(journal)? {
        return Ok(true);
    }
    // In turns: a journal under pressure must not keep the others waiting, nor they it.
    let relieved = relieve(journal)?;
    let recycled = recycle(journal)?;
    let cleared = follow_moved(journal)?;
    Ok(sync_unjournaled(journal)? || cleared || recycled || relieved)
}

/// Sets room aside again, once there is some.
fn set_aside(journal: &Journal) {
    if journal.sets_aside() {
        return;
    }
    match journal.set_aside(journal.headroom()) {
        Ok(true) => journal.announce_room(),
        Ok(false) => {}
        Err((path, error)) => tracing::warn!(%error, path = %path.display(), "no room can be set aside"),
    }
}

/// Moves the directories of deleted logs away; then their deletion needs the journal no more. Whether there was one.
///
/// # Errors
/// What is lacking or has failed; those that are left are still to be moved.
fn clear_dropped(journal: &Arc<Journal>) -> Result<bool, SyncError> {
    let mut dropped = std::mem::take(&mut journal.queue().dropped);
    let mut cleared = false;
    while let Some(log) = dropped.pop() {
        let name = format!("{:016x}", journal.rng.next_u64());
        // For good, also where it must be done again: the directory may be gone already, and that not be durable.
        log.state().life.discarded = true;
        if let Err(error) = log.discard(&name) {
            let error = refused("remove", log.dir())(error);
            // Until then the journal tells of it.
            dropped.push(log);
            journal.queue().dropped.append(&mut dropped);
            return Err(error);
        }
        cleared = true;
        {
            let _names = journal.names.lock();
            remove_empty_dirs(&*journal.disk, log.dir());
        }
        // Whatever it pinned is of no more use.
        let pin = std::mem::replace(&mut log.state().frames.pin, Pin::Free);
        if let Pin::At(first) = pin {
            journal.queue().pins.remove(&first);
        }
    }
    Ok(cleared)
}

/// Syncs one of the logs whose start has moved past segments, which then go, or whose end was cut back, or whose durability is
/// changed.
fn follow_moved(journal: &Arc<Journal>) -> Result<bool, StorageFailed> {
    while let Some(log) = { journal.queue().moved.pop() } {
        let is_behind = || {
            let state = log.state();
            !state.life.discarded
                && (!state.retired.is_empty() || state.life.cut.is_some() || state.life.change.is_some())
        };
        if !is_behind() {
            continue;
        }
        let synced = change(journal, &log)? && sync_log(journal, &log)?;
        let is_left = is_behind();
        if is_left {
            // At the next tick.
            journal.queue().moved.push(log);
        }
        return Ok(synced && !is_left);
    }
    Ok(false)
}

/// Takes a log that is to change its durability as far as where that is journaled; the next sync makes a mark of it. Whether that
/// sync may follow.
fn change(journal: &Arc<Journal>, log: &Arc<PartitionLog>) -> Result<bool, StorageFailed> {
    if !log.is_change_due() {
        return Ok(true);
    }
    // Most of what there is while appends go on.
    if !sync_log(journal, log)? {
        return Ok(false);
    }
    log.hold(true);
    if !sync_log(journal, log)? {
        log.hold(false);
        return Ok(false);
    }
    log.journal_change();
    Ok(true)
}

/// Where enough of the journal is used (or no file is left), carries forward what pins its oldest file, syncs the first log for
/// which that is not the way, or recycles that file if nothing pins it.
fn recycle(journal: &Arc<Journal>) -> Result<bool, StorageFailed> {
    let Some(due) = journal.ring().due(&journal.options) else { return Ok(false) };
    let next_pin = |from| {
        let queue = journal.queue();
        let next = queue.pins.range(from..).next().filter(|(lsn, _)| **lsn <= due.last_lsn);
        next.map(|(lsn, log)| (*lsn, log.clone()))
    };
    let by_size = due.means == Means::SyncLarge;
    let (mut from, mut carried) = (0, false);
    if by_size {
        from = journal.ring().look_from(due.sequence, &journal.options);
    }
    while let Some((lsn, log)) = next_pin(from) {
        let outcome = match due.means {
            Means::SyncLarge if !carry::is_large(&log) => {
                from = lsn + 1;
                continue;
            }
            Means::SyncLarge | Means::Sync => Carry::Unfit,
            Means::Carry => carry::carry(journal, &log),
        };
        match outcome {
            Carry::Queued => carried = true,
            Carry::UnderWay => {}
            // More when these are durable.
            Carry::Enough => break,
            // A deletion that waits for its directory to be moved pins what no sync sets free.
            Carry::Unfit if log.state().life.discarded => {}
            Carry::Unfit => {
                if by_size {
                    journal.ring().looked_to(lsn);
                }
                return Ok(sync_log(journal, &log)? && !journal.queue().pins.contains_key(&lsn));
            }
        }
        from = lsn + 1;
    }
    if by_size {
        journal.ring().looked_to(from);
    }
    if next_pin(0).is_some() {
        return Ok(carried);
    }
    match ring::recycle_oldest(journal, due.sequence) {
        Ok(()) => Ok(true),
        Err(SyncError::Lacking(lack, failure)) => {
            postpone(journal, lack, &failure, "a journal file cannot be used again for now");
            Ok(false)
        }
        Err(SyncError::Failed(failure)) => Err(failure),
    }
}

/// Notes what the disk must have before the journal can be recycled, and tells it, once and not often.
fn postpone(journal: &Journal, lack: Lack, failure: &StorageFailed, what: &str) {
    if journal.ring().postponed.replace(lack).is_none() {
        if journal.ring().told_postponed.is_due(lack, journal.monotonic()) {
            let (reason, path) = (&failure.source, failure.path.display());
            tracing::warn!(%reason, %path, "{what}");
        }
        // Who waits is refused now, if the journal is full.
        journal.announce_room();
    }
}

/// Syncs one log. Whether that went through: what was postponed waits for the next tick.
fn sync_log(journal: &Arc<Journal>, log: &Arc<PartitionLog>) -> Result<bool, StorageFailed> {
    match log.sync(Cause::Turn)? {
        Synced::Done => {
            journal.ring().postponed = None;
            Ok(true)
        }
        Synced::Postponed(lack, failure) => {
            postpone(journal, lack, &failure, "a log cannot be synced for now");
            Ok(false)
        }
    }
}

/// Syncs one of the logs without a journal, where that is due.
fn sync_unjournaled(journal: &Arc<Journal>) -> Result<bool, StorageFailed> {
    let next = {
        let mut queue = journal.queue();
        if std::mem::take(&mut queue.sync_unjournaled) {
            let listed = std::mem::take(&mut queue.unjournaled);
            queue.due.extend(listed);
        }
        queue.due.pop_front()
    };
    match next {
        // A postponed one is listed again, for the next tick; the others have their turn.
        Some(log) => sync_log(journal, &log).map(|_| true),
        None => Ok(false),
    }
}

/// Syncs everything that is left, after the last append.
fn finish(journal: &Arc<Journal>) -> Result<bool, StorageFailed> {
    // One that cannot be moved away pins the journal for good.
    clear_dropped(journal).map_err(SyncError::into_failure)?;
    let logs = {
        let mut queue = journal.queue();
        let due = std::mem::take(&mut queue.due);
        due.into_iter().chain(std::mem::take(&mut queue.unjournaled)).collect::<Vec<_>>()
    };
    sync_all(journal, &logs, Cause::Closing)?;
    loop {
        let pinning: Vec<_> = journal.queue().pins.values().cloned().collect();
        if pinning.is_empty() {
            break;
        }
        sync_all(journal, &pinning, Cause::Closing)?;
    }
    let moved = std::mem::take(&mut journal.queue().moved);
    // Whose files had followed before the frame was durable.
    for log in &moved {
        log.end_cut();
        log.end_change();
    }
    data_dir::close(&*journal.disk, &journal.options.dir)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;
    use millstream_model::{LeaderEpoch, PartitionId, TimestampMs, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{LogId, LogOptions, Storage, StorageOptions};

    /// They were, each time that the sync loop did a piece of anything: 10,000 syncs of others took as many looks at 10,000 logs.
    #[test]
    fn many_small_logs_that_pin_the_oldest_file_are_not_looked_at_each_time() {
        const LOGS: i32 = 10_000;
        let world = World::new(1);
        let options = StorageOptions {
            ballast_bytes: 4096,
            journal_file_bytes: 1 << 20,
            journal_bytes_max: 8 << 20,
            open_segments_max: 2 * LOGS as usize,
            ..StorageOptions::new("/data")
        };
        let storage = Storage::open(options, world.env()).unwrap().0;
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(&[7; 100]), &[]).unwrap();
        let batch = builder.build().unwrap();
        let append = |at| {
            let id = LogId::records(TopicId::NIL, PartitionId(at));
            let log = storage.open_log(id, LogOptions::default()).unwrap();
            (log.append(batch.clone(), LeaderEpoch(1)).unwrap().ticket, log)
        };
        for at in 0..LOGS - 1 {
            drop(append(at));
        }
        let (ticket, log) = append(LOGS - 1);
        world.run_until(ticket).unwrap();
        let journal = log.journal().clone();
        let due = journal.ring().due(&journal.options).unwrap();
        let pinning = journal.queue().pins.range(..=due.last_lsn).count() as u64;
        assert!(due.means == Means::SyncLarge && pinning > 1_000, "{pinning} logs pin the oldest file");
        let before = carry::LOOKS.get();
        for _ in 0..1_000 {
            assert!(!work(&journal).unwrap(), "there is nothing to be done");
        }
        let looks = carry::LOOKS.get() - before;
        assert!(looks <= pinning, "{looks} looks at {pinning} logs in 1,000 turns");
        // As the journal fills, one may have come to have much.
        for at in 0..LOGS / 5 {
            drop(append(at));
        }
        world.run_until(append(0).0).unwrap();
        assert!(!work(&journal).unwrap() && journal.ring().due(&journal.options).unwrap().means == Means::SyncLarge);
        let looks = carry::LOOKS.get() - before;
        assert!(looks >= pinning && looks <= 3 * pinning, "{looks} looks at {pinning} logs when the journal has grown");
    }
}
