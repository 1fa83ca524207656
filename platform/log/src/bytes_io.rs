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

/// Replaces a file: writes beside it, syncs where asked, renames. The name is durable after the directory was synced.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, parts: &[&[u8]], sync: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let file = disk.open(&beside, OpenMode::Create)?;
    file.set_len(0)?;
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(&slices, 0)?;
    if sync {
        file.sync_data()?;
    }
    disk.rename(&beside, path)
}

/// Turns an I/O error on `path` into the storage's failure.
pub(crate) fn failing<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StorageFailed + 'a {
    move |error| StorageFailed { action, path: path.to_owned(), source: Arc::new(error) }
}
