//! The client profile: what a client must know of a cluster, as a JSON file that tools and SDK find by themselves.
//!
//! ```json
//! { "brokers": ["127.0.0.1:9092"], "ca_pem": "-----BEGIN CERTIFICATE-----\n...",
//!   "others": [{ "brokers": ["127.0.0.1:9192"], "ca_pem": "-----BEGIN CERTIFICATE-----\n..." }] }
//! ```
//!
//! `client_cert` and `client_key` beside `ca_pem` are the user's own: files, in PEM, with what brokers are shown that ask for a client's
//! certificate. A path that is not absolute starts at the profile's directory.
//!
//! The first two lines are of the broker that was started last, which is the whole profile for a user with one broker. The
//! user's other brokers stay below `others`, each found by its address.
//!
//! Looked for at `$MILLSTREAM_PROFILE`, else `$XDG_CONFIG_HOME/millstream/profile.json`, else
//! `$HOME/.config/millstream/profile.json`. A broker also writes it to `client.json` in its data directory.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Trust, TrustError, identity::replace_file};

/// The environment variable that names a profile file.
pub const PROFILE_VARIABLE: &str = "MILLSTREAM_PROFILE";
/// Largest profile that is read, bytes.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// Other brokers that a profile remembers. Those that were started longest ago are forgotten first.
const OTHERS_MAX: usize = 31;

/// What a client must know of a cluster, and of the others of its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The cluster that is meant when no broker is named.
    #[serde(flatten)]
    pub cluster: KnownCluster,
    /// The user's others, those started last first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<KnownCluster>,
}

/// Where a cluster is, and how it proves that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownCluster {
    /// Where brokers can be asked, `HOST:PORT` each.
    pub brokers: Vec<String>,
    /// The certificates of the CAs that the brokers' certificates must come from, PEM.
    pub ca_pem: String,
    /// The file of the certificate to show to brokers that ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// The file of its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
}

impl KnownCluster {
    fn has_any_of(&self, brokers: &[String]) -> bool {
        self.brokers.iter().any(|broker| brokers.contains(broker))
    }
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Neither the variable nor a home directory is set.
    #[error(
        "no place to look for a client profile: set {PROFILE_VARIABLE} to the file (a broker writes DATA_DIR/client.json)"
    )]
    NoPlace,
    /// There is no such file.
    #[error(
        "there is no client profile at {}: start a broker (it writes one), or set {PROFILE_VARIABLE} to the broker's DATA_DIR/client.json",
        .path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot {action} the client profile {}", .path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is not a profile.
    #[error("{} is not a client profile: {detail}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

