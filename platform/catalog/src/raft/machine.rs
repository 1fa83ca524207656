//! The group's state machine: applies what is committed, publishes the state, makes and takes snapshots.

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use millstream_env::Lack;
use openraft::{
    AsyncRuntime, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::SnapshotOf,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Answer, LogId, Payload, Proposal, SnapshotMeta, StoredMembership, Types, place,
    runtime::Ambient,
    store::{Found, SNAPSHOT, Store},
};
use crate::{
    apply::{Outcome, apply},
    command::Command,
    disk::FileError,
    state::State,
};

/// When a snapshot is tried again that there was no room for.
const SNAPSHOT_AGAIN: Duration = Duration::from_secs(30);

/// The state with the place in the log that it is of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) state: Arc<State>,
    pub(crate) id: Option<LogId>,
}

/// A snapshot's body: JSON in a checked file.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct SnapshotBody {
    meta: SnapshotMeta,
    state: Arc<State>,
}

impl SnapshotBody {
    /// The last snapshot of those files, or of nothing.
    pub(crate) fn of(found: &mut Found, dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(SNAPSHOT);
        let snapshot = match found.take_snapshot() {
            Some(body) => {
                decode(&body).map_err(|error| FileError::damaged(&path, format!("it cannot be read: {error}")))?
            }
            None => Self::default(),
        };
        // What was purged is nowhere else.
        let applied = snapshot.meta.last_log_id.as_ref().map(place);
        if let Some(purged) = found.purged()
            && applied.is_none_or(|applied| applied.index < purged.index)
        {
            let what = format!("it is missing or old, and the log begins behind entry {}", purged.index);
            return Err(FileError::damaged(&path, what));
        }
        Ok(snapshot)
    }
}

/// The state machine.
pub(crate) struct Machine {
    store: Store,
    applied: Applied,
    membership: StoredMembership,
    published: watch::Sender<Applied>,
}

impl Machine {
    /// The state machine as of a snapshot. openraft applies what is committed behind it.
    pub(crate) fn new(store: Store, published: watch::Sender<Applied>, snapshot: SnapshotBody) -> Self {
        let mut machine =
            Self { store, applied: Applied::default(), membership: StoredMembership::default(), published };
        machine.take(snapshot.meta, snapshot.state);
        machine
    }

    fn take(&mut self, meta: SnapshotMeta, state: Arc<State>) {
        self.applied = Applied { state, id: meta.last_log_id };
        self.membership = meta.last_membership;
        self.published.send_replace(self.applied.clone());
    }

    fn apply_one(&mut self, index: u64, payload: Payload, id: LogId) -> io::Result<Answer> {
        Ok(match payload {
            Payload::Blank => Answer(Ok(Outcome::Done)),
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                Answer(Ok(Outcome::Done))
            }
            Payload::Normal(Proposal(bytes)) => {
                let command = Command::decode(&bytes).map_err(|error| {
                    let text = format!("entry {index} of the agreed log: {error}");
                    self.store.fail(text.clone());
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                // Copies the state if it is published; entries are behind pointers.
                Answer(apply(Arc::make_mut(&mut self.applied.state), index, command))
            }
        })
    }
}

fn decode(body: &[u8]) -> serde_json::Result<SnapshotBody> {
    serde_json::from_slice(body)
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.id, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut result = Ok(());
        while let Some(next) = entries.next().await {
            let answered = next.and_then(|(entry, responder)| {
                let answer = self.apply_one(entry.log_id.index, entry.payload, entry.log_id)?;
                self.applied.id = Some(entry.log_id);
                answers.extend(responder.map(|responder| (responder, answer)));
                Ok(())
            });
            if let Err(error) = answered {
                result = Err(error);
                break;
            }
        }
        // Published first: whoever is answered sees what was answered.
        self.published.send_replace(self.applied.clone());
        for (responder, answer) in answers {
            responder.send(answer);
        }
        result
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone(), applied: self.applied.clone(), membership: self.membership.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        let body = decode(&snapshot)?;
        self.store.write_snapshot(snapshot).await?;
        self.take(SnapshotMeta { last_log_id: meta.last_log_id, ..body.meta }, body.state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, Bytes>>> {
        let Some(body) = self.store.read_snapshot().await? else { return Ok(None) };
        let body = Bytes::from(body);
        let SnapshotBody { meta, .. } = decode(&body)?;
        Ok(Some(openraft::Snapshot { meta, snapshot: body }))
    }
}

/// Makes one snapshot, of the state as it was when it was asked for.
pub(crate) struct Builder {
    store: Store,
    applied: Applied,
    membership: StoredMembership,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, Bytes>> {
        let meta = SnapshotMeta { last_log_id: self.applied.id, last_membership: self.membership.clone() };
        let body = SnapshotBody { meta: meta.clone(), state: self.applied.state.clone() };
        let bytes = Bytes::from(serde_json::to_vec(&body)?);
        // Durable before it is reported, and so before anything that it replaces is purged.
        let mut told = false;
        loop {
            match self.store.write_snapshot(bytes.clone()).await {
                // The log only grows meanwhile: by deletions, while the disk is full.
                Err(error) if error.lack() == Some(Lack::Room) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "no snapshot of the metadata can be made for now; it is tried on");
                    }
                    Ambient::sleep(SNAPSHOT_AGAIN).await;
                }
                written => break written?,
            }
        }
        Ok(openraft::Snapshot { meta, snapshot: bytes })
    }
}
