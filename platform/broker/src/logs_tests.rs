//! Does a start keep every log that may still be wanted, finish what was begun, and never serve an empty log for one that has gone?

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
};

use millstream_catalog::Command;
use millstream_env::{
    Disk, OpenMode,
    sim::{DiskOperation, Fault, FaultError, World},
};
use millstream_model::{
    Durability, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicConfig, TopicId, TopicName,
};
use millstream_protocol::{ErrorCode, messages::metadata::MetadataRequest};
use millstream_record::{BatchBuilder, BatchOptions};
use millstream_replica::Acks;
use uuid::Uuid;

use super::*;
use crate::{
    Broker, StartError,
    handlers::metadata,
    readable::Readable,
    testing::{TOPIC, append, create, delete, start, stop, try_start},
};

const CATALOG: &str = "/data/catalog";
const NOTE: &str = "/data/METADATA";

fn read(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::Create).unwrap();
    file.set_len(0).unwrap();
    file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

/// What tells of topics: the catalog's files, and the note beside it.
struct Metadata {
    catalog: Vec<(PathBuf, Vec<u8>)>,
    note: Vec<u8>,
}

impl Metadata {
    fn copy(disk: &dyn Disk) -> Self {
        let paths = disk.read_dir(Path::new(CATALOG)).unwrap();
        let catalog = paths.into_iter().map(|path| (path.clone(), read(disk, &path))).collect();
        Self { catalog, note: read(disk, Path::new(NOTE)) }
    }

    fn put_back_catalog(&self, disk: &dyn Disk) {
        disk.remove_dir_all(Path::new(CATALOG)).unwrap();
        disk.create_dir_all(Path::new(CATALOG)).unwrap();
        self.catalog.iter().for_each(|(path, bytes)| write(disk, path, bytes));
    }

    fn put_back(&self, disk: &dyn Disk) {
        self.put_back_catalog(disk);
        write(disk, Path::new(NOTE), &self.note);
    }
}

/// Ends a broker's process, not in order.
fn kill(world: &World, broker: Broker) {
    world.first().kill();
    drop(broker);
}

fn high_watermark(broker: &Broker, partition: i32) -> Option<Offset> {
    broker.shared().partitions.find(TOPIC, PartitionId(partition)).map(|led| led.high_watermark())
}

/// Makes another topic.
async fn create_other(broker: &Broker, id: u128) {
    let command = topic(TopicId(Uuid::from_u128(id)), &format!("other-{id}"), 1, Durability::Fsync);
    broker.shared().catalog.propose(command).await.unwrap();
}

fn topic(id: TopicId, name: &str, partitions: i32, durability: Durability) -> Command {
    Command::CreateTopic {
        id,
        name: TopicName::new(name).unwrap(),
        partitions,
        replication_factor: 1,
        config: TopicConfig { durability, ..TopicConfig::default() },
        at: TimestampMs(0),
    }
}

fn topic_dir() -> PathBuf {
    format!("/data/logs/{TOPIC}").into()
}

fn log_dir(partition: i32) -> PathBuf {
    topic_dir().join(format!("{partition}/records-0"))
}

/// Takes the notes away of what is there, as if earlier versions had made it.
fn forget(disk: &dyn Disk) {
    disk.remove_file(Path::new(NOTE)).unwrap();
    for partition in 0..2 {
        let path = log_dir(partition).join("mark");
        let mut bytes = read(disk, &path);
        assert!(bytes.len() > 8192);
        bytes.truncate(4096 + 72);
        write(disk, &path, &bytes);
    }
}

/// All files below a directory, and what they hold.
fn tree(disk: &dyn Disk, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for path in disk.read_dir(dir).unwrap() {
        match disk.read_dir(&path) {
            Ok(_) => found.extend(tree(disk, &path)),
            Err(_) => found.push((path.clone(), read(disk, &path))),
        }
    }
    found.sort();
    found
}

