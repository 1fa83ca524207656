//! Small helpers on files: whole reads, whole replacements, errors with their path.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use millstream_env::{Disk, OpenMode};

use crate::StorageFailed;

/// Reads a small file whole; none if it does not exist. A file of more than `bytes_max` is invalid data.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
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

/// Replaces a file: writes beside it, syncs where asked, renames. The name is durable after the directory was synced. Where no sync
/// is asked, a power cut leaves the file before, or the new one, or one that holds nothing sound.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, parts: &[&[u8]], sync: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    if !sync {
        // One that was left there may be sound and durable, and would come back where what is written over it is not.
        missing_is_fine(disk.remove_file(&beside))?;
    }
    let file = disk.open(&beside, OpenMode::Create)?;
    file.set_len(0)?;
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(&slices, 0)?;
    if sync {
        file.sync_data()?;
    }
    disk.rename(&beside, path)
}

/// What is gone already need not go.
pub(crate) fn missing_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Turns an I/O error on `path` into the storage's failure.
pub(crate) fn failing<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StorageFailed + 'a {
    move |error| StorageFailed { action, path: path.to_owned(), source: Arc::new(error) }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::SimDisk;

    use super::*;

    #[test]
    fn what_was_left_beside_does_not_come_back_in_place_of_what_is_not_durable() {
        let disk = SimDisk::new(1);
        let path = Path::new("/file");
        let left = disk.open(Path::new("/file.new"), OpenMode::Create).unwrap();
        left.write_at(&[IoSlice::new(b"old")], 0).unwrap();
        left.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        drop(left);
        replace_file(&disk, path, &[b"new"], false).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(read_file(&disk, path, 10).unwrap().unwrap(), b"new");
        disk.crash_losing_all();
        assert_ne!(read_file(&disk, path, 10).unwrap().unwrap_or_default(), b"old");
    }
}