impl Profile {
    /// A profile of one cluster.
    #[must_use]
    pub fn new(brokers: Vec<String>, ca_pem: String) -> Self {
        let cluster = KnownCluster { brokers, ca_pem, client_cert: None, client_key: None };
        Self { cluster, others: Vec::new() }
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// [`ProfileError::Missing`] when there is no such file; `Malformed` when it is something else.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let fail = |source| ProfileError::Io { action: "read", path: path.into(), source };
        let length = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ProfileError::Missing { path: path.into() });
            }
            Err(error) => return Err(fail(error)),
        };
        if length > PROFILE_BYTES_MAX {
            return Err(ProfileError::Malformed { path: path.into(), detail: format!("it has {length} bytes") });
        }
        let bytes = fs::read(path).map_err(fail)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ProfileError::Malformed { path: path.into(), detail: error.to_string() })
    }

    /// Writes the profile, making directories where missing; an older one at `path` is replaced whole.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(&self, path: &Path) -> Result<(), ProfileError> {
        let fail = |source| ProfileError::Io { action: "write", path: path.into(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(fail)?;
        }
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| fail(error.into()))?;
        bytes.push(b'\n');
        replace_file(path, &bytes, 0o644).map_err(fail)
    }

    /// Writes the profile over the one at `path`, and keeps among the others what that one knew. A cluster that has this one's CA
    /// or one of its addresses is this one, or gone. Brokers that start at the same time wait for each other.
    ///
    /// Something at `path` that is not a profile is replaced.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write_beside_others(mut self, path: &Path) -> Result<(), ProfileError> {
        let fail = |source| ProfileError::Io { action: "write", path: path.into(), source };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(fail)?;
        // The directory is the lock, so that no file is left beside the profile. Let go with the handle.
        let lock = fs::File::open(dir).map_err(fail)?;
        lock.lock().map_err(fail)?;
        if let Ok(before) = Self::load(path) {
            let known = std::iter::once(before.cluster).chain(before.others);
            let mine = &mut self.cluster;
            let (same, others): (Vec<_>, _) =
                known.partition(|known| known.ca_pem == mine.ca_pem || known.has_any_of(&mine.brokers));
            self.others = others;
            // What the user has put there stays.
            if let Some(same) = same.into_iter().find(|same| same.client_cert.is_some()) {
                (mine.client_cert, mine.client_key) = (same.client_cert, same.client_key);
            }
            self.others.truncate(OTHERS_MAX);
        }
        self.write(path)
    }

    /// The CAs to check `brokers` with: those of the clusters that have one of these addresses; of all clusters if none has, since
    /// one may go by another name; of the first if none is given. `origin` is named when a broker does not match: usually the
    /// profile's path.
    ///
    /// # Errors
    /// The profile's certificates are malformed.
    pub fn trust(&self, brokers: &[String], origin: impl Into<String>) -> Result<Trust, TrustError> {
        let mut origin = origin.into();
        if !brokers.is_empty() && !self.all().any(|known| known.has_any_of(brokers)) {
            let known: Vec<_> = self.all().flat_map(|known| &known.brokers).map(String::as_str).collect();
            origin +=
                &format!(" (which knows {}, and not this broker: --broker says which is meant)", known.join(", "));
        }
        let pem: Vec<_> = self.meant(brokers).into_iter().map(|known| known.ca_pem.as_str()).collect();
        Trust::from_pem(&pem.join("\n"), origin)
    }

    /// The files of the certificate to show to `brokers`, and of its key, if the profile names any. `path` is the profile's.
    ///
    /// # Errors
    /// [`ProfileError::Malformed`]: only one of the two is named.
    pub fn certificate(&self, brokers: &[String], path: &Path) -> Result<Option<(PathBuf, PathBuf)>, ProfileError> {
        let named =
            self.meant(brokers).into_iter().find(|known| known.client_cert.is_some() || known.client_key.is_some());
        let Some(KnownCluster { client_cert, client_key, .. }) = named else { return Ok(None) };
        let (Some(certificate), Some(key)) = (client_cert, client_key) else {
            let detail = "client_cert and client_key belong together, and one of them is missing".into();
            return Err(ProfileError::Malformed { path: path.into(), detail });
        };
        let from_here = |file: &Path| path.parent().map_or_else(|| file.to_owned(), |dir| dir.join(file));
        Ok(Some((from_here(certificate), from_here(key))))
    }

    fn meant(&self, brokers: &[String]) -> Vec<&KnownCluster> {
        let meant: Vec<_> = match brokers {
            [] => vec![&self.cluster],
            _ => self.all().filter(|known| known.has_any_of(brokers)).collect(),
        };
        if meant.is_empty() { self.all().collect() } else { meant }
    }

    fn all(&self) -> impl Iterator<Item = &KnownCluster> {
        std::iter::once(&self.cluster).chain(&self.others)
    }
}

/// Where the profile of this user is: `$MILLSTREAM_PROFILE`, `$XDG_CONFIG_HOME/millstream/profile.json` or
/// `$HOME/.config/millstream/profile.json`; none without any of the three.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    path_from(|name| env::var_os(name).filter(|value| !value.is_empty()))
}

fn path_from(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    if let Some(file) = variable(PROFILE_VARIABLE) {
        return Some(file.into());
    }
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
    Some(config?.join("millstream").join("profile.json"))
}