/// The logs were recovered before the metadata was looked at: marks, journal and the note of an orderly end changed with each start.
#[test]
fn a_start_that_is_refused_for_its_metadata_changes_nothing() {
    for in_order in [true, false] {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        world.run_until(append(&broker, 0).commit).unwrap();
        let older = Metadata::copy(world.disk());
        world.run_until(create_other(&broker, 8));
        world.run_until(broker.shared().partitions.follow(&broker.shared().catalog)).unwrap();
        match in_order {
            true => stop(&world, broker),
            false => kill(&world, broker),
        }
        let (disk, newest) = (world.disk(), Metadata::copy(world.disk()));
        let damage = |disk: &dyn Disk| {
            for (path, bytes) in newest.catalog.iter().filter(|(path, _)| path.to_str().unwrap().contains("log-")) {
                let mut bytes = bytes.clone();
                let at = bytes.len() / 2;
                bytes[at] ^= 0xff;
                write(disk, path, &bytes);
            }
        };
        let remove = |disk: &dyn Disk| disk.remove_dir_all(Path::new(CATALOG)).unwrap();
        let empty = |disk: &dyn Disk| {
            disk.remove_dir_all(Path::new(CATALOG)).unwrap();
            write_lock(disk);
        };
        let put_older = |disk: &dyn Disk| older.put_back_catalog(disk);
        let spoil_note = |disk: &dyn Disk| write(disk, Path::new(NOTE), &[0xff; 100]);
        for (name, spoil) in [
            ("damaged", &damage as &dyn Fn(&dyn Disk)),
            ("removed", &remove),
            ("empty", &empty),
            ("older", &put_older),
            ("note", &spoil_note),
        ] {
            spoil(disk);
            let before = tree(disk, Path::new("/data"));
            for turn in 0..2 {
                let refused = try_start(&world).err().unwrap_or_else(|| panic!("{name}, in order: {in_order}"));
                world.first().kill();
                assert!(tree(disk, Path::new("/data")) == before, "{name}, {in_order}, start {turn}: {refused}");
            }
            let _ = disk.remove_dir_all(Path::new(CATALOG));
            disk.create_dir_all(Path::new(CATALOG)).unwrap();
            newest.put_back(disk);
        }
        let broker = start(&world);
        assert_eq!(high_watermark(&broker, 0), Some(Offset(1)));
    }
}

/// A new catalog's directory, as its first opening leaves it.
fn write_lock(disk: &dyn Disk) {
    disk.create_dir_all(Path::new(CATALOG)).unwrap();
    write(disk, &Path::new(CATALOG).join("LOCK"), &[]);
}

/// Whose metadata is gone, or another's, keeps its logs: they are no deleted topics'.
#[test]
fn logs_that_the_metadata_does_not_belong_to_are_left_alone() {
    let world = World::new(1);
    let broker = start(&world);
    world.run_until(create(&broker, 2));
    world.run_until(append(&broker, 0).commit).unwrap();
    stop(&world, broker);
    let (disk, catalog, away) = (world.disk(), Path::new("/data/catalog"), Path::new("/data/away"));
    disk.rename(catalog, away).unwrap();
    for _ in 0..2 {
        let refused = try_start(&world).err().unwrap();
        assert!(matches!(&refused, StartError::ForeignCatalog { .. }), "{refused}");
        assert!(refused.to_string().contains("/data/catalog does not belong"), "{refused}");
        world.first().kill();
    }
    disk.rename(away, catalog).unwrap();
    let broker = start(&world);
    assert_eq!(high_watermark(&broker, 0), Some(Offset(1)));
}

