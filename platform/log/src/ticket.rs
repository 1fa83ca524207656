//! Tickets: what an appender waits on until its append is durable.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use millstream_env::BoxFuture;
use tokio::sync::{oneshot, watch};

use crate::CommitError;

/// Resolves once what it stands for is durable (after the journal's fdatasync; at once for logs in durability
/// `replicated`). Dropping it changes nothing: the append stands.
#[must_use = "an append is durable only once its ticket resolves"]
pub struct Ticket(State);

enum State {
    Done,
    /// The frame is this ticket's own.
    Waiting(oneshot::Receiver<Result<(), CommitError>>),
    /// Another ticket's frame is waited for, by watching how far the log is: rare, so it may cost more.
    Watching(BoxFuture<'static, Result<(), CommitError>>),
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

    /// A ticket that resolves when whoever has the other end of `done` says so, or nothing more becomes durable.
    pub(crate) fn settled(
        done: oneshot::Receiver<Result<(), CommitError>>,
        mut ended: watch::Receiver<Option<CommitError>>,
    ) -> Self {
        Self::watching(async move {
            tokio::select! {
                biased;
                done = done => done.unwrap_or(Err(CommitError::Stopped)),
                why = ended.wait_for(Option::is_some) => {
                    Err(why.ok().and_then(|why| why.clone()).unwrap_or(CommitError::Stopped))
                }
            }
        })
    }

    /// A ticket that resolves when `durable` does.
    pub(crate) fn watching(durable: impl Future<Output = Result<(), CommitError>> + Send + 'static) -> Self {
        Self(State::Watching(Box::pin(durable)))
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
            State::Watching(durable) => durable.as_mut().poll(context),
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self.0, State::Done) { "Ticket(done)" } else { "Ticket(waiting)" })
    }
}
