//! The bare server's disk: one thread that gathers what waits, writes it to a recycled file with one call, syncs it once
//! and acknowledges; and has it written a second time where that is asked for.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Instant,
};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use rustix::{fs::fdatasync, io::pwritev};
use tokio::sync::mpsc::UnboundedSender;

use super::second::Second;

/// Bytes after which the other file is begun.
const FILE_BYTES: u64 = 512 << 20;
/// Room behind that for the group that passes it.
const FILE_SLACK_BYTES: u64 = 64 << 20;
/// Most appends that are written and synced as one.
const GROUP_APPENDS_MAX: usize = 256;
/// Slowest write or sync that is told apart from slower ones, nanoseconds.
const SLOWEST_NS: u64 = 60_000_000_000;
/// Most slices that one call writes: IOV_MAX.
const SLICES_MAX: usize = 1024;

/// What is done with a batch, and when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Once it is in the page cache.
    Cached,
    /// Once it was synced.
    Durable,
    /// Once it was synced; and it is written to another file as well.
    DurableTwice,
}

/// A batch to be written.
pub(super) struct Append {
    pub(super) correlation: u32,
    pub(super) parts: Vec<Bytes>,
    pub(super) ack: Ack,
    /// Told correlation and offset.
    pub(super) done: UnboundedSender<(u32, u64)>,
}

/// What the disk has done since the last time that somebody asked.
pub(super) struct DiskStats {
    groups: u64,
    appends: u64,
    write_ns: Histogram<u64>,
    sync_ns: Histogram<u64>,
}

impl DiskStats {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            groups: 0,
            appends: 0,
            write_ns: Histogram::new_with_max(SLOWEST_NS, 3)?,
            sync_ns: Histogram::new_with_max(SLOWEST_NS, 3)?,
        })
    }

    /// In words; counting begins anew.
    pub(super) fn take(&mut self) -> String {
        let microseconds = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1e3;
        let told = format!(
            "{:.1} batches a group; write p50 {:.0} us p99 {:.0} us; fdatasync p50 {:.0} us p99 {:.0} us",
            self.appends as f64 / self.groups.max(1) as f64,
            microseconds(&self.write_ns, 0.5),
            microseconds(&self.write_ns, 0.99),
            microseconds(&self.sync_ns, 0.5),
            microseconds(&self.sync_ns, 0.99),
        );
        (self.groups, self.appends) = (0, 0);
        self.write_ns.reset();
        self.sync_ns.reset();
        told
    }
}

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) appends: Sender<Append>,
    pub(super) stats: Arc<Mutex<DiskStats>>,
    pub(super) second: Arc<Second>,
}

impl Disk {
    /// Starts the threads; the first copy goes to two files in `dir`, written through once, so that a sync never has to write their sizes.
    pub(super) fn start(dir: &Path) -> anyhow::Result<Self> {
        let open = |name: &str| -> anyhow::Result<File> {
            let path = dir.join(name);
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            fill(&file).with_context(|| format!("fill {}", path.display()))?;
            Ok(file)
        };
        let files = [open("bare-0.log")?, open("bare-1.log")?];
        let (appends, waiting) = channel();
        let stats = Arc::new(Mutex::new(DiskStats::new()?));
        let second = Arc::new(Second::start(dir)?);
        let mut writer =
            Writer { files, file: 0, position: 0, offset: 0, stats: Arc::clone(&stats), second: Arc::clone(&second) };
        thread::Builder::new().name("bare-disk".into()).spawn(move || {
            if let Err(error) = writer.run(&waiting) {
                eprintln!("the bare server's disk: {error}");
                std::process::exit(1);
            }
        })?;
        Ok(Self { appends, stats, second })
    }
}

fn fill(file: &File) -> io::Result<()> {
    let zeros = vec![0; 4 << 20];
    let mut at = 0;
    while at < FILE_BYTES + FILE_SLACK_BYTES {
        at += pwritev(file, &[IoSlice::new(&zeros)], at)? as u64;
    }
    file.sync_all()
}

struct Writer {
    files: [File; 2],
    file: usize,
    position: u64,
    offset: u64,
    stats: Arc<Mutex<DiskStats>>,
    second: Arc<Second>,
}

impl Writer {
    fn run(&mut self, waiting: &Receiver<Append>) -> io::Result<()> {
        let mut group = Vec::new();
        while let Ok(first) = waiting.recv() {
            group.push(first);
            while group.len() < GROUP_APPENDS_MAX
                && let Ok(append) = waiting.try_recv()
            {
                group.push(append);
            }
            self.write(&group)?;
            let mut twice = Vec::new();
            for append in group.drain(..) {
                // Whoever sent it may have gone.
                let _ = append.done.send((append.correlation, self.offset));
                self.offset += append.parts.iter().map(|part| part.len() as u64).sum::<u64>();
                if append.ack == Ack::DurableTwice {
                    twice.extend(append.parts);
                }
            }
            if !twice.is_empty() {
                self.second.write(twice)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, group: &[Append]) -> io::Result<()> {
        if self.position > FILE_BYTES {
            (self.file, self.position) = (1 - self.file, 0);
        }
        let file = &self.files[self.file];
        let mut slices: Vec<_> = group.iter().flat_map(|append| &append.parts).map(|part| IoSlice::new(part)).collect();
        let start = Instant::now();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let written = pwritev(file, &rest[..rest.len().min(SLICES_MAX)], self.position)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.position += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        let wrote = Instant::now();
        let durable = group.iter().any(|append| append.ack != Ack::Cached);
        if durable {
            fdatasync(file)?;
        }
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.groups += 1;
        stats.appends += group.len() as u64;
        stats.write_ns.saturating_record((wrote - start).as_nanos() as u64);
        if durable {
            stats.sync_ns.saturating_record(wrote.elapsed().as_nanos() as u64);
        }
        Ok(())
    }
}
