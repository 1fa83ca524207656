//! Checked files: small, replaced whole, believed only when their checksum agrees.
//!
//! ```text
//! 0   8 bytes  "MSCHECK\0"
//! 8   u32      format of the body, little-endian as all here
//! 12  u32      CRC-32C of what follows
//! 16  u64      length of the body
//! 24  ...      body
//! ```

use std::{io, path::Path};

use millstream_env::{Disk, OpenMode, SyncScope, replace_file};

use super::{FileError, crc32c, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"MSCHECK\0";
const HEADER_BYTES: usize = 24;
/// The format of the bodies that this build writes, and the newest that it reads.
const FORMAT: u32 = 1;
/// Largest body, bytes: more than a snapshot of the largest cluster takes.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Replaces `dir/name`. Durable when it returns.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, name: &str, body: &[u8]) -> Result<(), FileError> {
    let path = dir.join(name);
    let beside = dir.join(format!("{name}.tmp"));
    let length = (body.len() as u64).to_le_bytes();
    let crc = crc32c(&[&length, body]).to_le_bytes();
    let format = FORMAT.to_le_bytes();
    let parts = [MAGIC.as_slice(), &format, &crc, &length, body];
    replace_file(disk, &beside, &path, &parts, SyncScope::BytesAndName)?;
    Ok(())
}

/// Reads `dir/name` and writes it anew, so that what is believed from here on is durable, whatever became of an earlier run's
/// last sync.
pub(crate) fn adopt(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Option<Vec<u8>>, FileError> {
    let body = read(disk, dir, name)?;
    if let Some(body) = &body {
        write(disk, dir, name, body)?;
    }
    Ok(body)
}

/// Reads `dir/name`; none when there is no such file.
pub(crate) fn read(disk: &dyn Disk, dir: &Path, name: &str) -> Result<Option<Vec<u8>>, FileError> {
    let path = dir.join(name);
    let file = match disk.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::io(&path, "open")(error)),
    };
    let len = file.len().map_err(FileError::io(&path, "measure"))?;
    if !(HEADER_BYTES as u64..=HEADER_BYTES as u64 + BODY_BYTES_MAX).contains(&len) {
        return Err(FileError::damaged(&path, format!("it has {len} bytes")));
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0).map_err(FileError::io(&path, "read"))?;
    bytes.truncate(read);
    if bytes.get(..8) != Some(MAGIC) {
        return Err(FileError::damaged(&path, "it does not begin as its kind does"));
    }
    let version = u32_at(&bytes, 8);
    if version > FORMAT {
        return Err(FileError::Newer { path, version, newest: FORMAT });
    }
    let body = bytes.split_off(HEADER_BYTES.min(bytes.len()));
    if u64_at(&bytes, 16) != body.len() as u64 {
        return Err(FileError::damaged(
            &path,
            format!("its body has {} bytes, not {}", body.len(), u64_at(&bytes, 16)),
        ));
    }
    if crc32c(&[&bytes[16..24], &body]) != u32_at(&bytes, 12) {
        return Err(FileError::damaged(&path, "its checksum does not agree"));
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::{DiskOperation, Fault, SimDisk};

    use super::*;

    const DIR: &str = "/checked";

    fn fresh() -> SimDisk {
        let disk = SimDisk::new(9);
        crate::disk::make_dir(&disk, Path::new(DIR)).unwrap();
        disk
    }

    #[test]
    fn a_file_is_the_old_one_or_the_new_one_whatever_fails_on_the_way() {
        for operation in [DiskOperation::Write, DiskOperation::SyncData, DiskOperation::Names, DiskOperation::SyncDir] {
            let disk = fresh();
            write(&disk, Path::new(DIR), "f", b"old").unwrap();
            disk.inject(Fault::nth(operation, 1));
            assert!(write(&disk, Path::new(DIR), "f", b"new").is_err(), "{operation:?}");
            disk.kill();
            // What is believed after the failure must outlive a power cut.
            let believed = adopt(&disk, Path::new(DIR), "f").unwrap().unwrap();
            assert!(believed == b"old" || believed == b"new", "{operation:?}: {believed:?}");
            disk.crash_losing_all();
            assert_eq!(read(&disk, Path::new(DIR), "f").unwrap(), Some(believed), "{operation:?}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let disk = fresh();
        write(&disk, Path::new(DIR), "f", b"body").unwrap();
        let path = Path::new(DIR).join("f");
        for at in 0..28 {
            disk.corrupt(&path, at, 4).unwrap();
            assert!(read(&disk, Path::new(DIR), "f").is_err(), "byte {at}");
            disk.corrupt(&path, at, 4).unwrap();
        }
        for len in [0, 23, 24, 27, 29] {
            disk.open(&path, OpenMode::Write).unwrap().set_len(len).unwrap();
            assert!(matches!(read(&disk, Path::new(DIR), "f"), Err(FileError::Damaged { .. })), "{len} bytes");
        }
        assert_eq!(read(&disk, Path::new(DIR), "none").unwrap(), None);
    }
}
