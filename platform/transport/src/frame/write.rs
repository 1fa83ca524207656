//! Frames into an outlet.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::Sink;
use millstream_env::{Clock, Frame, Monotonic};

use super::{
    LENGTH_BYTES,
    time::{Activity, Timer, later, poll_until, real_clock},
};
use crate::{FrameError, Limits};

/// Parts shorter than this are copied together.
const COPY_BYTES_MAX: usize = 8 << 10;
/// How much is queued before a sink that was not flushed writes by itself.
pub(super) const QUEUE_BYTES_MAX: usize = 256 << 10;

/// Where chunks go: a QUIC stream, a TCP socket, or a TLS session on one.
pub(crate) trait Outlet {
    /// Writes some bytes from the front of `chunks`, removing what was written; ready with how many, at least one.
    fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>>;

    /// Sends what an outlet that holds something back has taken.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will come.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Frames into an outlet.
pub(crate) struct FrameWriter<W> {
    pub(super) outlet: W,
    /// Complete chunks, in order.
    chunks: VecDeque<Bytes>,
    /// Small things copied together; follows `chunks`.
    tail: BytesMut,
    pub(super) queued: usize,
    limits: WriteLimits,
    /// When the peer, which takes nothing at the moment, must have taken something.
    deadline: Option<Monotonic>,
    timer: Option<Timer>,
}

/// The bounds that a writer keeps.
#[derive(Clone)]
pub(crate) struct WriteLimits {
    pub(super) clock: Arc<dyn Clock>,
    pub(crate) frame_bytes_max: usize,
    /// See [`Limits::write_timeout`]; none where a peer may take as long as it likes.
    pub(crate) timeout: Option<Duration>,
    pub(crate) rate_min: u64,
    pub(crate) activity: Option<Arc<Activity>>,
}

impl WriteLimits {
    /// For what a listener accepted.
    pub(crate) fn accepted(limits: &Limits, activity: Option<Arc<Activity>>) -> Self {
        Self { timeout: Some(limits.write_timeout), activity, ..Self::connected(limits) }
    }

    /// For what a connector made: a broker that takes nothing has a reason, such as a slow disk.
    pub(crate) fn connected(limits: &Limits) -> Self {
        let (frame_bytes_max, rate_min) = (limits.frame_bytes_max, limits.write_rate_min.max(1));
        Self { clock: real_clock(), frame_bytes_max, timeout: None, rate_min, activity: None }
    }
}

impl<W: Outlet> FrameWriter<W> {
    pub(crate) fn new(outlet: W, limits: WriteLimits) -> Self {
        let (chunks, tail) = (VecDeque::new(), BytesMut::new());
        Self { outlet, chunks, tail, queued: 0, limits, deadline: None, timer: None }
    }

    fn push(&mut self, frame: Frame) -> Result<(), FrameError> {
        let bytes = frame.len();
        let max = self.limits.frame_bytes_max;
        let refuse = || FrameError::Send { bytes, max };
        let length = i32::try_from(bytes).map_err(|_| refuse())?;
        if !(1..=max).contains(&bytes) {
            return Err(refuse());
        }
        self.queued += LENGTH_BYTES + bytes;
        self.tail.put_i32(length);
        for part in frame.parts {
            if part.len() < COPY_BYTES_MAX {
                self.tail.extend_from_slice(&part);
            } else {
                self.cut_tail();
                self.chunks.push_back(part);
            }
        }
        Ok(())
    }

    fn cut_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    /// Writes until at most `rest` bytes are queued.
    fn poll_drain(&mut self, cx: &mut Context<'_>, rest: usize) -> Poll<io::Result<()>> {
        while self.queued > rest {
            self.cut_tail();
            let Poll::Ready(written) = self.outlet.poll_write(cx, &mut self.chunks)? else {
                return self.poll_deadline(cx);
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.queued = self.queued.saturating_sub(written);
            self.taken(written);
        }
        if self.queued == 0 {
            if rest == 0 && self.outlet.poll_flush(cx)?.is_pending() {
                return self.poll_deadline(cx);
            }
            self.deadline = None;
        }
        Poll::Ready(Ok(()))
    }

    /// The peer has taken bytes, which buys it time: a slow reader comes to its end, one that only pretends to read does not.
    fn taken(&mut self, bytes: usize) {
        if let Some(activity) = &self.limits.activity {
            activity.touch();
        }
        if let (Some(deadline), Some(timeout)) = (&mut self.deadline, self.limits.timeout) {
            *deadline = later(*deadline, bytes, self.limits.rate_min, self.limits.clock.now(), timeout);
        }
    }

    /// The peer takes nothing for now: makes sure that we are woken when that has lasted too long, and says so then.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(timeout) = self.limits.timeout else { return Poll::Pending };
        loop {
            let now = self.limits.clock.now();
            let deadline = *self.deadline.get_or_insert(Monotonic(now.0 + timeout));
            if deadline <= now {
                return Poll::Ready(Err(FrameError::Unread { queued: self.queued, after: timeout }.into()));
            }
            ready!(poll_until(&mut self.timer, &self.limits.clock, deadline, cx));
        }
    }
}

impl<W: Outlet + Unpin> Sink<Frame> for FrameWriter<W> {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx, QUEUE_BYTES_MAX)
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> io::Result<()> {
        Ok(self.get_mut().push(frame)?)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx, 0)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        match this.outlet.poll_finish(cx)? {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => this.poll_deadline(cx),
        }
    }
}

/// Drops `written` bytes from the front of `chunks`.
pub(crate) fn advance(chunks: &mut VecDeque<Bytes>, mut written: usize) {
    while written > 0 {
        let Some(first) = chunks.front_mut() else { return };
        if first.len() > written {
            first.advance(written);
            return;
        }
        written -= first.len();
        chunks.pop_front();
    }
}
