//! Frames out of a stream of bytes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::Stream;
use millstream_env::{BoxFuture, Budget, Buffers, Clock, Monotonic, Share};
use tokio::{
    io::AsyncRead,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{io::poll_read_buf, sync::PollSemaphore};

use super::{
    LENGTH_BYTES,
    time::{Activity, Timer, later, poll_until, real_clock},
};
use crate::{FrameError, Limits};

/// Frames up to this size, with their length, are read together.
pub(super) const INBOX_BYTES: usize = 32 << 10;
/// What a large frame's buffer has at most before its bytes arrive. Pages that are not written cost nothing, and growing from
/// less copied every frame of a megabyte nearly once more: 8 % of a broker's time under large batches.
pub(super) const FIRST_BYTES: usize = 2 << 20;
/// The unit in which announced bytes of large frames are counted.
const ASSEMBLY_UNIT: usize = 64 << 10;

/// One connection's budget for large frames that are being put together.
#[derive(Clone, Debug)]
pub(crate) struct Assembly(Arc<Semaphore>);

impl Assembly {
    pub(crate) fn new(limits: &Limits) -> Self {
        let bytes = limits.assembly_bytes_max.max(limits.frame_bytes_max);
        Self(Arc::new(Semaphore::new(bytes.div_ceil(ASSEMBLY_UNIT))))
    }
}

/// The bounds that a reader keeps.
#[derive(Clone)]
pub(crate) struct ReadLimits {
    pub(super) clock: Arc<dyn Clock>,
    pub(crate) frame_bytes_max: usize,
    pub(crate) frame_timeout: Duration,
    pub(crate) frame_rate_min: u64,
    pub(crate) assembly: Assembly,
    pub(crate) budget: Budget,
    pub(crate) buffers: Buffers,
    pub(crate) activity: Option<Arc<Activity>>,
}

impl ReadLimits {
    pub(crate) fn new(limits: &Limits, assembly: Assembly, activity: Option<Arc<Activity>>) -> Self {
        // Times of different clocks do not compare.
        let clock = activity.as_ref().map_or_else(real_clock, |activity| Arc::clone(&activity.clock));
        Self {
            clock,
            frame_bytes_max: limits.frame_bytes_max,
            frame_timeout: limits.frame_timeout,
            frame_rate_min: limits.frame_rate_min.max(1),
            assembly,
            budget: limits.budget.clone(),
            buffers: limits.buffers.clone(),
            activity,
        }
    }
}

pub(super) enum State {
    /// Between frames, or in a frame that the inbox can hold.
    Inbox,
    /// A large frame waits until the connection may put it together. Its length is still in the inbox.
    Admission { len: usize },
    /// It waits for its share of what all connections have.
    Sharing { len: usize, permit: Option<OwnedSemaphorePermit>, share: BoxFuture<'static, Share> },
    /// A large frame is arriving.
    Body { len: usize, body: BytesMut, _permit: Option<OwnedSemaphorePermit>, share: Option<Share> },
}

/// Frames out of a stream of bytes.
pub(crate) struct FrameReader<R> {
    inner: R,
    inbox: BytesMut,
    pub(super) state: State,
    pub(super) limits: ReadLimits,
    turn: PollSemaphore,
    /// When more of the frame that has begun must have come; set when its bytes first ran out.
    frame_deadline: Option<Monotonic>,
    timer: Option<Timer>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(inner: R, limits: ReadLimits) -> Self {
        Self {
            inner,
            inbox: BytesMut::new(),
            state: State::Inbox,
            turn: PollSemaphore::new(Arc::clone(&limits.assembly.0)),
            limits,
            frame_deadline: None,
            timer: None,
            ended: false,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match &mut self.state {
                State::Inbox => {
                    let mut wanted = LENGTH_BYTES;
                    if let Some(prefix) = self.inbox.first_chunk::<LENGTH_BYTES>() {
                        let len = match check_length(*prefix, self.limits.frame_bytes_max) {
                            Ok(len) => len,
                            Err(error) => return Poll::Ready(Some(Err(error.into()))),
                        };
                        wanted += len;
                        if self.inbox.len() >= wanted {
                            self.frame_deadline = None;
                            self.inbox.advance(LENGTH_BYTES);
                            return Poll::Ready(Some(Ok(self.inbox.split_to(len).freeze())));
                        }
                        if wanted > INBOX_BYTES {
                            self.state = State::Admission { len };
                            continue;
                        }
                    }
                    if self.inbox.capacity() < wanted.max(self.inbox.len() + LENGTH_BYTES) {
                        self.inbox.reserve(INBOX_BYTES - self.inbox.len());
                    }
                    let read = match poll_read_buf(Pin::new(&mut self.inner), cx, &mut self.inbox) {
                        Poll::Ready(Ok(read)) => read,
                        Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                        Poll::Pending => {
                            let (received, expected) = (self.inbox.len(), wanted);
                            return self.poll_deadline(cx, received, expected);
                        }
                    };
                    if read == 0 {
                        let cut = FrameError::Cut { received: self.inbox.len(), expected: wanted };
                        return Poll::Ready((!self.inbox.is_empty()).then(|| Err(cut.into())));
                    }
                    self.received(read);
                }
                State::Admission { len } => {
                    let len = *len;
                    let units = u32::try_from(len.div_ceil(ASSEMBLY_UNIT)).unwrap_or(u32::MAX);
                    let permit = ready!(self.turn.poll_acquire_many(cx, units));
                    match self.limits.budget.try_take(len) {
                        Some(share) => self.begin_body(len, permit, share),
                        None => {
                            let budget = self.limits.budget.clone();
                            let share = Box::pin(async move { budget.take(len).await });
                            self.state = State::Sharing { len, permit, share };
                        }
                    }
                }
                State::Sharing { len, permit, share } => {
                    let share = ready!(share.as_mut().poll(cx));
                    let (len, permit) = (*len, permit.take());
                    self.begin_body(len, permit, share);
                }
                State::Body { len, body, share, .. } => {
                    let len = *len;
                    if body.len() == len {
                        let body = self.limits.buffers.lend(std::mem::take(body));
                        // Its share is held until nothing of the frame is used any more.
                        let body = match share.take() {
                            Some(share) => share.hold(body),
                            None => body,
                        };
                        self.state = State::Inbox;
                        self.frame_deadline = None;
                        return Poll::Ready(Some(Ok(body)));
                    }
                    let missing = len - body.len();
                    if body.len() == body.capacity() {
                        body.reserve(missing.min(body.len()));
                    }
                    let read = match poll_read_buf(Pin::new(&mut self.inner), cx, &mut body.limit(missing)) {
                        Poll::Ready(Ok(read)) => read,
                        Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                        Poll::Pending => {
                            let (received, expected) = (LENGTH_BYTES + body.len(), LENGTH_BYTES + len);
                            return self.poll_deadline(cx, received, expected);
                        }
                    };
                    if read == 0 {
                        let cut =
                            FrameError::Cut { received: LENGTH_BYTES + len - missing, expected: LENGTH_BYTES + len };
                        return Poll::Ready(Some(Err(cut.into())));
                    }
                    self.received(read);
                }
            }
        }
    }

    fn begin_body(&mut self, len: usize, permit: Option<OwnedSemaphorePermit>, share: Share) {
        // The wait was ours, not the peer's.
        self.frame_deadline = None;
        self.inbox.advance(LENGTH_BYTES);
        let mut body = self.limits.buffers.take_empty(len, FIRST_BYTES);
        // The frame is larger than the inbox, so all that the inbox holds belongs to it.
        body.extend_from_slice(&self.inbox);
        self.inbox.clear();
        self.state = State::Body { len, body, _permit: permit, share: Some(share) };
    }

    /// Bytes have come, which buys the frame time: one that arrives slowly comes to its end, one that is only begun, to
    /// hold what was set aside for it, does not.
    fn received(&mut self, bytes: usize) {
        if let Some(activity) = &self.limits.activity {
            activity.touch();
        }
        if let Some(deadline) = &mut self.frame_deadline {
            let now = self.limits.clock.now();
            *deadline = later(*deadline, bytes, self.limits.frame_rate_min, now, self.limits.frame_timeout);
        }
    }

    /// Nothing to read for now: makes sure that we are woken when the deadline that counts has passed, and says so then.
    fn poll_deadline(
        &mut self,
        cx: &mut Context<'_>,
        received: usize,
        expected: usize,
    ) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let (deadline, error) = if received > 0 {
                let (now, timeout) = (self.limits.clock.now(), self.limits.frame_timeout);
                let deadline = *self.frame_deadline.get_or_insert(Monotonic(now.0 + timeout));
                (deadline, FrameError::Stalled { received, expected })
            } else if let Some(activity) = &self.limits.activity {
                (activity.deadline(), FrameError::Idle(activity.idle_timeout))
            } else {
                return Poll::Pending;
            };
            if deadline <= self.limits.clock.now() {
                return Poll::Ready(Some(Err(error.into())));
            }
            ready!(poll_until(&mut self.timer, &self.limits.clock, deadline, cx));
        }
    }
}

