//! Journal frames: the header's bytes, the kinds, and how a payload is checked.

use millstream_model::{Durability, LeaderEpoch, Offset, PartitionId, TopicId};
use millstream_record::{BatchHeader, crc32c};
use uuid::Uuid;

use crate::{
    LogId, Stream,
    fault::{self, Fault},
};

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 104;
/// A group of frames begins at a multiple of this and is filled up with zeros to one: a torn write of a group cannot touch
/// an earlier one, and no page has to be read before it is written.
pub(crate) const GROUP_ALIGN: u64 = 4096;

const MAGIC: u32 = u32::from_be_bytes(*b"MSfr");

/// What a frame says. Any other number is refused as a newer version's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// One batch, which is the payload.
    Append = 1,
    /// One batch that the log's mark covered, durably, before this was written. No payload.
    AppendRef = 2,
    /// A leader's term begins at the base offset.
    EpochStart = 3,
    /// The log was cut at the base offset.
    Truncate = 4,
    /// The log starts at the base offset.
    LogStart = 5,
    /// The log was deleted.
    Drop = 6,
    /// The log's durability is the frame's from here on, before it was the other one.
    DurabilityChange = 7,
    /// All batches past the log's mark once more, which are the payload: what is before it is not needed for them.
    Carry = 8,
}

impl Kind {
    /// The kind, if this version can replay it.
    fn built(code: u8) -> Option<Self> {
        [
            Self::Append,
            Self::AppendRef,
            Self::EpochStart,
            Self::Truncate,
            Self::LogStart,
            Self::Drop,
            Self::DurabilityChange,
            Self::Carry,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
    }
}

/// What a frame says beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Log sequence number: counts the frames of the data directory, from 1, without a gap.
    pub(crate) lsn: u64,
    /// What happened.
    pub(crate) kind: Kind,
    /// To which log.
    pub(crate) log: LogId,
    /// That log's durability: where nothing is left of it, whether that may be.
    pub(crate) durability: Durability,
    /// In whose term.
    pub(crate) leader_epoch: LeaderEpoch,
    /// The first offset that it concerns.
    pub(crate) base_offset: Offset,
    /// The log's end after it.
    pub(crate) end_offset: Offset,
    /// Bytes of payload.
    pub(crate) payload_bytes: u32,
    /// For `Append` and `AppendRef` the batch's own CRC, which covers it from byte 21; what is before repeats the frame. For
    /// `Carry` that of the whole payload. For `EpochStart`, which has none, the entry of the metadata by which the log was made, 0 if that
    /// is not known or greater. Else 0.
    pub(crate) payload_crc: u32,
}

/// Where a frame is: in which use of which file, and what was durable when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FramePlace {
    /// The nonce of the file's present use.
    pub(crate) nonce: u64,
    /// All frames up to this were durable when this one was written: a later frame proves them.
    pub(crate) synced_lsn: u64,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAFrame {
    /// Zeros, remains of an earlier use of the file, or torn.
    Absent,
    /// A sound frame of this use, of a kind or stream that this version does not know.
    Newer {
        /// The kind's number.
        kind: u8,
    },
}

