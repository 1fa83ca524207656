//! What a handler gives back for its stream.

use millstream_env::BoxFuture;
use millstream_protocol::Response;

/// What becomes of a request.
pub(crate) enum Reply {
    /// This answer.
    Answer(Response),
    /// This answer, and what comes of the rest: a subscription's.
    More(Response, BoxFuture<'static, Reply>),
    /// It asked for no answer.
    Nothing,
    /// It asked for no answer and something went wrong, or nothing can be said about what it asked for: as in Kafka, the end of
    /// the stream says so. Why, for the log.
    Close(String),
}
