//! Connections and streams: frames in, requests dispatched in order, answers out in order.
//!
//! The thin shell around [`millstream_protocol`]'s session. One task a stream: requests that were taken run inside it,
//! so a peer that goes away takes its waiting requests with it. What an append has put into the log stays there.
//!
//! Reading, working and writing go on side by side: a peer that reads slowly holds up its own answers, not the requests
//! that are under way. A peer that has finished sending is given the answers to what it asked, and nothing waits for more
//! to come on its behalf.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt, stream::FuturesUnordered};
use millstream_env::{BoxFuture, Connection, FrameSink, FrameSource, FrameStream, Monotonic};
use millstream_protocol::{
    ApiKey, Request, RequestHeader,
    session::{Close, Incoming, Session, Slot},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::{
    dispatch::{self, Prepared, Work},
    handlers::fetch::StreamSession,
    metrics::counters::{Door, Standing},
    reply::Reply,
    shared::Shared,
    turn::Turns,
};

/// Most requests that one stream starts before the others have their turn on the thread.
const REQUESTS_AT_ONCE: usize = 64;
/// How long a stopping broker waits until the answers to what was asked have left.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// An answer that may be large is gathered once less than this is left of those in front of it, bytes.
const AHEAD_BYTES_MAX: usize = 1 << 20;

/// Takes connections until the listener is closed, or the broker stops.
pub(crate) async fn accept_connections(shared: Arc<Shared>, door: Arc<Door>) {
    loop {
        let connection = tokio::select! {
            connection = door.listener.accept() => connection,
            () = shared.stop.cancelled() => None,
        };
        let Some(connection) = connection else { return };
        let serve = serve_connection(shared.clone(), connection, door.enter());
        shared.env.spawn.spawn("connection", shared.connections.track_future(serve).boxed());
    }
}

/// `_standing`: until it has ended.
async fn serve_connection(shared: Arc<Shared>, connection: Arc<dyn Connection>, _standing: Standing) {
    let peer = connection.peer();
    debug!(address = %peer.address, transport = peer.transport, principal = peer.principal, "connected");
    let reading = shared.catch_up.connection(peer.network());
    // Once the connection is gone, or the broker stops, nobody waits for what has not come yet.
    let hurry = shared.stop.child_token();
    let gone = hurry.clone().drop_guard();
    let streams = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            () = shared.stop.cancelled() => None,
        };
        let Some(stream) = stream else { break };
        let serve =
            serve_stream(shared.clone(), connection.clone(), stream, Turns::new(hurry.child_token(), reading.clone()));
        shared.env.spawn.spawn("stream", streams.track_future(serve).boxed());
    }
    drop(gone);
    if shared.stop.is_cancelled() {
        streams.close();
        tokio::select! {
            () = streams.wait() => {}
            () = shared.env.clock.sleep(DRAIN_MAX) => {
                info!(address = %peer.address, "closed before all was answered: the broker stops");
            }
        }
        connection.close("the broker is stopping");
    }
}

async fn serve_stream(shared: Arc<Shared>, connection: Arc<dyn Connection>, stream: FrameStream, turns: Turns) {
    let peer = connection.peer();
    match drive_stream(&shared, stream, turns).await {
        Ok(()) => {}
        // Clients come and go; only what they did wrong is worth an operator's eye.
        Err(StreamEnd::Gone) => debug!(address = %peer.address, "stream ended: nobody takes its answers"),
        Err(StreamEnd::Io(error)) => debug!(address = %peer.address, %error, "stream ended"),
        Err(end) => {
            let (transport, principal) = (peer.transport, &peer.principal);
            info!(address = %peer.address, transport, principal, reason = %end, "stream closed");
            if matches!(end, StreamEnd::Refused(_)) {
                // The only way to say why: the bytes cannot be trusted to be a request that has an answer.
                connection.close(&end.to_string());
            }
        }
    }
}

/// Why a stream was given up.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("{0}")]
    Refused(Close),
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("nobody takes its answers any more")]
    Gone,
    #[error("a request that cannot be answered has failed: {0}")]
    Unanswered(String),
}

