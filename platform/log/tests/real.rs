//! The log on a real disk: does it append, read and come back, and does it refuse what it must?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use common::{batch, log_id, options, read_all, stored};
use millstream_env::{Env, real};
use millstream_log::{
    AppendError, Ended, LogOptions, OpenError, OpenLogError, PartitionLog, ReadError, Recovered, Storage,
    StorageOptions, Stream,
};
use millstream_model::{Durability, LeaderEpoch, Offset, TimestampMs, TransformId};

const EPOCH: LeaderEpoch = LeaderEpoch(1);

fn env() -> Env {
    real::env()
}

fn open(dir: &Path) -> (Storage, Recovered) {
    Storage::open(options(dir), env()).unwrap()
}

fn small_segments() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

async fn append(log: &Arc<PartitionLog>, batches: &[Bytes]) -> Vec<Bytes> {
    let mut expected = Vec::new();
    for batch in batches {
        let appended = log.append(batch.clone(), EPOCH).unwrap();
        expected.push(stored(batch, appended.base_offset, EPOCH));
        appended.ticket.await.unwrap();
        assert!(log.flushed_end() > appended.last_offset);
    }
    expected
}

fn some_batches(count: i64) -> Vec<Bytes> {
    (0..count).map(|at| batch(1 + at as usize % 5, 100 * (at as usize % 40), at * 1000)).collect()
}

#[tokio::test]
async fn what_was_appended_is_read_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, recovered) = open(dir.path());
    assert!(recovered.created && recovered.logs == 0);
    let log = storage.open_log(log_id(0), small_segments()).unwrap();
    let expected = append(&log, &some_batches(100)).await;
    let end = log.end_offset();
    for bytes_max in [1, 5_000, 1 << 20] {
        assert_eq!(read_all(&log, end, bytes_max), expected);
    }
    assert!(log.size_bytes() > 3 * (64 << 10), "several segments");
    storage.close().await.unwrap();
    assert!(matches!(log.append(batch(1, 1, 1), EPOCH), Err(AppendError::Ended(Ended::Closed))));
    drop((log, storage));

    let (storage, again) = open(dir.path());
    let wanted = Recovered { created: false, clean: true, logs: 1, replayed_frames: 0, replayed_bytes: 0, ..recovered };
    assert_eq!(again, wanted);
    assert_eq!(storage.logs(), [log_id(0)]);
    let log = storage.open_log(log_id(0), small_segments()).unwrap();
    assert_eq!((log.end_offset(), log.flushed_end()), (end, end));
    assert_eq!(read_all(&log, end, 5_000), expected);
    assert_eq!(log.append(batch(1, 1, 1), EPOCH).unwrap().base_offset, end);
}

#[tokio::test]
async fn what_was_acknowledged_is_replayed_when_nothing_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    // So much room, and so many open files, that no log is synced meanwhile: whether one was would depend on how fast the disk is.
    let options = || StorageOptions { journal_bytes_max: 64 << 20, open_segments_max: 512, ..options(dir.path()) };
    let (storage, _) = Storage::open(options(), env()).unwrap();
    let mut expected = Vec::new();
    for partition in 0..3 {
        let log = storage.open_log(log_id(partition), small_segments()).unwrap();
        log.start_epoch(EPOCH).unwrap().await.unwrap();
        expected.push(append(&log, &some_batches(30)).await);
    }
    storage.abandon().await;

    let (storage, recovered) = Storage::open(options(), env()).unwrap();
    // An epoch and thirty batches of each.
    assert!(!recovered.clean && recovered.replayed_frames == 3 * 31, "{recovered:?}");
    for (partition, expected) in expected.iter().enumerate() {
        let log = storage.log(log_id(partition as i32)).unwrap();
        assert_eq!(read_all(&log, log.end_offset(), 5_000), *expected);
        assert_eq!(log.latest_epoch(), Some(EPOCH));
        assert_eq!(log.flushed_end(), log.end_offset());
    }
}

#[tokio::test]
async fn a_second_opener_is_refused_until_the_first_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let refused = Storage::open(options(dir.path()), env()).unwrap_err();
    assert!(matches!(&refused, OpenError::Locked { path } if path == dir.path()), "{refused}");
    storage.close().await.unwrap();
    drop(storage);
    open(dir.path());
}

