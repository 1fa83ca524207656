//! What the simulated disk promises, and what it breaks on purpose.

use std::io::ErrorKind;

use super::*;

const DIR: &str = "/data";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A disk with a durable directory.
fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// Makes a file, durable name and bytes.
fn durable_file(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(&path(name), OpenMode::CreateNew).unwrap();
    write(&*file, bytes, 0);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

fn write(file: &dyn DiskFile, bytes: &[u8], at: u64) {
    file.write_at(&[IoSlice::new(bytes)], at).unwrap();
}

fn read(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(&path(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0xee; file.len().unwrap() as usize + 10];
    let count = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(count);
    assert_eq!(count as u64, file.len().unwrap());
    bytes
}

#[test]
fn what_was_written_is_read_across_pages_and_parts() {
    let disk = disk(1);
    let file = disk.open(&path("f"), OpenMode::Create).unwrap();
    let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    let parts: Vec<_> = bytes.chunks(777).map(IoSlice::new).collect();
    file.write_at(&parts, 4000).unwrap();
    let mut expected = vec![0; 4000];
    expected.extend(&bytes);
    assert_eq!(read(&disk, "f"), expected);
    file.set_len(5000).unwrap();
    file.set_len(6000).unwrap();
    expected.truncate(5000);
    expected.resize(6000, 0);
    assert_eq!(read(&disk, "f"), expected);
}

#[test]
fn a_crash_loses_exactly_what_was_not_synced() {
    for seed in 0..50 {
        let disk = disk(seed);
        let file = durable_file(&disk, "f", &[1; 8192]);
        write(&*file, &[2; 8192], 4096);
        disk.crash_losing_all();
        assert_eq!(read(&disk, "f"), [1; 8192]);

        let file = disk.open(&path("f"), OpenMode::Write).unwrap();
        write(&*file, &[2; 8192], 4096);
        disk.crash(&SimRng::new(seed));
        let bytes = read(&disk, "f");
        assert_eq!(bytes[..4096], [1; 4096], "synced, and not written since");
        assert!((8192..=12288).contains(&bytes.len()), "the length is one between the old and the new");
        for (sector, old) in bytes[4096..].chunks(SECTOR_BYTES).zip((0..8).map(|_| 1).chain([0; 8])) {
            assert!(sector.iter().all(|b| *b == 2) || sector.iter().all(|b| *b == old), "whole sectors: {sector:?}");
        }
    }
}

#[test]
fn crashes_tear_and_keep_in_all_ways_over_the_seeds() {
    let (mut all, mut none, mut torn, mut between) = (0, 0, 0, 0);
    for seed in 0..200 {
        let disk = disk(seed);
        let file = durable_file(&disk, "f", &[1; 1024]);
        write(&*file, &[2; 1024], 0);
        for version in 3..20 {
            write(&*file, &[version; 1024], 0);
        }
        disk.crash(&SimRng::new(seed));
        match &read(&disk, "f")[..] {
            bytes if bytes.iter().any(|b| (2..19).contains(b)) => between += 1,
            bytes if bytes == [19; 1024] => all += 1,
            bytes if bytes == [1; 1024] => none += 1,
            _ => torn += 1,
        }
    }
    assert!(all > 5 && none > 5 && torn > 5 && between > 5, "{all} {none} {torn} {between}");
}

#[test]
fn a_cut_that_was_not_synced_may_come_back_and_never_in_part() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = disk(seed);
        let file = durable_file(&disk, "f", &[1; 10_000]);
        file.set_len(100).unwrap();
        disk.crash(&SimRng::new(seed));
        let bytes = read(&disk, "f");
        assert!(bytes.iter().all(|b| *b == 1));
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [100, 10_000]);
}

#[test]
fn what_a_cut_took_does_not_come_back_when_the_file_grows() {
    for seed in 0..50 {
        let disk = disk(seed);
        let file = durable_file(&disk, "f", &[1; 10_000]);
        file.set_len(100).unwrap();
        file.set_len(10_000).unwrap();
        file.sync_data().unwrap();
        disk.crash(&SimRng::new(seed));
        let mut expected = vec![1; 100];
        expected.resize(10_000, 0);
        assert_eq!(read(&disk, "f"), expected);
    }
}

#[test]
fn a_failed_sync_does_not_make_data_durable_and_the_next_one_does_not_either() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        let file = durable_file(&disk, "f", &[1; 4096]);
        write(&*file, &[2; 4096], 0);
        disk.inject(Fault::nth(DiskOperation::SyncData, 1).on("f"));
        file.sync_data().unwrap_err();
        assert_eq!(read(&disk, "f"), [2; 4096], "the page cache still shows it");
        file.sync_data().unwrap();
        disk.crash_losing_all();
        lost += u32::from(read(&disk, "f").contains(&1));
    }
    assert!(lost > 45, "all 8 sectors kept by chance in {} of 50", 50 - lost);
}

