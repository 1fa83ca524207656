//! The log's files against a model: whatever is appended, cut, purged and restarted, they hold what the model holds.

use millstream_env::sim::{SimDisk, SimRng};
use proptest::prelude::*;

use super::*;
use crate::disk::make_dir;

const DIR: &str = "/log";

fn open(disk: &SimDisk) -> Result<LogFiles, FileError> {
    open_with(disk, 500)
}

fn open_with(disk: &SimDisk, file_bytes: u64) -> Result<LogFiles, FileError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    LogFiles::find(disk.clone(), Path::new(DIR), file_bytes, false)?.settle(&disk)
}

fn fresh() -> (SimDisk, LogFiles) {
    let disk = SimDisk::new(3);
    make_dir(&disk, Path::new(DIR)).unwrap();
    let log = open(&disk).unwrap();
    (disk, log)
}

fn entry(term: u64, index: u64, bytes: usize) -> RawEntry {
    RawEntry { place: EntryPlace { term, index }, kind: Kind::Normal, payload: vec![index as u8; bytes].into() }
}

fn whole(log: &LogFiles) -> Vec<RawEntry> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}

#[test]
fn a_hole_or_an_oversized_entry_is_refused() {
    let (_, mut log) = fresh();
    log.append(&[entry(1, 0, 10)]).unwrap();
    for wrong in [entry(1, 2, 10), entry(1, 0, 10), entry(1, 1, PAYLOAD_BYTES_MAX + 1)] {
        assert!(matches!(log.append(&[wrong]), Err(FileError::Io { .. })));
    }
    assert_eq!(whole(&log), [entry(1, 0, 10)]);
}

#[test]
fn a_read_is_bounded_but_never_empty() {
    let (_, mut log) = fresh();
    let entries: Vec<_> = (0..10).map(|index| entry(1, index, 100)).collect();
    log.append(&entries).unwrap();
    assert_eq!(log.read(3..9, 1).unwrap(), entries[3..4]);
    assert_eq!(log.read(3..9, 300).unwrap(), entries[3..5]);
    assert_eq!(log.read(8..100, usize::MAX).unwrap(), entries[8..]);
    assert!(log.read(10..100, usize::MAX).unwrap().is_empty());
}

#[test]
fn a_missing_file_in_the_middle_or_at_the_beginning_is_damage() {
    for gone in [0, 1] {
        let (disk, mut log) = fresh();
        for index in 0..12 {
            log.append(&[entry(1, index, 100)]).unwrap();
        }
        log.sync().unwrap();
        let firsts: Vec<u64> = log.files.keys().copied().collect();
        assert!(firsts.len() > 3);
        drop(log);
        disk.remove_file(&Path::new(DIR).join(name(firsts[gone]))).unwrap();
        assert!(matches!(open(&disk), Err(FileError::Damaged { .. })), "file {gone}");
    }
}

#[test]
fn rot_in_a_closed_file_is_damage_at_start_and_at_a_read() {
    let (disk, mut log) = fresh();
    for index in 0..12 {
        log.append(&[entry(1, index, 100)]).unwrap();
    }
    log.sync().unwrap();
    disk.corrupt(&Path::new(DIR).join(name(0)), 120, 1).unwrap();
    assert!(matches!(log.read(0..1, usize::MAX), Err(FileError::Damaged { .. })));
    drop(log);
    assert!(matches!(open(&disk), Err(FileError::Damaged { .. })));
}

#[test]
fn a_newer_format_is_named_as_such() {
    let (disk, log) = fresh();
    drop(log);
    disk.corrupt(&Path::new(DIR).join(name(0)), 8, 2).unwrap();
    assert!(matches!(open(&disk), Err(FileError::Newer { version: 3, newest: 1, .. })));
}

