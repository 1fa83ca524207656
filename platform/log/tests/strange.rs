//! Things of the wrong kind in the places of files: does a start end, and say where?

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{batch, log_id, options};
use millstream_env::real;
use millstream_log::{LogId, LogOptions, OpenError, OpenLogError, Storage, StorageOptions};
use millstream_model::{Durability, LeaderEpoch, Offset, PartitionId, TopicId};
use rustix::fs::{CWD, FileType, Mode, mknodat};

const EPOCH: LeaderEpoch = LeaderEpoch(1);

/// Two logs, whose storage was not closed.
async fn storage(dir: &Path) {
    let (storage, _) = Storage::open(options(dir), real::env()).unwrap();
    for (partition, durability) in [(0, Durability::Fsync), (1, Durability::Replicated)] {
        let options = LogOptions { segment_bytes: 8 << 10, durability, ..LogOptions::default() };
        let log = storage.open_log(log_id(partition), options).unwrap();
        log.start_epoch(EPOCH).unwrap().await.unwrap();
        for at in 0..7 {
            log.append(batch(1, 3_000, at), EPOCH).unwrap().ticket.await.unwrap();
        }
    }
    // One that is open when the power fails has its mark and epochs.
    storage.abandon().await;
    let (storage, _) = Storage::open(options(dir), real::env()).unwrap();
    storage.abandon().await;
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// Opens it, and gives how many logs are out of service; or the error. On a thread of its own: one that hangs is not waited for.
fn start(dir: &Path) -> Result<usize, OpenError> {
    let (done, ended) = std::sync::mpsc::channel();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let opened = Storage::open(options(&dir), real::env());
            let outcome = match opened {
                Ok((storage, recovered)) => {
                    for log in storage.logs().iter().filter_map(|id| storage.log(*id)) {
                        // What it holds is read, or refused.
                        let _ = log.read(log.start_offset(), log.end_offset(), 5_000);
                    }
                    storage.abandon().await;
                    Ok(recovered.out_of_service)
                }
                Err(error) => Err(error),
            };
            let _ = done.send(outcome);
        });
    });
    ended.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("the start hangs"))
}

