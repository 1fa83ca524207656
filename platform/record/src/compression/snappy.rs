//! snappy: blocks in Java's xerial framing, or one bare block.
//!
//! ```text
//! xerial: 82 'SNAPPY' 00 | i32 version = 1 | i32 compatible with = 1 | blocks, each: i32 length, a bare block
//! ```
//! Streams may be concatenated: where a length should be there is then the magic again (as a length it is negative).

use snap::raw::{Decoder, Encoder, decompress_len};

use super::{Compression, corrupt};
use crate::BatchError;

const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// What snappy-java packs at a time.
const BLOCK_BYTES: usize = 32 << 10;
/// A copy element takes at least two bytes and gives at most 64, so no block grows by more than this.
const EXPANSION_MAX: usize = 32;

pub(super) fn pack(section: &[u8]) -> Result<Vec<u8>, BatchError> {
    let mut packed = XERIAL_HEADER.to_vec();
    let mut encoder = Encoder::new();
    for block in section.chunks(BLOCK_BYTES) {
        let block = encoder.compress_vec(block).map_err(|error| corrupt(Compression::Snappy, error))?;
        packed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        packed.extend_from_slice(&block);
    }
    Ok(packed)
}

pub(super) fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut unpacked = Vec::new();
    if !packed.starts_with(MAGIC) {
        unpack_block(packed, &mut unpacked, limit)?;
        return Ok(unpacked);
    }
    let mut rest = packed;
    while !rest.is_empty() {
        if rest.starts_with(MAGIC) {
            rest = rest.get(XERIAL_HEADER.len()..).ok_or_else(cut_off)?;
            continue;
        }
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let (block, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(cut_off)?;
        unpack_block(block, &mut unpacked, limit)?;
        rest = after;
    }
    Ok(unpacked)
}

fn unpack_block(block: &[u8], unpacked: &mut Vec<u8>, limit: usize) -> Result<(), BatchError> {
    let length = decompress_len(block).map_err(|error| corrupt(Compression::Snappy, error))?;
    if length > limit - unpacked.len() {
        return Err(BatchError::UnpackedTooLarge { compression: Compression::Snappy, limit });
    }
    if length > block.len().saturating_mul(EXPANSION_MAX) {
        let reason = format!("a block of {} bytes cannot unpack to {length}", block.len());
        return Err(corrupt(Compression::Snappy, reason));
    }
    let start = unpacked.len();
    unpacked.resize(start + length, 0);
    Decoder::new().decompress(block, &mut unpacked[start..]).map_err(|error| corrupt(Compression::Snappy, error))?;
    Ok(())
}

fn cut_off() -> BatchError {
    corrupt(Compression::Snappy, "the framing ends within a block")
}
