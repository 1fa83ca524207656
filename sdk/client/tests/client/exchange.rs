//! Certificates that are exchanged while a client runs: does its next connection believe and show what the files hold by then?

use std::{fs, path::Path, sync::Arc, time::Duration};

use millstream_client::{CertificateFiles, Client, ClientOptions, NewTopic, Security};
use millstream_transport::{BoundPort, ClientCheck, Credentials, Limits, Profile, ServerIdentity, TcpSecurity, own};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::fake::FakeBroker;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A CA, with one certificate for brokers and clients alike.
struct Authority {
    dir: tempfile::TempDir,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = own.signed_by(&key, &issuer).unwrap().pem() + &pem;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), &pem).unwrap();
        fs::write(dir.path().join("own.pem"), certificate).unwrap();
        fs::write(dir.path().join("own.key"), key.serialize_pem()).unwrap();
        Self { dir, pem }
    }

    /// What a broker shows and asks for: certificates of this CA.
    fn broker(&self) -> (ServerIdentity, ClientCheck) {
        let path = |name: &str| self.dir.path().join(name);
        let identity = own::server_identity(&path("own.pem"), &path("own.key"), None).unwrap();
        (identity, ClientCheck { roots: own::client_roots(&path("ca.pem")).unwrap(), required: true })
    }

    /// Puts what clients need of it into a directory.
    fn install(&self, address: &str, to: &Path) {
        Profile::new(vec![address.into()], self.pem.clone()).write(&to.join("profile.json")).unwrap();
        self.install_file("own.pem", to);
        self.install_file("own.key", to);
    }

    fn install_file(&self, name: &str, to: &Path) {
        fs::copy(self.dir.path().join(name), to.join(name)).unwrap();
    }
}

/// Has the broker end the connection, and the client ask something after that.
async fn reconnect(broker: &FakeBroker, client: &Client) {
    broker.state.lock().break_creates = true;
    let topic = NewTopic { name: "t".into(), ..NewTopic::default() };
    client.admin().create_topic(topic).await.unwrap_err();
    let before = broker.state.lock().connections;
    assert_eq!(client.admin().list_topics().await.unwrap().len(), 1);
    assert_eq!(broker.state.lock().connections, before + 1);
}

async fn exchange() {
    let (first, second) = (Authority::new(), Authority::new());
    let (identity, check) = first.broker();
    let credentials = Credentials::new(&identity, Some(&check)).unwrap();
    let port = BoundPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.address().to_string();
    let listeners = port.listen(&credentials, TcpSecurity::Tls, &Limits::default()).unwrap();
    let broker = FakeBroker::serve_on(millstream_client::real_env(), Arc::clone(&listeners.quic) as _);

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    first.install(&address, dir.path());
    let options = ClientOptions {
        security: Security::ProfileFile(path("profile.json")),
        certificate: Some(CertificateFiles { certificate: path("own.pem"), key: path("own.key") }),
        ..ClientOptions::default()
    };
    let client = Client::connect(options).await.unwrap();
    reconnect(&broker, &client).await;

    let (identity, check) = second.broker();
    credentials.replace(&identity, Some(&check)).unwrap();
    second.install(&address, dir.path());
    reconnect(&broker, &client).await;

    // In the middle of an exchange: a key that is not the certificate's, half a profile, and no file at all.
    first.install_file("own.key", dir.path());
    reconnect(&broker, &client).await;
    fs::write(path("profile.json"), "{").unwrap();
    reconnect(&broker, &client).await;
    fs::remove_file(path("own.pem")).unwrap();
    reconnect(&broker, &client).await;
    client.close().await;
}

#[test]
fn a_client_connects_with_what_its_files_hold_by_then() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange()).await.unwrap() });
}
