//! Whom a client believes and what it shows: read from its files for each connection, so that they may be exchanged while it runs.

use std::path::PathBuf;

use millstream_transport::{ClientCertificate, Profile, Trust, TrustSource, profile};
use parking_lot::Mutex;

use crate::{ClientOptions, ConnectError, Security};

/// The files that a client's options name.
#[derive(Debug)]
pub(crate) struct Files {
    options: ClientOptions,
    /// What was read last and could be used.
    last: Mutex<Trust>,
}

impl Files {
    /// Reads the files for the first time: they must be of use. And whom to ask.
    pub(crate) fn read(options: &ClientOptions) -> Result<(Self, Vec<String>), ConnectError> {
        let (trust, brokers) = resolve(options)?;
        // It stays with these, also when the profile's first brokers are others by then.
        let options = ClientOptions { brokers: brokers.clone(), ..options.clone() };
        Ok((Self { options, last: Mutex::new(trust) }, brokers))
    }
}

impl TrustSource for Files {
    fn trust(&self) -> Trust {
        let found = resolve(&self.options);
        let mut last = self.last.lock();
        match found {
            Ok((trust, _)) => *last = trust,
            // Half of an exchange, perhaps. The next connection sees the whole of it.
            Err(error) => tracing::warn!("{error}; connecting with what was read before"),
        }
        last.clone()
    }
}

/// Whom to believe, what to show, and whom to ask.
fn resolve(options: &ClientOptions) -> Result<(Trust, Vec<String>), ConnectError> {
    let given = options.certificate.as_ref().map(|files| (files.certificate.clone(), files.key.clone()));
    let showing = |trust: Trust, files: Option<(PathBuf, PathBuf)>| match files {
        Some((certificate, key)) => {
            ClientCertificate::read(&certificate, &key).map(|read| trust.with_certificate(read))
        }
        None => Ok(trust),
    };
    let (profile, path) = match &options.security {
        Security::Profile => profile::load_default()?,
        Security::ProfileFile(path) => (Profile::load(path)?, path.clone()),
        Security::Ca(pem) => {
            let trust = Trust::from_pem(pem, "the client's options")?;
            return Ok((showing(trust, given)?, options.brokers.clone()));
        }
    };
    let trust = profile.trust(&options.brokers, path.display().to_string())?;
    let files = match given {
        Some(given) => Some(given),
        None => profile.certificate(&options.brokers, &path)?,
    };
    let trust = showing(trust, files)?;
    let brokers = if options.brokers.is_empty() { profile.cluster.brokers } else { options.brokers.clone() };
    Ok((trust, brokers))
}