#[tokio::test]
async fn newer_and_foreign_directories_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    storage.close().await.unwrap();
    drop(storage);
    let format = dir.path().join("FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("format 1", "format 2")).unwrap();
    let refused = Storage::open(options(dir.path()), env()).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 2, known: 1, .. }), "{refused}");
    fs::write(&format, "something else").unwrap();
    assert!(matches!(Storage::open(options(dir.path()), env()), Err(OpenError::Damaged { .. })));
    fs::remove_file(&format).unwrap();
    assert!(matches!(Storage::open(options(dir.path()), env()), Err(OpenError::NotOurs { .. })));
    fs::write(&format, text).unwrap();
    open(dir.path());
}

#[tokio::test]
async fn a_directory_with_other_peoples_files_does_not_become_ours() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("photos")).unwrap();
    let refused = Storage::open(options(dir.path()), env()).unwrap_err();
    assert!(matches!(refused, OpenError::NotOurs { .. }) && refused.to_string().contains("photos"), "{refused}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written");
    fs::remove_dir(dir.path().join("photos")).unwrap();
    // What a first start may have left, and what a file system has at its root.
    for name in ["LOCK", "FORMAT.new"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    open(dir.path());
}

#[tokio::test]
async fn a_missing_or_damaged_index_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let big = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
    let log = storage.open_log(log_id(0), big).unwrap();
    let expected = append(&log, &some_batches(300)).await;
    storage.close().await.unwrap();
    drop((log, storage));
    let log_dir = dir.path().join(format!("logs/{}/0/records-0", log_id(0).topic));
    let indexes = || -> Vec<_> {
        let paths = fs::read_dir(&log_dir).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ext| ext == "index")).collect()
    };
    assert!(indexes().len() > 2, "{:?}", indexes());
    for damage in 0..3 {
        for path in indexes() {
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                0 => fs::remove_file(&path).unwrap(),
                1 => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                _ => {
                    let at = bytes.len() - 3;
                    bytes[at] ^= 0x40;
                    fs::write(&path, bytes).unwrap();
                }
            }
        }
        let (storage, _) = open(dir.path());
        let log = storage.open_log(log_id(0), big).unwrap();
        for (batch, next) in expected.iter().zip(&expected[1..]) {
            let from = Offset(i64::from_be_bytes(next[..8].try_into().unwrap()) - 1);
            assert_eq!(log.read(from, log.end_offset(), 1).unwrap().batches, batch);
        }
        storage.close().await.unwrap();
    }
}

#[tokio::test]
async fn reads_keep_to_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    let three = [batch(10, 50, 0), batch(10, 50, 100), batch(10, 50, 200)];
    let expected = append(&log, &three).await;
    let read = |from, end, bytes_max| log.read(Offset(from), Offset(end), bytes_max);
    // The batch that holds the offset comes whole; one that reaches past the bound does not come.
    assert_eq!(read(13, 30, 1).unwrap().batches, expected[1]);
    assert_eq!(read(0, 19, usize::MAX).unwrap().batches, expected[0]);
    assert_eq!(read(0, 20, usize::MAX).unwrap().batches, [&expected[0][..], &expected[1][..]].concat());
    assert_eq!(read(0, 30, expected[0].len() * 2 - 1).unwrap().next, Offset(10));
    for (from, end) in [(30, 30), (10, 5), (0, 0), (0, 9), (20, 10)] {
        let nothing = read(from, end, 1000).unwrap();
        assert_eq!((nothing.batches.len(), nothing.next), (0, Offset(from)), "{from}..{end}");
    }
    assert_eq!(read(0, i64::MAX, usize::MAX).unwrap().next, Offset(30));
    for from in [-1, 31, i64::MAX, i64::MIN] {
        assert!(matches!(read(from, 30, 1000), Err(ReadError::OutOfRange { .. })), "{from}");
    }
}

#[tokio::test]
async fn a_timestamp_finds_the_first_record_at_or_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    append(&log, &[batch(10, 50, 1000), batch(10, 50, 500), batch(10, 50, 2000)]).await;
    let find = |time| log.offset_for_timestamp(TimestampMs(time)).unwrap().map(|(offset, time)| (offset.0, time.0));
    assert_eq!(find(i64::MIN), Some((0, 1000)));
    assert_eq!(find(1003), Some((3, 1003)));
    assert_eq!(find(1010), Some((20, 2000)));
    assert_eq!(find(2009), Some((29, 2009)));
    assert_eq!(find(2010), None);
}

