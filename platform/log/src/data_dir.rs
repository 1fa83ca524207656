//! The data directory as a whole: its lock, its format and identity, and whether it was left in order.
//!
//! ```text
//! FORMAT, text, never changed once written:
//!   millstream data directory
//!   format 1
//!   id 01234567-89ab-4cde-8f01-23456789abcd
//! ```

use std::path::{Path, PathBuf};

use millstream_env::{Disk, DiskLock, Env};
use uuid::Uuid;

use crate::{
    OpenError, StorageFailed,
    bytes_io::{failing, read_file, replace_file},
    sync_error::sync_dir,
};

/// The newest format of data directories.
pub(crate) const FORMAT: u32 = 1;
/// The file that says that nothing has to be replayed.
pub(crate) const CLEAN: &str = "CLEAN";

const FORMAT_FILE: &str = "FORMAT";
pub(crate) const LOCK_FILE: &str = "LOCK";
/// What may lie in a directory that becomes ours: what an interrupted first start leaves, what a file system has at its root, and
/// a broker's identity and profile, which an operator may bring along.
const MAY_BE_THERE: [&str; 5] = [LOCK_FILE, "FORMAT.new", "lost+found", "tls", "client.json"];
const TITLE: &str = "millstream data directory";
/// A file that claims to be ours and is longer is not.
const FORMAT_BYTES_MAX: u64 = 4096;

/// A locked data directory.
pub(crate) struct DataDir {
    pub(crate) lock: Box<dyn DiskLock>,
    pub(crate) id: Uuid,
    pub(crate) created: bool,
    /// The last run has closed it.
    pub(crate) clean: bool,
    /// What has to be synced before anything is appended: what a killed process left to be read may not be durable yet.
    unsynced: Vec<PathBuf>,
}

/// Locks a data directory, makes it where it is missing, and reads what it says of itself. Of one that is there nothing changes.
pub(crate) fn open(dir: &Path, env: &Env) -> Result<DataDir, OpenError> {
    let disk = &*env.disk;
    // Looked at before the lock too: a directory of somebody else's, or of a later version, gets no LOCK file from us.
    match identify(disk, dir) {
        Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {}
        found => drop(found?),
    }
    let unsynced = make(disk, dir)?;
    let lock_path = dir.join(LOCK_FILE);
    let lock = disk.lock(&lock_path).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked { path: dir.to_owned() },
        _ => OpenError::Io { action: "lock", path: lock_path.clone(), source },
    })?;
    let (id, created) = match identify(disk, dir)? {
        Some(id) => (id, false),
        None => (create(dir, env)?, true),
    };
    let clean_path = dir.join(CLEAN);
    let clean = disk.exists(&clean_path).map_err(io("look for", &clean_path))?;
    Ok(DataDir { lock, id, created, clean, unsynced })
}

impl DataDir {
    /// Makes durable that the directory is in use from here on: whatever becomes of it, it was not left in order.
    pub(crate) fn begin(&self, disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
        if self.clean {
            let path = dir.join(CLEAN);
            disk.remove_file(&path).map_err(io("remove", &path))?;
        }
        for changed in &self.unsynced {
            match disk.sync_dir(changed) {
                // What is above need not be ours to open.
                Err(error) if changed != dir && error.kind() == std::io::ErrorKind::PermissionDenied => {
                    tracing::warn!(path = %changed.display(), %error, "cannot be synced: a new directory in it may be lost");
                }
                outcome => outcome.map_err(io("sync", changed))?,
            }
        }
        Ok(())
    }
}

/// Notes, durably, that the directory was left in order.
pub(crate) fn close(disk: &dyn Disk, dir: &Path) -> Result<(), StorageFailed> {
    let path = dir.join(CLEAN);
    replace_file(disk, &path, &[b""], true).map_err(failing("write", &path))?;
    sync_dir(disk, dir).map_err(failing("sync", dir))
}

/// What a directory says of itself; none if it says nothing, and may become ours.
fn identify(disk: &dyn Disk, dir: &Path) -> Result<Option<Uuid>, OpenError> {
    let path = dir.join(FORMAT_FILE);
    if let Some(text) = read_file(disk, &path, FORMAT_BYTES_MAX).map_err(io("read", &path))? {
        return parse(&path, &text).map(Some);
    }
    for name in ["journal", "logs"] {
        if disk.exists(&dir.join(name)).map_err(io("look for", &dir.join(name)))? {
            return Err(OpenError::NotOurs {
                path: dir.to_owned(),
                reason: "it has journal/ or logs/, but no FORMAT file".into(),
            });
        }
    }
    // A directory of somebody else's that was named by mistake: among their files, ours would be hard to tell.
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let others = list(disk, dir)?.iter().map(name).filter(|name| !MAY_BE_THERE.contains(&name.as_str())).min();
    match others {
        Some(other) => Err(OpenError::NotOurs {
            path: dir.to_owned(),
            reason: format!(
                "it has no FORMAT file, and holds other things ({other}): choose an empty or a new directory"
            ),
        }),
        None => Ok(None),
    }
}

