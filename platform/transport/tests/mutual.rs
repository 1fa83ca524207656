//! Certificates on both sides, on QUIC and on TCP: whom a listener takes in and by what name, what the others are told, and what is
//! shown after an exchange.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io, path::Path, sync::Arc, time::Duration};

use futures::{FutureExt, SinkExt, StreamExt};
use millstream_env::{Connection, Listener, Net};
use millstream_transport::{
    BoundPort, ClientCertificate, ClientCheck, ConnectError, Credentials, Limits, Listeners, QuicNet, ServerIdentity,
    TcpSecurity, Trust, own,
};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A CA, and what it signs, as PEM files.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Good,
    Expired,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), &pem).unwrap();
        Self { dir, issuer: Issuer::new(params, key), pem }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.dir.path().join(file)
    }

    /// Signs a certificate, and writes `NAME.pem`, with the CA's behind it, and `NAME.key`.
    fn sign(&self, name: &str, age: Age) {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = named(name);
        if age == Age::Expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(self.path(&format!("{name}.pem")), pem + &self.pem).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn server(&self, name: &str) -> ServerIdentity {
        self.sign(name, Age::Good);
        own::server_identity(&self.path(&format!("{name}.pem")), &self.path(&format!("{name}.key")), None).unwrap()
    }

    fn client(&self, name: &str, age: Age) -> Files {
        self.sign(name, age);
        Files { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) }
    }

    fn check(&self, required: bool) -> ClientCheck {
        ClientCheck { roots: own::client_roots(&self.path("ca.pem")).unwrap(), required }
    }

    fn trust(&self) -> Trust {
        Trust::from_pem(&self.pem, "the test").unwrap()
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "Test");
    distinguished.push(DnType::CommonName, name);
    distinguished
}

struct Files {
    certificate: std::path::PathBuf,
    key: std::path::PathBuf,
}

fn listen(credentials: &Credentials) -> Listeners {
    let port = BoundPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    port.listen(credentials, TcpSecurity::Tls, &Limits::default()).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

async fn by_quic(listeners: &Listeners, trust: Trust, files: Option<&Files>) -> io::Result<Arc<dyn Connection>> {
    let trust = match files {
        Some(files) => trust.with_certificate(ClientCertificate::read(&files.certificate, &files.key).unwrap()),
        None => trust,
    };
    let net = QuicNet::client(trust, Limits::default());
    within(net.connect(&listeners.quic.local_address().to_string())).await
}

type Tls = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// A client of the TCP port, once it has its first echo. In TLS 1.3 it is told only then that it was refused.
async fn by_tcp(
    listeners: &Listeners,
    ca: &str,
    files: Option<&Files>,
    version: &'static rustls::SupportedProtocolVersion,
) -> io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = config.with_root_certificates(roots);
    let config = match files {
        Some(Files { certificate, key }) => {
            let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio::net::TcpStream::connect(listeners.tcp.local_address()).await?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    ping(&mut stream).await?;
    Ok(stream)
}

async fn ping(stream: &mut Tls) -> io::Result<()> {
    stream.write_all(b"\0\0\0\x04ping").await?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.map(|_| assert_eq!(&answer, b"\0\0\0\x04ping"))
}

/// Echoes whatever comes, and tells by what name.
fn serve(listener: Arc<impl Listener + 'static>) -> tokio::sync::mpsc::UnboundedReceiver<Option<String>> {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(connection) = listener.accept().await {
            let _ = tell.send(connection.peer().principal.clone());
            tokio::spawn(async move {
                while let Some(mut stream) = connection.accept().await {
                    while let Some(Ok(frame)) = stream.source.next().await {
                        let _ = stream.sink.send(frame.into()).await;
                    }
                }
            });
        }
    });
    told
}

