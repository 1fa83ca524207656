//! zstd: RFC 8878.
//!
//! Unpacked in one piece into a buffer that the caller's bound limits. A streaming decoder would allocate the window that the
//! frame asks for, up to 128 MiB on the word of 20 bytes, whatever the bound.

use zstd::zstd_safe::{CompressionLevel, DCtx, get_error_name};

use super::{Compression, corrupt};
use crate::BatchError;

/// The library's default.
const LEVEL: CompressionLevel = 3;
/// The first guess at the unpacked size.
const UNPACKED_BYTES_FIRST: usize = 64 << 10;
/// `ZSTD_error_dstSize_tooSmall`, whose number zstd_errors.h promises to keep; an error code is its negation.
const BUFFER_TOO_SMALL: usize = 70_usize.wrapping_neg();

pub(super) fn pack(section: &[u8]) -> Result<Vec<u8>, BatchError> {
    zstd::bulk::compress(section, LEVEL).map_err(|error| corrupt(Compression::Zstd, error))
}

pub(super) fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut context = DCtx::create();
    // The size that the frame names is not believed: the buffer follows what is there. Growing fourfold costs at most a third more.
    let mut capacity = packed.len().saturating_mul(8).max(UNPACKED_BYTES_FIRST).min(limit);
    loop {
        let mut unpacked = Vec::with_capacity(capacity);
        match context.decompress(&mut unpacked, packed) {
            Ok(_) if unpacked.len() > limit => return Err(too_large(limit)),
            Ok(_) => return Ok(unpacked),
            Err(BUFFER_TOO_SMALL) if capacity >= limit => return Err(too_large(limit)),
            Err(BUFFER_TOO_SMALL) => capacity = capacity.saturating_mul(4).min(limit),
            Err(code) => return Err(corrupt(Compression::Zstd, get_error_name(code))),
        }
    }
}

fn too_large(limit: usize) -> BatchError {
    BatchError::UnpackedTooLarge { compression: Compression::Zstd, limit }
}
