//! What was given to QUIC to send and was not acknowledged yet: how long a peer may leave it so.
//!
//! QUIC holds what it sends until the peer has acknowledged it, with its share of the memory for frames ([`Limits::budget`]). A peer that goes
//! on talking and never acknowledges anything would hold it for as long as it likes: it is not idle, and what QUIC has taken is off the
//! writer's hands, which gives up peers that take nothing. So what is handed over is counted until QUIC lets go of it, in pieces, of
//! which each that is let go of buys the rest time, as in [`crate::frame`].

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::Limits;

/// What is let go of at once, bytes: at the least rate allowed a piece takes some seconds.
const PIECE_BYTES: usize = 64 << 10;
/// How much longer than [`Limits::write_timeout`] a peer has: after an outage QUIC sends again what was lost once it has waited for as long
/// again as the outage lasted.
const OUTAGE: u32 = 2;

/// What a connection's peer has not acknowledged. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Unacknowledged(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    timeout: Duration,
    rate_min: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    /// When something must have been acknowledged; none when nothing is waited for.
    deadline: Option<Instant>,
}

/// Bytes that are counted until they are dropped.
struct Piece {
    bytes: Bytes,
    of: Arc<Shared>,
}

impl Unacknowledged {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (timeout, rate_min) = (limits.write_timeout * OUTAGE, limits.write_rate_min.max(1));
        Self(Arc::new(Shared { timeout, rate_min, state: Mutex::default() }))
    }

    /// The chunks behind the first `counted`, in pieces that are counted.
    pub(crate) fn count(&self, chunks: &mut VecDeque<Bytes>, counted: usize) {
        let new = chunks.split_off(counted);
        if new.is_empty() {
            return;
        }
        // Once for all: a small answer is several chunks.
        self.0.taken(new.iter().map(Bytes::len).sum(), Instant::now());
        for mut chunk in new {
            while !chunk.is_empty() {
                let bytes = chunk.split_to(chunk.len().min(PIECE_BYTES));
                chunks.push_back(Bytes::from_owner(Piece { bytes, of: Arc::clone(&self.0) }));
            }
        }
    }

    /// Whether the peer has left something unacknowledged for too long.
    pub(crate) fn is_overdue(&self) -> bool {
        self.0.is_overdue(Instant::now())
    }

    /// How often to ask.
    pub(crate) fn pause(&self) -> Duration {
        self.0.timeout / 8
    }
}

impl Shared {
    fn taken(&self, bytes: usize, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes += bytes;
        if state.bytes > 0 {
            state.deadline.get_or_insert(now + self.timeout);
        }
    }

    /// `now` is asked only while something is still waited for.
    fn released(&self, bytes: usize, now: impl FnOnce() -> Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes -= bytes;
        state.deadline = match state.deadline {
            Some(deadline) if state.bytes > 0 => {
                let bought = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / self.rate_min);
                Some((deadline + bought).min(now() + self.timeout))
            }
            _ => None,
        };
    }

    fn is_overdue(&self, now: Instant) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.released(self.bytes.len(), Instant::now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Unacknowledged {
        Unacknowledged::new(&Limits::default())
    }

    #[test]
    fn chunks_are_counted_once_and_until_their_last_piece_is_dropped() {
        let watched = watched();
        let mut chunks = VecDeque::from([Bytes::from(vec![1; 10]), Bytes::from(vec![2; 2 * PIECE_BYTES + 1])]);
        watched.count(&mut chunks, 0);
        watched.count(&mut chunks, 4);
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [10, PIECE_BYTES, PIECE_BYTES, 1]);
        let held = || watched.0.state.lock().unwrap().bytes;
        assert_eq!(held(), 11 + 2 * PIECE_BYTES);
        let part = chunks[1].slice(5..6);
        chunks.clear();
        assert_eq!(held(), PIECE_BYTES);
        drop(part);
        assert_eq!((held(), watched.0.state.lock().unwrap().deadline), (0, None));
    }

    #[test]
    fn what_is_acknowledged_buys_the_rest_time_and_too_little_does_not() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        // Once a minute, or what is due every ten seconds; and a byte as often.
        for (bytes, ends) in [(PIECE_BYTES, false), (1, true)] {
            let watched = watched();
            watched.0.taken(1000 * PIECE_BYTES, start);
            assert!(!watched.0.is_overdue(after(59)) && watched.0.is_overdue(after(60)));
            let overdue = (1..100).any(|time| {
                watched.0.released(bytes, || after(4 * time));
                watched.0.is_overdue(after(4 * time))
            });
            assert_eq!(overdue, ends, "{bytes} every four seconds");
        }
        let idle = watched();
        idle.0.taken(5, start);
        idle.0.released(5, || after(1));
        assert!(!idle.0.is_overdue(after(1000)));
    }
}