/// What is in a file's place is damage of that file, each time: its log is out of service, or the start is refused and names it.
#[tokio::test]
async fn a_directory_or_fifo_in_place_of_a_file_is_damage_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let of_log = ["/mark", "/epochs", ".log"];
    storage(dir.path()).await;
    let all = files(dir.path());
    for kind in of_log.into_iter().chain(["FORMAT", "JOURNAL", "LOCK", ".journal"]) {
        assert!(all.iter().any(|path| path.to_str().unwrap().ends_with(kind)), "{kind}: {all:?}");
    }
    let copy = tempfile::tempdir().unwrap();
    for path in &all {
        let name = path.strip_prefix(dir.path()).unwrap();
        let text = name.to_str().unwrap();
        for fifo in [false, true] {
            let root = copy.path().join("data");
            if root.exists() {
                fs::remove_dir_all(&root).unwrap();
            }
            for file in &all {
                let to = root.join(file.strip_prefix(dir.path()).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(file, to).unwrap();
            }
            let strange = root.join(name);
            fs::remove_file(&strange).unwrap();
            match fifo {
                true => mknodat(CWD, &strange, FileType::Fifo, Mode::RWXU, 0).unwrap(),
                false => fs::create_dir(&strange).unwrap(),
            }
            for turn in 0..2 {
                match start(&root) {
                    Ok(out) => {
                        let is_of_log = of_log.iter().any(|kind| text.ends_with(kind));
                        assert_eq!(out, usize::from(is_of_log), "{text}, fifo: {fifo}, start {turn}");
                        assert!(!is_of_log || strange.exists() && !strange.is_file(), "{text} is not left alone");
                    }
                    Err(error) => {
                        let named = error.to_string();
                        assert!(
                            named.contains(strange.to_str().unwrap()),
                            "{text}, fifo: {fifo}, start {turn}: {named}"
                        );
                        assert!(named.contains("move it away"), "{text}, fifo: {fifo}, start {turn}: {named}");
                        assert!(!of_log.iter().any(|kind| text.ends_with(kind)), "{text}, fifo: {fifo}: {named}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_foreign_file_among_the_logs_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    storage(dir.path()).await;
    let mark = files(dir.path()).into_iter().find(|path| path.ends_with("mark")).unwrap();
    // Its partition's directory, its topic's, and that of all logs.
    let foreign: Vec<_> = mark.ancestors().skip(2).take(3).map(|dir| dir.join("notes.txt")).collect();
    for path in &foreign {
        fs::write(path, "not ours").unwrap();
    }
    for _ in 0..2 {
        assert_eq!(start(dir.path()).unwrap(), 0);
    }
    assert!(foreign.iter().all(|path| fs::read(path).unwrap() == b"not ours"));
}

/// What is put in the place of a directory.
#[derive(Clone, Copy, Debug)]
enum Strange {
    File,
    Fifo,
    Socket,
    /// A link to nothing.
    Link,
}

const ALL_STRANGE: [Strange; 4] = [Strange::File, Strange::Fifo, Strange::Socket, Strange::Link];

impl Strange {
    fn put(self, path: &Path) {
        match self {
            Self::File => fs::write(path, "not ours").unwrap(),
            Self::Fifo => mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
            Self::Socket => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
            Self::Link => std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap(),
        }
    }

    /// Whether a text says what is there, and what to do.
    fn is_told(self, text: &str) -> bool {
        let parts: [&str; 2] = match self {
            Self::File => ["a plain file, and no directory", "move it away, and put back the directory"],
            Self::Fifo => ["a FIFO, and no directory", "move it away, and put back the directory"],
            Self::Socket => ["a socket, and no directory", "move it away, and put back the directory"],
            Self::Link => ["a symbolic link to /nowhere/at/all, where nothing is", "mount or make what it leads to"],
        };
        parts.iter().all(|part| text.contains(part))
    }
}

/// Two logs of one topic and one of another.
fn three_logs() -> [(LogId, LogOptions); 3] {
    let other = LogId::records(TopicId(uuid::Uuid::from_u128(0xf12)), PartitionId(0));
    let kept = |durability| LogOptions { segment_bytes: 8 << 10, durability, made_by: 5, ..LogOptions::default() };
    [(log_id(0), kept(Durability::Fsync)), (log_id(1), kept(Durability::Replicated)), (other, kept(Durability::Fsync))]
}

fn dir_of(root: &Path, id: LogId) -> PathBuf {
    root.join(format!("logs/{}/{}/records-0", id.topic, id.partition))
}

/// Opens the storage, appends a batch to each log of `appended`, and checks that each of `whole` holds so many records. Gives what is
/// told of those that are out of service: at the start, and where they are opened.
async fn serve(root: &Path, whole: &[(LogId, i64)], appended: &[LogId], close: bool) -> Vec<(LogId, String)> {
    let (storage, _) = Storage::open(options(root), real::env()).unwrap();
    for (id, options) in three_logs() {
        match storage.open_log(id, options) {
            Ok(log) => {
                if appended.contains(&id) {
                    log.start_epoch(EPOCH).unwrap().await.unwrap();
                    let time = 100 * i64::from(id.partition.0) + i64::from(id.topic == log_id(0).topic);
                    let batch = batch(1, 3_000, time + 2 * log.end_offset().0);
                    log.append(batch, EPOCH).unwrap().ticket.await.unwrap();
                }
                let Some((_, end)) = whole.iter().find(|(of, _)| *of == id) else { panic!("{id} is in service") };
                assert_eq!((log.start_offset(), log.end_offset()), (Offset(0), Offset(*end)), "{id}");
                assert_eq!(common::read_all(&log, Offset(*end), 5_000).len() as i64, *end, "{id}");
            }
            Err(error) => {
                assert!(matches!(error, OpenLogError::OutOfService { .. }), "{error}");
                assert!(whole.iter().all(|(of, _)| *of != id), "{id}: {error}");
            }
        }
    }
    let told = storage.out_of_service().iter().map(|(id, error)| (*id, error.to_string())).collect();
    match close {
        true => storage.close().await.unwrap(),
        false => storage.abandon().await,
    }
    told
}

/// It ended the whole start. What the journal has of the log is kept until its directory is back.
#[tokio::test(flavor = "multi_thread")]
async fn something_else_in_place_of_a_logs_directory_costs_that_log_and_loses_nothing_of_it() {
    let [(journaled, _), (replicated, _), (other, _)] = three_logs();
    let mut held_aside = 0;
    for strange in ALL_STRANGE {
        for (of, depth) in [(journaled, 0), (replicated, 0), (journaled, 1), (replicated, 1), (journaled, 2)] {
            for close in [false, true] {
                let what = format!("{strange:?} in place of {of}, {depth} above, closed: {close}");
                let temp = tempfile::tempdir().unwrap();
                let root = temp.path().join("data");
                let all = [journaled, replicated, other];
                for turn in 1..=2 {
                    serve(&root, &all.map(|id| (id, turn)), &all, close).await;
                }
                if close {
                    // The journal has nothing of them any more.
                    serve(&root, &all.map(|id| (id, 2)), &[], true).await;
                }
                let place = dir_of(&root, of).ancestors().nth(depth).unwrap().to_owned();
                let moved = temp.path().join("moved");
                fs::rename(&place, &moved).unwrap();
                strange.put(&place);
                let lost: Vec<_> = if depth == 2 { vec![journaled, replicated] } else { vec![of] };
                for turn in 3..=4 {
                    let ends = all.map(|id| (id, if id == other { turn } else { 2 }));
                    let whole: Vec<_> = ends.into_iter().filter(|(id, _)| !lost.contains(id)).collect();
                    let told = serve(&root, &whole, &[other], close).await;
                    assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), lost, "{what}: {told:?}");
                    for (_, text) in told {
                        assert!(text.contains(place.to_str().unwrap()) && strange.is_told(&text), "{what}: {text}");
                    }
                }
                held_aside += usize::from(fs::read_dir(root.join("held")).is_ok_and(|held| held.count() > 0));
                fs::remove_file(&place).unwrap();
                fs::rename(&moved, &place).unwrap();
                for turn in 0..2 {
                    let whole = all.map(|id| (id, if id == other { 4 } else { 2 }));
                    assert_eq!(serve(&root, &whole, &[], close).await, [], "{what}, start {turn}");
                    let held = fs::read_dir(root.join("held")).map_or(0, Iterator::count);
                    assert_eq!(held, 0, "{what}: what was held is in the log");
                }
            }
        }
    }
    assert!(held_aside > 0, "nothing was ever kept aside");
}

/// Nothing was written of it yet, and a directory is to be made for it.
#[tokio::test]
async fn a_log_that_has_an_epoch_and_no_directory_keeps_it() {
    let [(journaled, options_of), ..] = three_logs();
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("data");
    let (storage, _) = Storage::open(options(&root), real::env()).unwrap();
    let log = storage.open_log(journaled, options_of).unwrap();
    log.start_epoch(EPOCH).unwrap().await.unwrap();
    storage.abandon().await;
    let topic = dir_of(&root, journaled).ancestors().nth(2).unwrap().to_owned();
    fs::remove_dir_all(&topic).unwrap();
    Strange::File.put(&topic);
    for _ in 0..2 {
        let (storage, recovered) = Storage::open(options(&root), real::env()).unwrap();
        let opened = storage.open_log(journaled, options_of);
        assert!(matches!(opened, Err(OpenLogError::OutOfService { .. })), "{opened:?}");
        assert_eq!((recovered.logs, storage.out_of_service().len()), (0, 1));
        storage.abandon().await;
    }
    fs::remove_file(&topic).unwrap();
    let (storage, _) = Storage::open(options(&root), real::env()).unwrap();
    assert_eq!(storage.log(journaled).unwrap().latest_epoch(), Some(EPOCH));
}

/// What is kept aside of it goes, too, and what was in its place with the trash.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_something_else_in_place_of_its_directory_can_be_deleted() {
    let [(journaled, _), (replicated, _), (other, _)] = three_logs();
    for strange in ALL_STRANGE {
        for (of, depth) in [(journaled, 0), (replicated, 0), (journaled, 1)] {
            // Its deletion is carried out, or replayed by the next start.
            for close in [true, false] {
                let what = format!("{strange:?} in place of {of}, {depth} above, closed: {close}");
                let temp = tempfile::tempdir().unwrap();
                let root = temp.path().join("data");
                let all = [journaled, replicated, other];
                serve(&root, &all.map(|id| (id, 1)), &all, false).await;
                let place = dir_of(&root, of).ancestors().nth(depth).unwrap().to_owned();
                fs::rename(&place, temp.path().join("moved")).unwrap();
                strange.put(&place);
                let (storage, recovered) = Storage::open(options(&root), real::env()).unwrap();
                assert_eq!(recovered.out_of_service, 1, "{what}");
                storage.delete_log(of).unwrap().await.unwrap();
                if close {
                    storage.close().await.unwrap();
                }
                storage.abandon().await;
                if close {
                    let held = fs::read_dir(root.join("held")).map_or(0, Iterator::count);
                    assert_eq!(held, 0, "{what}: it is held when its deletion has been carried out");
                }
                let (storage, recovered) = Storage::open(options(&root), real::env()).unwrap();
                assert_eq!(recovered.out_of_service, 0, "{what}");
                assert_eq!(storage.log(of).map(|log| log.end_offset()), None, "{what}");
                let held = fs::read_dir(root.join("held")).map_or(0, Iterator::count);
                assert_eq!(held, 0, "{what}: it is held still");
                let cleared = async {
                    while fs::read_dir(root.join("trash")).unwrap().count() > 0 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(60), cleared).await.expect("the trash is cleared");
                storage.close().await.unwrap();
                storage.abandon().await;
                // What is in the place of a partition's directory is not the log's, and is told of again.
                assert_eq!(fs::symlink_metadata(&place).is_ok(), depth == 1, "{what}");
                assert_eq!(start(&root).unwrap(), depth, "{what}");
            }
        }
    }
}

/// Nothing in the trash is missed, but what a link leads to: that was never deleted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_foreign_in_the_trash_goes_and_what_a_link_leads_to_stays() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("data");
    serve(&root, &three_logs().map(|(id, _)| (id, 1)), &three_logs().map(|(id, _)| id), true).await;
    let (trash, kept) = (root.join("trash"), temp.path().join("kept"));
    fs::create_dir_all(kept.join("within")).unwrap();
    // So large that it would go in steps.
    fs::File::create(kept.join("file")).unwrap().set_len(100 << 20).unwrap();
    for strange in ALL_STRANGE {
        strange.put(&trash.join(format!("{strange:?}")));
        fs::create_dir(trash.join(format!("dir-{strange:?}"))).unwrap();
        strange.put(&trash.join(format!("dir-{strange:?}/inside")));
    }
    fs::create_dir_all(trash.join("foreign/within/deeper")).unwrap();
    fs::write(trash.join("foreign/within/deeper/file"), "foreign").unwrap();
    for (name, to) in [("to-dir", ""), ("to-file", "file"), ("foreign/to-dir", ""), ("foreign/to-file", "file")] {
        std::os::unix::fs::symlink(kept.join(to), trash.join(name)).unwrap();
    }
    let (storage, _) = Storage::open(options(&root), real::env()).unwrap();
    let cleared = async {
        while fs::read_dir(&trash).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), cleared).await;
    assert!(ended.is_ok(), "left: {:?}", files(&trash));
    storage.close().await.unwrap();
    assert_eq!(fs::metadata(kept.join("file")).unwrap().len(), 100 << 20);
    assert!(kept.join("within").is_dir());
}

/// The start ends there, and says what is in the way.
#[test]
fn something_else_in_place_of_a_directory_of_the_storage_is_named_with_what_to_do() {
    for strange in ALL_STRANGE {
        for name in ["", "logs", "journal", "trash", "held"] {
            let temp = tempfile::tempdir().unwrap();
            let root = temp.path().join("data");
            let place = if name.is_empty() { root.clone() } else { root.join(name) };
            if !name.is_empty() {
                assert_eq!(start(&root).unwrap(), 0);
                let _ = fs::remove_dir_all(&place);
            }
            strange.put(&place);
            for turn in 0..2 {
                let text = start(&root).unwrap_err().to_string();
                let told = text.contains(place.to_str().unwrap()) && strange.is_told(&text);
                assert!(told, "{strange:?} in place of {name}, start {turn}: {text}");
            }
        }
    }
}

/// Nothing in a segment names its log: what one log was sent was served as another's.
#[tokio::test]
async fn segments_that_were_exchanged_are_not_served_as_each_others() {
    let [(journaled, _), (replicated, _), (other, _)] = three_logs();
    for (more, close) in [(0, true), (0, false), (1, true), (1, false)] {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let all = [journaled, replicated, other];
        serve(&root, &all.map(|id| (id, 1)), &all, close).await;
        // Of the same length, or not.
        if more > 0 {
            serve(&root, &[(journaled, 2), (replicated, 1), (other, 1)], &[journaled], close).await;
        }
        // Whoever is not closed has its mark with the next start.
        let whole = [(journaled, 1 + more), (replicated, 1), (other, 1)];
        serve(&root, &whole, &[], close).await;
        let exchange_files = || {
            for name in ["00000000000000000000.log", "00000000000000000000.index"] {
                let [one, two] = [journaled, other].map(|id| dir_of(&root, id).join(name));
                if one.exists() || two.exists() {
                    let beside = temp.path().join("beside");
                    let _ = fs::rename(&one, &beside);
                    let _ = fs::rename(&two, &one);
                    let _ = fs::rename(&beside, &two);
                }
            }
        };
        exchange_files();
        for turn in 0..2 {
            let told = serve(&root, &[(replicated, 1)], &[], close).await;
            assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [journaled, other], "{more} {close} {turn}");
            for (_, text) in told {
                assert!(text.contains("00.log") && text.contains("another log's segment"), "{text}");
            }
        }
        exchange_files();
        assert_eq!(serve(&root, &whole, &[], close).await, []);
        // The medium has changed its CRC: that is damage of one batch, found where it is read.
        let path = dir_of(&root, other).join("00000000000000000000.log");
        let mut bytes = fs::read(&path).unwrap();
        bytes[18] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(start(&root).unwrap(), 0);
    }
}

