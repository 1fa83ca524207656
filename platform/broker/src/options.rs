//! What a broker is started with.

use std::{path::PathBuf, time::Duration};

use millstream_model::BrokerId;
use millstream_protocol::session::SessionLimits;
use millstream_wasm::Compiler;

/// A broker's settings. [`BrokerOptions::new`] has defaults for all that is not its own.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// The broker's number in its cluster.
    pub id: BrokerId,
    /// Everything the broker keeps is below this directory; one broker at a time may use it.
    pub data_dir: PathBuf,
    /// Where the catalog's read view is kept, on the real disk always; none: it is done without, as in simulation.
    pub view_dir: Option<PathBuf>,
    /// `host:port` that clients are told to connect to; none: the address that was bound.
    pub advertise: Option<String>,
    /// Who compiles modules: a child process of this executable, unless told otherwise.
    pub compiler: Compiler,
    /// Bounds on each stream.
    pub stream: StreamLimits,
    /// How many segments' files may be open at a time.
    pub open_segments_max: usize,
}

impl BrokerOptions {
    /// Defaults around a number and a directory.
    #[must_use]
    pub fn new(id: BrokerId, data_dir: PathBuf) -> Self {
        Self {
            id,
            view_dir: Some(data_dir.join("catalog/view")),
            data_dir,
            advertise: None,
            compiler: Compiler::this_executable(),
            stream: StreamLimits::default(),
            open_segments_max: 512,
        }
    }
}

/// Bounds on one stream of a connection.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// What may be asked for before it is answered.
    pub session: SessionLimits,
    /// How long a peer may leave an answer unread before the stream is given up.
    pub write_stall_max: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { session: SessionLimits::default(), write_stall_max: Duration::from_secs(30) }
    }
}
