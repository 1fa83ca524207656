//! The disk: files read and written by position, and the line between written and durable.
//!
//! The calls block, as the system calls under them do. Callers that must not block use a loop of their own
//! ([`crate::Spawn::dedicated`]).

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

/// How a file is opened. All modes allow reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist; writing is refused.
    Read,
    /// The file must exist.
    Write,
    /// The file is made if it does not exist; what it holds is kept.
    Create,
    /// The file must not exist yet.
    CreateNew,
}

/// What a refused call lacked. Nothing is wrong then with what is on the disk, and the same call may succeed later: unless it
/// was a sync, after whose failure nothing is believed, whatever the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Space on the disk, within a quota, or below a limit on a file's length.
    Room,
    /// Descriptors of the process or of the system.
    Descriptors,
}

/// What a call lacked that failed with this error; none if it failed for another reason.
#[must_use]
pub fn lack(error: &io::Error) -> Option<Lack> {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    use rustix::io::Errno;
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Some(Lack::Room),
        // The standard library has no kinds for these.
        _ if [Errno::MFILE, Errno::NFILE].contains(&Errno::from_io_error(error)?) => Some(Lack::Descriptors),
        _ => None,
    }
}

/// The error of a call that is refused so that others have descriptors left: [`lack`] takes it for what it would be without any.
#[must_use]
pub fn no_descriptor() -> io::Error {
    rustix::io::Errno::MFILE.into()
}

/// Something is in a file's place that is none.
#[derive(Debug, thiserror::Error)]
#[error("{what} is there, and no plain file: move it away, and put back the file that was there")]
struct NotAFile {
    what: &'static str,
}

/// The error of a call on a path where there is something else than a plain file. Its kind is that of damage.
pub(crate) fn not_a_file(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, NotAFile { what })
}

/// Something is in a directory's place that is none.
#[derive(Debug, thiserror::Error)]
#[error("{} is {what}, and no directory", at.as_deref().map_or("it".into(), |at| at.display().to_string()))]
struct NotADirectory {
    /// Where it is, if not at the path itself.
    at: Option<PathBuf>,
    what: String,
    /// It is a link to where nothing is.
    leads_nowhere: bool,
}

/// The error of a call on a path where there is something else than a directory, or above it, `at`.
pub(crate) fn not_a_directory(at: Option<PathBuf>, what: String, leads_nowhere: bool) -> io::Error {
    io::Error::new(io::ErrorKind::NotADirectory, NotADirectory { at, what, leads_nowhere })
}

/// Whether a call failed since something is not what it must be: no plain file, or no directory.
#[must_use]
pub fn is_of_wrong_type(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory};
    let of_file = || error.get_ref().is_some_and(|inner| inner.is::<NotAFile>());
    matches!(error.kind(), IsADirectory | NotADirectory) || of_file()
}

/// What was there is not there any more.
#[derive(Debug, thiserror::Error)]
#[error("it has been removed, moved, or replaced by another")]
struct TakenAway;

/// The error where a path leads no more to what it led to.
#[must_use]
pub fn taken_away() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, TakenAway)
}

/// Whether this is the error of [`taken_away`].
#[must_use]
pub fn is_taken_away(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TakenAway>())
}

/// What an operator has to do about what this error says before the broker can go on, as a sentence's end; none where the
/// error alone does not tell.
#[must_use]
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    use io::ErrorKind::{IsADirectory, PermissionDenied, ReadOnlyFilesystem};
    use rustix::io::Errno;
    // Somebody may have said that this want of room is no lack that can be waited for.
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
    let error = inner.unwrap_or(error);
    if let Some(other) = error.get_ref().and_then(|inner| inner.downcast_ref::<NotADirectory>()) {
        return Some(match other.leads_nowhere {
            true => "mount or make what it leads to, or move it away",
            false => "move it away, and put back the directory if there was one",
        });
    }
    match (lack(error), error.kind()) {
        (Some(Lack::Room), _) => {
            Some("make room on the disk, or raise the quota or the limit on a file's length (ulimit -f)")
        }
        (Some(Lack::Descriptors), _) => Some("raise the limit on open files (ulimit -n)"),
        (None, ReadOnlyFilesystem) => Some(
            "find out from the kernel's log why the file system is read-only, have it checked (fsck), and mount it for writing",
        ),
        (None, IsADirectory) => Some("a directory is in the place of a file: move it away"),
        (None, io::ErrorKind::NotADirectory) => Some("something else is in the place of a directory: move it away"),
        (None, PermissionDenied) => Some("let the broker's user read and write there"),
        (None, _) => match Errno::from_io_error(error)? {
            Errno::IO | Errno::NODEV | Errno::NXIO | Errno::NOMEDIUM | Errno::STALE => Some(
                "see in the kernel's log what is wrong with the disk or the way to it, mend or replace it, and have the file system checked (fsck)",
            ),
            _ => None,
        },
    }
}

/// The error, and what is to be done about it where that is known.
#[must_use]
pub fn advised(error: &io::Error) -> String {
    remedy(error).map_or_else(|| error.to_string(), |remedy| format!("{error}; {remedy}"))
}

/// What may still be written on a file system, as far as it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories; `u64::MAX` where the file system makes them of the same room.
    pub files: u64,
    /// How large the whole file system is, bytes: what is written, what may be, and what it keeps for itself.
    pub total_bytes: u64,
}

