//! Why a module is refused, and whether trying again may help.

use millstream_model::Digest;

use crate::{CallError, StoreError, compile::CompileError};

/// Why a module was refused. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No bytes.
    #[error("the module is empty")]
    Empty,
    /// More bytes than any module may have.
    #[error("the module has {bytes} bytes; at most {max} are allowed")]
    TooLarge {
        /// How many it has.
        bytes: usize,
        /// How many are allowed.
        max: usize,
    },
    /// Some other kind of file.
    #[error("this is {what}, not a WebAssembly component: {advice}")]
    NotComponent {
        /// What it looks like.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Not well-formed WebAssembly, or WebAssembly that uses what is switched off.
    #[error("the module is not valid (at byte {offset}): {reason}")]
    Invalid {
        /// Where.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// Legal, but more of something than is allowed.
    #[error("the module has {actual} {what}; at most {max} are allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many it has (at least).
        actual: u64,
        /// How many are allowed.
        max: u64,
    },
    /// It wants something that the broker does not give.
    #[error(
        "the module imports {name:?}, which the broker does not offer: modules get a log, metrics and a sink, and no \
             files, network, clock or randomness"
    )]
    UnknownImport {
        /// What it wants.
        name: String,
    },
    /// It uses a part of the contract that this version does not have.
    #[error("the module uses {name}, which is not built yet")]
    NotBuilt {
        /// Which part.
        name: String,
    },
    /// It imports or exports what its world does not have.
    #[error("the module {what} {name:?}, which is not part of a {world} module")]
    WrongWorld {
        /// `imports` or `exports`.
        what: &'static str,
        /// Which one.
        name: String,
        /// The world.
        world: &'static str,
    },
    /// It lacks an export.
    #[error("the module does not export {name}")]
    MissingExport {
        /// What is missing.
        name: &'static str,
    },
    /// It was made for another version of the contract.
    #[error("the module speaks {name}; this broker speaks version 0.1 of the contract")]
    ContractVersion {
        /// The name with its version.
        name: String,
    },
    /// A name of the contract, but not its type.
    #[error("the module does not fit the contract: {reason}")]
    WrongType {
        /// The engine's words.
        reason: String,
    },
    /// What arrived is not what was announced.
    #[error("the module's digest is {actual}, but {expected} was announced: it was damaged or exchanged on the way")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What arrived.
        actual: Digest,
    },
    /// It could not be compiled within bounds.
    #[error("the module could not be compiled: {0}")]
    Compile(#[from] CompileError),
    /// It does not start or cannot describe itself.
    #[error("the module does not work: {0}")]
    Describe(#[source] CallError),
    /// What it says of itself is not legal.
    #[error("the module's description is refused: {reason}")]
    Declaration {
        /// What is wrong.
        reason: String,
    },
    /// Too many modules are being uploaded, or this one has waited too long for its turn.
    #[error("{waiting} modules wait to be inspected and compiled; try again later")]
    Busy {
        /// How many.
        waiting: u32,
    },
    /// It could not be stored.
    #[error("the module could not be stored: {0}")]
    Store(#[from] StoreError),
}

impl Refused {
    /// Whether the broker was at fault, so that pushing the same module again may succeed.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Store(_) => true,
            Self::Describe(error) => error.is_retriable(),
            Self::Compile(error) => error.is_retriable(),
            _ => false,
        }
    }
}
