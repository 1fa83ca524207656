//! The bare client: the other end of the bare server, in this process.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use millstream_env::Buffers;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};

use super::{
    disk::Ack,
    quic,
    server::{ACK_BYTES, FRAME_HEADER_BYTES, MESSAGE_BYTES, Ready, SENT_BYTES, check},
    tcp::{ANSWER_BYTES, CHECKED, TcpLane},
};
use crate::{
    broker::Encoder,
    closed_loop::{Lane, Moved},
    workload::{self, RECORDS},
};

/// Bytes that count as one step of a fetch.
const FETCH_STEP_BYTES: u64 = 1 << 20;

/// A bare server's process and a connection to it. Dropping it ends the process.
pub(crate) struct BareServer {
    child: Child,
    connection: Connection,
    quic: SocketAddr,
    certificate: String,
    tcp: SocketAddr,
    _endpoint: Endpoint,
}

impl BareServer {
    /// Starts one with its files in `dir`.
    pub(crate) async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bare-server")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the bare server")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let ready: Ready = serde_json::from_str(&line).with_context(|| format!("the bare server said {line:?}"))?;
        let quic = SocketAddr::from(([127, 0, 0, 1], ready.port));
        let (endpoint, connection) = connect(quic, &ready.certificate).await?;
        let tcp = SocketAddr::from(([127, 0, 0, 1], ready.tcp_port));
        Ok(Self { child, connection, quic, certificate: ready.certificate, tcp, _endpoint: endpoint })
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// A producer of these values on a stream of its own.
    pub(crate) async fn producer(&self, values: &[Bytes], encoder: Encoder, ack: Ack) -> anyhow::Result<ProduceLane> {
        let (mut send, receive) = self.connection.open_bi().await?;
        let kind = match ack {
            Ack::Cached => b"p",
            Ack::Durable => b"d",
            Ack::DurableTwice => b"t",
        };
        send.write_all(kind).await?;
        let batch = match encoder {
            Encoder::Before => ToSend::Encoded(workload::encode(values)?),
            Encoder::Each => ToSend::Values(values.to_vec()),
        };
        Ok(ProduceLane { send, receive, batch, correlation: 0 })
    }

    /// A reader on a stream of its own.
    pub(crate) async fn fetcher(&self) -> anyhow::Result<FetchLane> {
        FetchLane::open(&self.connection, b"f", None).await
    }

    /// A reader of a file on a stream of its own, for which what it reads is put together and checked.
    pub(crate) async fn checked_fetcher(&self) -> anyhow::Result<CheckedLane> {
        let lane = FetchLane::open(&self.connection, b"g", None).await?;
        Ok(CheckedLane { lane, buffers: Buffers::default() })
    }

    /// A reader on a connection of its own, to be made by whoever runs it.
    pub(crate) fn distant_fetcher(&self) -> impl Future<Output = anyhow::Result<FetchLane>> + Send + 'static + use<> {
        let (quic, certificate) = (self.quic, self.certificate.clone());
        async move {
            let (endpoint, connection) = connect(quic, &certificate).await?;
            FetchLane::open(&connection, b"f", Some(endpoint)).await
        }
    }

    /// Somebody who sends small messages back and forth on a stream of its own.
    pub(crate) async fn round_trips(&self) -> anyhow::Result<RoundTripLane> {
        let (mut send, receive) = self.connection.open_bi().await?;
        send.write_all(b"r").await?;
        Ok(RoundTripLane { send, receive })
    }

    /// A reader of the file that is sent over TCP, part after part; `checked`: the server reads and checks what it sends.
    pub(crate) async fn tcp_fetcher(&self, checked: bool) -> anyhow::Result<TcpLane> {
        let how = if checked { CHECKED } else { 0 };
        let part = |at: usize| Bytes::copy_from_slice(&(at as u64 | how).to_be_bytes());
        TcpLane::connect(self.tcp, (0..SENT_BYTES).step_by(ANSWER_BYTES).map(part).collect(), ANSWER_BYTES).await
    }

    /// What the disk did since last asked.
    pub(crate) async fn disk_stats(&self) -> anyhow::Result<String> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        send.write_all(b"s").await?;
        Ok(String::from_utf8(receive.read_to_end(64 << 10).await?)?)
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(address: SocketAddr, certificate: &str) -> anyhow::Result<(Endpoint, Connection)> {
    let endpoint = quic::client(certificate)?;
    let connection = endpoint.connect(address, quic::HOST)?.await?;
    Ok((endpoint, connection))
}

