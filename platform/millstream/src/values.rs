//! The values that flags take, parsed and refused in words: addresses and pairs.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// `HOST:PORT`: a name or an IP address (IPv6 in brackets), and a port that can be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Address(String);

impl Address {
    /// The host, without the brackets of IPv6.
    pub(crate) fn host(&self) -> &str {
        let host = self.0.rsplit_once(':').map_or(self.0.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || "expected HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port: u16 = port.parse().map_err(|_| refuse())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let named = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || ":[]/,".contains(c)),
        };
        if !named || port == 0 {
            return Err(refuse());
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `K=V`. The value may be empty and may hold more of `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.into(), value: value.into() }),
            _ => Err("expected K=V: a name, `=`, a value".to_owned()),
        }
    }
}

/// The pairs as the client takes them.
pub(crate) fn pairs(pairs: Vec<Pair>) -> Vec<(String, String)> {
    pairs.into_iter().map(|pair| (pair.name, pair.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for text in ["127.0.0.1:9092", "localhost:1", "broker-1.example.com:65535", "[::1]:9092"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "host", "host:", ":9092", "host:0", "host:65536", "::1:9092", "[::1]", "[x]:1", "a b:1", "a:b:1"]
        {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
        assert_eq!("[::1]:9092".parse::<Address>().unwrap().host(), "::1");
        assert_eq!("host:1".parse::<Address>().unwrap().host(), "host");
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        let check = |text: &str, name: &str, value: &str| {
            assert_eq!(text.parse(), Ok(Pair { name: name.into(), value: value.into() }), "{text:?}");
        };
        check("a=b", "a", "b");
        check("a=", "a", "");
        check("a=b=c", "a", "b=c");
        for text in ["", "a", "=b"] {
            assert!(text.parse::<Pair>().is_err(), "{text:?}");
        }
    }
}
