//! Buffers that large reads go into, used again: a new one costs a page fault for every 4 KiB, which is more than the read.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller reads have memory of their own.
const POOLED_BYTES_MIN: usize = 64 << 10;
/// What waits for its next use, bytes at most.
const IDLE_BYTES_MAX: usize = 16 << 20;
/// A buffer is not used for a read of less than this part of it.
const SPARE_MAX: usize = 4;

/// The buffers of a storage.
#[derive(Default)]
pub(crate) struct Buffers {
    /// The last one that came back is used first: it may still be in the processor's cache.
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    buffers: Vec<Box<[u8]>>,
    bytes: usize,
}

/// Bytes to be read into. What they hold before is of earlier reads.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    /// How many of them count.
    len: usize,
    home: Weak<Buffers>,
}

impl Buffers {
    /// A buffer for so many bytes.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        if len < POOLED_BYTES_MIN {
            return Buffer { bytes: vec![0; len].into(), len, home: Weak::new() };
        }
        let found = {
            let mut idle = self.idle.lock();
            let fits = |buffer: &Box<[u8]>| (len..=len.saturating_mul(SPARE_MAX)).contains(&buffer.len());
            let found = idle.buffers.iter().rposition(fits).map(|at| idle.buffers.remove(at));
            idle.bytes -= found.as_ref().map_or(0, |buffer| buffer.len());
            found
        };
        // Reads of about the same length share buffers.
        let bytes = found.unwrap_or_else(|| vec![0; len.next_multiple_of(POOLED_BYTES_MIN)].into());
        Buffer { bytes, len, home: Arc::downgrade(self) }
    }

    fn give_back(&self, bytes: Box<[u8]>) {
        let mut idle = self.idle.lock();
        if idle.bytes + bytes.len() <= IDLE_BYTES_MAX {
            idle.bytes += bytes.len();
            idle.buffers.push(bytes);
        }
    }
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// Only the first bytes count.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The buffer comes back when the last slice goes.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_slice_and_shows_only_what_was_read() {
        let buffers = Arc::new(Buffers::default());
        let mut first = buffers.take(100_000);
        first.as_mut().fill(7);
        first.truncate(10);
        let slice = first.freeze().slice(3..);
        assert_eq!((&slice[..], buffers.idle.lock().bytes), (&[7; 7][..], 0));
        drop(slice);
        let again = buffers.take(99_000);
        assert_eq!((again.len(), buffers.idle.lock().bytes), (99_000, 0));
        drop(again);
        // Not for a small part of it, and not for more.
        assert!(buffers.take(20_000).bytes.len() == 20_000 && buffers.take(200_000).bytes.len() >= 200_000);
    }

    #[test]
    fn what_waits_is_bounded() {
        let buffers = Arc::new(Buffers::default());
        let many: Vec<_> = (0..40).map(|_| buffers.take(1 << 20)).collect();
        drop(many);
        let idle = buffers.idle.lock();
        assert!(idle.bytes <= IDLE_BYTES_MAX && idle.bytes == idle.buffers.iter().map(|b| b.len()).sum::<usize>());
    }
}
