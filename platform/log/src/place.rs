//! Where a log's files are, and whether what is there is the log's.

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_env::{Disk, Identity};
use parking_lot::Mutex;

use crate::{LogId, made::Noted};

/// A log's place in a data directory. Its files are opened by their names, and not all at once: what the names lead to may have
/// been exchanged since the start looked.
#[derive(Debug)]
pub(crate) struct Place {
    id: LogId,
    dir: PathBuf,
    /// The directory that was there when it was last known to be the log's; none: that it is there was never asked.
    seen: Mutex<Option<Identity>>,
}

/// In a log's place is the directory of another one.
#[derive(Debug, thiserror::Error)]
#[error("the directory there is {}: directories were exchanged under the running broker", other(.of.as_ref()))]
struct Exchanged {
    /// Whose it is, if its mark says so.
    of: Option<LogId>,
}

fn other(of: Option<&LogId>) -> String {
    of.map_or("not the one that was there".into(), |of| format!("that of the log {of}, as its mark says"))
}

impl Place {
    /// The place of a log.
    pub(crate) fn new(data_dir: &Path, id: LogId) -> Self {
        Self { id, dir: data_dir.join(id.path()), seen: Mutex::default() }
    }

    /// Whose it is.
    pub(crate) fn id(&self) -> LogId {
        self.id
    }

    /// The log's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Refuses what is there if it is not the directory that was there before, unless its mark says that it is this log's; or if it is seen
    /// for the first time, and its mark says that it is another's.
    ///
    /// To be asked before a file there is opened by its name to be written, or is replaced or removed: all would be another's. The mark alone
    /// does not do: a log that was not synced yet has none. Costs a `stat`, and the reading of a small file where the directory is not known.
    pub(crate) fn check(&self, disk: &dyn Disk) -> io::Result<()> {
        // Where there is nothing, who is about to open something finds out.
        let there = disk.identity(&self.dir).ok();
        let mut seen = self.seen.lock();
        if there.is_some() && there == *seen {
            return Ok(());
        }
        let noted = Noted::of_dir(disk, &self.dir);
        let of = noted.other_than(self.id);
        let is_strange = there.is_some() && seen.is_some() && noted.log.is_none();
        if of.is_some() || is_strange {
            return Err(io::Error::new(io::ErrorKind::InvalidData, Exchanged { of }));
        }
        *seen = there.or(*seen);
        Ok(())
    }
}

/// Whether this is the error of [`Place::check`].
pub(crate) fn is_exchanged(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Exchanged>())
}
