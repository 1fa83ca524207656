//! Buffers of large reads and frames, used again: a new one costs a page fault for every 4 KiB, which is more than the copy
//! into it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Smaller ones have memory of their own.
const POOLED_BYTES_MIN: usize = 32 << 10;
/// What waits for its next use, bytes at most.
const IDLE_BYTES_MAX: usize = 4 << 20;
/// A buffer is not used for less than this part of it.
const SPARE_MAX: usize = 4;

/// Buffers that come back. Cloning shares them. At most 4 MiB wait for their next use.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    /// The last one that came back is used first: it may still be in the processor's cache.
    idle: Arc<Mutex<Idle>>,
}

#[derive(Debug, Default)]
struct Idle {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

/// Bytes in a buffer that comes back.
struct Lent {
    bytes: BytesMut,
    home: Buffers,
}

impl Buffers {
    /// A buffer with `len` bytes to be written over: what they are before is left of an earlier use, or zero.
    #[must_use]
    pub fn take_filled(&self, len: usize) -> BytesMut {
        let Some(mut buffer) = self.find(len) else { return BytesMut::zeroed(len) };
        // What was never filled is, once.
        buffer.resize(len.max(buffer.len()), 0);
        buffer.truncate(len);
        buffer
    }

    /// An empty buffer for `len` bytes: one that was used before, or a new one with room for `first` of them.
    #[must_use]
    pub fn take_empty(&self, len: usize, first: usize) -> BytesMut {
        let Some(mut buffer) = self.find(len) else { return BytesMut::with_capacity(len.min(first)) };
        buffer.clear();
        buffer
    }

    /// The bytes, which can be sliced and shared. Their buffer comes back when the last slice goes.
    #[must_use]
    pub fn lend(&self, bytes: BytesMut) -> Bytes {
        if bytes.capacity() < POOLED_BYTES_MIN {
            return bytes.freeze();
        }
        Bytes::from_owner(Lent { bytes, home: self.clone() })
    }

    /// Takes a buffer back of which nothing was lent.
    pub fn give_back(&self, buffer: BytesMut) {
        let bytes = buffer.capacity();
        let mut idle = self.idle.lock();
        if bytes >= POOLED_BYTES_MIN && idle.bytes + bytes <= IDLE_BYTES_MAX {
            idle.bytes += bytes;
            idle.buffers.push(buffer);
        }
    }

    fn find(&self, len: usize) -> Option<BytesMut> {
        let mut idle = self.idle.lock();
        let fits = |buffer: &BytesMut| (len..=len.saturating_mul(SPARE_MAX)).contains(&buffer.capacity());
        let at = idle.buffers.iter().rposition(fits)?;
        let buffer = idle.buffers.remove(at);
        idle.bytes -= buffer.capacity();
        Some(buffer)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lend(buffers: &Buffers, len: usize) -> Bytes {
        let mut buffer = buffers.take_empty(len, len);
        assert!(buffer.is_empty());
        buffer.resize(len, 7);
        buffers.lend(buffer)
    }

    #[test]
    fn a_buffer_comes_back_with_the_last_slice() {
        let buffers = Buffers::default();
        let frame = lend(&buffers, 100_000);
        let (at, slice) = (frame.as_ptr(), frame.slice(10..));
        drop(frame);
        assert_ne!(lend(&buffers, 100_000).as_ptr(), at, "it is still read");
        drop(slice);
        let again = buffers.take_filled(90_000);
        assert_eq!((again.as_ptr(), again.len()), (at, 90_000));
        buffers.give_back(again);
        // Not for a small part of it, and not for more.
        assert_ne!(buffers.take_empty(20_000, 20_000).as_ptr(), at);
        assert_eq!(buffers.take_filled(300_000), vec![0; 300_000]);
    }

    #[test]
    fn what_waits_is_bounded_and_worth_it() {
        let buffers = Buffers::default();
        let many: Vec<_> = (0..40).flat_map(|_| [lend(&buffers, 1 << 20), lend(&buffers, 100)]).collect();
        drop(many);
        let idle = buffers.idle.lock();
        let bytes: usize = idle.buffers.iter().map(BytesMut::capacity).sum();
        assert!(idle.bytes == bytes && bytes <= IDLE_BYTES_MAX && bytes > IDLE_BYTES_MAX / 2, "{bytes}");
        assert!(idle.buffers.iter().all(|buffer| buffer.capacity() >= POOLED_BYTES_MIN));
    }
}
