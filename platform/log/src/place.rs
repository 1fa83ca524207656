//! Where a log's files are, and whether what is there is the log's.

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_env::Disk;

use crate::{LogId, made::Noted};

/// A log's place in a data directory. Its files are opened by their names, and not all at once: what the names lead to may have
/// been exchanged since the start looked.
#[derive(Debug)]
pub(crate) struct Place {
    id: LogId,
    dir: PathBuf,
}

/// In a log's place is the directory of another one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the directory there is that of the log {of}, as its mark says: directories were exchanged under the running broker"
)]
struct Exchanged {
    of: LogId,
}

impl Place {
    /// The place of a log.
    pub(crate) fn new(data_dir: &Path, id: LogId) -> Self {
        Self { id, dir: data_dir.join(id.path()) }
    }

    /// Whose it is.
    pub(crate) fn id(&self) -> LogId {
        self.id
    }

    /// The log's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Refuses what is there if its mark says that it is another log's. A directory without a mark, or one of an earlier version, does
    /// not tell.
    ///
    /// To be asked before a file there is opened by its name to be written, or is replaced or removed: all would be another's. Costs the
    /// opening and reading of a small file.
    pub(crate) fn check(&self, disk: &dyn Disk) -> io::Result<()> {
        match Noted::of_dir(disk, &self.dir).other_than(self.id) {
            Some(of) => Err(io::Error::new(io::ErrorKind::InvalidData, Exchanged { of })),
            None => Ok(()),
        }
    }
}

/// Whether this is the error of [`Place::check`].
pub(crate) fn is_exchanged(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Exchanged>())
}
