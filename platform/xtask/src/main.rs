//! The project's chores: guests, quickstart, test, fuzz, compat, bench, tidy.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

mod compat;
mod flights;
mod fuzz;
mod guests;
mod quickstart;
mod run;
mod setup;
mod test;
mod tidy;

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Show the main job from end to end, on real flights, and check it.
    Quickstart(quickstart::Options),
    /// Set up what the tests need and run all of them.
    Test {
        /// Handed to cargo test, such as `--test kill` or a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Cut the power of a broker on an ext4 and an XFS image, and see whether it kept its word. Needs root.
    Powercut(test::PowerCuts),
    /// Try any bytes on what reads bytes from outside, by libFuzzer.
    Fuzz(fuzz::Options),
    /// Put other peoples' clients through one script, and write what came of it to tests/compat/COMPATIBILITY.md; or ask Apache Kafka the
    /// same, and write what differs to tests/compat/DIFFERENCES.md.
    Compat(compat::Options),
    /// Install the Wasm toolchain if needed and build the guest examples; the last line printed is where they are.
    Guests,
    /// Run the benchmarks.
    Bench {
        /// Handed to the benchmarks.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Format, lint, and check the dependencies.
    Tidy,
    /// Format everything, guests included.
    Fmt {
        /// Only say what is not formatted.
        #[arg(long)]
        check: bool,
    },
    /// Lint every target, guests included; warnings are errors.
    Lint,
    /// Check what the project depends on: bans, licences, sources, advisories.
    Deny,
    /// All that continuous integration does.
    Ci,
    /// Cut the quickstart's sample anew from the published flights.
    CutFlights {
        /// The published file, gzipped CSV.
        source: PathBuf,
        /// Where the sample goes.
        #[arg(default_value = "platform/xtask/data/flights-sample.ndjson.gz")]
        target: PathBuf,
    },
}

fn main() -> ExitCode {
    match chore(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chore(chore: Chore) -> anyhow::Result<()> {
    match chore {
        Chore::Quickstart(options) => quickstart::run(&options),
        Chore::Test { words } => test::all(&words),
        Chore::Powercut(options) => test::power_cuts(&options),
        Chore::Fuzz(options) => fuzz::run_all(&options),
        Chore::Compat(options) => compat::run_all(&options),
        Chore::Guests => {
            println!("{}", guests::build(&run::root(), &run::millstream()?)?.display());
            Ok(())
        }
        Chore::Bench { words } => test::bench(&words),
        Chore::Tidy => {
            tidy::fmt(false)?;
            tidy::clippy()?;
            tidy::deny()
        }
        Chore::Fmt { check } => tidy::fmt(check),
        Chore::Lint => tidy::clippy(),
        Chore::Deny => tidy::deny(),
        Chore::Ci => run::run(std::process::Command::new("bash").arg(".ci/run").current_dir(run::root())),
        Chore::CutFlights { source, target } => {
            let target = run::root().join(target);
            let rows = flights::cut(&source, &target)?;
            println!("{rows} rows in {}", target.display());
            Ok(())
        }
    }
}
