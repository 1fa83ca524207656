//! The TCP door: raw, bytes in, and whether an answer, an end or silence comes back; and as a client uses it who asks
//! for too much.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};
use millstream_protocol::{Call, Request, decode_response, encode_request};

/// What the broker did with what it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered a frame, its length prefix left out; the connection is open.
    Answer(Vec<u8>),
    /// It closed the connection, without a frame.
    Closed,
    /// Neither, for as long as we cared to wait.
    Silence,
}

/// Sends bytes on a connection of their own and waits for what comes, at most `patience`.
///
/// # Errors
/// When the door itself does not open.
pub fn send(door: SocketAddr, bytes: &[u8], patience: Duration) -> std::io::Result<Outcome> {
    let mut stream = TcpStream::connect(door)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    if let Err(error) = stream.write_all(bytes) {
        return Ok(if is_silence(&error) { Outcome::Silence } else { Outcome::Closed });
    }
    Ok(receive(&mut stream))
}

/// As [`send`], and nothing more is written: the broker sees the end of the stream.
///
/// # Errors
/// As [`send`].
pub fn send_and_end(door: SocketAddr, bytes: &[u8], patience: Duration) -> std::io::Result<Outcome> {
    let mut stream = TcpStream::connect(door)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // The broker may have closed after the first bytes already.
    match stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write)) {
        Err(error) if is_silence(&error) => Ok(Outcome::Silence),
        _ => Ok(receive(&mut stream)),
    }
}

fn receive(stream: &mut TcpStream) -> Outcome {
    let mut length = [0; 4];
    if let Err(error) = stream.read_exact(&mut length) {
        return if is_silence(&error) { Outcome::Silence } else { Outcome::Closed };
    }
    let length = u32::from_be_bytes(length) as usize;
    let mut frame = Vec::new();
    match stream.take(length as u64).read_to_end(&mut frame) {
        Ok(read) if read == length => Outcome::Answer(frame),
        _ => Outcome::Closed,
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A frame: its length, then a request header of version 1 (key, version, correlation id, client id), then a body.
#[must_use]
pub fn request(key: i16, version: i16, correlation: i32, client: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(correlation.to_be_bytes());
    frame.extend((client.len() as i16).to_be_bytes());
    frame.extend(client);
    frame.extend(body);
    framed(&frame)
}

/// Bytes behind a length that tells the truth.
#[must_use]
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    announced(bytes.len() as i32, bytes)
}

/// Bytes behind any length.
#[must_use]
pub fn announced(length: i32, bytes: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), bytes].concat()
}

/// A connection on which requests are sent and answers read as they should be, whatever they ask for.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    sent: i32,
}

impl Client {
    /// Connects. Reads and writes wait `patience` at most.
    ///
    /// # Errors
    /// When the door does not open.
    pub fn connect(door: SocketAddr, patience: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect(door)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, sent: 0 })
    }

    /// Sends a request, and does not wait for its answer.
    ///
    /// # Errors
    /// When it cannot be encoded or sent.
    pub fn send(&mut self, version: i16, request: impl Into<Request>) -> anyhow::Result<()> {
        self.sent += 1;
        let frame = encode_request(version, self.sent, Some("hostile"), &request.into())?;
        Ok(self.stream.write_all(&framed(&frame.to_bytes()))?)
    }

    /// Sends nothing more: the broker sees the end of the stream.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&self) -> std::io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Reads the next answer, which must be one to a `C` of this version; none when the broker has closed.
    ///
    /// # Errors
    /// When it does not come in time, or is another.
    pub fn receive<C: Call>(&mut self, version: i16) -> anyhow::Result<Option<C::Response>> {
        match receive(&mut self.stream) {
            Outcome::Closed => Ok(None),
            Outcome::Silence => bail!("no answer"),
            Outcome::Answer(frame) => {
                let (_, response) = decode_response(C::API, version, frame.into())?;
                Ok(Some(C::Response::try_from(response).ok().context("an answer to something else")?))
            }
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`], or when the broker closes instead.
    pub fn call<C: Call>(&mut self, version: i16, request: C) -> anyhow::Result<C::Response> {
        self.send(version, request)?;
        self.receive::<C>(version)?.context("closed without an answer")
    }
}
