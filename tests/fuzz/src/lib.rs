//! Fuzz targets: what is done with any bytes from outside, and what must hold whatever they are.
//!
//! A target takes an input, does with it what a broker or a client would, and panics where something that must hold does not.
//! Most inputs are frames or batches as they stand; where a sequence of steps is tried, the input says which. `cargo xtask fuzz`
//! has libFuzzer look for inputs; `tests/seeds.rs` tries those that it begins with.

#![expect(clippy::expect_used, reason = "a target panics where something is wrong: that is its answer")]

mod choices;
mod memory;
mod targets;

// The transport's frame codec is compiled in from its own source: all that is around it there is QUIC and TLS, which would take most of
// the build and which no target calls. It looks for these names at its crate's top.
#[path = "../../../platform/transport/src/frame/mod.rs"]
#[allow(dead_code, unused_imports, reason = "of the codec, what reads is used")]
mod codec;
#[path = "../../../platform/transport/src/error.rs"]
#[allow(dead_code, unreachable_pub, reason = "of the errors, those of frames are used")]
mod error;
#[path = "../../../platform/transport/src/limits.rs"]
#[allow(dead_code, unreachable_pub, reason = "of the limits, those of frames are used")]
mod limits;

pub(crate) use error::FrameError;
pub(crate) use limits::Limits;

/// One thing that is tried with any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, as `cargo xtask fuzz --target` takes it.
    pub name: &'static str,
    /// Tries one input. Panics where something that must hold does not.
    pub run: fn(&[u8]),
    /// What to begin with: the same every time, with something of everything.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target { name: "frame", run: targets::frame::run, seeds: targets::frame::seeds },
    Target { name: "request", run: targets::request::run, seeds: targets::request::seeds },
    Target { name: "batch", run: targets::batch::run, seeds: targets::batch::seeds },
    Target { name: "session", run: targets::session::run, seeds: targets::session::seeds },
    Target { name: "response", run: targets::response::run, seeds: targets::response::seeds },
];
