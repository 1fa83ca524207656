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
use millstream_log::{LogOptions, OpenError, Storage};
use millstream_model::{Durability, LeaderEpoch};
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
