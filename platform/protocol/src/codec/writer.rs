//! Writing: a frame in parts, so that record bytes go out without a copy.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_env::Frame;

/// Byte strings of at least this many bytes become a part of their own; shorter ones are copied, which is cheaper than
/// another entry in the vectored write.
pub const PART_BYTES_MIN: usize = 1024;

/// Why a message cannot be written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EncodeError {
    /// A string, byte string or array is longer than its length field can say.
    #[error("a {what} of {length} does not fit the {max} that its length field can say")]
    TooLong {
        /// Which kind.
        what: &'static str,
        /// Its length, bytes or elements.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A version that the message does not have.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// What was asked for.
        version: i16,
    },
    /// The answer is of another api than the request.
    #[error("the answer to {request} is {response}")]
    Api {
        /// What was asked.
        request: &'static str,
        /// What was answered.
        response: &'static str,
    },
}

/// A frame being written.
#[derive(Debug)]
pub struct Writer {
    parts: Vec<Bytes>,
    tail: BytesMut,
    version: i16,
    flexible: bool,
    /// The first length that did not fit; reported at the end, so that writing a field cannot fail.
    error: Option<EncodeError>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// An empty frame, in version 0, not flexible.
    #[must_use]
    pub fn new() -> Self {
        Self { parts: Vec::new(), tail: BytesMut::with_capacity(256), version: 0, flexible: false, error: None }
    }

    /// Sets how the following fields are written.
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

    /// The frame.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`]: the first length that did not fit.
    pub fn finish(mut self) -> Result<Frame, EncodeError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if !self.tail.is_empty() {
            self.parts.push(self.tail.freeze());
        }
        Ok(Frame { parts: self.parts })
    }

    /// Appends bytes by copying them.
    pub fn put(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
    }

    /// Appends bytes, as a part of their own from [`PART_BYTES_MIN`] on.
    pub fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < PART_BYTES_MIN {
            return self.tail.put_slice(bytes);
        }
        if !self.tail.is_empty() {
            self.parts.push(self.tail.split().freeze());
        }
        self.parts.push(bytes.clone());
    }

    /// Appends an unsigned variable-length integer (KIP-482).
    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.tail.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.tail.put_u8(value as u8);
    }

    /// Checks a length against the wire's limit; 0 and a note of the error when it is over.
    fn checked(&mut self, what: &'static str, length: usize, max: usize) -> usize {
        if length <= max {
            return length;
        }
        self.error.get_or_insert(EncodeError::TooLong { what, length, max });
        0
    }

    fn compact(&mut self, what: &'static str, length: Option<usize>) {
        let length = length.map(|length| self.checked(what, length, i32::MAX as usize));
        self.uvarint(length.map_or(0, |length| length as u32 + 1));
    }

    fn fixed(&mut self, what: &'static str, length: Option<usize>) {
        let length = length.map(|length| self.checked(what, length, i32::MAX as usize));
        self.tail.put_i32(length.map_or(-1, |length| length as i32));
    }

    /// Appends the length of a string; none for null.
    pub fn string_length(&mut self, length: Option<usize>) {
        if self.flexible {
            return self.compact("string", length);
        }
        let length = length.map(|length| self.checked("string", length, i16::MAX as usize));
        self.tail.put_i16(length.map_or(-1, |length| length as i16));
    }

    /// Appends the length of a byte string; none for null.
    pub fn bytes_length(&mut self, length: Option<usize>) {
        if self.flexible { self.compact("byte string", length) } else { self.fixed("byte string", length) }
    }

    /// Appends the count of an array; none for null.
    pub fn count(&mut self, count: Option<usize>) {
        if self.flexible { self.compact("array", count) } else { self.fixed("array", count) }
    }

    /// Appends one tagged field, which `value` writes. Rare and small, so it is written aside to learn its length.
    pub fn tagged(&mut self, tag: u32, value: impl FnOnce(&mut Self)) {
        let mut aside = Self::new();
        aside.set_version(self.version, self.flexible);
        value(&mut aside);
        match aside.finish() {
            Ok(frame) => {
                let length = self.checked("tagged field", frame.len(), i32::MAX as usize);
                self.uvarint(tag);
                self.uvarint(length as u32);
                for part in &frame.parts {
                    self.put_shared(part);
                }
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }
}
