//! The program as its users meet it; everything is in `tests/`, this file gives the crate a library to check.
