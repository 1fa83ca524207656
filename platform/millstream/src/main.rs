//! The broker's binary: serve, and the operator's commands.
fn main() {}
