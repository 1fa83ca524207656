//! The HTTP side of a broker as a tool uses it, or as somebody does who means harm: bytes in, and the answer, or the end.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;

/// How long an answer, or the end of a connection, may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As in RFC 9110.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// What follows them.
    pub body: String,
}

impl Answer {
    /// A header's value, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().find(|line| named(line)).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("the body is {:?}", self.body))
    }
}

/// Asks once, as a well-behaved tool does.
///
/// # Errors
/// When there is no connection, or no answer.
pub fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}");
    send(address, request.as_bytes())?.with_context(|| format!("{method} {path}: closed without an answer"))
}

/// Sends bytes on a connection of their own, and waits for its end. None: it ended without an answer.
///
/// # Errors
/// When there is no connection, its end does not come, or what comes is no answer.
pub fn send(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<Option<Answer>> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    // It may have had enough in the middle, and says why all the same.
    let _ = stream.write_all(bytes);
    receive(&mut stream)
}

/// Waits for the end of a connection. None: it ended without an answer.
///
/// # Errors
/// When it does not end, or what comes is no answer.
pub fn receive(stream: &mut TcpStream) -> anyhow::Result<Option<Answer>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => bytes.extend(&part[..read]),
            // Closed with something of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).context("waiting for the end of the connection"),
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no headers in {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    Ok(Some(Answer { status, head: head.into(), body: body.into() }))
}
