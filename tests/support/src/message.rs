//! A record as a test thinks of it: bytes, and the place where a broker put them.

/// What is sent: everything that must come back byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The partition, chosen by the sender.
    pub partition: i32,
    /// Milliseconds since 1970, as the sender says.
    pub timestamp: i64,
    /// The key; none is not empty.
    pub key: Option<Vec<u8>>,
    /// The value; none is not empty.
    pub value: Option<Vec<u8>>,
    /// Headers in their order, names repeated or not.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What is read: a message and its offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its place in its partition.
    pub offset: i64,
    /// The message.
    pub message: Message,
}

impl Message {
    /// A message with a key and a value, without headers.
    #[must_use]
    pub fn new(partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let bytes = |slice: &[u8]| slice.to_vec();
        Self {
            partition,
            timestamp: 1_373_241_600_000,
            key: key.map(bytes),
            value: value.map(bytes),
            headers: Vec::new(),
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.map(<[u8]>::to_vec)));
        self
    }
}

/// Records that clients trip over: null and empty, binary, large, repeated headers.
#[must_use]
pub fn awkward() -> Vec<Message> {
    let every_byte: Vec<u8> = (0..=255).collect();
    // kcat prints headers as text with a comma between and a line end behind.
    let header: Vec<u8> = (0..=255).filter(|byte| !b"\n,".contains(byte)).collect();
    let large: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut messages = vec![
        Message::new(0, Some(b"key"), Some(b"value")),
        Message::new(0, None, Some(b"no key")),
        Message::new(0, Some(b"no value"), None),
        Message::new(0, None, None),
        Message::new(1, Some(b""), Some(b"an empty key")),
        Message::new(1, Some(b"an empty value"), Some(b"")),
        Message::new(1, Some(b""), Some(b"")),
        Message::new(1, Some(&every_byte), Some(&every_byte)),
        Message::new(2, Some("clé – 鍵".as_bytes()), Some("valeur – 値".as_bytes())),
        Message::new(2, Some(b"large"), Some(&large)),
        Message::new(2, Some(b"new\nline"), Some(b"tab\tand\nnew\r\nlines\n")),
        Message::new(2, Some(b"one header"), Some(b"v")).with_header("name", Some(b"text")),
        Message::new(2, Some(b"repeated"), Some(b"v"))
            .with_header("twice", Some(b"first"))
            .with_header("other", Some(b"x"))
            .with_header("twice", Some(b"second")),
        Message::new(2, Some(b"awkward headers"), Some(b"v"))
            .with_header("null", None)
            .with_header("empty", Some(b""))
            .with_header("binary", Some(&header)),
    ];
    for (index, message) in messages.iter_mut().enumerate() {
        message.timestamp += index as i64;
    }
    messages
}