/// It knows nothing of the topics that were made since, and took them for deleted ones; whatever else was put back with it, or is gone.
/// Nor may it give leader epochs anew.
#[test]
fn an_older_copy_of_the_metadata_deletes_no_logs() {
    // Of the note: what there is, an older copy, too, or nothing.
    for note in 0..3 {
        for in_order in [true, false] {
            let world = World::new(note);
            let broker = start(&world);
            stop(&world, broker);
            let disk = world.disk();
            let older = Metadata::copy(disk);
            let broker = start(&world);
            world.run_until(create(&broker, 2));
            world.run_until(append(&broker, 0).commit).unwrap();
            // Not in order: what was made is known at once.
            if in_order {
                stop(&world, broker)
            } else {
                kill(&world, broker)
            }
            let newest = Metadata::copy(disk);
            match note {
                0 => older.put_back_catalog(disk),
                1 => older.put_back(disk),
                _ => {
                    older.put_back_catalog(disk);
                    disk.remove_file(Path::new(NOTE)).unwrap();
                }
            }
            let before = Metadata { note: Vec::new(), ..older };
            for _ in 0..2 {
                let refused = try_start(&world).err().unwrap();
                assert!(matches!(&refused, StartError::ForeignCatalog { .. }), "{refused}");
                assert!(refused.to_string().contains("an older copy"), "{refused}");
                world.first().kill();
                assert!(before.catalog.iter().all(|(path, bytes)| read(disk, path).len() == bytes.len()));
            }
            newest.put_back(disk);
            let broker = start(&world);
            assert_eq!(high_watermark(&broker, 0), Some(Offset(1)));
            // Without a log, new metadata is taken, whatever had been followed.
            assert_eq!(world.run_until(delete(&broker)), ErrorCode::None);
            stop(&world, broker);
            disk.remove_dir_all(Path::new(CATALOG)).unwrap();
            (0..3).for_each(|_| stop(&world, start(&world)));
        }
    }
}

/// Leader epochs were given out since, and no topic was made; and no note tells of it.
#[test]
fn an_older_copy_of_the_metadata_gives_no_leader_epochs_out_again() {
    let world = World::new(1);
    let broker = start(&world);
    world.run_until(create(&broker, 2));
    stop(&world, broker);
    let older = Metadata::copy(world.disk());
    let broker = start(&world);
    world.run_until(append(&broker, 0).commit).unwrap();
    stop(&world, broker);
    let newest = Metadata::copy(world.disk());
    older.put_back(world.disk());
    // However often it is tried: each try is another epoch.
    for _ in 0..5 {
        let refused = try_start(&world).err().unwrap();
        assert!(matches!(&refused, StartError::ForeignCatalog { .. }), "{refused}");
        world.first().kill();
    }
    newest.put_back(world.disk());
    assert_eq!(high_watermark(&start(&world), 0), Some(Offset(1)));
}

/// Metadata and its note were copied while the broker ran, and put back: nothing is left that knows of the ids but the logs. A second
/// producer of one id was told that what it sent had been appended, where the first one's lay.
#[test]
fn producer_ids_that_logs_know_are_not_given_out_again_whatever_the_metadata_says() {
    for in_order in [true, false] {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        let older = Metadata::copy(world.disk());
        let next = |broker: &Broker| {
            let shared = broker.shared();
            world.run_until(shared.producer_ids.next(shared)).unwrap()
        };
        let send = |broker: &Broker, id: ProducerId| {
            let options = BatchOptions {
                producer_id: id,
                producer_epoch: ProducerEpoch(0),
                base_sequence: Sequence(0),
                ..BatchOptions::default()
            };
            let mut builder = BatchBuilder::new(options);
            builder.push(TimestampMs(0), None, Some(format!("{id}").as_bytes()), &[]).unwrap();
            let led = broker.shared().partitions.find(TOPIC, PartitionId(0)).unwrap();
            let pending = led.append(vec![builder.build().unwrap()], Acks::All).unwrap();
            world.run_until(pending.commit).unwrap();
            pending.base_offset
        };
        let given = [next(&broker), next(&broker)];
        assert_eq!(given.map(|id| send(&broker, id)), [Offset(0), Offset(1)]);
        // Whoever has one and sent nothing is not known to any log.
        let silent = next(&broker);
        // As a client may choose it: it costs no others.
        assert_eq!(send(&broker, ProducerId(1 << 61)), Offset(2));
        if in_order {
            stop(&world, broker)
        } else {
            kill(&world, broker)
        }
        older.put_back(world.disk());
        for turn in 0..3 {
            let broker = start(&world);
            let id = next(&broker);
            assert!(id > silent && id < ProducerId(1 << 60), "{id} after {silent}, start {turn}");
            assert_eq!(send(&broker, id), Offset(3 + turn));
            stop(&world, broker);
        }
    }
}

