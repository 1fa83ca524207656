//! The agreed log's group: openraft's types for it, its store, its state machine. The only module that knows openraft.

pub(crate) mod machine;
pub(crate) mod network;
mod runtime;
pub(crate) mod store;

use bytes::Bytes;
use openraft::{BasicNode, Membership};
use serde::{Deserialize, Serialize};

use crate::{
    apply::Outcome,
    disk::{
        frame::{EntryPlace, Kind},
        log_files::RawEntry,
    },
    refused::Refused,
};

/// A command as it travels: bytes that the group does not look into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Bytes);

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

/// What applying a proposal came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer(pub(crate) Result<Outcome, Refused>);

openraft::declare_raft_types!(
    /// The group's types. Leader ids are Raft's own: one leader a term.
    pub(crate) Types:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = runtime::Ambient,
);

pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Payload = openraft::EntryPayload<Proposal, u64, BasicNode>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type Group = openraft::Raft<Types, machine::Machine>;

pub(crate) fn place(id: &LogId) -> EntryPlace {
    EntryPlace { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id(place: EntryPlace) -> LogId {
    LogId { leader_id: place.term.into(), index: place.index }
}

/// An entry as the files take it.
pub(crate) fn to_raw(entry: Entry) -> std::io::Result<RawEntry> {
    let (kind, payload) = match entry.payload {
        Payload::Blank => (Kind::Blank, Bytes::new()),
        Payload::Normal(Proposal(bytes)) => (Kind::Normal, bytes),
        Payload::Membership(membership) => (Kind::Membership, serde_json::to_vec(&membership)?.into()),
    };
    Ok(RawEntry { place: place(&entry.log_id), kind, payload })
}

/// An entry as the files gave it.
pub(crate) fn from_raw(raw: RawEntry) -> std::io::Result<Entry> {
    let payload = match raw.kind {
        Kind::Blank | Kind::Committed => Payload::Blank,
        Kind::Normal => Payload::Normal(Proposal(raw.payload)),
        Kind::Membership => {
            let membership: Membership<u64, BasicNode> = serde_json::from_slice(&raw.payload)?;
            Payload::Membership(membership)
        }
    };
    Ok(Entry { log_id: log_id(raw.place), payload })
}
