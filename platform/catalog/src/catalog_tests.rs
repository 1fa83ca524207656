//! The whole catalog: what survives restarts, power cuts at every step, damage, and a lost or lying projection.

use std::{path::Path, time::Duration};

use millstream_env::{
    Disk, Lack, Rng,
    real::{self, RealDisk},
    sim::{DiskOperation, Fault, FaultError, SimDisk, SimRng},
};
use millstream_model::{ModuleKind, ProducerId};
use openraft::testing::log::{StoreBuilder, Suite};

use super::*;
use crate::{
    apply::{
        PRODUCER_IDS_BLOCK,
        tests::{module, register, topic, uuid},
    },
    command::Reporter,
    digest,
    raft::Types,
    refused::Refused,
};

const DIR: &str = "/data/catalog";

fn sim_env(disk: &SimDisk, seed: u64) -> Env {
    Env { disk: Arc::new(disk.clone()), rng: Arc::new(SimRng::new(seed)), ..real::env() }
}

fn sim_options() -> CatalogOptions {
    CatalogOptions {
        projection_dir: None,
        snapshot_entries: 4,
        log_file_bytes: 1_500,
        ..CatalogOptions::new(DIR, BrokerId(0))
    }
}

fn names(state: &State) -> Vec<String> {
    state.topics_by_name().map(|topic| topic.name.to_string()).collect()
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let all = RealDisk.read_dir(dir).unwrap();
    all.into_iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).collect()
}

async fn wait_for_snapshot(catalog: &Catalog) {
    let wait = catalog.group().wait(Some(Duration::from_secs(30)));
    wait.metrics(|metrics| metrics.snapshot.is_some(), "a snapshot").await.unwrap();
}

/// The disk's room is asked for beforehand; quotas show at the write only.
#[tokio::test]
async fn a_snapshot_that_there_is_no_room_for_ends_nothing_and_is_made_later() {
    let disk = SimDisk::new(1);
    let options = CatalogOptions { snapshot_entries: 1000, ..sim_options() };
    let catalog = Catalog::open(options, sim_env(&disk, 1)).await.unwrap();
    catalog.propose(register(0, 1, 2, true)).await.unwrap();
    let write = || catalog.inner.store.write_snapshot(vec![7; 9000].into());
    disk.set_capacity(Some(disk.used_bytes()));
    disk.inject(Fault::nth(DiskOperation::Open, 1).on("snapshot.tmp"));
    assert_eq!(write().await.unwrap_err().lack(), Some(Lack::Room));
    disk.set_capacity(None);
    disk.clear_faults();
    disk.inject(Fault::nth(DiskOperation::Write, 1).on("snapshot.tmp").with(FaultError::Full));
    assert_eq!(write().await.unwrap_err().lack(), Some(Lack::Room));
    assert!(!disk.exists(&Path::new(DIR).join("snapshot.tmp")).unwrap());
    catalog.propose(topic(101, "a")).await.unwrap();
    write().await.unwrap();
    assert!(disk.exists(&Path::new(DIR).join("snapshot")).unwrap());
    catalog.shutdown().await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = CatalogOptions::new(dir.path().join("catalog"), BrokerId(3));
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    let mut watch = catalog.watch();
    assert!(matches!(catalog.propose(register(3, 1, 2, true)).await, Ok(Outcome::Registered(_))));
    catalog.propose(topic(101, "a")).await.unwrap();
    let refused = catalog.propose(topic(102, "a")).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Refused(Refused::TopicExists(_))), "{refused}");
    watch.wait_for(|state| state.topic("a").is_some()).await.unwrap();
    let broker = BrokerId(3);
    let allocate = |catalog: &Catalog| Command::AllocateProducerIds {
        reporter: Reporter { broker, epoch: catalog.state().brokers[&broker].epoch },
    };
    let ids = |first| Outcome::ProducerIds(ProducerId(first));
    assert_eq!(catalog.propose(allocate(&catalog)).await.unwrap(), ids(0));
    let before = catalog.state();
    assert_ne!(before.cluster_id, ClusterId::default());
    catalog.shutdown().await;
    assert!(matches!(catalog.propose(topic(103, "b")).await, Err(ProposeError::Stopped(_))));
    let catalog = Catalog::open(options, real::env()).await.unwrap();
    assert_eq!(catalog.state(), before);
    catalog.propose(topic(103, "b")).await.unwrap();
    assert_eq!(catalog.propose(allocate(&catalog)).await.unwrap(), ids(PRODUCER_IDS_BLOCK));
    catalog.shutdown().await;
}

