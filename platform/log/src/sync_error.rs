//! What it means to a log that the disk refused: it lacks something, and the same can be tried again; or nothing may be believed any more.

use std::{io, path::Path};

use millstream_env::{Disk, Lack, lack};

use crate::{StorageFailed, bytes_io::failing};

/// Why a sync did not go through.
pub(crate) enum SyncError {
    Lacking(Lack, StorageFailed),
    Failed(StorageFailed),
}

impl SyncError {
    /// What it is where nobody will try again.
    pub(crate) fn into_failure(self) -> StorageFailed {
        match self {
            Self::Lacking(_, failure) | Self::Failed(failure) => failure,
        }
    }
}

impl From<StorageFailed> for SyncError {
    fn from(failure: StorageFailed) -> Self {
        Self::Failed(failure)
    }
}

/// Turns an I/O error of anything but a segment's sync into what it means: the files beside the segments are replaced or
/// written over as a whole when it is tried again.
pub(crate) fn refused<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SyncError + 'a {
    move |error| match lack(&error) {
        Some(lack) => SyncError::Lacking(lack, failing(action, path)(error)),
        None => SyncError::Failed(failing(action, path)(error)),
    }
}

/// Makes the names in a directory durable: while logs are served, every sync of a directory is one of these.
///
/// # Errors
/// A lack of descriptors is told as such: the directory could not be opened, and nothing was lost. Any other is final, and told as
/// no lack, also where the sync failed for want of room: the next one may not tell again.
pub(crate) fn sync_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.sync_dir(dir).map_err(|error| match lack(&error) {
        Some(Lack::Room) => io::Error::other(error),
        Some(Lack::Descriptors) | None => error,
    })
}