/// Sends one batch and waits for its acknowledgement.
pub(crate) struct ProduceLane {
    send: SendStream,
    receive: RecvStream,
    batch: ToSend,
    correlation: u32,
}

/// What there is before a batch is sent.
enum ToSend {
    Encoded(Bytes),
    Values(Vec<Bytes>),
}

impl Lane for ProduceLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let batch = match &self.batch {
            ToSend::Encoded(batch) => batch.clone(),
            ToSend::Values(values) => workload::encode(values)?,
        };
        let bytes = batch.len();
        let mut header = BytesMut::with_capacity(FRAME_HEADER_BYTES);
        header.put_u32_le(bytes as u32);
        header.put_u32_le(self.correlation);
        self.send.write_all_chunks(&mut [header.freeze(), batch]).await?;
        let mut ack = [0; ACK_BYTES];
        self.receive.read_exact(&mut ack).await?;
        ensure!(ack[..4] == self.correlation.to_le_bytes(), "another batch was acknowledged");
        self.correlation = self.correlation.wrapping_add(1);
        Ok(Moved { bytes: bytes as u64, records: RECORDS as u64 })
    }
}

/// Reads what comes.
pub(crate) struct FetchLane {
    receive: RecvStream,
    /// Dropping it would end the stream's other direction, which is no harm, but not what is measured either.
    _send: SendStream,
    /// Its own, if it has one.
    _endpoint: Option<Endpoint>,
}

impl FetchLane {
    async fn open(connection: &Connection, kind: &[u8; 1], endpoint: Option<Endpoint>) -> anyhow::Result<Self> {
        let (mut send, receive) = connection.open_bi().await?;
        send.write_all(kind).await?;
        Ok(Self { receive, _send: send, _endpoint: endpoint })
    }
}

impl Lane for FetchLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let mut bytes = 0;
        while bytes < FETCH_STEP_BYTES {
            let chunk = self.receive.read_chunk(usize::MAX, true).await?.context("the stream has ended")?;
            bytes += chunk.bytes.len() as u64;
        }
        Ok(Moved { bytes, records: 0 })
    }
}

/// Sends a small message and waits for it to come back.
pub(crate) struct RoundTripLane {
    send: SendStream,
    receive: RecvStream,
}

impl Lane for RoundTripLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let mut message = [7; MESSAGE_BYTES];
        self.send.write_all(&message).await?;
        self.receive.read_exact(&mut message).await?;
        Ok(Moved { bytes: MESSAGE_BYTES as u64, records: 1 })
    }
}

/// Puts what comes together, as batches must be, and goes over it once.
pub(crate) struct CheckedLane {
    lane: FetchLane,
    buffers: Buffers,
}

impl Lane for CheckedLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let step = FETCH_STEP_BYTES as usize;
        let mut whole = self.buffers.take_empty(step, step);
        while whole.len() < step {
            let left = step - whole.len();
            let chunk = self.lane.receive.read_chunk(left, true).await?.context("the stream has ended")?;
            whole.extend_from_slice(&chunk.bytes);
        }
        check(&whole);
        self.buffers.give_back(whole);
        Ok(Moved { bytes: FETCH_STEP_BYTES, records: 0 })
    }
}

impl Drop for FetchLane {
    fn drop(&mut self) {
        // Closed already is as good.
        let _ = self.receive.stop(VarInt::from_u32(0));
    }
}
