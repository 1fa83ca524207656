//! How a call can fail, and whose fault it is.

use std::fmt;

use crate::{frame::OutputError, limits::MESSAGE_BYTES_MAX, text};

/// What a guest was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Being instantiated: data segments and the start function.
    Start,
    /// Answering `describe`.
    Describe,
    /// Taking its parameters in `init`.
    Init,
    /// Working on a frame.
    Call,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "starting",
            Self::Describe => "describing itself",
            Self::Init => "in init",
            Self::Call => "working on a frame",
        })
    }
}

/// What a guest means by a failure that it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCode {
    /// Its parameters are wrong (code 1).
    Config,
    /// It refuses one record (code 2).
    Record,
    /// It cannot go on (any other code).
    Stop(u32),
}

/// A failure that the guest itself reported. The instance stays usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub code: FailureCode,
    /// The index of the record within the call's frame that it is about; checked to be in the frame.
    pub at: Option<u32>,
    /// The guest's words: at most 1 KiB, control characters replaced.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: u32, at: Option<u32>, message: &str, count: u32) -> Self {
        let code = match code {
            1 => FailureCode::Config,
            2 => FailureCode::Record,
            other => FailureCode::Stop(other),
        };
        Self { code, at: at.filter(|at| *at < count), message: text::clean(message, MESSAGE_BYTES_MAX) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            FailureCode::Config => write!(f, "refuses its parameters")?,
            FailureCode::Record => write!(f, "refuses a record")?,
            FailureCode::Stop(code) => write!(f, "stops with code {code}")?,
        }
        if let Some(at) = self.at {
            write!(f, " (record {at} of the frame)")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Why a call gave no result. What it emitted is gone in every case.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The guest reported a failure.
    #[error("the module {0}")]
    Guest(Failure),
    /// The guest trapped; its instance is gone.
    #[error("the module trapped while {phase}: {reason}")]
    Trap {
        /// What it was doing.
        phase: Phase,
        /// What the engine says, and what the guest logged last as an error: at most 1 KiB, control characters replaced.
        reason: String,
    },
    /// The guest used up its fuel; its instance is gone.
    #[error("the module used up its budget of {fuel} units of fuel while {phase}")]
    OutOfFuel {
        /// What it was doing.
        phase: Phase,
        /// The budget.
        fuel: u64,
    },
    /// The guest asked for more memory or table elements than it may have; its instance is gone.
    #[error("the module asked for more memory than it may have while {phase}: {reason}")]
    OutOfMemory {
        /// What it was doing.
        phase: Phase,
        /// Which limit.
        reason: String,
    },
    /// What the guest emitted or answered cannot be believed.
    #[error("the module's output is refused: {0}")]
    Output(#[from] OutputError),
    /// Too many calls wait for an instance, or this one has waited too long. Nothing ran; trying again later may succeed.
    #[error("no instance is free for this module: {waiting} calls wait for one")]
    Exhausted {
        /// How many wait.
        waiting: u32,
    },
    /// The host failed, not the guest. Trying again may succeed.
    #[error("the module could not be run: {reason}")]
    Host {
        /// What failed.
        reason: String,
    },
}

/// Whose fault a failed call is, and so what may be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The guest's own report: its policy for errors applies.
    Guest,
    /// The guest's behaviour: a trap, a budget used up, an output not believed. A verdict on a record only if the call
    /// had one record and ran on a fresh instance.
    Behaviour,
    /// The host's: nothing is known about the record.
    Host,
}

impl CallError {
    /// A call that was ended because it took too long: that says something of the machine's load, and nothing of the guest.
    pub(crate) fn slow(limit: std::time::Duration) -> Self {
        Self::Host {
            reason: format!("it was not done within {limit:.1?}, which it has the fuel for: the machine is too busy"),
        }
    }

    /// A trap alone says little: `line` is what the guest logged last as an error, such as a panic's message.
    pub(crate) fn with_last_error(self, line: Option<String>) -> Self {
        match (self, line) {
            (Self::Trap { phase, reason }, Some(line)) => {
                Self::Trap { phase, reason: format!("{reason}; it last logged the error: {line}") }
            }
            (error, _) => error,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Guest(_) => Blame::Guest,
            Self::Trap { .. } | Self::OutOfFuel { .. } | Self::OutOfMemory { .. } | Self::Output(_) => Blame::Behaviour,
            Self::Exhausted { .. } | Self::Host { .. } => Blame::Host,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.blame() == Blame::Host
    }
}
