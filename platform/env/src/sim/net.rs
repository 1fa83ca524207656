//! The simulated network: connections of frame streams in memory.
//!
//! Machines have names and addresses of their own; `localhost`, `127.0.0.1` and unspecified addresses mean the machine that says
//! them. Frames of a stream arrive in order, after the latency that the world sets. A full stream pushes back after
//! [`STREAM_FRAMES_MAX`] frames. A connection that is closed delivers what was sent before; one that breaks does not.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    Sink, Stream, StreamExt,
    channel::mpsc::{Receiver, Sender, channel},
};
use parking_lot::Mutex;

use super::{SimClock, SimRng, mailbox::Mailbox};
use crate::{BoxFuture, Clock, Connection, Frame, FrameStream, Listener, Monotonic, Net, Peer};

const TRANSPORT: &str = "sim";
/// How many frames a stream holds that nobody has read.
const STREAM_FRAMES_MAX: usize = 64;
/// Ports given where 0 is asked for, and to those who connect.
const PORT_FIRST: u16 = 40_000;

/// One machine's network in a [`super::World`].
#[derive(Clone)]
pub struct SimNet {
    hub: Hub,
    machine: u32,
}

/// What all machines' networks share.
#[derive(Clone)]
pub(super) struct Hub {
    clock: SimClock,
    state: Arc<Mutex<State>>,
}

struct State {
    names: BTreeMap<String, u32>,
    listeners: BTreeMap<(u32, u16), Arc<SimListener>>,
    connections: Vec<Weak<Link>>,
    next_port: u16,
    latency: Option<(Duration, Duration, SimRng)>,
}

/// A machine's address.
fn address(machine: u32) -> IpAddr {
    let [_, b, c, d] = machine.saturating_add(1).to_be_bytes();
    Ipv4Addr::new(10, b, c, d).into()
}

fn error(kind: io::ErrorKind, address: impl std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("{address}: {kind}"))
}

impl Hub {
    pub(super) fn new(clock: SimClock) -> Self {
        let state = State {
            names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            connections: Vec::new(),
            next_port: PORT_FIRST,
            latency: None,
        };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn machine(&self, machine: u32, name: &str) -> SimNet {
        self.state.lock().names.insert(name.into(), machine);
        SimNet { hub: self.clone(), machine }
    }

    pub(super) fn set_latency(&self, least: Duration, spread: Duration, rng: SimRng) {
        self.state.lock().latency = Some((least, spread, rng));
    }

    /// A machine is gone: its listeners end, its connections break at both ends.
    pub(super) fn stop(&self, machine: u32) {
        let (listeners, links): (Vec<_>, Vec<_>) = {
            let mut state = self.state.lock();
            let listeners = state.listeners.extract_if(.., |(of, _), _| *of == machine).map(|(_, l)| l).collect();
            let links = state.connections.iter().filter_map(Weak::upgrade).filter(|l| l.machines.contains(&machine));
            (listeners, links.collect())
        };
        listeners.iter().for_each(|listener| listener.close());
        links.iter().for_each(|link| link.end(End { broken: true, reason: "the connection broke".into() }));
    }

    /// When a frame that is sent now arrives.
    fn due(&self) -> Monotonic {
        let state = self.state.lock();
        let delay = match &state.latency {
            Some((least, spread, rng)) => {
                let nanos = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
                *least + Duration::from_nanos(rng.below(nanos))
            }
            None => Duration::ZERO,
        };
        Monotonic(self.clock.now().0 + delay)
    }

    fn port(state: &mut State, machine: u32) -> u16 {
        loop {
            let port = state.next_port;
            state.next_port = port.checked_add(1).unwrap_or(PORT_FIRST);
            if !state.listeners.contains_key(&(machine, port)) {
                return port;
            }
        }
    }
}

impl SimNet {
    /// Which machine an address means, seen from here.
    fn resolve(&self, host: &str) -> Option<u32> {
        let own = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
        if host == "localhost" || host.parse().is_ok_and(own) {
            return Some(self.machine);
        }
        let state = self.hub.state.lock();
        let by_address = || state.names.values().copied().find(|id| Ok(address(*id)) == host.parse());
        state.names.get(host).copied().or_else(by_address)
    }