/// Reads the profile at [`default_path`]; also says where it was.
///
/// # Errors
/// As [`Profile::load`]; [`ProfileError::NoPlace`] when no path is known.
pub fn load_default() -> Result<(Profile, PathBuf), ProfileError> {
    let path = default_path().ok_or(ProfileError::NoPlace)?;
    Ok((Profile::load(&path)?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_over_the_directories() {
        let check = |set: &[(&str, &str)], expected: Option<&str>| {
            let path = path_from(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()));
            assert_eq!(path, expected.map(PathBuf::from), "{set:?}");
        };
        check(&[], None);
        check(&[("HOME", "/h")], Some("/h/.config/millstream/profile.json"));
        check(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")], Some("/x/millstream/profile.json"));
        check(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x"), ("MILLSTREAM_PROFILE", "/p.json")], Some("/p.json"));
    }

    #[test]
    fn a_profile_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep").join("profile.json");
        let profile = Profile::new(vec!["127.0.0.1:1".into()], "pem".into());
        profile.write(&path).unwrap();
        profile.write(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), profile);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let text = fs::read_to_string(&path).unwrap();
        let expected = "{\n  \"brokers\": [\n    \"127.0.0.1:1\"\n  ],\n  \"ca_pem\": \"pem\"\n}\n";
        assert_eq!(text, expected, "the profile of one broker is as simple as that");
    }

    /// Who starts a second broker elsewhere, and forgets to name it, is told which brokers the profile has.
    #[test]
    fn a_broker_that_the_profile_does_not_know_is_named_so() {
        let ca = crate::identity::ensure(tempfile::tempdir().unwrap().path(), &[]).unwrap().ca_pem;
        let profile = Profile::new(vec!["127.0.0.1:9492".into()], ca);
        let origin = |brokers: &[String]| profile.trust(brokers, "p.json").unwrap().origin;
        assert_eq!(origin(&[]), "p.json");
        assert_eq!(origin(&["127.0.0.1:9492".into()]), "p.json");
        let told = origin(&["127.0.0.1:9092".into()]);
        assert!(told.contains("127.0.0.1:9492") && told.contains("--broker"), "{told}");
    }

    /// Brokers by address and CA, started one after another; what the profile says in the end.
    fn started(brokers: &[(&str, &str)]) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        for (address, ca) in brokers {
            Profile::new(vec![(*address).into()], (*ca).into()).write_beside_others(&path).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        let Profile { cluster, others } = Profile::load(&path).unwrap();
        std::iter::once(cluster).chain(others).map(|known| (known.brokers.concat(), known.ca_pem)).collect()
    }

    #[test]
    fn a_second_broker_does_not_make_the_first_forgotten() {
        let check = |brokers: &[(&str, &str)], expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected.iter().map(|(a, ca)| ((*a).to_owned(), (*ca).to_owned())).collect();
            assert_eq!(started(brokers), expected, "{brokers:?}");
        };
        check(&[("a:1", "A"), ("b:2", "B")], &[("b:2", "B"), ("a:1", "A")]);
        // Started again; started again on another port; another broker where the first one was.
        check(&[("a:1", "A"), ("b:2", "B"), ("a:1", "A")], &[("a:1", "A"), ("b:2", "B")]);
        check(&[("a:1", "A"), ("b:2", "B"), ("a:3", "A")], &[("a:3", "A"), ("b:2", "B")]);
        check(&[("a:1", "A"), ("a:1", "B")], &[("a:1", "B")]);
        let many: Vec<_> = (0..100).map(|n| (format!("a:{n}"), format!("{n}"))).collect();
        let many: Vec<_> = many.iter().map(|(a, ca)| (a.as_str(), ca.as_str())).collect();
        assert_eq!(started(&many).len(), OTHERS_MAX + 1);
    }

    #[test]
    fn brokers_that_start_at_the_same_time_are_all_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let profile = Profile::new(vec![format!("a:{number}")], format!("{number}"));
                    profile.write_beside_others(path).unwrap();
                });
            }
        });
        assert_eq!(Profile::load(&path).unwrap().others.len(), 7);
    }

    #[test]
    fn a_broker_is_checked_with_its_own_ca_and_an_unknown_one_with_all() {
        let ca = |name: &str| {
            let dir = tempfile::tempdir().unwrap();
            crate::identity::ensure(&dir.path().join(name), &[]).unwrap().ca_pem
        };
        let mut profile = Profile::new(vec!["a:1".into()], ca("a"));
        profile.others.push(KnownCluster { brokers: vec!["b:2".into()], ..Profile::new(Vec::new(), ca("b")).cluster });
        let check = |brokers: &[&str], expected: usize| {
            let brokers: Vec<_> = brokers.iter().map(ToString::to_string).collect();
            assert_eq!(profile.trust(&brokers, "here").unwrap().roots.len(), expected, "{brokers:?}");
        };
        check(&[], 1);
        check(&["a:1"], 1);
        check(&["b:2"], 1);
        check(&["a:1", "b:2"], 2);
        check(&["localhost:2"], 2);
    }

    #[test]
    fn what_is_no_profile_is_said_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        assert!(matches!(Profile::load(&path), Err(ProfileError::Missing { .. })));
        fs::write(&path, "{}").unwrap();
        let error = Profile::load(&path).unwrap_err();
        assert!(error.to_string().contains("p.json"), "{error}");
        assert!(matches!(error, ProfileError::Malformed { .. }));
        let profile = Profile::new(vec![], "rubbish".into());
        assert!(profile.trust(&[], "here").is_err());
        profile.clone().write_beside_others(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), profile);
    }

    #[test]
    fn what_the_user_shows_stays_when_the_broker_writes_again_and_is_found_beside_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let mine = || Profile::new(vec!["a:1".into()], "pem".into());
        let mut shown = mine();
        shown.cluster.client_cert = Some("me.pem".into());
        assert!(matches!(shown.certificate(&[], &path), Err(ProfileError::Malformed { .. })), "without its key");
        shown.cluster.client_key = Some("/keys/me.key".into());
        shown.write(&path).unwrap();
        mine().write_beside_others(&path).unwrap();
        Profile::new(vec!["b:2".into()], "other".into()).write_beside_others(&path).unwrap();
        let read = Profile::load(&path).unwrap();
        let expected = Some((dir.path().join("me.pem"), "/keys/me.key".into()));
        assert_eq!(read.certificate(&["a:1".into()], &path).unwrap(), expected);
        assert_eq!(read.certificate(&["b:2".into()], &path).unwrap(), None);
        assert_eq!(read.certificate(&[], &path).unwrap(), None, "the last broker's is meant");
    }
}
