//! The replication rules of one partition, without I/O.
//!
//! [`Replica`] is one broker's copy of one partition as a state machine: `handle_*` take what happened (the agreed
//! configuration changed, records were appended or flushed, a follower acknowledged), getters answer what may be served,
//! and [`Replica::poll_effect`] says what has to be told to others. No clock, no I/O, no randomness.
//!
//! # The rules it keeps
//!
//! 1. **High watermark**: the minimum over the *maximal* ISR (agreed and proposed), and only while |ISR| >=
//!    `min.insync.replicas`. It never goes back.
//! 2. Under durability `fsync` every rule on offsets reads *flushed*, the leader's own end included; under `replicated`,
//!    *appended*.
//! 3. Answers that depend on the high watermark wait until it has reached the start of the leader's epoch
//!    ([`Replica::answers_reads`]): before that a new leader does not know what its predecessor had committed.
//! 4. An acknowledgement counts only in the epoch in which it was made.
//! 5. To join the ISR a follower needs an offset at or past the high watermark and the epoch's start, and an
//!    acknowledgement in this epoch ([`Replica::may_join`]).
//! 6. **acks** ([`Acks`]): `all` is answered at the high watermark, `1` at the leader's own end that rule 2 names, `0` never.
//! 7. Truncating below one's own high watermark fails the replica ([`HandleError::TruncatedBelowHighWatermark`]).
//!
//! Leaders are chosen elsewhere: the catalog's apply.

mod acks;
mod progress;
mod replica;

pub use acks::{Acks, AcksError, AppendRefused};
pub use replica::{Effect, HandleError, Leadership, Progress, Replica, ReplicaOptions, Role};