/// What all files below a directory hold.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(dir).into_iter().map(|path| (path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

fn exchange(temp: &Path, one: &Path, two: &Path) {
    let beside = temp.join("beside");
    for (from, to) in [(one, &*beside), (two, one), (&*beside, two)] {
        fs::rename(from, to).unwrap();
    }
}

/// Each has its mark with it, and nothing in it but that tells whose it is: they were served as each other's, and the journal's frames
/// of one replayed into the other's.
#[tokio::test(flavor = "multi_thread")]
async fn directories_that_were_exchanged_are_not_served_or_written_to_and_whole_when_put_back() {
    let [(journaled, _), (replicated, _), (other, _)] = three_logs();
    let all = [journaled, replicated, other];
    // At which depth the directories are that are exchanged: of the logs, their partitions, or their topics.
    for (one, two, depth) in
        [(journaled, other, 0), (journaled, replicated, 1), (replicated, other, 1), (journaled, other, 2)]
    {
        for (more, close) in [(0, true), (0, false), (1, true), (1, false)] {
            let what = format!("{one} and {two}, {depth} above, {more} more, closed: {close}");
            let temp = tempfile::tempdir().unwrap();
            let root = temp.path().join("data");
            // Whoever is not closed has its mark with the second start, and something past it, in the journal.
            for turn in 1..=2 {
                serve(&root, &all.map(|id| (id, turn)), &all, close).await;
            }
            let ends = all.map(|id| (id, 2 + if id == one { more } else { 0 }));
            if more > 0 {
                serve(&root, &ends, &[one], close).await;
            }
            let places = [one, two].map(|id| dir_of(&root, id).ancestors().nth(depth).unwrap().to_owned());
            exchange(temp.path(), &places[0], &places[1]);
            // Of a topic's other partition there was none: what is in its place is told of, too.
            let strays = LogId { partition: replicated.partition, ..other };
            let lost: Vec<_> = match depth {
                2 => vec![journaled, replicated, other, strays],
                _ => all.into_iter().filter(|id| [one, two].contains(id)).collect(),
            };
            let held = places.clone().map(|place| contents(&place));
            for turn in 0..2 {
                let whole: Vec<_> = ends.into_iter().filter(|(id, _)| !lost.contains(id)).collect();
                let told = serve(&root, &whole, &[], close).await;
                assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), lost, "{what}, start {turn}");
                for (id, text) in told.iter().filter(|(id, _)| [one, two].contains(id)) {
                    let from = if *id == one { two } else { one };
                    assert!(
                        text.contains(&format!("{} holds the log {from}", dir_of(&root, *id).display())),
                        "{what}: {text}"
                    );
                }
                assert_eq!(places.clone().map(|place| contents(&place)), held, "{what}, start {turn}");
            }
            exchange(temp.path(), &places[0], &places[1]);
            for turn in 0..2 {
                assert_eq!(serve(&root, &ends, &[], close).await, [], "{what}, put back, start {turn}");
            }
        }
    }
}

