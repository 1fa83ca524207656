//! Running the programs that the chores are made of, and saying which.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

/// The top of the checkout.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds: `$CARGO_TARGET_DIR`, or `target` in the checkout.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// A cargo command in the checkout: the cargo that runs this program.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(words);
    command
}

/// Builds programs of the workspace as they ship, and no more.
///
/// Libraries are compiled once for these and for all tests: `--workspace` gives them the features that any crate wants, and
/// `--examples`, of which there are none, those that only tests want.
pub(crate) fn build(programs: &[&str]) -> anyhow::Result<()> {
    let mut build = cargo(&["build", "--release", "--locked", "--workspace", "--examples"]);
    for program in programs {
        build.args(["--bin", program]);
    }
    run(&mut build)
}

/// Builds the broker; returns where it is.
pub(crate) fn millstream() -> anyhow::Result<PathBuf> {
    build(&["millstream"])?;
    Ok(target().join("release/millstream"))
}

/// Says what is run, runs it, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("starting {}", shown(command)))?;
    ensure!(status.success(), "{} ended with {status}", shown(command));
    Ok(())
}

/// What a command prints, or nothing if it cannot be run or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as a person would type it: the program by its name, paths in the checkout from its top.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let top = format!("{}/", root().display());
    let words = command.get_args().map(|word| quoted(&word.to_string_lossy().replace(&top, "")));
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}
