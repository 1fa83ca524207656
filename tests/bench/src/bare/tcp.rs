//! A file over TCP: by `sendfile`, which is what serving stored bytes without looking at them costs, or read and checked. And the client that asks for parts of
//! something and takes whole answers, be they this server's or a broker's.
//!
//! ```text
//! u64 position, of which the highest bit asks for what is read and checked  ->  u32 length, bytes          (big-endian)
//! ```

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    thread,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use rustix::fs::sendfile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server::check;
use crate::closed_loop::{Lane, Moved};

/// Bytes of one answer.
pub(crate) const ANSWER_BYTES: usize = 1 << 20;
/// In a position: what is sent is to be read and checked before.
pub(super) const CHECKED: u64 = 1 << 63;
/// How much of an answer is taken at once, or read.
const TAKE_BYTES: usize = 256 << 10;

/// Serves a file of `bytes` bytes, made in `dir`, to whoever connects; gives the port and the file.
pub(super) fn serve(dir: &Path, bytes: usize) -> anyhow::Result<(u16, Arc<File>)> {
    let path = dir.join("sent");
    let mut file = File::create(&path)?;
    for _ in 0..bytes / ANSWER_BYTES {
        file.write_all(&vec![9; ANSWER_BYTES])?;
    }
    let file = Arc::new(File::open(&path)?);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let served = file.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let file = served.clone();
            // A connection that breaks off is its client's business.
            thread::spawn(move || answer(stream, &file));
        }
    });
    Ok((port, file))
}

fn answer(mut stream: TcpStream, file: &File) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; TAKE_BYTES];
    loop {
        let mut position = [0; 8];
        stream.read_exact(&mut position)?;
        stream.write_all(&(ANSWER_BYTES as u32).to_be_bytes())?;
        let position = u64::from_be_bytes(position);
        let (mut at, mut left) = (position & !CHECKED, ANSWER_BYTES);
        if position & CHECKED != 0 {
            for at in (at..at + ANSWER_BYTES as u64).step_by(TAKE_BYTES) {
                file.read_exact_at(&mut buffer, at)?;
                check(&buffer);
                stream.write_all(&buffer)?;
            }
            continue;
        }
        while left > 0 {
            match sendfile(&stream, file, Some(&mut at), left)? {
                0 => return Ok(()),
                sent => left -= sent,
            }
        }
    }
}

/// Asks for one part after the other, over and over, and takes the answers.
pub(crate) struct TcpLane {
    stream: tokio::net::TcpStream,
    /// As they are sent, and how many bytes of records an answer has at least.
    requests: Vec<Bytes>,
    answer_min: usize,
    next: usize,
    buffer: Vec<u8>,
}

impl TcpLane {
    /// Connects. `requests`: whole frames; `answer_min`: the fewest bytes that an answer may have.
    pub(crate) async fn connect(server: SocketAddr, requests: Vec<Bytes>, answer_min: usize) -> anyhow::Result<Self> {
        let stream = tokio::net::TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, requests, answer_min, next: 0, buffer: vec![0; TAKE_BYTES] })
    }
}

impl Lane for TcpLane {
    async fn step(&mut self) -> anyhow::Result<Moved> {
        let request = self.requests.get(self.next).context("nothing to ask for")?;
        self.stream.write_all(request).await?;
        self.next = (self.next + 1) % self.requests.len();
        let length = self.stream.read_u32().await? as usize;
        ensure!(length >= self.answer_min, "an answer of {length} bytes");
        let mut left = length;
        while left > 0 {
            let most = left.min(TAKE_BYTES);
            let taken = self.stream.read(&mut self.buffer[..most]).await?;
            ensure!(taken > 0, "the connection has ended");
            left -= taken;
        }
        Ok(Moved { bytes: length as u64, records: 0 })
    }
}
