//! `cargo xtask test`: sets up what the tests need, runs all of them and the fuzz targets, and lets none be left out.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};

use crate::{
    fuzz, guests,
    run::{self, cargo, root, run, shown, target},
    setup,
};

/// Runs every test of the project. `words` go to cargo test and narrow what is run.
pub(crate) fn all(words: &[String]) -> anyhow::Result<()> {
    setup::kcat()?;
    setup::curl()?;
    setup::file_systems()?;
    setup::strace()?;
    let python = setup::python()?;
    // All that the tests need in one go, and with the tests' features: nothing is compiled twice, and programs that tests
    // start are not built under their feet.
    run(&mut cargo(&["build", "--release", "--locked", "--workspace", "--all-targets"]))?;
    let millstream = target().join("release/millstream");
    let components = guests::build(&root(), &millstream)?;
    guests::test(&root())?;
    let mut tests = cargo(&["test", "--release", "--locked", "--workspace"]);
    tests
        .args(words)
        .env("MILLSTREAM_PYTHON", python)
        .env("MILLSTREAM_GUESTS", components)
        .env("MILLSTREAM_BIN", millstream)
        .env("MILLSTREAM_XTASK", target().join("release/xtask"));
    let counts = run_counting(&mut tests)?;
    if words.is_empty() {
        ensure!(counts.passed > 0, "no test was run");
        broken_promises()?;
        fuzz::briefly()?;
        println!("tests: {} passed, {} failed", counts.passed, counts.failed);
    }
    Ok(())
}

/// Builds the log so that its promises can be broken, and runs the tests that must notice. Only what contains the log is
/// compiled again, and no program.
fn broken_promises() -> anyhow::Result<()> {
    let mut tests =
        cargo(&["test", "--release", "--locked", "--workspace", "--features", "millstream-tests-sim/faults"]);
    tests.args(["--test", "model", "--test", "one_broker", "a_broken_promise"]);
    let counts = run_counting(&mut tests)?;
    ensure!(counts.passed == 2, "{} tests of broken promises were run", counts.passed);
    Ok(())
}

/// What the lines `test result: ...` of a run add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds what one line of output tells, if it is a runner's closing line.
    fn add(&mut self, line: &str) {
        let Some(told) = line.trim().strip_prefix("test result: ") else { return };
        let mut words = told.split([' ', ';', '.']).filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            if let (Ok(count), Some(what)) = (word.parse::<u64>(), words.peek()) {
                match *what {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.ignored += count,
                    _ => {}
                }
            }
        }
    }
}

/// Runs cargo test, passing on what it prints, and fails on a failure and on any test that was ignored.
fn run_counting(command: &mut Command) -> anyhow::Result<Counts> {
    eprintln!("$ {}", shown(command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo test")?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
        let line = line?;
        counts.add(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo test ended with {status}: {} passed, {} failed", counts.passed, counts.failed);
    }
    ensure!(counts.ignored == 0, "{} tests were ignored: a test runs, or it is not here", counts.ignored);
    Ok(counts)
}

/// What `cargo xtask powercut` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct PowerCuts {
    /// How often the power is cut, on each file system.
    #[arg(long, default_value_t = 200)]
    cuts: u32,
    /// The file system.
    #[arg(long, default_value = "both", value_parser = ["ext4", "xfs", "both"])]
    fs: String,
    /// Where the plan comes from; drawn and printed unless told.
    #[arg(long)]
    seed: Option<u64>,
}

/// Cuts the power of a broker, again and again, on file systems of its own.
pub(crate) fn power_cuts(options: &PowerCuts) -> anyhow::Result<()> {
    setup::file_systems()?;
    let millstream = run::millstream()?;
    let mut tests =
        cargo(&["test", "--release", "--locked", "--workspace", "--test", "power_cuts", "--", "--nocapture"]);
    if options.fs != "both" {
        tests.arg(format!("on_{}", options.fs));
    }
    tests.env("MILLSTREAM_BIN", millstream).env("POWER_CUTS", options.cuts.to_string());
    if let Some(seed) = options.seed {
        tests.env("POWER_SEED", seed.to_string());
    }
    let counts = run_counting(&mut tests)?;
    ensure!(counts.passed > 0, "no power was cut");
    Ok(())
}

/// Runs the benchmarks; `words` go to them.
pub(crate) fn bench(words: &[String]) -> anyhow::Result<()> {
    const BENCH: &str = "millstream-tests-bench";
    run::build(&["millstream", BENCH])?;
    let millstream = target().join("release/millstream");
    let components = guests::build(&root(), &millstream)?;
    let mut bench = Command::new(target().join("release").join(BENCH));
    bench.current_dir(root()).args(words).env("MILLSTREAM_GUESTS", components).env("MILLSTREAM_BIN", millstream);
    run(&mut bench)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 5 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s",
            "test passed::twice ... ok",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 7, failed: 3, ignored: 1 });
    }
}
