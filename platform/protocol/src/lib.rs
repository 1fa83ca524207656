//! Kafka's messages and ours: codec, frames, error codes and the session, without I/O.
