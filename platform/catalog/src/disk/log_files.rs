//! The agreed log as files: append, read, truncate and purge, each blocking. One thread drives it (`raft::store`).

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IoSlice},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_env::{Disk, DiskFile, OpenMode, SyncScope, replace_file};

use super::{
    FileError, checked,
    frame::{
        self, EntryPlace, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, HeaderError, Kind, PAYLOAD_BYTES_MAX,
    },
};

const PURGED: &str = "purged";

/// An entry as the files know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) place: EntryPlace,
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
}

/// The log's files. After an error of a writing call nothing more may be written: the caller stops.
pub(crate) struct LogFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file_bytes: u64,
    /// By the index of the first entry that each may hold. The last is the one that is written. Never empty.
    files: BTreeMap<u64, LogFile>,
    /// Where the entries are, without gaps; the first is that of index `base`.
    slots: VecDeque<Slot>,
    base: u64,
    purged: Option<EntryPlace>,
    committed: Option<EntryPlace>,
    /// What counts of the last file, until it is written anew.
    unsettled: Vec<u8>,
}

struct LogFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    end: u64,
    synced: u64,
    /// The index that continues it.
    next: u64,
}

/// The file that is written, as numbers.
#[derive(Clone, Copy)]
struct Active {
    first: u64,
    end: u64,
    synced: u64,
    next: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    file: u64,
    at: u64,
    bytes: usize,
    term: u64,
}

/// What a file was found to hold.
struct Found {
    entries: Vec<(EntryPlace, u64, usize)>,
    committed: Option<EntryPlace>,
    /// The end of its last whole frame; what follows is a torn tail.
    end: usize,
}

impl LogFiles {
    /// Reads the log of a directory as far as it is whole. Changes nothing: nothing may be written, either, before
    /// [`LogFiles::settle`].
    ///
    /// `expected`: other files say that there was a log.
    pub(crate) fn find(disk: Arc<dyn Disk>, dir: &Path, file_bytes: u64, expected: bool) -> Result<Self, FileError> {
        let purged = match checked::read(&*disk, dir, PURGED)? {
            Some(body) => Some(
                serde_json::from_slice(&body)
                    .map_err(|error| FileError::damaged(&dir.join(PURGED), format!("it cannot be read: {error}")))?,
            ),
            None => None,
        };
        let mut log = Self {
            disk,
            dir: dir.into(),
            file_bytes,
            files: BTreeMap::new(),
            slots: VecDeque::new(),
            base: 0,
            purged,
            committed: None,
            unsettled: Vec::new(),
        };
        let paths = log.list()?;
        let Some(last) = paths.last().map(|(first, _)| *first) else {
            if expected || log.purged.is_some() {
                return Err(FileError::damaged(dir, "the files of its log (log-...) are missing"));
            }
            return Ok(log);
        };
        let mut next = None;
        for (first, path) in paths {
            next = Some(log.load(first, path, next, first == last)?);
        }
        log.committed = log.committed.min_by_index(log.last());
        Ok(log)
    }

    /// Makes it one that is written to: an empty one where there is none; cuts a torn tail off; writes the last file anew, so that
    /// nothing rests on what a page cache claims after an earlier run's failed sync. From here on `disk` is written to.
    pub(crate) fn settle(mut self, disk: &Arc<dyn Disk>) -> Result<Self, FileError> {
        self.disk = disk.clone();
        checked::adopt(&*self.disk, &self.dir, PURGED)?;
        let bytes = std::mem::take(&mut self.unsettled);
        match self.files.pop_last() {
            None => self.start_file(0)?,
            Some((first, LogFile { path, end, next, .. })) => {
                if (bytes.len() as u64) < end {
                    let torn = end - bytes.len() as u64;
                    tracing::warn!(path = %path.display(), bytes = torn, "cut a torn tail off the catalog's log");
                }
                let file = self.write_whole(first, &bytes, next)?;
                self.files.insert(first, file);
            }
        }
        Ok(self)
    }

    pub(crate) fn purged(&self) -> Option<EntryPlace> {
        self.purged
    }

    pub(crate) fn committed(&self) -> Option<EntryPlace> {
        self.committed
    }

    /// The last entry, or the last that was purged.
    pub(crate) fn last(&self) -> Option<EntryPlace> {
        let count = self.slots.len() as u64;
        self.slots.back().map(|slot| EntryPlace { term: slot.term, index: self.base + count - 1 }).or(self.purged)
    }

