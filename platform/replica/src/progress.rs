//! How far one replica is known to have come.

use millstream_model::{Durability, Offset};

/// Ends of a log, exclusive: `flushed` <= `appended`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is in the log.
    pub appended: Offset,
    /// What survives a power cut.
    pub flushed: Offset,
}

impl Progress {
    /// The end that the rules read (rule 2).
    #[must_use]
    pub fn counted(self, durability: Durability) -> Offset {
        match durability {
            Durability::Fsync => self.flushed,
            Durability::Replicated => self.appended,
        }
    }

    /// Takes what is further on of the two, in each.
    pub(crate) fn raise(&mut self, to: Self) {
        self.appended = self.appended.max(to.appended).max(to.flushed);
        self.flushed = self.flushed.max(to.flushed);
    }
}
