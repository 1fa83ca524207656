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
    session::{Close, Incoming, Session, Slot, Taken},
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
        let incoming = match self.session.handle_frame(frame).map_err(StreamEnd::Refused)? {
            Taken::Request(incoming) => incoming,
            Taken::Done(api) => {
                requests.taken(api);
                // ApiVersions: with the versions that there are.
                requests.answered(api, Duration::ZERO, api == ApiKey::ApiVersions);
                return Ok(None);
            }
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

    fn settle(&mut self, asked: Asked, reply: Reply) -> Result<(), StreamEnd> {
        let Asked { slot, api, at } = asked;
        let error = match &reply {
            Reply::More(..) => false,
            Reply::Answer(response) => response.tells_error(),
            Reply::Nothing => false,
            Reply::Close(_) => true,
        };
        if !matches!(reply, Reply::More(..)) {
            self.shared.requests.answered(api, self.shared.env.clock.now() - at, error);
        }
        match reply {
            Reply::More(response, rest) => {
                // It has no turn before what this one takes of its credit, and of the room, is counted.
                self.turns.give(None, 0);
                self.waiting.push(Box::pin(async move { (asked, rest.await) }));
                self.session.respond_partly(slot, &response)
            }
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
            self.turns.give(self.session.first_waiting(), self.session.credit_bytes());
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
