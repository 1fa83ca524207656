//! Certificates of the operator's: whom a broker serves, what the others are told, and an exchange while it runs.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::{broker::Broker, cli::Finished, message::Message, sdk::Sdk};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Far above what any of it takes on two busy cores.
const LONG: Duration = Duration::from_secs(60);

/// A CA whose files are in a folder.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.join("ca.pem"), &pem).unwrap();
        Self { folder, issuer: Issuer::new(params, key), pem }
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).to_str().unwrap().to_owned()
    }

    /// Signs a certificate into `NAME.pem`, with its key in `NAME.key`, both in this folder.
    fn sign(&self, name: &str, is_expired: bool, folder: &Path) {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(folder.join(format!("{name}.pem")), certificate + &self.pem).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn list(broker: &Broker, authority: &Authority, client: &str) -> Finished {
    let (certificate, key) = (authority.path(&format!("{client}.pem")), authority.path(&format!("{client}.key")));
    broker.cli(&["topic", "list", "--client-cert", &certificate, "--client-key", &key]).unwrap()
}

fn until_logged(broker: &Broker, words: &str) {
    let start = Instant::now();
    while !broker.log().contains(words) {
        assert!(start.elapsed() < LONG, "no {words:?} in:\n{}", broker.log());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn clients_are_served_by_their_certificates_and_the_others_are_told_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| Authority::new(folder.path(), name));
    for (name, is_expired) in [("broker", false), ("alice", false), ("late", true)] {
        ours.sign(name, is_expired, &ours.folder);
    }
    theirs.sign("mallory", false, &theirs.folder);
    let words = [
        ["--tls-cert", &ours.path("broker.pem")],
        ["--tls-key", &ours.path("broker.key")],
        ["--tls-client-ca", &ours.path("ca.pem")],
        ["--tcp-tls", "on"],
    ];
    let mut broker = Broker::start_with(&words.concat()).unwrap();
    list(&broker, &ours, "alice").ok().unwrap();
    for (refused, why) in [
        (broker.cli(&["topic", "list"]).unwrap(), "none was shown"),
        (list(&broker, &ours, "late"), "has expired"),
        (list(&broker, &theirs, "mallory"), "a CA that the broker does not trust"),
    ] {
        assert_eq!(refused.code, Some(1), "{}", refused.text());
        assert!(refused.stderr.contains(why), "no {why:?} in {}", refused.stderr);
    }
    // Of the first; the others are counted, for a while.
    let log = broker.log();
    let told = log.lines().find(|line| line.contains("a client was refused for its certificate")).unwrap_or_default();
    assert!(told.contains("WARN") && told.contains("peer sent no certificates"), "{log}");
    let half = broker.cli(&["topic", "list", "--client-cert", &ours.path("alice.pem")]).unwrap();
    assert_eq!(half.code, Some(2), "{}", half.stderr);

    // In the profile, where it stays when the broker writes it again.
    let text = std::fs::read_to_string(broker.profile()).unwrap();
    let mut profile: serde_json::Value = serde_json::from_str(&text).unwrap();
    profile["client_cert"] = ours.path("alice.pem").into();
    profile["client_key"] = ours.path("alice.key").into();
    std::fs::write(broker.profile(), profile.to_string()).unwrap();
    broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
    broker.stop().unwrap();
    broker.restart().unwrap();
    broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
}

#[test]
fn certificates_are_exchanged_while_the_broker_runs() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| Authority::new(folder.path(), name));
    let used = folder.path().join("used");
    std::fs::create_dir(&used).unwrap();
    before.sign("broker", false, &used);
    let file = |name: &str| used.join(name).to_str().unwrap().to_owned();
    let mut broker =
        Broker::start_with(&["--tls-cert", &file("broker.pem"), "--tls-key", &file("broker.key")]).unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let of_before = std::fs::read(broker.profile()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let connected = runtime.block_on(Sdk::connect(&broker)).unwrap();
    let send = || runtime.block_on(connected.send("t", &Message::new(0, None, Some(b"x")))).unwrap();
    send();
    let hang_up = |broker: &Broker| {
        assert!(Command::new("kill").args(["-HUP", &broker.process_id().to_string()]).status().unwrap().success());
    };

    // What cannot be used first, half of a certificate and another one's key: nothing changes.
    let whole = ["broker.pem", "broker.key"].map(|name| std::fs::read(used.join(name)).unwrap());
    after.sign("broker", false, &after.folder);
    let key_of_another = std::fs::read(after.folder.join("broker.key")).unwrap();
    for (certificate, key, words) in [
        (&whole[0][..whole[0].len() / 4], &*whole[1], "broker.pem cannot be used"),
        (&whole[0], &key_of_another, "its private key is expected in"),
        (&whole[0], b"rubbish", "broker.key cannot be used"),
    ] {
        std::fs::write(used.join("broker.pem"), certificate).unwrap();
        std::fs::write(used.join("broker.key"), key).unwrap();
        hang_up(&broker);
        until_logged(&broker, words);
        let error = broker.log().lines().find(|line| line.contains(words)).unwrap().to_owned();
        assert!(error.contains("ERROR") && error.contains("the certificates are not replaced"), "{error}");
        broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
    }

    after.sign("broker", false, &used);
    hang_up(&broker);
    until_logged(&broker, "the certificates were replaced");
    // Who comes now and trusts only the CA of before does not believe the broker; the profile has the new one.
    let start = Instant::now();
    while std::fs::read(broker.profile()).unwrap() == of_before {
        assert!(start.elapsed() < LONG, "the profile is not written anew");
        thread::sleep(Duration::from_millis(5));
    }
    broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
    let of_after = std::fs::read(broker.profile()).unwrap();
    std::fs::write(broker.profile(), &of_before).unwrap();
    let refused = broker.cli(&["topic", "list"]).unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("was not accepted"), "{}", refused.stderr);
    // On the connection of before.
    assert_eq!(send(), (0, 1));
    std::fs::write(broker.profile(), of_after).unwrap();
    broker.stop().unwrap();
}

/// Without a signal; what is written bit by bit is not an error for that.
#[test]
fn files_are_looked_at_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| Authority::new(folder.path(), name));
    let used = folder.path().join("used");
    std::fs::create_dir(&used).unwrap();
    before.sign("broker", false, &used);
    let [certificate, key] = ["broker.pem", "broker.key"].map(|name| used.join(name).to_str().unwrap().to_owned());
    let mut broker = Broker::start_with(&["--tls-cert", &certificate, "--tls-key", &key]).unwrap();
    let of_before = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, &of_before[..of_before.len() / 4]).unwrap();
    until_logged(&broker, "the certificates are not replaced");
    broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
    after.sign("broker", false, &used);
    until_logged(&broker, "the certificates were replaced");
    assert_eq!(broker.log().matches("not replaced").count(), 1, "{}", broker.log());
    broker.stop().unwrap();
}

/// Clients trust the CA in the data directory: a broker makes no other one under their feet.
#[test]
fn a_certificate_of_the_brokers_own_that_is_gone_is_told_of_and_not_made_again() {
    let mut broker = Broker::start().unwrap();
    let made = broker.data_dir().join("tls");
    let away = broker.data_dir().join("away");
    std::fs::rename(&made, &away).unwrap();
    assert!(Command::new("kill").args(["-HUP", &broker.process_id().to_string()]).status().unwrap().success());
    until_logged(&broker, "is gone: put it back");
    broker.cli(&["topic", "list"]).unwrap().ok().unwrap();
    assert!(!made.exists());
    std::fs::rename(&away, &made).unwrap();
    broker.stop().unwrap();
}
