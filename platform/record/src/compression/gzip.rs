//! gzip: RFC 1952, one member or several.

use std::io::Write;

use flate2::{bufread::MultiGzDecoder, write::GzEncoder};

use super::{Compression, corrupt, read_bounded};
use crate::BatchError;

pub(super) fn pack(section: &[u8]) -> Result<Vec<u8>, BatchError> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(section).and_then(|()| encoder.finish()).map_err(|error| corrupt(Compression::Gzip, error))
}

pub(super) fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    read_bounded(Compression::Gzip, MultiGzDecoder::new(packed), limit)
}