#[tokio::test]
async fn a_catalog_that_is_in_use_or_another_brokers_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = CatalogOptions::new(dir.path(), BrokerId(3));
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    assert!(matches!(Catalog::open(options.clone(), real::env()).await, Err(OpenError::Locked { .. })));
    catalog.shutdown().await;
    let other = CatalogOptions { broker: BrokerId(4), ..options.clone() };
    let refused = Catalog::open(other, real::env()).await.unwrap_err();
    assert!(matches!(refused, OpenError::OtherBroker { there: 3, given: BrokerId(4) }), "{refused}");
    let below = CatalogOptions { broker: BrokerId(-1), ..options.clone() };
    assert!(matches!(Catalog::open(below, real::env()).await, Err(OpenError::BrokerNumber(_))));
    // None of that stands in the way of its owner.
    Catalog::open(options, real::env()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn snapshots_replace_the_log_and_a_restart_needs_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        CatalogOptions { snapshot_entries: 10, log_file_bytes: 2_000, ..CatalogOptions::new(dir.path(), BrokerId(0)) };
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    catalog.propose(register(0, 1, 2, true)).await.unwrap();
    for n in 0..60 {
        catalog.propose(topic(100 + n, &format!("t{n}"))).await.unwrap();
    }
    wait_for_snapshot(&catalog).await;
    let wait = catalog.group().wait(Some(Duration::from_secs(30)));
    wait.metrics(|metrics| metrics.purged.is_some_and(|purged| purged.index > 20), "a purge").await.unwrap();
    let before = catalog.state();
    catalog.shutdown().await;
    let first = log_files(dir.path())[0].clone();
    assert!(!first.ends_with("log-00000000000000000000"), "old files are gone: {first:?}");
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    assert_eq!(digest(&catalog.state()), digest(&before));
    catalog.shutdown().await;
    // Without the snapshot the log does not begin at the beginning: that is said, not guessed over.
    std::fs::remove_file(dir.path().join("snapshot")).unwrap();
    let refused = Catalog::open(options, real::env()).await.unwrap_err();
    assert!(refused.to_string().contains("snapshot"), "{refused}");
    assert!(matches!(refused, OpenError::File(FileError::Damaged { .. })));
}

#[tokio::test]
async fn damaged_and_missing_files_are_refused_by_name_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = CatalogOptions { projection_dir: None, ..CatalogOptions::new(dir.path(), BrokerId(0)) };
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    catalog.propose(register(0, 1, 2, true)).await.unwrap();
    for n in 0..5 {
        catalog.propose(topic(100 + n, &format!("t{n}"))).await.unwrap();
    }
    catalog.group().trigger().snapshot().await.unwrap();
    wait_for_snapshot(&catalog).await;
    let before = catalog.state();
    catalog.shutdown().await;
    let check = async |path: &Path| {
        let refused = Catalog::open(options.clone(), real::env()).await.unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
        assert!(matches!(refused, OpenError::File(FileError::Damaged { .. })), "{text}");
    };
    let log = log_files(dir.path())[0].clone();
    let length = std::fs::metadata(&log).unwrap().len();
    let cases = [
        (dir.path().join("vote"), 30),
        (dir.path().join("snapshot"), 100),
        (log.clone(), 20),
        (log.clone(), 60),
        (log.clone(), length / 2),
        // The last entries: synced, as the mark behind them says.
        (log.clone(), length - 60),
    ];
    for (path, at) in cases {
        let whole = std::fs::read(&path).unwrap();
        flip(&path, at);
        let damaged = std::fs::read(&path).unwrap();
        check(&path).await;
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "{path:?} is left as it is");
        std::fs::write(&path, whole).unwrap();
    }
    for path in [dir.path().join("vote"), log.clone()] {
        let aside = dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        let refused = Catalog::open(options.clone(), real::env()).await.unwrap_err();
        assert!(matches!(refused, OpenError::File(FileError::Damaged { .. })), "{refused}");
        std::fs::rename(&aside, &path).unwrap();
    }
    // A tail that was never synced is cut off.
    std::fs::OpenOptions::new()
        .append(true)
        .open(&log)
        .and_then(|mut file| io::Write::write_all(&mut file, b"MSRFhalf a frame"))
        .unwrap();
    let catalog = Catalog::open(options, real::env()).await.unwrap();
    assert_eq!(catalog.state(), before);
    catalog.shutdown().await;
}

