//! The first half of opening a data directory: it is this process's, and nothing of it is changed yet.

use millstream_env::Env;

use crate::{
    OpenError, Recovered, Storage, StorageOptions,
    data_dir::{self, DataDir, list},
    followed::Followed,
    journal,
};

/// A data directory that is locked, and as the last run left it (a new one has its FORMAT). Who must judge what lies beside the logs
/// before they are recovered does that here. Dropping it gives the directory back.
pub struct Locked {
    options: StorageOptions,
    env: Env,
    dir: DataDir,
    followed: u64,
}

impl Storage {
    /// Takes a data directory's lock, makes it if it is not there, and reads what it says of itself. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed.
    pub fn lock(options: StorageOptions, env: Env) -> Result<Locked, OpenError> {
        journal::check(&options).map_err(OpenError::Options)?;
        let dir = data_dir::open(&options.dir, &env)?;
        let followed = Followed::of_dir(&*env.disk, &options.dir)?.index();
        Ok(Locked { options, env, dir, followed })
    }
}

impl Locked {
    /// How far the cluster's metadata was followed, as far as that was noted; 0: it never was. The logs may tell of more
    /// ([`Storage::followed`]).
    #[must_use]
    pub fn followed(&self) -> u64 {
        self.followed
    }

    /// Whether there are directories of logs. (Those that only the journal tells of are not among them.)
    ///
    /// # Errors
    /// Of the disk.
    pub fn holds_logs(&self) -> Result<bool, OpenError> {
        let disk = &*self.env.disk;
        for topic in list(disk, &self.options.dir.join("logs"))? {
            // What is no directory is no log's.
            if disk.read_dir(&topic).is_ok_and(|partitions| !partitions.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Recovers what the directory holds: [`Storage::open`] is this after [`Storage::lock`].
    ///
    /// # Errors
    /// [`OpenError`]; the directory is left as recoverable as it was.
    pub fn recover(self) -> Result<(Storage, Recovered), OpenError> {
        let Self { options, env, dir, .. } = self;
        dir.begin(&*env.disk, &options.dir)?;
        Storage::recover(options, env, dir)
    }
}