/// Files are opened by their names, and not all at once: marks were written into the other's directory, and records into its segment.
#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_exchanged_under_a_running_storage_end_it_and_are_whole_when_put_back() {
    let [(one, _), (replicated, _), (two, _)] = three_logs();
    for (depth, opened) in [(0, true), (0, false), (2, true), (2, false)] {
        let what = format!("{depth} above, segments opened before: {opened}");
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let all = [one, replicated, two];
        for turn in 1..=2 {
            serve(&root, &all.map(|id| (id, turn)), &all, true).await;
        }
        let (storage, _) = Storage::open(options(&root), real::env()).unwrap();
        let append = |id, time| storage.log(id).unwrap().append(batch(1, 1000, time), EPOCH);
        if opened {
            append(one, 1).unwrap().ticket.await.unwrap();
        }
        let places = [one, two].map(|id| dir_of(&root, id).ancestors().nth(depth).unwrap().to_owned());
        exchange(temp.path(), &places[0], &places[1]);
        if opened {
            // It goes where the log's own file is now.
            append(one, 2).unwrap().ticket.await.unwrap();
        } else {
            let read = storage.log(two).unwrap().read(Offset(0), Offset(2), 5_000).err().unwrap().to_string();
            assert!(read.contains(&format!("that of the log {one}")), "{what}: {read}");
        }
        let held = places.clone().map(|place| contents(&place));
        let failed = match opened {
            true => storage.close().await.unwrap_err().to_string(),
            false => append(one, 1).err().unwrap().to_string(),
        };
        for part in [&format!("that of the log {two}"), "directories were exchanged", "put each directory back"] {
            assert!(failed.contains(part), "{what}: no {part:?} in {failed}");
        }
        storage.abandon().await;
        assert_eq!(places.clone().map(|place| contents(&place)), held, "{what}");
        exchange(temp.path(), &places[0], &places[1]);
        let ends = [(one, if opened { 4 } else { 2 }), (replicated, 2), (two, 2)];
        for turn in 0..2 {
            assert_eq!(serve(&root, &ends, &[], true).await, [], "{what}, put back, start {turn}");
        }
    }
}

