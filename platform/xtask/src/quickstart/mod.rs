//! `cargo xtask quickstart`: the main job from end to end with the program's own commands, told and checked.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::{
    flights, guests,
    run::{millstream, root, target},
};
use check::{Flights, Read};
use session::Session;

mod check;
mod session;

/// How many partitions the topics get.
const PARTITIONS: u32 = 6;

/// A flight counts as delayed when it left or arrived this many minutes late.
const DELAY_MINUTES: i64 = 15;

/// How long the transform may take to catch up before something is wrong.
const TRANSFORM_MAX: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Other flights than the sample: .csv.gz as published, or .ndjson.gz.
    #[arg(long, value_name = "FILE")]
    flights: Option<PathBuf>,
    /// Keep the temporary directory, data and all, and say where it is.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let binary = match std::env::var_os("MILLSTREAM_BIN") {
        Some(binary) => PathBuf::from(binary),
        None => {
            println!("Building Millstream: a few minutes the first time.\n");
            millstream()?
        }
    };
    let modules = match std::env::var_os("MILLSTREAM_GUESTS") {
        Some(folder) => PathBuf::from(folder),
        None => guests::build(&root(), &binary)?,
    };
    let source = match &options.flights {
        Some(file) => file.clone(),
        None => root().join("platform/xtask/data/flights-sample.ndjson.gz"),
    };
    let home = tempfile::Builder::new().prefix("millstream-quickstart-").tempdir()?;
    let shown = home.path().to_path_buf();
    let told = tell(&binary, &modules, &source, home.path());
    if options.keep {
        println!("\nKept: {}", home.keep().display());
    } else if let Err(error) = home.close() {
        eprintln!("removing {}: {error}", shown.display());
    }
    told
}

/// The story, step by step. Each step says what is done and why, shows the command, does it, and checks the result.
fn tell(binary: &Path, modules: &Path, source: &Path, home: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    let input = home.join("flights.ndjson");
    flights::unpack(source, &input).context("unpacking the flights")?;
    let flights = Flights::read(&input)?;
    println!(
        "Millstream quickstart: {} real flights out of New York in 2013 (nycflights13, CC0), by {} aircraft.",
        flights.len(),
        flights.aircraft()
    );

    let mut broker = Session::new(binary, home)?;
    broker.step("Start a broker. One port: QUIC on UDP, Kafka's protocol on TCP. Free ports, a temporary directory.");
    broker.serve()?;

    broker.step("Upload four Wasm modules, built from guest-examples/: they decide what happens to the records.");
    for name in ["partition-by-field", "transform-flights", "view-redact", "view-filter"] {
        let file = modules.join(format!("{name}.wasm"));
        ensure!(file.is_file(), "{} is missing: was it built?", file.display());
        let link = home.join(format!("{name}.wasm"));
        fs::copy(&file, &link)?;
        broker.quiet(&["module", "push", &format!("{name}.wasm"), "--name", name, "--version", "1"])?;
    }

    broker.step(
        "Create topics. A module places each flight by its aircraft, so that one aircraft's flights stay in order.",
    );
    let partitions = PARTITIONS.to_string();
    broker.quiet(&[
        "topic",
        "create",
        "flights",
        "--partitions",
        &partitions,
        "--partitioner",
        "partition-by-field@1",
        "--param",
        "field=tailnum",
    ])?;
    for output in ["delayed", "unparsed"] {
        broker.quiet(&["topic", "create", output, "--partitions", &partitions])?;
    }

    broker.step("Produce the flights, keyed by tail number, and read them back.");
    let produced = Instant::now();
    broker.quiet(&["produce", "flights", "--input", "flights.ndjson", "--format", "ndjson", "--key", "tailnum"])?;
    let seconds = produced.elapsed().as_secs_f64();
    broker.say(&format!(
        "{} flights acknowledged, each on disk first, in {seconds:.2} s ({:.0} a second, the program's start included)",
        flights.len(),
        flights.len() as f64 / seconds
    ));
    let read = broker.consume("flights", PARTITIONS)?;
    flights.check_source(&read)?;
    broker.checked(&format!(
        "all {} flights came back, byte for byte; each of {} aircraft is in one partition, its flights in order",
        read.len(),
        flights.aircraft()
    ));
    broker.say(&format!("by partition: {}", read.by_partition()));

    broker.step("Deploy a transform: delayed flights go to a topic of their own, with the airline's name added.");
    broker.quiet(&[
        "transform",
        "deploy",
        "late-flights",
        "--module",
        "transform-flights@1",
        "--input",
        "flights",
        "--output",
        "delayed",
        "--output",
        "unparsed",
        "--param",
        &format!("min_delay={DELAY_MINUTES}"),
    ])?;
    let caught_up = wait_for_transform(&broker, "late-flights")?;
    broker.say(&format!("caught up after {:.2} s", caught_up.as_secs_f64()));
    let delayed = broker.consume("delayed", PARTITIONS)?;
    let airlines = flights.check_delayed(&delayed, DELAY_MINUTES)?;
    let unparsed = broker.consume("unparsed", PARTITIONS)?;
    ensure!(unparsed.len() == 0, "{} flights went to unparsed; every one of them parses", unparsed.len());
    broker.checked(&format!(
        "{} of {} flights left or arrived {DELAY_MINUTES} minutes late or more, counted here and by the transform alike; \
         {airlines} airlines named; every aircraft's flights in order",
        delayed.len(),
        flights.len()
    ));
    broker.example(&delayed)?;

    broker.step("Create a view: what its readers get is computed as they read. This one leaves tail numbers out.");
    broker.quiet(&[
        "view",
        "create",
        "flights-public",
        "--topic",
        "flights",
        "--chain",
        "view-redact@1",
        "--param",
        "fields=tailnum",
        "--param",
        "key=drop",
    ])?;
    let public = broker.consume("flights-public", PARTITIONS)?;
    flights.check_public(&read, &public)?;
    broker.checked(&format!("{} flights at their source's offsets, and no tail number in any of them", public.len()));
    broker.example(&public)?;

    broker.step("Stop the broker, and start it again on the same data.");
    broker.stop()?;
    broker.serve()?;
    let again = broker.consume("flights", PARTITIONS)?;
    ensure!(again.same_as(&read), "what was read after the restart differs from what was read before");
    broker.checked(&format!("the same {} flights at the same offsets", again.len()));
    broker.stop()?;

    println!("\nDone in {:.1} s. Everything above was checked, not only shown.", start.elapsed().as_secs_f64());
    println!("{}", next_things());
    Ok(())
}

