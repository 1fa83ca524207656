//! Reading: a position in a frame, every length checked against what remains.

use bytes::Bytes;

/// Most memory that one message's arrays may take once decoded, bytes. A frame of small elements grows by up to a
/// hundred times when decoded, so the frame's own bound is not enough.
pub const DECODED_BYTES_MAX: usize = 64 << 20;

/// Most elements that all arrays of one request may have together. What is answered about an element takes many times
/// what it takes to ask, so the bounds on bytes are not enough.
pub const REQUEST_ELEMENTS_MAX: usize = 200_000;
/// Longest string in a request of Kafka's, bytes: what older versions' lengths could say, and Kafka's brokers allow.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Why bytes are not the message they claim to be. `at` is the position in the frame, bytes.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// A field needs more bytes than the frame (or the tagged field around it) has left.
    #[error("at byte {at}: {needed} bytes needed, {remaining} left")]
    Truncated {
        /// Where.
        at: usize,
        /// What the field needs at least.
        needed: usize,
        /// What is there.
        remaining: usize,
    },
    /// A length below -1, or -1 where null is not allowed.
    #[error("at byte {at}: length {length}")]
    Length {
        /// Where.
        at: usize,
        /// What was said.
        length: i64,
    },
    /// Null where the field must have a value.
    #[error("at byte {at}: null where a value is needed")]
    Null {
        /// Where.
        at: usize,
    },
    /// A variable-length integer of more than 32 bits.
    #[error("at byte {at}: a variable-length integer is too long")]
    Varint {
        /// Where.
        at: usize,
    },
    /// Text that is not UTF-8.
    #[error("at byte {at}: text is not UTF-8")]
    Utf8 {
        /// Where.
        at: usize,
    },
    /// A byte string whose length is fixed has another one.
    #[error("at byte {at}: {length} bytes where {expected} are needed")]
    Size {
        /// Where.
        at: usize,
        /// What was there.
        length: usize,
        /// What the field has.
        expected: usize,
    },
    /// The arrays would take more than [`DECODED_BYTES_MAX`].
    #[error("at byte {at}: the message would take more than {DECODED_BYTES_MAX} bytes of memory")]
    TooLarge {
        /// Where.
        at: usize,
    },
    /// The arrays of a request have more than [`REQUEST_ELEMENTS_MAX`] elements.
    #[error("at byte {at}: the request has more than {REQUEST_ELEMENTS_MAX} elements: ask for less at a time")]
    TooMany {
        /// Where.
        at: usize,
    },
    /// A string in a request is too long.
    #[error("at byte {at}: a string of {length} bytes; {max} are allowed")]
    LongString {
        /// Where.
        at: usize,
        /// What was said.
        length: usize,
        /// What is allowed.
        max: usize,
    },
    /// Bytes after the end of the message or of a tagged field.
    #[error("at byte {at}: {bytes} bytes too many")]
    Trailing {
        /// Where.
        at: usize,
        /// How many.
        bytes: usize,
    },
    /// No such api key.
    #[error("api key {api_key} is unknown")]
    Api {
        /// What was asked for.
        api_key: i16,
    },
    /// A version that the message does not have.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// What was asked for.
        version: i16,
    },
}

/// A position in a frame, with the version that says what comes next.
#[derive(Debug)]
pub struct Reader {
    frame: Bytes,
    at: usize,
    /// Exclusive. Within a tagged field: that field's end.
    end: usize,
    version: i16,
    flexible: bool,
    /// What arrays may still take.
    memory: usize,
    /// How many elements arrays may still have.
    elements: usize,
    string_bytes_max: usize,
}

impl Reader {
    /// Starts at the first byte, in version 0, not flexible.
    #[must_use]
    pub fn new(frame: Bytes) -> Self {
        let end = frame.len();
        let (elements, string_bytes_max) = (usize::MAX, usize::MAX);
        Self { frame, at: 0, end, version: 0, flexible: false, memory: DECODED_BYTES_MAX, elements, string_bytes_max }
    }

    /// From here on it is a request that is read, with strings of at most `string_bytes_max` bytes and no more elements than
    /// [`REQUEST_ELEMENTS_MAX`]. (An answer may be as large as its frame: it was asked for.)
    pub(crate) fn limit_request(&mut self, string_bytes_max: usize) {
        self.elements = REQUEST_ELEMENTS_MAX;
        self.string_bytes_max = string_bytes_max;
    }

    /// Sets what the following fields are read as.
    pub fn set_version(&mut self, version: i16, flexible: bool) {
        self.version = version;
        self.flexible = flexible;
    }

