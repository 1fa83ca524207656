//! The projection: the applied state as ordered keys in sled, rebuildable at any time.
//!
//! sled syncs by sync_file_range and leaks large values, so nothing rests on it: the projection is believed only if the log id and
//! the digest in it match the state that the log gave; else it is emptied and written again. One that does not open is moved
//! aside to `view.damaged` and made anew. It is a witness, though: the projection is written only of what is durable in the log, so
//! one that tells of a later entry than the log has shows that the log was cut short by something else than a crash. The
//! broker answers from the state in memory and never from here; what is here can be read through
//! [`Catalog::projected_entries`](crate::Catalog::projected_entries), and outside of the process while no broker runs.
//!
//! Keys are `cluster`, `topic-defaults`, `broker/ID`, `topic/NAME`, `view/NAME`, `module/NAME@VERSION` and `transform/NAME`, each followed by
//! a NUL and a four-byte piece number, because values stay under 64 KiB; the value is JSON. The key `=` says what the projection
//! is of. A thread of its own writes it, always the newest state; those in between may be skipped.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use futures::future::{Either, select};
use millstream_env::{Env, Task};
use millstream_model::Digest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{
    disk::frame::EntryPlace,
    raft::{self, machine::Applied},
    state::State,
};

/// Largest piece of a value, bytes. sled keeps what is larger than 128 KiB in files that it never reclaims.
const PIECE_BYTES_MAX: usize = 32 << 10;
const STAMP: &[u8] = b"=";
const CACHE_BYTES: u64 = 8 << 20;

/// What a projection is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) applied: Option<EntryPlace>,
    pub(crate) digest: Digest,
}

impl Stamp {
    fn of(applied: &Applied) -> Self {
        Self { applied: applied.id.as_ref().map(raft::place), digest: digest(&applied.state) }
    }
}

/// SHA-256 of a state's canonical bytes: equal states have equal digests, on every broker.
#[must_use]
pub fn digest(state: &State) -> Digest {
    // Writing into a hasher cannot fail, and every key of the state is text.
    let mut hasher = Hasher(Sha256::new());
    let _ = serde_json::to_writer(&mut hasher, state);
    Digest(hasher.0.finalize().into())
}

struct Hasher(Sha256);

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A handle on the projection.
#[derive(Clone)]
pub(crate) struct Projection {
    shared: Arc<Shared>,
}

/// A projection as it was found at the start.
pub(crate) struct Found {
    path: PathBuf,
    /// None if there can be none: it is done without then.
    db: Option<sled::Db>,
}

impl Found {
    /// Opens the projection of `path`, or makes it. Blocks.
    pub(crate) fn open(path: PathBuf) -> Self {
        let db = open(&path)
            .inspect_err(
                |reason| tracing::error!(reason, path = %path.display(), "no projection of the metadata: done without"),
            )
            .ok();
        Self { path, db }
    }

    /// Up to which entry of the log it was last written, if it says so.
    pub(crate) fn applied(&self) -> Option<EntryPlace> {
        let db = self.db.as_ref()?;
        catch_unwind(AssertUnwindSafe(|| stamp_in(db))).ok()?.ok()??.applied
    }
}

struct Shared {
    /// None once the projection was closed, or has failed: it is done without then.
    db: Mutex<Option<sled::Db>>,
    written: watch::Sender<Option<Stamp>>,
    closed: watch::Sender<bool>,
}

impl Projection {
    /// Starts the thread that keeps the projection up with `applied`.
    pub(crate) fn start(env: &Env, found: Found, applied: watch::Receiver<Applied>) -> (Self, Task) {
        let Found { path, db } = found;
        let shared =
            Arc::new(Shared { db: Mutex::new(db), written: watch::channel(None).0, closed: watch::channel(false).0 });
        let writer = Writer { path, shared: shared.clone() };
        let task = env.spawn.dedicated("catalog-projection", Box::pin(writer.run(applied)));
        (Self { shared }, task)
    }