/// Nothing in a log that was never synced says whose it is: no mark, and its segments name nobody.
#[tokio::test(flavor = "multi_thread")]
async fn so_are_directories_of_logs_that_were_never_synced() {
    let [(one, _), _, (two, _)] = three_logs();
    for (depth, rolls) in [(0, true), (0, false), (2, true), (2, false)] {
        let what = format!("{depth} above, a segment begins: {rolls}");
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        // No sync of its own: neither for open files nor for the journal.
        let unpressed = StorageOptions { open_segments_max: 100, ..options(&root) };
        let (storage, _) = Storage::open(unpressed, real::env()).unwrap();
        for (id, records) in [(one, 4), (two, 7)] {
            let options = LogOptions { segment_bytes: 8 << 10, ..LogOptions::default() };
            let log = storage.open_log(id, options).unwrap();
            log.start_epoch(EPOCH).unwrap().await.unwrap();
            for time in 0..records {
                log.append(batch(1, 3_000, time + i64::from(id == two)), EPOCH).unwrap().ticket.await.unwrap();
            }
        }
        let places = [one, two].map(|id| dir_of(&root, id));
        assert!(places.iter().all(|place| !place.join("mark").exists()));
        let exchanged = places.clone().map(|place| place.ancestors().nth(depth).unwrap().to_owned());
        exchange(temp.path(), &exchanged[0], &exchanged[1]);
        let held = exchanged.clone().map(|place| contents(&place));
        let log = storage.log(one).unwrap();
        let failed = match rolls {
            // Where its next segment would begin is one of the other's.
            true => log.append(batch(1, 3_000, 4), EPOCH).err().unwrap().to_string(),
            false => storage.close().await.unwrap_err().to_string(),
        };
        for part in ["not the one that was there", "directories were exchanged", "put each directory back"] {
            assert!(failed.contains(part), "{what}: no {part:?} in {failed}");
        }
        storage.abandon().await;
        let after = exchanged.clone().map(|place| contents(&place));
        let names = |of: &[Vec<(PathBuf, Vec<u8>)>; 2]| {
            of.clone().map(|files| files.into_iter().map(|(path, _)| path).collect::<Vec<_>>())
        };
        assert_eq!(names(&after), names(&held), "{what}");
        assert!(after == held, "{what}: a file has other bytes");
        exchange(temp.path(), &exchanged[0], &exchanged[1]);
        let (storage, _) = Storage::open(options(&root), real::env()).unwrap();
        for (id, records) in [(one, 4), (two, 7)] {
            let log = storage.log(id).unwrap();
            assert_eq!(log.end_offset(), Offset(records), "{what}: {id}");
            assert_eq!(common::read_all(&log, Offset(records), 5_000).len() as i64, records, "{what}: {id}");
        }
        storage.close().await.unwrap();
    }
}