/// Waits until a transform has read all that its input holds. Returns how long that took.
fn wait_for_transform(broker: &Session<'_>, name: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    broker.show(&["transform", "describe", name]);
    loop {
        let told = broker.json(&["transform", "describe", name])?;
        let state = told["state"].as_str().unwrap_or_default();
        ensure!(state == "running", "transform {name} is {state}: {}", told["error"]);
        let partitions = told["partitions"].as_array().context("transform describe names no partitions")?;
        let lag: i64 = partitions.iter().filter_map(|partition| partition["lag"].as_i64()).sum();
        if lag == 0 && partitions.len() == PARTITIONS as usize {
            return Ok(start.elapsed());
        }
        if start.elapsed() > TRANSFORM_MAX {
            bail!("transform {name} still lags by {lag} records after {TRANSFORM_MAX:?}: {told}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a reader may try now, each a line to type.
fn next_things() -> String {
    let program = target().join("release/millstream");
    let program = program.strip_prefix(root()).unwrap_or(&program).display().to_string();
    format!(
        "\nWhat to try next, in this folder:\n\
         \n    {program} serve                                  # a broker that stays, on 127.0.0.1:9092\
         \n    {program} topic create greetings                 # in a second terminal\
         \n    echo 'hello, stream' | {program} produce greetings\
         \n    {program} consume greetings --from beginning --until end\
         \n    kcat -b 127.0.0.1:9092 -C -t greetings -e -q     # any Kafka client, the same records (apt-get install kcat)\
         \n    {program} module new shout --kind transform      # a module of your own: README.md shows the rest\n\
         \nThe README goes on from here; ARCHITECTURE.md follows a record through the code."
    )
}

impl Read {
    /// How many records each partition holds, as text.
    fn by_partition(&self) -> String {
        let mut counts = vec![0_usize; PARTITIONS as usize];
        for record in &self.records {
            if let Some(count) = usize::try_from(record.partition).ok().and_then(|at| counts.get_mut(at)) {
                *count += 1;
            }
        }
        counts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}