#[tokio::test]
async fn a_command_of_a_newer_build_stops_the_catalog_and_says_so() {
    let disk = SimDisk::new(1);
    let catalog = Catalog::open(sim_options(), sim_env(&disk, 1)).await.unwrap();
    let future = Proposal(bytes::Bytes::from_static(b"\x02whatever is to come"));
    assert!(catalog.group().client_write(future).await.is_err());
    assert!(catalog.failed().await.contains("newer millstream"));
    assert!(matches!(catalog.propose(topic(1, "a")).await, Err(ProposeError::Stopped(_))));
    catalog.shutdown().await;
    let refused = Catalog::open(sim_options(), sim_env(&disk, 2)).await.unwrap_err();
    assert!(refused.to_string().contains("newer millstream"), "{refused}");
}

/// Runs until a fault stops it; returns what was answered.
async fn run(disk: &SimDisk, seed: u64) -> (Option<ClusterId>, Vec<String>) {
    let mut answered = Vec::new();
    let Ok(catalog) = Catalog::open(sim_options(), sim_env(disk, seed)).await else { return (None, answered) };
    let cluster = catalog.state().cluster_id;
    if catalog.propose(register(0, 1, 2, true)).await.is_ok() {
        for n in 0..14 {
            let name = format!("t{n:02}");
            if catalog.propose(topic(100 + n, &name)).await.is_err() {
                break;
            }
            answered.push(name);
        }
    }
    catalog.shutdown().await;
    (Some(cluster), answered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_call_fails_and_whatever_the_power_cut_takes_what_was_answered_stays() {
    let operations = [
        (DiskOperation::Write, 3),
        (DiskOperation::SyncData, 3),
        (DiskOperation::SyncDir, 1),
        (DiskOperation::Names, 1),
        (DiskOperation::Resize, 1),
    ];
    let mut stopped = 0;
    for (operation, step) in operations {
        for (round, nth) in (1..200).step_by(step).enumerate() {
            let seed = nth * 31 + operation as u64;
            let disk = SimDisk::new(seed);
            disk.inject(Fault::nth(operation, nth).for_good());
            let (cluster, answered) = run(&disk, seed).await;
            // The process is gone; on some days, so is the power.
            match round % 3 {
                0 => disk.kill(),
                1 => disk.crash(&SimRng::new(seed + 1)),
                _ => disk.crash_losing_all(),
            }
            disk.clear_faults();
            let what = format!("{operation:?} {nth}, round {round}, answered {answered:?}");
            let catalog = Catalog::open(sim_options(), sim_env(&disk, seed + 2))
                .await
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let state = catalog.state();
            let there = names(&state);
            // One more may have been under way.
            assert!(there.starts_with(&answered) && there.len() <= answered.len() + 1, "{what}: {there:?}");
            assert!(cluster.is_none_or(|cluster| cluster == state.cluster_id), "{what}");
            if state.brokers.is_empty() {
                catalog.propose(register(0, 1, 2, true)).await.unwrap();
            }
            catalog.propose(topic(999, "after")).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            catalog.shutdown().await;
            disk.crash_losing_all();
            let catalog = Catalog::open(sim_options(), sim_env(&disk, seed + 3)).await.unwrap();
            assert!(catalog.state().topic("after").is_some(), "{what}");
            catalog.shutdown().await;
            if answered.len() == 14 {
                break;
            }
            stopped += 1;
        }
    }
    assert!(stopped > 40, "the faults must strike: {stopped}");
}

#[tokio::test]
async fn a_failed_sync_is_published_and_nothing_more_is_taken() {
    let disk = SimDisk::new(5);
    let catalog = Catalog::open(sim_options(), sim_env(&disk, 5)).await.unwrap();
    disk.inject(Fault::nth(DiskOperation::SyncData, 1).on("/log-"));
    assert!(matches!(catalog.propose(register(0, 1, 2, true)).await, Err(ProposeError::Stopped(_))));
    let reason = catalog.failed().await;
    assert!(reason.contains("sync") && reason.contains("log-"), "{reason}");
    // The disk is well again, but what it claims is not believed.
    assert!(matches!(catalog.propose(register(0, 1, 2, true)).await, Err(ProposeError::Stopped(_))));
    catalog.shutdown().await;
}

#[tokio::test]
async fn a_proposal_too_large_is_refused_before_it_is_written() {
    let disk = SimDisk::new(6);
    let catalog = Catalog::open(sim_options(), sim_env(&disk, 6)).await.unwrap();
    // Every entry that is written is applied, here where no proposal is under way.
    let before = catalog.applied().id;
    let mut huge = module("f@9", 1, &[ModuleKind::Filter]);
    if let Command::PushModule { declarations, .. } = &mut huge {
        declarations[0].value = "x".repeat(crate::COMMAND_BYTES_MAX);
    }
    assert!(matches!(catalog.propose(huge).await, Err(ProposeError::Command(_))));
    catalog.propose(module("f@9", 1, &[ModuleKind::Filter])).await.unwrap();
    let index = |id: Option<crate::raft::LogId>| id.unwrap().index;
    assert_eq!(index(catalog.applied().id), index(before) + 1, "the first one took no entry");
    catalog.shutdown().await;
}

async fn projection_catches_up(catalog: &Catalog) {
    let applied = catalog.applied();
    let mut written = catalog.projection().unwrap().written();
    let want = Some(digest(&applied.state));
    let followed = written.wait_for(|stamp| stamp.map(|stamp| stamp.digest) == want);
    tokio::time::timeout(Duration::from_secs(30), followed).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_projection_catches_up_and_is_rebuilt_when_lost_or_damaged_or_of_another_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = CatalogOptions::new(dir.path(), BrokerId(0));
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    catalog.propose(register(0, 1, 2, true)).await.unwrap();
    // Its value takes several pieces.
    let large = crate::apply::tests::topic_with(101, "large", 3_000, 1, &[]);
    catalog.propose(large).await.unwrap();
    catalog.propose(topic(102, "b")).await.unwrap();
    projection_catches_up(&catalog).await;
    let expect = |catalog: &Catalog, names: &[&str]| {
        let entries = catalog.projected_entries("topic/", 10);
        let found: Vec<_> = entries.iter().map(|(key, _)| key.trim_start_matches("topic/").to_owned()).collect();
        assert_eq!(found, names);
        for (key, json) in entries {
            let shown: crate::Topic = serde_json::from_slice(&json).unwrap();
            let state = catalog.state();
            assert_eq!(shown, **state.topic(key.trim_start_matches("topic/")).unwrap());
        }
    };
    expect(&catalog, &["b", "large"]);
    assert_eq!(catalog.projected_entries("topic/", 1).len(), 1);
    assert_eq!(catalog.projected_entries("broker/", 10).len(), 1);
    catalog.propose(Command::DeleteTopic { id: millstream_model::TopicId(uuid(101)) }).await.unwrap();
    projection_catches_up(&catalog).await;
    expect(&catalog, &["b"]);
    catalog.shutdown().await;

    // Lost.
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    projection_catches_up(&catalog).await;
    expect(&catalog, &["b"]);
    catalog.shutdown().await;

    // Damaged: no sled at all.
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    std::fs::write(dir.path().join("view"), b"not a directory").unwrap();
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    projection_catches_up(&catalog).await;
    expect(&catalog, &["b"]);
    catalog.shutdown().await;
    assert!(dir.path().join("view.damaged").exists());

    // Something that sled would wait for, and one of the kind before was moved aside already.
    std::fs::remove_file(dir.path().join("view/conf")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("view/conf")).status().unwrap();
    assert!(made.success());
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    projection_catches_up(&catalog).await;
    expect(&catalog, &["b"]);
    catalog.shutdown().await;
    assert!(dir.path().join("view.damaged/conf").exists());

    // It says what is not so.
    let lying = sled::open(dir.path().join("view")).unwrap();
    lying.insert(b"topic/ghost\0\0\0\0\0", b"{}").unwrap();
    lying.insert(b"=", "{\"applied\":{\"term\":1,\"index\":1},\"digest\":\"00\"}").unwrap();
    lying.flush().unwrap();
    drop(lying);
    let catalog = Catalog::open(options, real::env()).await.unwrap();
    projection_catches_up(&catalog).await;
    expect(&catalog, &["b"]);
    catalog.shutdown().await;
}

#[tokio::test]
async fn a_log_that_was_cut_short_is_refused_since_the_projection_remembers_more() {
    let dir = tempfile::tempdir().unwrap();
    let options = CatalogOptions::new(dir.path(), BrokerId(0));
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    catalog.propose(register(0, 1, 2, true)).await.unwrap();
    let mut early = 0;
    for n in 0..5 {
        catalog.propose(topic(100 + n, &format!("t{n}"))).await.unwrap();
        if n == 1 {
            early = std::fs::metadata(&log_files(dir.path())[0]).unwrap().len();
        }
    }
    projection_catches_up(&catalog).await;
    let before = catalog.state();
    catalog.shutdown().await;
    let log = log_files(dir.path())[0].clone();
    let whole = std::fs::read(&log).unwrap();
    // In the middle of a frame, as a crash would.
    std::fs::write(&log, &whole[..early as usize + 7]).unwrap();
    for _ in 0..2 {
        let refused = Catalog::open(options.clone(), real::env()).await.unwrap_err();
        assert!(matches!(refused, OpenError::File(FileError::Damaged { .. })), "{refused}");
        assert!(refused.to_string().contains("had been synced"), "{refused}");
        assert_eq!(std::fs::read(&log).unwrap(), whole[..early as usize + 7]);
    }
    std::fs::write(&log, whole).unwrap();
    let catalog = Catalog::open(options, real::env()).await.unwrap();
    assert_eq!(catalog.state(), before);
    catalog.shutdown().await;
}

/// What all files of a catalog hold.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = RealDisk.read_dir(dir).unwrap().into_iter().filter(|path| path.is_file());
    let mut all: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    all.sort();
    all
}

/// The torn tail may be all that there is of what was damaged, for whoever mends it: it was cut off before the rest was looked at.
#[tokio::test]
async fn a_start_that_is_refused_has_changed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = CatalogOptions { log_file_bytes: 1 << 20, ..sim_options() };
    let options = CatalogOptions { dir: dir.path().into(), ..options };
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    catalog.propose(register(0, 1, 2, true)).await.unwrap();
    for n in 0..10 {
        catalog.propose(topic(100 + n, &format!("t{n}"))).await.unwrap();
    }
    let wait = catalog.group().wait(Some(Duration::from_secs(30)));
    wait.metrics(|metrics| metrics.purged.is_some(), "a purge").await.unwrap();
    catalog.shutdown().await;
    let log = log_files(dir.path()).into_iter().max().unwrap();
    let torn = std::fs::metadata(&log).unwrap().len();
    let tail = [std::fs::read(&log).unwrap(), vec![0xee; 33]].concat();
    std::fs::write(&log, tail).unwrap();
    // Half made by a crash.
    std::fs::write(dir.path().join("vote.tmp"), b"half").unwrap();
    let whole = contents(dir.path());
    let file = |name: &str| dir.path().join(name);
    let spoils: [(&str, &dyn Fn()); 6] = [
        ("a snapshot that is damaged", &|| flip(&file("snapshot"), 30)),
        ("a snapshot that is missing", &|| std::fs::remove_file(file("snapshot")).unwrap()),
        ("a vote that is damaged", &|| flip(&file("vote"), 30)),
        ("a vote that is missing", &|| std::fs::remove_file(file("vote")).unwrap()),
        ("a log that is damaged", &|| flip(&log, torn / 2)),
        ("a purge mark that is damaged", &|| flip(&file("purged"), 30)),
    ];
    let refuses = async |options: &CatalogOptions, what: &str| {
        let spoilt = contents(dir.path());
        let refused = Catalog::open(options.clone(), real::env()).await;
        let refused = refused.err().unwrap_or_else(|| panic!("{what} is taken"));
        assert!(contents(dir.path()) == spoilt, "{what}: something was changed, and it was refused: {refused}");
        for (path, bytes) in &whole {
            std::fs::write(path, bytes).unwrap();
        }
        refused
    };
    for (what, spoil) in spoils {
        spoil();
        refuses(&options, what).await;
    }
    let older = CatalogOptions { followed: 1_000, ..options.clone() };
    assert!(matches!(refuses(&older, "an older copy").await, OpenError::Older { .. }));
    let catalog = Catalog::open(options, real::env()).await.unwrap();
    assert_eq!(names(&catalog.state()).len(), 10);
    assert_eq!(std::fs::metadata(&log).unwrap().len().cmp(&torn), std::cmp::Ordering::Greater, "it has gone on");
    assert!(!file("vote.tmp").exists());
    catalog.shutdown().await;
}

