//! A request's turn on its stream: who may gather a large answer, and who need not wait any longer.
//!
//! Answers leave in the order of the requests, so an answer that is gathered before those in front of it only takes
//! memory. Whoever gathers much waits for its turn: all earlier requests are answered, and what they were answered with
//! has left.

use millstream_protocol::session::Slot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catch_up::ReadingConnection;

/// Whose turn it is, and how many bytes of answers a subscription may send then.
type Now = (Option<Slot>, u64);

/// The stream's end: says whose turn it is.
pub(crate) struct Turns {
    now: watch::Sender<Now>,
    hurry: CancellationToken,
    reading: ReadingConnection,
}

/// A request's end.
pub(crate) struct Turn {
    slot: Slot,
    now: watch::Receiver<Now>,
    hurry: CancellationToken,
    reading: ReadingConnection,
}

impl Turns {
    /// `hurry`: cancelled when no request of the stream should wait for anything that has not come yet.
    /// `reading`: the stream's connection.
    pub(crate) fn new(hurry: CancellationToken, reading: ReadingConnection) -> Self {
        Self { now: watch::Sender::new((None, 0)), hurry, reading }
    }

    /// The turn of one request, for its handler.
    pub(crate) fn of(&self, slot: Slot) -> Turn {
        let (now, hurry, reading) = (self.now.subscribe(), self.hurry.clone(), self.reading.clone());
        Turn { slot, now, hurry, reading }
    }

    /// No request of the stream waits for anything that has not come yet, from now on.
    pub(crate) fn hurry(&self) {
        self.hurry.cancel();
    }

    /// It is this request's turn, or nobody's. `credit_bytes`: of the stream's subscription.
    pub(crate) fn give(&self, slot: Option<Slot>, credit_bytes: u64) {
        let given = (slot, credit_bytes);
        self.now.send_if_modified(|now| std::mem::replace(now, given) != given);
    }
}

impl Turn {
    /// Resolves when it is this request's turn.
    pub(crate) async fn come(&mut self) {
        let slot = self.slot;
        // The stream has ended when nobody gives turns any more, and its requests end with it.
        let _ = self.now.wait_for(|(now, _)| *now == Some(slot)).await;
    }

    /// Resolves when it is this subscription's turn and it may send something, with how many bytes.
    pub(crate) async fn come_with_credit(&mut self) -> u64 {
        let slot = self.slot;
        let now = self.now.wait_for(|(now, credit_bytes)| *now == Some(slot) && *credit_bytes > 0).await;
        let Some(credit_bytes) = now.ok().map(|now| now.1) else {
            // As above.
            return std::future::pending().await;
        };
        credit_bytes
    }

    /// Who reads, where it is about old records.
    pub(crate) fn reading(&self) -> &ReadingConnection {
        &self.reading
    }

    /// Resolves when nobody will wait for what this request waits for: its peer sends no more, or the broker stops.
    pub(crate) fn hurried(&self) -> impl Future<Output = ()> + Send + use<> {
        self.hurry.clone().cancelled_owned()
    }
}
