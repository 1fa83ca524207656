//! How a module says that it cannot go on.

use std::fmt::{self, Display};

/// Why a module refused its parameters or a record, in words for the operator who reads it.
///
/// `?` turns any error into one: a failure of the parameters inside `init`, of the record at hand elsewhere. As with
/// `anyhow::Error`, that is why this type is not itself a [`std::error::Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Decided by where it is returned: [`Kind::Config`] from `init`, [`Kind::Record`] from anywhere else.
    Unsaid,
    Config,
    Record,
    Stop,
}

impl Failure {
    /// A failure whose meaning follows from where it is returned: the parameters' fault in `init`, else the record's.
    pub fn new(message: impl Display) -> Self {
        Self { kind: Kind::Unsaid, message: message.to_string() }
    }

    /// The parameters cannot be worked with.
    pub fn config(message: impl Display) -> Self {
        Self { kind: Kind::Config, message: message.to_string() }
    }

    /// This record is refused; the deployment's error policy decides what becomes of it.
    pub fn record(message: impl Display) -> Self {
        Self { kind: Kind::Record, message: message.to_string() }
    }

    /// Nothing sensible can be done with any record: stop, whatever the error policy says.
    pub fn stop(message: impl Display) -> Self {
        Self { kind: Kind::Stop, message: message.to_string() }
    }

    /// What is said to the operator.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The contract's number when returned from `init`: 1 the parameters' fault, 3 stop.
    pub(crate) fn code_in_init(&self) -> u32 {
        match self.kind {
            Kind::Unsaid | Kind::Config | Kind::Record => 1,
            Kind::Stop => 3,
        }
    }

    /// The contract's number when returned for a record: 1 the parameters' fault, 2 the record's, 3 stop.
    pub(crate) fn code_in_call(&self) -> u32 {
        match self.kind {
            Kind::Unsaid | Kind::Record => 2,
            Kind::Config => 1,
            Kind::Stop => 3,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
