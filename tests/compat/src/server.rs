//! The broker that clients are asked about: ours from the tree, or Apache Kafka's.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use millstream_model::limits::BATCH_BYTES_MAX;
use millstream_record::Compression;
use millstream_test_support::{
    broker::Broker,
    message::{Message, Placed},
    sdk,
};
use tempfile::TempDir;

use crate::{data::PARTITIONS, signals, wire::Wire};

/// For what is asked once: compiled soon, and not well.
const JAVA_FOR_CASES: [&str; 2] = ["-Xmx512m", "-XX:TieredStopAtLevel=1"];
/// For what is measured: as Kafka's own scripts start its broker.
const JAVA_FOR_LOAD: [&str; 5] =
    ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"];
/// How long Apache Kafka's start may take on a machine that does much else.
const START_MAX: Duration = Duration::from_secs(120);

/// A broker that runs. Dropping it ends it.
#[derive(Debug)]
pub enum Server {
    /// Ours.
    Millstream(Broker),
    /// Theirs.
    Apache(Apache),
}

impl Server {
    /// Starts ours. Topics are made only when asked for, so that clients are told of those that are not there.
    ///
    /// # Errors
    /// When it does not start.
    pub fn millstream() -> anyhow::Result<Self> {
        let broker = Broker::start_with(&["--set", "auto.create.topics.enable=false"])?;
        signals::ends_with_us(broker.process_id());
        Ok(Self::Millstream(broker))
    }

    /// Starts Apache Kafka from the archives in this folder, set as ours is.
    ///
    /// # Errors
    /// When it does not start.
    pub fn apache(jars: &Path) -> anyhow::Result<Self> {
        Ok(Self::Apache(Apache::start(jars, &JAVA_FOR_CASES)?))
    }

    /// As [`Server::apache`], as fast as its Java makes it: which takes longer to start.
    ///
    /// # Errors
    /// When it does not start.
    pub fn apache_for_load(jars: &Path) -> anyhow::Result<Self> {
        Ok(Self::Apache(Apache::start(jars, &JAVA_FOR_LOAD)?))
    }

    /// Where it speaks Kafka's protocol.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Millstream(broker) => broker.address(),
            Self::Apache(apache) => apache.address,
        }
    }

    /// A connection of our own.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub fn wire(&self) -> anyhow::Result<Wire> {
        Wire::connect(self.address())
    }

    /// Writes records in one batch a partition: to ours with our client.
    ///
    /// # Errors
    /// When they are refused.
    pub fn write(&self, topic: &str, messages: &[Message], codec: Compression) -> anyhow::Result<()> {
        for partition in 0..PARTITIONS {
            let of_it = messages.iter().filter(|message| message.partition == partition);
            let of_it: Vec<_> = of_it.cloned().collect();
            if of_it.is_empty() {
                continue;
            }
            let batch = sdk::encode(&of_it, codec)?;
            match self {
                Self::Millstream(broker) => sdk::produce_batches(broker, topic, partition, vec![batch.to_vec()])?,
                Self::Apache(_) => drop(self.wire()?.produce(topic, partition, batch)?),
            }
        }
        Ok(())
    }

    /// Reads a topic of so many partitions: from ours with our client.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, topic: &str, partitions: i32) -> anyhow::Result<Vec<Placed>> {
        match self {
            Self::Millstream(broker) => sdk::consume(broker, topic),
            Self::Apache(_) => self.read_plainly(topic, partitions),
        }
    }

    fn read_plainly(&self, topic: &str, partitions: i32) -> anyhow::Result<Vec<Placed>> {
        let mut read = Vec::new();
        for partition in 0..partitions {
            for batch in self.wire()?.batches(topic, partition)? {
                for record in batch.records(BATCH_BYTES_MAX)? {
                    let record = record?;
                    let headers = record
                        .headers
                        .iter()
                        .map(|header| Ok((header.key_str()?.to_owned(), header.value.map(|value| value.to_vec()))));
                    let message = Message {
                        partition,
                        timestamp: record.timestamp.0,
                        key: record.key.as_ref().map(|key| key.to_vec()),
                        value: record.value.as_ref().map(|value| value.to_vec()),
                        headers: headers.collect::<anyhow::Result<_>>()?,
                    };
                    read.push(Placed { offset: record.offset.0, message });
                }
            }
        }
        Ok(read)
    }
}

/// Apache Kafka: one process that is broker and controller, with an empty data directory.
#[derive(Debug)]
pub struct Apache {
    /// Removed with it.
    home: TempDir,
    child: Child,
    address: SocketAddr,
}

impl Apache {
    fn start(jars: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("millstream-compat-").tempdir()?;
        let (address, controller) = (free_port()?, free_port()?);
        let data = home.path().join("data");
        let properties = home.path().join("server.properties");
        let settings = [
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.bootstrap.servers={controller}"),
            format!("listeners=PLAINTEXT://{address},CONTROLLER://{controller}"),
            format!("advertised.listeners=PLAINTEXT://{address}"),
            "controller.listener.names=CONTROLLER".to_owned(),
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
            format!("log.dirs={}", data.display()),
            "auto.create.topics.enable=false".to_owned(),
            "offsets.topic.replication.factor=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
        ];
        std::fs::write(&properties, settings.join("\n"))?;
        let log = home.path().join("log");
        let formatted = java(jars, "kafka.tools.StorageTool", &JAVA_FOR_CASES)
            .args(["format", "--standalone", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAA", "--config"])
            .arg(&properties)
            .stdin(Stdio::null())
            .output()
            .context("starting Java")?;
        let said = String::from_utf8_lossy(&formatted.stderr).into_owned();
        ensure!(formatted.status.success(), "Kafka's StorageTool ended with {}: {said}", formatted.status);
        // The kernel ends it with this program, however that ends.
        let mut command = Command::new("setpriv");
        let broker = java(jars, "kafka.Kafka", flags);
        command.args(["--pdeathsig", "KILL", "--"]).arg(broker.get_program()).args(broker.get_args());
        let output = File::create(&log)?;
        command.arg(&properties).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().context("starting Apache Kafka with setpriv and Java")?;
        signals::ends_with_us(child.id());
        let mut apache = Self { home, child, address };
        apache.wait_until_it_serves()?;
        Ok(apache)
    }

    fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        // It listens before it knows itself.
        while !Wire::connect(self.address).and_then(|mut wire| wire.led("none")).is_ok_and(|led| led.is_none()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("Apache Kafka ended with {status}:\n{}", self.log());
            }
            ensure!(start.elapsed() < START_MAX, "Apache Kafka does not serve after {START_MAX:?}:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        // It may have ended by itself; the folder goes either way.
        drop(self.child.kill());
        drop(self.child.wait());
        signals::has_ended(self.child.id());
    }
}

/// A program of Java's in these archives.
pub(crate) fn java(jars: &Path, program: &str, flags: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(flags).args(["-cp", &format!("{}/*", jars.display()), program]);
    command
}

/// A port that is free now. Apache Kafka has to be told its port before it starts.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