/// What is in its place is another's, and stays; what is its own goes when it is put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_deleted_takes_no_other_with_it_whose_directory_is_in_its_place() {
    let [(one, _), (replicated, _), (two, _)] = three_logs();
    for close in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let ends = [one, replicated, two].map(|id| (id, 1));
        serve(&root, &ends, &[one, replicated, two], true).await;
        let places = [one, two].map(|id| dir_of(&root, id));
        exchange(temp.path(), &places[0], &places[1]);
        let (storage, _) = Storage::open(options(&root), real::env()).unwrap();
        // What is noted there is of the other's making; but the metadata has come that far.
        assert_eq!([one, two].map(|id| storage.made_by(id)), [None, None]);
        assert_eq!(storage.followed(), 5);
        storage.delete_log(one).unwrap().await.unwrap();
        if close {
            storage.close().await.unwrap();
        }
        storage.abandon().await;
        // Its deletion is replayed, or was carried out.
        assert!(start(&root).unwrap() >= 1);
        exchange(temp.path(), &places[0], &places[1]);
        let (storage, _) = Storage::open(options(&root), real::env()).unwrap();
        assert_eq!(storage.log(two).unwrap().end_offset(), Offset(1), "closed: {close}");
        assert_eq!(storage.out_of_service().len(), 0, "closed: {close}");
    }
}

