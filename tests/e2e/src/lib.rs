//! tests: e2e
