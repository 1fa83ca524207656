//! The HTTP side: one small server for operators and their tools, apart from the ports that records go through.
//!
//! It must not be a way in. It listens on loopback unless told otherwise; a connection carries one request and stands for
//! [`CONNECTION_TIME_MAX`] at most, whatever its peer does or does not do; there are [`CONNECTIONS_MAX`] at a time, and headers and
//! bodies are bounded. What is answered is in [`answer`], and in [`metrics`] what a broker tells of itself in numbers.

mod answer;
mod metrics;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, bail};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use millstream_broker::Broker;
use millstream_transport::Credentials;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};
use tracing::{debug, warn};

use super::settings::Http;
use crate::log_filter::LogFilter;

/// Connections that stand at a time. One more is told that it is too much, and closed.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection stands, from its first byte to its last.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// A request's line and headers together.
const HEADER_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// What is read of a connection before it is worked on, bytes.
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// How long answers that are under way may take when the broker has stopped.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// When connections are taken again after the operating system has refused one: for want of descriptors, say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

const _: () = assert!(BUFFER_BYTES_MAX > HEADER_BYTES_MAX);

/// What the server tells of.
pub(crate) struct Site {
    /// Once it serves; and what its listeners show.
    broker: OnceLock<(Arc<Broker>, Credentials)>,
    log: LogFilter,
    /// Held while metrics are gathered.
    scraping: Arc<tokio::sync::Mutex<()>>,
    /// The server listens where only this machine's programs can come from. Told by [`HttpServer::start`].
    is_local: OnceLock<bool>,
}

impl Site {
    /// Of a broker that is starting.
    pub(crate) fn new(log: LogFilter) -> Self {
        Self { broker: OnceLock::new(), log, scraping: Arc::default(), is_local: OnceLock::new() }
    }

    /// The broker serves from now on.
    pub(crate) fn serves(&self, broker: Arc<Broker>, credentials: Credentials) {
        // It starts once.
        let _ = self.broker.set((broker, credentials));
    }
}

/// Takes the address, if it is to be had.
///
/// # Errors
/// Where it was asked for and cannot be had.
pub(crate) async fn listen(asked: Http) -> anyhow::Result<Option<TcpListener>> {
    let (address, is_asked) = match asked {
        Http::Off => return Ok(None),
        Http::On(address) => (address, true),
        Http::IfFree(address) => (address, false),
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if !is_asked => {
            warn!(%address, %error, "health and metrics are not served over HTTP: choose an address with --http, or `--http none`");
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
            "cannot serve HTTP on {address}: its port is in use by another process; stop that one, or choose another address \
             with --http (port 0 takes a free one, `none` does without)"
        ),
        Err(error) => Err(error).with_context(|| format!("cannot serve HTTP on {address} (--http)")),
    }
}

/// A server at work. Dropping it does not end it.
pub(crate) struct HttpServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Answers whoever connects, from now on.
    ///
    /// # Errors
    /// When the listener does not know its own address.
    pub(crate) fn start(listener: TcpListener, site: Arc<Site>) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("cannot serve HTTP")?;
        let is_local = address.ip().is_loopback();
        let _ = site.is_local.set(is_local);
        if !is_local {
            warn!(%address, "whoever reaches this address may ask for the broker's health, read its metrics and change what it logs");
        }
        let (stop, stopped) = oneshot::channel();
        Ok(Self { address, stop, accepting: tokio::spawn(accept(listener, site, stopped)) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, and gives those that stand a second.
    pub(crate) async fn stop(self) {
        // Nobody hears it if the task has failed: then there is nothing to stop.
        let _ = self.stop.send(());
        let _ = self.accepting.await;
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve(stream, site.clone()));
                }
                Ok((stream, peer)) => {
                    debug!(%peer, "an HTTP connection too many");
                    refuse(&stream);
                }
                Err(error) => {
                    debug!(%error, "an HTTP connection could not be taken");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => break,
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(FAREWELL_MAX, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve(stream: TcpStream, site: Arc<Site>) {
    let service = service_fn(|request| answer::answer(&site, request));
    let serving = http1::Builder::new()
        .keep_alive(false)
        // The time below is for all of a connection.
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME_MAX, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an HTTP connection failed"),
        Err(_) => debug!("an HTTP connection took too long"),
    }
}

/// Says why before the connection is closed, if that can be said at once.
fn refuse(stream: &TcpStream) {
    let _ = stream.try_write(
        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 10\r\n\r\n",
    );
}
