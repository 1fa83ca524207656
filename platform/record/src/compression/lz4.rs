//! lz4: the frame format, written as Kafka's clients write it (independent blocks of 64 KiB).

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::{Compression, corrupt, read_bounded};
use crate::BatchError;

pub(super) fn pack(section: &[u8]) -> Result<Vec<u8>, BatchError> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(section).map_err(|error| corrupt(Compression::Lz4, error))?;
    encoder.finish().map_err(|error| corrupt(Compression::Lz4, error))
}

pub(super) fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    read_bounded(Compression::Lz4, FrameDecoder::new(packed), limit)
}
