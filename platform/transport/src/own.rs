//! Certificates that somebody else has made: an operator's for a broker, a client's for itself; from PEM files.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use millstream_env::{OpenMode, real::open_plain};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use x509_parser::{certificate::X509Certificate, parse_x509_certificate, x509::X509Version};

use crate::{ServerIdentity, Trust, tls};

/// Largest file that is read, bytes: a bundle of every public CA has a quarter of that.
const FILE_BYTES_MAX: u64 = 1 << 20;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Letters of a line between these (RFC 7468, 2).
const PEM_LINE: usize = 64;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{} cannot be used: {detail}", .path.display())]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

fn unusable(path: &Path, detail: impl std::fmt::Display) -> OwnError {
    OwnError::Unusable { path: path.into(), detail: detail.to_string() }
}

/// An operator's certificate for a broker.
///
/// `certificate`: the broker's own first, then those that lead to its CA; `key`: its private key. `ca`: what clients are to trust; the
/// last of `certificate` if there is none. Of either file only certificates are handed on: a private key beside them, as in one file for all,
/// stays here. Blocking: some file reads.
///
/// # Errors
/// A file cannot be read, is no PEM of its kind, the key is another certificate's, or the certificate is not valid at this time.
pub fn server_identity(certificate: &Path, key: &Path, ca: Option<&Path>) -> Result<ServerIdentity, OwnError> {
    let chain = certificates(certificate, &read(certificate)?)?;
    check_own(certificate, &chain[0], "broker")?;
    let ca_pem = match ca {
        Some(ca) => pem_of(&certificates(ca, &read(ca)?)?),
        None => pem_of(&chain[chain.len() - 1..]),
    };
    let identity = ServerIdentity { chain, key: private_key(key)?, ca_pem };
    tls::tcp_server(&identity, None).map_err(|error| unusable(certificate, mismatch(key, error)))?;
    if let Err(tls::Unbelievable::Now(error)) = tls::believable(&identity, "localhost") {
        return Err(unusable(certificate, error));
    }
    Ok(identity)
}

fn mismatch(key: &Path, error: impl std::fmt::Display) -> String {
    format!("{error}; its private key is expected in {}", key.display())
}

/// Whose certificates a broker takes from clients: those of these CAs, in PEM. Blocking.
///
/// # Errors
/// The file cannot be read, holds none, or one that is no CA's: whoever has the key of such a one could make certificates of any name.
pub fn client_roots(ca: &Path) -> Result<Arc<RootCertStore>, OwnError> {
    for certificate in certificates(ca, &read(ca)?)? {
        let (_, parsed) = parse_x509_certificate(&certificate).map_err(|_| unusable(ca, "it holds no certificate"))?;
        // Roots of the first version have no extensions that could say so; but they have signed themselves.
        let is_old_root = parsed.version() == X509Version::V1 && parsed.subject() == parsed.issuer();
        if !is_ca(&parsed) && !is_old_root {
            let detail = format!("the certificate of {} in it is not a CA's (basicConstraints)", parsed.subject());
            return Err(unusable(ca, detail));
        }
    }
    let trust = Trust::from_pem(&read(ca)?, "").map_err(|error| unusable(ca, error.detail))?;
    Ok(trust.roots)
}

/// Whether any of these certificates is a CA's, or has signed itself.
pub(crate) fn holds_ca(pem: &str) -> bool {
    CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().any(|certificate| {
        let parsed = parse_x509_certificate(&certificate);
        parsed.is_ok_and(|(_, parsed)| is_ca(&parsed) || parsed.subject() == parsed.issuer())
    })
}

/// What a client proves itself with.
#[derive(Debug)]
pub struct ClientCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for ClientCertificate {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl ClientCertificate {
    /// Reads it: `certificate`, the client's own first, and its private `key`, both PEM. Blocking.
    ///
    /// # Errors
    /// As [`server_identity`].
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, OwnError> {
        let chain = certificates(certificate, &read(certificate)?)?;
        check_own(certificate, &chain[0], "client")?;
        let read = Self { chain, key: private_key(key)? };
        tls::certified(&read).map_err(|error| unusable(certificate, mismatch(key, error)))?;
        Ok(read)
    }
}

/// What nobody would accept, in words that help: the TLS library knows it by a number.
fn check_own(path: &Path, own: &CertificateDer<'_>, whose: &str) -> Result<(), OwnError> {
    let Ok((_, parsed)) = parse_x509_certificate(own) else { return Ok(()) };
    if parsed.version() != X509Version::V3 {
        let detail = "its certificate is of X.509 version 1 or 2, and 3 is needed: sign it with extensions (openssl x509 -req ... \
                      -extfile FILE, where FILE has basicConstraints=CA:FALSE and, for a broker, subjectAltName=DNS:HOST)";
        return Err(unusable(path, detail));
    }
    if is_ca(&parsed) {
        let detail = format!(
            "its first certificate is a CA's ({}), which signs others: the {whose}'s own is expected first",
            parsed.subject()
        );
        return Err(unusable(path, detail));
    }
    Ok(())
}

/// Whether it says that it may sign others.
fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}

/// At least one.
fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, OwnError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(path, format!("it holds no certificate in PEM ({BEGIN})"))),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(path, tls::no_pem(&error))),
    }
}

