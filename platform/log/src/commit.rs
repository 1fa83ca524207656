//! The commit loop: gathers what is queued, writes it to the journal as one group, syncs, and lets the tickets go.

use std::{
    collections::VecDeque,
    io::IoSlice,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    CommitError, StorageFailed,
    bytes_io::failing,
    fault::{self, Fault},
    frame::{FRAME_HEADER_BYTES, FramePlace, GROUP_ALIGN, Kind, align},
    journal::{Journal, PanicGuard},
    journal_file::{FILE_HEADER_BYTES, ReadyFile},
    queue::{Entry, Way, Work, reject},
    ring::FullFile,
};

const ZEROS: [u8; GROUP_ALIGN as usize] = [0; GROUP_ALIGN as usize];

/// The loop's own state.
struct Committer {
    journal: Arc<Journal>,
    active: ReadyFile,
    /// Where the next group goes.
    at: u64,
    /// The last frame that is durable.
    synced_lsn: u64,
    /// The frame headers of a group; kept for its memory.
    heads: Vec<[u8; FRAME_HEADER_BYTES]>,
}

/// Runs until the journal is closed, stopped or failed.
///
/// A group is whatever was queued while the one before was being synced, up to `group_bytes_max`: nobody waits for a timer,
/// and the slower the disk, the larger the groups.
pub(crate) async fn run(journal: Arc<Journal>, active: ReadyFile, synced_lsn: u64) {
    let _guard = PanicGuard::new(&journal, "log-commit");
    let mut pending = VecDeque::new();
    let mut committer =
        Committer { journal: journal.clone(), active, at: FILE_HEADER_BYTES, synced_lsn, heads: Vec::new() };
    loop {
        match journal.take_entries(&mut pending) {
            Work::Entries => {
                if let Err(failure) = committer.commit_all(&mut pending).await {
                    let error = failure.map_or(CommitError::Stopped, |failure| {
                        journal.fail(failure.clone());
                        CommitError::Failed(failure)
                    });
                    reject(pending, &error);
                    return;
                }
            }
            Work::Nothing => journal.commit_work.notified().await,
            Work::Drained => {
                // And nothing is pending here: what is left is the sync loop's.
                journal.queue().drained = true;
                return journal.sync_work.notify_one();
            }
            Work::Stop => return,
        }
    }
}

impl Committer {
    /// Commits all that is pending, group by group. Fails with none when the journal was stopped on the way.
    async fn commit_all(&mut self, pending: &mut VecDeque<Entry>) -> Result<(), Option<StorageFailed>> {
        while !pending.is_empty() {
            let count = self.group(pending)?;
            if count == 0 {
                self.next_file().await?;
                continue;
            }
            let group: Vec<Entry> = pending.drain(..count).collect();
            if let Err(failure) = self.write(&group) {
                // First the storage, then its tickets: who sees one fail finds the other failed.
                self.journal.fail(failure.clone());
                reject(group, &CommitError::Failed(failure.clone()));
                return Err(Some(failure));
            }
            self.resolve(group);
            // What was queued meanwhile joins the next group.
            if let Work::Stop = self.journal.take_entries(pending) {
                return Err(None);
            }
        }
        Ok(())
    }