impl Frame {
    /// The header's bytes.
    pub(crate) fn encode(&self, place: FramePlace) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let (stream, of) = self.log.stream.code();
        let mut at = 8;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&place.nonce.to_be_bytes());
        put(&self.lsn.to_be_bytes());
        put(&place.synced_lsn.to_be_bytes());
        put(&[self.kind as u8, stream, durability_code(self.durability), 0]);
        put(&self.leader_epoch.0.to_be_bytes());
        put(self.log.topic.0.as_bytes());
        put(&self.log.partition.0.to_be_bytes());
        put(&self.log.generation.to_be_bytes());
        put(of.as_bytes());
        put(&self.base_offset.0.to_be_bytes());
        put(&self.end_offset.0.to_be_bytes());
        put(&self.payload_bytes.to_be_bytes());
        put(&self.payload_crc.to_be_bytes());
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        let crc = crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads a header that belongs to the use of a file that `nonce` names.
    pub(crate) fn decode(bytes: &[u8], nonce: u64) -> Result<(Self, FramePlace), NotAFrame> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES).ok_or(NotAFrame::Absent)?;
        let u32_at = |at: usize| u32::from_be_bytes(array(bytes, at));
        let u64_at = |at: usize| u64::from_be_bytes(array(bytes, at));
        if u32_at(0) != MAGIC
            || !(u64_at(8) == nonce || fault::is_on(Fault::StaleNonce))
            || u32_at(4) != crc32c(&bytes[8..])
        {
            return Err(NotAFrame::Absent);
        }
        let newer = NotAFrame::Newer { kind: bytes[32] };
        let kind = Kind::built(bytes[32]).ok_or(newer)?;
        let stream = Stream::from_code(bytes[33], Uuid::from_bytes(array(bytes, 64))).ok_or(newer)?;
        let durability = durability_from(bytes[34]).filter(|_| bytes[35] == 0).ok_or(newer)?;
        let frame = Self {
            lsn: u64_at(16),
            kind,
            log: LogId {
                topic: TopicId(Uuid::from_bytes(array(bytes, 40))),
                partition: PartitionId(u32_at(56).cast_signed()),
                stream,
                generation: u32_at(60),
            },
            durability,
            leader_epoch: LeaderEpoch(u32_at(36).cast_signed()),
            base_offset: Offset(u64_at(80).cast_signed()),
            end_offset: Offset(u64_at(88).cast_signed()),
            payload_bytes: u32_at(96),
            payload_crc: u32_at(100),
        };
        Ok((frame, FramePlace { nonce, synced_lsn: u64_at(24) }))
    }

    /// Whether `payload` is what was written with this header.
    pub(crate) fn holds(&self, payload: &[u8]) -> bool {
        if payload.len() != self.payload_bytes as usize {
            return false;
        }
        match self.kind {
            Kind::Append => {}
            Kind::Carry => {
                let sound = crc32c(payload) == self.payload_crc;
                return sound && batches_in(payload, self.base_offset).is_some_and(|(_, end)| end == self.end_offset);
            }
            _ => return payload.is_empty(),
        }
        let Ok(batch) = BatchHeader::parse(payload) else { return false };
        batch.batch_bytes() == payload.len()
            && batch.base_offset == self.base_offset
            && batch.end_offset() == self.end_offset
            && batch.partition_leader_epoch == self.leader_epoch
            && batch.crc == self.payload_crc
            && batch.crc_matches(payload)
    }
}

/// Batches with their headers.
pub(crate) type Batches<'a> = Vec<(BatchHeader, &'a [u8])>;

/// The batches that `payload` consists of, the first of which begins at `base`, and the offset after the last; none unless they are
/// whole and follow each other. Their own CRCs are not looked at.
pub(crate) fn batches_in(payload: &[u8], base: Offset) -> Option<(Batches<'_>, Offset)> {
    let (mut found, mut rest, mut end) = (Vec::new(), payload, base);
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).ok().filter(|header| header.base_offset == end)?;
        let batch;
        (batch, rest) = rest.split_at_checked(header.batch_bytes())?;
        end = header.end_offset();
        found.push((header, batch));
    }
    Some((found, end))
}

/// A durability's number on disk.
pub(crate) fn durability_code(durability: Durability) -> u8 {
    match durability {
        Durability::Fsync => 0,
        Durability::Replicated => 1,
    }
}

/// The reverse of [`durability_code`].
pub(crate) fn durability_from(code: u8) -> Option<Durability> {
    match code {
        0 => Some(Durability::Fsync),
        1 => Some(Durability::Replicated),
        _ => None,
    }
}

/// The bytes at a position that is known to lie within.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Rounds up to a multiple of [`GROUP_ALIGN`].
pub(crate) fn align(at: u64) -> u64 {
    at.next_multiple_of(GROUP_ALIGN)
}

