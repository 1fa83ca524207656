//! Small helpers on files: whole replacements, errors with their path.

use std::{io, path::Path, sync::Arc};

pub(crate) use millstream_env::read_file;
use millstream_env::{Disk, SyncScope};

use crate::StorageFailed;

/// Replaces a file, by way of one that is called `.new`; its bytes are synced where asked. The name is durable after the directory was
/// synced.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, parts: &[&[u8]], sync: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let scope = if sync { SyncScope::Bytes } else { SyncScope::Nothing };
    millstream_env::replace_file(disk, &path.with_file_name(name), path, parts, scope)?;
    Ok(())
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
