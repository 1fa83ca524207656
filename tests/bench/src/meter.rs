//! What a measurement used: processor time by process and thread, bytes written to disk, and how much the machine did for
//! others meanwhile. All of it is read from /proc before and after; nothing is sampled while the work runs.

use std::{collections::BTreeMap, fs, time::Instant};

use anyhow::Context;
use serde::Serialize;

/// Linux counts processor time for /proc in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) kernel: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user + self.kernel
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.user += other.user;
        self.kernel += other.kernel;
    }

    fn since(self, before: Self) -> Self {
        Self { user: (self.user - before.user).max(0.0), kernel: (self.kernel - before.kernel).max(0.0) }
    }
}

/// What was used between [`Meter::start`] and [`Meter::stop`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// This process: the client's side.
    pub(crate) client: Cpu,
    /// The server's process, if there is one.
    pub(crate) server: Option<Cpu>,
    /// The share of the machine's cores that everybody else used, 0 to 1.
    pub(crate) others: f64,
    /// Bytes that the server's process (this one, without a server) had written to disk.
    pub(crate) written: u64,
    /// By side and name; threads of one name are added up.
    pub(crate) threads: BTreeMap<(Side, String), Cpu>,
}

/// Whose thread it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Client,
    Server,
}

/// The state of things when the measurement began.
pub(crate) struct Meter {
    server: Option<u32>,
    start: Instant,
    before: Counters,
}

struct Counters {
    client: Cpu,
    server: Cpu,
    machine: Machine,
    written: u64,
    threads: BTreeMap<(Side, u32), (String, Cpu)>,
}

struct Machine {
    busy: f64,
    cores: usize,
}

impl Meter {
    /// `server`: the process at the other end.
    pub(crate) fn start(server: Option<u32>) -> anyhow::Result<Self> {
        let before = Counters::read(server)?;
        Ok(Self { server, start: Instant::now(), before })
    }

    pub(crate) fn stop(&self) -> anyhow::Result<Used> {
        let seconds = self.start.elapsed().as_secs_f64();
        let after = Counters::read(self.server)?;
        let before = &self.before;
        let client = after.client.since(before.client);
        let server = after.server.since(before.server);
        let ours = client.total() + server.total();
        let others = (after.machine.busy - before.machine.busy - ours).max(0.0);
        let mut threads: BTreeMap<_, Cpu> = BTreeMap::new();
        for ((side, id), (name, cpu)) in after.threads {
            let cpu = cpu.since(before.threads.get(&(side, id)).map_or(Cpu::default(), |(_, cpu)| *cpu));
            if cpu.total() > 0.0 {
                threads.entry((side, name)).or_default().add(cpu);
            }
        }
        Ok(Used {
            seconds,
            client,
            server: self.server.map(|_| server),
            others: others / (seconds * after.machine.cores as f64),
            written: after.written.saturating_sub(before.written),
            threads,
        })
    }
}

impl Counters {
    fn read(server: Option<u32>) -> anyhow::Result<Self> {
        let own = std::process::id();
        let mut threads = BTreeMap::new();
        for (side, process) in [(Side::Client, Some(own)), (Side::Server, server)] {
            if let Some(process) = process {
                read_threads(side, process, &mut threads)?;
            }
        }
        Ok(Self {
            client: cpu_of(own)?,
            server: server.map(cpu_of).transpose()?.unwrap_or_default(),
            machine: Machine::read()?,
            written: written_by(server.unwrap_or(own))?,
            threads,
        })
    }
}

impl Machine {
    /// Busy is all but idle and waiting for disks; what a hypervisor took away counts as busy, since we did not get it.
    fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        anyhow::ensure!(ticks.len() >= 8, "/proc/stat begins with {first:?}");
        let busy = ticks[..8].iter().sum::<f64>() - ticks[3] - ticks[4];
        let is_core = |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(char::is_numeric));
        Ok(Self { busy: busy / TICKS_PER_SECOND, cores: text.lines().filter(is_core).count().max(1) })
    }
}

/// Processor time of a process since it began, its ended threads included.
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<Cpu> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_stat(&text).map(|(_, cpu)| cpu).with_context(|| format!("{path} holds {text:?}"))
}

fn read_threads(side: Side, process: u32, threads: &mut BTreeMap<(Side, u32), (String, Cpu)>) -> anyhow::Result<()> {
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((name, cpu)) = parse_stat(&text) {
            // Numbered threads are one crowd.
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
            threads.insert((side, id), (name, cpu));
        }
    }
    Ok(())
}

/// Name and processor time out of a `stat` file. The name is in parentheses and may hold any character.
fn parse_stat(text: &str) -> Option<(String, Cpu)> {
    let (head, tail) = text.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split(' ').skip(11).map(|field| field.parse::<f64>().ok());
    let (user, kernel) = (fields.next()??, fields.next()??);
    Some((name.to_owned(), Cpu { user: user / TICKS_PER_SECOND, kernel: kernel / TICKS_PER_SECOND }))
}

/// What a process has in memory, in kB.
pub(crate) fn resident_kb(process: u32) -> anyhow::Result<u64> {
    status_kb(process, "VmRSS:")
}

/// The most that it has had since it began, or since this was last called with `anew`.
pub(crate) fn resident_peak_kb(process: u32, anew: bool) -> anyhow::Result<u64> {
    let peak = status_kb(process, "VmHWM:")?;
    if anew {
        fs::write(format!("/proc/{process}/clear_refs"), "5")?;
    }
    Ok(peak)
}

fn status_kb(process: u32, field: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let value = value.and_then(|rest| rest.trim().strip_suffix(" kB"));
    Ok(value.with_context(|| format!("no {field} in the process's status"))?.parse()?)
}

fn written_by(process: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/io")).context("/proc/PID/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).with_context(|| format!("/proc/PID/io holds {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_read() {
        let text = "77 (a) (b) 3) S 1 77 77 0 -1 0 0 0 0 0 150 25 0 0 20 0 1 0 5 0 0\n";
        let (name, cpu) = parse_stat(text).unwrap();
        assert_eq!((name.as_str(), cpu.user, cpu.kernel), ("a) (b) 3", 1.5, 0.25));
        assert!(parse_stat("77 (a").is_none());
    }

    #[test]
    fn work_of_our_own_is_ours_and_not_the_others() {
        let meter = Meter::start(None).unwrap();
        let start = Instant::now();
        while start.elapsed().as_millis() < 300 {}
        let used = meter.stop().unwrap();
        assert!(used.client.total() > 0.02, "{used:?}");
        assert!(used.server.is_none() && used.others <= 1.0, "{used:?}");
    }
}
