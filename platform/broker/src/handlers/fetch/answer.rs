//! Reading the answer: as much of each partition as there is room for.

use std::sync::Arc;

use bytes::Bytes;
use millstream_log::{ReadError, ReadParts};
use millstream_model::Offset;
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{FetchPartition, FetchResponse, FetchableTopicResponse, PartitionData, RecordParts},
};
use millstream_record::{BatchHeader, Compression};

use super::{Source, Target, Targets, views::Shown};
use crate::{
    errors::{Messages, WireError},
    partition::Partition,
    view::Seen,
};

/// The first version whose readers can unpack zstd.
const VERSION_ZSTD: i16 = 10;
/// So much is read in one go, bytes; between two, whoever waits for the thread has it: a producer's next packets above all.
const PIECE_BYTES: usize = 512 << 10;

/// What is left of the answer's room.
pub(super) struct AnswerRoom {
    left: usize,
    given: usize,
}

impl AnswerRoom {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { left: bytes_max, given: 0 }
    }

    /// How many bytes of a partition there is room for; none when the answer is full. The first partition with data gives one
    /// batch even if that is larger than all limits (KIP-74).
    pub(super) fn room(&self, request: &FetchPartition) -> Option<usize> {
        let bytes_max = usize::try_from(request.partition_max_bytes).unwrap_or(0).min(self.left);
        (bytes_max > 0 || self.given == 0).then_some(bytes_max)
    }

    /// Whether so many bytes fit: then they are given.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        if self.given > 0 && bytes > self.left {
            return false;
        }
        self.given += bytes;
        self.left = self.left.saturating_sub(bytes);
        true
    }
}

/// What an answer is gathered from.
pub(super) struct Reading<'a> {
    pub(super) topics: &'a [Targets],
    pub(super) version: i16,
    pub(super) shown: &'a Shown,
}

impl Reading<'_> {
    /// What the answer may take of what all answers share, bytes.
    pub(super) fn wanted_bytes(&self) -> usize {
        let targets = self.topics.iter().flat_map(|(_, _, targets)| targets).zip(&self.shown.seen);
        let wanted = targets.map(|(target, seen)| match (&target.source, seen) {
            (Ok(_), Some(Ok(seen))) => seen.bytes(),
            (Ok(source), None) if source.view.is_none() && source.has_news(&target.request) => {
                // A single batch may be larger than was asked for.
                usize::try_from(target.request.partition_max_bytes).unwrap_or(0).max(source.partition.batch_bytes_max())
            }
            _ => 0,
        });
        wanted.fold(0, usize::saturating_add)
    }

    pub(super) async fn read_all(&self, bytes_max: usize) -> FetchResponse {
        let (mut left, mut messages) = (AnswerRoom::new(bytes_max), Messages::new());
        let mut seen = self.shown.seen.iter();
        let mut responses = Vec::with_capacity(self.topics.len());
        for (topic, topic_id, targets) in self.topics {
            let mut partitions = Vec::with_capacity(targets.len());
            for (target, seen) in targets.iter().zip(&mut seen) {
                partitions.push(read_target(target, seen.as_ref(), self.version, &mut left, &mut messages).await);
            }
            responses.push(FetchableTopicResponse { topic: topic.clone(), topic_id: *topic_id, partitions });
        }
        FetchResponse { responses, ..Default::default() }
    }
}

async fn read_target(
    target: &Target,
    seen: Option<&Result<Seen, Arc<WireError>>>,
    version: i16,
    left: &mut AnswerRoom,
    messages: &mut Messages,
) -> PartitionData {
    let partition_index = target.request.partition;
    let mut answer = PartitionData { partition_index, high_watermark: Offset(-1), ..Default::default() };
    let outcome = match &target.source {
        Err(error) => Err(error.clone()),
        Ok(source) => read_source(source, seen, &target.request, left, &mut answer).await,
    };
    let outcome = outcome.and_then(|()| check_codecs(version, &answer.records));
    if let Err(error) = outcome {
        answer.error_code = error.kafka_code();
        answer.error_message = messages.say(&error.message);
        answer.records = RecordParts::default();
    }
    answer
}