    /// How many of the pending entries make the next group; none if the first one does not fit the file. What may travel by
    /// reference, and does, is durable in its segment when this returns.
    fn group(&self, pending: &mut VecDeque<Entry>) -> Result<usize, StorageFailed> {
        let room = self.active.header.file_bytes - self.at;
        let (mut bytes, mut synced_bytes) = (0, 0);
        let mut count = 0;
        for entry in pending {
            if entry.way == Way::Undecided {
                let lsn = entry.frame.lsn;
                let mut durable = entry.log.is_marked(lsn);
                if !durable {
                    // Those before it have waited long enough.
                    if synced_bytes > self.journal.options.group_bytes_max {
                        break;
                    }
                    durable = entry.log.sync_for_reference(lsn)?;
                    synced_bytes += entry.bytes();
                }
                entry.way = if durable { Way::Reference } else { Way::Whole };
            }
            bytes += entry.journal_bytes();
            if bytes as u64 > room || (count > 0 && bytes > self.journal.options.group_bytes_max) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Writes and syncs one group.
    fn write(&mut self, group: &[Entry]) -> Result<(), StorageFailed> {
        let place = FramePlace { nonce: self.active.header.nonce, synced_lsn: self.synced_lsn };
        self.heads.clear();
        self.heads.extend(group.iter().map(|entry| entry.journaled().encode(place)));
        let mut parts = Vec::with_capacity(3 * group.len() + 1);
        let mut bytes = 0;
        for (entry, head) in group.iter().zip(&self.heads) {
            parts.push(IoSlice::new(head));
            bytes += entry.journal_bytes() as u64;
            if entry.is_reference() {
                continue;
            }
            if entry.prefix_bytes > 0 {
                parts.push(IoSlice::new(&entry.prefix[..entry.prefix_bytes]));
            }
            if !entry.body.is_empty() {
                parts.push(IoSlice::new(&entry.body));
            }
        }
        let end = align(self.at + bytes);
        let padding = (end - self.at - bytes) as usize;
        if padding > 0 {
            parts.push(IoSlice::new(&ZEROS[..padding]));
        }
        assert!(end <= self.active.header.file_bytes, "a group outgrew its journal file");
        self.active.file.write_at(&parts, self.at).map_err(failing("write", &self.active.path))?;
        if !fault::is_on(Fault::SkipSync) {
            let begun = self.journal.monotonic();
            self.active.file.sync_data().map_err(failing("sync", &self.active.path))?;
            self.journal.syncs.record(self.journal.monotonic() - begun);
        }
        self.journal.written_bytes.fetch_add(end - self.at, Ordering::Relaxed);
        self.at = end;
        if let Some(last) = group.last() {
            assert!(last.frame.lsn == self.synced_lsn + group.len() as u64, "journal frames are not dense");
            self.synced_lsn = last.frame.lsn;
        }
        Ok(())
    }

    /// Tells everybody concerned that a group is durable.
    fn resolve(&self, group: Vec<Entry>) {
        let bytes: usize = group.iter().map(Entry::bytes).sum();
        let (mut dropped, mut moved, mut carried) = (false, false, false);
        for (at, entry) in group.iter().enumerate() {
            // Once per log where its batches follow each other. Other frames say where the log ended, not that this is durable:
            // a log without a journal is further than its segments.
            let appends = |entry: &Entry| entry.frame.kind == Kind::Append;
            let last = group.get(at + 1).is_none_or(|next| !Arc::ptr_eq(&next.log, &entry.log) || !appends(next));
            if appends(entry) && last {
                entry.log.advance_flushed(entry.frame.end_offset, entry.frame.lsn);
            }
            dropped |= entry.frame.kind == Kind::Drop;
            moved |= matches!(entry.frame.kind, Kind::LogStart | Kind::Truncate | Kind::DurabilityChange);
            carried |= entry.frame.kind == Kind::Carry;
        }
        {
            let mut queue = self.journal.queue();
            queue.bytes -= bytes;
            queue.frames -= group.len();
            let of = |kind| group.iter().filter(move |entry| entry.frame.kind == kind).map(|entry| entry.log.clone());
            if dropped {
                queue.dropped.extend(of(Kind::Drop));
            }
            if moved {
                queue.moved.extend(of(Kind::LogStart).chain(of(Kind::Truncate)).chain(of(Kind::DurabilityChange)));
            }
        }
        let crossed = self.journal.ring().advance(self.at, self.synced_lsn, &self.journal.options);
        if dropped || moved || carried || crossed {
            self.journal.sync_work.notify_one();
        }
        for mut entry in group {
            if let Some(resolve) = entry.resolve.take() {
                // Nobody may be waiting any more.
                let cut = entry.log.was_cut(&entry.frame);
                let _ = resolve.send(if cut { Err(CommitError::Truncated) } else { Ok(()) });
            }
        }
        self.journal.announce_room();
    }

    /// Goes on to the next file. The sync loop has it ready, as a rule; else this waits until one was recycled: the one that
    /// was just filled, if there is no other and no room for one.
    async fn next_file(&mut self) -> Result<(), Option<StorageFailed>> {
        let (path, sequence) = (self.active.path.clone(), self.active.header.sequence);
        self.journal.ring().fill(FullFile { path, sequence, last_lsn: self.synced_lsn });
        loop {
            let next = self.journal.ring().take_ready();
            if let Some(next) = next {
                (self.active, self.at) = (next, FILE_HEADER_BYTES);
                self.journal.sync_work.notify_one();
                return Ok(());
            }
            self.journal.sync_work.notify_one();
            self.journal.commit_work.notified().await;
            if self.journal.queue().is_stopped() {
                return Err(None);
            }
        }
    }
}
