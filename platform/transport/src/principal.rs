//! Whom a client's certificate names, as Kafka does by default: `User:` and the subject's distinguished name in the form of RFC 2253,
//! such as `User:CN=alice,O=Example`. A certificate without a subject names the first of its alternative names instead, written as a part of
//! one is, so that it is nobody's subject. (In Kafka it names nobody.)

use std::{fmt::Write, net::IpAddr};

use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// The short names of RFC 2253; Java, and so Kafka, writes any other type as its number.
const KEYWORDS: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
];

/// The principal of a certificate that has been verified; none if it names nobody.
pub(crate) fn principal(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = distinguished_name(certificate.subject());
    let name = if subject.is_empty() { alternative_name(&certificate)? } else { subject };
    Some(format!("User:{name}"))
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some(escaped(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    })
}

/// The parts of a name, the most particular first; it is written the other way round.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let part = |part: &x509_parser::x509::RelativeDistinguishedName<'_>| {
        part.iter().map(attribute).collect::<Vec<_>>().join("+")
    };
    let mut parts: Vec<_> = name.iter_rdn().map(part).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let keyword = KEYWORDS.iter().find(|(known, _)| *known == number).map(|(_, keyword)| *keyword);
    match (keyword, attribute.as_str()) {
        (Some(keyword), Ok(text)) => format!("{keyword}={}", escaped(text)),
        (keyword, _) => {
            let mut text = format!("{}=#", keyword.unwrap_or(&number));
            for byte in encoded(attribute) {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
            }
            text
        }
    }
}

/// The value in DER: its type, its length, itself.
fn encoded(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    let value = attribute.attr_value();
    let length = value.data.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut bytes = vec![value.header.raw_tag().and_then(|tag| tag.first().copied()).unwrap_or_default()];
    match significant {
        [] => bytes.push(0),
        [short @ ..0x80] => bytes.push(*short),
        long => {
            bytes.push(0x80 | long.len() as u8);
            bytes.extend(long);
        }
    }
    bytes.extend(value.data);
    bytes
}

/// As Java's `X500Principal.getName()` has it: more than RFC 2253 asks for.
fn escaped(text: &str) -> String {
    let is_blank = |c| matches!(c, ' ' | '\r');
    let leading = text.len() - text.trim_start_matches(is_blank).len();
    let trailing = text.trim_end_matches(is_blank).len();
    let mut escaped = String::new();
    for (at, c) in text.char_indices() {
        let is_special = matches!(c, ',' | '=' | '+' | '<' | '>' | '#' | ';' | '"' | '\\');
        if is_special || at < leading || at >= trailing {
            escaped.push('\\');
        }
        match c {
            '\0' => escaped.push_str("\\00"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn check(names: &[(DnType, &str)], alternatives: &[SanType], expected: Option<&str>) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        params.subject_alt_names = alternatives.to_vec();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(principal(certificate.der()).as_deref(), expected);
    }

    #[test]
    fn a_subject_is_written_as_kafka_writes_it() {
        let common = DnType::CommonName;
        check(&[(common.clone(), "alice")], &[], Some("User:CN=alice"));
        let dns = SanType::DnsName("alice.example".try_into().unwrap());
        check(&[(common.clone(), "alice")], std::slice::from_ref(&dns), Some("User:CN=alice"));
        let whole =
            [(DnType::CountryName, "GB"), (DnType::OrganizationName, "Ex, Ltd"), (common.clone(), " #Zoë+\"x\" ")];
        // What OpenJDK 17 prints for these.
        check(&whole, &[], Some(r#"User:CN=\ \#Zoë\+\"x\"\ ,O=Ex\, Ltd,C=GB"#));
        for (name, expected) in [
            ("#1", r"User:CN=\#1"),
            ("a=b", r"User:CN=a\=b"),
            ("a b", "User:CN=a b"),
            ("  two  ", r"User:CN=\ \ two\ \ "),
            ("   ", r"User:CN=\ \ \ "),
            ("a\0b", r"User:CN=a\00b"),
        ] {
            check(&[(common.clone(), name)], &[], Some(expected));
        }
        // Java's name for an e-mail address is its number.
        let mail = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        check(&[(mail, "a@b")], &[], Some("User:1.2.840.113549.1.9.1=#0c03614062"));
    }

    #[test]
    fn without_a_subject_the_first_other_name_counts() {
        let uri = SanType::URI("spiffe://example/alice".try_into().unwrap());
        let dns = SanType::DnsName("alice.example".try_into().unwrap());
        check(&[], &[uri, dns.clone()], Some("User:spiffe://example/alice"));
        check(&[], &[dns], Some("User:alice.example"));
        let posing = SanType::URI("CN=alice,O=Example".try_into().unwrap());
        check(&[], &[posing], Some(r"User:CN\=alice\,O\=Example"));
        check(&[], &[SanType::IpAddress([192, 0, 2, 1].into())], Some("User:192.0.2.1"));
        check(&[], &[], None);
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        for bytes in [&b""[..], b"\x30", &[0x30, 0x82, 0xff, 0xff], &[0; 100]] {
            assert_eq!(principal(&bytes.into()), None, "{bytes:x?}");
        }
    }
}
