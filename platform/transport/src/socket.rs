//! Sockets bound with the settings that were measured to matter, and the cap on segments per datagram batch.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use millstream_model::Address;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ListenError;

/// Packet size on loopback, bytes: about 1.0 GB/s where 1452 reaches 0.38.
pub(crate) const LOOPBACK_MTU: u16 = 6500;
/// What we ask of the kernel for each direction of a UDP socket. The default loses packets even on loopback.
const UDP_BUFFER_BYTES: usize = 8 << 20;
/// Most packets that one send call carries: quinn's own cap, restated because of the rule below.
const SEND_SEGMENTS_MAX: usize = 10;
/// Most packets that the kernel may hand over as one. With `LOOPBACK_MTU` the buffer holds any aggregate.
const RECEIVE_SEGMENTS_MAX: usize = 11;

// Segments times packet size above about 65,500 collapses throughput to 15-63 MB/s.
const _: () = assert!(SEND_SEGMENTS_MAX * (LOOPBACK_MTU as usize) < 65_500);
// A smaller receive buffer would cut aggregates of the kernel, which are up to 64 KiB.
const _: () = assert!(RECEIVE_SEGMENTS_MAX * (LOOPBACK_MTU as usize) > 65_535);

/// The host that `HOST:PORT` names, and where it may be.
pub(crate) async fn resolve(text: &str) -> io::Result<(String, Vec<SocketAddr>)> {
    let Address { host, port } = text.parse().map_err(io::Error::other)?;
    let candidates = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
    Ok((host, candidates))
}

/// A UDP socket for QUIC, not blocking.
pub(crate) fn bind_udp(address: SocketAddr) -> Result<UdpSocket, ListenError> {
    let bind = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // The kernel grants what `net.core.[rw]mem_max` allows; less is slower, not wrong.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bind().map_err(|source| ListenError::from_bind("UDP", address, source))
}

/// A listening TCP socket, not blocking. A port whose last owner has just gone can be had at once.
pub(crate) fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, ListenError> {
    let bind = || -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    bind().map_err(|source| ListenError::from_bind("TCP", address, source))
}

/// quinn's own socket with a cap on the packets per batch in either direction.
#[derive(Debug)]
pub(crate) struct CappedSocket {
    pub(crate) inner: Arc<dyn AsyncUdpSocket>,
}

impl AsyncUdpSocket for CappedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(SEND_SEGMENTS_MAX)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments().min(RECEIVE_SEGMENTS_MAX)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