/// Another's directory was put in the place of one that has no mark yet: nothing of that is served, or begun afresh.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_directory_is_in_place_of_anothers_does_not_begin_afresh() {
    let [(one, _), (replicated, _), (two, _)] = three_logs();
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("data");
    serve(&root, &[(one, 0), (replicated, 0), (two, 1)], &[two], true).await;
    // Its records are in the journal only, as far as a start believes.
    serve(&root, &[(one, 1), (replicated, 0), (two, 1)], &[one], false).await;
    let places = [one, two].map(|id| dir_of(&root, id));
    assert!(!places[0].join("mark").exists());
    exchange(temp.path(), &places[0], &places[1]);
    let held = places.clone().map(|place| contents(&place));
    for turn in 0..2 {
        let told = serve(&root, &[(replicated, 0)], &[], false).await;
        assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [one, two], "start {turn}");
        let moved = format!("{} is not in its place: it is at {}", places[1].display(), places[0].display());
        assert!(told[1].1.contains(&moved), "{}", told[1].1);
        assert_eq!(places.clone().map(|place| contents(&place)), held, "start {turn}");
    }
    exchange(temp.path(), &places[0], &places[1]);
    assert_eq!(serve(&root, &[(one, 1), (replicated, 0), (two, 1)], &[], false).await, []);
}

/// All that is in the trash is deleted: where a link leads, that would be somebody else's.
#[tokio::test]
async fn a_link_in_place_of_the_trash_is_refused_and_nothing_is_deleted_where_it_leads() {
    let dir = tempfile::tempdir().unwrap();
    storage(dir.path()).await;
    let precious = tempfile::tempdir().unwrap();
    fs::write(precious.path().join("file"), b"precious").unwrap();
    let trash = dir.path().join("trash");
    fs::remove_dir_all(&trash).unwrap();
    std::os::unix::fs::symlink(precious.path(), &trash).unwrap();
    let refused = start(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("trash") && refused.contains("symbolic link"), "{refused}");
    assert_eq!(fs::read(precious.path().join("file")).unwrap(), b"precious");
    fs::remove_file(&trash).unwrap();
    assert_eq!(start(dir.path()).unwrap(), 0);
}
