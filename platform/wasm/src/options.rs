//! How the runtime is set up.

use std::{fs, path::PathBuf, time::Duration};

use crate::Compiler;

/// The least that all modules together are given where nobody says, bytes.
const MEMORY_BYTES_MIN: u64 = 512 << 20;

/// How the runtime is set up.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The data directory: modules go to `modules/`, images to `images/` below it. None: no files at all, so that modules can be prepared
    /// and used, and neither kept nor loaded.
    pub dir: Option<PathBuf>,
    /// Who compiles.
    pub compiler: Compiler,
    /// Most instances of all modules together.
    pub instances_max: u32,
    /// What all instances together may hold, bytes: their memories, and what calls have emitted. Idle instances are given up
    /// for those at work; where that is not enough, a call fails as the host's failure.
    pub memory_bytes: usize,
    /// How long a call may wait for an instance.
    pub instance_wait: Duration,
    /// How long an upload may wait for those before it.
    pub upload_wait: Duration,
    /// Modules that are compiled at one time: so many of those that are uploaded, and so many of those that are stored.
    pub compiles: u32,
    /// An instance that was not used for so long is given up.
    pub idle: Duration,
}

impl RuntimeOptions {
    /// The broker's settings for a data directory: the compiler is a child process of this executable.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: Some(dir.into()),
            compiler: Compiler::this_executable(),
            instances_max: 256,
            memory_bytes: Self::memory_bytes_default(),
            instance_wait: Duration::from_secs(30),
            upload_wait: Duration::from_secs(120),
            compiles: 1,
            idle: Duration::from_secs(60),
        }
    }

    /// The same, keeping nothing: for who runs what others hand out.
    #[must_use]
    pub fn without_files() -> Self {
        Self { dir: None, ..Self::new("") }
    }

    /// A quarter of what this process may use (the machine's memory, or its control group's), at least 512 MiB.
    #[must_use]
    pub fn memory_bytes_default() -> usize {
        let machine = rustix::system::sysinfo();
        let machine = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit));
        // "max", or no such file: no limit but the machine's.
        let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
        let bytes = machine.min(group.unwrap_or(u64::MAX)) / 4;
        usize::try_from(bytes.max(MEMORY_BYTES_MIN)).unwrap_or(usize::MAX)
    }
}
