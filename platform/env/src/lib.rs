//! The world as traits: clock, randomness, disk, network and tasks, each with a real and a simulated implementation.
//!
//! Engines and the broker reach the world only through these traits, so that a whole broker can run inside one thread from
//! one seed ([`sim`]); what does not is real by nature (sockets, the compiler's process) or rebuildable (sled). The traits
//! are object-safe: an engine holds `Arc<dyn Disk>` and knows no more.
//!
//! - [`Clock`]: monotonic and wall time, and sleeping.
//! - [`Rng`]: random bytes.
//! - [`Disk`]: files by position, with an explicit line between written and durable.
//! - [`Net`]: listeners and connections of ordered frame streams.
//! - [`Spawn`]: tasks, and loops that own a thread in the real world.
//!
//! Beside them, [`replace_file`] and [`read_file`] for small files; a [`Budget`]: bytes that those who read frames and those who write them share; [`Buffers`] that are used
//! again; a [`Histogram`] of durations; and what becomes of freed memory ([`heap`]).

pub mod ambient;
mod ballast;
mod budget;
mod buffers;
mod clock;
mod disk;
pub mod heap;
mod histogram;
mod net;
pub mod real;
mod rng;
pub mod sim;
mod spawn;
mod whole_file;

pub use ballast::Ballast;
pub use budget::{Budget, Share};
pub use buffers::Buffers;
pub use clock::{Clock, Monotonic};
pub use disk::{
    Disk, DiskFile, DiskLock, Identity, Lack, OpenMode, Room, advised, is_of_wrong_type, is_taken_away, lack,
    no_descriptor, remedy, taken_away,
};
pub use histogram::{Buckets, Histogram};
pub use net::{Connection, Frame, FrameSink, FrameSource, FrameStream, Listener, Net, Peer, network};
pub use rng::Rng;
pub use spawn::{Spawn, Task};
pub use whole_file::{ReplaceError, SyncScope, read_file, replace_file};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The four that nearly everything needs, in one cheap handle. (The network is passed on its own: few use it.)
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: std::sync::Arc<dyn Clock>,
    /// Randomness.
    pub rng: std::sync::Arc<dyn Rng>,
    /// Files.
    pub disk: std::sync::Arc<dyn Disk>,
    /// Tasks.
    pub spawn: std::sync::Arc<dyn Spawn>,
}
