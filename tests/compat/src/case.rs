//! The script: what every client's program is asked, and what its answers are held against.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow, ensure};
use millstream_protocol::messages::offsets::EARLIEST_TIMESTAMP;
use millstream_record::{Batch, Compression};
use millstream_test_support::message::Message;
use serde_json::{Value, json};

use crate::{
    clients::{Answer, Client, Limit, Programs},
    data,
    server::Server,
    table::Cell,
};

/// Kafka's number for a topic that is not there.
const UNKNOWN_TOPIC_OR_PARTITION: i64 = 3;
/// A record's bytes that come near the most that a broker takes by default.
const LARGE_BYTES: usize = 900_000;

/// One thing that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Records are sent in a codec, and our client reads them.
    Send(Compression),
    /// Our client sends records in a codec, and they are read.
    Read(Compression),
    /// Records are sent, and `millstream consume` reads them.
    CommandReads,
    /// `millstream produce` sends records, and they are read.
    CommandSends,
    /// A record that is nearly as large as may be, there and back.
    Large,
    /// An idempotent producer.
    Idempotent,
    /// A topic that is not there.
    Unknown,
    /// A topic is created.
    Create,
    /// Topics are listed.
    List,
    /// A topic's partitions are told.
    Describe,
    /// A topic's settings are told.
    Configs,
    /// A setting is changed.
    Alter,
    /// A topic is deleted.
    Delete,
    /// An offset by time.
    Offsets,
    /// Records are deleted.
    DeleteRecords,
    /// What a topic takes on disks.
    LogDirs,
    /// Reading as a member of a group: not built yet.
    Groups,
    /// Transactions: not built yet.
    Transactions,
}

impl Case {
    /// All of them, in the table's order.
    pub const ALL: [Self; 26] = [
        Self::Send(Compression::None),
        Self::Send(Compression::Gzip),
        Self::Send(Compression::Snappy),
        Self::Send(Compression::Lz4),
        Self::Send(Compression::Zstd),
        Self::Read(Compression::None),
        Self::Read(Compression::Gzip),
        Self::Read(Compression::Snappy),
        Self::Read(Compression::Lz4),
        Self::Read(Compression::Zstd),
        Self::CommandReads,
        Self::CommandSends,
        Self::Large,
        Self::Idempotent,
        Self::Unknown,
        Self::Create,
        Self::List,
        Self::Describe,
        Self::Configs,
        Self::Alter,
        Self::Delete,
        Self::Offsets,
        Self::DeleteRecords,
        Self::LogDirs,
        Self::Groups,
        Self::Transactions,
    ];

    /// As the table has it.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Send(codec) => format!("sends, {}", name_of(codec)),
            Self::Read(codec) => format!("reads, {}", name_of(codec)),
            Self::CommandReads => "sends, `millstream consume` reads".to_owned(),
            Self::CommandSends => "reads what `millstream produce` sends".to_owned(),
            Self::Large => "a record of 900 kB".to_owned(),
            Self::Idempotent => "idempotent producer".to_owned(),
            Self::Unknown => "told of an unknown topic".to_owned(),
            Self::Create => "create a topic".to_owned(),
            Self::List => "list topics".to_owned(),
            Self::Describe => "describe a topic".to_owned(),
            Self::Configs => "describe settings".to_owned(),
            Self::Alter => "change a setting".to_owned(),
            Self::Delete => "delete a topic".to_owned(),
            Self::Offsets => "offsets by time".to_owned(),
            Self::DeleteRecords => "delete records".to_owned(),
            Self::LogDirs => "describe log directories".to_owned(),
            Self::Groups => "consumer groups".to_owned(),
            Self::Transactions => "transactions".to_owned(),
        }
    }

    /// Of topics' names.
    fn slug(self) -> String {
        let letters = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        self.title().chars().map(letters).collect::<String>().trim_matches('-').to_owned()
    }
}

fn name_of(codec: Compression) -> &'static str {
    match codec {
        Compression::None => "not compressed",
        packed => packed.as_str(),
    }
}

/// What came of a case, and what the client was told.
#[derive(Clone, Debug)]
pub struct Told {
    /// What came of it.
    pub cell: Cell,
    /// The lines that the client's program printed.
    pub said: Vec<Value>,
}

/// Puts one case to a client.
#[must_use]
pub fn run(case: Case, client: &Client, programs: &Programs, server: &Server) -> Told {
    let topic = format!("{}-{}", client.name, case.slug());
    let mut run = Run { client, programs, server, topic, said: Vec::new() };
    let cell = match run.case(case) {
        Ok(()) => Cell::Ok,
        Err(Stop::NotOffered(why)) => Cell::NotOffered(why),
        Err(Stop::Later) => Cell::Later,
        Err(Stop::Fails(error)) => Cell::fails(&format!("{error:#}"), server.address()),
    };
    Told { cell, said: run.said }
}

