//! The example modules, built for Wasm once per run of the tests.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, anyhow, ensure};

use crate::tree;

/// The component of one guest example, such as `partition-by-field`.
///
/// Taken from the folder that `$MILLSTREAM_GUESTS` names, which `cargo xtask test` sets; without it the guests are built now.
///
/// # Errors
/// When they do not build, or there is no such example.
pub fn component(name: &str) -> anyhow::Result<PathBuf> {
    let path = folder()?.join(format!("{name}.wasm"));
    ensure!(path.is_file(), "no such guest: {}", path.display());
    Ok(path)
}

fn folder() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(folder) = std::env::var_os("MILLSTREAM_GUESTS") {
        return Ok(folder.into());
    }
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(|error| anyhow!("{error}"))
}

fn build() -> anyhow::Result<PathBuf> {
    let output = Command::new(tree::cargo()).current_dir(tree::root()).args(["xtask", "guests"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo xtask guests ended with {}: {said}", output.status);
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().last().context("cargo xtask guests printed no folder")?.into())
}