#[tokio::test]
async fn a_time_is_found_in_closed_segments_however_often_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let log = storage.open_log(log_id(0), small_segments()).unwrap();
    append(&log, &some_batches(100)).await;
    assert!(log.size_bytes() > 3 * (64 << 10), "several segments");
    let find = |time| log.offset_for_timestamp(TimestampMs(time)).unwrap().map(|(_, time)| time.0);
    // What one search learns of a segment must not hide anything from the next.
    for _ in 0..2 {
        for at in (0..100).rev() {
            assert_eq!(find(at * 1000), Some(at * 1000));
            assert_eq!(find(at * 1000 + 500), (at < 99).then_some((at + 1) * 1000));
        }
    }
    append(&log, &[batch(1, 10, 200_000)]).await;
    assert_eq!(find(99_500), Some(200_000));
}

#[tokio::test]
async fn a_small_piece_of_a_large_read_does_not_keep_the_rest_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    // The second batch does not fit beside the first.
    let expected = append(&log, &[batch(1, 1_000, 0), batch(1, 60_000, 0)]).await;
    let read = log.read(Offset(0), log.end_offset(), 50_000).unwrap();
    assert_eq!(read.batches, expected[0]);
    let kept = read.batches.try_into_mut().unwrap().capacity();
    assert!(kept < 3_000, "{kept} bytes");
}

#[tokio::test]
async fn what_is_no_batch_or_too_large_or_late_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let log = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    let sound = batch(2, 10, 0);
    let mut old = sound.to_vec();
    old[16] = 1;
    let mut negative = sound.to_vec();
    negative[23] = 0x80;
    for bad in [Bytes::new(), sound.slice(..60), sound.slice(..sound.len() - 1), old.into(), negative.into()] {
        assert!(matches!(log.append(bad, EPOCH), Err(AppendError::Malformed(_))));
    }
    assert!(matches!(log.append([&sound[..], &sound[..]].concat().into(), EPOCH), Err(AppendError::Malformed(_))));
    assert!(matches!(log.append_many(Vec::new(), EPOCH), Err(AppendError::Empty)));
    assert!(matches!(log.append(batch(1, 70_000, 0), EPOCH), Err(AppendError::TooLarge { .. })));
    log.start_epoch(LeaderEpoch(5)).unwrap().await.unwrap();
    assert!(matches!(log.append(sound.clone(), EPOCH), Err(AppendError::StaleEpoch { .. })));
    assert!(matches!(log.start_epoch(LeaderEpoch(4)), Err(AppendError::StaleEpoch { .. })));
    assert_eq!((log.end_offset(), log.size_bytes()), (Offset(0), 0));
    let both = log.append_many(vec![sound.clone(), sound], LeaderEpoch(5)).unwrap();
    assert_eq!((both.base_offset, both.last_offset), (Offset(0), Offset(3)));
    both.ticket.await.unwrap();
}

#[tokio::test]
async fn a_deleted_log_never_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    for partition in 0..2 {
        let log = storage.open_log(log_id(partition), LogOptions::default()).unwrap();
        append(&log, &some_batches(5)).await;
    }
    let log = storage.log(log_id(0)).unwrap();
    storage.delete_log(log_id(0)).unwrap().await.unwrap();
    assert!(matches!(log.append(batch(1, 1, 1), EPOCH), Err(AppendError::Ended(Ended::Deleted))));
    assert!(matches!(log.read(Offset(0), Offset(1), 1), Err(ReadError::Deleted)));
    assert!(matches!(storage.open_log(log_id(0), LogOptions::default()), Err(OpenLogError::Deleted { .. })));
    assert!(storage.delete_log(log_id(0)).is_err());
    drop(log);
    storage.abandon().await;
    let (storage, _) = open(dir.path());
    assert_eq!(storage.logs(), [log_id(1)]);
    storage.close().await.unwrap();
    assert!(!dir.path().join(format!("logs/{}/0/records-0", log_id(0).topic)).exists());
}

