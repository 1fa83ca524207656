//! tests: bench
