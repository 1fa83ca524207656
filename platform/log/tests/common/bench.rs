//! One log on a simulated disk, which is killed, cut from its power and started again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_env::{Disk, sim::World};
use millstream_log::{AppendError, LogOptions, PartitionLog, Storage, StorageOptions, Ticket};
use millstream_model::{Durability, LeaderEpoch};

use super::{batch, log_id, options, stored};

/// The epoch in which [`Bench`] appends.
pub(crate) const EPOCH: LeaderEpoch = LeaderEpoch(1);

/// See the file.
pub(crate) struct Bench {
    pub(crate) world: World,
    /// The log's.
    pub(crate) durability: Durability,
    /// For the next start.
    pub(crate) options: StorageOptions,
    /// None while it is stopped.
    pub(crate) storage: Option<Storage>,
    /// All that was appended with [`Bench::append_one`], as it is stored.
    pub(crate) appended: Vec<Bytes>,
    /// Of the last batch: each has its own, so that no two are alike.
    time: i64,
}

impl Bench {
    /// Started, with nothing on its disk. `seed` draws what a crash leaves.
    pub(crate) fn new(seed: u64, durability: Durability) -> Self {
        let options = options(Path::new("/data"));
        let (world, appended) = (World::new(seed), Vec::new());
        let mut bench = Self { world, durability, options, storage: None, appended, time: 0 };
        bench.open();
        bench
    }

    pub(crate) fn open(&mut self) {
        self.storage = Some(Storage::open(self.options.clone(), self.world.env()).unwrap().0);
    }

    pub(crate) fn storage(&self) -> &Storage {
        self.storage.as_ref().unwrap()
    }

    /// With room for 20,000 bytes in a segment.
    pub(crate) fn log_options(&self) -> LogOptions {
        LogOptions { segment_bytes: 20_000, durability: self.durability, ..LogOptions::default() }
    }

    pub(crate) fn log(&self) -> Arc<PartitionLog> {
        self.storage().open_log(log_id(0), self.log_options()).unwrap()
    }

    /// A batch that is like no other.
    pub(crate) fn next_batch(&mut self, records: usize, bytes: usize) -> Bytes {
        self.time += 10;
        batch(records, bytes, self.time)
    }

    /// Appends such a batch; gives it as it is stored, and its ticket.
    pub(crate) fn append_one(&mut self, records: usize, bytes: usize) -> Result<(Bytes, Ticket), AppendError> {
        let batch = self.next_batch(records, bytes);
        let appended = self.log().append(batch.clone(), EPOCH)?;
        let stored = stored(&batch, appended.base_offset, EPOCH);
        self.appended.push(stored.clone());
        Ok((stored, appended.ticket))
    }

    /// Appends so many of them, each durable before the next; gives them as they are stored.
    pub(crate) fn append_each(&mut self, count: usize, records: usize, bytes: usize) -> Vec<Bytes> {
        let append = |_| {
            let (stored, ticket) = self.append_one(records, bytes).unwrap();
            self.world.run_until(ticket).unwrap();
            stored
        };
        (0..count).map(append).collect()
    }

    /// The base offsets in the names that the log's directory has of a kind.
    pub(crate) fn names(&self, kind: &str) -> Vec<u64> {
        let dir = format!("/data/logs/{}/0/records-0", log_id(0).topic);
        let paths = self.world.disk().read_dir(Path::new(&dir)).unwrap();
        let of_kind = paths.iter().filter(|path| path.extension().is_some_and(|found| found == kind));
        of_kind.map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect()
    }

    /// Stops it in order.
    pub(crate) fn close(&mut self) {
        let storage = self.storage.take().unwrap();
        self.world.run_until(storage.close()).unwrap();
        self.world.first().kill();
    }

    /// Kills it and starts it again.
    pub(crate) fn kill(&mut self) {
        self.world.first().kill();
        self.storage = None;
        self.open();
    }

    /// Cuts its power and starts it again.
    pub(crate) fn crash(&mut self) {
        self.world.first().crash();
        self.storage = None;
        self.open();
    }
}

/// Where a segment of the log is.
pub(crate) fn segment_path(base: u64) -> PathBuf {
    format!("/data/logs/{}/0/records-0/{base:020}.log", log_id(0).topic).into()
}
