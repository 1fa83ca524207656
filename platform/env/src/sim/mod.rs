//! A simulated world: one thread, one seed, faults on request.
//!
//! - [`SimDisk`]: files in memory, with crashes that lose what was not synced.
//! - [`SimRng`]: random numbers from a seed.

mod disk;
mod rng;

pub use disk::{DiskCounts, DiskOperation, Fault, PAGE_BYTES, SECTOR_BYTES, SimDisk};
pub use rng::SimRng;
