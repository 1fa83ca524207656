//! What is measured, in which order: every line once a round, so that noise hits all of them alike, and a line next to the
//! one that it is compared with.

use std::{
    fs::File,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::fs::syncfs;
use tempfile::TempDir;

use crate::{
    bare::{Ack, BareServer},
    broker::{Encoder, RealBroker, TCP_READERS, Target},
    closed_loop::{Reader, Sample, measure},
    meter::cpu_of,
    modules::{Caller, Module, Modules},
    stages::{self, Stage},
    workload,
};

/// How many producers there are, one line each.
const PRODUCERS: [usize; 3] = [1, 8, 64];
/// How many small requests are under way, each on a stream of its own.
const REQUESTS: usize = 64;
/// A topic whose segments are closed and let go all the time.
const ROLLING: &[(&str, &str)] = &[("segment.bytes", "1048576"), ("retention.bytes", "8388608")];
/// How long the servers may take to finish what they do behind a measurement before the next one starts all the same.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const SETTLE_STEP: Duration = Duration::from_millis(100);

/// How a line is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// In each round.
    pub(crate) time: Duration,
    pub(crate) rounds: u32,
    /// Only lines whose name holds one of these; all if there are none.
    pub(crate) only: Vec<String>,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What is done. Lines that do the same are compared with the first of them.
    pub(crate) what: String,
    /// What does it.
    pub(crate) with: &'static str,
    work: Work,
}

/// A line and what was measured, a sample a round.
pub(crate) struct Measured {
    pub(crate) line: Line,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    BareProduce {
        ack: Ack,
        producers: usize,
        encoder: Encoder,
    },
    Produce {
        durable: bool,
        producers: usize,
        encoder: Encoder,
    },
    Log {
        producers: usize,
    },
    BareFetch {
        checked: bool,
    },
    Fetch {
        records: bool,
        push: bool,
    },
    /// Durable, batches encoded before.
    ProduceInto {
        producers: usize,
        into: Target,
        reading: bool,
    },
    /// One producer beside one reader, of the bare server.
    BareBeside {
        reading: bool,
    },
    SendFile {
        checked: bool,
    },
    FetchTcp,
    BareRequests,
    Requests,
    Call(Module, Caller),
    Stage(Stage),
}

/// Every line there is.
fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |what: &str, with, work| lines.push(Line { what: what.into(), with, work });
    for durable in [true, false] {
        for producers in PRODUCERS {
            let (name, ack) = if durable { ("durable", Ack::Durable) } else { ("page cache", Ack::Cached) };
            let what = format!("produce, {name}, {producers}");
            let bare = |ack, encoder| Work::BareProduce { ack, producers, encoder };
            add(&what, "bare QUIC and file", bare(ack, Encoder::Before));
            if durable {
                add(&what, "the same, written twice", bare(Ack::DurableTwice, Encoder::Before));
                add(&what, "the same, encoding too", bare(ack, Encoder::Each));
            }
            let encoder = Encoder::Before;
            add(&what, "millstream, encoded batch", Work::Produce { durable, producers, encoder });
            if durable {
                let encoder = Encoder::Each;
                add(&what, "millstream, SDK encoder", Work::Produce { durable, producers, encoder });
                add(&what, "log alone, no network", Work::Log { producers });
            }
        }
    }
    add("fetch", "bare QUIC from memory", Work::BareFetch { checked: false });
    add("fetch", "the same from a file, checked", Work::BareFetch { checked: true });
    add("fetch", "millstream, batches", Work::Fetch { records: false, push: false });
    add("fetch", "millstream, batches pushed", Work::Fetch { records: false, push: true });
    add("fetch", "millstream, records", Work::Fetch { records: true, push: false });
    add("fetch", "millstream, records pushed", Work::Fetch { records: true, push: true });
    add("fetch over TCP", "bare file, sendfile", Work::SendFile { checked: false });
    add("fetch over TCP", "the same, read and checked", Work::SendFile { checked: true });
    add("fetch over TCP", "millstream, 1 MiB an answer", Work::FetchTcp);
    let what = format!("small requests, {REQUESTS} under way");
    add(&what, "bare QUIC, 64 bytes", Work::BareRequests);
    add(&what, "millstream, ListOffsets", Work::Requests);
    let into = |partitions| Target { partitions, configs: &[] };
    for producers in [1, 8] {
        let what = format!("partitions, durable, {producers}");
        let few = Work::ProduceInto { producers, into: into(1), reading: false };
        let many = Work::ProduceInto { producers, into: into(1000), reading: false };
        add(&what, "one partition", few);
        add(&what, "1,000 partitions", many);
    }
    let rolling = Target { partitions: 8, configs: ROLLING };
    add("rolling, durable, 8", "segments of 1 GiB", Work::ProduceInto { producers: 8, into: into(8), reading: false });
    add("rolling, durable, 8", "of 1 MiB, 8 kept", Work::ProduceInto { producers: 8, into: rolling, reading: false });
    add("beside a reader, 1", "no reader", Work::ProduceInto { producers: 1, into: into(1), reading: false });
    add("beside a reader, 1", "one that catches up", Work::ProduceInto { producers: 1, into: into(1), reading: true });
    add("bare beside a reader, 1", "no reader", Work::BareBeside { reading: false });
    add("bare beside a reader, 1", "one that reads from memory", Work::BareBeside { reading: true });
    for (what, module) in [("partitioner, keys", Module::Partitioner), ("identity, 1 KB", Module::Identity)] {
        add(what, "bare wasmtime", Work::Call(module, Caller::Bare));
        add(what, "bare wasmtime, no fuel", Work::Call(module, Caller::BareUnlimited));
        add(what, "millstream pool", Work::Call(module, Caller::Pool));
    }
    for (with, stage) in
        [("encode a batch", Stage::Encode), ("validate a batch", Stage::Validate), ("decode a batch", Stage::Decode)]
    {
        add("stage", with, Work::Stage(stage));
    }
    lines
}