/// Certificates, and nothing else, in PEM.
fn pem_of(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        let body = BASE64_STANDARD.encode(certificate);
        let lines = body.as_bytes().chunks(PEM_LINE).map(String::from_utf8_lossy);
        pem.extend([BEGIN.into()].into_iter().chain(lines).chain([END.into()]).flat_map(|line| [line, "\n".into()]));
    }
    pem
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, OwnError> {
    let expected = "expected is a private key in PEM, without a password (-----BEGIN PRIVATE KEY-----)";
    PrivateKeyDer::from_pem_slice(read(path)?.as_bytes())
        .map_err(|error| unusable(path, format!("{}; {expected}", tls::no_pem(&error))))
}

fn read(path: &Path) -> Result<String, OwnError> {
    let fail = |source| OwnError::Io { path: path.into(), source };
    let file = open_plain(path, OpenMode::Read).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    if length > FILE_BYTES_MAX {
        return Err(unusable(path, format!("it has {length} bytes")));
    }
    // It may be written while it is read.
    io::read_to_string(file.take(FILE_BYTES_MAX)).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => unusable(path, "it is not text"),
        _ => fail(error),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.pem");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// A key whose line breaks are gone, as where it went through a variable.
    #[test]
    fn nothing_of_a_private_key_is_told() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        let secret = key.lines().nth(1).unwrap();
        let in_numbers = format!("{:?}", secret.as_bytes());
        for text in [
            key.replace('\n', ""),
            key.replace('\n', "\\n"),
            key.replace("-----END", "-----EMD"),
            key.clone() + "-----BEGIN",
        ] {
            let (_dir, path) = file(&text);
            let errors = [
                private_key(&path).err(),
                certificates(&path, &text).err(),
                client_roots(&path).err(),
                ClientCertificate::read(&path, &path).err(),
            ];
            for error in errors.into_iter().flatten() {
                let told = format!("{error} {error:?}");
                assert!(!told.contains(&secret[..8]) && !told.contains(in_numbers.trim_matches(['[', ']'])), "{told}");
            }
            assert!(client_roots(&path).is_err());
        }
    }

    /// As `openssl x509 -req` makes them without `-extfile`; of nobody's key.
    const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBFzCBvgIUXbUXB1zQcLiLte+TgGPWhJjfgPIwCgYIKoZIzj0EAwIwDTELMAkG
A1UEAwwCY2EwIBcNMjYxMTMwMjA0MzQ1WhgPMjEyNjExMDYyMDQzNDVaMA4xDDAK
BgNVBAMMA29sZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFnNGXOLqZpJYi8w
w5PPksiZPloy82hK0JlJNjCk73mkBiXcgx6flHP2rOJVxIDrZCN6s5JWemBMnE74
elzWUPQwCgYIKoZIzj0EAwIDSAAwRQIgU34WVPhy8ZYuVT+B2ke8DaGd+a4Oj7lB
lDI1bTTbYF4CIQCczKBWbwW9VcqFbTyHW5yMTLRSP7K/NGxDtFuQ/ge2Ug==
-----END CERTIFICATE-----
";

    #[test]
    fn a_certificate_that_nobody_accepts_is_refused_for_what_it_is() {
        let key = KeyPair::generate().unwrap();
        let (_key_dir, key_path) = file(&key.serialize_pem());
        let mut params = CertificateParams::new(vec!["somebody.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        for (text, expected) in [(VERSION_1, "version 1 or 2"), (&ca, "is a CA's")] {
            let (_dir, path) = file(text);
            let told = [
                server_identity(&path, &key_path, None).unwrap_err().to_string(),
                ClientCertificate::read(&path, &key_path).unwrap_err().to_string(),
            ];
            assert!(told.iter().all(|told| told.contains(expected) && !told.contains("private key")), "{told:?}");
        }
    }

    #[test]
    fn what_clients_are_to_trust_is_a_ca_or_signed_by_itself() {
        let key = KeyPair::generate().unwrap();
        let issuer = CertificateParams::new(Vec::new()).unwrap();
        let issuer = rcgen::Issuer::new(issuer, &key);
        let mut params = CertificateParams::new(vec!["somebody.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "somebody");
        let signed = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem();
        assert!(!holds_ca(&signed) && !holds_ca(VERSION_1) && !holds_ca(""));
        assert!(holds_ca(&params.self_signed(&key).unwrap().pem()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert!(holds_ca(&(signed + &params.self_signed(&key).unwrap().pem())));
    }

    #[test]
    fn only_certificates_of_cas_are_taken_for_cas() {
        let with = |is_ca| {
            let mut params = CertificateParams::new(vec!["somebody.example".to_owned()]).unwrap();
            params.is_ca = is_ca;
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
        };
        let ca = with(IsCa::Ca(BasicConstraints::Unconstrained));
        for (text, expected) in [
            (ca.clone(), None),
            (with(IsCa::NoCa), Some("not a CA's")),
            (with(IsCa::ExplicitNoCa), Some("not a CA's")),
            (ca + &with(IsCa::NoCa), Some("not a CA's")),
            (String::new(), Some("holds no certificate")),
        ] {
            let (_dir, path) = file(&text);
            let told = client_roots(&path).err().map(|error| error.to_string());
            assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
            assert!(told.zip(expected).is_none_or(|(told, part)| told.contains(part)));
        }
    }
}