    /// The message's version.
    #[must_use]
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether lengths are compact and structs end in tagged fields.
    #[must_use]
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// The position, bytes from the frame's start.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] when bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { at: self.at, bytes }),
        }
    }

    fn need(&self, needed: usize) -> Result<(), DecodeError> {
        let remaining = self.remaining();
        if needed > remaining {
            return Err(DecodeError::Truncated { at: self.at, needed, remaining });
        }
        Ok(())
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self.frame.get(self.at..self.end).unwrap_or_default();
        let Some(bytes) = rest.first_chunk::<N>() else {
            return Err(DecodeError::Truncated { at: self.at, needed: N, remaining: self.remaining() });
        };
        self.at += N;
        Ok(*bytes)
    }

    /// The next `length` bytes, shared with the frame: no copy.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.need(length)?;
        let bytes = self.frame.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    /// The next `length` bytes as text.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Utf8`].
    pub fn text(&mut self, length: usize) -> Result<&str, DecodeError> {
        self.need(length)?;
        let at = self.at;
        self.at += length;
        str::from_utf8(&self.frame[at..at + length]).map_err(|_| DecodeError::Utf8 { at })
    }

    /// An unsigned variable-length integer of at most 32 bits (KIP-482).
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Varint`].
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let at = self.at;
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0xf {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { at })
    }

    /// A length or count as the version writes it, none for null. Compact lengths are one more than what they say.
    fn nullable_length(
        &mut self,
        fixed: impl FnOnce(&mut Self) -> Result<i64, DecodeError>,
    ) -> Result<Option<usize>, DecodeError> {
        let at = self.at;
        let length = if self.flexible { i64::from(self.uvarint()?) - 1 } else { fixed(self)? };
        match length {
            -1 => Ok(None),
            0..=0x7fff_ffff => Ok(Some(length as usize)),
            _ => Err(DecodeError::Length { at, length }),
        }
    }

    /// The length of a string, bytes; none for null.
    ///
    /// # Errors
    /// [`DecodeError::Length`], [`DecodeError::Truncated`] when fewer bytes follow, [`DecodeError::LongString`].
    pub fn string_length(&mut self) -> Result<Option<usize>, DecodeError> {
        let at = self.at;
        let length = self.nullable_length(|reader| Ok(i64::from(i16::from_be_bytes(reader.array()?))))?;
        let max = self.string_bytes_max;
        if let Some(length) = length.filter(|length| *length > max) {
            return Err(DecodeError::LongString { at, length, max });
        }
        self.need(length.unwrap_or(0))?;
        Ok(length)
    }

    /// The length of a byte string; none for null.
    ///
    /// # Errors
    /// As [`Reader::string_length`].
    pub fn bytes_length(&mut self) -> Result<Option<usize>, DecodeError> {
        let length = self.nullable_length(|reader| Ok(i64::from(i32::from_be_bytes(reader.array()?))))?;
        self.need(length.unwrap_or(0))?;
        Ok(length)
    }

    /// The count of an array whose elements have at least `bytes_min` bytes each on the wire and `memory` bytes each once
    /// decoded; none for null.
    ///
    /// # Errors
    /// [`DecodeError::Length`], [`DecodeError::Truncated`] when the bytes that follow cannot hold so many,
    /// [`DecodeError::TooLarge`], [`DecodeError::TooMany`].
    pub fn count(&mut self, bytes_min: usize, memory: usize) -> Result<Option<usize>, DecodeError> {
        let count = self.nullable_length(|reader| Ok(i64::from(i32::from_be_bytes(reader.array()?))))?;
        let Some(count) = count else { return Ok(None) };
        self.need(count.saturating_mul(bytes_min))?;
        self.elements = self.elements.checked_sub(count).ok_or(DecodeError::TooMany { at: self.at })?;
        self.memory =
            self.memory.checked_sub(count.saturating_mul(memory)).ok_or(DecodeError::TooLarge { at: self.at })?;
        Ok(Some(count))
    }

    /// Reads the tagged fields at the end of a struct. `field` reads the tags that it knows and returns whether it did;
    /// others are skipped.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Trailing`] when a known field does not fill its length, and those of
    /// `field`.
    pub fn tagged(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let length = self.uvarint()? as usize;
            self.need(length)?;
            let outer = std::mem::replace(&mut self.end, self.at + length);
            if field(tag, self)? {
                let bytes = self.remaining();
                if bytes != 0 {
                    return Err(DecodeError::Trailing { at: self.at, bytes });
                }
            }
            self.at = self.end;
            self.end = outer;
        }
        Ok(())
    }
}
