//! The trash: directories of deleted logs and segments below the starts of logs are moved there, durably, and removed in steps.

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_env::{Disk, OpenMode, advised, is_of_wrong_type, lack};

use crate::{
    LogId, PartitionLog, StorageFailed,
    bytes_io::{failing, missing_is_fine},
    held,
    journal::Journal,
    made::Noted,
    place::is_exchanged,
    snapshot,
    state::Part,
    sync_error::sync_dir,
};

/// How much of a deleted file is given back to the file system at once, bytes: all of a large one takes most of a second.
const REAP_STEP_BYTES: u64 = 64 << 20;

impl PartitionLog {
    /// Moves the files of segments below a start that is durable into `trash`. Only the loop that syncs calls this. What
    /// cannot be moved for want of something is retired again.
    pub(crate) fn clear_away(&self, retired: Vec<Part>) -> Result<(), StorageFailed> {
        if retired.is_empty() {
            return Ok(());
        }
        match self.move_to_trash(&retired) {
            Err(error) if lack(&error).is_some() => {
                self.state().retired.splice(..0, retired);
                Ok(())
            }
            outcome => outcome.map_err(failing("remove", self.dir())),
        }
    }

    /// Moves the files of segments away, durably.
    pub(crate) fn move_to_trash(&self, retired: &[Part]) -> io::Result<()> {
        let disk = self.disk();
        self.its_place().check(disk)?;
        let trash = self.journal().options.dir.join("trash").join(format!("{:016x}", self.journal().rng.next_u64()));
        disk.create_dir_all(&trash)?;
        for part in retired {
            // A reader that has it open goes on with it.
            part.segment.handle.release();
            // The index first: no index stays behind without its segment.
            missing_is_fine(disk.remove_file(&part.segment.index_path()))?;
            if !self.state().names_snapshot(part.segment.base) {
                missing_is_fine(disk.remove_file(&snapshot::path(self.dir(), part.segment.base)))?;
            }
            let name = part.segment.path.file_name().unwrap_or_default();
            while let Err(error) = disk.rename(&part.segment.path, &trash.join(name)) {
                // Who clears the trash takes directories away that hold nothing yet; that is not the segment's being gone.
                if error.kind() == io::ErrorKind::NotFound && !disk.exists(&trash)? {
                    disk.create_dir_all(&trash)?;
                    continue;
                }
                missing_is_fine(Err(error))?;
                break;
            }
        }
        // Before they are shrunk there: a name that comes back must not name less than it did.
        sync_dir(disk, self.dir())
    }

    /// Moves a deleted log's directory out of the way, durably. What is in `trash` is removed in steps.
    pub(crate) fn discard(&self, name: &str) -> io::Result<()> {
        let journal = self.journal();
        match self.its_place().check(&*journal.last_disk) {
            Err(error) if is_exchanged(&error) => {
                let path = self.dir().display();
                tracing::warn!(log = %self.id(), %path, "it was deleted, and what is in its place is kept: {error}");
                return Ok(());
            }
            checked => checked?,
        }
        // It makes room.
        held::remove_aside(&*journal.last_disk, &journal.options.dir, self.id())?;
        discard(&*journal.last_disk, self.id(), self.dir(), &journal.options.dir.join("trash"), name)
    }
}

