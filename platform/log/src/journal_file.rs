//! One journal file: its header, its life from spare to recycled, and the scan that recovery makes of it.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use millstream_env::{Disk, DiskFile, OpenMode};
use millstream_record::crc32c;
use uuid::Uuid;

use crate::{
    OpenError,
    frame::{FRAME_HEADER_BYTES, Frame, GROUP_ALIGN, NotAFrame, align},
};

/// Where a file's frames begin.
pub(crate) const FILE_HEADER_BYTES: u64 = GROUP_ALIGN;
/// The newest format of journal files.
pub(crate) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MSjournl";
const HEADER_FIELDS: usize = 64;
const SUFFIX: &str = ".journal";
const SPARE_PREFIX: &str = "spare-";
/// How much is read ahead while scanning.
const SCAN_BYTES: usize = 1 << 20;

/// A file's header: the first 64 bytes of its first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// The data directory that the file belongs to.
    pub(crate) directory: Uuid,
    /// Counts the uses of journal files; also the file's name.
    pub(crate) sequence: u64,
    /// Drawn anew for every use: what an earlier use left does not carry it.
    pub(crate) nonce: u64,
    /// No frame in it has a smaller number.
    pub(crate) lsn_floor: u64,
    /// How long the file is.
    pub(crate) file_bytes: u64,
}

/// Why a header was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged,
    Newer(u32),
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_FIELDS] {
        let mut bytes = [0; HEADER_FIELDS];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
        bytes[16..32].copy_from_slice(self.directory.as_bytes());
        let fields = [self.sequence, self.nonce, self.lsn_floor, self.file_bytes];
        for (field, at) in fields.iter().zip((32..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&field.to_be_bytes());
        }
        let crc = crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let Some(bytes) = bytes.first_chunk::<HEADER_FIELDS>() else { return Err(BadHeader::Damaged) };
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        if bytes[..8] != MAGIC {
            return Err(BadHeader::Damaged);
        }
        match u32_at(8) {
            VERSION => {}
            newer if newer > VERSION => return Err(BadHeader::Newer(newer)),
            _ => return Err(BadHeader::Damaged),
        }
        if u32_at(12) != crc32c(&bytes[16..]) {
            return Err(BadHeader::Damaged);
        }
        let mut directory = [0; 16];
        directory.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            directory: Uuid::from_bytes(directory),
            sequence: u64_at(32),
            nonce: u64_at(40),
            lsn_floor: u64_at(48),
            file_bytes: u64_at(56),
        })
    }
}

/// A file that is ready to take frames: reserved, with a durable header and, once that was synced, a durable name.
pub(crate) struct ReadyFile {
    pub(crate) path: PathBuf,
    pub(crate) header: FileHeader,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// The name of the file with that number.
pub(crate) fn name(sequence: u64) -> String {
    format!("{sequence:020}{SUFFIX}")
}

/// What a name in `journal/` stands for.
pub(crate) enum Named {
    Journal(u64),
    Spare,
    Other,
}

/// Tells journal files and spares by their names.
pub(crate) fn classify(path: &Path) -> Named {
    let text = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if text.starts_with(SPARE_PREFIX) {
        return Named::Spare;
    }
    match text.strip_suffix(SUFFIX).and_then(|digits| digits.parse().ok()) {
        Some(sequence) if name(sequence) == text => Named::Journal(sequence),
        _ => Named::Other,
    }
}

/// Makes a file: takes `spare` or a new one, writes and syncs its header, and gives it its name, which is to be made durable before
/// it takes frames.
///
/// A file is only called a journal once its header is durable, so a journal with a bad header is always damage.
///
/// # Errors
/// The operating system's; `spare` is still called that.
pub(crate) fn prepare(disk: &dyn Disk, dir: &Path, spare: Option<&Path>, header: FileHeader) -> io::Result<ReadyFile> {
    let beside = spare.map_or_else(|| spare_path(dir, header.sequence), Path::to_owned);
    let path = dir.join(name(header.sequence));
    let file = disk.open(&beside, OpenMode::Create)?;
    let made = (|| {
        // A spare is as long as that, unless somebody took it away.
        if file.len()? < header.file_bytes {
            file.reserve(header.file_bytes)?;
        }
        let mut block = [0; FILE_HEADER_BYTES as usize];
        block[..HEADER_FIELDS].copy_from_slice(&header.encode());
        file.write_at(&[IoSlice::new(&block)], 0)?;
        file.sync_data()?;
        disk.rename(&beside, &path)
    })();
    if let Err(error) = made {
        if spare.is_none() {
            // It holds nothing; if it stays, the next start removes it.
            let _ = disk.remove_file(&beside);
        }
        return Err(error);
    }
    Ok(ReadyFile { path, header, file })
}

/// The name that a recycled file waits under.
pub(crate) fn spare_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{SPARE_PREFIX}{sequence:020}"))
}