    fn connect_now(&self, text: &str) -> io::Result<Arc<dyn Connection>> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error(io::ErrorKind::InvalidInput, text))?;
        let port: u16 = port.parse().map_err(|_| error(io::ErrorKind::InvalidInput, text))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let machine = self.resolve(host).ok_or_else(|| error(io::ErrorKind::NotFound, text))?;
        let (listener, own_port) = {
            let mut state = self.hub.state.lock();
            let listener = state.listeners.get(&(machine, port)).cloned();
            (listener, Hub::port(&mut state, self.machine))
        };
        let listener = listener.ok_or_else(|| error(io::ErrorKind::ConnectionRefused, text))?;
        let link = Arc::new(Link::new([self.machine, machine]));
        let end = |side: usize, machine, port| -> Arc<dyn Connection> {
            let peer = Peer { address: SocketAddr::new(address(machine), port), transport: TRANSPORT, principal: None };
            Arc::new(SimConnection { hub: self.hub.clone(), link: Arc::clone(&link), side, peer })
        };
        let (ours, theirs) = (end(0, machine, port), end(1, self.machine, own_port));
        {
            let mut state = self.hub.state.lock();
            state.connections.retain(|link| link.strong_count() > 0);
            state.connections.push(Arc::downgrade(&link));
        }
        listener.waiting.put(theirs).map_err(|_| error(io::ErrorKind::ConnectionRefused, text))?;
        Ok(ours)
    }
}