    /// The entries whose keys begin with `prefix`, at most `limit`, whole values; none where there is no projection.
    pub(crate) fn entries(&self, prefix: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
        let Some(db) = self.shared.db.lock().clone() else { return Vec::new() };
        let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
        for (key, piece) in db.scan_prefix(prefix.as_bytes()).map_while(Result::ok) {
            let Some((name, _)) = split_key(&key) else { continue };
            let full = entries.len() == limit;
            match entries.last_mut() {
                Some((last, value)) if last == name => value.extend_from_slice(&piece),
                _ if full => break,
                _ => entries.push((name.to_owned(), piece.to_vec())),
            }
        }
        entries
    }

    /// Ends the thread once it has written the newest state.
    pub(crate) fn close(&self) {
        self.shared.closed.send_replace(true);
    }

    /// Follows what the projection has been written of.
    #[cfg(test)]
    pub(crate) fn written(&self) -> watch::Receiver<Option<Stamp>> {
        self.shared.written.subscribe()
    }
}

struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Writer {
    async fn run(self, mut applied: watch::Receiver<Applied>) {
        let mut before: Option<Arc<State>> = None;
        let mut closed = self.shared.closed.subscribe();
        loop {
            let now = applied.borrow_and_update().clone();
            let Some(db) = self.shared.db.lock().clone() else { break };
            let stamp = Stamp::of(&now);
            // sled asserts on what it does not expect to find; that must not be the broker's end.
            let written = catch_unwind(AssertUnwindSafe(|| bring_up(&db, before.as_deref(), &now.state, stamp)));
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.give_up(&error.to_string()),
                Err(_) => self.give_up("sled panicked"),
            }
            drop(db);
            before = Some(now.state);
            self.shared.written.send_replace(Some(stamp));
            let ended = closed.wait_for(|closed| *closed);
            let changed = applied.changed();
            // Changes first, so that the newest state is written before the end.
            match select(pin!(changed), pin!(ended)).await {
                Either::Left((Ok(()), _)) => {}
                Either::Left((Err(_), _)) | Either::Right(_) => break,
            }
        }
        if let Some(db) = self.shared.db.lock().take() {
            let _ = db.flush();
        }
    }

    fn give_up(&self, reason: &str) {
        tracing::error!(reason, path = %self.path.display(), "the projection of the metadata failed: done without until the next start");
        *self.shared.db.lock() = None;
    }
}

fn open(path: &Path) -> Result<sled::Db, String> {
    match try_open(path) {
        Ok(db) => Ok(db),
        Err(reason) => {
            let aside = path.with_extension("damaged");
            tracing::warn!(reason, aside = %aside.display(), "the projection of the metadata does not open: moved aside and made anew");
            // Whichever of the two it is, if it is there; what does not go is told of by the next step.
            let _ = std::fs::remove_dir_all(&aside).or_else(|_| std::fs::remove_file(&aside));
            std::fs::rename(path, &aside).map_err(|error| format!("cannot move {} aside: {error}", path.display()))?;
            try_open(path)
        }
    }
}

fn try_open(path: &Path) -> Result<sled::Db, String> {
    // sled would wait for whoever writes to a FIFO.
    if let Some(strange) = strange_in(path) {
        return Err(format!("{} is neither a file nor a directory", strange.display()));
    }
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    catch_unwind(AssertUnwindSafe(|| config.open()))
        .map_err(|_| String::from("sled panicked"))?
        .map_err(|error| error.to_string())
}

/// Something in the directory that is neither a file nor a directory. What cannot be looked at is left for sled to tell of.
fn strange_in(path: &Path) -> Option<PathBuf> {
    let mut paths = std::fs::read_dir(path).ok()?.flatten().map(|entry| entry.path());
    paths.find(|path| path.metadata().is_ok_and(|about| !about.is_file() && !about.is_dir()))
}

