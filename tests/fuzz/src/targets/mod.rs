//! The targets, one a file.

pub(crate) mod batch;
pub(crate) mod frame;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod session;

use millstream_protocol::{ApiKey, sample::SampleRng};

/// Longer ones are not begun with: short inputs are tried more often, and these have all there is.
const SEED_BYTES_MAX: usize = 2000;
/// Most that a message may take once it is decoded, for each byte of its frame. What takes most are arrays of small structs.
const DECODED_PER_BYTE: usize = 120;
/// What a message may take besides.
const DECODED_BYTES: usize = 4 << 10;

/// What decoding a frame of so many bytes may hold.
fn decoded_bytes_max(frame: usize) -> usize {
    DECODED_BYTES + DECODED_PER_BYTE * frame
}

/// Every api in every version that is served, with a few seeds for each.
fn samples() -> impl Iterator<Item = (ApiKey, i16, SampleRng)> {
    let versions = |api: &'static ApiKey| api.versions().map(move |version| (*api, version));
    ApiKey::ALL
        .iter()
        .flat_map(versions)
        .flat_map(|(api, version)| (0..3).map(move |seed| (api, version, SampleRng(seed))))
}

/// Sequences of choices to begin with.
fn random_choices(count: usize, bytes_max: usize) -> Vec<Vec<u8>> {
    let mut rng = SampleRng(0);
    (0..count)
        .map(|_| {
            let length = rng.below(bytes_max) + 1;
            (0..length).map(|_| rng.next() as u8).collect()
        })
        .collect()
}