/// As a file system leaves it that has lost the end of a file; nothing else tells of what was there.
#[test]
fn a_metadata_log_that_was_cut_short_deletes_no_logs() {
    let world = World::new(1);
    let broker = start(&world);
    let disk = world.disk();
    let before = Metadata::copy(disk);
    world.run_until(create(&broker, 2));
    world.run_until(append(&broker, 0).commit).unwrap();
    kill(&world, broker);
    let newest = Metadata::copy(disk);
    for (path, bytes) in &before.catalog {
        disk.open(path, OpenMode::Write).unwrap().set_len(bytes.len() as u64).unwrap();
    }
    disk.remove_file(Path::new(NOTE)).unwrap();
    for _ in 0..2 {
        let refused = try_start(&world).err().unwrap();
        assert!(matches!(&refused, StartError::ForeignCatalog { .. }), "{refused}");
        world.first().kill();
    }
    newest.put_back(disk);
    assert_eq!(high_watermark(&start(&world), 0), Some(Offset(1)));
}

/// Nothing tells whether it is of a deleted topic: it stays, beside whatever comes, until somebody says.
#[test]
fn a_log_of_an_earlier_version_that_no_metadata_knows_is_kept_and_served_again_by_one_that_does() {
    let world = World::new(1);
    let broker = start(&world);
    let disk = world.disk();
    let older = Metadata::copy(disk);
    world.run_until(create(&broker, 2));
    for partition in [0, 1, 0] {
        world.run_until(append(&broker, partition).commit).unwrap();
    }
    // It goes on for longer than the older copy will.
    for _ in 0..50 {
        let refused = broker.shared().catalog.propose(Command::DeleteTopic { id: TopicId::NIL });
        world.run_until(refused).unwrap_err();
    }
    stop(&world, broker);
    let newest = Metadata::copy(disk);
    forget(disk);
    older.put_back_catalog(disk);
    for at in 0..3 {
        let broker = start(&world);
        let kept = broker.shared().storage.logs().into_iter().filter(|id| id.topic == TOPIC);
        assert_eq!(kept.collect::<Vec<_>>(), [0, 1].map(|partition| LogId::records(TOPIC, PartitionId(partition))));
        assert_eq!(high_watermark(&broker, 0), None);
        // Other topics come and go.
        world.run_until(create_other(&broker, 100 + at));
        world.run_until(broker.shared().partitions.follow(&broker.shared().catalog)).unwrap();
        match at {
            0 => stop(&world, broker),
            1 => kill(&world, broker),
            _ => {
                world.first().crash();
                drop(broker);
            }
        }
    }
    newest.put_back_catalog(disk);
    disk.remove_file(Path::new(NOTE)).unwrap();
    let broker = start(&world);
    assert_eq!([0, 1].map(|partition| high_watermark(&broker, partition)), [Some(Offset(2)), Some(Offset(1))]);
    // Now it is known what it is, in this run and for ever.
    assert_eq!(world.run_until(delete(&broker)), ErrorCode::None);
    assert!(broker.shared().storage.logs().iter().all(|id| id.topic != TOPIC));
}

/// A topic of an earlier version that is deleted is gone, as any other: in the same run, and by the next one.
#[test]
fn a_topic_that_an_earlier_version_made_can_be_deleted() {
    for cut_off in [false, true] {
        let world = World::new(1);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        world.run_until(append(&broker, 0).commit).unwrap();
        stop(&world, broker);
        forget(world.disk());
        // One is out of service, if nothing is cut off: then all that tells of it would be this run's memory.
        for slot in [0, 4096].into_iter().filter(|_| !cut_off) {
            world.disk().corrupt(&log_dir(1).join("mark"), slot + 40, 1).unwrap();
        }
        let broker = start(&world);
        assert_eq!((high_watermark(&broker, 0), asked_for(&broker, 1).is_ok()), (Some(Offset(1)), cut_off));
        if cut_off {
            delete_cut_off(&world, &broker);
            world.first().crash();
            drop(broker);
            stop(&world, start(&world));
        } else {
            assert_eq!(world.run_until(delete(&broker)), ErrorCode::None);
            stop(&world, broker);
        }
        assert!(!world.disk().exists(&topic_dir()).unwrap());
    }
}

