//! The client profile: what a client must know of a cluster, as a JSON file that tools and SDK find by themselves.
//!
//! ```json
//! { "brokers": ["127.0.0.1:9092"], "ca_pem": "-----BEGIN CERTIFICATE-----\n..." }
//! ```
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

/// What a client must know of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Where brokers can be asked, `HOST:PORT` each.
    pub brokers: Vec<String>,
    /// The certificates of the CAs that the brokers' certificates must come from, PEM.
    pub ca_pem: String,
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

    /// The CAs, to check brokers with. `origin` is named when a broker does not match: usually the profile's path.
    ///
    /// # Errors
    /// The profile's certificates are malformed.
    pub fn trust(&self, origin: impl Into<String>) -> Result<Trust, TrustError> {
        Trust::from_pem(&self.ca_pem, origin)
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
        let profile = Profile { brokers: vec!["127.0.0.1:1".into()], ca_pem: "pem".into() };
        profile.write(&path).unwrap();
        profile.write(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), profile);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
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
        let profile = Profile { brokers: vec![], ca_pem: "rubbish".into() };
        assert!(profile.trust("here").is_err());
    }
}
