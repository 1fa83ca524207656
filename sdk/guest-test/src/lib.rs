//! Runs a guest in the real engine, without a broker.
