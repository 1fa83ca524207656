//! What a module can be used as, and what it must be shown.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a module can be used as; found from what it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    /// Chooses records' partitions (it exports `assigner`).
    Partitioner,
    /// Chooses which records of a view are seen (`selector`).
    Filter,
    /// Turns records into records (`processor`): for views if one to one, for transforms always.
    Mapper,
    /// A processor with state and timers. Not built: refused.
    Transform,
}

impl ModuleKind {
    /// The kind as commands, messages and the contract write it: `partitioner`, `filter`, `mapper` or `transform`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Partitioner => "partitioner",
            Self::Filter => "filter",
            Self::Mapper => "mapper",
            Self::Transform => "transform",
        }
    }
}

impl fmt::Display for ModuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which parts of a record a partitioner must be shown. Keys and timestamps are always shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Values.
    pub values: bool,
    /// Headers.
    pub headers: bool,
}

impl Needs {
    /// What is needed, in the words of the contract's `needs` declarations (`wit/millstream-ext.wit`).
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [("value", self.values), ("headers", self.headers)]
            .into_iter()
            .filter(|(_, needed)| *needed)
            .map(|(name, _)| name)
    }
}
