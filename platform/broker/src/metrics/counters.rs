//! What is counted as requests and connections come and go: without a lock, and without memory for any of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_env::{Histogram, Listener};
use millstream_protocol::ApiKey;

use super::{ConnectionMetrics, RequestMetrics};

/// Of how long requests take: from what is answered from memory to what waits as long as its client likes.
static REQUEST_BOUNDS: [Duration; 16] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Requests, by what they ask.
pub(crate) struct Requests {
    by_api: Box<[OfApi]>,
    produce: Histogram,
    fetch: Histogram,
    others: Histogram,
}

#[derive(Default)]
struct OfApi {
    taken: AtomicU64,
    errors: AtomicU64,
}

impl Requests {
    pub(crate) fn new() -> Self {
        let times = || Histogram::new(&REQUEST_BOUNDS);
        Self {
            by_api: ApiKey::ALL.iter().map(|_| OfApi::default()).collect(),
            produce: times(),
            fetch: times(),
            others: times(),
        }
    }

    fn of(&self, api: ApiKey) -> &OfApi {
        // In the order of `ApiKey::ALL`.
        &self.by_api[api as usize]
    }

    /// One was read.
    pub(crate) fn taken(&self, api: ApiKey) {
        self.of(api).taken.fetch_add(1, Ordering::Relaxed);
    }

    /// It is answered, or known to need no answer, after so long. `error`: something of it was refused or has failed.
    pub(crate) fn answered(&self, api: ApiKey, after: Duration, error: bool) {
        if error {
            self.of(api).errors.fetch_add(1, Ordering::Relaxed);
        }
        let times = match api {
            ApiKey::Produce => &self.produce,
            ApiKey::Fetch => &self.fetch,
            // It lasts as long as its client likes.
            ApiKey::Subscribe => return,
            _ => &self.others,
        };
        times.record(after);
    }

    pub(super) fn metrics(&self) -> RequestMetrics {
        let by_api = ApiKey::ALL.iter().map(|api| {
            let OfApi { taken, errors } = self.of(*api);
            (api.name(), taken.load(Ordering::Relaxed), errors.load(Ordering::Relaxed))
        });
        RequestMetrics {
            by_api: by_api.collect(),
            produce: self.produce.buckets(),
            fetch: self.fetch.buckets(),
            others: self.others.buckets(),
        }
    }
}

/// A listener, and the connections that came through it.
pub(crate) struct Door {
    pub(crate) listener: Arc<dyn Listener>,
    accepted: AtomicU64,
    ended: AtomicU64,
}

/// A connection that stands.
pub(crate) struct Standing(Arc<Door>);

impl Door {
    pub(crate) fn new(listener: Arc<dyn Listener>) -> Arc<Self> {
        Arc::new(Self { listener, accepted: AtomicU64::new(0), ended: AtomicU64::new(0) })
    }

    /// Counts a connection, which stands until what is given is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Standing {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Standing(self.clone())
    }

    pub(super) fn metrics(&self) -> ConnectionMetrics {
        // In this order: what ends in between is not taken for more than there were.
        let ended = self.ended.load(Ordering::Relaxed);
        let accepted = self.accepted.load(Ordering::Relaxed);
        ConnectionMetrics {
            transport: self.listener.transport(),
            open: accepted.saturating_sub(ended),
            accepted,
            refused: self.listener.refused(),
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are counted by their place in the list.
    #[test]
    fn each_api_has_a_place_of_its_own() {
        for (at, api) in ApiKey::ALL.iter().enumerate() {
            assert_eq!(*api as usize, at, "{api}");
        }
    }
}
