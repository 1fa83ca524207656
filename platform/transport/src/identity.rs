//! The broker's development identity: a CA and a certificate kept in the data directory and reused over restarts.
//!
//! `DIR/` (mode 0700) holds:
//!
//! - `ca.key`, `ca.pem`: the CA, made once, good for ten years. Clients trust `ca.pem` through their profile.
//! - `server.key`, `server.pem`: the broker's certificate (PEM, then the names that it is for in `server.json`), good for 397
//!   days; made again when fewer than 30 remain or when the names change.
//!
//! Every file is written under another name, synced and renamed, so that a cut leaves the old or the new one. Keys are
//! mode 0600 from the moment they exist.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use millstream_env::{OpenMode, real::open_plain};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use x509_parser::parse_x509_certificate;

use crate::{Trust, own, tls};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_DAYS: u32 = 3650;
const SERVER_DAYS: u32 = 397;
const RENEW_DAYS: u32 = 30;

/// What a listener proves itself with, and the CA that clients must trust to believe it.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// The CA's certificate in PEM: what goes into a client profile.
    pub ca_pem: String,
}

impl ServerIdentity {
    /// Whether a client that trusts the CA would take this for the broker at `host`; if not, why.
    ///
    /// # Errors
    /// What the client would say.
    pub fn is_believed_at(&self, host: &str) -> Result<(), String> {
        tls::believable(self, host).map_err(|error| error.to_string())
    }

    /// Whether what clients are to trust is a CA's certificate, or one that has signed itself: of another nobody believes what it has signed.
    #[must_use]
    pub fn has_ca(&self) -> bool {
        own::holds_ca(&self.ca_pem)
    }

    /// When the certificate ends; none where that cannot be told.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        let (_, certificate) = parse_x509_certificate(self.chain.first()?).ok()?;
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }
}

impl Clone for ServerIdentity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), ca_pem: self.ca_pem.clone() }
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(
        "{} is damaged ({detail}): put it back from a copy, or remove {} to have a new CA made; clients then need the new profile",
        .path.display(), .path.parent().unwrap_or(.path).display()
    )]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A host that cannot stand in a certificate.
    #[error("{host:?} cannot be put into a certificate: {detail}")]
    Host {
        /// Which one.
        host: String,
        /// Why.
        detail: String,
    },
    /// There is no CA, and none is to be made: clients trust the one that was there.
    #[error("{} is gone: put it back from a copy, or restart the broker to have a new CA made", .path.display())]
    CaGone {
        /// Which file.
        path: PathBuf,
    },
    /// Making a key or certificate failed.
    #[error("cannot make a {what}: {detail}")]
    Make {
        /// Key, CA or certificate.
        what: &'static str,
        /// Why.
        detail: String,
    },
}

/// What `server.pem` was made for; kept beside it, so that no certificate has to be taken apart.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Issued {
    hosts: BTreeSet<String>,
    /// Seconds since 1970.
    not_after: u64,
}

/// Reads the identity in `dir`, making what is missing.
///
/// The certificate is for `localhost`, `127.0.0.1`, `::1` and `hosts` (names or addresses, without ports). Blocking: some
/// milliseconds, more when keys are made.
///
/// # Errors
/// [`IdentityError::Damaged`] when a file that clients depend on (the CA) is unreadable: it is never replaced silently.
pub fn ensure(dir: &Path, hosts: &[String]) -> Result<ServerIdentity, IdentityError> {
    ensure_with(dir, hosts, true)
}

/// As [`ensure`], while clients trust the CA that there was: the certificate is made again where it must be, and no other CA.
///
/// # Errors
/// [`IdentityError::CaGone`]; as for [`ensure`].
pub fn renew(dir: &Path, hosts: &[String]) -> Result<ServerIdentity, IdentityError> {
    ensure_with(dir, hosts, false)
}

fn ensure_with(dir: &Path, hosts: &[String], may_make_ca: bool) -> Result<ServerIdentity, IdentityError> {
    // Who puts back what has gone finds nothing in its place.
    if may_make_ca {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| IdentityError::Io { action: "create", path: dir.into(), source })?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let names: BTreeSet<String> =
        ["localhost", "127.0.0.1", "::1"].map(String::from).into_iter().chain(hosts.iter().cloned()).collect();

    let (ca_pem, ca_key, new_ca) = ensure_ca(dir, may_make_ca)?;
    let ca_path = dir.join("ca.pem");
    let trust = Trust::from_pem(&ca_pem, "it").map_err(|error| damaged(&ca_path, CERTIFICATE, error.detail))?;
    let identity = |(chain, key)| ServerIdentity { chain, key, ca_pem: ca_pem.clone() };
    let old = usable(dir, &names, now).filter(|_| !new_ca).map(identity);
    if let Some(old) = old.filter(|old| tls::check(&trust, old).is_ok()) {
        return Ok(old);
    }

    issue(dir, &Issuer::new(ca_params(&ca_key), ca_key), names, now)?;
    let new = identity(read_server(dir)?);
    // Clients believe what stands in the CA's certificate: if it is no longer the key's, they would refuse the broker without a reason
    // that anybody could find.
    tls::check(&trust, &new).map_err(|error| {
        let expected = "the certificate that ca.key belongs to, in PEM";
        damaged(&ca_path, expected, format!("what ca.key has signed is not believed: {error}"))
    })?;
    Ok(new)
}