/// Nothing of it was durable, and nothing was to be.
#[test]
fn what_is_left_of_a_making_goes_with_its_topic() {
    let world = World::new(1);
    let broker = start(&world);
    world.disk().inject(Fault::nth(DiskOperation::Write, 1).on("/data/journal").for_good());
    let shared = broker.shared();
    world.run_until(shared.catalog.propose(topic(TOPIC, "t", 2, Durability::Fsync))).unwrap();
    world.run_until(shared.partitions.follow(&shared.catalog)).unwrap_err();
    world.run_until(shared.catalog.propose(Command::DeleteTopic { id: TOPIC })).unwrap();
    world.disk().clear_faults();
    kill(&world, broker);
    assert!(world.disk().exists(&log_dir(0)).unwrap());
    stop(&world, start(&world));
    assert!(!world.disk().exists(&log_dir(0)).unwrap());
}

/// Deletes the topic, of which the metadata learns, and no log.
fn delete_cut_off(world: &World, broker: &Broker) {
    world.disk().inject(Fault::nth(DiskOperation::Write, 1).on("/data/journal").for_good());
    world.run_until(broker.shared().catalog.propose(Command::DeleteTopic { id: TOPIC })).unwrap();
    world.disk().clear_faults();
}

/// However much of a new log a power cut takes: what is left of it is known for a deleted topic's.
#[test]
fn a_deletion_that_a_crash_cut_off_is_finished_by_the_next_start() {
    for seed in 0..40 {
        let world = World::new(seed);
        let broker = start(&world);
        world.run_until(create(&broker, 2));
        if seed % 3 > 0 {
            world.run_until(append(&broker, 0).commit).unwrap();
        }
        let broker = match seed % 4 {
            0 => {
                stop(&world, broker);
                start(&world)
            }
            1 => {
                kill(&world, broker);
                start(&world)
            }
            _ => broker,
        };
        delete_cut_off(&world, &broker);
        assert!(world.disk().exists(&log_dir(0)).unwrap());
        if seed % 2 == 0 {
            world.first().crash()
        } else {
            world.first().kill()
        }
        drop(broker);
        for _ in 0..2 {
            let broker = start(&world);
            assert!(broker.shared().storage.logs().is_empty(), "seed {seed}: {:?}", broker.shared().storage.logs());
            stop(&world, broker);
            assert!((0..2).all(|partition| !world.disk().exists(&log_dir(partition)).unwrap()), "seed {seed}");
        }
    }
}

/// After an orderly stop the journal may be a new one, of which others have had all, or that has turned so often.
fn forget_journal(disk: &dyn Disk) {
    for path in disk.read_dir(Path::new("/data/journal")).unwrap() {
        disk.remove_file(&path).unwrap();
    }
}

fn asked_for(broker: &Broker, partition: i32) -> Result<(), (ErrorCode, String)> {
    let topic = Readable::by_name(&broker.shared().catalog.state(), "t").unwrap();
    let led = broker.shared().led(&topic, PartitionId(partition));
    led.map(|_| ()).map_err(|error| (error.kafka_code(), error.message))
}

