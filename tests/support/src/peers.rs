//! Other peoples' clients, run as programs: kcat and kafka-python.

use std::{path::PathBuf, process::Command};

use anyhow::Context;

use crate::{
    cli::{self, Finished},
    tree,
};

/// Runs kcat with `words` and `input` on its stdin.
///
/// # Errors
/// When it is not installed (`cargo xtask test` installs it), or cannot be run to its end.
pub fn kcat(words: &[&str], input: &[u8]) -> anyhow::Result<Finished> {
    cli::run(Command::new("kcat").args(words), input)
        .context("kcat, a Debian package that `cargo xtask test` installs, is needed")
}

/// Runs a Python program, a path from the top of the repository, that may import kafka-python.
///
/// # Errors
/// When there is no Python, or it cannot be run to its end.
pub fn python(script: &str, words: &[&str], input: &[u8]) -> anyhow::Result<Finished> {
    let python = std::env::var_os("MILLSTREAM_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    cli::run(Command::new(python).arg("-u").arg(tree::root().join(script)).args(words), input)
        .context("a Python with kafka-python, which `cargo xtask test` installs, is needed")
}