/// What a file must be, for messages.
const CERTIFICATE: &str = "a certificate in PEM (-----BEGIN CERTIFICATE-----)";
const KEY: &str = "a private key in PEM (-----BEGIN PRIVATE KEY-----)";

fn damaged(path: &Path, expected: &str, detail: impl std::fmt::Display) -> IdentityError {
    IdentityError::Damaged { path: path.into(), detail: format!("{detail}; expected is {expected}") }
}

/// The CA's certificate and key, and whether they were made now.
fn ensure_ca(dir: &Path, may_be_made: bool) -> Result<(String, KeyPair, bool), IdentityError> {
    let (pem_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
    // The key is written first: a certificate without its key would be a CA that clients trust and nobody can use.
    if let Some(pem) = read(&pem_path)? {
        let key = read(&key_path)?.ok_or_else(|| damaged(&key_path, KEY, "it is missing"))?;
        let key = KeyPair::from_pem(&key).map_err(|error| damaged(&key_path, KEY, error))?;
        return Ok((pem, key, false));
    }
    if !may_be_made {
        return Err(IdentityError::CaGone { path: pem_path });
    }
    let make = |error: rcgen::Error| IdentityError::Make { what: "CA", detail: error.to_string() };
    let key = KeyPair::generate().map_err(make)?;
    let mut params = ca_params(&key);
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY * CA_DAYS).into();
    let pem = params.self_signed(&key).map_err(make)?.pem();
    write(dir, "ca.key", key.serialize_pem().as_bytes(), 0o600)?;
    write(dir, "ca.pem", pem.as_bytes(), 0o644)?;
    Ok((pem, key, true))
}

/// What a CA with this key is called and may do: all that a certificate says of its issuer.
fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The key is in the name: of two CAs with one name, a client that trusts the other would blame the signature.
    let id: String = params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = name(&format!("Millstream development CA {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// The certificate on disk, if it is for `names`, readable, and good for a while.
fn usable(
    dir: &Path,
    names: &BTreeSet<String>,
    now: Duration,
) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let issued: Issued = serde_json::from_str(&read(&dir.join("server.json")).ok()??).ok()?;
    let enough = issued.not_after > (now + DAY * RENEW_DAYS).as_secs();
    if issued.hosts != *names || !enough {
        return None;
    }
    // Anything wrong with these can be mended by making them again: nobody else depends on them.
    read_server(dir).ok()
}

/// Makes the broker's certificate and writes it.
fn issue(dir: &Path, ca: &Issuer<'_, KeyPair>, names: BTreeSet<String>, now: Duration) -> Result<(), IdentityError> {
    let make = |error: rcgen::Error| IdentityError::Make { what: "certificate", detail: error.to_string() };
    let mut params = CertificateParams::default();
    for host in &names {
        let refuse = |error: rcgen::Error| IdentityError::Host { host: host.clone(), detail: error.to_string() };
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => rcgen::SanType::IpAddress(address),
            Err(_) => rcgen::SanType::DnsName(host.as_str().try_into().map_err(refuse)?),
        });
    }
    let not_after = now + DAY * SERVER_DAYS;
    params.distinguished_name = name("Millstream broker");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (UNIX_EPOCH + not_after).into();
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.signed_by(&key, ca).map_err(make)?;
    let issued = Issued { hosts: names, not_after: not_after.as_secs() };
    let issued = serde_json::to_vec(&issued)
        .map_err(|error| IdentityError::Make { what: "certificate", detail: error.to_string() })?;
    // What vouches for the pair goes first and comes back last, so that a cut in between is noticed.
    match fs::remove_file(dir.join("server.json")) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(IdentityError::Io { action: "remove", path: dir.join("server.json"), source });
        }
        _ => {}
    }
    write(dir, "server.key", key.serialize_pem().as_bytes(), 0o600)?;
    write(dir, "server.pem", certificate.pem().as_bytes(), 0o644)?;
    write(dir, "server.json", &issued, 0o644)
}

fn read_server(dir: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
    let (pem_path, key_path) = (dir.join("server.pem"), dir.join("server.key"));
    let pem = read(&pem_path)?.ok_or_else(|| damaged(&pem_path, CERTIFICATE, "it is missing"))?;
    let key = read(&key_path)?.ok_or_else(|| damaged(&key_path, KEY, "it is missing"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| damaged(&key_path, KEY, tls::no_pem(&error)))?;
    Ok((vec![first_certificate(&pem_path, &pem)?], key))
}

fn first_certificate(path: &Path, pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| damaged(path, CERTIFICATE, tls::no_pem(&error)))
}

fn name(common: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match open_plain(path, OpenMode::Read).and_then(io::read_to_string) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) if source.kind() == io::ErrorKind::InvalidData => Err(damaged(path, "PEM", "it is not text")),
        Err(source) => Err(IdentityError::Io { action: "read", path: path.into(), source }),
    }
}

