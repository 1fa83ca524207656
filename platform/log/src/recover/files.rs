//! The files of the journal's directory at a start: which are replayed, which are spare, and the one to go on with.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_env::{Disk, OpenMode, lack};

use super::failed;
use crate::{
    OpenError,
    data_dir::{io, list},
    journal::Journal,
    journal_file::{self, FileHeader, Named, ReadyFile},
    ring::{files_max, make_spare},
};

/// The files of the journal's directory.
pub(super) struct JournalFiles {
    /// By number.
    pub(super) used: Vec<(u64, PathBuf)>,
    spares: Vec<PathBuf>,
}

impl JournalFiles {
    pub(super) fn list(journal: &Journal) -> Result<Self, OpenError> {
        let (mut used, mut spares) = (Vec::new(), Vec::new());
        for path in list(&*journal.disk, &journal.dir())? {
            match journal_file::classify(&path) {
                Named::Journal(sequence) => used.push((sequence, path)),
                Named::Spare => spares.push(path),
                Named::Other => tracing::warn!(path = %path.display(), "not a journal file; left alone"),
            }
        }
        used.sort();
        Ok(Self { used, spares })
    }

    /// Checks that the files are there which the note names; `logs`: whether there are any. What a note of an older version
    /// does not tell is not asked for, but for there being a journal at all.
    pub(super) fn check_whole(&self, journal: &Journal, logs: bool) -> Result<(), OpenError> {
        let there: HashSet<u64> = self.used.iter().map(|(sequence, _)| *sequence).collect();
        let missing = match journal.needed() {
            Some(mut files) => files.find(|sequence| !there.contains(sequence)),
            None => (logs && there.is_empty()).then_some(1),
        };
        match missing {
            Some(sequence) => Err(OpenError::JournalMissing { path: journal.dir().join(journal_file::name(sequence)) }),
            None => Ok(()),
        }
    }

    /// Makes a fresh file ready, then takes the names of the old ones, whose frames are all in synced segments.
    pub(super) fn start_afresh(mut self, journal: &Arc<Journal>) -> Result<ReadyFile, OpenError> {
        let disk = &*journal.disk;
        // What is a spare by name now must be one after a power cut, before it is written to.
        disk.sync_dir(&journal.dir()).map_err(io("sync", &journal.dir()))?;
        let mut uses = HashSet::new();
        for (_, path) in &self.used {
            uses.extend(header_of(disk, path)?.map(|header| header.nonce));
        }
        let mut spares = Vec::new();
        let numbers: Vec<u64> = self.spares.iter().filter_map(|path| journal_file::spare_number(path)).collect();
        for path in self.spares.drain(..) {
            // One whose length is another (the option has changed) or that was never finished is of no use. Nor is one that
            // tells of a use that is known by another name: a rename cut in two leaves two names for one file.
            let header = header_of(disk, &path)?;
            let fits = header.is_some_and(|header| {
                header.file_bytes == journal.options.journal_file_bytes && uses.insert(header.nonce)
            });
            if fits && spares.len() as u64 + 2 <= files_max(&journal.options) {
                spares.push(path);
            } else {
                disk.remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        // Also past the spares' numbers, which a file that is recycled later must not take.
        let last = self.used.iter().map(|(sequence, _)| *sequence).chain(numbers).max();
        let sequence = last.map_or(1, |last| last + 1);
        let header = journal.next_header(sequence);
        let prepare = |spare: Option<PathBuf>| journal_file::prepare(disk, &journal.dir(), spare.as_deref(), header);
        let spare = spares.pop();
        let fresh = spare.is_none();
        let active = match prepare(spare) {
            Err(error) if fresh && lack(&error).is_some() && !self.used.is_empty() => {
                // All that the old files tell is in synced segments: one of them serves again. Until it does, none is needed.
                self.make_spares(journal, &mut spares)?;
                prepare(spares.pop())
            }
            prepared => prepared,
        };
        let active = active.map_err(io("prepare", &journal.dir()))?;
        disk.sync_dir(&journal.dir()).map_err(io("sync", &journal.dir()))?;
        journal.need(sequence..sequence + 1).map_err(failed)?;
        self.make_spares(journal, &mut spares)?;
        journal.ring().begin(sequence, spares);
        Ok(active)
    }

    /// Takes the names of the old files, which are spares then or go.
    fn make_spares(&mut self, journal: &Arc<Journal>, spares: &mut Vec<PathBuf>) -> Result<(), OpenError> {
        let disk = &*journal.disk;
        for (sequence, mut path) in self.used.drain(..) {
            let same =
                header_of(disk, &path)?.is_some_and(|header| header.file_bytes == journal.options.journal_file_bytes);
            make_spare(journal, &mut path, sequence).map_err(|error| failed(error.into_failure()))?;
            if same && spares.len() as u64 + 2 <= files_max(&journal.options) {
                spares.push(path);
            } else {
                disk.remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// A journal file's or spare's header, if it is sound.
fn header_of(disk: &dyn Disk, path: &Path) -> Result<Option<FileHeader>, OpenError> {
    let file = disk.open(path, OpenMode::Read).map_err(io("open", path))?;
    let mut bytes = [0; 64];
    let read = file.read_at(&mut bytes, 0).map_err(io("read", path))?;
    let len = file.len().map_err(io("measure", path))?;
    let header = FileHeader::decode(&bytes[..read]).ok();
    Ok(header.filter(|header| header.file_bytes == len))
}