fn create(dir: &Path, env: &Env) -> Result<Uuid, OpenError> {
    let path = dir.join(FORMAT_FILE);
    let id = uuid::Builder::from_random_bytes(env.rng.next_u128().to_be_bytes()).into_uuid();
    let text = format!("{TITLE}\nformat {FORMAT}\nid {id}\n");
    replace_file(&*env.disk, &path, &[text.as_bytes()], true).map_err(io("write", &path))?;
    Ok(id)
}

/// Makes a directory where it is missing; gives it, the one above it, and those whose entries are new: to be synced.
fn make(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut changed = vec![dir.to_owned()];
    for above in dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        let below = &changed[changed.len() - 1];
        if changed.len() > 1 && disk.exists(below).map_err(io("look for", below))? {
            break;
        }
        changed.push(above.to_owned());
    }
    disk.create_dir_all(dir).map_err(io("make", dir))?;
    Ok(changed)
}

fn parse(path: &Path, text: &[u8]) -> Result<Uuid, OpenError> {
    let damaged = || OpenError::Damaged { path: path.to_owned(), reason: "it does not say what it must".into() };
    let text = std::str::from_utf8(text).map_err(|_| damaged())?;
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err(damaged());
    }
    let format = lines.next().and_then(|line| line.strip_prefix("format ")).and_then(|format| format.parse().ok());
    match format {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT }),
        _ => return Err(damaged()),
    }
    lines.next().and_then(|line| line.strip_prefix("id ")).and_then(|id| id.parse().ok()).ok_or_else(damaged)
}

/// Puts what was being done into an I/O error.
pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

/// The paths in a directory; none if there is no such directory.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    match disk.read_dir(dir) {
        Ok(paths) => Ok(paths),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io("list", dir)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use millstream_env::sim::World;
    use millstream_model::{LeaderEpoch, PartitionId, TimestampMs, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};

    use super::*;
    use crate::{AppendError, Appended, Ended, LogId, LogOptions, PartitionLog, Storage, StorageOptions, told};

    fn append(log: &Arc<PartitionLog>) -> Result<Appended, AppendError> {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(b"value"), &[]).unwrap();
        log.append(builder.build().unwrap(), LeaderEpoch(1))
    }

    /// It acknowledged what went to files that nobody could find after it ended.
    #[test]
    fn a_data_directory_that_is_taken_away_is_told_of_and_nothing_is_acknowledged_any_more() {
        let remove = |disk: &dyn Disk| disk.remove_dir_all(Path::new("/data"));
        let replace = |disk: &dyn Disk| {
            disk.rename(Path::new("/data"), Path::new("/moved"))?;
            disk.create_dir_all(Path::new("/data"))?;
            disk.open(Path::new("/data/LOCK"), millstream_env::OpenMode::Create).map(drop)
        };
        let journal = |disk: &dyn Disk| disk.remove_dir_all(Path::new("/data/journal"));
        let emptied = |disk: &dyn Disk| {
            let files = disk.read_dir(Path::new("/data/journal"))?;
            files.iter().try_for_each(|file| disk.remove_file(file))
        };
        let logs = |disk: &dyn Disk| disk.rename(Path::new("/data/logs"), Path::new("/moved-logs"));
        let watched = |disk: &dyn Disk| disk.remove_file(Path::new("/data/catalog/LOCK"));
        let copied = |disk: &dyn Disk| {
            disk.rename(Path::new("/data/catalog"), Path::new("/moved-catalog"))?;
            disk.create_dir_all(Path::new("/data/catalog"))?;
            disk.open(Path::new("/data/catalog/LOCK"), millstream_env::OpenMode::Create).map(drop)
        };
        for (name, take_away) in [
            ("removed", &remove as &dyn Fn(&dyn Disk) -> std::io::Result<()>),
            ("replaced", &replace),
            ("journal", &journal),
            ("emptied", &emptied),
            ("logs", &logs),
            ("watched", &watched),
            ("copied", &copied),
        ] {
            let (world, told) = (World::new(1), told::LevelsTold::by("::journal"));
            tracing::subscriber::with_default(told.clone(), || {
                let storage = Storage::open(StorageOptions::new("/data"), world.env()).unwrap().0;
                world.disk().create_dir_all(Path::new("/data/catalog")).unwrap();
                world.disk().open(Path::new("/data/catalog/LOCK"), millstream_env::OpenMode::Create).unwrap();
                storage.watch(if name == "copied" { "/data/catalog" } else { "/data/catalog/LOCK" });
                let log =
                    storage.open_log(LogId::records(TopicId::NIL, PartitionId(0)), LogOptions::default()).unwrap();
                world.run_for(Duration::from_secs(10));
                world.run_until(append(&log).unwrap().ticket).unwrap();
                take_away(world.disk()).unwrap();
                world.run_for(Duration::from_secs(2));
                let refused = append(&log).err();
                let Some(AppendError::Ended(Ended::Failed(failed))) = refused else { panic!("{name}: {refused:?}") };
                let failed = failed.to_string();
                assert!(failed.contains("put back the data directory") && !failed.contains("is safe"), "{failed}");
                assert_eq!(told.times(tracing::Level::ERROR), 1, "{name}");
            });
        }
    }
}