#[cfg(test)]
mod tests {
    use millstream_model::{TimestampMs, TransformId};
    use millstream_record::{BatchBuilder, BatchOptions, patch};

    use super::*;

    fn frame() -> (Frame, FramePlace) {
        let frame = Frame {
            lsn: 0x0102,
            kind: Kind::EpochStart,
            log: LogId {
                topic: TopicId(Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888)),
                partition: PartitionId(3),
                stream: Stream::Progress(TransformId(Uuid::from_u128(0xaa))),
                generation: 9,
            },
            durability: Durability::Fsync,
            leader_epoch: LeaderEpoch(5),
            base_offset: Offset(7),
            end_offset: Offset(7),
            payload_bytes: 0,
            payload_crc: 0,
        };
        (frame, FramePlace { nonce: 0xfeed, synced_lsn: 0x0101 })
    }

    #[test]
    fn a_frame_has_these_bytes_for_ever() {
        let (frame, place) = frame();
        let hex: String = frame.encode(place).iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "4d536672",
            "a499e0f5",
            "000000000000feed",
            "0000000000000102",
            "0000000000000101",
            "03010000",
            "00000005",
            "11112222333344445555666677778888",
            "00000003",
            "00000009",
            "000000000000000000000000000000aa",
            "0000000000000007",
            "0000000000000007",
            "00000000",
            "00000000",
        );
        assert_eq!(hex, golden);
        assert_eq!(Frame::decode(&frame.encode(place), place.nonce), Ok((frame, place)));
    }

    #[test]
    fn a_changed_byte_or_another_nonce_is_no_frame() {
        let (frame, place) = frame();
        let sound = frame.encode(place);
        for at in 0..sound.len() {
            let mut bytes = sound;
            bytes[at] ^= 0x10;
            assert_eq!(Frame::decode(&bytes, place.nonce), Err(NotAFrame::Absent), "byte {at}");
        }
        assert_eq!(Frame::decode(&sound, 1), Err(NotAFrame::Absent));
        assert_eq!(Frame::decode(&sound[..100], place.nonce), Err(NotAFrame::Absent));
    }

    #[test]
    fn a_carry_holds_batches_that_follow_each_other_and_nothing_else() {
        let batch = |base| {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.push(TimestampMs(1), None, Some(b"value"), &[]).unwrap();
            let mut batch = builder.build().unwrap().to_vec();
            patch(&mut batch, Offset(base), LeaderEpoch(1)).unwrap();
            batch
        };
        let holds = |payload: &[u8], end| {
            let crc = crc32c(payload);
            let (payload_bytes, base_offset, end_offset) = (payload.len() as u32, Offset(7), Offset(end));
            let frame =
                Frame { kind: Kind::Carry, base_offset, end_offset, payload_bytes, payload_crc: crc, ..frame().0 };
            assert!(!Frame { payload_crc: crc ^ 1, ..frame }.holds(payload), "its own CRC counts");
            frame.holds(payload)
        };
        let two = [batch(7), batch(8)].concat();
        assert!(holds(&two, 9));
        assert!(!holds(&two, 8) && !holds(&two, 10), "another end");
        assert!(!holds(&two[..two.len() - 1], 9) && !holds(&two[..70], 9), "not whole");
        assert!(!holds(&[batch(8), batch(9)].concat(), 10), "another beginning");
        assert!(!holds(&[batch(7), batch(9)].concat(), 10), "a gap");
        assert!(!holds(&[&two[..], &[0]].concat(), 9), "something behind");
    }

    #[test]
    fn kinds_that_are_not_built_are_a_newer_versions() {
        let (frame, place) = frame();
        for kind in [0, 9, 255] {
            let mut bytes = frame.encode(place);
            bytes[32] = kind;
            let crc = crc32c(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_be_bytes());
            assert_eq!(Frame::decode(&bytes, place.nonce), Err(NotAFrame::Newer { kind }));
        }
    }
}
