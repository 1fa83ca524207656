//! The frame codec: bytes of a stream to frames and back, bounded in length, memory and time.
//!
//! ```text
//! | length: i32 big-endian, 1..=frame_bytes_max | that many bytes | length | ...
//! ```
//!
//! **Reading.** Frames that fit into the inbox (32 KiB) are cut out of it without a copy. A larger one gets a buffer of its own
//! once it has its share of two budgets of announced bytes, for frames being put together on all streams of a connection
//! ([`Assembly`]) and on those of all connections ([`Limits::budget`](crate::Limits::budget)); a stream whose frame does not fit
//! waits for its turn. The buffer has the frame's length up to 2 MiB, and doubles as bytes arrive beyond that: what a peer
//! announces costs no memory that is touched, only what it sends does. Buffers are used again. A frame that has begun must go
//! on arriving.
//!
//! **Writing.** Small parts, lengths and whole small frames are copied together; parts from 8 KiB are passed on as they are.
//! Nothing leaves before the sink is flushed or 256 KiB are queued, so a caller that feeds several frames and flushes once gets
//! one write.

mod read;
mod time;
mod write;

pub(crate) use self::{
    read::{Assembly, FrameReader, ReadLimits},
    time::Activity,
    write::{FrameWriter, Outlet, WriteLimits, advance},
};

const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests;