/// Readers of old versions cannot unpack zstd: as in Kafka's brokers, they are told so.
fn check_codecs(version: i16, records: &RecordParts) -> Result<(), Arc<WireError>> {
    if version >= VERSION_ZSTD {
        return Ok(());
    }
    let zstd = |header: BatchHeader| header.attributes.compression() == Ok(Compression::Zstd);
    let found = records.0.iter().flat_map(|part| headers(part)).any(zstd);
    match found {
        false => Ok(()),
        true => {
            let message = format!("the records are packed with zstd: read them with version {VERSION_ZSTD} or later");
            Err(Arc::new(WireError::new(ErrorCode::UnsupportedCompressionType, message)))
        }
    }
}

/// The headers of batches that follow each other.
pub(super) fn headers(mut batches: &[u8]) -> impl Iterator<Item = BatchHeader> {
    std::iter::from_fn(move || {
        let header = BatchHeader::parse(batches).ok()?;
        batches = batches.get(header.batch_bytes()..)?;
        Some(header)
    })
}

pub(super) async fn read_source(
    source: &Source,
    seen: Option<&Result<Seen, Arc<WireError>>>,
    request: &FetchPartition,
    left: &mut AnswerRoom,
    answer: &mut PartitionData,
) -> Result<(), Arc<WireError>> {
    let partition = &source.partition;
    let high_watermark = partition.high_watermark();
    answer.high_watermark = high_watermark;
    answer.last_stable_offset = high_watermark;
    answer.log_start_offset = partition.log.start_offset();
    let from = request.fetch_offset;
    if from < answer.log_start_offset || from > high_watermark {
        let (start, end) = (answer.log_start_offset, high_watermark);
        let message = format!("offset {from} is outside of {start}..={end} of partition {}", request.partition);
        return Err(Arc::new(WireError::new(ErrorCode::OffsetOutOfRange, message)));
    }
    let Some(bytes_max) = left.room(request) else { return Ok(()) };
    if from == high_watermark {
        return Ok(());
    }
    let (parts, next) = match (&source.view, seen) {
        (None, _) => {
            let mut parts = Vec::new();
            let take = |read: ReadParts| parts.extend(read.parts);
            read_in_pieces(partition, from, bytes_max, take).await.map_err(|error| Arc::new(error.into()))?;
            (parts, answer.next_offset)
        }
        (Some(_), Some(Ok(seen))) => (seen.batches.clone(), seen.next),
        (Some(_), Some(Err(error))) => return Err(error.clone()),
        // It had nothing new when the views were read.
        (Some(_), None) => return Ok(()),
    };
    // Again: it may have moved since, and what was read lies below where it was then.
    answer.high_watermark = partition.high_watermark();
    answer.last_stable_offset = answer.high_watermark;
    // Too much for what is left of the answer: it comes first in a later one.
    if left.take(parts.iter().map(Bytes::len).sum()) {
        answer.next_offset = next;
        answer.records = RecordParts(parts);
    }
    Ok(())
}

/// Reads about `bytes_max` bytes, piece by piece, and gives each away before others have the thread. What the first piece cannot give is
/// an error; where a later one cannot, the answer ends, and the next fetch is told why.
pub(super) async fn read_in_pieces(
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
    mut give: impl FnMut(ReadParts),
) -> Result<(), ReadError> {
    let mut read = partition.read(from, bytes_max.min(PIECE_BYTES))?;
    let mut left = bytes_max;
    loop {
        let (bytes, next) = (read.bytes(), read.next);
        left = left.saturating_sub(bytes);
        give(read);
        if bytes == 0 || left == 0 || next >= partition.high_watermark() {
            return Ok(());
        }
        tokio::task::yield_now().await;
        read = match partition.read(next, left.min(PIECE_BYTES)) {
            // The first batch is given even if it is too large: here it is not the answer's first.
            Ok(more) if more.bytes() <= left => more,
            _ => return Ok(()),
        };
    }
}
