//! QUIC's first packets, byte by byte: sealed as RFC 9001 says, whatever is in them; the UDP port that they are sent to, raw; and what
//! comes back from it.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustls::{
    crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    quic::{Keys, Version},
};

/// Bytes that a datagram with an Initial must have (RFC 9000, 14.1).
pub const DATAGRAM_BYTES_MIN: usize = 1200;
/// QUIC's version.
pub const VERSION: u32 = 1;
/// A version that nobody speaks: those of this form are kept free for that.
pub const UNKNOWN_VERSION: u32 = 0x0a0a_0a0a;
/// How long to wait before something that may have been lost is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// What the length of a padded packet takes.
const LENGTH_BYTES: usize = 2;
const NUMBER_BYTES: usize = 4;
const SEAL_BYTES: usize = 16;

/// A variable-length integer of QUIC's, in as few bytes as it has.
#[must_use]
pub fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 1 << 14).to_be_bytes().to_vec(),
        0x4000..0x4000_0000 => (value as u32 | 2 << 30).to_be_bytes().to_vec(),
        _ => (value | 3 << 62).to_be_bytes().to_vec(),
    }
}

/// Takes a variable-length integer off the front; none if it is not whole.
#[must_use]
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (first, _) = bytes.split_first()?;
    let (integer, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    *bytes = rest;
    Some(integer[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

/// A CRYPTO frame.
#[must_use]
pub fn crypto(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&[6][..], &varint(offset), &varint(bytes.len() as u64), bytes].concat()
}

/// A packet that begins a connection, and what may be wrong with it.
#[derive(Clone, Debug)]
pub struct Initial {
    /// The id that the client has made up for the broker.
    pub destination: Vec<u8>,
    /// The client's id for itself.
    pub source: Vec<u8>,
    /// What a Retry gave.
    pub token: Vec<u8>,
    /// What is in it; PADDING follows.
    pub frames: Vec<u8>,
    /// Whether the padding stands in the packet, as it should, or behind it.
    pub is_padded_inside: bool,
    /// Bits of the first byte that are sealed with the others and must be 0.
    pub reserved: u8,
    /// What its length says beyond what is there.
    pub lie: i64,
}

impl Initial {
    /// With ids made of this number, and a PING in it: a handshake that goes on no further.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let destination = [b"to______", &number.to_be_bytes()[..]].concat();
        let source = [b"from____", &number.to_be_bytes()[..]].concat();
        let frames = vec![1];
        Self { destination, source, token: Vec::new(), frames, is_padded_inside: true, reserved: 0, lie: 0 }
    }

    /// The same with other frames.
    #[must_use]
    pub fn with(self, frames: Vec<u8>) -> Self {
        Self { frames, ..self }
    }

    /// As a datagram of [`DATAGRAM_BYTES_MIN`] or more.
    ///
    /// # Errors
    /// When it cannot be sealed.
    pub fn datagram(&self) -> anyhow::Result<Vec<u8>> {
        let mut header = vec![0xc0 | self.reserved << 2 | (NUMBER_BYTES as u8 - 1)];
        header.extend(VERSION.to_be_bytes());
        for id in [&self.destination, &self.source] {
            header.push(id.len() as u8);
            header.extend(id);
        }
        header.extend(varint(self.token.len() as u64));
        header.extend(&self.token);
        let mut payload = self.frames.clone();
        let around = header.len() + LENGTH_BYTES + NUMBER_BYTES + SEAL_BYTES;
        if self.is_padded_inside && around + payload.len() < DATAGRAM_BYTES_MIN {
            payload.resize(DATAGRAM_BYTES_MIN - around, 0);
        }
        let length = (NUMBER_BYTES + payload.len() + SEAL_BYTES) as i64 + self.lie;
        header.extend(varint(length as u64));
        let number_at = header.len();
        header.extend([0; NUMBER_BYTES]);
        let keys = self.keys()?;
        let seal = keys.local.packet.encrypt_in_place(0, &header, &mut payload)?;
        payload.extend(seal.as_ref());
        let sample = &payload[..SEAL_BYTES];
        let (first, rest) = header.split_first_mut().context("no header")?;
        keys.local.header.encrypt_in_place(sample, first, &mut rest[number_at - 1..])?;
        header.extend(payload);
        header.resize(header.len().max(DATAGRAM_BYTES_MIN), 0);
        Ok(header)
    }

    /// What a datagram that answers this packet says.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(&self, datagram: &[u8]) -> anyhow::Result<Answer> {
        let long = Long::read(datagram).context("no long header")?;
        if long.version == 0 {
            return Ok(Answer::Versions);
        }
        match long.first >> 4 & 3 {
            3 => {
                let token = long.rest.len().checked_sub(SEAL_BYTES).context("a Retry that is too short")?;
                return Ok(Answer::Retry { source: long.source.to_vec(), token: long.rest[..token].to_vec() });
            }
            0 => {}
            _ => return Ok(Answer::Other),
        }
        let frames = self.open(datagram, &long)?;
        Ok(close_code(&frames).map_or(Answer::Other, Answer::Close))
    }

    /// The frames of an Initial that answers this one.
    fn open(&self, datagram: &[u8], long: &Long<'_>) -> anyhow::Result<Vec<u8>> {
        let mut rest = long.rest;
        let token = take_varint(&mut rest).context("no token")?;
        ensure!(token == 0, "a token from the broker");
        let length = take_varint(&mut rest).context("no length")? as usize;
        let number_at = datagram.len() - rest.len();
        let mut packet = datagram.get(..number_at + length).context("a length that lies")?.to_vec();
        let keys = self.keys()?;
        let sample_at = number_at + NUMBER_BYTES;
        let sample = packet.get(sample_at..sample_at + SEAL_BYTES).context("no sample")?.to_vec();
        let (first, after_first) = packet.split_first_mut().context("no packet")?;
        let number = &mut after_first[number_at - 1..][..NUMBER_BYTES];
        keys.remote.header.decrypt_in_place(&sample, first, number)?;
        let number_bytes = usize::from(*first & 3) + 1;
        let (header, payload) = packet.split_at_mut(number_at + number_bytes);
        let number = header[number_at..].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Ok(keys.remote.packet.decrypt_in_place(number, header, payload)?.to_vec())
    }

    fn keys(&self) -> anyhow::Result<Keys> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13().context("no suite of TLS 1.3")?;
        let algorithm = suite.quic.context("no suite for QUIC")?;
        Ok(Keys::initial(Version::V1, suite, algorithm, &self.destination, rustls::Side::Client))
    }
}

