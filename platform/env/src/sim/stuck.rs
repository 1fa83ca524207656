//! Why a simulated world does not get on.

use std::time::Duration;

/// What [`super::World::try_run_until`] waits for does not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// Nothing can ever run again: everybody waits, and nobody for a timer.
    #[error("seed {seed}: nothing can run; waiting: [{}]", waiting.join(", "))]
    Deadlock {
        /// The world's.
        seed: u64,
        /// The names of the tasks that have not ended, oldest first.
        waiting: Vec<&'static str>,
    },
    /// The virtual time that one run may take is over ([`super::World::set_time_limit`]).
    #[error("seed {seed}: out of time after {limit:?}; waiting: [{}]", waiting.join(", "))]
    OutOfTime {
        /// The world's.
        seed: u64,
        /// How long the run might take.
        limit: Duration,
        /// As above.
        waiting: Vec<&'static str>,
    },
}
