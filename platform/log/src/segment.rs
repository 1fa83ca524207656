//! One segment: its file, its index, and walks over its batches.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::BytesMut;
use millstream_env::{Disk, DiskFile};
use millstream_model::{Offset, TimestampMs};
use millstream_record::{BatchError, BatchHeader, HEADER_BYTES};
use parking_lot::Mutex;

use crate::{
    ReadError,
    bytes_io::missing_is_fine,
    handles::{Handle, Handles},
    index::Index,
    place::Place,
};

/// How many damaged places of a segment are shown, each once.
const SHOWN_MAX: usize = 256;
/// How much a walk over headers reads at once.
const WALK_BYTES: usize = 64 << 10;

/// A segment: its file, and its index once it takes no more batches.
pub(crate) struct Segment {
    pub(crate) base: Offset,
    pub(crate) path: Arc<Path>,
    disk: Arc<dyn Disk>,
    pub(crate) handle: Arc<Handle>,
    /// The greatest timestamp in so many of its first bytes, once somebody has looked for one.
    newest: Mutex<Option<(u64, TimestampMs)>>,
    /// Damaged places that were shown to the operator.
    shown: Mutex<Vec<u64>>,
}

/// The first digits of a segment's files: its base offset, 20 digits wide as in Kafka.
fn stem(base: Offset) -> String {
    format!("{:020}", base.0)
}

impl Segment {
    pub(crate) fn new(handles: &Arc<Handles>, place: &Arc<Place>, base: Offset) -> Self {
        let handle = handles.handle(place, &format!("{}.log", stem(base)));
        Self {
            base,
            path: handle.path.clone(),
            disk: handles.disk.clone(),
            handle,
            newest: Mutex::new(None),
            shown: Mutex::default(),
        }
    }

    /// The base offset in a segment's file name; none for another file.
    pub(crate) fn base_in(path: &Path) -> Option<Offset> {
        Self::base_before(path, ".log")
    }

    /// The base offset in the file name of a segment's index; none for another file.
    pub(crate) fn base_in_index(path: &Path) -> Option<Offset> {
        Self::base_before(path, ".index")
    }

    fn base_before(path: &Path, suffix: &str) -> Option<Offset> {
        let digits = path.file_name()?.to_str()?.strip_suffix(suffix)?;
        let base = Offset(digits.parse().ok()?);
        (base.0 >= 0 && digits == stem(base)).then_some(base)
    }

    /// How long the file is; 0 where there is none.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self.handle.reader() {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Cuts the file back to `len` bytes after a refused write. What is not open to be written was not written to, and is left alone.
    pub(crate) fn cut(&self, len: u64) -> io::Result<()> {
        self.handle.written().map_or(Ok(()), |file| file.set_len(len))
    }

    /// Removes the file, if there is one. (Not one of another log's, whose directory is in the place.)
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.handle.release();
        self.handle.check_place()?;
        missing_is_fine(self.disk.remove_file(&self.path))
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// Keeps the index of a segment that was just closed.
    pub(crate) fn set_index(&self, index: Arc<Index>) {
        *self.handle.index().lock() = Some(index);
    }

    /// The index that was kept, for a segment that takes batches again.
    pub(crate) fn take_index(&self) -> Option<Index> {
        self.handle.index().lock().take().map(Arc::unwrap_or_clone)
    }

    /// The greatest timestamp in the first `len` bytes, where it is known.
    pub(crate) fn newest(&self, len: u64) -> Option<TimestampMs> {
        self.newest.lock().filter(|(of, _)| *of == len).map(|(_, newest)| newest)
    }

    /// Keeps the greatest timestamp in the first `len` bytes.
    pub(crate) fn set_newest(&self, len: u64, newest: TimestampMs) {
        *self.newest.lock() = Some((len, newest));
    }

    /// Whether a damaged place is found for the first time: then it is to be shown.
    pub(crate) fn is_news(&self, at: u64) -> bool {
        let mut shown = self.shown.lock();
        let news = shown.len() < SHOWN_MAX && !shown.contains(&at);
        if news {
            shown.push(at);
        }
        news
    }

    /// The greatest timestamp in a closed segment of `len` bytes: kept, or its index's.
    pub(crate) fn find_newest(&self, len: u64) -> Result<TimestampMs, ReadError> {
        if let Some(newest) = self.newest(len) {
            return Ok(newest);
        }
        let index = self.closed_index(len)?;
        if index.reach() < len {
            return Err(self.damaged(index.reach(), "there is no record batch where one must begin"));
        }
        self.set_newest(len, index.newest());
        Ok(index.newest())
    }

