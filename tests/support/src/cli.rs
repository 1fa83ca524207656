//! Running programs to their end: the operator's commands and other peoples' clients, with what they printed.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::tree;

/// How long a command may take before it counts as hung: far above what any needs on two busy cores.
const COMMAND_MAX: Duration = Duration::from_secs(180);

/// What a program that has ended left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command as a person would type it.
    pub command: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed for programs.
    pub stdout: Vec<u8>,
    /// What it printed for people.
    pub stderr: String,
}

impl Finished {
    /// Itself, if the exit code is 0.
    ///
    /// # Errors
    /// With all that it printed, if not.
    pub fn ok(self) -> anyhow::Result<Self> {
        ensure!(self.code == Some(0), "{} ended with {:?}\n{}\n{}", self.command, self.code, self.text(), self.stderr);
        Ok(self)
    }

    /// Stdout as text, bytes that are no UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stdout as lines of JSON.
    ///
    /// # Errors
    /// When a line is not JSON: with `--output json` or `--format json` there may be nothing else.
    pub fn json(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::str::from_utf8(&self.stdout).with_context(|| format!("stdout of {}", self.command))?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("{} printed {line:?}", self.command)))
            .collect()
    }
}

/// Runs a program to its end with `input` on its stdin, collecting what it prints.
///
/// # Errors
/// When it cannot be started, or is killed because it ran for more than three minutes.
pub fn run(command: &mut Command, input: &[u8]) -> anyhow::Result<Finished> {
    run_within(COMMAND_MAX, command, input)
}

/// As [`run`], with a limit of its own.
///
/// # Errors
/// As [`run`].
pub fn run_within(limit: Duration, command: &mut Command, input: &[u8]) -> anyhow::Result<Finished> {
    let shown = shown(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {shown}"))?;
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?, child.stderr.take());
    thread::scope(|scope| {
        // A program that ends without reading all of its input breaks the pipe; its exit code tells the rest.
        scope.spawn(move || drop(stdin.write_all(input)));
        let out = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let err = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.as_mut().map_or(Ok(0), |stderr| stderr.read_to_end(&mut bytes)).map(|_| bytes)
        });
        let waited = wait(&mut child, limit);
        if waited.is_err() {
            // Killed, so that the pipes close and the readers end.
            child.kill().context("killing a hung command")?;
            child.wait()?;
        }
        let (Ok(stdout), Ok(stderr)) = (out.join(), err.join()) else { bail!("a reader of {shown} panicked") };
        let (stdout, stderr) = (stdout?, String::from_utf8_lossy(&stderr?).into_owned());
        let status = waited
            .with_context(|| format!("{shown} hung; it had printed\n{}\n{stderr}", String::from_utf8_lossy(&stdout)))?;
        Ok(Finished { command: shown.clone(), code: status.code(), stdout, stderr })
    })
}

/// Waits for a child to end, at most `limit`.
///
/// # Errors
/// When the limit is over; the child still runs then.
pub fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(start.elapsed() < limit, "still running after {limit:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
    let words = command.get_args().map(|word| {
        let word = word.to_string_lossy();
        if word.contains([' ', '{', '"', '\t']) || word.is_empty() { format!("'{word}'") } else { word.into_owned() }
    });
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// The `millstream` program: `$MILLSTREAM_BIN`, or built now in the profile of the tests.
///
/// # Errors
/// When it does not build.
pub fn millstream() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(path) = std::env::var_os("MILLSTREAM_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "MILLSTREAM_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    BUILT
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow::anyhow!("building millstream: {error}"))
}

fn build() -> anyhow::Result<PathBuf> {
    // With the features that the tests' own build gives to libraries, as `cargo xtask` does: none is compiled twice.
    const BUILD: [&str; 7] = ["build", "--workspace", "--examples", "--bin", "millstream", "--message-format", "json"];
    let mut command = Command::new(tree::cargo());
    command.current_dir(tree::root()).args(BUILD);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "cargo build ended with {}", output.status);
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        if message["target"]["name"] == "millstream"
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    bail!("cargo build named no executable")
}
