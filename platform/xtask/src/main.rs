//! The project's chores: guests, quickstart, test, bench, tidy.
fn main() {}
