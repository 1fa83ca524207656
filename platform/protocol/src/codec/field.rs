//! How each type of field travels.

use std::ops::RangeInclusive;

use bytes::Bytes;
use millstream_model::{
    BrokerId, Digest, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, RoutingEpoch, TimestampMs, TopicId,
    TransformId, ViewId,
};
use uuid::Uuid;

use super::{DecodeError, Reader, Writer};
use crate::ErrorCode;

/// Something that a message is made of.
pub trait Field: Sized {
    /// The fewest bytes it takes on the wire in any version: what an array's count is checked with.
    const BYTES_MIN: usize = 1;

    /// Reads one.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn read(reader: &mut Reader) -> Result<Self, DecodeError>;

    /// Writes one. What does not fit is reported by [`Writer::finish`].
    fn write(&self, writer: &mut Writer);

    /// Whether there is an error code in it that is one of an error.
    fn tells_error(&self) -> bool {
        false
    }
}

/// Something whose length can say null.
pub trait Nullable: Sized {
    /// Reads one; none for null.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError>;

    /// Writes one, or null.
    fn write_nullable(value: Option<&Self>, writer: &mut Writer);

    /// As [`Field::tells_error`].
    fn holds_error(&self) -> bool {
        false
    }
}

/// A request's or response's body: a struct with versions.
pub trait Message: Field + Default {
    /// The name, as Kafka has it.
    const NAME: &'static str;
    /// The versions that can be read and written.
    const VERSIONS: RangeInclusive<i16>;
    /// The first version with compact lengths and tagged fields.
    const FLEXIBLE_FROM: i16;
}

macro_rules! number {
    ($($number:ident),*) => {$(
        impl Field for $number {
            const BYTES_MIN: usize = size_of::<$number>();

            fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
                Ok(Self::from_be_bytes(reader.array()?))
            }

            fn write(&self, writer: &mut Writer) {
                writer.put(&self.to_be_bytes());
            }
        }
    )*};
}

number!(i8, i16, i32, i64);

macro_rules! newtype {
    ($($name:ident($inner:ident)),*) => {$(
        impl Field for $name {
            const BYTES_MIN: usize = $inner::BYTES_MIN;

            fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
                Ok(Self($inner::read(reader)?))
            }

            fn write(&self, writer: &mut Writer) {
                self.0.write(writer);
            }
        }
    )*};
}

newtype!(BrokerId(i32), LeaderEpoch(i32), PartitionId(i32), RoutingEpoch(i32));
newtype!(Offset(i64), ProducerId(i64), TimestampMs(i64), ProducerEpoch(i16));
newtype!(TopicId(Uuid), TransformId(Uuid), ViewId(Uuid));

impl Field for bool {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let [byte] = reader.array()?;
        Ok(byte != 0)
    }

    fn write(&self, writer: &mut Writer) {
        writer.put(&[u8::from(*self)]);
    }
}

impl Field for Uuid {
    const BYTES_MIN: usize = 16;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self::from_bytes(reader.array()?))
    }

    fn write(&self, writer: &mut Writer) {
        writer.put(self.as_bytes());
    }
}

impl Field for ErrorCode {
    const BYTES_MIN: usize = 2;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self::from_code(i16::read(reader)?))
    }

    fn write(&self, writer: &mut Writer) {
        self.code().write(writer);
    }

    fn tells_error(&self) -> bool {
        !self.is_ok()
    }
}

impl Nullable for String {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.string_length()? else { return Ok(None) };
        reader.text(length).map(|text| Some(text.to_owned()))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.string_length(value.map(String::len));
        writer.put(value.map_or(&[], |text| text.as_bytes()));
    }
}

impl Nullable for Bytes {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.bytes_length()? else { return Ok(None) };
        reader.slice(length).map(Some)
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.bytes_length(value.map(Bytes::len));
        if let Some(bytes) = value {
            writer.put_shared(bytes);
        }
    }
}

impl Nullable for Digest {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        let Some(length) = reader.bytes_length()? else { return Ok(None) };
        if length != 32 {
            return Err(DecodeError::Size { at: reader.at(), length, expected: 32 });
        }
        Ok(Some(Self(reader.array()?)))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.bytes_length(value.map(|digest| digest.0.len()));
        writer.put(value.map_or(&[], |digest| &digest.0));
    }
}

impl<T: Field> Nullable for Vec<T> {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        let Some(count) = reader.count(T::BYTES_MIN, size_of::<T>())? else { return Ok(None) };
        // A count can be true to the bytes that remain and still be a lie, so at first no more is taken than what remains.
        let believed = reader.remaining() / size_of::<T>().max(1) + 1;
        let mut elements = Self::with_capacity(count.min(believed));
        for _ in 0..count {
            elements.push(T::read(reader)?);
        }
        Ok(Some(elements))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.count(value.map(Self::len));
        for element in value.into_iter().flatten() {
            element.write(writer);
        }
    }

    fn holds_error(&self) -> bool {
        self.iter().any(T::tells_error)
    }
}

impl<T: Nullable> Field for Option<T> {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        T::read_nullable(reader)
    }

    fn write(&self, writer: &mut Writer) {
        T::write_nullable(self.as_ref(), writer);
    }

    fn tells_error(&self) -> bool {
        self.as_ref().is_some_and(T::holds_error)
    }
}

macro_rules! not_null {
    ($([$($generics:tt)*] $name:ty),*) => {$(
        impl<$($generics)*> Field for $name {
            fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
                let at = reader.at();
                Self::read_nullable(reader)?.ok_or(DecodeError::Null { at })
            }

            fn write(&self, writer: &mut Writer) {
                Self::write_nullable(Some(self), writer);
            }

            fn tells_error(&self) -> bool {
                self.holds_error()
            }
        }
    )*};
}

not_null!([] String, [] Bytes, [] Digest, [T: Field] Vec<T>);