/// A packet with a long header, up to where the versions of QUIC differ.
#[derive(Clone, Copy, Debug)]
pub struct Long<'a> {
    /// The first byte.
    pub first: u8,
    /// The version; 0: a negotiation.
    pub version: u32,
    /// Whom it is for.
    pub destination: &'a [u8],
    /// Whom it is from.
    pub source: &'a [u8],
    /// What follows.
    pub rest: &'a [u8],
}

impl<'a> Long<'a> {
    /// The header of a datagram; none if it has no such.
    #[must_use]
    pub fn read(datagram: &'a [u8]) -> Option<Self> {
        let (first, rest) = datagram.split_first()?;
        let (version, rest) = rest.split_first_chunk()?;
        let id = |rest: &'a [u8]| {
            let (length, rest) = rest.split_first()?;
            rest.split_at_checked(usize::from(*length))
        };
        let (destination, rest) = id(rest)?;
        let (source, rest) = id(rest)?;
        let version = u32::from_be_bytes(*version);
        (first & 0x80 != 0).then_some(Self { first: *first, version, destination, source, rest })
    }
}

/// A datagram of any version: this long, with these ids.
#[must_use]
pub fn of_version(version: u32, destination: &[u8], source: &[u8], bytes: usize) -> Vec<u8> {
    let mut datagram = vec![0xc0];
    datagram.extend(version.to_be_bytes());
    for id in [destination, source] {
        datagram.push(id.len() as u8);
        datagram.extend(id);
    }
    datagram.resize(bytes, 0);
    datagram
}

/// The code in the first CONNECTION_CLOSE.
fn close_code(mut frames: &[u8]) -> Option<u64> {
    loop {
        match take_varint(&mut frames)? {
            // PADDING, PING.
            0 | 1 => {}
            // ACK: largest, delay, further ranges, first range.
            2 => {
                let _ = (take_varint(&mut frames)?, take_varint(&mut frames)?);
                let further = take_varint(&mut frames)?;
                for _ in 0..=2 * further {
                    take_varint(&mut frames)?;
                }
            }
            // CRYPTO.
            6 => {
                let _offset = take_varint(&mut frames)?;
                let length = take_varint(&mut frames)? as usize;
                frames = frames.get(length..)?;
            }
            0x1c => return take_varint(&mut frames),
            _ => return None,
        }
    }
}

/// What the broker answers to an Initial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// That it speaks other versions.
    Versions,
    /// That the client is to prove its address.
    Retry {
        /// The id by which the broker wants to be called.
        source: Vec<u8>,
        /// What to bring.
        token: Vec<u8>,
    },
    /// That there will be no connection, with QUIC's code for why.
    Close(u64),
    /// Anything else: an acknowledgement, its part of the handshake.
    Other,
}

/// One client's UDP port, and the broker's.
#[derive(Debug)]
pub struct Port {
    socket: UdpSocket,
    patience: Duration,
    asked: u64,
    /// Bytes sent so far.
    pub sent: usize,
    /// Bytes received so far.
    pub received: usize,
}

impl Port {
    /// A port on this address. Nothing is waited for longer than `patience`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(from: IpAddr, broker: SocketAddr, patience: Duration) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect(broker)?;
        socket.set_read_timeout(Some(AGAIN))?;
        Ok(Self { socket, patience, asked: 0, sent: 0, received: 0 })
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&mut self, datagram: &[u8]) -> anyhow::Result<()> {
        self.socket.send(datagram).with_context(|| format!("sending {} bytes", datagram.len()))?;
        self.sent += datagram.len();
        Ok(())
    }

    /// The next datagram from the broker.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        let start = Instant::now();
        loop {
            if let Some(datagram) = self.wait()? {
                return Ok(datagram);
            }
            ensure!(start.elapsed() < self.patience, "no answer");
        }
    }

    fn wait(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 1 << 16];
        match self.socket.recv(&mut buffer) {
            Ok(bytes) => {
                buffer.truncate(bytes);
                self.received += bytes;
                Ok(Some(buffer))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All that came before the answer to a question that is always answered: what was sent before has been looked at by then.
    ///
    /// # Errors
    /// When that answer does not come in time.
    pub fn settle(&mut self) -> anyhow::Result<Vec<Vec<u8>>> {
        self.asked += 1;
        let name = [b"settled ", &self.asked.to_be_bytes()[..]].concat();
        let question = of_version(UNKNOWN_VERSION, b"whoever", &name, DATAGRAM_BYTES_MIN);
        let start = Instant::now();
        let mut came = Vec::new();
        while start.elapsed() < self.patience {
            self.socket.send(&question)?;
            while let Some(datagram) = self.wait()? {
                match Long::read(&datagram).filter(|long| long.destination.starts_with(b"settled ")) {
                    Some(long) if long.destination == name => return Ok(came),
                    // To one that was asked twice.
                    Some(_) => {}
                    None => came.push(datagram),
                }
            }
        }
        bail!("the broker answers nothing any more");
    }
}
