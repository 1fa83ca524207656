//! Small files that are read and replaced as a whole.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{Disk, DiskFile, OpenMode};

/// How much of a replaced file is synced, by what a power cut leaves then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncScope {
    /// The file before, or the new one, or one that holds nothing sound.
    Nothing,
    /// The file before, or the new one: which, is settled once the directory is synced.
    Bytes,
    /// The new one.
    BytesAndName,
}

/// Why a file was not replaced. It may have been, if it was the directory that could not be synced.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct ReplaceError {
    /// What was attempted.
    pub step: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What went wrong.
    pub source: io::Error,
}

impl From<ReplaceError> for io::Error {
    fn from(error: ReplaceError) -> Self {
        error.source
    }
}

/// Replaces `path` by what `parts` are one after the other: written to `beside`, in the same directory, which is then renamed. A
/// process that is killed leaves the file before or the new one, and maybe `beside`.
///
/// # Errors
/// [`ReplaceError`] has the operating system's.
pub fn replace_file(
    disk: &dyn Disk,
    beside: &Path,
    path: &Path,
    parts: &[&[u8]],
    scope: SyncScope,
) -> Result<Arc<dyn DiskFile>, ReplaceError> {
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| ReplaceError { step, path, source }
    };
    if scope == SyncScope::Nothing {
        // One that was left there may be sound and durable, and would come back where what is written over it is not.
        match disk.remove_file(beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", beside)(error)),
            _ => {}
        }
    }
    let file = disk.open(beside, OpenMode::Create).map_err(failed("create", beside))?;
    file.set_len(0).map_err(failed("empty", beside))?;
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(&slices, 0).map_err(failed("write", beside))?;
    if scope != SyncScope::Nothing {
        file.sync_data().map_err(failed("sync", beside))?;
    }
    disk.rename(beside, path).map_err(failed("rename into", path))?;
    if scope == SyncScope::BytesAndName {
        let dir = path.parent().unwrap_or(path);
        disk.sync_dir(dir).map_err(failed("sync", dir))?;
    }
    Ok(file)
}

/// Reads a file whole; none if there is none. One of more than `bytes_max` is invalid data, and nothing is allocated for it.
///
/// # Errors
/// The operating system's.
pub fn read_file(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes are more than it may have")));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    fn replace(disk: &SimDisk, bytes: &[u8], scope: SyncScope) {
        replace_file(disk, Path::new("/file.new"), Path::new("/file"), &[bytes], scope).unwrap();
    }

    fn read(disk: &SimDisk) -> Option<Vec<u8>> {
        read_file(disk, Path::new("/file"), 10).unwrap()
    }

    #[test]
    fn a_power_cut_leaves_as_much_as_was_asked_to_be_durable() {
        for scope in [SyncScope::Nothing, SyncScope::Bytes, SyncScope::BytesAndName] {
            let disk = SimDisk::new(1);
            replace(&disk, b"old, long", SyncScope::BytesAndName);
            replace(&disk, b"new", scope);
            assert_eq!(read(&disk).unwrap(), b"new", "{scope:?}");
            disk.crash_losing_all();
            let expected: &[u8] = if scope == SyncScope::BytesAndName { b"new" } else { b"old, long" };
            assert_eq!(read(&disk).unwrap(), expected, "{scope:?}");
        }
        let disk = SimDisk::new(1);
        replace(&disk, b"new", SyncScope::Bytes);
        disk.sync_dir(Path::new("/")).unwrap();
        disk.crash_losing_all();
        assert_eq!(read(&disk).unwrap(), b"new");
    }

    #[test]
    fn what_was_left_beside_does_not_come_back_in_place_of_what_is_not_durable() {
        let disk = SimDisk::new(1);
        let left = disk.open(Path::new("/file.new"), OpenMode::Create).unwrap();
        left.write_at(&[IoSlice::new(b"old")], 0).unwrap();
        left.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        drop(left);
        replace(&disk, b"new", SyncScope::Nothing);
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(read(&disk).unwrap(), b"new");
        disk.crash_losing_all();
        assert_ne!(read(&disk).unwrap_or_default(), b"old");
    }

    #[test]
    fn what_is_not_there_or_too_long_is_not_read() {
        let disk = SimDisk::new(1);
        assert_eq!(read(&disk), None);
        replace(&disk, b"12345678901", SyncScope::Bytes);
        let refused = read_file(&disk, Path::new("/file"), 10).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