    /// Where to look from, in a closed segment of `len` bytes, for the first record at or after `start` and `target`: a position and
    /// the offset there; none if nothing in it is so late.
    pub(crate) fn position_of_time(
        &self,
        len: u64,
        target: TimestampMs,
        start: Offset,
    ) -> Result<Option<(u64, Offset)>, ReadError> {
        match self.find_newest(len) {
            Ok(newest) if newest < target => Ok(None),
            Ok(_) => Ok(self.place_of_time(&*self.closed_index(len)?, target, start)),
            // Whoever looks finds out about the damage, if it is in the way.
            Err(ReadError::Damaged { .. }) => Ok(Some((0, self.base))),
            Err(error) => Err(error),
        }
    }

    /// The same by its index.
    pub(crate) fn place_of_time(&self, index: &Index, target: TimestampMs, start: Offset) -> Option<(u64, Offset)> {
        let position = index.position_of_time(target, self.delta(start.max(self.base)).into())?;
        Some((position, self.base.plus(index.delta_at(position).cast_signed())))
    }

    /// The index that is kept, if there is one.
    pub(crate) fn kept_index(&self) -> Option<Arc<Index>> {
        self.handle.index().lock().clone()
    }

    /// The index of a closed segment of `len` bytes: kept, read, or rebuilt. It is kept as long as the file is open.
    ///
    /// One that must be rebuilt reaches up to the first damaged header: readers find out about that.
    pub(crate) fn closed_index(&self, len: u64) -> Result<Arc<Index>, ReadError> {
        let mut kept = self.handle.index().lock();
        if let Some(index) = &*kept {
            return Ok(index.clone());
        }
        let index = Arc::new(self.index_so_far(len)?);
        *kept = Some(index.clone());
        Ok(index)
    }

    /// The index of the first `len` bytes, as far as they are not damaged.
    pub(crate) fn index_so_far(&self, len: u64) -> Result<Index, ReadError> {
        let mut index = self.load_index(len);
        match self.grow_index(&mut index, len) {
            Ok(()) | Err(ReadError::Damaged { .. }) => Ok(index),
            Err(error) => Err(error),
        }
    }

    /// The index of the first `len` bytes: what the file says of them, and the rest from the batches themselves.
    pub(crate) fn build_index(&self, len: u64) -> Result<Index, ReadError> {
        let mut index = self.load_index(len);
        self.grow_index(&mut index, len)?;
        Ok(index)
    }

    fn load_index(&self, len: u64) -> Index {
        let mut index = Index::load(&*self.disk, &self.index_path(), self.base).unwrap_or_default();
        index.cut(len);
        index
    }

    /// Lets an index that ends where a batch does reach up to `len` bytes.
    pub(crate) fn grow_index(&self, index: &mut Index, len: u64) -> Result<(), ReadError> {
        if index.reach() == len {
            // There need not even be a file.
            return Ok(());
        }
        let mut walk = self.walk(index.reach(), len)?;
        while let Some((_, header)) = walk.next()? {
            index.add(self.delta(header.base_offset), header.batch_bytes() as u64, header.max_timestamp);
        }
        if index.reach() != len {
            return Err(self.damaged(index.reach(), "its last batch is not whole"));
        }
        Ok(())
    }

    /// The offset after the last batch of a closed segment of `len` bytes: read from the last place that the index knows. An
    /// index that had to be made again is written.
    pub(crate) fn end_offset(&self, len: u64) -> Result<Offset, ReadError> {
        let mut index = self.load_index(len);
        let known = index.reach();
        self.grow_index(&mut index, len)?;
        if known < len {
            // Or the next start would look through all of it again.
            if let Err(error) = index.store(&*self.disk, &self.index_path(), self.base) {
                tracing::warn!(path = %self.index_path().display(), %error, "cannot write an index");
            }
        }
        let mut end = self.base;
        let mut walk = self.walk(index.position(u64::MAX), len)?;
        while let Some((_, header)) = walk.next()? {
            end = header.end_offset();
        }
        Ok(end)
    }

    /// An offset's distance from the base. (A segment is closed before it would not fit.)
    pub(crate) fn delta(&self, offset: Offset) -> u32 {
        u32::try_from(offset.0 - self.base.0).unwrap_or(u32::MAX)
    }

    pub(crate) fn damaged(&self, at: u64, reason: &'static str) -> ReadError {
        ReadError::Damaged { path: self.path.to_path_buf(), at, reason, hole: None }
    }

