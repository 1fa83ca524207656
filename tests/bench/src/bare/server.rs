//! The bare server, a process of its own: takes batches off QUIC streams, checks their CRC, hands them to the disk's thread
//! and acknowledges; or sends bytes from memory.
//!
//! ```text
//! a stream begins with one byte: what it is for
//!   'd' 'p' 't'  produce, durable or to the page cache or durable and written twice:
//!                { u32 length, u32 correlation, batch }  ->  { u32 correlation, u64 offset }
//!   'f' 'g'      fetch, from memory, or from a file and checked:  -> bytes without end
//!   'r'          round trips: 64 bytes  ->  the same
//!   's'          statistics: -> what the disk did since last asked, as text; the second copy is let go
//! ```

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, PoisonError},
    thread,
};

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use millstream_env::Buffers;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::unbounded_channel;

use super::{
    disk::{Ack, Append, Disk},
    quic, tcp,
};

/// Where a batch's CRC is, and what it covers begins behind it.
const CRC_END: usize = 21;
/// Bytes of a frame's header and of an acknowledgement.
pub(super) const FRAME_HEADER_BYTES: usize = 8;
pub(super) const ACK_BYTES: usize = 12;
/// How large the file is that is sent over TCP.
pub(super) const SENT_BYTES: usize = 256 << 20;
/// Of a round trip, about what a small request and its answer take.
pub(super) const MESSAGE_BYTES: usize = 64;
/// How much of the memory goes into one write of a fetch.
const FETCH_CHUNK_BYTES: usize = 256 << 10;

/// What the server says on its standard output when it is ready.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Ready {
    pub(super) port: u16,
    /// Of the file that is sent over TCP.
    pub(super) tcp_port: u16,
    pub(super) certificate: String,
}

/// Serves until standard input ends, which it does at the latest with whoever started this.
pub(crate) fn run(dir: &Path) -> anyhow::Result<()> {
    thread::spawn(|| {
        // An error means the same as the end.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let disk = Disk::start(dir)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (endpoint, certificate) = quic::server()?;
        let (tcp_port, sent) = tcp::serve(dir, SENT_BYTES)?;
        let ready = Ready { port: endpoint.local_addr()?.port(), tcp_port, certificate };
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", serde_json::to_string(&ready)?)?;
        stdout.flush()?;
        while let Some(incoming) = endpoint.accept().await {
            let (disk, sent) = (disk.clone(), sent.clone());
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((send, receive)) = connection.accept_bi().await {
                    // A stream that breaks off is its client's business.
                    tokio::spawn(serve(send, receive, disk.clone(), sent.clone()));
                }
            });
        }
        Ok(())
    })
}

