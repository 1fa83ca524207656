//! Records on their way through modules: walked in stored batches a call's worth at a time, put into frames.

use bytes::Bytes;
use millstream_model::{
    Offset, TimestampMs,
    limits::{BATCH_BYTES_MAX, TIMESTAMP_MS_MAX},
};
use millstream_record::{Batch, BatchError, BatchHeader, RecordError, raw};
use millstream_wasm::frame::{FRAME_BYTES_TARGET, FrameBuilder, FrameError, FrameOptions, HEADER_BYTES, InputFrame};

/// Most records of one call. A module's budget grows with their number, so this bounds how long one call may take.
const CALL_RECORDS_MAX: usize = 4096;
/// What a record in a frame takes beside its tail, at most, bytes: length, attributes, two deltas.
const RECORD_OVERHEAD: usize = 21;

/// A record with its place, outside of any batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) offset: Offset,
    /// As it is stored, however absurd.
    pub(crate) timestamp: TimestampMs,
    /// Key, value and headers, as encoded in a batch.
    pub(crate) tail: Bytes,
}

/// Why stored records cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowsError {
    #[error("a stored batch cannot be read: {0}")]
    Batch(#[from] BatchError),
    #[error("a stored record cannot be read: {0}")]
    Record(#[from] RecordError),
    #[error("stored records cannot be shown to a module: {0}")]
    Frame(#[from] FrameError),
}

impl RowsError {
    /// Whether the batch is larger than there was room for: with more, it may be read.
    fn is_about_room(&self) -> bool {
        matches!(self, Self::Batch(BatchError::UnpackedTooLarge { .. }))
    }
}

/// One stored batch, unpacked, whose records are walked from an offset on. Holds the batch's bytes and nothing else: records
/// get a place in memory when it is their turn.
pub(crate) struct Unpacked {
    header: BatchHeader,
    section: Bytes,
    /// How much of the section is walked.
    at: usize,
    from: Offset,
}

impl Unpacked {
    /// Unpacks the batch to at most `bytes_max` bytes. A control batch has no records to show.
    pub(crate) fn open(batch: &Batch, from: Offset, bytes_max: usize) -> Result<Self, RowsError> {
        let header = *batch.header();
        let section = match header.attributes.is_control() {
            true => Bytes::new(),
            false => batch.section(bytes_max)?,
        };
        Ok(Self { header, section, at: 0, from })
    }

    /// How many bytes the records take.
    pub(crate) fn bytes(&self) -> usize {
        self.section.len()
    }

    /// The next records, as many as one call should have, at least one unless there are no more.
    pub(crate) fn next_rows(&mut self) -> Result<Vec<Row>, RowsError> {
        let mut rows = Vec::new();
        let mut bytes = HEADER_BYTES;
        while rows.len() < CALL_RECORDS_MAX {
            let whole = &self.section[self.at..];
            if whole.is_empty() {
                break;
            }
            let mut rest = whole;
            let record = raw::take_record(&mut rest)?;
            let offset = Offset(self.header.base_offset.0.saturating_add(record.offset_delta.into()));
            if offset >= self.from {
                bytes += record.tail.len() + RECORD_OVERHEAD;
                if bytes > FRAME_BYTES_TARGET && !rows.is_empty() {
                    break;
                }
                let timestamp = match self.header.attributes.is_log_append_time() {
                    true => self.header.max_timestamp,
                    false => TimestampMs(self.header.base_timestamp.0.saturating_add(record.timestamp_delta)),
                };
                rows.push(Row { offset, timestamp, tail: self.section.slice_ref(record.tail) });
            }
            self.at += whole.len() - rest.len();
        }
        Ok(rows)
    }
}

/// How many bytes a stored batch may unpack to: little, until one turns out to need more.
#[derive(Debug)]
pub(crate) struct Room(usize);

impl Room {
    pub(crate) const FIRST: Self = Self(1 << 20);

    /// The memory that it takes to read about `read_max` bytes of stored batches and to unpack one: a batch that is larger is
    /// read all the same, and unpacking takes twice the room while it grows.
    pub(crate) fn bytes(&self, read_max: usize, batch_bytes_max: usize) -> usize {
        read_max.max(batch_bytes_max) + 2 * self.0
    }

    /// Unpacks a batch; none if there is not the room for it: there is more the next time.
    pub(crate) fn unpack(&mut self, batch: &Batch, from: Offset) -> Result<Option<Unpacked>, RowsError> {
        match Unpacked::open(batch, from, self.0) {
            Err(error) if error.is_about_room() && self.0 < BATCH_BYTES_MAX => {
                self.0 = (8 * self.0).min(BATCH_BYTES_MAX);
                Ok(None)
            }
            unpacked => unpacked.map(Some),
        }
    }

    /// Fits what comes next, which is probably as large as what came: at most so many bytes.
    pub(crate) fn fit(&mut self, bytes: usize) {
        self.0 = bytes.next_power_of_two().clamp(Self::FIRST.0, BATCH_BYTES_MAX);
    }
}

/// A frame of the first of these rows, as many as one call should have, and how many those are.
///
/// # Panics
/// When there are no rows.
pub(crate) fn frame(rows: &[Row], options: FrameOptions) -> Result<(usize, InputFrame), FrameError> {
    let mut builder = FrameBuilder::new(options);
    for row in rows {
        if builder.is_full(row.tail.len()) || builder.len() == CALL_RECORDS_MAX {
            break;
        }
        builder.push_encoded(row.offset, plausible(row.timestamp), &row.tail)?;
    }
    let count = builder.len();
    let frame = builder.take();
    #[expect(clippy::expect_used, reason = "an empty builder is never full, so the first row is in it")]
    Ok((count, frame.expect("at least one row")))
}

/// A record's time as modules are told it and as new records may inherit it: none instead of one that no clock has shown.
/// Stored records may have any; two that are far enough apart do not even fit into one frame.
pub(crate) fn plausible(timestamp: TimestampMs) -> TimestampMs {
    if (-1..=TIMESTAMP_MS_MAX).contains(&timestamp.0) { timestamp } else { TimestampMs(-1) }
}

#[cfg(test)]
mod tests {
    use millstream_record::{BatchBuilder, BatchOptions, Compression};

    use super::*;

    fn batch(compression: Compression, records: &[(i64, usize)]) -> Batch {
        let options = BatchOptions { compression, base_offset: Offset(100), ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        for (timestamp, bytes) in records {
            builder.push(TimestampMs(*timestamp), None, Some(&vec![b'x'; *bytes]), &[]).unwrap();
        }
        Batch::parse_one(builder.build().unwrap()).unwrap()
    }

    /// What each call would get: the offsets of its records.
    fn walked(batch: &Batch, from: i64) -> Vec<Vec<i64>> {
        let mut unpacked = Unpacked::open(batch, Offset(from), 64 << 20).unwrap();
        let mut calls = Vec::new();
        loop {
            let rows = unpacked.next_rows().unwrap();
            if rows.is_empty() {
                return calls;
            }
            let (count, frame) = frame(&rows, FrameOptions::default()).unwrap();
            assert_eq!((count, frame.count() as usize), (rows.len(), rows.len()), "what is cut for a call fits one");
            calls.push(rows.iter().map(|row| row.offset.0).collect());
        }
    }

    #[test]
    fn a_batch_is_walked_a_call_at_a_time_from_an_offset_on() {
        let large = FRAME_BYTES_TARGET / 2;
        let records = [(1, 10), (2, large), (3, large), (4, 3 * FRAME_BYTES_TARGET), (5, 1), (6, 1)];
        for compression in [Compression::None, Compression::Zstd] {
            let batch = batch(compression, &records);
            let expected = vec![vec![100, 101], vec![102], vec![103], vec![104, 105]];
            assert_eq!(walked(&batch, 0), expected, "{compression}");
            assert_eq!(walked(&batch, 103), [vec![103], vec![104, 105]], "{compression}");
            assert_eq!(walked(&batch, 106), Vec::<Vec<i64>>::new(), "{compression}");
        }
    }

    #[test]
    fn tiny_records_are_bounded_in_number() {
        let batch = batch(Compression::Zstd, &vec![(0, 0); 2 * CALL_RECORDS_MAX + 1]);
        let counts: Vec<usize> = walked(&batch, 0).iter().map(Vec::len).collect();
        assert_eq!(counts, [CALL_RECORDS_MAX, CALL_RECORDS_MAX, 1]);
    }

    #[test]
    fn records_of_absurd_times_still_make_a_frame() {
        // The distance between two of these is more than 64 bits say.
        let times = [i64::MIN, 5, i64::MAX, TIMESTAMP_MS_MAX, TIMESTAMP_MS_MAX + 1, -1, -2];
        let rows: Vec<Row> = (0..)
            .zip(times)
            .map(|(offset, time)| Row {
                offset: Offset(offset),
                timestamp: TimestampMs(time),
                tail: Bytes::from_static(&[1, 1, 0]),
            })
            .collect();
        let (count, frame) = frame(&rows, FrameOptions::default()).unwrap();
        let told: Vec<i64> = (0..7).map(|index| frame.timestamp(index).unwrap().0).collect();
        assert_eq!((count, told), (7, vec![-1, 5, -1, TIMESTAMP_MS_MAX, -1, -1, -1]));
    }

    #[test]
    fn no_more_is_unpacked_than_there_is_room_for() {
        let bomb = batch(Compression::Zstd, &[(0, 8 << 20)]);
        assert!(bomb.bytes().len() < 8 << 10, "{} bytes is no bomb", bomb.bytes().len());
        let refused = Unpacked::open(&bomb, Offset(0), 1 << 20).err().unwrap();
        assert!(refused.is_about_room(), "{refused}");
        let mut room = Room::FIRST;
        assert!(room.unpack(&bomb, Offset(0)).unwrap().is_none());
        assert!(
            room.unpack(&bomb, Offset(0)).unwrap().is_none(),
            "8 MiB are not enough: a record is more than its value"
        );
        assert!(room.unpack(&bomb, Offset(0)).unwrap().is_some());
        room.fit(1);
        assert!(room.unpack(&bomb, Offset(0)).unwrap().is_none());
        assert_eq!(Unpacked::open(&bomb, Offset(0), 9 << 20).unwrap().bytes(), bomb.section(9 << 20).unwrap().len());
    }
}
