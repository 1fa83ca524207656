//! `cargo xtask fuzz`: builds the targets of `tests/fuzz/` for libFuzzer, runs them two at a time, and shows what one fails on.
//!
//! What libFuzzer must see of the code, which of its branches ran and what was compared, the compiler puts in by flags that any
//! release of it has: neither cargo-fuzz nor a nightly compiler is needed. There is no sanitizer: what is tried has no unsafe code of
//! its own, and a panic, a wrong answer, too much memory or too much time end a target without one.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, bail, ensure};

use crate::{
    run::{cargo, output, root, run, target},
    setup,
};

/// What `cargo xtask fuzz` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 600, value_name = "N")]
    seconds: u32,
    /// Only this target; may be given several times.
    #[arg(long)]
    target: Vec<String>,
    /// Try this one input, such as one that a target has failed on, and nothing else. Needs one --target.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// How long each runs in `cargo xtask test`.
const SECONDS_IN_TEST: u32 = 30;
/// How many run at a time: as many as the smallest machine that runs the tests has cores.
const AT_A_TIME: usize = 2;
/// The package, and its program.
const FUZZ: &str = "millstream-tests-fuzz";
/// Where a target writes its seeds, what it found worth keeping, and what it failed on.
const FOLDERS: [&str; 3] = ["seeds", "corpus", "found"];
/// What is shown of a failed target's output: lines, and characters of each.
const SHOWN_LINES: usize = 15;
const SHOWN_CHARS: usize = 400;

const COMPILER_FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Else branches are folded before they are counted.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cdebug-assertions",
];

const FUZZER_FLAGS: [&str; 4] = [
    // Beyond what any input needs, even on a busy machine.
    "-timeout=20",
    "-rss_limit_mb=1024",
    "-max_len=4096",
    "-print_final_stats=1",
];

/// Runs what the options name.
pub(crate) fn run_all(options: &Options) -> anyhow::Result<()> {
    let program = build()?;
    let all = names(&program)?;
    for name in &options.target {
        ensure!(all.contains(name), "there is no target {name}: take one of {}", all.join(", "));
    }
    if let Some(input) = &options.input {
        let [name] = &options.target[..] else { bail!("--input is for one target: name it with --target") };
        return run(Command::new(&program).arg(input).env("MILLSTREAM_FUZZ_TARGET", name));
    }
    let wanted = if options.target.is_empty() { all } else { options.target.clone() };
    run_targets(&program, wanted, options.seconds)
}

/// Runs every target for as long as the tests have for it.
pub(crate) fn briefly() -> anyhow::Result<()> {
    let program = build()?;
    let names = names(&program)?;
    run_targets(&program, names, SECONDS_IN_TEST)
}

fn build() -> anyhow::Result<PathBuf> {
    setup::cpp()?;
    let about = output(Command::new("rustc").arg("-vV")).context("rustc does not say what it is")?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not say its host")?;
    let mut build = cargo(&["build", "--release", "--locked", "--package", FUZZ, "--features", "libfuzzer"]);
    // With a target named, the flags are not for what runs while building.
    build.args(["--target", host]).env("CARGO_ENCODED_RUSTFLAGS", COMPILER_FLAGS.join("\x1f"));
    run(&mut build)?;
    Ok(target().join(host).join("release").join(FUZZ))
}

/// The targets that there are, as the program says.
fn names(program: &Path) -> anyhow::Result<Vec<String>> {
    let names = output(Command::new(program).env_remove("MILLSTREAM_FUZZ_TARGET")).unwrap_or_default();
    let names: Vec<_> = names.split_whitespace().map(str::to_owned).collect();
    ensure!(!names.is_empty(), "{} names no targets", program.display());
    Ok(names)
}

