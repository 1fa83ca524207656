//! lz4: the frame format, written as Kafka's clients write it (independent blocks of 64 KiB).

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::{Compression, corrupt, read_bounded};
use crate::BatchError;

/// How a frame begins.
const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();

pub(super) fn pack(section: &[u8]) -> Result<Vec<u8>, BatchError> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(section).map_err(|error| corrupt(Compression::Lz4, error))?;
    encoder.finish().map_err(|error| corrupt(Compression::Lz4, error))
}

pub(super) fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    // The decoder reads the legacy format of Linux kernels, too, with two blocks of 8 MiB: no client of Kafka's writes it, and Java's
    // consumers do not read it.
    if !packed.starts_with(&MAGIC) {
        return Err(corrupt(Compression::Lz4, "this is no LZ4 frame"));
    }
    read_bounded(Compression::Lz4, FrameDecoder::new(packed), limit)
}
