//! A broker under attack: what it holds, what it uses, and whether it still does its work.

use anyhow::{Context, ensure};
use millstream_test_support::broker::Broker;

/// A running broker, with a topic `bystander` whose one record must stay readable whatever happens.
#[derive(Debug)]
pub struct Victim {
    broker: Broker,
    memory_before: u64,
}

/// How much more memory the process may use after an attack than before it, bytes. Pools and caches of its own are
/// well below; what an attacker can make it keep would be above.
const GROWTH_MAX: u64 = 96 << 20;

impl Victim {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not start, or does not take the bystander's record.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Victim::start`], with more words on the command line.
    ///
    /// # Errors
    /// As [`Victim::start`].
    pub fn start_with(serve: &[&str]) -> anyhow::Result<Self> {
        let broker = Broker::start_with(serve)?;
        broker.cli(&["topic", "create", "bystander"])?.ok()?;
        broker.cli_with(&["produce", "bystander"], b"I was here\n")?.ok()?;
        let memory_before = memory(broker.process_id())?;
        Ok(Self { broker, memory_before })
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The broker, to be stopped.
    pub fn broker_mut(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// The most memory that the process has had resident since [`Victim::forget_peak`], beyond what it had `before`, bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peak(&self, before: u64) -> anyhow::Result<u64> {
        Ok(memory_peak(self.broker.process_id())?.saturating_sub(before))
    }

    /// Begins a new peak, and tells what the process has resident.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn forget_peak(&self) -> anyhow::Result<u64> {
        let process = self.broker.process_id();
        std::fs::write(format!("/proc/{process}/clear_refs"), "5")?;
        memory(process)
    }

    /// How many sockets the process has open.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn sockets(&self) -> anyhow::Result<usize> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.broker.process_id()))?;
        // One may have been closed meanwhile.
        let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        Ok(targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
    }

    /// Fails unless the same process still serves, holds what it held, and has not grown.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn unhurt(&mut self) -> anyhow::Result<()> {
        self.serves()?;
        let grown = memory(self.broker.process_id())?.saturating_sub(self.memory_before);
        ensure!(grown < GROWTH_MAX, "the broker has grown by {} MiB", grown >> 20);
        Ok(())
    }

    /// Fails unless the same process still serves and holds what it held, whatever it uses for that at the moment.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn serves(&mut self) -> anyhow::Result<()> {
        ensure!(self.broker.is_running()?, "the broker has ended:\n{}", self.broker.log());
        let words = ["consume", "bystander", "--from", "beginning", "--until", "end"];
        let read = self.broker.cli(&words)?.ok()?.text();
        ensure!(read == "I was here\n", "the bystander's record reads {read:?}");
        ensure!(!self.broker.log().contains("panicked"), "a panic:\n{}", self.broker.log());
        Ok(())
    }
}

/// The memory that a process has resident, bytes.
///
/// # Errors
/// When the process is gone.
pub fn memory(process: u32) -> anyhow::Result<u64> {
    status(process, "VmRSS:")
}

/// The most memory that a process has had resident so far, bytes.
///
/// # Errors
/// When the process is gone.
pub fn memory_peak(process: u32) -> anyhow::Result<u64> {
    status(process, "VmHWM:")
}

fn status(process: u32, field: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}
