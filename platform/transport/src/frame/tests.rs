//! Tests of the frame codec over an in-memory pipe.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use millstream_env::{BoxFuture, Budget, Clock, Frame, sim::World};
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::{
    read::{FIRST_BYTES, INBOX_BYTES, State},
    write::QUEUE_BYTES_MAX,
    *,
};
use crate::{FrameError, Limits};

/// Takes everything, a few bytes at a time, and remembers it.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    writes: usize,
    most_per_write: usize,
}

impl Outlet for Taken {
    fn poll_write(&mut self, _cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>> {
        let mut written = 0;
        while written < self.most_per_write {
            let Some(first) = chunks.front() else { break };
            let count = first.len().min(self.most_per_write - written);
            self.bytes.extend_from_slice(&first[..count]);
            written += count;
            advance(chunks, count);
        }
        self.writes += 1;
        Poll::Ready(Ok(written))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn limits(frame_bytes_max: usize) -> ReadLimits {
    let limits = Limits { frame_bytes_max, assembly_bytes_max: frame_bytes_max, ..Limits::default() };
    ReadLimits::new(&limits, Assembly::new(&limits), None)
}

fn write_limits(frame_bytes_max: usize) -> WriteLimits {
    WriteLimits::accepted(&Limits { frame_bytes_max, ..Limits::default() }, None)
}

fn reader(pipe: DuplexStream, frame_bytes_max: usize) -> FrameReader<DuplexStream> {
    FrameReader::new(pipe, limits(frame_bytes_max))
}

/// What `test` makes of a pipe whose reading end keeps `limits` by a simulated clock.
fn by_clock<F: Future>(
    limits: ReadLimits,
    test: impl FnOnce(Arc<dyn Clock>, DuplexStream, FrameReader<DuplexStream>) -> F,
) -> F::Output {
    let world = World::new(1);
    let clock = world.env().clock;
    let activity = limits.activity.map(|activity| Activity::by(Arc::clone(&clock), activity.idle_timeout));
    let limits = ReadLimits { clock: Arc::clone(&clock), activity, ..limits };
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    world.run_until(test(clock, ours, FrameReader::new(theirs, limits)))
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
    bodies.iter().flat_map(|body| [&(body.len() as i32).to_be_bytes()[..], body].concat()).collect()
}

fn frame_error(error: &io::Error) -> FrameError {
    error.get_ref().unwrap().downcast_ref::<FrameError>().unwrap().clone()
}

/// What a reader makes of `bytes`, which are all that the peer sends: the frames, then perhaps an error.
async fn read_all(bytes: &[u8], frame_bytes_max: usize) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let (mut ours, theirs) = tokio::io::duplex(1000);
    let send = async {
        // The reader may have left already: it stops at the first bad byte.
        let _ = ours.write_all(bytes).await;
        drop(ours);
    };
    let receive = async {
        let mut reader = reader(theirs, frame_bytes_max);
        let mut frames = Vec::new();
        while let Some(next) = reader.next().await {
            match next {
                Ok(frame) => frames.push(frame.to_vec()),
                Err(error) => {
                    assert!(reader.next().await.is_none(), "an error ends the stream");
                    return (frames, Some(frame_error(&error)));
                }
            }
        }
        (frames, None)
    };
    tokio::join!(send, receive).1
}

#[tokio::test]
async fn frames_of_every_size_class_arrive_whole_and_in_order() {
    let bodies: Vec<_> = [1, 2, 5, 100, INBOX_BYTES - 5, INBOX_BYTES - 4, INBOX_BYTES, 1, FIRST_BYTES + 1, 7, 1 << 20]
        .map(body)
        .into_iter()
        .collect();
    assert_eq!(read_all(&framed(&bodies), 4 << 20).await, (bodies, None));
}

#[tokio::test]
async fn lengths_that_no_frame_has_end_the_stream() {
    for (announced, max) in [(0, 10), (-1, 10), (i32::MIN, 10), (11, 10), (i32::MAX, 100 << 20)] {
        let mut bytes = framed(&[b"ok".to_vec()]);
        bytes.extend_from_slice(&announced.to_be_bytes());
        bytes.extend_from_slice(b"whatever follows");
        let (frames, error) = read_all(&bytes, max).await;
        assert_eq!(frames, [b"ok"]);
        assert!(matches!(error, Some(FrameError::Length { announced: found, .. }) if found == announced), "{error:?}");
    }
}

#[tokio::test]
async fn other_protocols_are_named() {
    for (bytes, word) in [(&b"\x16\x03\x01\x02\0"[..], "TLS"), (b"GET / HTTP/1.1\r\n", "HTTP"), (b"SSH-2.0-x", "SSH")] {
        let (_, error) = read_all(bytes, 100 << 20).await;
        assert!(error.as_ref().unwrap().to_string().contains(word), "{error:?}");
    }
}

#[tokio::test]
async fn an_end_within_a_frame_is_an_error_and_between_frames_is_not() {
    let whole = framed(&[body(10), body(100_000)]);
    assert_eq!(read_all(&whole, 1 << 20).await.1, None);
    assert_eq!(read_all(&[], 1 << 20).await.1, None);
    for cut in [1, 3, 4, 13, 15, 17, 18, 40_000, whole.len() - 1] {
        let (_, error) = read_all(&whole[..cut], 1 << 20).await;
        assert!(matches!(error, Some(FrameError::Cut { .. })), "cut at {cut}: {error:?}");
    }
}

#[tokio::test]
async fn an_announced_length_costs_no_memory() {
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let mut reader = reader(theirs, 100 << 20);
    ours.write_all(&(100i32 << 20).to_be_bytes()).await.unwrap();
    ours.write_all(&body(1000)).await.unwrap();
    assert!(futures::poll!(reader.next()).is_pending());
    let State::Body { body, .. } = &reader.state else { panic!("the frame has begun") };
    assert_eq!(body.len(), 1000);
    assert!(body.capacity() <= FIRST_BYTES, "{}", body.capacity());
}

#[tokio::test]
async fn large_frames_of_one_connection_share_a_budget() {
    let limits = limits(1 << 20);
    let (mut first_end, first) = tokio::io::duplex(2 << 20);
    let (mut second_end, second) = tokio::io::duplex(2 << 20);
    let (mut first, mut second) = (FrameReader::new(first, limits.clone()), FrameReader::new(second, limits));
    let bytes = framed(&[body(1 << 20)]);
    first_end.write_all(&bytes[..100]).await.unwrap();
    second_end.write_all(&bytes).await.unwrap();
    assert!(futures::poll!(first.next()).is_pending());
    assert!(futures::poll!(second.next()).is_pending(), "the first has the whole budget");
    first_end.write_all(&bytes[100..]).await.unwrap();
    assert_eq!(first.next().await.unwrap().unwrap().len(), 1 << 20);
    assert_eq!(second.next().await.unwrap().unwrap().len(), 1 << 20);
}

#[test]
fn a_frame_that_trickles_is_given_up_but_waiting_between_frames_is_free() {
    let (error, took) = by_clock(limits(1 << 20), |clock, mut ours, mut reader| async move {
        let trickle = async {
            clock.sleep(Duration::from_secs(10_000)).await;
            ours.write_all(&framed(&[body(5)])).await.unwrap();
            loop {
                if ours.write_all(&[0]).await.is_err() {
                    return;
                }
                clock.sleep(Duration::from_secs(10)).await;
            }
        };
        let read = async {
            assert_eq!(reader.next().await.unwrap().unwrap(), body(5));
            // Zeros only: never a complete length, which is already a frame that has begun.
            let started = clock.now();
            let error = reader.next().await.unwrap().unwrap_err();
            (frame_error(&error), clock.now() - started)
        };
        tokio::select! {
            read = read => read,
            () = trickle => panic!("the reader never gave up"),
        }
    });
    match error {
        // Four zeros are a length that no frame has: found at once, after three pauses.
        FrameError::Length { announced: 0, .. } => assert!(took <= Duration::from_secs(31), "{took:?}"),
        FrameError::Stalled { .. } => assert!(took <= Duration::from_secs(31), "{took:?}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_large_frame_has_the_time_that_the_slowest_allowed_rate_needs() {
    let mut limits = limits(1 << 20);
    limits.frame_rate_min = 1 << 20;
    let (error, took) = by_clock(limits, |clock, mut ours, mut reader| async move {
        ours.write_all(&(1i32 << 20).to_be_bytes()).await.unwrap();
        let started = clock.now();
        let error = frame_error(&reader.next().await.unwrap().unwrap_err());
        (error, clock.now() - started)
    });
    assert_eq!(error, FrameError::Stalled { received: 4, expected: 4 + (1 << 20) });
    assert_eq!(took.as_secs(), 30);
}

#[test]
fn a_frame_that_only_trickles_is_given_up() {
    let (error, took) = by_clock(limits(1 << 20), |clock, mut ours, mut reader| async move {
        ours.write_all(&(1i32 << 20).to_be_bytes()).await.unwrap();
        let started = clock.now();
        let trickle = async {
            loop {
                clock.sleep(Duration::from_secs(1)).await;
                ours.write_all(&[0; 10]).await.unwrap();
            }
        };
        tokio::select! {
            next = reader.next() => (frame_error(&next.unwrap().unwrap_err()), clock.now() - started),
            () = trickle => unreachable!(),
        }
    });
    assert!(matches!(error, FrameError::Stalled { .. }), "{error}");
    assert!((30..32).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_length_that_comes_in_two_pieces_does_not_shorten_its_frame() {
    let mut limits = limits(1 << 20);
    limits.frame_rate_min = 1 << 10;
    by_clock(limits, |clock, mut ours, mut reader| async move {
        let length = (100i32 << 10).to_be_bytes();
        let send = async {
            ours.write_all(&length[..2]).await.unwrap();
            clock.sleep(Duration::from_secs(1)).await;
            ours.write_all(&length[2..]).await.unwrap();
            // Past what four bytes would be given, at the pace that a hundred thousand may have.
            for piece in body(100 << 10).chunks(1 << 10) {
                clock.sleep(Duration::from_millis(900)).await;
                ours.write_all(piece).await.unwrap();
            }
        };
        let (frame, ()) = tokio::join!(reader.next(), send);
        assert_eq!(frame.unwrap().unwrap(), body(100 << 10));
    });
}

#[tokio::test]
async fn frames_of_all_streams_share_a_budget_and_small_ones_need_none() {
    let limits = Limits { budget: Budget::new(100 << 10), ..Limits::default() };
    let pipe = |bytes: usize| {
        let limits = ReadLimits::new(&limits, Assembly::new(&limits), None);
        async move {
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            ours.write_all(&framed(&[body(bytes)])).await.unwrap();
            (ours, FrameReader::new(theirs, limits))
        }
    };
    let (_first, mut first) = pipe(80 << 10).await;
    let (_second, mut second) = pipe(80 << 10).await;
    let held = first.next().await.unwrap().unwrap();
    assert_eq!(held, body(80 << 10));
    assert!(futures::poll!(second.next()).is_pending(), "the other one waits");
    let (_third, mut third) = pipe(10 << 10).await;
    assert_eq!(third.next().await.unwrap().unwrap(), body(10 << 10), "a small one goes by");
    // As long as anything of the first frame is used.
    let slice = held.slice(..10);
    drop(held);
    assert!(futures::poll!(second.next()).is_pending());
    drop(slice);
    assert_eq!(second.next().await.unwrap().unwrap(), body(80 << 10));
}

/// Takes as many bytes a second as it is told to, in steps of a second.
struct Slow {
    clock: Arc<dyn Clock>,
    rate: usize,
    taken: usize,
    next: BoxFuture<'static, ()>,
}

impl Outlet for Slow {
    fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &mut VecDeque<Bytes>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.next.as_mut().poll(cx));
            self.next = self.clock.sleep(Duration::from_secs(1));
            let taken = self.rate.min(chunks.iter().map(Bytes::len).sum());
            advance(chunks, taken);
            self.taken += taken;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What becomes of `bytes` that are sent to a peer of this rate, how many it took, and how long that was.
fn send_to(rate: usize, bytes: usize) -> (io::Result<()>, usize, Duration) {
    let world = World::new(1);
    let clock = world.env().clock;
    world.run_until(async move {
        let outlet = Slow { clock: Arc::clone(&clock), rate, taken: 0, next: clock.sleep(Duration::from_secs(1)) };
        let limits = WriteLimits { clock: Arc::clone(&clock), ..write_limits(bytes) };
        let mut writer = FrameWriter::new(outlet, limits);
        let started = clock.now();
        let sent = writer.send(Bytes::from(body(bytes)).into()).await;
        (sent, writer.outlet.taken, clock.now() - started)
    })
}

#[test]
fn a_slow_reader_comes_to_its_end() {
    // Two hundred seconds: far longer than a peer may take nothing.
    let bytes = 200 * (20 << 10);
    let (sent, taken, took) = send_to(20 << 10, bytes);
    sent.unwrap();
    assert_eq!(taken, 4 + bytes);
    assert!(took > Duration::from_secs(190), "{took:?}");
}

#[test]
fn a_reader_that_takes_nothing_or_next_to_nothing_is_given_up() {
    for rate in [0, 1, 100] {
        let (sent, _, took) = send_to(rate, 1 << 20);
        let error = sent.unwrap_err();
        assert!(matches!(frame_error(&error), FrameError::Unread { .. }), "{error}");
        assert!((30..35).contains(&took.as_secs()), "{rate}: {took:?}");
    }
}

#[test]
fn an_idle_connection_ends_unless_something_goes_out() {
    let mut limits = limits(1 << 20);
    limits.activity = Some(Activity::new(Duration::from_secs(600)));
    let (error, took) = by_clock(limits, |clock, ours, mut reader| async move {
        // Only what is named in here lives as long as the test: without it the pipe would be closed.
        let _ours = ours;
        let activity = Arc::clone(reader.limits.activity.as_ref().unwrap());
        let started = clock.now();
        let answer = async {
            clock.sleep(Duration::from_secs(500)).await;
            activity.touch();
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            next = reader.next() => frame_error(&next.unwrap().unwrap_err()),
            () = answer => unreachable!(),
        };
        (error, clock.now() - started)
    });
    assert_eq!(error, FrameError::Idle(Duration::from_secs(600)));
    assert_eq!(took.as_secs(), 1100);
}

#[tokio::test]
async fn what_is_written_is_what_was_given_however_it_is_cut() {
    for most_per_write in [1, 3, 1000, usize::MAX] {
        let outlet = Taken { most_per_write, ..Taken::default() };
        let mut writer = FrameWriter::new(outlet, write_limits(1 << 20));
        let large = Bytes::from(body(20_000));
        let small = Bytes::from_static(b"small");
        writer.feed(small.clone().into()).await.unwrap();
        writer.feed(Frame { parts: vec![small.clone(), large.clone(), Bytes::new(), small.clone()] }).await.unwrap();
        writer.flush().await.unwrap();
        let joined = [&small[..], &large, &small].concat();
        assert_eq!(writer.outlet.bytes, framed(&[small.to_vec(), joined]), "{most_per_write} bytes at a time");
    }
}

#[tokio::test]
async fn small_frames_share_a_write() {
    let outlet = Taken { most_per_write: usize::MAX, ..Taken::default() };
    let mut writer = FrameWriter::new(outlet, write_limits(1 << 20));
    for _ in 0..100 {
        writer.feed(Bytes::from_static(b"small").into()).await.unwrap();
    }
    writer.flush().await.unwrap();
    assert_eq!(writer.outlet.writes, 1);
}

#[tokio::test]
async fn a_sink_that_is_never_flushed_writes_when_much_is_queued() {
    let outlet = Taken { most_per_write: usize::MAX, ..Taken::default() };
    let mut writer = FrameWriter::new(outlet, write_limits(1 << 20));
    for _ in 0..20 {
        writer.feed(Bytes::from(body(100_000)).into()).await.unwrap();
    }
    assert!(writer.queued <= QUEUE_BYTES_MAX + 100_004, "{}", writer.queued);
}

#[tokio::test]
async fn frames_that_may_not_be_sent_are_refused() {
    let mut writer = FrameWriter::new(Taken { most_per_write: 100, ..Taken::default() }, write_limits(10));
    for frame in [Frame::default(), Bytes::new().into(), Bytes::from(body(11)).into()] {
        let error = writer.feed(frame).await.unwrap_err();
        assert!(matches!(frame_error(&error), FrameError::Send { .. }), "{error}");
    }
    writer.send(Bytes::from(body(10)).into()).await.unwrap();
    assert_eq!(writer.outlet.bytes.len(), 14);
}
