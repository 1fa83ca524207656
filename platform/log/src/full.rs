//! What the operator is told of a full disk: once when records begin to be refused, and once when they are taken again.
//!
//! A disk that is almost full takes a small batch and refuses a large one, in turns, and so does one where little room is made at a
//! time. Only when nothing was refused for a while and room is left is it said that there is some.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use millstream_env::{Lack, Monotonic};
use parking_lot::Mutex;

use crate::{AppendError, Appended, journal::Journal};

/// How long nothing may have been refused before it is said that records are taken again.
const CALM: Duration = Duration::from_secs(10);
/// How often the same lack is told of at most.
const AGAIN: Duration = Duration::from_secs(60);

/// Whether records are refused for want of room, as far as the operator was told.
#[derive(Default)]
pub(crate) struct Full {
    told: AtomicBool,
    /// When one was refused last.
    last: Mutex<Monotonic>,
}

impl Journal {
    /// How much must be left beside what is set aside before that is done again, bytes: with less, it would soon be given up again.
    pub(crate) fn headroom(&self) -> u64 {
        self.options.ballast_bytes / 4
    }

    /// Takes note of what became of an append.
    pub(crate) fn note_append(&self, outcome: &Result<Appended, AppendError>) {
        match outcome {
            Err(AppendError::StorageFull { path }) => self.note_full(path),
            Ok(appended) if !appended.duplicate && self.full.told.load(Ordering::Relaxed) => self.note_taken(),
            _ => {}
        }
    }

    fn note_full(&self, path: &Path) {
        *self.full.last.lock() = self.monotonic();
        if !self.full.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                path = %path.display(),
                "the disk is full: records are refused. Make room, by deleting topics, by having topics keep less, or otherwise, or raise the \
                 quota or the limit on a file's length (ulimit -f)"
            );
        }
    }

    fn note_taken(&self) {
        let calm = self.monotonic() - *self.full.last.lock() >= CALM;
        let room = || self.disk.room(&self.options.dir).map_or(true, |room| room.bytes >= self.headroom());
        if calm && room() && self.full.told.swap(false, Ordering::Relaxed) {
            tracing::info!("the disk has room again: records are taken");
        }
    }
}

/// When a lack was told of last: it comes and goes on a disk that is almost full.
#[derive(Default)]
pub(crate) struct LackTold(Option<(Lack, Monotonic)>);

impl LackTold {
    /// Whether it is to be told of now; then it counts as told.
    pub(crate) fn is_due(&mut self, lack: Lack, now: Monotonic) -> bool {
        let due = self.0.is_none_or(|(told, at)| told != lack || now - at >= AGAIN);
        if due {
            self.0 = Some((lack, now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_env::sim::World;
    use millstream_model::{LeaderEpoch, PartitionId, TimestampMs, TopicId};
    use millstream_record::{BatchBuilder, BatchOptions};
    use tracing::Level;

    use super::*;
    use crate::{LogId, LogOptions, PartitionLog, Storage, StorageOptions, told};

    fn append(world: &World, log: &Arc<PartitionLog>, bytes: usize) -> bool {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(&vec![7; bytes]), &[]).unwrap();
        match log.append(builder.build().unwrap(), LeaderEpoch(1)) {
            Ok(appended) => world.run_until(appended.ticket).is_ok(),
            Err(AppendError::StorageFull { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn what_comes_and_goes_is_told_of_now_and_then() {
        let mut told = LackTold::default();
        let at = |seconds| Monotonic(Duration::from_secs(seconds));
        assert!(told.is_due(Lack::Room, at(5)));
        assert!(!told.is_due(Lack::Room, at(6)));
        let again = 5 + AGAIN.as_secs();
        assert!(!told.is_due(Lack::Room, at(again - 1)));
        assert!(told.is_due(Lack::Room, at(again)));
        assert!(!told.is_due(Lack::Room, at(again + 1)), "it was told a moment ago");
        assert!(told.is_due(Lack::Descriptors, at(again + 1)), "that is another");
    }

    /// It said that records are taken as soon as the ballast was held again, which took all the room that there was.
    #[test]
    fn that_there_is_room_again_is_told_once_records_are_taken() {
        let world = World::new(1);
        let disk = world.disk();
        let options =
            StorageOptions { ballast_bytes: 64 << 10, reserve_bytes: 16 << 10, ..StorageOptions::new("/data") };
        let told = told::LevelsTold::by("::full");
        // That the disk is full, and that it has room.
        let times = |told: &told::LevelsTold| [told.times(Level::WARN), told.times(Level::INFO)];
        tracing::subscriber::with_default(told.clone(), || {
            let storage = Storage::open(options, world.env()).unwrap().0;
            let log = storage.open_log(LogId::records(TopicId::NIL, PartitionId(0)), LogOptions::default()).unwrap();
            assert!(append(&world, &log, 1000));
            disk.set_capacity(Some(disk.used_bytes()));
            while append(&world, &log, 3000) {}
            assert!(!storage.has_room(0));
            assert_eq!(times(&told), [1, 0]);
            // Enough to set aside what was, and nothing else; then little by little.
            let given_up = 64 << 10;
            for more in (0..4).map(|pages| pages * 4096) {
                disk.set_capacity(Some(disk.used_bytes() + given_up + more));
                world.run_for(Duration::from_secs(20));
                assert!(!append(&world, &log, 100) && !storage.has_room(0), "{more}");
                assert_eq!(times(&told), [1, 0], "{more}");
            }
            disk.set_capacity(Some(disk.used_bytes() + given_up + (16 << 10)));
            world.run_for(Duration::from_secs(20));
            assert!(storage.has_room(0));
            // Nobody has tried.
            assert_eq!(times(&told), [1, 0]);
            assert!(append(&world, &log, 100));
            assert_eq!(times(&told), [1, 1]);
            // Small ones find room where large ones do not.
            for _ in 0..20 {
                assert!(!append(&world, &log, 30_000));
                world.run_for(Duration::from_secs(1));
                let _ = append(&world, &log, 10);
            }
            assert_eq!(times(&told), [2, 1]);
            disk.set_capacity(None);
            world.run_for(Duration::from_secs(20));
            assert!(append(&world, &log, 30_000));
            assert_eq!(times(&told), [2, 2]);
        });
    }
}