impl Net for SimNet {
    fn listen(&self, asked: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn Listener>>> {
        Box::pin(async move {
            if self.resolve(&asked.ip().to_string()) != Some(self.machine) {
                return Err(error(io::ErrorKind::AddrNotAvailable, asked));
            }
            let mut state = self.hub.state.lock();
            let port = match asked.port() {
                0 => Hub::port(&mut state, self.machine),
                port => port,
            };
            let key = (self.machine, port);
            if state.listeners.contains_key(&key) {
                return Err(error(io::ErrorKind::AddrInUse, asked));
            }
            let local = SocketAddr::new(asked.ip(), port);
            let listener = Arc::new(SimListener { hub: self.hub.clone(), key, local, waiting: Mailbox::default() });
            state.listeners.insert(key, Arc::clone(&listener));
            Ok(Arc::new(OwnedListener(listener)) as Arc<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn Connection>>> {
        Box::pin(async move {
            let due = self.hub.due();
            self.hub.clock.sleep(due - self.hub.clock.now()).await;
            self.connect_now(address)
        })
    }
}

struct SimListener {
    hub: Hub,
    key: (u32, u16),
    local: SocketAddr,
    waiting: Mailbox<Arc<dyn Connection>>,
}

impl SimListener {
    fn close(&self) {
        // Only itself: the port may have a new owner.
        let mut state = self.hub.state.lock();
        let own = state.listeners.get(&self.key).is_some_and(|there| std::ptr::eq(&**there, self));
        let removed = if own { state.listeners.remove(&self.key) } else { None };
        drop(state);
        self.waiting.close();
        drop(removed);
    }
}

/// The caller's hold on a listener: dropping it closes it.
struct OwnedListener(Arc<SimListener>);

impl Listener for OwnedListener {
    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn Connection>>> {
        Box::pin(self.0.waiting.take())
    }

    fn local_address(&self) -> SocketAddr {
        self.0.local
    }

    fn close(&self) {
        self.0.close();
    }

    fn transport(&self) -> &'static str {
        TRANSPORT
    }

    /// There is no bound here.
    fn refused(&self) -> u64 {
        0
    }
}

impl Drop for OwnedListener {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// How a connection ended.
#[derive(Clone, Debug)]
struct End {
    /// What was sent and not received is lost.
    broken: bool,
    reason: String,
}

impl End {
    fn error(&self) -> io::Error {
        let kind = if self.broken { io::ErrorKind::ConnectionReset } else { io::ErrorKind::ConnectionAborted };
        io::Error::new(kind, self.reason.clone())
    }
}

/// What the two ends of a connection share.
struct Link {
    machines: [u32; 2],
    /// Streams that the other side opened, by the side that accepts them.
    opened: [Mailbox<FrameStream>; 2],
    end: Mutex<(Option<End>, Vec<Waker>)>,
}

impl Link {
    fn new(machines: [u32; 2]) -> Self {
        Self { machines, opened: Default::default(), end: Mutex::default() }
    }

    /// Ends the connection, for the first reason that is given; a break also takes what a close would still deliver.
    fn end(&self, end: End) {
        let mut state = self.end.lock();
        if state.0.as_ref().is_none_or(|before| end.broken && !before.broken) {
            state.0 = Some(end);
        }
        let wakers = std::mem::take(&mut state.1);
        drop(state);
        self.opened.iter().for_each(Mailbox::close);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The end, if it has come; else wakes when it does.
    fn poll_end(&self, context: &Context<'_>) -> Option<End> {
        let mut state = self.end.lock();
        if state.0.is_none() && !state.1.iter().any(|waker| waker.will_wake(context.waker())) {
            state.1.push(context.waker().clone());
        }
        state.0.clone()
    }
}

struct SimConnection {
    hub: Hub,
    link: Arc<Link>,
    side: usize,
    peer: Peer,
}

impl SimConnection {
    fn open_now(&self) -> io::Result<FrameStream> {
        let ended = self.link.end.lock().0.as_ref().map(End::error);
        if let Some(ended) = ended {
            return Err(ended);
        }
        let direction = || {
            let (sender, receiver) = channel(STREAM_FRAMES_MAX);
            let sink = SimSink { hub: self.hub.clone(), link: Arc::clone(&self.link), sender };
            let source = SimSource { receiver, link: Arc::clone(&self.link) };
            let clock = self.hub.clock.clone();
            let arriving = source.then(move |item| {
                let clock = clock.clone();
                async move {
                    let (due, frame) = item?;
                    clock.sleep(due - clock.now()).await;
                    Ok(frame)
                }
            });
            (sink, arriving)
        };
        let signals = || {
            let link = Arc::clone(&self.link);
            let gone = std::future::poll_fn(move |context| match link.poll_end(context) {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            });
            (Box::pin(std::future::pending()), Box::pin(gone))
        };
        let ((out, theirs), (back, ours)) = (direction(), direction());
        let (finished, gone) = signals();
        let remote = FrameStream { source: Box::pin(theirs), sink: Box::pin(back), finished, gone };
        let ended = self.link.opened[1 - self.side].put(remote);
        ended.map_err(|_| error(io::ErrorKind::ConnectionAborted, self.peer.address))?;
        let (finished, gone) = signals();
        Ok(FrameStream { source: Box::pin(ours), sink: Box::pin(out), finished, gone })
    }
}

impl Connection for SimConnection {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn has_many_streams(&self) -> bool {
        true
    }

    fn accept(&self) -> BoxFuture<'_, Option<FrameStream>> {
        Box::pin(self.link.opened[self.side].take())
    }

    fn open(&self) -> BoxFuture<'_, io::Result<FrameStream>> {
        Box::pin(std::future::ready(self.open_now()))
    }

    fn close(&self, reason: &str) {
        self.link.end(End { broken: false, reason: reason.into() });
    }
}

impl Drop for SimConnection {
    fn drop(&mut self) {
        self.close("the other end let go of the connection");
    }
}

struct SimSource {
    receiver: Receiver<(Monotonic, Bytes)>,
    link: Arc<Link>,
}

impl Stream for SimSource {
    type Item = io::Result<(Monotonic, Bytes)>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let end = self.link.poll_end(context);
        if let Some(end) = end.as_ref().filter(|end| end.broken) {
            return Poll::Ready(Some(Err(end.error())));
        }
        match (self.receiver.poll_next_unpin(context), end) {
            (Poll::Ready(frame), _) => Poll::Ready(frame.map(Ok)),
            (Poll::Pending, Some(end)) => Poll::Ready(Some(Err(end.error()))),
            (Poll::Pending, None) => Poll::Pending,
        }
    }
}

struct SimSink {
    hub: Hub,
    link: Arc<Link>,
    sender: Sender<(Monotonic, Bytes)>,
}

impl SimSink {
    fn gone() -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads this stream any more")
    }
}

impl Sink<Frame> for SimSink {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = self.link.poll_end(context) {
            return Poll::Ready(Err(end.error()));
        }
        self.sender.poll_ready(context).map_err(|_| Self::gone())
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> io::Result<()> {
        let due = self.hub.due();
        self.sender.start_send((due, frame.to_bytes())).map_err(|_| Self::gone())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.link.poll_end(context) {
            Some(end) => Poll::Ready(Err(end.error())),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.close_channel();
        Poll::Ready(Ok(()))
    }
}
