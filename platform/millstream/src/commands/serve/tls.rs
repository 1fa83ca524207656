//! What the listeners show and ask clients for: read or made at the start, and kept up to date while the broker runs.
//!
//! Files are looked at every ten seconds, and at once on SIGHUP. What has changed counts from the next handshake on. What cannot be used
//! changes nothing, and is told once. Files are written bit by bit and exchanged one after another, and half a chain of certificates may
//! look like a whole one: unless SIGHUP says that it is done, a change counts only when it was found the same twice, a second apart. The
//! development certificate is made again in the same way, in time; what is gone of it is not, while the broker runs.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use millstream_transport::{
    ClientCheck, Credentials, ServerIdentity,
    identity::{self, IdentityError},
    own::{self, OwnError},
};
use tracing::{error, info, warn};

use super::{
    Told,
    settings::{Clients, Own, Tls},
};
use crate::{failure::explain, signals::Hangup};

/// How often files are looked at.
const CHECK_PAUSE: Duration = Duration::from_secs(10);
/// How long what has changed must stay as it is.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An operator's certificate that ends within so many days is warned of, once a day.
const WARN_DAYS: u64 = 30;

/// Where it all comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    tls: Tls,
    data_dir: PathBuf,
    /// What clients know the broker by.
    hosts: Vec<String>,
}

/// What there was when it was looked at last.
struct Found {
    identity: ServerIdentity,
    clients: Option<ClientCheck>,
}

/// Whether there is nothing to exchange.
impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        let asked =
            |found: &Self| found.clients.as_ref().map(|clients| (clients.roots.roots.clone(), clients.required));
        self.identity == other.identity && asked(self) == asked(other)
    }
}

impl Source {
    pub(super) fn new(tls: Tls, data_dir: PathBuf, hosts: Vec<String>) -> Self {
        Self { tls, data_dir, hosts }
    }

    fn look(&self) -> anyhow::Result<Found> {
        self.look_with(identity::ensure)
    }

    /// The same while the broker runs: clients trust the CA that there was at its start, so that no other one is made.
    fn look_again(&self) -> anyhow::Result<Found> {
        self.look_with(identity::renew)
    }

    fn look_with(&self, make: fn(&Path, &[String]) -> Result<ServerIdentity, IdentityError>) -> anyhow::Result<Found> {
        let (own, clients) = read(&self.tls)?;
        let identity = match own {
            Some(own) => own,
            None => make(&self.made(), &self.hosts).map_err(|error| match error {
                error @ IdentityError::CaGone { .. } => error.into(),
                error => anyhow::Error::new(error)
                    .context(format!("cannot use the data directory {}", self.data_dir.display())),
            })?,
        };
        Ok(Found { identity, clients })
    }

    /// Where the certificate of the broker's own making is.
    fn made(&self) -> PathBuf {
        self.data_dir.join("tls")
    }

    /// Says what clients will have against the certificate. It may be right all the same: for another name, which only clients know.
    fn warn(&self, identity: &ServerIdentity) {
        let Some(own) = &self.tls.own else { return };
        if own.ca.is_none() && !identity.has_ca() {
            warn!(
                "the last certificate in {} is no CA's: clients that trust the CA of the client profile will accept none that another has \
                 signed. Append the certificates that lead to its CA, and the CA's, or give --tls-ca FILE",
                own.certificate.display()
            );
            return;
        }
        // A broker that nobody else reaches is known by these.
        const HERE: [&str; 2] = ["127.0.0.1", "localhost"];
        if self.hosts.is_empty() && HERE.iter().all(|host| identity.is_believed_at(host).is_err()) {
            warn!(
                "the certificate in {} is neither for {} nor for {} (subjectAltName): clients on this machine will not accept it",
                own.certificate.display(),
                HERE[0],
                HERE[1]
            );
        }
        for host in &self.hosts {
            if let Err(reason) = identity.is_believed_at(host) {
                warn!(
                    "clients that connect to {host} and trust the CA of the client profile will not accept the certificate in {}: \
                     {reason}",
                    own.certificate.display()
                );
            }
        }
    }

