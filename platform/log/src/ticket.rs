//! Tickets: what an appender waits on until its append is durable.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::CommitError;

/// Resolves once what it stands for is durable (after the journal's fdatasync; at once for logs in durability
/// `replicated`). Dropping it changes nothing: the append stands.
#[derive(Debug)]
#[must_use = "an append is durable only once its ticket resolves"]
pub struct Ticket(State);

#[derive(Debug)]
enum State {
    Done,
    Waiting(oneshot::Receiver<Result<(), CommitError>>),
}

/// The commit loop's end of a ticket.
pub(crate) type Resolve = oneshot::Sender<Result<(), CommitError>>;

impl Ticket {
    /// A ticket that is resolved already.
    pub fn done() -> Self {
        Self(State::Done)
    }

    pub(crate) fn new() -> (Resolve, Self) {
        let (resolve, waiting) = oneshot::channel();
        (resolve, Self(State::Waiting(waiting)))
    }
}

impl Future for Ticket {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Done => Poll::Ready(Ok(())),
            State::Waiting(waiting) => {
                Pin::new(waiting).poll(context).map(|outcome| outcome.unwrap_or(Err(CommitError::Stopped)))
            }
        }
    }
}