#[tokio::test]
async fn companion_streams_and_replicated_logs_have_their_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let mut progress = log_id(0);
    progress.stream = Stream::Progress(TransformId(uuid::Uuid::from_u128(5)));
    let replicated = LogOptions { durability: Durability::Replicated, ..LogOptions::default() };
    let journaled = append(&storage.open_log(progress, LogOptions::default()).unwrap(), &some_batches(3)).await;
    let log = storage.open_log(log_id(0), replicated).unwrap();
    let appended = log.append(batch(3, 3, 3), EPOCH).unwrap();
    appended.ticket.await.unwrap();
    assert_eq!(log.flushed_end(), Offset(0), "acknowledged in memory, not flushed");
    let other = storage.open_log(log_id(0), LogOptions::default()).unwrap();
    assert_eq!(other.durability(), Durability::Replicated, "one that is there keeps its own");
    drop((log, other));
    storage.abandon().await;
    // A killed process loses nothing: the page cache has it.
    let (storage, _) = open(dir.path());
    let log = storage.open_log(log_id(0), replicated).unwrap();
    assert_eq!((log.end_offset(), log.flushed_end()), (Offset(3), Offset(3)));
    let log = storage.open_log(progress, LogOptions::default()).unwrap();
    assert_eq!(read_all(&log, log.end_offset(), 1 << 20), journaled);
}

#[tokio::test]
async fn many_appenders_share_a_small_journal_without_losing_or_stalling() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let storage = Arc::new(storage);
    let mut tasks = Vec::new();
    for partition in 0..8 {
        let storage = storage.clone();
        tasks.push(tokio::spawn(async move {
            let log = storage.open_log(log_id(partition), small_segments()).unwrap();
            let mut expected = Vec::new();
            for at in 0..60 {
                let batch = batch(3, 1000, at);
                let appended = loop {
                    storage.writable().await;
                    match log.append(batch.clone(), EPOCH) {
                        Ok(appended) => break appended,
                        Err(AppendError::Overloaded { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                };
                expected.push(stored(&batch, appended.base_offset, EPOCH));
                if at % 10 == 9 {
                    appended.ticket.await.unwrap();
                }
            }
            expected
        }));
    }
    let mut expected = Vec::new();
    for task in tasks {
        expected.push(task.await.unwrap());
    }
    // 1.5 MB went through a journal of 192 KiB.
    let journal: u64 =
        fs::read_dir(dir.path().join("journal")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(journal <= 192 << 10, "{journal}");
    Arc::into_inner(storage).unwrap().abandon().await;
    let (storage, _) = open(dir.path());
    for (partition, expected) in expected.iter().enumerate() {
        let log = storage.log(log_id(partition as i32)).unwrap();
        assert_eq!(read_all(&log, log.end_offset(), 1 << 20), *expected);
    }
}

#[tokio::test]
async fn an_epoch_that_was_lost_does_not_come_back_when_the_log_has_grown_past_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let (storage, _) = open(dir.path());
    let log = storage.open_log(log_id(0), small_segments()).unwrap();
    append(&log, &[batch(1, 10, 0)]).await;
    storage.close().await.unwrap();
    drop((log, storage));
    // A sync that a power cut has stopped before the mark: the records and the epoch after them are gone, the file is not.
    let entries =
        [(1_i32, 0_i64), (2, 5)].map(|(epoch, start)| [&epoch.to_be_bytes()[..], &start.to_be_bytes()].concat());
    let body = [&2_u32.to_be_bytes()[..], &entries.concat()].concat();
    let crc = millstream_record::crc32c(&body);
    let id = log_id(0);
    let path = dir.path().join(format!("logs/{}/{}/records-0/epochs", id.topic, id.partition));
    assert!(path.exists());
    fs::write(&path, [&b"MSepoc\0\x01"[..], &crc.to_be_bytes(), &body].concat()).unwrap();
    for records in [10, 20] {
        let (storage, _) = open(dir.path());
        let log = storage.log(id).unwrap();
        assert_eq!(log.latest_epoch(), Some(EPOCH), "with {records} records to come");
        append(&log, &[batch(records, 10, 0)]).await;
        storage.close().await.unwrap();
    }
}