async fn drive_stream(shared: &Arc<Shared>, stream: FrameStream, turns: Turns) -> Result<(), StreamEnd> {
    let FrameStream { source, sink, finished, gone } = stream;
    let mut drive = Drive {
        shared,
        session: Session::new(shared.options.session),
        turns,
        fetch_session: StreamSession::default(),
        source: Some(source),
        sink,
        in_sink: 0,
        held: None,
        waiting: FuturesUnordered::new(),
        stop: Some(shared.stop.clone().cancelled_owned().boxed()),
        finished: Some(finished),
        gone: Some(gone),
    };
    let ended = std::future::poll_fn(|cx| drive.poll(cx)).await;
    if !matches!(ended, Err(StreamEnd::Io(_) | StreamEnd::Gone)) {
        // The answers that were complete still go out.
        while let Some(frame) = drive.session.poll_frame() {
            drive.sink.feed(frame).await?;
        }
        let _ = drive.sink.close().await;
    }
    ended
}

/// A request that was read and has no answer yet.
#[derive(Clone, Copy)]
struct Asked {
    slot: Slot,
    api: ApiKey,
    at: Monotonic,
}

/// A request that cannot be started yet, and holds up those behind it.
struct Held {
    asked: Asked,
    header: RequestHeader,
    work: BoxFuture<'static, Work>,
}

/// A stream at work.
struct Drive<'a> {
    shared: &'a Arc<Shared>,
    session: Session,
    turns: Turns,
    fetch_session: StreamSession,
    /// None once the peer has finished.
    source: Option<FrameSource>,
    sink: FrameSink,
    /// Bytes fed to the sink since it was last empty.
    in_sink: usize,
    held: Option<Held>,
    waiting: FuturesUnordered<BoxFuture<'static, (Asked, Reply)>>,
    /// Until the broker stops.
    stop: Option<BoxFuture<'static, ()>>,
    /// Until the peer sends nothing more, read or not.
    finished: Option<BoxFuture<'static, ()>>,
    /// Until it takes nothing more.
    gone: Option<BoxFuture<'static, ()>>,
}

