//! How far a log was compacted, and when.
//!
//! ```text
//! compacted, text, replaced as a whole, not synced: one that is lost or not sound only means to begin again
//!   OFFSET TIME      all below OFFSET was compacted at TIME (ms since 1970); both ascend from line to line
//!   crc CRC          CRC-32C of the lines above, hexadecimal
//! ```

use std::{fmt::Write, io, path::Path};

use millstream_env::Disk;
use millstream_model::{Offset, TimestampMs};
use millstream_record::crc32c;

use crate::bytes_io::{read_file, replace_file};

/// The file's name.
pub(super) const FILE: &str = "compacted";
/// So many passes are remembered, the latest; only those count whose tombstones are to be kept still.
const PASSES_MAX: usize = 64;
const FILE_BYTES_MAX: u64 = 64 << 10;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passes(Vec<(Offset, TimestampMs)>);

impl Passes {
    /// All below was compacted at least once.
    pub(super) fn reached(&self) -> Offset {
        self.0.last().map_or(Offset(0), |(reached, _)| *reached)
    }

    /// Below this, a tombstone has been a key's last word for `ms` since no older record of the key was left.
    pub(super) fn expired(&self, now: TimestampMs, ms: i64) -> Offset {
        let old = self.0.iter().rev().find(|(_, at)| now.0.saturating_sub(at.0) >= ms);
        old.map_or(Offset(0), |(reached, _)| *reached)
    }

    /// Notes a pass. What has expired before is forgotten, but for the furthest.
    pub(super) fn note(&mut self, reached: Offset, now: TimestampMs, ms: i64) {
        let expired = self.expired(now, ms);
        self.0.retain(|(before, at)| *before >= expired && *before < reached && *at <= now);
        if self.0.len() == PASSES_MAX {
            // Its tombstones stay until the next one's may go.
            self.0.remove(0);
        }
        self.0.push((reached, now));
    }

    pub(super) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        match read_file(disk, &dir.join(FILE), FILE_BYTES_MAX) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| Self::parse(&bytes)).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn store(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let mut text = String::new();
        for (reached, at) in &self.0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} {}", reached.0, at.0);
        }
        let crc = format!("crc {:08x}\n", crc32c(text.as_bytes()));
        replace_file(disk, &dir.join(FILE), &[text.as_bytes(), crc.as_bytes()], false)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (lines, crc) = text.strip_suffix('\n')?.rsplit_once("crc ")?;
        if u32::from_str_radix(crc, 16).ok()? != crc32c(lines.as_bytes()) {
            return None;
        }
        let pass = |line: &str| {
            let (reached, at) = line.split_once(' ')?;
            Some((Offset(reached.parse().ok()?), TimestampMs(at.parse().ok()?)))
        };
        lines.lines().map(pass).collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::SimDisk;

    use super::*;

    #[test]
    fn tombstones_expire_so_long_after_the_pass_that_left_them_alone() {
        let mut passes = Passes::default();
        let expired = |passes: &Passes, now| passes.expired(TimestampMs(now), 100).0;
        assert_eq!((passes.reached(), expired(&passes, 1000)), (Offset(0), 0));
        passes.note(Offset(10), TimestampMs(1000), 100);
        passes.note(Offset(30), TimestampMs(1050), 100);
        assert_eq!(passes.reached(), Offset(30));
        assert_eq!([1099, 1100, 1149, 1150].map(|now| expired(&passes, now)), [0, 10, 10, 30]);
        // The furthest that has expired is kept, and no other.
        passes.note(Offset(50), TimestampMs(1200), 100);
        assert_eq!(passes.0.len(), 2);
        assert_eq!(expired(&passes, 1200), 30);
        for at in 0..1000 {
            passes.note(Offset(51 + at), TimestampMs(1200 + at / 100), 100);
        }
        assert!(passes.0.len() <= PASSES_MAX && passes.reached() == Offset(1050));
    }

    #[test]
    fn what_is_not_sound_means_to_begin_again() {
        let disk = SimDisk::new(1);
        let dir = Path::new("/");
        let mut passes = Passes::default();
        passes.note(Offset(10), TimestampMs(1000), 100);
        passes.note(Offset(30), TimestampMs(1050), 100);
        passes.store(&disk, dir).unwrap();
        assert_eq!(Passes::load(&disk, dir).unwrap(), passes);
        let sound = read_file(&disk, &dir.join(FILE), 1000).unwrap().unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            assert_eq!(Passes::parse(&bytes), None, "byte {at}");
            assert_eq!(Passes::parse(&sound[..at]), None, "cut at {at}");
        }
    }
}