fn run_targets(program: &Path, names: Vec<String>, seconds: u32) -> anyhow::Result<()> {
    println!("fuzzing {} for {seconds} s each, {AT_A_TIME} at a time", names.join(", "));
    let waiting = Mutex::new(VecDeque::from(names));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(name) = next() {
                    if let Err(error) = run_target(program, &name, seconds) {
                        println!("{name}: FAILED: {error:#}");
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "fuzzing failed: {}", failed.join(", "));
    Ok(())
}

fn run_target(program: &Path, name: &str, seconds: u32) -> anyhow::Result<()> {
    let home = target().join("fuzz").join(name);
    // Seeds of an earlier version are none of this one's.
    let _ = fs::remove_dir_all(home.join("seeds"));
    for folder in FOLDERS {
        fs::create_dir_all(home.join(folder))?;
    }
    let log = home.join("log");
    let output = File::create(&log)?;
    let mut fuzzer = Command::new(program);
    fuzzer
        .args(FUZZER_FLAGS)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", home.join("found").display()))
        // What is found goes into the first. What it once failed on is tried again.
        .args(["corpus", "seeds", "found"].map(|folder| home.join(folder)))
        .env("MILLSTREAM_FUZZ_TARGET", name)
        .env("MILLSTREAM_FUZZ_SEEDS", home.join("seeds"))
        .stdout(output.try_clone()?)
        .stderr(output);
    let status = fuzzer.status().with_context(|| format!("starting {}", program.display()))?;
    let told = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    judge(name, status, &told).inspect_err(|_| println!("the log of {name} is {}", log.display()))
}

/// Says how a target ended.
fn judge(name: &str, status: ExitStatus, log: &str) -> anyhow::Result<()> {
    if status.success() {
        let tried = fact(log, "stat::number_of_executed_units:").unwrap_or(0);
        ensure!(tried > 0, "{name} tried nothing");
        println!("{name}: {tried} inputs tried, none failed");
        return Ok(());
    }
    let lines: Vec<_> = log.lines().collect();
    let from = lines.iter().position(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
    let from = from.unwrap_or(lines.len().saturating_sub(SHOWN_LINES));
    // The way there is in the log, and when the input is tried again.
    let shown = lines[from..].iter().take(SHOWN_LINES).take_while(|line| !line.starts_with("stack backtrace"));
    let shown: Vec<_> = shown.map(|line| line.chars().take(SHOWN_CHARS).collect::<String>()).collect();
    let shown = shown.join("\n    ");
    let Some((_, input)) = log.split_once("Test unit written to ") else {
        bail!("{status}\n    {shown}");
    };
    let input = input.lines().next().unwrap_or_default();
    let input = input.strip_prefix(&format!("{}/", root().display())).unwrap_or(input);
    // Where only the output is kept, the input is in it.
    let content = log.lines().find_map(|line| line.strip_prefix("Base64: ")).unwrap_or("not shown");
    bail!(
        "{status}\n    {shown}\nthe input is {input}; to try it again:\n    cargo xtask fuzz --target {name} --input {input}\nin base64: {content}"
    )
}

/// A number in what libFuzzer tells at its end.
fn fact(log: &str, name: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_target_that_failed_says_on_what_and_how_to_try_it_again() {
        let log = "INFO: Seed: 1\n\nthread '<unnamed>' panicked at tests/fuzz/src/memory.rs:66:5:\nheld 9 bytes\n\
                   stack backtrace:\n   0: main\nSUMMARY: libFuzzer: deadly signal\nartifact_prefix='/x/'; Test unit written to /x/crash-1\nBase64: AA==\n";
        let told = judge("request", ExitStatus::from_raw(77 << 8), log).unwrap_err().to_string();
        assert!(told.contains("held 9 bytes") && !told.contains("INFO") && !told.contains("main"), "{told}");
        assert!(told.ends_with("cargo xtask fuzz --target request --input /x/crash-1\nin base64: AA=="), "{told}");
    }

    #[test]
    fn a_target_that_tried_nothing_has_not_passed() {
        let ended = |log: &str| judge("request", ExitStatus::from_raw(0), log).is_ok();
        assert!(ended("Done 12 runs\nstat::number_of_executed_units: 12\n"));
        assert!(!ended("stat::number_of_executed_units: 0\n"));
        assert!(!ended(""));
    }
}
