//! Frames into guests and out of them; `millstream_record::frame` says what one is.
//!
//! Into a guest ([`FrameBuilder`], [`InputFrame`]): no columns; offsets grow strictly but may have gaps. Out of a guest
//! ([`Emitted`]): `source`, the index of the input record that an output record came from, is required.
//! Everything that is parsed here is hostile: each length is checked against the bytes that remain.

mod input;
mod output;
mod span;

pub use input::{FRAME_BYTES_TARGET, FrameBuilder, FrameOptions, InputFrame};
pub use millstream_record::frame::{
    COLUMN_PARTITION, COLUMN_SOURCE, FLAG_HEADERS_ELIDED, FLAG_LOG_APPEND_TIME, FLAG_VALUES_ELIDED, FrameError,
    FrameHeader, HEADER_BYTES,
};
pub use output::{Emitted, OutputError, OutputRecord, OutputRules, Shape};

pub(crate) use output::{Checker, check_assignment, check_selection};

#[cfg(test)]
mod tests;
