//! What more than one handler reads off the wire or puts onto it: names, modules, parameters, times to wait.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use millstream_model::{ModuleRef, TopicName};
use millstream_protocol::{ErrorCode, extension::Pair};

use crate::errors::WireError;

/// The longest that a request waits, whatever its client allows: it holds a place that others may need.
pub(super) const CLIENT_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a client allows its request to wait, milliseconds off the wire.
pub(super) fn client_wait(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0)).min(CLIENT_WAIT_MAX)
}

/// How long a client waits for a change to be made: as [`client_wait`], and as long as anybody may where it does not say. (Clients that
/// send 0 ask Kafka's brokers not to wait, and are told of a time-out whatever becomes of the change.)
pub(super) fn change_wait(ms: i32) -> Duration {
    if ms > 0 { client_wait(ms) } else { CLIENT_WAIT_MAX }
}

/// A topic's or view's name off the wire.
pub(super) fn name(text: &str) -> Result<TopicName, WireError> {
    TopicName::new(text).map_err(|error| WireError::new(ErrorCode::InvalidName, error))
}

/// A module off the wire.
pub(super) fn module_ref(text: &str) -> Result<ModuleRef, WireError> {
    text.parse().map_err(|error| WireError::new(ErrorCode::InvalidName, error))
}

/// Parameters off the wire: each name once.
pub(super) fn params(pairs: Vec<Pair>) -> Result<BTreeMap<String, String>, WireError> {
    let mut params = BTreeMap::new();
    for Pair { name, value } in pairs {
        if params.contains_key(&name) {
            return Err(WireError::new(ErrorCode::InvalidParameter, format!("parameter {name:?} is given twice")));
        }
        params.insert(name, value);
    }
    Ok(params)
}

/// Parameters onto the wire.
pub(super) fn pairs(params: &BTreeMap<String, String>) -> Vec<Pair> {
    params.iter().map(|(name, value)| Pair { name: name.clone(), value: value.clone() }).collect()
}

/// How often each is named: as in Kafka's brokers, what is named twice is a mistake, and nothing is done to it. It is answered once (which
/// Kafka's do not do for settings): whoever goes over what was asked for takes each out as it is met.
pub(super) fn times_named<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, usize> {
    let mut times = HashMap::new();
    for key in keys {
        *times.entry(key).or_default() += 1;
    }
    times
}