    /// Says that an operator's certificate ends soon; the broker's own is made again in time.
    fn warn_of_end(&self, identity: &ServerIdentity) {
        let Some(own) = &self.tls.own else { return };
        let certificate = own.certificate.display();
        match identity.not_after().map(|ends| days_left(ends, SystemTime::now())) {
            Some(0) => {
                warn!("the certificate in {certificate} has ended or ends today: clients refuse it then; replace it")
            }
            Some(days) if days <= WARN_DAYS => {
                warn!(
                    "the certificate in {certificate} ends in {days} days: replace it in time, the broker needs no restart"
                );
            }
            _ => {}
        }
    }
}

/// Whole days, 0 once it has ended.
fn days_left(ends: SystemTime, now: SystemTime) -> u64 {
    ends.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs()
}

/// Whether the operator's files can be used.
pub(super) fn check(tls: &Tls) -> anyhow::Result<()> {
    Ok(read(tls).map(drop)?)
}

/// What the operator's files hold.
fn read(tls: &Tls) -> Result<(Option<ServerIdentity>, Option<ClientCheck>), OwnError> {
    let identity = |own: &Own| own::server_identity(&own.certificate, &own.key, own.ca.as_deref());
    let check = |asked: &Clients| Ok(ClientCheck { roots: own::client_roots(&asked.ca)?, required: asked.required });
    Ok((tls.own.as_ref().map(identity).transpose()?, tls.clients.as_ref().map(check).transpose()?))
}

/// Keeps the listeners' credentials up to date.
pub(super) struct Keeper {
    source: Source,
    found: Found,
    credentials: Credentials,
}

impl Keeper {
    /// What there is at the start. Blocking.
    pub(super) fn start(source: Source) -> anyhow::Result<Self> {
        let found = source.look()?;
        source.warn(&found.identity);
        source.warn_of_end(&found.identity);
        let credentials = Credentials::new(&found.identity, found.clients.as_ref())?;
        Ok(Self { source, found, credentials })
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The CA that clients must trust.
    pub(super) fn ca_pem(&self) -> &str {
        &self.found.identity.ca_pem
    }

    /// Never ends.
    pub(super) async fn keep(mut self, mut hangup: Hangup, told: Told) {
        let (mut settling, mut warned) = (Settling::default(), Instant::now());
        loop {
            if warned.elapsed() >= DAY {
                self.source.warn_of_end(&self.found.identity);
                warned = Instant::now();
            }
            let pause = if settling.is_waiting() { SETTLE_PAUSE } else { CHECK_PAUSE };
            let asked = tokio::select! {
                () = hangup.next() => true,
                () = tokio::time::sleep(pause) => false,
            };
            let source = self.source.clone();
            let looked = tokio::task::spawn_blocking(move || source.look_again()).await;
            let Ok(looked) = looked.map(|looked| looked.map_err(|error| explain(error.as_ref()))) else { continue };
            let failed = match settling.judge(&self.found, looked, asked) {
                Judged::InUse if asked => {
                    info!("SIGHUP: the certificates are those that are in use");
                    continue;
                }
                Judged::InUse | Judged::Wait => continue,
                Judged::Exchange(found) => self.exchange(found, &told).await,
                Judged::Unusable(wrong) => Err(wrong),
            };
            if let Some(wrong) = settling.news_of(failed, asked) {
                error!(error = wrong, "the certificates are not replaced, those in use stay");
            }
        }
    }

    async fn exchange(&mut self, found: Found, told: &Told) -> Result<(), String> {
        let exchanged = self.credentials.replace(&found.identity, found.clients.as_ref());
        exchanged.map_err(|error| explain(&error))?;
        self.source.warn(&found.identity);
        self.source.warn_of_end(&found.identity);
        info!("the certificates were replaced: new connections are shown and asked for what the files hold now");
        if found.identity.ca_pem != self.found.identity.ca_pem {
            let (told, ca_pem) = (told.clone(), found.identity.ca_pem.clone());
            // It warns of what it could not write.
            let _ = tokio::task::spawn_blocking(move || told.write(ca_pem)).await;
        }
        self.found = found;
        Ok(())
    }
}

/// When what was found is acted on.
#[derive(Debug)]
struct Settling<T> {
    /// What the last look has found, where that is not in use and was not found before.
    before: Option<Result<T, String>>,
    /// What was wrong, once it has been said.
    said: Option<String>,
}

impl<T> Default for Settling<T> {
    fn default() -> Self {
        Self { before: None, said: None }
    }
}

/// What to do about a look.
#[derive(Debug, PartialEq, Eq)]
enum Judged<T> {
    /// It has found what is in use.
    InUse,
    /// Look again soon.
    Wait,
    Exchange(T),
    Unusable(String),
}

impl<T: PartialEq> Settling<T> {
    fn is_waiting(&self) -> bool {
        self.before.is_some()
    }

