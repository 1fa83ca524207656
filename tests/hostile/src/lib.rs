//! tests: hostile