/// The number in a spare's name.
pub(crate) fn spare_number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(SPARE_PREFIX)?.parse().ok()
}

/// One frame found by a scan.
pub(crate) struct WholeFrame {
    pub(crate) frame: Frame,
    pub(crate) payload: Bytes,
}

/// A frame's header at the start of a page, and what it says was durable before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Where it is in the file.
    pub(crate) at: u64,
    /// Its number. The first frame of a group follows the last that was durable.
    pub(crate) lsn: u64,
    /// All frames up to this were durable when it was written.
    pub(crate) synced_lsn: u64,
}

/// Reads a journal file's frames in order.
pub(crate) struct Scan {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    header: FileHeader,
    len: u64,
    /// Where the next frame is looked for.
    at: u64,
    /// What was read ahead, from `at`.
    ahead: BytesMut,
}

impl Scan {
    /// Opens a journal file whose name says `sequence`.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, sequence: u64, directory: Uuid) -> Result<Self, OpenError> {
        let io = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
        let damaged = |reason: &str| OpenError::Damaged { path: path.to_owned(), reason: reason.into() };
        let file = disk.open(path, OpenMode::Read).map_err(io("open"))?;
        let mut block = [0; HEADER_FIELDS];
        let read = file.read_at(&mut block, 0).map_err(io("read"))?;
        let header = FileHeader::decode(&block[..read]).map_err(|bad| match bad {
            BadHeader::Damaged => damaged("its header is not sound"),
            BadHeader::Newer(found) => OpenError::Newer { path: path.to_owned(), found, known: VERSION },
        })?;
        if header.sequence != sequence {
            return Err(damaged("its header has another number than its name"));
        }
        if header.directory != directory {
            return Err(damaged("it belongs to another data directory"));
        }
        let len = file.len().map_err(io("measure"))?.min(header.file_bytes);
        Ok(Self { file, path: path.to_owned(), header, len, at: FILE_HEADER_BYTES, ahead: BytesMut::new() })
    }

    pub(crate) fn header(&self) -> FileHeader {
        self.header
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, source: io::Error) -> OpenError {
        OpenError::Io { action: "read", path: self.path.clone(), source }
    }

    /// Makes sure that `bytes` from `at` on are read, if the file has them.
    fn fill(&mut self, bytes: usize) -> Result<bool, OpenError> {
        if self.ahead.len() >= bytes {
            return Ok(true);
        }
        let have = self.ahead.len();
        let rest = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if rest < bytes {
            return Ok(false);
        }
        self.ahead.resize(bytes.max(SCAN_BYTES).min(rest), 0);
        let read = self.file.read_at(&mut self.ahead[have..], self.at + have as u64);
        let read = read.map_err(|source| OpenError::Io { action: "read", path: self.path.clone(), source })?;
        self.ahead.truncate(have + read);
        Ok(self.ahead.len() >= bytes)
    }

    fn skip_to(&mut self, at: u64) {
        let bytes = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        if bytes <= self.ahead.len() {
            let _ = self.ahead.split_to(bytes);
        } else {
            self.ahead.clear();
        }
        self.at = at;
    }

    /// The frame at the present position, whole and sound; the position moves past it.
    fn take(&mut self) -> Result<Option<WholeFrame>, OpenError> {
        if !self.fill(FRAME_HEADER_BYTES)? {
            return Ok(None);
        }
        let (frame, _) = match Frame::decode(&self.ahead, self.header.nonce) {
            Ok(found) => found,
            Err(NotAFrame::Absent) => return Ok(None),
            Err(NotAFrame::Newer { kind }) => {
                return Err(OpenError::NewerFrame { path: self.path.clone(), at: self.at, kind });
            }
        };
        let whole = FRAME_HEADER_BYTES + frame.payload_bytes as usize;
        if !self.fill(whole)? || !frame.holds(&self.ahead[FRAME_HEADER_BYTES..whole]) {
            return Ok(None);
        }
        let payload = self.ahead.split_to(whole).freeze().slice(FRAME_HEADER_BYTES..);
        self.at += whole as u64;
        Ok(Some(WholeFrame { frame, payload }))
    }

    /// The next frame, if it is number `expected` (any, where none is): none at the end of what was written whole.
    ///
    /// A group ends with zeros up to the alignment, so where no frame follows the last one, the next may begin there.
    pub(crate) fn next(&mut self, expected: Option<u64>) -> Result<Option<WholeFrame>, OpenError> {
        let before = self.at;
        for at in [before, align(before)] {
            self.skip_to(at.max(self.at));
            let Some(found) = self.take()? else { continue };
            let lsn = found.frame.lsn;
            // Another number: the frames between were torn. `check_torn` tells whether that may be.
            let follows = lsn >= self.header.lsn_floor && expected.is_none_or(|expected| lsn == expected);
            return Ok(follows.then_some(found));
        }
        Ok(None)
    }

    /// The frames at the starts of pages, as those that begin a group are: whole or not, in order or not.
    pub(crate) fn proofs(&self) -> Result<Vec<Proof>, OpenError> {
        let mut at = FILE_HEADER_BYTES;
        let mut window = vec![0; SCAN_BYTES];
        let mut proofs = Vec::new();
        while at < self.len {
            let read = self.file.read_at(&mut window, at).map_err(|source| self.io(source))?;
            if read == 0 {
                break;
            }
            for start in (0..read).step_by(GROUP_ALIGN as usize) {
                if let Ok((frame, place)) = Frame::decode(&window[start..read], self.header.nonce) {
                    let at = at + start as u64;
                    proofs.push(Proof { at, lsn: frame.lsn, synced_lsn: place.synced_lsn });
                }
            }
            at += window.len() as u64;
        }
        Ok(proofs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_these_bytes_for_ever() {
        let header = FileHeader {
            directory: Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888),
            sequence: 3,
            nonce: 0xfeed,
            lsn_floor: 42,
            file_bytes: 65536,
        };
        let hex: String = header.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "4d536a6f75726e6c",
                "00000001",
                "85ffa7df",
                "11112222333344445555666677778888",
                "0000000000000003",
                "000000000000feed",
                "000000000000002a",
                "0000000000010000",
            )
        );
        assert_eq!(FileHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn a_bad_header_is_damage_and_a_later_version_is_newer() {
        let header =
            FileHeader { directory: Uuid::nil(), sequence: 3, nonce: 1, lsn_floor: 1, file_bytes: 65536 }.encode();
        for at in (0..8).chain(12..HEADER_FIELDS) {
            let mut bytes = header;
            bytes[at] ^= 1;
            assert_eq!(FileHeader::decode(&bytes), Err(BadHeader::Damaged), "byte {at}");
        }
        let mut bytes = header;
        bytes[11] = 2;
        assert_eq!(FileHeader::decode(&bytes), Err(BadHeader::Newer(2)));
        assert_eq!(FileHeader::decode(&header[..63]), Err(BadHeader::Damaged));
    }
}
