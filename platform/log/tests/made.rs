//! What tells by which entry of the metadata a log was made, and that a log that has gone had been made.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::{Path, PathBuf};

use common::{
    bench::{Bench, EPOCH},
    log_id,
};
use millstream_env::{Disk, OpenMode};
use millstream_log::{LogOptions, OpenLogError};
use millstream_model::{Durability, Offset};

const DURABILITIES: [Durability; 2] = [Durability::Fsync, Durability::Replicated];

fn bench(durability: Durability) -> Bench {
    Bench::new(3, durability)
}

fn log_dir() -> PathBuf {
    format!("/data/logs/{}/0/records-0", log_id(0).topic).into()
}

impl Bench {
    fn made_by(&self) -> Option<u64> {
        self.storage().made_by(log_id(0))
    }

    /// Makes the log by an entry, and starts an epoch in it.
    fn make(&self, made_by: u64) {
        let options = LogOptions { made_by, ..self.log_options() };
        let log = self.storage().open_log(log_id(0), options).unwrap();
        self.world.run_until(log.start_epoch(EPOCH).unwrap()).unwrap();
    }

    /// Whether the mark file has the note.
    fn is_written(&self) -> bool {
        self.has(8192, *b"MSmade\0\x01")
    }

    /// Whether it has which log it is.
    fn is_named(&self) -> bool {
        self.has(8224, *b"MSlogid\x01")
    }

    fn has(&self, at: u64, magic: [u8; 8]) -> bool {
        let mut found = [0; 8];
        let file = self.world.disk().open(&log_dir().join("mark"), OpenMode::Read);
        file.is_ok_and(|file| file.read_at(&mut found, at).is_ok() && found == magic)
    }

    /// Takes the note out of the mark file: as earlier versions leave it.
    fn forget(&self) {
        let file = self.world.disk().open(&log_dir().join("mark"), OpenMode::Write).unwrap();
        file.set_len(4096 + 72).unwrap();
        file.sync_data().unwrap();
    }
}

/// Before the first mark the journal has it: a power cut may take the directory.
#[test]
fn the_making_is_known_from_the_first_epoch_on_whatever_comes() {
    for durability in DURABILITIES {
        let mut bench = bench(durability);
        bench.make(7);
        for at in 0..3 {
            assert_eq!((bench.made_by(), bench.storage().followed()), (Some(7), 7));
            bench.append_each(3, 1, 1000);
            match at {
                0 => bench.crash(),
                1 => bench.kill(),
                _ => {
                    bench.close();
                    bench.open();
                }
            }
        }
        assert!(bench.is_written() && bench.is_named());
        // It has its own, and asks for no other.
        bench.make(9);
        bench.storage().note_made(log_id(0), 9);
        bench.crash();
        assert_eq!((bench.made_by(), bench.storage().followed()), (Some(7), 7));
    }
}

/// The journal turns many times: with batches, which may be carried forward, and without any.
#[test]
fn the_making_is_known_when_the_journal_has_let_go_of_it() {
    for durability in DURABILITIES {
        let mut bench = bench(durability);
        bench.make(7);
        bench.append_each(1, 1, 100);
        // Without a journal nothing else makes the record durable.
        bench.world.run_for(2 * bench.options.sync_interval);
        let other = bench.storage().open_log(log_id(1), bench.log_options()).unwrap();
        for _ in 0..400 {
            let batch = bench.next_batch(1, 2_000);
            bench.world.run_until(other.append(batch, EPOCH).unwrap().ticket).unwrap();
        }
        drop(other);
        bench.crash();
        assert!(bench.is_written());
        assert_eq!((bench.made_by(), bench.storage().made_by(log_id(1))), (Some(7), None));
        assert_eq!(bench.log().end_offset(), Offset(1));
    }
}

#[test]
fn a_log_of_an_earlier_version_has_no_note_until_it_is_given_one() {
    for durability in DURABILITIES {
        let mut bench = bench(durability);
        bench.make(7);
        bench.append_each(3, 1, 1000);
        bench.close();
        bench.forget();
        for _ in 0..2 {
            bench.open();
            assert_eq!((bench.made_by(), bench.storage().followed()), (None, 0));
            assert_eq!(bench.log().end_offset(), Offset(3));
            assert!(!bench.storage().is_void(log_id(0)), "it has records");
            bench.close();
        }
        assert!(!bench.is_written() && !bench.is_named(), "no mark was written");
        bench.open();
        bench.append_each(1, 1, 1000);
        bench.close();
        assert!(!bench.is_written() && bench.is_named());
        bench.open();
        bench.storage().note_made(log_id(0), 12);
        assert_eq!(bench.made_by(), Some(12));
        // Durable with the epoch, and in its file with the next mark.
        bench.make(0);
        bench.crash();
        assert_eq!(bench.made_by(), Some(12));
        bench.close();
        assert!(bench.is_written());
        bench.open();
        assert_eq!(bench.made_by(), Some(12));
    }
}

/// Nobody must take rot for an entry; and it hinders nobody who reads.
#[test]
fn a_note_that_is_not_sound_is_none_and_damage_beside_it_takes_nothing_of_it() {
    let mut bench = bench(Durability::Fsync);
    bench.make(7);
    bench.append_each(3, 1, 1000);
    bench.close();
    let mark = log_dir().join("mark");
    for slot in [0, 4096] {
        bench.world.disk().corrupt(&mark, slot + 40, 1).unwrap();
    }
    bench.open();
    assert_eq!(bench.storage().out_of_service().len(), 1);
    assert_eq!((bench.made_by(), bench.storage().followed()), (Some(7), 7));
    bench.close();
    bench.world.disk().corrupt(&mark, 8192 + 30, 1).unwrap();
    bench.open();
    assert_eq!((bench.made_by(), bench.storage().followed()), (None, 0));
}

