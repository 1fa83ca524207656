//! The codec: how fields are read and written, and the macro in which every message is declared once.
//!
//! A message's version decides which fields are there; from the version `flexible` on, strings, byte strings and arrays
//! have compact lengths and every struct ends in tagged fields (KIP-482). Both are state of the [`Reader`] and
//! [`Writer`], so that a field's type alone says how it travels:
//!
//! | type | wire |
//! |---|---|
//! | `bool`, `i8`, `i16`, `i32`, `i64`, newtypes of these | big-endian |
//! | `TopicId` and other UUIDs | 16 bytes |
//! | `String` | `i16` length, or compact |
//! | `Bytes`, `Digest`, [`RecordParts`](crate::RecordParts) | `i32` length, or compact |
//! | `Vec<T>` | `i32` count, or compact |
//! | `Option<T>` of the three above | the same, nullable |
//! | `Option` of a struct | `i8`: -1 is null, 1 is followed by the struct |
//!
//! Reading takes slices of the frame and trusts nothing: a length or count is compared with the bytes that remain before
//! anything is allocated for it, and what a message may decode to is bounded by [`DECODED_BYTES_MAX`]. A request's elements and
//! strings are bounded too ([`REQUEST_ELEMENTS_MAX`], [`STRING_BYTES_MAX`]): its answer says something about each.

mod field;
mod macros;
mod reader;
mod writer;

pub use field::{Field, Message, Nullable};
pub(crate) use macros::{message, nullable_struct};
pub use reader::{DECODED_BYTES_MAX, DecodeError, REQUEST_ELEMENTS_MAX, Reader, STRING_BYTES_MAX};
pub use writer::{EncodeError, PART_BYTES_MIN, Writer};

use bytes::Bytes;
use millstream_env::Frame;

/// Reads one message body (no header) that fills `bytes` exactly.
///
/// # Errors
/// [`DecodeError`]; in particular [`DecodeError::Version`] outside the message's versions and [`DecodeError::Trailing`]
/// when bytes are left.
pub fn decode_body<M: Message>(bytes: Bytes, version: i16) -> Result<M, DecodeError> {
    let mut reader = Reader::new(bytes);
    let message = read_body(&mut reader, version)?;
    reader.finish()?;
    Ok(message)
}

/// Writes one message body, without a header.
///
/// Fields that `version` does not have are left out.
///
/// # Errors
/// [`EncodeError::Version`] outside the message's versions; a length that the wire cannot carry.
pub fn encode_body<M: Message>(message: &M, version: i16) -> Result<Frame, EncodeError> {
    let mut writer = Writer::new();
    write_body(&mut writer, message, version)?;
    writer.finish()
}

pub(crate) fn read_body<M: Message>(reader: &mut Reader, version: i16) -> Result<M, DecodeError> {
    if !M::VERSIONS.contains(&version) {
        return Err(DecodeError::Version { message: M::NAME, version });
    }
    reader.set_version(version, version >= M::FLEXIBLE_FROM);
    M::read(reader)
}

pub(crate) fn write_body<M: Message>(writer: &mut Writer, message: &M, version: i16) -> Result<(), EncodeError> {
    if !M::VERSIONS.contains(&version) {
        return Err(EncodeError::Version { message: M::NAME, version });
    }
    writer.set_version(version, version >= M::FLEXIBLE_FROM);
    message.write(writer);
    Ok(())
}

/// Whether a tagged field must be written. (A function, so that the default's type is the field's.)
pub(crate) fn differs<T: PartialEq>(value: &T, default: &T) -> bool {
    value != default
}
