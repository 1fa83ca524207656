//! Sessions: one ordered stream of requests and answers, without I/O.
//!
//! Kafka's rule for a connection (here: a stream) is that answers come in the order of the requests, except that some
//! requests have none. A server may work on several at once; [`Session`] puts its answers in order and says when enough
//! is in flight. [`ClientSession`] is the other end: it numbers requests, matches answers and knows which versions the
//! broker speaks.

mod client;
mod server;

pub use client::{Answer, AnswerError, CallId, ClientSession, SendError, Sent, Versions};
pub use server::{Close, Incoming, Session, SessionLimits, Slot, Taken};
