//! The benchmarks: Millstream beside bare programs that do the same work without it, in one run, in alternating rounds.
//!
//! No figure is a target and none is asserted: absolute ones drift with the machine, so each stands beside its bare
//! counterpart from the same minutes. What others did to the machine meanwhile is shown and marked.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::ensure;
use clap::{Parser, Subcommand, ValueEnum};

mod bare;
mod broker;
mod closed_loop;
mod idle;
mod meter;
mod modules;
mod overload;
mod report;
mod stages;
mod start;
mod suite;
mod workload;

/// Measures produce, fetch and calls of modules, each beside a bare program that does the same.
///
/// Data goes below $TMPDIR, which should be on a real disk. The broker is $MILLSTREAM_BIN, or built now.
#[derive(Parser)]
#[command(name = "cargo xtask bench", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// How long each line is measured in each round, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How many rounds there are
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only lines whose name ("WHAT: WITH", as in the table) holds this text; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// One object a line
    Json,
}

#[derive(Subcommand)]
enum Other {
    /// What partitions cost that nobody uses
    Idle {
        /// How many
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
        partitions: u32,
    },
    /// How long a start takes with data, up to the first batch acknowledged
    Start {
        /// How much data
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        megabytes: u64,
        /// How often
        #[arg(long, default_value_t = 3)]
        rounds: u32,
    },
    /// What becomes of a broker that is offered up to ten times what it can do, beside consumers that take nothing
    Overload,
    /// The other end of the bare lines
    #[command(hide = true)]
    BareServer { dir: PathBuf },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.other {
        Some(Other::BareServer { dir }) => return bare::run_server(&dir),
        Some(Other::Idle { partitions }) => {
            let text = idle::run(partitions)?;
            return Ok(std::io::stdout().write_all(text.as_bytes())?);
        }
        Some(Other::Start { .. } | Other::Overload) | None => {}
    }
    ensure!(arguments.seconds > 0.0 && arguments.seconds.is_finite(), "--seconds must be more than 0");
    ensure!(arguments.rounds > 0, "--rounds must be more than 0");
    let time = Duration::from_secs_f64(arguments.seconds);
    let plan = suite::Plan { time, rounds: arguments.rounds, only: arguments.only };
    // One thread: more did not help one connection, and a client shares the machine with its server here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(Other::Start { megabytes, rounds }) = arguments.other {
        let text = runtime.block_on(start::run(megabytes, rounds))?;
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    if let Some(Other::Overload) = arguments.other {
        let text = runtime.block_on(overload::run(time))?;
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    let measured = runtime.block_on(suite::run(&plan))?;
    let text = match arguments.output {
        Output::Table => report::table(&measured)?,
        Output::Json => report::json(&measured)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