/// Measures every line that the plan wants, in rounds.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Vec<Measured>> {
    let wanted = |line: &Line| {
        let name = format!("{}: {}", line.what, line.with);
        plan.only.is_empty() || plan.only.iter().any(|part| name.contains(part.as_str()))
    };
    let lines: Vec<_> = lines().into_iter().filter(wanted).collect();
    anyhow::ensure!(!lines.is_empty(), "no line's name holds {:?}", plan.only);
    let mut stand = Stand::set_up(&lines).await?;
    let mut measured: Vec<_> = lines.into_iter().map(|line| Measured { line, samples: Vec::new() }).collect();
    let start = Instant::now();
    for round in 1..=plan.rounds {
        for Measured { line, samples } in &mut measured {
            stand.settle().await?;
            eprintln!("{:5.0?} round {round}: {}: {}", start.elapsed(), line.what, line.with);
            let sample = stand.run(plan, line.work).await;
            samples.push(sample.with_context(|| format!("{}: {}", line.what, line.with))?);
        }
    }
    Ok(measured)
}

/// What the lines need: processes, compiled modules, a folder. Made once, used in every round.
struct Stand {
    bare: Option<BareServer>,
    broker: Option<RealBroker>,
    modules: Option<Modules>,
    dir: TempDir,
}

impl Stand {
    async fn set_up(lines: &[Line]) -> anyhow::Result<Self> {
        let any = |is: fn(&Work) -> bool| lines.iter().any(|line| is(&line.work));
        let dir = tempfile::Builder::new().prefix("millstream-bench-").tempdir()?;
        let is_bare = |work: &Work| {
            matches!(
                work,
                Work::BareProduce { .. }
                    | Work::BareFetch { .. }
                    | Work::BareBeside { .. }
                    | Work::SendFile { .. }
                    | Work::BareRequests
            )
        };
        let bare = match any(is_bare) {
            true => Some(BareServer::start(&make(&dir, "bare")?).await?),
            false => None,
        };
        let is_broker = |work: &Work| {
            matches!(
                work,
                Work::Produce { .. } | Work::Fetch { .. } | Work::ProduceInto { .. } | Work::FetchTcp | Work::Requests
            )
        };
        let mut broker = match any(is_broker) {
            true => Some(RealBroker::start().await?),
            false => None,
        };
        let is_durable = |work: &Work| matches!(work, Work::Produce { durable: true, .. } | Work::ProduceInto { .. });
        if let Some(broker) = broker.as_mut().filter(|_| any(is_durable)) {
            broker.turn_journal_over().await?;
        }
        let modules = match any(|work| matches!(work, Work::Call(..))) {
            true => Some(Modules::build(&make(&dir, "modules")?).await?),
            false => None,
        };
        Ok(Self { bare, broker, modules, dir })
    }

