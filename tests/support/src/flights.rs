//! Real data: flights out of New York in 2013, as rows of JSON.

use std::{fs::File, io::Read, path::PathBuf};

use anyhow::Context;
use flate2::read::GzDecoder;

use crate::tree;

/// The rows kept in the repository, one JSON object each, in the order of the source.
///
/// # Errors
/// When the file is missing or damaged.
pub fn sample() -> anyhow::Result<Vec<String>> {
    let path = tree::root().join("platform/xtask/data/flights-sample.ndjson.gz");
    let mut text = String::new();
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    GzDecoder::new(file).read_to_string(&mut text)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// All 336,776 rows as gzipped CSV, where this machine has them: `$MILLSTREAM_FLIGHTS`, or `shared` beside the checkout.
#[must_use]
pub fn all() -> Option<PathBuf> {
    let given = std::env::var_os("MILLSTREAM_FLIGHTS").map(PathBuf::from);
    let beside = || tree::root().parent().map(|folder| folder.join("shared/data/flights.csv.gz"));
    given.or_else(beside).filter(|path| path.is_file())
}
