//! The catalog's own files: the agreed log, and small checked files (vote, purge mark, snapshot).
//!
//! # On disk
//!
//! ```text
//! catalog/
//!   LOCK                        held while the catalog is open
//!   vote                        checked file: the Raft vote, JSON
//!   purged                      checked file: the log id up to which entries were deleted, JSON
//!   snapshot                    checked file: applied log id, membership and state, JSON
//!   log-00000000000000000000    entries from that index on, see `frame`
//!   log-00000000000000004711
//!   view/                       sled, rebuildable (see `projection`)
//!   *.tmp                       half-made files of an interrupted run: deleted at start
//! ```
//!
//! A *checked file* is replaced whole: written beside under another name, synced, renamed, and the directory synced. So it
//! is the old one or the new one, never a mixture; anything else in it is damage, and the catalog refuses to start.

pub(crate) mod checked;
pub(crate) mod frame;
pub(crate) mod log_files;

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_env::{Disk, Lack, ReplaceError, advised, lack};

/// Why the catalog's files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {}", path.display(), advised(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done: `open`, `write`, `sync`, ...
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What the file holds is not what was written. Nothing was changed: guessing would lose agreed metadata.
    #[error(
        "{} is damaged: {what}. The catalog does not start on damaged files; restore this data directory from a copy, or start with an empty one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// Written by a newer build.
    #[error("{} has format {version}, newer than this build's {newest}: run the newer millstream", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
        /// What this build reads.
        newest: u32,
    },
    /// An earlier write or sync failed: nothing that was written since the last good sync may be believed.
    #[error("the catalog's files failed earlier ({0}): restart the broker once the disk is well")]
    Failed(String),
    /// The I/O loop has ended.
    #[error("the catalog has been closed")]
    Closed,
}

impl From<ReplaceError> for FileError {
    fn from(ReplaceError { step, path, source }: ReplaceError) -> Self {
        Self::Io { path, doing: step, source }
    }
}

impl FileError {
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), doing, source }
    }

    /// What the operating system lacked, if that is why.
    pub(crate) fn lack(&self) -> Option<Lack> {
        match self {
            Self::Io { source, .. } => lack(source),
            _ => None,
        }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        let kind = match &error {
            FileError::Io { source, .. } => source.kind(),
            FileError::Damaged { .. } | FileError::Newer { .. } => io::ErrorKind::InvalidData,
            FileError::Failed(_) | FileError::Closed => io::ErrorKind::Other,
        };
        io::Error::new(kind, error.to_string())
    }
}

/// Makes a directory with those above it, where missing. Its name is durable when it returns, whoever made it.
///
/// A directory that was made and whose name could not be synced is removed again, so that the next start does not find it and
/// believe in it.
pub(crate) fn make_dir(disk: &dyn Disk, dir: &Path) -> Result<(), FileError> {
    let mut missing = Vec::new();
    for part in dir.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        if disk.exists(part).map_err(FileError::io(part, "look for"))? {
            break;
        }
        missing.push(part);
    }
    disk.create_dir_all(dir).map_err(FileError::io(dir, "create"))?;
    // From the top; the last one's name is synced even if it was there: an earlier run may have been killed before.
    let made = missing.iter().rev().copied();
    for part in made.chain(missing.is_empty().then_some(dir)) {
        let Some(above) = part.parent() else { continue };
        // A path without a parent of its own is below the working directory.
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        if let Err(error) = disk.sync_dir(above) {
            if let Some(topmost) = missing.last() {
                // Best effort: the error below is what counts.
                let _ = disk.remove_dir_all(topmost);
            }
            return Err(FileError::io(above, "sync")(error));
        }
    }
    Ok(())
}

/// CRC-32C, as everywhere in Millstream.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

/// The four bytes at `at`, little-endian; 0 where there are none.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The eight bytes at `at`, little-endian; 0 where there are none.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}