    /// `asked`: whoever exchanges files says that they are whole.
    fn judge(&mut self, in_use: &T, looked: Result<T, String>, asked: bool) -> Judged<T> {
        let before = self.before.take();
        if looked.as_ref() == Ok(in_use) {
            self.said = None;
            return Judged::InUse;
        }
        if !asked && before.as_ref() != Some(&looked) {
            self.before = Some(looked);
            return Judged::Wait;
        }
        looked.map_or_else(Judged::Unusable, Judged::Exchange)
    }

    /// What is to be said of an exchange: what was wrong, if that is new, or somebody waits for an answer.
    fn news_of(&mut self, exchanged: Result<(), String>, asked: bool) -> Option<String> {
        let before = std::mem::replace(&mut self.said, exchanged.err());
        self.said.clone().filter(|wrong| asked || before.as_ref() != Some(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Look = Result<u8, &'static str>;

    /// What is done about looks, one after the other, that find what stands here; 0 is in use. `!`: asked for.
    fn check(looks: &[(Look, &str)], expected: &[&str]) {
        let (mut settling, mut in_use) = (Settling::default(), 0);
        let mut done = Vec::new();
        for (looked, asked) in looks {
            let asked = *asked == "!";
            done.push(match settling.judge(&in_use, looked.map_err(String::from), asked) {
                Judged::InUse => "in use".to_owned(),
                Judged::Wait => "wait".to_owned(),
                Judged::Exchange(found) => {
                    in_use = found;
                    assert_eq!(settling.news_of(Ok(()), asked), None);
                    format!("use {found}")
                }
                Judged::Unusable(wrong) => {
                    settling.news_of(Err(wrong), asked).map_or("known".to_owned(), |wrong| format!("say {wrong}"))
                }
            });
            assert_eq!(settling.is_waiting(), done.last().is_some_and(|done| done == "wait"));
        }
        assert_eq!(done, expected, "{looks:?}");
    }

    #[test]
    fn days_that_are_left_are_whole_ones() {
        let now = SystemTime::now();
        let left = |hours: u64| days_left(now + Duration::from_secs(hours * 60 * 60), now);
        assert_eq!([0, 23, 24, 47, 24 * 30].map(left), [0, 0, 1, 1, 30]);
        assert_eq!(days_left(now - DAY, now), 0);
    }

    #[test]
    fn a_change_counts_once_it_stays() {
        check(&[(Ok(0), ""), (Ok(1), ""), (Ok(1), ""), (Ok(1), "")], &["in use", "wait", "use 1", "in use"]);
        // Half of it first, and what it was in between.
        check(&[(Ok(1), ""), (Ok(2), ""), (Ok(2), "")], &["wait", "wait", "use 2"]);
        check(&[(Err("half"), ""), (Ok(2), ""), (Ok(2), "")], &["wait", "wait", "use 2"]);
        check(&[(Ok(1), ""), (Ok(0), ""), (Ok(1), ""), (Ok(1), "")], &["wait", "in use", "wait", "use 1"]);
        check(&[(Ok(1), "!"), (Ok(1), "!")], &["use 1", "in use"]);
        check(&[(Ok(1), ""), (Ok(2), "!")], &["wait", "use 2"]);
    }

    #[test]
    fn what_is_wrong_is_said_once_or_when_it_is_asked_for() {
        let bad = Err("bad");
        check(&[(bad, ""), (bad, ""), (bad, ""), (bad, "")], &["wait", "say bad", "wait", "known"]);
        check(&[(bad, "!"), (bad, ""), (bad, ""), (bad, "!")], &["say bad", "wait", "known", "say bad"]);
        check(&[(bad, "!"), (Err("worse"), ""), (Err("worse"), "")], &["say bad", "wait", "say worse"]);
        // After it was right.
        for right in [0, 1] {
            let done = if right == 0 { "in use" } else { "use 1" };
            check(&[(bad, "!"), (Ok(right), "!"), (bad, ""), (bad, "")], &["say bad", done, "wait", "say bad"]);
        }
    }
}