impl Drive<'_> {
    /// Ready when the peer has finished and has had all its answers, or when the stream must end before.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            (self.stop, self.source) = (None, None);
        }
        if let Some(gone) = &mut self.gone
            && gone.as_mut().poll(cx).is_ready()
        {
            // What waits for anything waits in vain, and gives its place to others.
            (self.gone, self.waiting) = (None, FuturesUnordered::new());
        }
        if self.gone.is_none() {
            return self.poll_rest(cx);
        }
        loop {
            let more = self.poll_requests(cx)?;
            let wanted = self.session.wants_input();
            let settled = self.poll_waiting(cx)?;
            self.poll_sink(cx)?;
            self.give_turn();
            if self.source.is_none() && self.held.is_none() && self.session.in_flight() == 0 && self.in_sink == 0 {
                return Poll::Ready(Ok(()));
            }
            if more {
                // Others on this thread first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // What has left may have made room for requests, which nobody has looked for.
            if !settled && wanted == self.session.wants_input() {
                return Poll::Pending;
            }
        }
    }

    /// Takes requests in and starts them. Whether it stopped with more to do.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamEnd> {
        for _ in 0..REQUESTS_AT_ONCE {
            if let Some(held) = &mut self.held {
                let Poll::Ready(work) = held.work.as_mut().poll(cx) else { return Ok(false) };
                if let Some(Held { asked, header, .. }) = self.held.take() {
                    self.start(asked, header, work, cx)?;
                }
                continue;
            }
            if !self.session.wants_input() {
                self.poll_finished(cx);
                return Ok(false);
            }
            let Some(source) = &mut self.source else { return Ok(false) };
            let Poll::Ready(frame) = source.poll_next_unpin(cx) else { return Ok(false) };
            let Some(frame) = frame else {
                self.source = None;
                self.turns.hurry();
                return Ok(false);
            };
            let Some((asked, header, request)) = self.take(frame?)? else { continue };
            match dispatch::prepare(self.shared, header.version, request) {
                Prepared::Now(work) => self.start(asked, header, work, cx)?,
                Prepared::Later(work) => self.held = Some(Held { asked, header, work }),
            }
        }
        Ok(true)
    }

    /// While nothing is read: a peer that has gone by ending its side would be waited for by what it has asked for, for as long as that
    /// likes to wait.
    fn poll_finished(&mut self, cx: &mut Context<'_>) {
        if let Some(finished) = &mut self.finished
            && finished.as_mut().poll(cx).is_ready()
        {
            self.finished = None;
            self.turns.hurry();
        }
    }

    /// Nobody takes answers any more. What was sent before is appended still: it may have asked for none.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        for _ in 0..REQUESTS_AT_ONCE {
            if let Some(held) = &mut self.held {
                let work = std::task::ready!(held.work.as_mut().poll(cx));
                if let Some(Held { asked, header, .. }) = self.held.take() {
                    let turn = self.turns.of(asked.slot);
                    drop(dispatch::dispatch(self.shared, header, work, turn, &self.fetch_session));
                }
                continue;
            }
            let Some(source) = &mut self.source else { return Poll::Ready(Err(StreamEnd::Gone)) };
            let Poll::Ready(Some(Ok(frame))) = source.poll_next_unpin(cx) else {
                return Poll::Ready(Err(StreamEnd::Gone));
            };
            let Some((asked, header, request)) = self.take(frame)? else { continue };
            if let Request::Produce(_) = request {
                let work = match dispatch::prepare(self.shared, header.version, request) {
                    Prepared::Now(work) => std::future::ready(work).boxed(),
                    Prepared::Later(work) => work,
                };
                self.held = Some(Held { asked, header, work });
            }
        }
        // Others on this thread first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The request in a frame; none if the session has answered it itself.
    fn take(&mut self, frame: Bytes) -> Result<Option<(Asked, RequestHeader, Request)>, StreamEnd> {
        let requests = &self.shared.requests;
        let Some(incoming) = self.session.handle_frame(frame).map_err(StreamEnd::Refused)? else {
            // With the versions that there are.
            requests.taken(ApiKey::ApiVersions);
            requests.answered(ApiKey::ApiVersions, Duration::ZERO, true);
            return Ok(None);
        };
        let Incoming { slot, header, request, .. } = incoming;
        requests.taken(header.api);
        Ok(Some((Asked { slot, api: header.api, at: self.shared.env.clock.now() }, header, request)))
    }

    fn start(
        &mut self,
        asked: Asked,
        header: RequestHeader,
        work: Work,
        cx: &mut Context<'_>,
    ) -> Result<(), StreamEnd> {
        self.give_turn();
        let turn = self.turns.of(asked.slot);
        let mut reply = dispatch::dispatch(self.shared, header, work, turn, &self.fetch_session);
        // Most answers are there at once, and then count in what the session holds before the next request is read.
        match reply.as_mut().poll(cx) {
            Poll::Ready(reply) => self.settle(asked, reply),
            Poll::Pending => {
                self.waiting.push(Box::pin(async move { (asked, reply.await) }));
                Ok(())
            }
        }
    }

    /// Settles what has become ready: all of it leaves in one write. Whether there was anything.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamEnd> {
        let mut settled = false;
        while let Poll::Ready(Some((asked, reply))) = self.waiting.poll_next_unpin(cx) {
            self.settle(asked, reply)?;
            settled = true;
        }
        Ok(settled)
    }

    fn settle(&mut self, Asked { slot, api, at }: Asked, reply: Reply) -> Result<(), StreamEnd> {
        let error = match &reply {
            Reply::Answer(response) => response.tells_error(),
            Reply::Nothing => false,
            Reply::Close(_) => true,
        };
        self.shared.requests.answered(api, self.shared.env.clock.now() - at, error);
        match reply {
            Reply::Answer(response) => self.session.respond(slot, &response),
            Reply::Nothing => self.session.skip(slot),
            Reply::Close(reason) => return Err(StreamEnd::Unanswered(reason)),
        }
        .map_err(StreamEnd::Refused)
    }

    /// Hands answers over and has them sent, as far as the peer takes them.
    fn poll_sink(&mut self, cx: &mut Context<'_>) -> Result<(), StreamEnd> {
        while self.session.has_frame() {
            if self.sink.poll_ready_unpin(cx)?.is_pending() {
                return Ok(());
            }
            let Some(frame) = self.session.poll_frame() else { break };
            self.in_sink += frame.len();
            self.sink.start_send_unpin(frame)?;
        }
        if self.in_sink > 0 && self.sink.poll_flush_unpin(cx)?.is_ready() {
            self.in_sink = 0;
        }
        Ok(())
    }

    /// The oldest request without an answer may gather it, once what was gathered before has left.
    fn give_turn(&self) {
        if self.in_sink + self.session.unsent_bytes() < AHEAD_BYTES_MAX {
            self.turns.give(self.session.first_waiting());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::channel::{mpsc, oneshot};
    use millstream_env::sim::World;
    use millstream_model::{Offset, PartitionId};
    use millstream_protocol::{
        encode_request,
        messages::{
            fetch::{FetchPartition, FetchRequest, FetchTopic},
            produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
        },
    };
    use millstream_record::{BatchBuilder, BatchOptions};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{Broker, testing};

    /// The peer's end of a stream: what it sends and takes, and what becomes of it.
    struct Peer {
        frames: mpsc::UnboundedSender<std::io::Result<Bytes>>,
        answers: mpsc::UnboundedReceiver<millstream_env::Frame>,
        finished: Option<oneshot::Sender<()>>,
        gone: Option<oneshot::Sender<()>>,
    }

    fn stream() -> (Peer, FrameStream) {
        let ((frames, source), (sink, answers)) = (mpsc::unbounded(), mpsc::unbounded());
        let ((finish, finished), (go, gone)) = (oneshot::channel(), oneshot::channel());
        let sink = sink.sink_map_err(|_| std::io::ErrorKind::BrokenPipe.into());
        let signal = |told: oneshot::Receiver<()>| async {
            if told.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let stream = FrameStream {
            source: Box::pin(source),
            sink: Box::pin(sink),
            finished: signal(finished).boxed(),
            gone: signal(gone).boxed(),
        };
        (Peer { frames, answers, finished: Some(finish), gone: Some(go) }, stream)
    }

    impl Peer {
        fn send(&self, version: i16, request: impl Into<Request>) {
            let frame = encode_request(version, 1, None, &request.into()).unwrap().to_bytes();
            self.frames.unbounded_send(Ok(frame)).unwrap();
        }

        /// As [`Peer::send`], of records from there on, as soon as there are any.
        fn fetch(&self, from: Offset) {
            let partitions =
                vec![FetchPartition { fetch_offset: from, partition_max_bytes: 1 << 20, ..Default::default() }];
            let topics = vec![FetchTopic { topic: "t".into(), partitions, ..Default::default() }];
            self.send(11, FetchRequest { max_wait_ms: i32::MAX, min_bytes: 1, topics, ..Default::default() });
        }

        /// To a partition; with acks=0 there is no answer.
        fn produce(&self, partition: i32, acks: i16) {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.push(millstream_model::TimestampMs(0), None, Some(b"value"), &[]).unwrap();
            let records = Some(builder.build().unwrap());
            let partition_data =
                vec![PartitionProduceData { index: PartitionId(partition), records, ..Default::default() }];
            let topic_data = vec![TopicProduceData { name: "t".into(), partition_data, ..Default::default() }];
            self.send(7, ProduceRequest { acks, timeout_ms: 1000, topic_data, ..Default::default() });
        }
    }

    fn turns(broker: &Broker) -> Turns {
        Turns::new(CancellationToken::new(), broker.shared().catch_up.connection(Ipv4Addr::LOCALHOST.into()))
    }

    /// A broker with three old records and readers held back, and one who waits before all others.
    fn busy(world: &World) -> (Broker, crate::catch_up::Place) {
        let broker = testing::start(world);
        world.run_until(testing::create(&broker, 1));
        for _ in 0..3 {
            world.run_until(testing::append(&broker, 0).commit).unwrap();
        }
        let catch_up = &broker.shared().catch_up;
        catch_up.hold(1.0);
        let mut first = catch_up.connection(Ipv4Addr::LOCALHOST.into()).ask(1 << 20).unwrap();
        assert!(first.is_due());
        (broker, first)
    }

    fn end(broker: &Broker) -> Offset {
        broker.shared().partitions.find(testing::TOPIC, PartitionId(0)).unwrap().log.end_offset()
    }

    /// Its fetches waited for their turn, or for records, and kept their places for as long as they liked to wait.
    #[test]
    fn what_waits_for_a_peer_that_takes_nothing_more_ends_at_once() {
        for from in [0, 3] {
            let world = World::new(7);
            let (broker, first) = busy(&world);
            let shared = broker.shared();
            let (mut peer, stream) = stream();
            peer.fetch(Offset(from));
            let mut driven = Box::pin(drive_stream(shared, stream, turns(&broker)));
            assert!((&mut driven).now_or_never().is_none());
            assert_eq!(shared.catch_up.waiting(), usize::from(from == 0));
            peer.gone.take().unwrap().send(()).unwrap();
            // What it had sent is taken, whether it had asked for an answer or not.
            peer.produce(0, 0);
            peer.fetch(Offset(from));
            let ended = driven.now_or_never().expect("it waits on");
            assert!(matches!(ended, Err(StreamEnd::Gone)), "{ended:?}");
            assert_eq!((shared.catch_up.waiting(), end(&broker)), (0, Offset(4)), "{from}");
            assert!(peer.answers.try_recv().is_err());
            drop(first);
            testing::stop(&world, broker);
        }
    }

    /// A client that asked for more than a stream takes at a time, and closed its connection, was not seen to have gone: nothing was read
    /// from it before something was answered.
    #[test]
    fn nothing_waits_for_a_peer_that_has_ended_its_side_though_there_is_more_to_read() {
        let world = World::new(7);
        let (broker, first) = busy(&world);
        drop(first);
        let (mut peer, stream) = stream();
        let asked = 3 * broker.shared().options.session.requests_max;
        for _ in 0..asked {
            peer.fetch(Offset(3));
        }
        let mut driven = Box::pin(drive_stream(broker.shared(), stream, turns(&broker)));
        for _ in 0..10 {
            assert!((&mut driven).now_or_never().is_none());
        }
        peer.finished.take().unwrap().send(()).unwrap();
        peer.frames.close_channel();
        world.run_until(driven).unwrap();
        let answers = std::iter::from_fn(|| peer.answers.try_recv().ok()).count();
        assert_eq!(answers, asked);
        testing::stop(&world, broker);
    }

    /// It made readers give way to a producer that appended nothing, and counted as an append that was quick.
    #[test]
    fn a_produce_request_of_which_all_is_refused_is_no_append() {
        let world = World::new(7);
        let broker = testing::start(&world);
        world.run_until(testing::create(&broker, 1));
        let run = |partitions: &[i32]| {
            let (mut peer, stream) = stream();
            partitions.iter().for_each(|partition| peer.produce(*partition, -1));
            peer.frames.close_channel();
            world.run_until(drive_stream(broker.shared(), stream, turns(&broker))).unwrap();
            assert_eq!(std::iter::from_fn(|| peer.answers.try_recv().ok()).count(), partitions.len());
            broker.shared().catch_up.is_live()
        };
        assert!(!run(&[1, 7]), "there is no such partition");
        assert!(run(&[0, 1]));
        testing::stop(&world, broker);
    }

    #[test]
    fn a_peer_that_reads_on_is_answered() {
        let world = World::new(7);
        let (broker, first) = busy(&world);
        drop(first);
        let (mut peer, stream) = stream();
        peer.fetch(Offset(0));
        peer.frames.close_channel();
        world.run_until(drive_stream(broker.shared(), stream, turns(&broker))).unwrap();
        assert!(peer.answers.try_recv().is_ok());
        testing::stop(&world, broker);
    }
}