/// Writes a whole file so that a cut leaves the old or the new one.
fn write(dir: &Path, file: &str, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let path = dir.join(file);
    replace_file(&path, bytes, mode).map_err(|source| IdentityError::Io { action: "write", path, source })
}

/// Writes `path` anew: beside it first, synced, then renamed over it, the directory synced.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        // A leftover would keep its own mode.
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => fs::File::open(dir)?.sync_all(),
            _ => fs::File::open(".")?.sync_all(),
        }
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_reused_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        let first = ensure(&tls, &[]).unwrap();
        let second = ensure(&tls, &[]).unwrap();
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_eq!(first.chain, second.chain);
    }

    #[test]
    fn a_certificate_says_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let issued: Issued = {
            ensure(dir.path(), &[]).unwrap();
            serde_json::from_str(&fs::read_to_string(dir.path().join("server.json")).unwrap()).unwrap()
        };
        let ends = ensure(dir.path(), &[]).unwrap().not_after().unwrap();
        assert_eq!(ends.duration_since(UNIX_EPOCH).unwrap().as_secs(), issued.not_after);
    }

    #[test]
    fn while_clients_trust_a_ca_no_other_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let error = renew(dir.path(), &[]).unwrap_err();
        assert!(matches!(error, IdentityError::CaGone { .. }), "{error}");
        let first = ensure(dir.path(), &[]).unwrap();
        assert_eq!(renew(dir.path(), &[]).unwrap(), first);
        let second = renew(dir.path(), &["other.example".into()]).unwrap();
        assert_eq!(second.ca_pem, first.ca_pem);
        fs::rename(dir.path().join("ca.pem"), dir.path().join("away")).unwrap();
        let error = renew(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("ca.pem is gone: put it back"), "{error}");
        assert!(!dir.path().join("ca.pem").exists());
        let none = dir.path().join("none");
        let error = renew(&none, &[]).unwrap_err();
        assert!(matches!(error, IdentityError::CaGone { .. }) && !none.exists(), "{error}");
    }

    #[test]
    fn another_name_gets_another_certificate_from_the_same_ca() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), &[]).unwrap();
        let second = ensure(dir.path(), &["broker.example".into(), "192.0.2.7".into()]).unwrap();
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_ne!(first.chain, second.chain);
        let third = ensure(dir.path(), &["192.0.2.7".into(), "broker.example".into()]).unwrap();
        assert_eq!(second.chain, third.chain);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        ensure(&tls, &[]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&tls), 0o700);
        assert_eq!(mode(&tls.join("ca.key")), 0o600);
        assert_eq!(mode(&tls.join("server.key")), 0o600);
    }

    #[test]
    fn a_damaged_certificate_is_made_again_but_a_damaged_ca_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), &[]).unwrap();
        fs::write(dir.path().join("server.key"), "rubbish").unwrap();
        let second = ensure(dir.path(), &[]).unwrap();
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_ne!(first.chain, second.chain);

        fs::write(dir.path().join("ca.key"), "rubbish").unwrap();
        let error = ensure(dir.path(), &["other".into()]).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
    }

    /// Each file with a bit turned over, in many places: the broker's own are made again, and of the CA's the one at fault is named.
    #[test]
    fn of_files_with_a_bit_turned_over_the_brokers_are_made_again_and_the_cas_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), &[]).unwrap();
        let trust = Trust::from_pem(&first.ca_pem, "the test").unwrap();
        let original = |file: &str| fs::read(dir.path().join(file)).unwrap();
        let files = ["server.key", "server.pem", "server.json", "ca.key", "ca.pem"].map(|file| (file, original(file)));
        let (mut refused, mut made_again) = (0, 0);
        for (file, bytes) in &files {
            for at in (0..bytes.len()).step_by(7) {
                // What is written meanwhile belongs to the same CA.
                files.iter().for_each(|(file, bytes)| fs::write(dir.path().join(file), bytes).unwrap());
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << (at % 8);
                fs::write(dir.path().join(file), bytes).unwrap();
                match ensure(dir.path(), &[]) {
                    Ok(identity) => {
                        made_again += usize::from(identity.chain != first.chain);
                        let believed = tls::check(&trust, &identity);
                        assert_eq!(believed, Ok(()), "{file} at {at}");
                    }
                    Err(error) => {
                        let told = error.to_string();
                        assert!(file.starts_with("ca."), "{file} at {at}: {told}");
                        assert!(matches!(error, IdentityError::Damaged { .. }), "{file} at {at}: {told}");
                        assert!(told.contains("/ca.") && told.contains("; expected is "), "{file} at {at}: {told}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 20 && made_again > 20, "{refused} refused, {made_again} made again");
    }

    #[test]
    fn a_host_that_is_no_name_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = ensure(dir.path(), &["bröker".into()]).unwrap_err();
        assert!(matches!(error, IdentityError::Host { ref host, .. } if host == "bröker"), "{error}");
    }
}
