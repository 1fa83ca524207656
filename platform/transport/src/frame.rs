//! The frame codec: bytes of a stream to frames and back, bounded in length, memory and time.
//!
//! ```text
//! | length: i32 big-endian, 1..=frame_bytes_max | that many bytes | length | ...
//! ```
//!
//! **Reading.** Frames that fit into the inbox (32 KiB) are cut out of it without a copy. A larger one gets a buffer of its own,
//! which starts small and doubles as bytes arrive: what a peer announces costs nothing, only what it sends does. Large
//! frames being put together on all streams of a connection share a budget of announced bytes ([`Assembly`]), and those of
//! all connections another ([`Limits::budget`]); a stream whose frame does not fit waits for its turn. A frame that has begun
//! must go on arriving.
//!
//! **Writing.** Small parts, lengths and whole small frames are copied together; parts from [`COPY_BYTES_MAX`] are passed on
//! as they are. Nothing leaves before the sink is flushed or [`QUEUE_BYTES_MAX`] are queued, so a caller that feeds several frames and flushes once
//! gets one write.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Sink, Stream};
use millstream_env::{BoxFuture, Budget, Clock, Frame, Monotonic, Share, real::RealClock};
use tokio::{
    io::AsyncRead,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{io::poll_read_buf, sync::PollSemaphore};

use crate::{FrameError, Limits};

const LENGTH_BYTES: usize = 4;
/// Frames up to this size, with their length, are read together.
const INBOX_BYTES: usize = 32 << 10;
/// What a large frame's buffer starts with.
const FIRST_BYTES: usize = 256 << 10;
/// The unit in which announced bytes of large frames are counted.
const ASSEMBLY_UNIT: usize = 64 << 10;
/// Parts shorter than this are copied together.
const COPY_BYTES_MAX: usize = 8 << 10;
/// How much is queued before a sink that was not flushed writes by itself.
const QUEUE_BYTES_MAX: usize = 256 << 10;

/// One connection's budget for large frames that are being put together.
#[derive(Clone, Debug)]
pub(crate) struct Assembly(Arc<Semaphore>);

impl Assembly {
    pub(crate) fn new(limits: &Limits) -> Self {
        let bytes = limits.assembly_bytes_max.max(limits.frame_bytes_max);
        Self(Arc::new(Semaphore::new(bytes.div_ceil(ASSEMBLY_UNIT))))
    }
}

/// What transports measure by: they are the real world. Tests put a simulated clock in its place.
fn real_clock() -> Arc<dyn Clock> {
    Arc::new(RealClock::default())
}

/// When something last went either way, for transports whose connections do not time out by themselves.
pub(crate) struct Activity {
    clock: Arc<dyn Clock>,
    start: Monotonic,
    last_ms: AtomicU64,
    idle_timeout: Duration,
}

impl Activity {
    pub(crate) fn new(idle_timeout: Duration) -> Arc<Self> {
        Self::by(real_clock(), idle_timeout)
    }

    fn by(clock: Arc<dyn Clock>, idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Self { start: clock.now(), clock, last_ms: AtomicU64::new(0), idle_timeout })
    }

    fn touch(&self) {
        let since = u64::try_from((self.clock.now() - self.start).as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(since, Ordering::Relaxed);
    }

    fn deadline(&self) -> Monotonic {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        Monotonic(self.start.0 + last + self.idle_timeout)
    }
}

/// The bounds that a reader keeps.
#[derive(Clone)]
pub(crate) struct ReadLimits {
    clock: Arc<dyn Clock>,
    pub(crate) frame_bytes_max: usize,
    pub(crate) frame_timeout: Duration,
    pub(crate) frame_rate_min: u64,
    pub(crate) assembly: Assembly,
    pub(crate) budget: Budget,
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
            activity,
        }
    }
}

enum State {
    /// Between frames, or in a frame that the inbox can hold.
    Inbox,
    /// A large frame waits until the connection may put it together. Its length is still in the inbox.
    Admission { len: usize },
    /// It waits for its share of what all connections have.
    Sharing { len: usize, permit: Option<OwnedSemaphorePermit>, share: BoxFuture<'static, Share> },
    /// A large frame is arriving.
    Body { len: usize, body: BytesMut, _permit: Option<OwnedSemaphorePermit>, share: Option<Share> },
}

/// Fires at or before the deadline that counts; put off lazily, so that most frames never touch it.
struct Timer {
    fires: Monotonic,
    sleep: BoxFuture<'static, ()>,
}

/// Ready at or before the deadline, which must then be looked at again.
fn poll_until(
    timer: &mut Option<Timer>,
    clock: &Arc<dyn Clock>,
    deadline: Monotonic,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let kept = timer.take().filter(|timer| timer.fires <= deadline);
    let kept = kept.unwrap_or_else(|| Timer { fires: deadline, sleep: clock.sleep(deadline - clock.now()) });
    ready!(timer.insert(kept).sleep.as_mut().poll(cx));
    *timer = None;
    Poll::Ready(())
}

/// Frames out of a stream of bytes.
pub(crate) struct FrameReader<R> {
    inner: R,
    inbox: BytesMut,
    state: State,
    limits: ReadLimits,
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
                        let body = std::mem::take(body).freeze();
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
        let mut body = BytesMut::with_capacity(len.min(FIRST_BYTES));
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

/// A deadline after `bytes` more have passed, at `rate_min` bytes a second or faster: never further away than `timeout`.
fn later(deadline: Monotonic, bytes: usize, rate_min: u64, now: Monotonic, timeout: Duration) -> Monotonic {
    let bought = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate_min);
    Monotonic((deadline.0 + bought).min(now.0 + timeout))
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
            " (it looks like a TLS handshake: this port speaks plain Kafka over TCP, and QUIC over UDP)"
        }
        [b'G', b'E', b'T', b' '] | [b'P', b'O', b'S', b'T'] | [b'H', b'E', b'A', b'D'] | [b'H', b'T', b'T', b'P'] => {
            " (it looks like HTTP)"
        }
        [b'P', b'R', b'I', b' '] => " (it looks like HTTP/2)",
        [b'S', b'S', b'H', b'-'] => " (it looks like SSH)",
        _ => "",
    }
}

/// Where chunks go: a QUIC stream or a TCP socket.
pub(crate) trait Outlet {
    /// Writes some bytes from the front of `chunks`, removing what was written; ready with how many, at least one.
    fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>>;

    /// Says that nothing more will come.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Frames into an outlet.
pub(crate) struct FrameWriter<W> {
    outlet: W,
    /// Complete chunks, in order.
    chunks: VecDeque<Bytes>,
    /// Small things copied together; follows `chunks`.
    tail: BytesMut,
    queued: usize,
    limits: WriteLimits,
    /// When the peer, which takes nothing at the moment, must have taken something.
    deadline: Option<Monotonic>,
    timer: Option<Timer>,
}

/// The bounds that a writer keeps.
#[derive(Clone)]
pub(crate) struct WriteLimits {
    clock: Arc<dyn Clock>,
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
        this.outlet.poll_finish(cx)
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

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
