//! Whose clients are tried, how their programs are run, and what each cannot say.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use millstream_test_support::{cli, tree};
use serde_json::Value;

/// How long one program may take; the slowest start a Java machine three times.
const PROGRAM_MAX: Duration = Duration::from_secs(150);

/// What a client cannot say or tell: records of that kind are not asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A record without key and value.
    NothingAtAll,
    /// A header without a value.
    NullHeader,
    /// A header's value with a zero byte in it.
    ZeroInHeader,
    /// An empty header, which is null to it.
    EmptyHeader,
    /// Headers of one name with others between.
    HeaderOrder,
    /// Null and empty are one to it.
    EmptyIsNull,
    /// Text only: no bytes that are not UTF-8, no line ends, and none of the separators that its program uses.
    Text,
    /// It chooses the partition itself.
    Partition,
    /// It stamps records itself.
    Timestamp,
}

impl Limit {
    /// In words, as the table's notes have it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NothingAtAll => "a record without key and value",
            Self::NullHeader => "a header without a value",
            Self::ZeroInHeader => "a zero byte in a header",
            Self::EmptyHeader => "an empty header that is not null",
            Self::HeaderOrder => "headers of one name with others between",
            Self::EmptyIsNull => "an empty value or key that is not null",
            Self::Text => "anything but lines of text",
            Self::Partition => "which partition",
            Self::Timestamp => "a record's time",
        }
    }
}

/// How a client's program is started. Paths are below the cache, which `cargo xtask compat` fills.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// With the Python of the machine, which needs no packages: it runs another program.
    PlainPython,
    /// With a Python of its own.
    Python,
    /// With Node.js.
    Node,
    /// As a program that was built.
    Go,
    /// As a source that Java compiles in memory.
    Java,
}

/// A client.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Its name, and its folder in `tests/compat/clients/`.
    pub name: &'static str,
    /// How its program is started.
    pub start: Start,
    /// What it cannot send.
    pub cannot_send: &'static [Limit],
    /// What it cannot tell of what it reads.
    pub cannot_tell: &'static [Limit],
    /// Whether it has transactions.
    pub has_transactions: bool,
}

impl Client {
    /// In words, what it cannot say or tell; empty where there is nothing.
    #[must_use]
    pub fn limits(&self) -> String {
        let words = |limits: &[Limit]| limits.iter().map(|limit| limit.text()).collect::<Vec<_>>().join("; ");
        match (self.cannot_send, self.cannot_tell) {
            ([], []) => String::new(),
            (send, []) => format!("cannot send {}", words(send)),
            ([], tell) => format!("cannot tell {}", words(tell)),
            (send, tell) => format!("cannot send {}; cannot tell {}", words(send), words(tell)),
        }
    }
}

/// All of them, in the table's order.
pub const CLIENTS: &[Client] = &[
    Client {
        name: "kcat",
        start: Start::PlainPython,
        cannot_send: &[Limit::ZeroInHeader, Limit::Timestamp],
        cannot_tell: &[Limit::ZeroInHeader],
        has_transactions: true,
    },
    Client {
        name: "confluent-kafka",
        start: Start::Python,
        cannot_send: &[],
        cannot_tell: &[],
        has_transactions: true,
    },
    Client {
        name: "kafka-python",
        start: Start::Python,
        cannot_send: &[Limit::NothingAtAll, Limit::NullHeader],
        cannot_tell: &[],
        has_transactions: true,
    },
    Client {
        name: "aiokafka",
        start: Start::Python,
        cannot_send: &[Limit::NothingAtAll],
        cannot_tell: &[],
        has_transactions: true,
    },
    Client {
        name: "kafkajs",
        start: Start::Node,
        cannot_send: &[Limit::NullHeader, Limit::HeaderOrder],
        cannot_tell: &[],
        has_transactions: true,
    },
    Client { name: "franz-go", start: Start::Go, cannot_send: &[], cannot_tell: &[], has_transactions: true },
    Client { name: "sarama", start: Start::Go, cannot_send: &[], cannot_tell: &[], has_transactions: true },
    Client {
        name: "kafka-go",
        start: Start::Go,
        cannot_send: &[],
        cannot_tell: &[Limit::EmptyHeader, Limit::EmptyIsNull],
        has_transactions: false,
    },
    Client { name: "kafka-clients", start: Start::Java, cannot_send: &[], cannot_tell: &[], has_transactions: true },
    Client {
        name: "console-tools",
        start: Start::PlainPython,
        cannot_send: &[Limit::Text, Limit::Partition, Limit::Timestamp],
        cannot_tell: &[Limit::Text],
        has_transactions: false,
    },
];

/// What came of asking a client's program.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Its lines.
    Lines(Vec<Value>),
    /// The client has no way to do it.
    NotOffered(String),
    /// The broker refused: its code, where the client tells it, and what the client says.
    Refused(Option<i64>, String),
}

/// Where the programs are, and how they are run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder that `cargo xtask compat` fills.
    cache: PathBuf,
}

impl Programs {
    /// The programs in this cache.
    #[must_use]
    pub const fn new(cache: PathBuf) -> Self {
        Self { cache }
    }

    /// The folder of the Java archives.
    #[must_use]
    pub fn jars(&self) -> PathBuf {
        self.cache.join("jars")
    }

    /// Asks a client's program: `words` are a verb and its arguments.
    ///
    /// # Errors
    /// When it cannot be run, fails, hangs, or prints what is not understood: with its last line.
    pub fn ask(&self, client: &Client, words: &[&str], input: &[u8]) -> anyhow::Result<Answer> {
        let folder = tree::root().join("tests/compat/clients").join(client.name);
        let finished = cli::run_within(PROGRAM_MAX, self.command(client, &folder).args(words), input)?;
        let last = finished.stderr.trim().lines().last().unwrap_or_default().to_owned();
        anyhow::ensure!(finished.code == Some(0), "{last}");
        let lines = finished.json()?;
        if let [told] = lines.as_slice() {
            if let Some(why) = told["not_offered"].as_str() {
                return Ok(Answer::NotOffered(why.to_owned()));
            }
            let error = &told["error"];
            if !error.is_null() {
                let message = error["message"].as_str().context("an error without a message")?;
                return Ok(Answer::Refused(error["code"].as_i64(), message.to_owned()));
            }
        }
        Ok(Answer::Lines(lines))
    }

    fn command(&self, client: &Client, folder: &Path) -> Command {
        let own = self.cache.join(client.name);
        let mut command = match client.start {
            Start::PlainPython => with(Command::new("python3"), &folder.join("main.py")),
            Start::Python => with(Command::new(own.join("bin/python")), &folder.join("main.py")),
            Start::Node => with(Command::new("node"), &folder.join("main.js")),
            Start::Go => Command::new(self.cache.join("go").join(client.name)),
            Start::Java => {
                let mut java = Command::new("java");
                let jars = format!("{}/*", self.jars().display());
                java.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", &jars]);
                with(java, &folder.join("Main.java"))
            }
        };
        command
            .env("NODE_PATH", own.join("node_modules"))
            .env("MILLSTREAM_JARS", self.jars())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

fn with(mut command: Command, script: &Path) -> Command {
    command.arg(script);
    command
}