#[tokio::test]
async fn bit_rot_in_the_projections_files_never_reaches_the_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let options = CatalogOptions::new(dir.path(), BrokerId(0));
    let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
    catalog.propose(register(0, 1, 2, true)).await.unwrap();
    catalog.propose(topic(101, "a")).await.unwrap();
    projection_catches_up(&catalog).await;
    let before = catalog.state();
    catalog.shutdown().await;
    for file in ["conf", "db"] {
        let path = dir.path().join("view").join(file);
        let length = std::fs::metadata(&path).unwrap().len();
        for at in [0, length / 3, length / 2] {
            flip(&path, at);
        }
        let catalog = Catalog::open(options.clone(), real::env()).await.unwrap();
        projection_catches_up(&catalog).await;
        assert_eq!(catalog.state(), before, "{file}");
        catalog.propose(topic(102, file)).await.unwrap();
        catalog.propose(Command::DeleteTopic { id: millstream_model::TopicId(uuid(102)) }).await.unwrap();
        catalog.shutdown().await;
    }
}

struct OnSimDisk;

/// Keeps the loop's thread from outliving the test.
struct Guard;

impl StoreBuilder<Types, Store, Machine, Guard> for OnSimDisk {
    async fn build(&self) -> Result<(Guard, Store, Machine), openraft::StorageError<Types>> {
        let disk = SimDisk::new(7);
        let env = sim_env(&disk, SimRng::new(7).next_u64());
        let dir = Path::new(DIR);
        disk::make_dir(&disk, dir).unwrap();
        let mut found = Found::read(&env, dir, 700).unwrap();
        let snapshot = SnapshotBody::of(&mut found, dir).unwrap();
        let (store, _) = Store::start(&env, found).unwrap();
        let machine = Machine::new(store.clone(), watch::channel(Applied::default()).0, snapshot);
        Ok((Guard, store, machine))
    }
}

/// openraft's own suite for storage.
#[tokio::test]
async fn the_store_does_what_openraft_asks_of_one() {
    Suite::test_all(OnSimDisk).await.unwrap();
}