    /// Waits until nothing of the last measurement goes on: dirty pages, deleted files, answers that nobody waits for.
    async fn settle(&self) -> anyhow::Result<()> {
        syncfs(File::open(self.dir.path())?)?;
        let servers =
            [self.bare.as_ref().map(BareServer::process_id), self.broker.as_ref().map(RealBroker::process_id)];
        let spent = || -> anyhow::Result<f64> {
            servers.iter().flatten().map(|server| cpu_of(*server).map(|cpu| cpu.total())).sum()
        };
        let start = Instant::now();
        let mut before = spent()?;
        while start.elapsed() < SETTLE_MAX {
            tokio::time::sleep(SETTLE_STEP).await;
            let now = spent()?;
            // One tick of the clock that processor time is counted in.
            if now - before < 0.015 {
                break;
            }
            before = now;
        }
        Ok(())
    }

    async fn run(&mut self, plan: &Plan, work: Work) -> anyhow::Result<Sample> {
        match work {
            Work::BareProduce { ack, producers, encoder } => {
                let server = self.bare.as_ref().context("no bare server")?;
                let mut lanes = Vec::new();
                for lane in 0..producers {
                    lanes.push(server.producer(&workload::values(lane as u8), encoder, ack).await?);
                }
                server.disk_stats().await?;
                let mut sample = measure(lanes, plan.time, Some(server.process_id())).await?;
                sample.note = Some(server.disk_stats().await?);
                Ok(sample)
            }
            Work::BareFetch { checked } => {
                let server = self.bare.as_ref().context("no bare server")?;
                let id = Some(server.process_id());
                match checked {
                    false => measure(vec![server.fetcher().await?], plan.time, id).await,
                    true => measure(vec![server.checked_fetcher().await?], plan.time, id).await,
                }
            }
            Work::BareBeside { reading } => {
                let server = self.bare.as_ref().context("no bare server")?;
                let lane = server.producer(&workload::values(1), Encoder::Before, Ack::Durable).await?;
                let reader = if reading { Some(Reader::start(server.distant_fetcher())?) } else { None };
                let sample = measure(vec![lane], plan.time, Some(server.process_id())).await;
                let told = reader.map(Reader::stop).transpose()?;
                Ok(Sample { note: told, ..sample? })
            }
            Work::Produce { durable, producers, encoder } => {
                self.broker.as_mut().context("no broker")?.produce(plan, durable, producers, encoder).await
            }
            Work::Fetch { records, push } => {
                self.broker.as_mut().context("no broker")?.fetch(plan, records, push).await
            }
            Work::SendFile { checked } => {
                let server = self.bare.as_ref().context("no bare server")?;
                let mut lanes = Vec::new();
                for _ in 0..TCP_READERS {
                    lanes.push(server.tcp_fetcher(checked).await?);
                }
                measure(lanes, plan.time, Some(server.process_id())).await
            }
            Work::BareRequests => {
                let server = self.bare.as_ref().context("no bare server")?;
                let mut lanes = Vec::new();
                for _ in 0..REQUESTS {
                    lanes.push(server.round_trips().await?);
                }
                measure(lanes, plan.time, Some(server.process_id())).await
            }
            Work::Requests => self.broker.as_mut().context("no broker")?.requests(plan, REQUESTS).await,
            Work::FetchTcp => self.broker.as_mut().context("no broker")?.fetch_tcp(plan).await,
            Work::ProduceInto { producers, into, reading } => {
                self.broker.as_mut().context("no broker")?.produce_into(plan, producers, into, reading).await
            }
            Work::Log { producers } => stages::log(plan, self.dir.path(), producers).await,
            Work::Call(module, caller) => self.modules.as_ref().context("no modules")?.call(plan, module, caller).await,
            Work::Stage(stage) => stages::stage(plan, stage).await,
        }
    }
}

fn make(dir: &TempDir, name: &str) -> anyhow::Result<PathBuf> {
    let path = dir.path().join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}