fn stamp_in(db: &sled::Db) -> sled::Result<Option<Stamp>> {
    Ok(db.get(STAMP)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Makes the projection one of `now`. `before` is what it is known to be of; none right after opening.
fn bring_up(db: &sled::Db, before: Option<&State>, now: &State, stamp: Stamp) -> sled::Result<()> {
    let empty = State::default();
    let before = match before {
        Some(before) => before,
        None => {
            if stamp_in(db)? == Some(stamp) {
                return Ok(());
            }
            db.clear()?;
            &empty
        }
    };
    let mut batch = sled::Batch::default();
    if before.cluster_id != now.cluster_id {
        put(db, &mut batch, "cluster", &now.cluster_id)?;
    }
    if before.topic_defaults != now.topic_defaults {
        put(db, &mut batch, "topic-defaults", &now.topic_defaults)?;
    }
    difference(db, &mut batch, "broker", &before.brokers, &now.brokers, ToString::to_string)?;
    difference(db, &mut batch, "topic", &before.topics, &now.topics, |id| name(id, before, now))?;
    difference(db, &mut batch, "view", &before.views, &now.views, |id| {
        now.views.get(id).or(before.views.get(id)).map_or_else(String::new, |view| view.name.to_string())
    })?;
    difference(db, &mut batch, "module", &before.modules, &now.modules, ToString::to_string)?;
    difference(db, &mut batch, "transform", &before.transforms, &now.transforms, ToString::to_string)?;
    batch.insert(STAMP, serde_json::to_vec(&stamp).unwrap_or_default());
    db.apply_batch(batch)?;
    db.flush()?;
    Ok(())
}

fn name(id: &millstream_model::TopicId, before: &State, now: &State) -> String {
    now.topics.get(id).or(before.topics.get(id)).map_or_else(String::new, |topic| topic.name.to_string())
}

/// Puts what is new or other, removes what is gone. Entries that are one and the same are not looked into. What is gone goes
/// first: a topic that was made again under its name has another id.
fn difference<K: Ord, V: Serialize>(
    db: &sled::Db,
    batch: &mut sled::Batch,
    kind: &str,
    before: &BTreeMap<K, Arc<V>>,
    now: &BTreeMap<K, Arc<V>>,
    name: impl Fn(&K) -> String,
) -> sled::Result<()> {
    for key in before.keys().filter(|key| !now.contains_key(key)) {
        remove(db, batch, &format!("{kind}/{}", name(key)), 0)?;
    }
    for (key, value) in now {
        if !before.get(key).is_some_and(|before| Arc::ptr_eq(before, value)) {
            put(db, batch, &format!("{kind}/{}", name(key)), value)?;
        }
    }
    Ok(())
}

fn put<V: Serialize>(db: &sled::Db, batch: &mut sled::Batch, name: &str, value: &V) -> sled::Result<()> {
    let json = serde_json::to_vec(value).map_err(|error| sled::Error::Unsupported(error.to_string()))?;
    let mut pieces = 0;
    for piece in json.chunks(PIECE_BYTES_MAX) {
        batch.insert(key(name, pieces), piece);
        pieces += 1;
    }
    remove(db, batch, name, pieces)
}

/// Removes the pieces of an entry from number `from` on.
fn remove(db: &sled::Db, batch: &mut sled::Batch, name: &str, from: u32) -> sled::Result<()> {
    for entry in db.range(key(name, from)..=key(name, u32::MAX)) {
        batch.remove(entry?.0);
    }
    Ok(())
}

fn key(name: &str, piece: u32) -> Vec<u8> {
    [name.as_bytes(), &[0], &piece.to_be_bytes()].concat()
}

fn split_key(key: &[u8]) -> Option<(&str, u32)> {
    let (name, piece) = key.split_at_checked(key.len().checked_sub(5)?)?;
    let piece = u32::from_be_bytes(piece.get(1..)?.try_into().ok()?);
    Some((std::str::from_utf8(name).ok()?, piece))
}