/// Why a case is not well.
#[derive(Debug)]
enum Stop {
    NotOffered(String),
    Later,
    Fails(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Fails(error.into())
    }
}

/// As anyhow's `ensure`: a condition that does not hold fails the case.
macro_rules! must {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(anyhow!($($why)+).into());
        }
    };
}

struct Run<'a> {
    client: &'a Client,
    programs: &'a Programs,
    server: &'a Server,
    topic: String,
    said: Vec<Value>,
}

impl Run<'_> {
    fn case(&mut self, case: Case) -> Result<(), Stop> {
        match case {
            Case::Send(codec) => self.send(codec, false),
            Case::Read(codec) => self.read(codec),
            Case::CommandReads => self.command_reads(),
            Case::CommandSends => self.command_sends(),
            Case::Large => self.large(),
            Case::Idempotent => self.send(Compression::None, true),
            Case::Unknown => self.unknown(),
            Case::Create => self.create(),
            Case::List => self.list(),
            Case::Describe => self.describe(),
            Case::Configs => self.configs(),
            Case::Alter => self.alter(),
            Case::Delete => self.delete(),
            Case::Offsets => self.offsets(),
            Case::DeleteRecords => self.delete_records(),
            Case::LogDirs => self.log_dirs(),
            Case::Groups => Err(Stop::Later),
            Case::Transactions if self.client.has_transactions => Err(Stop::Later),
            Case::Transactions => Err(Stop::NotOffered("the client has none".to_owned())),
        }
    }

    /// What the client answers, whatever it is.
    fn answer(&mut self, verb: &str, words: &[&str], input: &[u8]) -> anyhow::Result<Answer> {
        let address = self.server.address().to_string();
        let answer = self.programs.ask(self.client, &[&[verb, &address], words].concat(), input)?;
        match &answer {
            Answer::Lines(lines) => self.said.extend(lines.iter().cloned()),
            Answer::NotOffered(_) => {}
            Answer::Refused(code, _) => self.said.push(json!({"refused": code})),
        }
        Ok(answer)
    }

    /// What the client answers to something that the broker has to do.
    fn ask(&mut self, verb: &str, words: &[&str], input: &[u8]) -> Result<Vec<Value>, Stop> {
        match self.answer(verb, words, input)? {
            Answer::Lines(lines) => Ok(lines),
            Answer::NotOffered(why) => Err(Stop::NotOffered(why)),
            Answer::Refused(code, message) => Err(anyhow!("refused with {code:?}: {message}").into()),
        }
    }

    /// The one line of an answer.
    fn ask_one(&mut self, verb: &str, words: &[&str]) -> Result<Value, Stop> {
        let lines = self.ask(verb, words, b"")?;
        let [line] = lines.as_slice() else { return Err(anyhow!("it printed {} lines", lines.len()).into()) };
        Ok(line.clone())
    }

    /// How many partitions the topic of records has that the client sends.
    fn partitions(&self) -> i32 {
        if self.client.cannot_send.contains(&Limit::Partition) { 1 } else { data::PARTITIONS }
    }

    /// Makes a topic from which nothing goes by itself: the script's records are years old.
    fn make(&self, topic: &str, partitions: i32) -> anyhow::Result<()> {
        self.server.wire()?.create(topic, partitions, &[("retention.ms", "-1")])
    }

    /// The topic's batches as they are stored.
    fn batches(&self) -> anyhow::Result<Vec<Vec<Batch>>> {
        let mut wire = self.server.wire()?;
        (0..self.partitions()).map(|partition| wire.batches(&self.topic, partition)).collect()
    }

    fn send(&mut self, codec: Compression, idempotent: bool) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, self.partitions())?;
        let sent = data::within(self.client.cannot_send, data::messages());
        let words = [topic.as_str(), codec.as_str(), if idempotent { "true" } else { "false" }];
        let told = self.ask("produce", &words, &data::lines(&sent))?;
        let read = self.server.read(&topic, self.partitions())?;
        data::hold(&sent, &read, !self.client.cannot_send.contains(&Limit::Timestamp))?;
        hold_places(&sent, &told)?;
        let batches = self.batches()?;
        let codecs = batches.iter().flatten().map(|batch| batch.header().attributes.compression());
        let codecs: BTreeSet<_> = codecs.collect::<Result<Vec<_>, _>>()?.iter().map(|codec| codec.as_str()).collect();
        let packed = codecs.contains(codec.as_str());
        // Clients leave small batches as they are.
        must!(packed && codecs.iter().all(|it| *it == codec.as_str() || *it == "none"), "it sent {codecs:?}");
        if idempotent {
            for batches in &batches {
                hold_sequence(batches)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, codec: Compression) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, data::PARTITIONS)?;
        let sent = data::within(self.client.cannot_tell, data::messages());
        self.server.write(&topic, &sent, codec)?;
        let read = data::placed(&self.ask("consume", &[&topic], b"")?)?;
        Ok(data::hold(&sent, &read, true)?)
    }

    fn command_reads(&mut self) -> Result<(), Stop> {
        let Server::Millstream(broker) = self.server else { return Err(ours_only()) };
        let topic = self.topic.clone();
        self.make(&topic, 1)?;
        let sent = data::within(&[Limit::Text, Limit::Partition], data::messages());
        let sent = data::within(self.client.cannot_send, sent);
        self.ask("produce", &[&topic, "none"], &data::lines(&sent))?;
        let read = broker.json(&["consume", &topic, "--until", "end", "--format", "json"])?;
        let read: Vec<_> = read.iter().map(|it| (&it["key"], &it["value"])).collect();
        let expected: Vec<_> = sent.iter().map(|it| (text(it.key.as_ref()), text(it.value.as_ref()))).collect();
        must!(read == expected.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>(), "it reads {read:?}");
        Ok(())
    }

    fn command_sends(&mut self) -> Result<(), Stop> {
        let Server::Millstream(broker) = self.server else { return Err(ours_only()) };
        let topic = self.topic.clone();
        self.make(&topic, 1)?;
        let lines: String = (0..100).map(|n| format!("key-{n}:value {n}\n")).collect();
        broker.cli_with(&["produce", &topic, "--key-separator", ":"], lines.as_bytes())?.ok()?;
        let read = data::placed(&self.ask("consume", &[&topic], b"")?)?;
        let text = |bytes: &Option<Vec<u8>>| String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
        let read: String =
            read.iter().map(|it| format!("{}:{}\n", text(&it.message.key), text(&it.message.value))).collect();
        must!(read == lines, "it reads {read:?}");
        Ok(())
    }

    fn large(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, 1)?;
        let sent = [data::large(LARGE_BYTES)];
        self.ask("produce", &[&topic, "none"], &data::lines(&sent))?;
        let with_times = !self.client.cannot_send.contains(&Limit::Timestamp);
        data::hold(&sent, &self.server.read(&topic, 1)?, with_times)?;
        match self.ask("consume", &[&topic], b"") {
            Ok(lines) => data::hold(&sent, &data::placed(&lines)?, with_times)?,
            // Half of it is done.
            Err(Stop::NotOffered(_)) => {}
            Err(stop) => return Err(stop),
        }
        // Too long to be compared with what another broker says.
        self.said.clear();
        Ok(())
    }

    fn unknown(&mut self) -> Result<(), Stop> {
        match self.answer("unknown", &["no-such-topic"], b"")? {
            Answer::Refused(Some(UNKNOWN_TOPIC_OR_PARTITION), _) => Ok(()),
            Answer::NotOffered(why) => Err(Stop::NotOffered(why)),
            other => Err(anyhow!("it was told {other:?}").into()),
        }
    }

    fn create(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        let configs = json!({"retention.ms": "3600000", "cleanup.policy": "compact"}).to_string();
        self.ask_one("create", &[&topic, "2", &configs])?;
        let mut wire = self.server.wire()?;
        wire.wait_for_leaders(&topic, 2)?;
        let configs = wire.configs(&topic)?;
        let value = |name: &str| configs.get(name).and_then(Option::as_deref).map(str::to_owned);
        must!(value("retention.ms").as_deref() == Some("3600000"), "retention.ms is {:?}", value("retention.ms"));
        must!(value("cleanup.policy").as_deref() == Some("compact"), "cleanup.policy is not as asked");
        // A second one of that name is refused, or the client asks first.
        match self.answer("create", &[&topic, "2", "{}"], b"") {
            Ok(Answer::Refused(..)) | Err(_) => {}
            Ok(other) => self.said.push(json!({"created again": format!("{other:?}")})),
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, 1)?;
        let told = self.ask_one("list", &[])?;
        let topics = told["topics"].as_array().context("no topics")?;
        must!(topics.iter().any(|it| *it == topic.as_str()), "{topic} is not in {topics:?}");
        must!(topics.iter().all(|it| it != "no-such-topic"), "one that is not there is listed");
        // What others of its topics there are is not the same of every broker.
        self.said = vec![json!({"listed": topics.contains(&json!(topic))})];
        Ok(())
    }

    fn describe(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, data::PARTITIONS)?;
        let told = self.ask_one("describe", &[&topic])?;
        must!(told["partitions"] == json!([0, 1, 2]), "it has the partitions {}", told["partitions"]);
        Ok(())
    }

    fn configs(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.server.wire()?.create(&topic, 1, &[("max.message.bytes", "123456")])?;
        let told = self.ask_one("configs", &[&topic])?;
        must!(told["configs"]["max.message.bytes"] == "123456", "it is told {told}");
        must!(told["configs"]["cleanup.policy"] == "delete", "it is told {told}");
        Ok(())
    }

    fn alter(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.server.wire()?.create(&topic, 1, &[("max.message.bytes", "123456")])?;
        self.ask_one("alter", &[&topic, "retention.ms", "1234567"])?;
        let configs = self.server.wire()?.configs(&topic)?;
        let value = |name: &str| configs.get(name).and_then(Option::as_deref).map(str::to_owned);
        must!(value("retention.ms").as_deref() == Some("1234567"), "retention.ms is {:?}", value("retention.ms"));
        must!(value("max.message.bytes").as_deref() == Some("123456"), "another setting has changed");
        Ok(())
    }

    fn delete(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, 1)?;
        self.ask_one("delete", &[&topic])?;
        let left = self.server.wire()?.led(&topic)?;
        must!(left.is_none(), "it is still there");
        Ok(())
    }

    fn offsets(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, 2)?;
        let sent = data::by_the_second(10);
        self.server.write(&topic, &sent, Compression::None)?;
        let between = (sent[4].timestamp + 500).to_string();
        let told = self.ask_one("offsets", &[&topic, &between])?;
        must!(told["offsets"]["0"] == 5, "the first record after that time is at 5, and it is told {told}");
        Ok(())
    }

    fn delete_records(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, 1)?;
        self.server.write(&topic, &data::by_the_second(10), Compression::None)?;
        let told = self.ask_one("delete-records", &[&topic, "0", "3"])?;
        must!(told["low_watermark"] == 3 || told["done"] == true, "it is told {told}");
        let first = self.server.wire()?.offset(&topic, 0, EARLIEST_TIMESTAMP)?;
        must!(first == 3, "the first record is at {first}");
        Ok(())
    }

    fn log_dirs(&mut self) -> Result<(), Stop> {
        let topic = self.topic.clone();
        self.make(&topic, 1)?;
        self.server.write(&topic, &data::by_the_second(10), Compression::None)?;
        let told = self.ask_one("log-dirs", &[&topic])?;
        must!(told["bytes"].as_i64().is_some_and(|bytes| bytes > 0), "it is told {told}");
        Ok(())
    }
}

