//! Where a broker is reached: a host and a port, as text and apart.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A host and a port number, under which a broker takes QUIC on UDP and Kafka on TCP. As text `HOST:PORT`, an IPv6 address in brackets.
///
/// Made by parsing, it is one that can be connected to: the host is no empty one and is as names and addresses are, the port is not 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Name or IP address, without the brackets of IPv6.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// An address as Kafka's messages have it. What is no port number becomes 0, to which nobody can connect.
    #[must_use]
    pub fn from_wire(host: &str, port: i32) -> Self {
        Self { host: host.to_owned(), port: u16::try_from(port).unwrap_or_default() }
    }
}

/// A text that is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092")]
pub struct AddressError;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
        let port: u16 = port.parse().map_err(|_| AddressError)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let named = match bracketed {
            Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || ":[]/,".contains(c)),
        };
        if !named || port == 0 {
            return Err(AddressError);
        }
        Ok(Self { host: bracketed.unwrap_or(host).to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for (text, host) in [
            ("127.0.0.1:9092", "127.0.0.1"),
            ("localhost:1", "localhost"),
            ("broker-1.example.com:65535", "broker-1.example.com"),
            ("[::1]:9092", "::1"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.to_string().as_str()), (host, text));
        }
        for text in
            ["", "host", "host:", ":9092", "host:0", "host:65536", "::1:9092", "[::1]", "[x]:1", "a b:1", "a:b:1"]
        {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text:?}");
        }
    }
}
