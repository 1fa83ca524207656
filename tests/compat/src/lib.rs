//! tests: compat