impl<R: AsyncRead + Unpin> Stream for FrameReader<R> {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(this.poll_frame(cx));
        if !matches!(polled, Some(Ok(_))) {
            this.ended = true;
            this.inbox = BytesMut::new();
            this.state = State::Inbox;
        }
        Poll::Ready(polled)
    }
}

/// The frame's length, if a frame may have it.
fn check_length(prefix: [u8; LENGTH_BYTES], max: usize) -> Result<usize, FrameError> {
    let announced = i32::from_be_bytes(prefix);
    match usize::try_from(announced) {
        Ok(len) if (1..=max).contains(&len) => Ok(len),
        _ => Err(FrameError::Length { announced, max, hint: hint(prefix) }),
    }
}

/// What a senseless length is likely to be, for whoever reads the log.
fn hint(prefix: [u8; LENGTH_BYTES]) -> &'static str {
    match prefix {
        [0x16, 0x03, _, _] => {
            " (it looks like a TLS handshake: this port speaks plain Kafka over TCP unless --tcp-tls is on, and QUIC over UDP)"
        }
        [b'G', b'E', b'T', b' '] | [b'P', b'O', b'S', b'T'] | [b'H', b'E', b'A', b'D'] | [b'H', b'T', b'T', b'P'] => {
            " (it looks like HTTP)"
        }
        [b'P', b'R', b'I', b' '] => " (it looks like HTTP/2)",
        [b'S', b'S', b'H', b'-'] => " (it looks like SSH)",
        _ => "",
    }
}
