//! Other peoples' Kafka clients; everything is in `tests/`, this file gives the crate a library to check.