    pub(crate) fn io(&self, source: io::Error) -> ReadError {
        ReadError::Io { path: self.path.to_path_buf(), source }
    }

    /// Reads exactly `bytes` bytes at `at`.
    pub(crate) fn read_exact(&self, at: u64, bytes: usize) -> Result<BytesMut, ReadError> {
        let buffer = self.read_some(at, bytes)?;
        if buffer.len() < bytes {
            return Err(self.damaged(at + buffer.len() as u64, "it ends in the middle of a batch"));
        }
        Ok(buffer)
    }

    /// Reads `bytes` bytes at `at`; fewer where the file ends before.
    pub(crate) fn read_some(&self, at: u64, bytes: usize) -> Result<BytesMut, ReadError> {
        let mut buffer = self.handle.buffers().take_filled(bytes);
        let read = self.handle.reader().and_then(|file| file.read_at(&mut buffer, at));
        let read = read.map_err(|source| self.io(source))?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// Walks over the headers of the batches from position `at` (where one begins) to `end`.
    pub(crate) fn walk(&self, at: u64, end: u64) -> Result<Walk<'_>, ReadError> {
        let file = self.handle.reader().map_err(|source| self.io(source))?;
        Ok(Walk { segment: self, file, at, end, window: BytesMut::new(), window_at: at, last_end: None })
    }

    /// Finds how many bytes from `at` on are whole, sound batches that follow each other from `next` on, up to `len`: what is
    /// kept of a tail that no journal tells about. Gives their headers.
    ///
    /// They are written again: after a failed sync the page cache shows what no later sync would bring to the disk.
    pub(crate) fn keep_tail(&self, at: u64, len: u64, next: Offset) -> Result<Vec<BatchHeader>, ReadError> {
        let (mut at, mut next, mut found) = (at, next, Vec::new());
        while len - at >= HEADER_BYTES as u64 {
            let head = self.read_exact(at, HEADER_BYTES)?;
            let Ok(header) = BatchHeader::parse(&head) else { break };
            let bytes = header.batch_bytes();
            if header.base_offset != next || bytes as u64 > len - at {
                break;
            }
            let batch = self.read_exact(at, bytes)?;
            if !header.crc_matches(&batch) {
                break;
            }
            let written = self.handle.writer().and_then(|file| file.write_at(&[IoSlice::new(&batch)], at));
            written.map_err(|source| self.io(source))?;
            at += bytes as u64;
            next = header.end_offset();
            found.push(header);
        }
        Ok(found)
    }
}

/// See [`Segment::walk`].
pub(crate) struct Walk<'a> {
    segment: &'a Segment,
    file: Arc<dyn DiskFile>,
    at: u64,
    end: u64,
    window: BytesMut,
    window_at: u64,
    last_end: Option<Offset>,
}

impl Walk<'_> {
    /// The next batch's position and header; none at the end. What is cut off by the end is damage, as is a gap.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.at + HEADER_BYTES as u64 > self.window_at + self.window.len() as u64 || self.at < self.window_at {
            self.refill()?;
        }
        let skip = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
        let header = check_next(self.window.get(skip..).unwrap_or_default(), self.last_end)
            .map_err(|reason| self.segment.damaged(self.at, reason))?;
        let at = self.at;
        self.at += header.batch_bytes() as u64;
        if self.at > self.end {
            return Err(self.segment.damaged(at, "its last batch is not whole"));
        }
        self.last_end = Some(header.end_offset());
        Ok(Some((at, header)))
    }

    fn refill(&mut self) -> Result<(), ReadError> {
        let bytes = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(WALK_BYTES);
        self.window.resize(bytes, 0);
        let read = self.file.read_at(&mut self.window, self.at).map_err(|source| self.segment.io(source))?;
        self.window.truncate(read);
        self.window_at = self.at;
        Ok(())
    }
}

/// Parses the header at the front of `bytes` and checks that its batch follows one that ended at `last_end`.
fn check_next(bytes: &[u8], last_end: Option<Offset>) -> Result<BatchHeader, &'static str> {
    let header = BatchHeader::parse(bytes).map_err(|error| match error {
        BatchError::Truncated { .. } => "it ends in the middle of a batch",
        _ => "there is no record batch where one must begin",
    })?;
    match last_end {
        Some(last_end) if last_end != header.base_offset => Err("its offsets do not follow each other"),
        _ => Ok(header),
    }
}