#[test]
fn what_a_crash_left_of_a_making_is_void_and_nothing_else_is() {
    let mut bench = bench(Durability::Fsync);
    assert!(!bench.storage().is_void(log_id(0)), "there is none");
    drop(bench.log());
    bench.kill();
    assert!(bench.world.disk().exists(&log_dir()).unwrap());
    assert!(bench.storage().is_void(log_id(0)));
    bench.make(0);
    assert!(!bench.storage().is_void(log_id(0)), "it has an epoch");
    bench.kill();
    assert!(!bench.storage().is_void(log_id(0)), "it has an epoch");
}

/// Not a word of it is in the journal any more.
#[test]
fn a_log_that_is_missed_is_out_of_service_and_can_be_put_back_or_deleted() {
    for durability in DURABILITIES {
        let mut bench = bench(durability);
        bench.make(7);
        bench.append_each(3, 1, 1000);
        // The second start lets the journal go.
        for _ in 0..2 {
            bench.close();
            bench.open();
        }
        bench.close();
        let topic = format!("/data/logs/{}", log_id(0).topic);
        let (topic, away) = (Path::new(&topic), Path::new("/away"));
        bench.world.disk().rename(topic, away).unwrap();
        for _ in 0..2 {
            bench.open();
            assert!(bench.storage().logs().is_empty());
            bench.storage().miss(log_id(0), 7);
            let refused = bench.storage().open_log(log_id(0), bench.log_options()).unwrap_err();
            assert!(matches!(refused, OpenLogError::OutOfService { .. }), "{refused}");
            let told = format!("{} is missing", log_dir().display());
            assert!(refused.to_string().contains(&told) && refused.to_string().contains("Put it back"), "{refused}");
            assert_eq!((bench.storage().logs(), bench.made_by()), (vec![log_id(0)], Some(7)));
            bench.close();
            assert!(!bench.world.disk().exists(topic).unwrap());
        }
        bench.world.disk().rename(away, topic).unwrap();
        bench.open();
        bench.storage().miss(log_id(0), 7);
        assert_eq!(bench.log().end_offset(), Offset(3), "it is there");
        bench.close();
        bench.world.disk().remove_dir_all(topic).unwrap();
        bench.open();
        bench.storage().miss(log_id(0), 7);
        bench.world.run_until(bench.storage().delete_log(log_id(0)).unwrap()).unwrap();
        assert!(bench.storage().logs().is_empty());
        for _ in 0..2 {
            bench.crash();
            assert!(bench.storage().logs().is_empty() && bench.storage().out_of_service().is_empty());
        }
    }
}

/// What the journal had of it was held in a directory that was made in its place, and went with that when it was put back.
#[test]
fn what_the_journal_has_of_a_log_that_has_gone_is_there_when_it_is_put_back() {
    for durability in DURABILITIES {
        let mut bench = bench(durability);
        bench.make(7);
        bench.append_each(3, 1, 1000);
        bench.close();
        bench.open();
        // A mark covers the three, and these are past it.
        bench.append_each(2, 1, 1000);
        bench.world.first().kill();
        bench.storage = None;
        let (dir, away) = (log_dir(), Path::new("/away"));
        bench.world.disk().rename(&dir, away).unwrap();
        for turn in 0..3 {
            bench.open();
            assert!(bench.storage().log(log_id(0)).is_none(), "{durability:?}, start {turn}");
            bench.storage().miss(log_id(0), 7);
            let refused = bench.storage().open_log(log_id(0), bench.log_options()).unwrap_err().to_string();
            assert!(refused.contains("is missing") && refused.contains("Put it back"), "{refused}");
            assert!(!bench.world.disk().exists(&dir).unwrap(), "{durability:?}, start {turn}: in its place");
            match turn {
                0 => {
                    bench.world.first().kill();
                    bench.storage = None;
                }
                _ => bench.close(),
            }
        }
        bench.world.disk().create_dir_all(dir.parent().unwrap()).unwrap();
        bench.world.disk().rename(away, &dir).unwrap();
        bench.open();
        assert_eq!(bench.log().end_offset(), Offset(5), "{durability:?}");
        let read = bench.log().read(Offset(0), Offset(5), 100_000).unwrap();
        assert_eq!(read.batches.len(), bench.appended.iter().map(|batch| batch.len()).sum::<usize>());
        bench.close();
        bench.open();
        assert_eq!(bench.log().end_offset(), Offset(5), "{durability:?}: what was held is in its files");
    }
}

#[test]
fn how_far_all_logs_are_made_is_kept_and_not_for_other_metadata() {
    let mut bench = bench(Durability::Fsync);
    let told = |bench: &Bench| (bench.storage().followed(), bench.storage().made_through());
    assert_eq!(told(&bench), (0, 0));
    bench.storage().follow(5).unwrap();
    bench.storage().note_all_made(6).unwrap();
    bench.crash();
    assert_eq!(told(&bench), (6, 6));
    bench.storage().follow(9).unwrap();
    bench.crash();
    assert_eq!(told(&bench), (9, 6));
    bench.storage().follow(3).unwrap();
    bench.crash();
    assert_eq!(told(&bench), (3, 0));
}