/// Files and directories below one machine's root.
///
/// Nothing is durable until it is synced: a file's bytes by [`DiskFile::sync_data`], a name (created, renamed, removed)
/// by [`Disk::sync_dir`] of the directory that holds it. After a failed sync nothing that was written since the
/// last good one may be believed, even if it can be read.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file. Waits for nobody, whatever is there.
    ///
    /// # Errors
    /// The operating system's; `NotFound` and `AlreadyExists` as `mode` says. Where there is no plain file, one that
    /// [`is_of_wrong_type`].
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a directory and those above it, where missing.
    ///
    /// # Errors
    /// The operating system's; one that [`is_of_wrong_type`] and says what is there, where that is no directory.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The full paths of what a directory holds, sorted.
    ///
    /// # Errors
    /// The operating system's; `NotFound` if there is no such directory; one that [`is_of_wrong_type`] where something else is there,
    /// a link to nothing included.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Whether there is such a file or directory. A link to nothing is none.
    ///
    /// # Errors
    /// The operating system's, where it cannot tell.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Whether there is a symbolic link, wherever it leads.
    ///
    /// # Errors
    /// The operating system's, where it cannot tell.
    fn is_link(&self, path: &Path) -> io::Result<bool>;

    /// Which file or directory a path leads to: what is moved keeps it, what is put in its place has another. Not to be kept: it is of one
    /// run.
    ///
    /// # Errors
    /// The operating system's; `NotFound` where there is nothing.
    fn identity(&self, path: &Path) -> io::Result<Identity>;

    /// Renames a file or directory, replacing a file that has the new name.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. A large one can take most of a second: keep away from writers.
    ///
    /// # Errors
    /// The operating system's.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory that holds nothing.
    ///
    /// # Errors
    /// The operating system's; `DirectoryNotEmpty` if it holds something.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all below it.
    ///
    /// # Errors
    /// The operating system's.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable. It is opened for that, which takes a descriptor.
    ///
    /// # Errors
    /// The operating system's; afterwards none of the names since the last good call may be believed. But for
    /// [`Lack::Descriptors`]: it could not be opened, so nothing was synced, and nothing lost by that.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// What may still be written on the file system that holds a path, which must be there. Quotas and limits are not in it, and
    /// others may take it: only a call that has gone through was sure of its room.
    ///
    /// # Errors
    /// The operating system's.
    fn room(&self, path: &Path) -> io::Result<Room>;

    /// Keeps other users of the machine out of a directory (mode 0700). A simulated disk has no other users.
    ///
    /// # Errors
    /// The operating system's.
    fn make_private(&self, path: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, made where missing; held until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` if somebody else holds it; else the operating system's.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// Tells a file or directory from all others of its machine: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(pub(crate) u64, pub(crate) u64);

/// An exclusive lock on a file, released on drop.
pub trait DiskLock: Send + Sync {
    /// Whether a path leads to the locked file still: nobody has removed or moved it, or put another one in its place. Blocks.
    ///
    /// # Errors
    /// The operating system's, where it cannot tell.
    fn is_at(&self, path: &Path) -> io::Result<bool>;
}

/// An open file. Shared between threads; positions are explicit, so calls do not disturb each other.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `at`; fewer only at the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `parts`, one after the other, at `at`; the file grows as needed. Not durable yet.
    ///
    /// # Errors
    /// The operating system's; any prefix may then have been written. `StorageFull` when the disk is full.
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()>;

    /// Whether the file may grow to `len` bytes as far as limits on a file's length go (`RLIMIT_FSIZE`): where not, a write would fail
    /// with `FileTooLarge`. Says nothing of the disk's room.
    fn may_reach(&self, len: u64) -> bool {
        let _ = len;
        true
    }

    /// Makes the file's bytes and length durable (fdatasync).
    ///
    /// # Errors
    /// The operating system's: what was written since the last good call is lost or unknown.
    fn sync_data(&self) -> io::Result<()>;

    /// Brings the bytes of a range to the disk and waits for that, without what makes them durable: neither the file's length nor the
    /// disk's own cache is cared for. So a large sync can be done in pieces that let others have their turn.
    ///
    /// # Errors
    /// The operating system's, to be taken as a failed sync: the one that follows may not tell again.
    fn write_back(&self, at: u64, len: u64) -> io::Result<()>;

    /// The file's length, bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// The operating system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for the first `len` bytes without changing what is read; the file grows to `len`.
    ///
    /// # Errors
    /// `StorageFull` when the disk has no room; else the operating system's.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// Says that the bytes in the range will not be read again soon. A hint.
    fn forget(&self, at: u64, len: u64);

    /// The descriptor behind the file, for `sendfile`; none in simulation.
    fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn an_operator_is_told_what_to_do_where_the_error_tells() {
        let check = |errno: Errno, expected: &[&str]| {
            let told = remedy(&errno.into());
            assert_eq!(told.is_some(), !expected.is_empty(), "{errno}: {told:?}");
            for part in expected {
                assert!(told.unwrap_or_default().contains(part), "{errno}: {told:?}");
            }
        };
        check(Errno::ROFS, &["kernel's log", "fsck", "mount it for writing"]);
        check(Errno::IO, &["kernel's log", "mend or replace it", "fsck"]);
        check(Errno::NODEV, &["mend or replace it"]);
        check(Errno::NOSPC, &["make room"]);
        check(Errno::DQUOT, &["quota"]);
        check(Errno::FBIG, &["ulimit -f"]);
        check(Errno::MFILE, &["ulimit -n"]);
        check(Errno::ACCESS, &["the broker's user"]);
        check(Errno::INVAL, &[]);
        assert_eq!(remedy(&io::Error::other("by ourselves")), None);
        assert_eq!(remedy(&io::Error::other(io::Error::from(Errno::NOSPC))), remedy(&Errno::NOSPC.into()));
        let told = advised(&Errno::FBIG.into());
        assert!(told.starts_with("File too large") && told.contains("; make room"), "{told}");
    }
}