/// Renames a log's directory into `trash`, or what is in its place, and makes durable that it is gone. Where something else is in the
/// place of a directory above it, nothing is there of the log; and where its mark says that it is another log's, it is left alone.
pub(crate) fn discard(disk: &dyn Disk, id: LogId, dir: &Path, trash: &Path, name: &str) -> io::Result<()> {
    if let Some(of) = Noted::of_dir(disk, dir).other_than(id) {
        tracing::warn!(log = %id, path = %dir.display(), "it was deleted, and its directory is kept, which holds the log {of}");
        return Ok(());
    }
    let in_the_way = |error: &io::Error| is_of_wrong_type(error);
    let is_there = match disk.exists(dir) {
        Ok(false) => disk.is_link(dir),
        found => found,
    };
    match is_there {
        Ok(true) => {
            disk.create_dir_all(trash)?;
            disk.rename(dir, &trash.join(name))?;
        }
        Ok(false) => {}
        Err(error) if in_the_way(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    // Also where it is gone already: a killed process may have left that undone.
    match dir.parent() {
        Some(parent) if disk.exists(parent)? => match sync_dir(disk, parent) {
            Err(error) if in_the_way(&error) => Ok(()),
            synced => synced,
        },
        _ => Ok(()),
    }
}

/// Removes the directories above a log that is gone, PARTITION and TOPIC, where they hold nothing else. What stays is harmless.
pub(crate) fn remove_empty_dirs(disk: &dyn Disk, log_dir: &Path) {
    for dir in log_dir.ancestors().skip(1).take(2) {
        if disk.remove_dir(dir).is_err() {
            return;
        }
    }
}

/// Clears the trash, and says so where it cannot: it would fill the disk.
#[derive(Default)]
pub(crate) struct Reaper {
    /// The first that could not be removed when that was last tried, and has been told.
    refused: Option<PathBuf>,
}

impl Reaper {
    /// Removes one piece of what is in the trash, whatever that is. Whether there is more that can be removed now.
    pub(crate) fn step(&mut self, journal: &Journal) -> bool {
        let (more, refused) = reap(journal);
        match &refused {
            Some((path, error)) if self.refused.as_ref() != Some(path) => {
                tracing::warn!(path = %path.display(), error = %advised(error), "what was deleted keeps its room: it cannot be removed");
            }
            _ => {}
        }
        self.refused = refused.map(|(path, _)| path);
        more
    }

    /// Whether something could not be removed when that was last tried.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }
}

/// Something that cannot be removed, and why.
type Refusal = (PathBuf, io::Error);

/// See [`Reaper::step`]. Also the first that was met and could not be removed: it keeps nothing else.
fn reap(journal: &Journal) -> (bool, Option<Refusal>) {
    let disk = &*journal.disk;
    let trash = journal.options.dir.join("trash");
    let mut refused = None;
    let entries = match disk.read_dir(&trash) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (false, None),
        Err(error) => return (false, Some((trash, error))),
        Ok(entries) => entries,
    };
    for entry in entries {
        match reap_entry(disk, &entry) {
            Ok(()) => return (true, refused),
            Err(refusal) => drop(refused.get_or_insert(refusal)),
        }
    }
    (false, refused)
}

/// Removes one piece of something in the trash: mostly the directory of a log, or one of segments.
fn reap_entry(disk: &dyn Disk, entry: &Path) -> Result<(), Refusal> {
    fn of(path: &Path) -> impl FnOnce(io::Error) -> Refusal {
        |error| (path.to_owned(), error)
    }
    if disk.is_link(entry).map_err(of(entry))? {
        return reap_file(disk, entry).map_err(of(entry));
    }
    let within = match disk.read_dir(entry) {
        Err(error) if is_of_wrong_type(&error) => return reap_file(disk, entry).map_err(of(entry)),
        listed => listed.map_err(of(entry))?,
    };
    let mut first = None;
    for path in &within {
        match reap_file(disk, path) {
            Ok(()) => return Ok(()),
            Err(error) => drop(first.get_or_insert(of(path)(error))),
        }
    }
    match first {
        Some(refusal) => Err(refusal),
        None => disk.remove_dir_all(entry).map_err(of(entry)),
    }
}

/// Removes a file, or a part of a large one. Of a link only itself goes: nobody has deleted what it leads to. A foreign directory goes
/// as a whole.
fn reap_file(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.is_link(path)? {
        return disk.remove_file(path);
    }
    let file = match disk.open(path, OpenMode::Write) {
        Err(error) if is_of_wrong_type(&error) => {
            return match disk.read_dir(path) {
                Ok(_) => disk.remove_dir_all(path),
                // A FIFO, or a device.
                Err(_) => disk.remove_file(path),
            };
        }
        file => file?,
    };
    match file.len()?.checked_sub(REAP_STEP_BYTES) {
        Some(rest) if rest > 0 => file.set_len(rest),
        _ => disk.remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::{
        OpenMode,
        sim::{DiskOperation, Fault, World},
    };
    use tracing::Level;
    use uuid::Uuid;

    use super::*;
    use crate::{StorageOptions, told::LevelsTold};

    #[test]
    fn trash_that_cannot_be_removed_is_told_of_once() {
        let world = World::new(1);
        let disk = world.disk();
        let journal = Journal::new(StorageOptions::new("/data"), &world.env(), Uuid::nil());
        let paths = ["a", "b", "c"].map(|name| PathBuf::from(format!("/data/trash/{name}/0.log")));
        for path in &paths {
            disk.create_dir_all(path.parent().unwrap()).unwrap();
            disk.open(path, OpenMode::Create).unwrap();
        }
        let told = LevelsTold::by("::trash");
        let mut reaper = Reaper::default();
        tracing::subscriber::with_default(told.clone(), || {
            disk.inject(Fault::nth(DiskOperation::Names, 1).on("/trash").for_good());
            for _ in 0..3 {
                assert!(!reaper.step(&journal), "nothing can be done now");
                assert_eq!(reaper.refused.as_ref(), Some(&paths[0]));
                assert_eq!(told.times(Level::WARN), 1);
            }
            let left = || disk.read_dir(Path::new("/data/trash")).unwrap().len();
            // It is another's turn to be in the way, of itself alone.
            disk.clear_faults();
            disk.inject(Fault::nth(DiskOperation::Names, 1).on("/trash/b").for_good());
            while reaper.step(&journal) {}
            assert!(!reaper.step(&journal));
            assert_eq!((reaper.refused.as_ref(), left()), (Some(&paths[1]), 1));
            assert_eq!(told.times(Level::WARN), 2);
            disk.clear_faults();
            while reaper.step(&journal) {}
            assert_eq!(reaper.refused, None);
            assert_eq!(told.times(Level::WARN), 2);
        });
        assert!(disk.read_dir(Path::new("/data/trash")).unwrap().is_empty());
    }
}