#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, bytes: usize },
    Sync,
    Commit,
    Truncate(u64),
    Purge(u64),
    Restart,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64, 0..200usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        3 => Just(Step::Sync),
        2 => Just(Step::Commit),
        1 => (0..6u64).prop_map(Step::Truncate),
        1 => (0..8u64).prop_map(Step::Purge),
        1 => Just(Step::Restart),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_files_hold_what_the_model_holds(steps in proptest::collection::vec(step(), 1..60)) {
        let (disk, mut log) = fresh();
        // Entries from `base` on; how many of all, purged ones included, are durable.
        let (mut model, mut base, mut durable, mut term) = (Vec::<RawEntry>::new(), 0u64, 0u64, 1u64);
        for step in steps {
            let end = base + model.len() as u64;
            match step {
                Step::Append { count, bytes } => {
                    let new: Vec<_> = (end..end + count).map(|index| entry(term, index, bytes)).collect();
                    log.append(&new).unwrap();
                    model.extend(new);
                }
                Step::Sync => { log.sync().unwrap(); durable = end; }
                Step::Commit => log.save_committed(log.last()).unwrap(),
                Step::Truncate(back) => {
                    let keep = end.saturating_sub(back).max(base);
                    let place = keep.checked_sub(1).map(|index| EntryPlace { term: 0, index });
                    log.truncate_after(place).unwrap();
                    model.truncate((keep - base) as usize);
                    if back > 0 { durable = durable.min(keep); }
                    term += 1;
                }
                Step::Purge(count) => {
                    let count = count.min(model.len() as u64);
                    if let Some(last) = count.checked_sub(1).map(|at| model[at as usize].place) {
                        log.sync().unwrap();
                        log.purge(last).unwrap();
                        model.drain(..count as usize);
                        base += count;
                        durable = end;
                    }
                }
                Step::Restart => {
                    drop(log);
                    disk.kill();
                    log = open(&disk).unwrap();
                    durable = end;
                }
                Step::Crash(seed) => {
                    drop(log);
                    disk.crash(&SimRng::new(seed));
                    log = open(&disk).unwrap();
                    // What was synced is there; of the rest, any beginning.
                    let there = log.last().map_or(0, |last| last.index + 1);
                    prop_assert!((durable..=end).contains(&there), "{durable}..={end}: {there}");
                    model.truncate((there - base) as usize);
                    durable = there;
                }
            }
            prop_assert_eq!(whole(&log), model.clone());
            let last = model.last().map(|entry| entry.place.index).or(base.checked_sub(1));
            prop_assert_eq!(log.last().map(|last| last.index), last);
            prop_assert!(log.committed().is_none_or(|committed| Some(committed.index) <= last));
        }
    }
}

proptest! {
    /// Whatever one flipped byte or one cut does to a file, nothing is read but a beginning of what was written, and a mark
    /// that says that more had been synced is never passed over.
    #[test]
    fn damage_is_refused_or_shortens_but_never_changes_the_log(at in any::<u64>(), xor in 1..=255u8, cut in any::<bool>()) {
        let disk = SimDisk::new(4);
        make_dir(&disk, Path::new(DIR)).unwrap();
        let open = || open_with(&disk, 1 << 20);
        let mut log = open().unwrap();
        let entries: Vec<_> = (0..6).map(|index| entry(1, index, 30)).collect();
        for entry in &entries {
            log.append(std::slice::from_ref(entry)).unwrap();
            log.sync().unwrap();
        }
        log.save_committed(log.last()).unwrap();
        drop(log);
        let path = Path::new(DIR).join(name(0));
        let file = disk.open(&path, OpenMode::Write).unwrap();
        let len = file.len().unwrap();
        let at = at % len;
        if cut {
            file.set_len(at).unwrap();
        } else {
            disk.corrupt(&path, at, xor).unwrap();
        }
        match open() {
            Err(FileError::Damaged { .. } | FileError::Newer { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok(log) => {
                let there = whole(&log);
                prop_assert!(entries.starts_with(&there));
                prop_assert!(cut || there.len() == entries.len(), "all had been synced: {} of {}", there.len(), entries.len());
            }
        }
    }
}