    /// Writes entries behind the last. Not durable before [`LogFiles::sync`].
    pub(crate) fn append(&mut self, entries: &[RawEntry]) -> Result<(), FileError> {
        let mut buffer = Vec::new();
        let mut slots = Vec::with_capacity(entries.len());
        for RawEntry { place, kind, payload } in entries {
            self.check_continues(place.index, slots.len() as u64, payload.len())?;
            let length = FRAME_HEADER_BYTES + payload.len();
            let active = self.active()?;
            let (end, next) = (active.end + buffer.len() as u64, active.next + slots.len() as u64);
            let full = next > active.first && end + length as u64 > self.file_bytes;
            if full || next != place.index {
                self.write(&mut buffer, &mut slots)?;
                self.roll(place.index)?;
            }
            let active = self.active()?;
            slots.push(Slot {
                file: active.first,
                at: active.end + buffer.len() as u64,
                bytes: length,
                term: place.term,
            });
            frame::put(&mut buffer, *kind, *place, active.synced, payload);
        }
        self.write(&mut buffer, &mut slots)
    }

    /// Notes how far is committed. Durable with the next sync; losing it costs a repeated commit, nothing more.
    pub(crate) fn save_committed(&mut self, committed: Option<EntryPlace>) -> Result<(), FileError> {
        if committed == self.committed {
            return Ok(());
        }
        self.committed = committed;
        let synced = self.active()?.synced;
        let mut buffer = Vec::new();
        if let Some(place) = committed {
            frame::put(&mut buffer, Kind::Committed, place, synced, &[]);
        }
        self.write(&mut buffer, &mut Vec::new())
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> Result<(), FileError> {
        let Some(mut active) = self.files.last_entry() else { return Ok(()) };
        let active = active.get_mut();
        if active.synced < active.end {
            active.file.sync_data().map_err(FileError::io(&active.path, "sync"))?;
            active.synced = active.end;
        }
        Ok(())
    }

    /// The entries of those indexes that there are, in order. Stops early, after at least one, once they have taken
    /// `bytes_max`.
    pub(crate) fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<RawEntry>, FileError> {
        let from = indexes.start.max(self.base) - self.base;
        let to = indexes.end.saturating_sub(self.base).min(self.slots.len() as u64);
        let mut entries = Vec::new();
        let mut taken = 0;
        for at in from..to.max(from) {
            let Some(slot) = self.slots.get(at as usize) else { break };
            if taken > 0 && taken + slot.bytes > bytes_max {
                break;
            }
            taken += slot.bytes;
            entries.push(self.read_one(slot, self.base + at)?);
        }
        Ok(entries)
    }

    /// Removes every entry behind that place. Durable when it returns.
    pub(crate) fn truncate_after(&mut self, keep: Option<EntryPlace>) -> Result<(), FileError> {
        let cut = keep.map_or(0, |place| place.index + 1).max(self.base);
        let kept = (cut - self.base) as usize;
        let Some(slot) = self.slots.get(kept).copied() else { return Ok(()) };
        // From the end, so that the log never has a hole.
        let later: Vec<u64> = self.files.range(slot.file + 1..).map(|(first, _)| *first).rev().collect();
        for first in later {
            self.remove(first)?;
        }
        self.sync_dir()?;
        if let Some(file) = self.files.get_mut(&slot.file) {
            file.file.set_len(slot.at).map_err(FileError::io(&file.path, "cut"))?;
            file.file.sync_data().map_err(FileError::io(&file.path, "sync"))?;
            (file.end, file.synced, file.next) = (slot.at, slot.at, cut);
        }
        self.slots.truncate(kept);
        // The mark may have been behind the cut.
        let committed = self.committed.take().min_by_index(self.last());
        self.save_committed(committed)?;
        self.sync()
    }

    /// Forgets every entry up to that place. Durable when it returns; the files go afterwards.
    pub(crate) fn purge(&mut self, to: EntryPlace) -> Result<(), FileError> {
        if self.purged.is_some_and(|purged| to.index <= purged.index) {
            return Ok(());
        }
        let body = serde_json::to_vec(&to).map_err(|error| FileError::damaged(&self.dir, error.to_string()))?;
        checked::write(&*self.disk, &self.dir, PURGED, &body)?;
        self.purged = Some(to);
        let next = to.index + 1;
        let gone = next.saturating_sub(self.base).min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.base = if self.slots.is_empty() { next } else { self.base + gone };
        if self.slots.is_empty() && self.active()?.first != next {
            self.start_file(next)?;
        }
        let firsts: Vec<u64> = self.files.keys().copied().collect();
        for pair in firsts.windows(2) {
            if pair[1] <= next {
                self.remove(pair[0])?;
            }
        }
        self.sync_dir()
    }

    /// Refuses an entry that would leave a hole or be read back as damage. `pending`: entries put before it, not written yet.
    fn check_continues(&mut self, index: u64, pending: u64, bytes: usize) -> Result<(), FileError> {
        let expected = match self.last() {
            Some(last) => last.index + 1 + pending,
            None if pending > 0 => self.base + pending,
            // The very first entry says where the log begins.
            None => {
                self.base = index;
                index
            }
        };
        if expected != index || bytes > PAYLOAD_BYTES_MAX {
            let text = format!(
                "entry {index} of {bytes} bytes, where {expected} of at most {PAYLOAD_BYTES_MAX} continues the log"
            );
            return Err(FileError::io(&self.dir, "append to")(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        Ok(())
    }

    fn active(&self) -> Result<Active, FileError> {
        let (first, file) =
            self.files.last_key_value().ok_or_else(|| FileError::damaged(&self.dir, "no log file is open"))?;
        Ok(Active { first: *first, end: file.end, synced: file.synced, next: file.next })
    }

    /// Closes the last file, durable, and goes on in a new one.
    fn roll(&mut self, index: u64) -> Result<(), FileError> {
        self.sync()?;
        let before = self.active()?;
        self.start_file(index)?;
        if before.next == before.first && before.first != index {
            self.remove(before.first)?;
        }
        Ok(())
    }

    /// Writes the frames at the end of the last file, and takes their places over.
    fn write(&mut self, buffer: &mut Vec<u8>, slots: &mut Vec<Slot>) -> Result<(), FileError> {
        if buffer.is_empty() {
            return Ok(());
        }
        if let Some(mut active) = self.files.last_entry() {
            let active = active.get_mut();
            active.file.write_at(&[IoSlice::new(buffer)], active.end).map_err(FileError::io(&active.path, "write"))?;
            active.end += buffer.len() as u64;
            active.next += slots.len() as u64;
        }
        buffer.clear();
        self.slots.extend(slots.drain(..));
        Ok(())
    }

    /// Makes the file whose first entry will have that index; durable, header, mark and name, before it is used.
    fn start_file(&mut self, first: u64) -> Result<(), FileError> {
        let before = self.last();
        let mut bytes = FileHeader { first, before }.encode();
        if let Some(committed) = self.committed {
            frame::put(&mut bytes, Kind::Committed, committed, FILE_HEADER_BYTES, &[]);
        }
        let file = self.write_whole(first, &bytes, first)?;
        self.files.insert(first, file);
        Ok(())
    }

    fn write_whole(&self, first: u64, bytes: &[u8], next: u64) -> Result<LogFile, FileError> {
        let path = self.dir.join(name(first));
        let beside = self.dir.join(format!("{}.tmp", name(first)));
        let file = replace_file(&*self.disk, &beside, &path, &[bytes], SyncScope::BytesAndName)?;
        let end = bytes.len() as u64;
        Ok(LogFile { file, path, end, synced: end, next })
    }

    fn remove(&mut self, first: u64) -> Result<(), FileError> {
        if let Some(file) = self.files.remove(&first) {
            self.disk.remove_file(&file.path).map_err(FileError::io(&file.path, "remove"))?;
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), FileError> {
        self.disk.sync_dir(&self.dir).map_err(FileError::io(&self.dir, "sync"))
    }

    fn read_one(&self, slot: &Slot, index: u64) -> Result<RawEntry, FileError> {
        let file = self.files.get(&slot.file).ok_or(FileError::Closed)?;
        let mut bytes = vec![0; slot.bytes];
        let read = file.file.read_at(&mut bytes, slot.at).map_err(FileError::io(&file.path, "read"))?;
        bytes.truncate(read);
        match frame::parse(&bytes, 0) {
            Some(frame) if frame.place == (EntryPlace { term: slot.term, index }) => {
                let payload = Bytes::from(bytes).slice(frame.payload);
                Ok(RawEntry { place: frame.place, kind: frame.kind, payload })
            }
            _ => Err(FileError::damaged(&file.path, format!("entry {index} at byte {} does not check", slot.at))),
        }
    }

    /// The log's files, by the index in their names.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>, FileError> {
        let paths = self.disk.read_dir(&self.dir).map_err(FileError::io(&self.dir, "list"))?;
        let first = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("log-")?.parse().ok();
        let mut found: Vec<(u64, PathBuf)> =
            paths.into_iter().filter_map(|path| first(&path).map(|first| (first, path))).collect();
        found.sort();
        Ok(found)
    }

    /// Reads one file at start. `next` is the index that the file before it leaves off at; returns where this one does.
    fn load(&mut self, first: u64, path: PathBuf, next: Option<u64>, last: bool) -> Result<u64, FileError> {
        let file = self.disk.open(&path, OpenMode::Write).map_err(FileError::io(&path, "open"))?;
        let len = file.len().map_err(FileError::io(&path, "measure"))?;
        // A file may pass its bound by one frame, and by marks; what is far longer was not written here.
        if len > self.file_bytes.max(1 << 30) {
            return Err(FileError::damaged(&path, format!("it has {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0).map_err(FileError::io(&path, "read"))?;
        bytes.truncate(read);
        let header = match FileHeader::decode(&bytes) {
            Ok(header) if header.first == first => header,
            Ok(header) => {
                return Err(FileError::damaged(&path, format!("its header says {}, its name {first}", header.first)));
            }
            Err(HeaderError::Damaged(what)) => return Err(FileError::damaged(&path, what)),
            Err(HeaderError::Newer(version)) => {
                return Err(FileError::Newer { path, version, newest: frame::FORMAT });
            }
        };
        // Everything up to the purge mark may be missing, nothing else.
        let purged_next = self.purged.map_or(0, |purged| purged.index + 1);
        let follows = match next {
            Some(next) => first == next || first <= purged_next,
            None => first <= purged_next || (self.purged.is_none() && header.before.is_none()),
        };
        if !follows {
            let missing = next.unwrap_or(purged_next);
            return Err(FileError::damaged(&path, format!("entries {missing}..{first} before it are missing")));
        }
        let found = scan(&bytes, first, &path, last)?;
        self.committed = found.committed.or(self.committed);
        let next = first + found.entries.len() as u64;
        for (place, at, length) in found.entries {
            if place.index < purged_next {
                continue;
            }
            if self.slots.is_empty() {
                self.base = place.index;
            }
            self.slots.push_back(Slot { file: first, at, bytes: length, term: place.term });
        }
        if self.slots.is_empty() {
            self.base = purged_next.max(if self.purged.is_none() { next } else { 0 });
        }
        if last {
            bytes.truncate(found.end);
            self.unsettled = bytes;
        }
        self.files.insert(first, LogFile { file, path, end: len, synced: len, next });
        Ok(next)
    }
}

fn scan(bytes: &[u8], first: u64, path: &Path, last: bool) -> Result<Found, FileError> {
    let mut found = Found { entries: Vec::new(), committed: None, end: FILE_HEADER_BYTES as usize };
    let mut next = first;
    while found.end < bytes.len() {
        let at = found.end;
        let Some(frame) = frame::parse(bytes, at) else {
            if !last || frame::durable_end_after(bytes, at) > at as u64 {
                let what = format!("the entry at byte {at} (index {next}) does not check, though it had been synced");
                return Err(FileError::damaged(path, what));
            }
            return Ok(found);
        };
        if frame.kind == Kind::Committed {
            found.committed = Some(frame.place);
        } else {
            if frame.place.index != next {
                let what = format!("entry {} at byte {at} stands where {next} should", frame.place.index);
                return Err(FileError::damaged(path, what));
            }
            found.entries.push((frame.place, at as u64, frame.end() - at));
            next += 1;
        }
        found.end = frame.end();
    }
    Ok(found)
}

fn name(first: u64) -> String {
    format!("log-{first:020}")
}

trait MinByIndex {
    /// The one that is less far on; none if either is.
    fn min_by_index(self, other: Self) -> Self;
}

impl MinByIndex for Option<EntryPlace> {
    fn min_by_index(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(if a.index <= b.index { a } else { b }),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "log_files_tests.rs"]
mod tests;