#[test]
fn forgetting_shows_what_a_failed_sync_lost_and_keeps_what_is_dirty() {
    let disk = disk(3);
    let file = durable_file(&disk, "f", &[1; 8192]);
    write(&*file, &[2; 4096], 0);
    disk.inject(Fault::nth(DiskOperation::SyncData, 1));
    file.sync_data().unwrap_err();
    write(&*file, &[3; 4096], 4096);
    file.forget(0, 8192);
    let bytes = read(&disk, "f");
    assert!(bytes[..4096].contains(&1));
    assert_eq!(bytes[4096..], [3; 4096]);
}

#[test]
fn writing_again_after_a_failed_sync_makes_it_durable() {
    let disk = disk(4);
    let file = durable_file(&disk, "f", &[1; 4096]);
    write(&*file, &[2; 4096], 0);
    disk.inject(Fault::nth(DiskOperation::SyncData, 1));
    file.sync_data().unwrap_err();
    write(&*file, &[2; 4096], 0);
    file.sync_data().unwrap();
    disk.crash_losing_all();
    assert_eq!(read(&disk, "f"), [2; 4096]);
}

#[test]
fn a_name_that_was_not_synced_is_lost_with_all_that_is_behind_it() {
    let disk = disk(5);
    let file = disk.open(&path("f"), OpenMode::CreateNew).unwrap();
    write(&*file, b"abc", 0);
    file.sync_data().unwrap();
    disk.create_dir_all(&path("a/b")).unwrap();
    disk.sync_dir(&path("a")).unwrap();
    disk.crash_losing_all();
    assert!(!disk.exists(&path("f")).unwrap());
    assert!(!disk.exists(&path("a")).unwrap(), "its own name was not synced");
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn a_removed_name_comes_back_unless_synced() {
    let disk = disk(6);
    drop(durable_file(&disk, "f", b"abc"));
    disk.remove_file(&path("f")).unwrap();
    assert!(!disk.exists(&path("f")).unwrap());
    disk.crash_losing_all();
    assert_eq!(read(&disk, "f"), b"abc");
    disk.remove_file(&path("f")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.crash_losing_all();
    assert!(!disk.exists(&path("f")).unwrap());
}

#[test]
fn a_rename_in_a_directory_is_atomic() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..100 {
        let disk = disk(seed);
        drop(durable_file(&disk, "target", b"old"));
        drop(durable_file(&disk, "temporary", b"new"));
        disk.rename(&path("temporary"), &path("target")).unwrap();
        assert_eq!(read(&disk, "target"), b"new");
        disk.crash(&SimRng::new(seed));
        match &read(&disk, "target")[..] {
            b"old" => {
                old += 1;
                assert_eq!(read(&disk, "temporary"), b"new");
            }
            _ => {
                new += 1;
                assert!(!disk.exists(&path("temporary")).unwrap());
            }
        }
    }
    assert!(old > 10 && new > 10, "{old} {new}");
}

#[test]
fn a_failed_directory_sync_makes_names_durable_by_chance_only() {
    let kept = (0..100).filter(|seed| {
        let disk = disk(*seed);
        disk.open(&path("f"), OpenMode::CreateNew).unwrap();
        disk.inject(Fault::nth(DiskOperation::SyncDir, 1));
        disk.sync_dir(Path::new(DIR)).unwrap_err();
        disk.sync_dir(Path::new(DIR)).unwrap();
        assert!(disk.exists(&path("f")).unwrap());
        disk.crash(&SimRng::new(*seed));
        disk.exists(&path("f")).unwrap()
    });
    assert!((20..80).contains(&kept.count()));
}

/// Unlike after a sync that failed, the next one makes the names durable.
#[test]
fn a_directory_that_cannot_be_opened_is_not_synced_and_loses_nothing_by_it() {
    for injected in [true, false] {
        let disk = disk(7);
        let file = disk.open(&path("f"), OpenMode::CreateNew).unwrap();
        match injected {
            true => disk.inject(Fault::nth(DiskOperation::SyncDir, 1).with(FaultError::Descriptors)),
            false => disk.set_descriptors(Some(1)),
        }
        assert_eq!(lack(&disk.sync_dir(Path::new(DIR)).unwrap_err()), Some(Lack::Descriptors));
        drop(file);
        disk.sync_dir(Path::new(DIR)).unwrap();
        disk.crash_losing_all();
        assert!(disk.exists(&path("f")).unwrap());
    }
}

#[test]
fn handles_and_locks_die_with_the_machine_and_with_the_process() {
    let disk = disk(7);
    let file = durable_file(&disk, "f", b"abc");
    let lock = disk.lock(&path("LOCK")).unwrap();
    assert_eq!(disk.lock(&path("LOCK")).err().unwrap().kind(), ErrorKind::WouldBlock);
    write(&*file, b"xyz", 0);
    disk.kill();
    file.read_at(&mut [0], 0).unwrap_err();
    file.sync_data().unwrap_err();
    assert_eq!(read(&disk, "f"), b"xyz", "a process that ends loses nothing");
    let again = disk.lock(&path("LOCK")).unwrap();
    drop(lock);
    assert!(disk.lock(&path("LOCK")).is_err(), "the dead process's guard releases nothing");
    disk.crash_losing_all();
    drop(again);
    disk.lock(&path("LOCK")).unwrap();
}

#[test]
fn a_full_disk_refuses_growth_and_recovers_when_space_returns() {
    let disk = disk(8);
    disk.set_capacity(Some(4 * PAGE_BYTES as u64));
    let file = disk.open(&path("f"), OpenMode::Create).unwrap();
    file.reserve(2 * PAGE_BYTES as u64).unwrap();
    let other = disk.open(&path("g"), OpenMode::Create).unwrap();
    assert_eq!(other.reserve(3 * PAGE_BYTES as u64).unwrap_err().kind(), ErrorKind::StorageFull);
    write(&*other, &[1; 2 * PAGE_BYTES], 0);
    let error = other.write_at(&[IoSlice::new(&[1; 10])], 2 * PAGE_BYTES as u64).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    write(&*file, &[1; 2 * PAGE_BYTES], 0);
    disk.remove_file(&path("f")).unwrap();
    assert_eq!(disk.used_bytes(), 4 * PAGE_BYTES as u64, "still open");
    drop(file);
    assert_eq!(disk.used_bytes(), 2 * PAGE_BYTES as u64);
    write(&*other, &[1; 10], 2 * PAGE_BYTES as u64);
    other.set_len(1).unwrap();
    assert_eq!(disk.used_bytes(), PAGE_BYTES as u64);
}

#[test]
fn the_nth_write_fails_after_a_prefix_at_most() {
    let disk = disk(9);
    let file = disk.open(&path("f"), OpenMode::Create).unwrap();
    disk.inject(Fault::nth(DiskOperation::Write, 3).on("f"));
    write(&*file, &[1; 100], 0);
    write(&*file, &[2; 100], 100);
    file.write_at(&[IoSlice::new(&[3; 50]), IoSlice::new(&[3; 50])], 200).unwrap_err();
    assert!((200..300).contains(&file.len().unwrap()));
    write(&*file, &[4; 100], 200);
    assert_eq!(disk.counts().writes, 4);
    disk.inject(Fault::nth(DiskOperation::Write, 1).for_good());
    for _ in 0..3 {
        file.write_at(&[IoSlice::new(&[5])], 0).unwrap_err();
    }
    disk.clear_faults();
    write(&*file, &[5], 0);
}

#[test]
fn names_follow_the_rules_of_a_file_system() {
    let disk = disk(10);
    let kind = |result: io::Result<Arc<dyn DiskFile>>| result.err().unwrap().kind();
    assert_eq!(kind(disk.open(&path("no"), OpenMode::Read)), ErrorKind::NotFound);
    assert_eq!(kind(disk.open(&path("no/f"), OpenMode::Create)), ErrorKind::NotFound);
    assert_eq!(kind(disk.open(Path::new(DIR), OpenMode::Read)), ErrorKind::InvalidData);
    assert_eq!(kind(disk.open(&path("../f"), OpenMode::Create)), ErrorKind::InvalidInput);
    drop(durable_file(&disk, "f", b"1"));
    assert_eq!(kind(disk.open(&path("f"), OpenMode::CreateNew)), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open(&path("f/g"), OpenMode::Create)), ErrorKind::NotADirectory);
    let reader = disk.open(&path("f"), OpenMode::Read).unwrap();
    assert_eq!(reader.write_at(&[IoSlice::new(b"x")], 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    disk.create_dir_all(&path("d/e")).unwrap();
    assert_eq!(disk.rename(&path("d"), &path("d/e/x")).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(disk.rename(&path("f"), &path("d")).unwrap_err().kind(), ErrorKind::IsADirectory);
    disk.rename(&path("f"), &path("d/e/g")).unwrap();
    assert_eq!(disk.read_dir(Path::new(DIR)).unwrap(), [path("d")]);
    assert_eq!(disk.read_dir(&path("d/e")).unwrap(), [path("d/e/g")]);
    disk.remove_dir_all(&path("d")).unwrap();
    assert_eq!(disk.read_dir(Path::new(DIR)).unwrap(), [] as [PathBuf; 0]);
    disk.crash_losing_all();
    assert_eq!(read(&disk, "f"), b"1");
}

#[test]
fn rot_shows_now_and_after_a_crash() {
    let disk = disk(11);
    drop(durable_file(&disk, "f", &[0; 600]));
    disk.corrupt(&path("f"), 555, 0x10).unwrap();
    disk.corrupt(&path("f"), 5555, 0x10).unwrap();
    for _ in 0..2 {
        assert_eq!(read(&disk, "f").iter().position(|b| *b == 0x10), Some(555));
        disk.crash_losing_all();
    }
}

#[test]
fn the_same_seed_leaves_the_same_bytes() {
    let run = |seed| {
        let disk = disk(seed);
        let file = durable_file(&disk, "f", &[1; 20_000]);
        for version in 2..10 {
            write(&*file, &[version; 9000], u64::from(version) * 1000);
        }
        disk.crash(&SimRng::new(seed));
        read(&disk, "f")
    };
    assert_eq!(run(12), run(12));
    assert_ne!(run(12), run(13));
}
