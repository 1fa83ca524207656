//! The TCP door, raw: bytes in, and whether an answer, an end or silence comes back.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

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
