//! The broker under the quickstart's feet: its process, and the commands typed against it, shown as they are typed.

use std::{
    cell::Cell,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::check::Read;
use crate::run::quoted;

/// How long a start or a stop may take.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A broker in a folder, and the steps taken so far. Dropping it stops the broker.
pub(crate) struct Session<'a> {
    binary: &'a Path,
    home: &'a Path,
    running: Option<Running>,
    starts: u32,
    step: Cell<u32>,
}

struct Running {
    child: Child,
    address: String,
}

impl<'a> Session<'a> {
    /// A session whose files are in `home`; nothing runs yet.
    pub(crate) fn new(binary: &'a Path, home: &'a Path) -> anyhow::Result<Self> {
        ensure!(binary.is_file(), "{} is missing: was it built?", binary.display());
        Ok(Self { binary, home, running: None, starts: 0, step: Cell::new(0) })
    }

    /// Begins a step: a number, and what is done and why.
    pub(crate) fn step(&self, what: &str) {
        self.step.set(self.step.get() + 1);
        println!("\n{}. {what}", self.step.get());
    }

    /// Says something about the step.
    pub(crate) fn say(&self, what: &str) {
        println!("   {what}");
    }

    /// Says what was found true.
    pub(crate) fn checked(&self, what: &str) {
        println!("   checked: {what}");
    }

    /// Shows a command, as it would be typed.
    pub(crate) fn show(&self, words: &[&str]) {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        println!("   $ millstream {}", words.join(" "));
    }

    /// Starts the broker on free ports and waits until it serves.
    pub(crate) fn serve(&mut self) -> anyhow::Result<()> {
        self.starts += 1;
        let ready = self.home.join(format!("ready-{}.json", self.starts));
        let log = self.home.join(format!("serve-{}.log", self.starts));
        let words = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
        self.show(&words);
        let start = Instant::now();
        let mut child = self
            .command(&words)
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("starting the broker")?;
        let printed = || std::fs::read_to_string(&log).unwrap_or_default();
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("the broker ended with {status}:\n{}", printed());
            }
            if let Ok(text) = std::fs::read_to_string(&ready) {
                let said: Value = serde_json::from_str(&text)?;
                let address = said["listen"].as_str().context("the ready file names no address")?.to_owned();
                self.say(&format!("ready on {address} after {:.2} s", start.elapsed().as_secs_f64()));
                self.running = Some(Running { child, address });
                return Ok(());
            }
            if start.elapsed() > WAIT_MAX {
                child.kill()?;
                child.wait()?;
                bail!("the broker was not ready after {WAIT_MAX:?}:\n{}", printed());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the broker to stop and waits until it has.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("no broker is running")?;
        let sent = Command::new("kill").args(["-TERM", &running.child.id().to_string()]).status()?;
        ensure!(sent.success(), "kill ended with {sent}");
        let start = Instant::now();
        loop {
            if let Some(status) = running.child.try_wait()? {
                ensure!(status.success(), "the broker ended with {status} when asked to stop");
                self.say("stopped");
                return Ok(());
            }
            if start.elapsed() > WAIT_MAX {
                running.child.kill()?;
                running.child.wait()?;
                bail!("the broker did not stop within {WAIT_MAX:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Shows a command and runs it; what it prints is not of interest.
    pub(crate) fn quiet(&self, words: &[&str]) -> anyhow::Result<()> {
        self.show(words);
        self.output(words).map(drop)
    }

    /// Runs a command with `--output json` and takes the one object it prints.
    pub(crate) fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.output(&[words, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{} printed {text:?}", words.join(" ")))
    }

    /// Shows and runs `consume` of a topic or a view from its beginning to its end.
    pub(crate) fn consume(&self, name: &str, partitions: u32) -> anyhow::Result<Read> {
        let words = ["consume", name, "--from", "beginning", "--until", "end", "--format", "json"];
        self.show(&words);
        Read::parse(&self.output(&words)?, partitions).with_context(|| format!("reading {name}"))
    }

    /// Shows the first record of what was read.
    pub(crate) fn example(&self, read: &Read) -> anyhow::Result<()> {
        let record = read.records.first().context("nothing was read")?;
        println!("   for example: {}", record.shown());
        Ok(())
    }

    fn output(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.command(words).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("millstream {} ended with {}\n{said}{error}", words.join(" "), output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        // The reader's own profile and settings are left alone.
        command.current_dir(self.home).args(words).env("MILLSTREAM_PROFILE", self.profile());
        match &self.running {
            Some(running) => command.env("MILLSTREAM_BROKER", &running.address),
            None => command.env_remove("MILLSTREAM_BROKER"),
        };
        command
    }

    fn profile(&self) -> PathBuf {
        self.home.join("profile.json")
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            // Only after an error: the folder goes next, so there is nothing to save.
            drop(running.child.kill());
            drop(running.child.wait());
        }
    }
}
