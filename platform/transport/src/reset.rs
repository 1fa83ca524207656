//! What lets a restarted broker tell its clients of before that their connections are gone: stateless resets (RFC 9000, 10.3).
//!
//! A client believes a packet that ends in the token which it was given with the connection's id. Tokens are made of ids with a
//! key, and ids carry a signature, so that packets which are none of ours are not answered. Both keys come from the private key of
//! the listener's certificate: whoever has that after a restart can say what the process before it would have said. The private
//! key itself signs nothing here, and cannot be found from what is made of it (HKDF, RFC 5869).

use std::{sync::Arc, time::Duration};

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use quinn_proto::InvalidCid;
use rand::Rng;
use ring::{hkdf, hmac};

use crate::{ListenError, ServerIdentity};

/// Random bytes of an id. Tokens outlive the process, so ids must not come again: quinn's own ids have three, of which a client
/// could collect all, with the tokens of everybody else's.
const ID_RANDOM_BYTES: usize = 8;
/// Bytes of an id that sign the others.
const ID_SIGNATURE_BYTES: usize = 4;
/// Least pause between two resets. One is always smaller than what it answers, and that carried an id of ours: this only bounds
/// what a recorded packet that comes again and again costs us, and a thousand clients hear of a restart within a second.
const RESET_PAUSE: Duration = Duration::from_millis(1);

/// The configuration of a listener's endpoint, the same for every start with this identity. It stays while the listener does: after a
/// restart with another key, clients of before are left to their idle time-outs.
pub(crate) fn endpoint_config(identity: &ServerIdentity) -> Result<EndpointConfig, ListenError> {
    let ids = SignedIds::of(identity)?;
    let mut config = EndpointConfig::new(Arc::new(derive(identity, b"stateless reset")?));
    config.cid_generator(move || Box::new(ids.clone())).min_reset_interval(RESET_PAUSE);
    Ok(config)
}

/// A key for one purpose.
fn derive(identity: &ServerIdentity, purpose: &[u8]) -> Result<hmac::Key, ListenError> {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"millstream/quic").extract(identity.key.secret_der());
    let derived = secret.expand(&[purpose], hmac::HMAC_SHA256).map(hmac::Key::from);
    derived.map_err(|_| ListenError::Tls("no further keys can be derived from its private key".into()))
}

/// Ids of random bytes and their signature.
#[derive(Clone)]
struct SignedIds {
    key: hmac::Key,
}

impl SignedIds {
    fn of(identity: &ServerIdentity) -> Result<Self, ListenError> {
        Ok(Self { key: derive(identity, b"connection ids")? })
    }

    fn sign(&self, random: &[u8; ID_RANDOM_BYTES]) -> [u8; ID_SIGNATURE_BYTES] {
        let signature = hmac::sign(&self.key, random);
        let mut cut = [0; ID_SIGNATURE_BYTES];
        cut.copy_from_slice(&signature.as_ref()[..ID_SIGNATURE_BYTES]);
        cut
    }
}

impl ConnectionIdGenerator for SignedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut random = [0; ID_RANDOM_BYTES];
        rand::rng().fill_bytes(&mut random);
        ConnectionId::new(&[&random[..], &self.sign(&random)].concat())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let ours = id.split_first_chunk().is_some_and(|(random, signature)| self.sign(random) == signature);
        if ours { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        ID_RANDOM_BYTES + ID_SIGNATURE_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity;

    #[test]
    fn ids_are_known_to_whoever_has_the_same_key_and_to_nobody_else() {
        let [mine, other] = [(); 2].map(|()| {
            let dir = tempfile::tempdir().unwrap();
            identity::ensure(dir.path(), &[]).unwrap()
        });
        let (mut ids, again, other) =
            (SignedIds::of(&mine).unwrap(), SignedIds::of(&mine).unwrap(), SignedIds::of(&other).unwrap());
        for _ in 0..100 {
            let id = ids.generate_cid();
            assert_eq!(id.len(), ids.cid_len());
            assert!(again.validate(&id).is_ok());
            assert!(other.validate(&id).is_err());
            for at in 0..id.len() {
                let mut bytes = id.to_vec();
                bytes[at] ^= 1;
                assert!(again.validate(&ConnectionId::new(&bytes)).is_err(), "byte {at}");
            }
            assert!(again.validate(&ConnectionId::new(&id[..ID_RANDOM_BYTES])).is_err(), "cut");
            assert!(again.validate(&ConnectionId::new(&[])).is_err());
        }
    }
}