fn ours_only() -> Stop {
    Stop::NotOffered("our command speaks QUIC".to_owned())
}

fn text(bytes: Option<&Vec<u8>>) -> Value {
    bytes.map_or(Value::Null, |bytes| String::from_utf8_lossy(bytes).into())
}

/// Where the client says that its records went is where they are. Some say only how many they sent.
fn hold_places(sent: &[Message], told: &[Value]) -> anyhow::Result<()> {
    if let [one] = told
        && !one["sent"].is_null()
    {
        ensure!(one["sent"] == sent.len(), "it sent {} of {}", one["sent"], sent.len());
        return Ok(());
    }
    ensure!(told.len() == sent.len(), "{} of {} records were acknowledged", told.len(), sent.len());
    let mut next = [0; data::PARTITIONS as usize];
    for (sent, told) in sent.iter().zip(told) {
        let place = json!({"partition": sent.partition, "offset": next[usize::try_from(sent.partition)?]});
        ensure!(told["partition"] == place["partition"] && told["offset"] == place["offset"], "{told}, not {place}");
        next[usize::try_from(sent.partition)?] += 1;
    }
    Ok(())
}

/// All batches are a producer's, and each producer's are numbered without a gap. (A program may be several, one after another.)
fn hold_sequence(batches: &[Batch]) -> anyhow::Result<()> {
    let mut next = BTreeMap::new();
    for batch in batches {
        let header = batch.header();
        ensure!(header.has_producer_id(), "a batch is nobody's");
        let next = next.entry(header.producer_id).or_insert(0);
        ensure!(header.base_sequence.0 == *next, "a batch has the number {}, not {next}", header.base_sequence.0);
        *next += header.count;
    }
    Ok(())
}
