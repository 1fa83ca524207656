//! The codecs of record sections, each with a strict bound on what it unpacks to.
//!
//! Without the feature `compression` the names are here and the codecs are not: packing and unpacking are refused.

#[cfg(feature = "compression")]
mod gzip;
#[cfg(feature = "compression")]
mod lz4;
#[cfg(feature = "compression")]
mod snappy;
#[cfg(test)]
#[cfg(feature = "compression")]
mod tests;
#[cfg(feature = "compression")]
mod zstandard;

use std::{fmt, str::FromStr};

use crate::BatchError;

/// How a record section is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks in Java's xerial framing; bare blocks (librdkafka's) are read too.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of attribute bits 0-2; none for a number without one.
    #[must_use]
    pub fn from_codec(codec: u8) -> Option<Self> {
        Self::ALL.get(usize::from(codec)).copied()
    }

    /// The number in attribute bits 0-2.
    #[must_use]
    pub fn codec(self) -> u8 {
        self as u8
    }

    /// The name, as in Kafka's settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that is no codec's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no codec: take none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCompression(String);

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, UnknownCompression> {
        let known = Self::ALL.into_iter().find(|codec| codec.as_str() == text);
        known.ok_or_else(|| UnknownCompression(text.chars().take(80).collect()))
    }
}

/// Packs a record section.
///
/// # Errors
/// `CompressionNotBuilt` of [`BatchError`] in a program without the codecs; `Corrupt` should a codec fail.
pub fn pack(compression: Compression, section: &[u8]) -> Result<Vec<u8>, BatchError> {
    #[cfg(feature = "compression")]
    return match compression {
        Compression::None => Ok(section.to_vec()),
        Compression::Gzip => gzip::pack(section),
        Compression::Snappy => snappy::pack(section),
        Compression::Lz4 => lz4::pack(section),
        Compression::Zstd => zstandard::pack(section),
    };
    #[cfg(not(feature = "compression"))]
    match compression {
        Compression::None => Ok(section.to_vec()),
        _ => Err(BatchError::CompressionNotBuilt { compression }),
    }
}

/// Unpacks a record section to at most `limit` bytes.
///
/// Memory: at most about twice `limit` while it grows, and what the codec needs (lz4: up to 13 MiB of blocks if the frame
/// asks for the largest, touched as far as they are filled).
///
/// # Errors
/// `UnpackedTooLarge` as soon as the bound is passed or known to be; `Corrupt`; `CompressionNotBuilt` in a program without the codecs.
pub fn unpack(compression: Compression, packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    #[cfg(feature = "compression")]
    return match compression {
        Compression::None if packed.len() > limit => Err(BatchError::UnpackedTooLarge { compression, limit }),
        Compression::None => Ok(packed.to_vec()),
        Compression::Gzip => gzip::unpack(packed, limit),
        Compression::Snappy => snappy::unpack(packed, limit),
        Compression::Lz4 => lz4::unpack(packed, limit),
        Compression::Zstd => zstandard::unpack(packed, limit),
    };
    #[cfg(not(feature = "compression"))]
    match compression {
        Compression::None if packed.len() > limit => Err(BatchError::UnpackedTooLarge { compression, limit }),
        Compression::None => Ok(packed.to_vec()),
        _ => Err(BatchError::CompressionNotBuilt { compression }),
    }
}

/// Reads a decoder to its end, at most `limit` bytes.
#[cfg(feature = "compression")]
fn read_bounded(compression: Compression, decoder: impl std::io::Read, limit: usize) -> Result<Vec<u8>, BatchError> {
    use std::io::Read;

    let mut unpacked = Vec::new();
    // One byte more than is allowed tells that there is too much.
    decoder
        .take((limit as u64).saturating_add(1))
        .read_to_end(&mut unpacked)
        .map_err(|error| corrupt(compression, error))?;
    if unpacked.len() > limit {
        return Err(BatchError::UnpackedTooLarge { compression, limit });
    }
    Ok(unpacked)
}

#[cfg(feature = "compression")]
fn corrupt(compression: Compression, reason: impl fmt::Display) -> BatchError {
    BatchError::Corrupt { compression, reason: reason.to_string() }
}
