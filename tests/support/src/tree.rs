//! The source tree as the tests see it: where it is, which files it has, what cargo says of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The top of the checkout.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Every file of the project, as paths from the top, sorted: what git tracks or would track, so that build products
/// and whatever lies beside them are left out.
///
/// # Errors
/// When git cannot be run or this is no checkout.
pub fn files() -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = run(Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root()))?
    .split('\0')
    .filter(|name| !name.is_empty())
    .map(PathBuf::from)
    // A file that was deleted but not yet committed is still listed.
    .filter(|path| root().join(path).is_file())
    .collect();
    files.sort();
    files.dedup();
    ensure!(!files.is_empty(), "git lists no files under {}", root().display());
    Ok(files)
}

/// The text of one file of the project, `path` being from the top.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn text(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = root().join(path);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// What `cargo metadata` says of the workspace whose manifest is at `manifest` (a path from the top): its own packages
/// with the dependencies that they name, nothing resolved.
///
/// # Errors
/// When cargo refuses the manifest.
pub fn metadata(manifest: impl AsRef<Path>) -> anyhow::Result<Value> {
    let text = run(Command::new(cargo())
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(root().join(manifest)))?;
    Ok(serde_json::from_str(&text)?)
}

/// The cargo to call: the one that runs the tests, when one does.
#[must_use]
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
