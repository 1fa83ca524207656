//! Kafka's messages and ours: codec, frames, error codes and the session, without I/O.
//!
//! - [`messages`] and [`extension`]: every message as a plain struct, declared once with its versions.
//! - [`ApiKey`], [`Request`], [`Response`]: the table of what is served, and any of its messages.
//! - [`decode_request`], [`encode_response`]: a frame (without its length prefix) to a request and back; the client's
//!   mirror is [`encode_request`], [`decode_response`].
//! - [`session`]: one ordered stream of requests and answers, on the server's side and on the client's.
//!
//! Nothing is copied that is long: record bytes read are slices of the frame, record bytes written are parts of their own.
//! A slice keeps its whole frame in memory for as long as it lives.

mod api;
pub mod codec;
mod error_code;
pub mod extension;
mod frame;
pub mod messages;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
pub mod session;
#[cfg(test)]
mod tests;

pub use api::{ApiKey, Call, Request, Response, api_versions};
pub use codec::{DecodeError, EncodeError};
pub use error_code::ErrorCode;
pub use frame::{RequestHeader, decode_request, decode_response, encode_request, encode_response};
pub use messages::fetch::RecordParts;