async fn serve(mut send: SendStream, mut receive: RecvStream, disk: Disk, sent: Arc<File>) -> anyhow::Result<()> {
    let mut kind = [0];
    receive.read_exact(&mut kind).await?;
    match &kind {
        b"d" => produce(send, receive, &disk, Ack::Durable).await,
        b"t" => produce(send, receive, &disk, Ack::DurableTwice).await,
        b"p" => produce(send, receive, &disk, Ack::Cached).await,
        b"f" => loop {
            send.write_chunk(MEMORY.clone()).await?;
        },
        b"g" => send_file(send, &sent).await,
        b"r" => {
            let mut message = [0; MESSAGE_BYTES];
            loop {
                receive.read_exact(&mut message).await?;
                send.write_all(&message).await?;
            }
        }
        b"s" => {
            let told = disk.stats.lock().unwrap_or_else(PoisonError::into_inner).take();
            disk.second.start_anew()?;
            send.write_all(told.as_bytes()).await?;
            send.finish()?;
            send.stopped().await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

static MEMORY: std::sync::LazyLock<Bytes> = std::sync::LazyLock::new(|| vec![9; FETCH_CHUNK_BYTES].into());

/// Reads the file over and over, checks what was read as a broker does, and sends it.
async fn send_file(mut send: SendStream, file: &File) -> anyhow::Result<()> {
    let chunks = Buffers::default();
    loop {
        for at in (0..SENT_BYTES).step_by(FETCH_CHUNK_BYTES) {
            let mut chunk = chunks.take_filled(FETCH_CHUNK_BYTES);
            file.read_exact_at(&mut chunk, at as u64)?;
            check(&chunk);
            send.write_chunk(chunks.lend(chunk)).await?;
        }
    }
}

/// Goes over the bytes as a check of batches does. What they add up to does not matter.
pub(super) fn check(bytes: &[u8]) {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(bytes);
    std::hint::black_box(digest.finalize());
}

async fn produce(mut send: SendStream, receive: RecvStream, disk: &Disk, ack: Ack) -> anyhow::Result<()> {
    let (done, mut acks) = unbounded_channel::<(u32, u64)>();
    tokio::spawn(async move {
        let mut bytes = BytesMut::new();
        while let Some(first) = acks.recv().await {
            bytes.clear();
            let mut next = Some(first);
            while let Some((correlation, offset)) = next {
                bytes.extend_from_slice(&correlation.to_le_bytes());
                bytes.extend_from_slice(&offset.to_le_bytes());
                next = acks.try_recv().ok();
            }
            if send.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut input = Chunks { receive, queue: VecDeque::new(), have: 0 };
    while input.fill(FRAME_HEADER_BYTES).await? {
        let mut header = BytesMut::new();
        for part in input.take(FRAME_HEADER_BYTES) {
            header.extend_from_slice(&part);
        }
        let (length, correlation) = (header.get_u32_le() as usize, header.get_u32_le());
        ensure!(input.fill(length).await?, "the stream ended within a batch");
        let parts = input.take(length);
        check_crc(&parts)?;
        let append = Append { correlation, parts, ack, done: done.clone() };
        disk.appends.send(append).ok().context("the disk's thread is gone")?;
    }
    Ok(())
}

/// Checks a batch's CRC where it lies, in the packets that it came in.
fn check_crc(parts: &[Bytes]) -> anyhow::Result<()> {
    let mut head = [0; CRC_END];
    let mut have = 0;
    for part in parts {
        let more = (CRC_END - have).min(part.len());
        head[have..have + more].copy_from_slice(&part[..more]);
        have += more;
    }
    let expected = u32::from_be_bytes([head[17], head[18], head[19], head[20]]);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut skip = CRC_END;
    for part in parts {
        let skipped = skip.min(part.len());
        digest.update(&part[skipped..]);
        skip -= skipped;
    }
    ensure!(digest.finalize() as u32 == expected, "a batch with a wrong CRC");
    Ok(())
}

/// A stream's bytes, never copied: the packets that they came in, cut where frames end.
struct Chunks {
    receive: RecvStream,
    queue: VecDeque<Bytes>,
    have: usize,
}

impl Chunks {
    /// Waits until `bytes` are here; false if the stream ends before.
    async fn fill(&mut self, bytes: usize) -> anyhow::Result<bool> {
        while self.have < bytes {
            let Some(chunk) = self.receive.read_chunk(usize::MAX, true).await? else { return Ok(false) };
            self.have += chunk.bytes.len();
            self.queue.push_back(chunk.bytes);
        }
        Ok(true)
    }

    /// Takes `bytes` that are here.
    fn take(&mut self, mut bytes: usize) -> Vec<Bytes> {
        let mut parts = Vec::new();
        while bytes > 0
            && let Some(mut first) = self.queue.pop_front()
        {
            if first.len() > bytes {
                let part = first.split_to(bytes);
                self.queue.push_front(first);
                first = part;
            }
            bytes -= first.len();
            self.have -= first.len();
            parts.push(first);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn a_crc_is_checked_wherever_the_packets_end() {
        let batch = workload::encode(&workload::values(1)).unwrap();
        for cut in [1, 16, 17, 20, 21, 22, 61, 5000] {
            check_crc(&[batch.slice(..cut), batch.slice(cut..)]).unwrap();
        }
        let mut broken = batch.to_vec();
        broken[5000] ^= 1;
        check_crc(&[broken.into()]).unwrap_err();
    }
}
