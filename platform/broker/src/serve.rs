//! Connections and streams: frames in, requests dispatched in order, answers out in order.
//!
//! The thin shell around [`millstream_protocol`]'s session. One task a stream: requests that were taken run inside it,
//! so a peer that goes away takes its waiting requests with it. What an append has put into the log stays there.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt, stream::FuturesUnordered};
use millstream_env::{BoxFuture, Connection, FrameSource, FrameStream, Listener, Peer};
use millstream_protocol::{
    Response,
    session::{Close, Incoming, Session, Slot},
};
use tracing::{debug, info};

use crate::{dispatch, shared::Shared};

/// Takes connections until the listener is closed.
pub(crate) async fn accept_connections(shared: Arc<Shared>, listener: Arc<dyn Listener>) {
    while let Some(connection) = listener.accept().await {
        let shared_for_task = shared.clone();
        shared.env.spawn.spawn("connection", accept_streams(shared_for_task, connection).boxed());
    }
}

async fn accept_streams(shared: Arc<Shared>, connection: Arc<dyn Connection>) {
    let peer = connection.peer().clone();
    debug!(address = %peer.address, transport = peer.transport, "connected");
    while let Some(stream) = connection.accept().await {
        let (shared_for_task, peer) = (shared.clone(), peer.clone());
        shared.env.spawn.spawn(
            "stream",
            async move {
                match drive_stream(&shared_for_task, &peer, stream).await {
                    Ok(()) => {}
                    // Clients come and go; only what they did wrong is worth an operator's eye.
                    Err(StreamEnd::Io(error)) => debug!(address = %peer.address, %error, "stream ended"),
                    Err(end) => {
                        info!(address = %peer.address, transport = peer.transport, reason = %end, "stream closed");
                    }
                }
            }
            .boxed(),
        );
    }
}

/// Why a stream was given up.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("{0}")]
    Refused(Close),
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("an answer stayed unread for {0:?}")]
    Stalled(std::time::Duration),
}

type Waiting = FuturesUnordered<BoxFuture<'static, (Slot, Option<Response>)>>;

async fn drive_stream(shared: &Arc<Shared>, peer: &Peer, stream: FrameStream) -> Result<(), StreamEnd> {
    let limits = shared.options.stream;
    let FrameStream { mut source, mut sink } = stream;
    let mut session = Session::new(limits.session);
    let mut waiting = Waiting::new();
    let mut open = true;
    loop {
        let mut unsent = false;
        while let Some(frame) = session.poll_frame() {
            bounded(shared, limits.write_stall_max, sink.feed(frame)).await?;
            unsent = true;
        }
        if unsent {
            bounded(shared, limits.write_stall_max, sink.flush()).await?;
        }
        if !open && waiting.is_empty() {
            // The peer sends no more and has had all its answers.
            let _ = sink.close().await;
            return Ok(());
        }
        tokio::select! {
            biased;
            Some((slot, response)) = waiting.next(), if !waiting.is_empty() => {
                settle(&mut session, slot, response)?;
                // All that is ready leaves in one write.
                while let Some(Some((slot, response))) = waiting.next().now_or_never() {
                    settle(&mut session, slot, response)?;
                }
            }
            frame = next_frame(shared, &mut source), if open && session.wants_input() => match frame {
                None => open = false,
                Some(frame) => {
                    let incoming = session.handle_frame(frame?).map_err(StreamEnd::Refused)?;
                    if let Some(Incoming { slot, header, request, .. }) = incoming {
                        let answer = dispatch::dispatch(shared, peer, header, request);
                        waiting.push(Box::pin(async move { (slot, answer.await) }));
                    }
                }
            },
        }
    }
}

/// The next request, once the journal has room: a slow disk slows its clients through the transport's flow control.
async fn next_frame(shared: &Shared, source: &mut FrameSource) -> Option<std::io::Result<Bytes>> {
    shared.storage.writable().await;
    source.next().await
}

fn settle(session: &mut Session, slot: Slot, response: Option<Response>) -> Result<(), StreamEnd> {
    match response {
        Some(response) => session.respond(slot, &response),
        None => session.skip(slot),
    }
    .map_err(StreamEnd::Refused)
}

async fn bounded(
    shared: &Shared,
    stall: std::time::Duration,
    write: impl Future<Output = std::io::Result<()>>,
) -> Result<(), StreamEnd> {
    let mut write = std::pin::pin!(write);
    // Most writes go through at once: no timer for those.
    if let std::task::Poll::Ready(done) = futures::poll!(write.as_mut()) {
        return Ok(done?);
    }
    match futures::future::select(write, shared.env.clock.sleep(stall)).await {
        futures::future::Either::Left((done, _)) => Ok(done?),
        futures::future::Either::Right(_) => Err(StreamEnd::Stalled(stall)),
    }
}
