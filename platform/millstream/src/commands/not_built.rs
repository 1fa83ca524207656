//! Commands of the contract that this version does not have: named as such, never taken for a typing error.

use std::ffi::OsString;

use clap::Args;

use crate::failure::NotBuilt;

/// Whatever follows.
#[derive(Clone, Debug, Args)]
pub(crate) struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// `instead` says what can be done today.
pub(crate) fn refuse(command: &str, instead: &'static str) -> anyhow::Result<()> {
    Err(NotBuilt::new(format!("`millstream {command}`"), instead).into())
}
