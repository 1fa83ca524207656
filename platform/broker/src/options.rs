//! What a broker is started with.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use millstream_env::Budget;
use millstream_log::StorageOptions;
use millstream_model::{Address, BrokerId};
use millstream_protocol::session::SessionLimits;
use millstream_wasm::Compiler;

/// Default of [`BrokerOptions::frames`], bytes.
const FRAMES_BYTES_DEFAULT: usize = 1 << 30;

/// A broker's settings. [`BrokerOptions::new`] has defaults for all that is not its own.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// The broker's number in its cluster.
    pub id: BrokerId,
    /// Everything the broker keeps is below this directory; one broker at a time may use it.
    pub data_dir: PathBuf,
    /// Where the catalog's projection is kept, on the real disk always; none: it is done without, as in simulation.
    pub projection_dir: Option<PathBuf>,
    /// What clients are told to connect to; none: the address that was bound.
    pub advertise: Option<Address>,
    /// Whether Kafka's protocol is spoken in TLS on the TCP port: what clients are told of it.
    pub tcp_in_tls: bool,
    /// Who compiles modules: a child process of this executable, unless told otherwise.
    pub compiler: Compiler,
    /// What may be asked for on each stream before it is answered.
    pub session: SessionLimits,
    /// What large requests and answers may take together. The same budget belongs into the listeners' limits: it counts
    /// frames from their first byte until nothing uses them any more.
    pub frames: Budget,
    /// What topics are made with, and when, where nobody says so.
    pub new_topics: NewTopics,
    /// Settings that each topic has which is not given them, by topics' names for them, as
    /// [`TopicDefaults::part`](millstream_model::TopicDefaults::part) makes them. What is not named is as in Kafka. A change while the broker
    /// runs goes before them.
    pub topic_defaults: BTreeMap<String, String>,
    /// How often to look for records that topics need not keep (Kafka's `log.retention.check.interval.ms`).
    pub retention_check: Duration,
    /// How often to look for topics to be compacted (Kafka's `log.cleaner.backoff.ms`).
    pub compaction_check: Duration,
    /// The least part of their speed that readers of old records keep while producers would wait longer for that, percent; from
    /// 100 on they are never held back.
    pub catch_up_share: u8,
    /// How many segments' files may be open at a time.
    pub open_segments_max: usize,
    /// How large a journal file is, bytes; a multiple of 4096. Less than the largest batch refuses batches.
    pub journal_file_bytes: u64,
    /// How large all journal files may grow together, bytes: at least two files.
    pub journal_bytes_max: u64,
}

impl BrokerOptions {
    /// Defaults around a number and a directory.
    #[must_use]
    pub fn new(id: BrokerId, data_dir: PathBuf) -> Self {
        let storage = StorageOptions::new(&data_dir);
        Self {
            id,
            projection_dir: Some(data_dir.join("catalog/view")),
            data_dir,
            advertise: None,
            tcp_in_tls: false,
            compiler: Compiler::this_executable(),
            session: SessionLimits::default(),
            frames: Budget::new(FRAMES_BYTES_DEFAULT),
            new_topics: NewTopics::default(),
            topic_defaults: BTreeMap::new(),
            retention_check: Duration::from_secs(5 * 60),
            compaction_check: Duration::from_secs(15),
            catch_up_share: 25,
            open_segments_max: 512,
            journal_file_bytes: storage.journal_file_bytes,
            journal_bytes_max: storage.journal_bytes_max,
        }
    }
}

/// What is left open about topics: by those who create them, and by those who only ask for them. The defaults are Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopics {
    /// Partitions of a topic whose creator leaves the number open (Kafka's `num.partitions`). What a topic may not have is refused as
    /// it is made.
    pub partitions: i32,
    /// Replicas of each of its partitions (Kafka's `default.replication.factor`). More than there are brokers are refused as well.
    pub replication_factor: i16,
    /// Whether a Metadata request may make the topics that it names (Kafka's `auto.create.topics.enable`), if its client wants that.
    /// Kafka's consumers and producers do.
    pub made_when_asked_for: bool,
}

impl Default for NewTopics {
    fn default() -> Self {
        Self { partitions: 1, replication_factor: 1, made_when_asked_for: true }
    }
}