/// The journal speaks of it no more, and an empty log would be taken for all there was.
#[test]
fn a_log_that_has_gone_is_out_of_service_until_it_is_put_back_or_deleted() {
    for durability in [Durability::Fsync, Durability::Replicated] {
        let world = World::new(1);
        let broker = start(&world);
        let shared = broker.shared();
        let command = topic(TOPIC, "t", 2, durability);
        world.run_until(shared.catalog.propose(command)).unwrap();
        world.run_until(shared.partitions.follow(&shared.catalog)).unwrap();
        (0..2).for_each(|partition| world.run_until(append(&broker, partition).commit).unwrap());
        stop(&world, broker);
        let (disk, gone, away) = (world.disk(), topic_dir().join("0"), Path::new("/away"));
        disk.rename(&gone, away).unwrap();
        forget_journal(disk);
        for at in 0..4 {
            let broker = start(&world);
            let (code, message) = asked_for(&broker, 0).unwrap_err();
            assert_eq!(code, ErrorCode::KafkaStorage);
            let told = format!("{} is missing", log_dir(0).display());
            assert!(
                [&told, "Put it back", "or delete the topic"].iter().all(|part| message.contains(*part)),
                "{message}"
            );
            let described = world.run_until(metadata::handle(broker.shared().clone(), MetadataRequest::default()));
            let offline = described.topics[0].partitions.iter().map(|at| at.offline_replicas.clone());
            assert_eq!(offline.collect::<Vec<_>>(), [vec![BrokerId(1)], vec![]]);
            world.run_until(append(&broker, 1).commit).unwrap();
            if at % 2 == 0 {
                stop(&world, broker)
            } else {
                kill(&world, broker)
            }
            assert!(!disk.exists(&gone).unwrap());
        }
        disk.rename(away, &gone).unwrap();
        let broker = start(&world);
        assert_eq!([0, 1].map(|partition| high_watermark(&broker, partition)), [Some(Offset(1)), Some(Offset(5))]);
        stop(&world, broker);
        disk.remove_dir_all(&topic_dir()).unwrap();
        forget_journal(disk);
        let broker = start(&world);
        assert!((0..2).all(|partition| asked_for(&broker, partition).is_err()));
        assert_eq!(world.run_until(delete(&broker)), ErrorCode::None);
        kill(&world, broker);
        for _ in 0..2 {
            let broker = start(&world);
            assert!(broker.shared().storage.logs().is_empty());
            stop(&world, broker);
        }
        // Its name is free, and the next of that name begins empty.
        let broker = start(&world);
        world.run_until(create_other(&broker, 9));
        stop(&world, broker);
    }
}

/// Nothing had been promised of it.
#[test]
fn a_topic_whose_making_was_cut_off_by_a_crash_begins_empty() {
    let world = World::new(1);
    let broker = start(&world);
    // The metadata learns of it, and no log is made.
    world.disk().inject(Fault::nth(DiskOperation::Names, 1).on("/data/logs").for_good());
    let command = topic(TOPIC, "t", 2, Durability::Fsync);
    world.run_until(broker.shared().catalog.propose(command)).unwrap();
    world.first().crash();
    world.disk().clear_faults();
    drop(broker);
    assert!(!world.disk().exists(&log_dir(0)).unwrap());
    let broker = start(&world);
    assert!((0..2).all(|partition| asked_for(&broker, partition).is_ok()));
    world.run_until(append(&broker, 0).commit).unwrap();
    stop(&world, broker);
    // From now on it is missed.
    world.disk().remove_dir_all(&topic_dir()).unwrap();
    forget_journal(world.disk());
    let broker = start(&world);
    assert!((0..2).all(|partition| asked_for(&broker, partition).is_err()));
}

/// A log that could not be made is tried on and made later. Until then nobody can say that all are.
#[test]
fn a_log_that_could_not_be_made_is_not_taken_for_one_that_has_gone() {
    let world = World::new(1);
    let broker = start(&world);
    let shared = broker.shared();
    let before = shared.storage.made_through();
    assert!(before > 0);
    let of_topic = format!("/data/logs/{TOPIC}/1");
    world.disk().inject(Fault::nth(DiskOperation::Names, 1).on(&of_topic).with(FaultError::Full).for_good());
    let command = topic(TOPIC, "t", 2, Durability::Fsync);
    world.run_until(shared.catalog.propose(command)).unwrap();
    world.run_until(shared.partitions.follow(&shared.catalog)).unwrap_err();
    world.run_until(create_other(&broker, 9));
    world.run_until(shared.partitions.follow(&shared.catalog)).unwrap_err();
    assert_eq!(shared.storage.made_through(), before);
    assert!(asked_for(&broker, 0).is_ok());
    kill(&world, broker);
    world.disk().clear_faults();
    let broker = start(&world);
    assert!((0..2).all(|partition| asked_for(&broker, partition).is_ok()));
    let (applied, _) = broker.shared().catalog.state_at();
    assert_eq!(broker.shared().storage.made_through(), applied);
}