fn refusal(error: &io::Error) -> &ConnectError {
    error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_taken_in_by_its_certificate_or_told_what_is_wrong_with_it() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.client("alice", Age::Good);
    let expired = ours.client("bob", Age::Expired);
    let foreign = theirs.client("mallory", Age::Good);
    let alice = Some("User:CN=alice,O=Test".to_owned());
    for required in [true, false] {
        let credentials = Credentials::new(&ours.server("broker"), Some(&ours.check(required))).unwrap();
        let listeners = listen(&credentials);
        let mut quic = serve(Arc::clone(&listeners.quic));
        let mut tcp = serve(Arc::clone(&listeners.tcp));

        by_quic(&listeners, ours.trust(), Some(&good)).await.unwrap();
        assert_eq!(within(quic.recv()).await.unwrap(), alice);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            within(by_tcp(&listeners, &ours.pem, Some(&good), version)).await.unwrap();
            assert_eq!(within(tcp.recv()).await.unwrap(), alice);
        }

        for (files, why, alert) in [
            (Some(&expired), "has expired", "CertificateExpired"),
            (Some(&foreign), "a CA that the broker does not trust", "UnknownCA"),
            (None, "requires one", "CertificateRequired"),
        ] {
            if files.is_none() && !required {
                by_quic(&listeners, ours.trust(), None).await.unwrap();
                assert_eq!(within(quic.recv()).await.unwrap(), None);
                within(by_tcp(&listeners, &ours.pem, None, &rustls::version::TLS13)).await.unwrap();
                assert_eq!(within(tcp.recv()).await.unwrap(), None);
                continue;
            }
            let error = by_quic(&listeners, ours.trust(), files).await.err().unwrap();
            assert!(matches!(refusal(&error), ConnectError::Unauthenticated { .. }), "{error}");
            assert!(error.to_string().contains(why) && !refusal(&error).is_retriable(), "{error}");
            let error = within(by_tcp(&listeners, &ours.pem, files, &rustls::version::TLS13)).await.unwrap_err();
            assert!(error.to_string().contains(alert), "{error}");
            within(by_tcp(&listeners, &ours.pem, files, &rustls::version::TLS12)).await.unwrap_err();
        }
        // Whoever was refused was not seen by whoever accepts.
        assert!(quic.recv().now_or_never().is_none() && tcp.recv().now_or_never().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exchanged_counts_from_the_next_handshake_on_and_open_connections_go_on() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let credentials = Credentials::new(&before.server("broker"), None).unwrap();
    let listeners = listen(&credentials);
    let _told = (serve(Arc::clone(&listeners.quic)), serve(Arc::clone(&listeners.tcp)));
    let version = &rustls::version::TLS13;
    let quic = by_quic(&listeners, before.trust(), None).await.unwrap();
    let mut tcp = within(by_tcp(&listeners, &before.pem, None, version)).await.unwrap();

    let second = after.server("broker");
    credentials.replace(&second, Some(&after.check(true))).unwrap();
    let alice = after.client("alice", Age::Good);
    by_quic(&listeners, after.trust(), Some(&alice)).await.unwrap();
    let new = within(by_tcp(&listeners, &after.pem, Some(&alice), version)).await.unwrap();
    let shown = |stream: &Tls| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_ne!(shown(&new), shown(&tcp));
    let error = by_quic(&listeners, before.trust(), None).await.err().unwrap();
    assert!(matches!(refusal(&error), ConnectError::Certificate { .. }), "{error}");

    // Those of before.
    within(ping(&mut tcp)).await.unwrap();
    let mut stream = within(quic.open()).await.unwrap();
    stream.sink.send(bytes::Bytes::from_static(b"ping").into()).await.unwrap();
    assert_eq!(within(stream.source.next()).await.unwrap().unwrap(), "ping");
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.sign("broker", Age::Good);
    ours.sign("old", Age::Expired);
    theirs.sign("broker", Age::Good);
    std::fs::write(ours.path("empty"), "").unwrap();
    std::fs::write(ours.path("noise"), [0xff; 100]).unwrap();
    std::fs::write(ours.path("huge"), vec![b'a'; 2 << 20]).unwrap();
    let good = ours.path("broker.key");
    let check = |certificate: &Path, key: &Path, ca: Option<&Path>, file: &Path, words: &str| {
        let told = own::server_identity(certificate, key, ca).unwrap_err();
        let told = format!("{told}{}", std::error::Error::source(&told).map(ToString::to_string).unwrap_or_default());
        assert!(told.contains(&file.display().to_string()) && told.contains(words), "{words:?}, {file:?}: {told}");
    };
    let certificate = ours.path("broker.pem");
    own::server_identity(&certificate, &good, Some(&ours.path("ca.pem"))).unwrap();
    for (file, words) in [
        ("absent", "No such file"),
        ("empty", "no certificate in PEM"),
        ("noise", "not text"),
        ("huge", "2097152 bytes"),
        ("broker.key", "no certificate in PEM"),
    ] {
        check(&ours.path(file), &good, None, &ours.path(file), words);
        check(&certificate, &good, Some(&ours.path(file)), &ours.path(file), words);
        assert!(own::client_roots(&ours.path(file)).unwrap_err().to_string().contains(file));
    }
    for file in ["absent", "empty", "noise", "broker.pem"] {
        check(&certificate, &ours.path(file), None, &ours.path(file), "");
        let told = ClientCertificate::read(&certificate, &ours.path(file)).unwrap_err();
        assert!(told.to_string().contains(file), "{told}");
    }
    let other = theirs.path("broker.key");
    check(&certificate, &other, None, &certificate, &other.display().to_string());
    assert!(ClientCertificate::read(&certificate, &other).is_err());
    check(&ours.path("old.pem"), &ours.path("old.key"), None, &ours.path("old.pem"), "expired");
    // The last of the chain is what clients are told to trust.
    let identity = own::server_identity(&certificate, &good, None).unwrap();
    let der = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(der(&identity.ca_pem), der(&ours.pem));
    assert_eq!(identity.ca_pem.lines().next(), ours.pem.lines().next());
    identity.is_believed_at("localhost").unwrap();
    assert!(identity.is_believed_at("elsewhere.example").is_err());
    let unrelated = own::server_identity(&certificate, &good, Some(&theirs.path("ca.pem"))).unwrap();
    assert!(unrelated.is_believed_at("localhost").is_err());
}

/// In one file for all, as some tools want it, the private key stands beside what clients are told.
#[test]
fn a_private_key_is_not_told_to_clients() {
    let ours = Authority::new("ours");
    ours.sign("broker", Age::Good);
    let [certificate, key] = ["broker.pem", "broker.key"].map(|file| std::fs::read_to_string(ours.path(file)).unwrap());
    let remark = "# -----BEGIN CERTIFICATE-----\n";
    for (name, text) in [
        ("after", format!("{certificate}{key}")),
        ("before", format!("{key}{certificate}")),
        ("between", certificate.replace(&ours.pem, &format!("{remark}{key}{}", ours.pem))),
    ] {
        let all = ours.path(name);
        std::fs::write(&all, text).unwrap();
        for ca in [None, Some(&*all)] {
            let identity = own::server_identity(&all, &all, ca).unwrap();
            assert!(!identity.ca_pem.contains("PRIVATE KEY"), "{name}: {}", identity.ca_pem);
            identity.is_believed_at("localhost").unwrap();
        }
    }
}
