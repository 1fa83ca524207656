//! What the disk says: journal against segment, buffered against O_DIRECT, how large a group should be.
//!
//! `cargo run --release -p millstream-tests-bench --bin disk_spike -- [DIR] [ROUNDS]`
//!
//! Writes real files (about 1 GB, removed afterwards) and prints medians of one operation at a time. The ways take turns within a
//! round, so that a noisy moment hits all of them; compare columns, not runs.

use std::{
    fs::{File, OpenOptions},
    io::IoSlice,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, OFlags};

const MIB: usize = 1 << 20;
const SIZES: [usize; 8] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, MIB, 4 * MIB];
/// How large each file may grow; then it is begun again.
const FILE_BYTES: usize = 128 * MIB;
const PAGE: usize = 4096;

/// A file written from its start to its end, over and over.
struct Ring {
    file: File,
    path: PathBuf,
    at: usize,
    /// Begin with a new file instead of writing over the old one.
    fresh: bool,
    reserve: bool,
}

impl Ring {
    fn new(path: PathBuf, fresh: bool, reserve: bool, flags: OFlags) -> Result<Self> {
        if !fresh {
            // Recycled: every block has been written.
            let file = File::create(&path)?;
            let zeros = vec![0; 4 * MIB];
            for at in (0..FILE_BYTES).step_by(zeros.len()) {
                file.write_all_at(&zeros, at as u64)?;
            }
            file.sync_all()?;
        }
        let mut ring = Self { file: open(&path, flags)?, path, at: 0, fresh, reserve };
        ring.start()?;
        Ok(ring)
    }

    fn start(&mut self) -> Result<()> {
        self.at = 0;
        if self.fresh {
            let _ = std::fs::remove_file(&self.path);
            self.file = open(&self.path, OFlags::empty())?;
            if self.reserve {
                rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, FILE_BYTES as u64)?;
            }
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// Makes room for the next `bytes`; what it costs is not measured.
    fn room(&mut self, bytes: usize) -> Result<()> {
        if self.at + bytes > FILE_BYTES {
            self.start()?;
        }
        Ok(())
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let mut done = 0;
        let mut own = parts.to_vec();
        let mut rest = own.as_mut_slice();
        while done < bytes {
            let written = rustix::io::pwritev(&self.file, &rest[..rest.len().min(1024)], (self.at + done) as u64)?;
            done += written;
            IoSlice::advance_slices(&mut rest, written);
        }
        self.at += bytes;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path, flags: OFlags) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags.bits().cast_signed());
    options.open(path).with_context(|| format!("cannot open {} with {flags:?}", path.display()))
}

/// Bytes that begin at a page, as O_DIRECT asks for.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start }
    }

    fn slice(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// The ways to make one append durable.
const WAYS: [&str; 8] = [
    "segment, grows",
    "segment, reserved",
    "journal, reserved, buffered",
    "journal, recycled, buffered",
    "journal, recycled, O_DIRECT|O_DSYNC",
    "A: journal recycled + segment in page cache",
    "B: segment synced, then 4 KiB ref in journal",
    "memory copy into page cache only",
];

struct Bench {
    grows: Ring,
    reserved: Ring,
    journal_fresh: Ring,
    journal: Ring,
    direct: Ring,
    cached: Ring,
    data: Vec<u8>,
    aligned: Aligned,
}

impl Bench {
    fn new(dir: &Path) -> Result<Self> {
        let ring = |name: &str, fresh, reserve, flags| Ring::new(dir.join(name), fresh, reserve, flags);
        Ok(Self {
            grows: ring("grows", true, false, OFlags::empty())?,
            reserved: ring("reserved", true, true, OFlags::empty())?,
            journal_fresh: ring("journal-fresh", true, true, OFlags::empty())?,
            journal: ring("journal", false, false, OFlags::empty())?,
            direct: ring("direct", false, false, OFlags::DIRECT | OFlags::DSYNC)?,
            cached: ring("cached", true, false, OFlags::empty())?,
            data: (0..8 * MIB).map(|i| (i * 31) as u8).collect(),
            aligned: Aligned::new(8 * MIB),
        })
    }

    /// One append of `bytes` in one way.
    fn once(&mut self, way: usize, bytes: usize) -> Result<Duration> {
        for ring in [&mut self.grows, &mut self.reserved, &mut self.journal_fresh, &mut self.journal] {
            ring.room(bytes + PAGE)?;
        }
        self.direct.room(bytes)?;
        self.cached.room(bytes)?;
        let data = [IoSlice::new(&self.data[..bytes])];
        let small = [IoSlice::new(&self.data[..PAGE])];
        let start = Instant::now();
        match way {
            0 => {
                self.grows.write(&data)?;
                self.grows.sync()?;
            }
            1 => {
                self.reserved.write(&data)?;
                self.reserved.sync()?;
            }
            2 => {
                self.journal_fresh.write(&data)?;
                self.journal_fresh.sync()?;
            }
            3 => {
                self.journal.write(&data)?;
                self.journal.sync()?;
            }
            4 => {
                // What arrives is not aligned: the copy is part of the price.
                let aligned = self.aligned.slice(bytes);
                aligned.copy_from_slice(&self.data[..bytes]);
                let whole = [IoSlice::new(aligned)];
                self.direct.write(&whole)?;
            }
            5 => {
                self.cached.write(&data)?;
                self.journal.write(&data)?;
                self.journal.sync()?;
            }
            6 => {
                self.grows.write(&data)?;
                self.grows.sync()?;
                self.journal.write(&small)?;
                self.journal.sync()?;
            }
            _ => self.cached.write(&data)?,
        }
        Ok(start.elapsed())
    }

    /// MB/s of appends of `bytes` one after the other, with all that has to reach the disk in the end: in way A the segment too.
    fn sustained(&mut self, way: usize, bytes: usize, total: usize) -> Result<f64> {
        let count = (total / bytes).max(1);
        // Begin with nothing in flight. What it costs to begin files again does not count.
        self.cached.sync()?;
        let mut elapsed = Duration::ZERO;
        for _ in 0..count {
            elapsed += self.once(way, bytes)?;
        }
        let start = Instant::now();
        self.cached.sync()?;
        elapsed += start.elapsed();
        Ok((count * bytes) as f64 / 1e6 / elapsed.as_secs_f64())
    }
}

fn shown(bytes: usize) -> String {
    if bytes >= MIB { format!("{}M", bytes / MIB) } else { format!("{}K", bytes >> 10) }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "target/disk-spike".into()));
    let rounds: usize = args.next().map_or(Ok(8), |rounds| rounds.parse())?;
    std::fs::create_dir_all(&dir)?;
    let mut bench = Bench::new(&dir)?;

    println!("one append made durable, median us\n");
    print!("{:46}", "");
    SIZES.iter().for_each(|size| print!("{:>9}", shown(*size)));
    println!();
    let mut times = vec![vec![Vec::new(); SIZES.len()]; WAYS.len()];
    for _ in 0..rounds {
        for (at, size) in SIZES.iter().enumerate() {
            let count = (4 * MIB / size).clamp(6, 40);
            for (way, times) in times.iter_mut().enumerate() {
                for _ in 0..count {
                    times[at].push(bench.once(way, *size)?);
                }
            }
        }
    }
    let mut medians = Vec::new();
    for (way, times) in WAYS.iter().zip(&mut times) {
        let row: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
        print!("{way:46}");
        row.iter().for_each(|time| print!("{time:9.0}"));
        println!();
        medians.push(row);
    }

    println!("\nsustained, all of it on disk in the end, MB/s, best of 3\n");
    let mut sustained = Vec::new();
    for way in [5, 6] {
        print!("{:46}", WAYS[way]);
        let mut row = Vec::new();
        for size in SIZES {
            let mut best: f64 = 0.0;
            for _ in 0..3 {
                best = best.max(bench.sustained(way, size, (size * 60).clamp(8 * MIB, 120 * MIB))?);
            }
            print!("{best:9.0}");
            row.push(best);
        }
        println!();
        sustained.push(row);
    }
    let better = |at: usize| sustained[1][at] >= 1.1 * sustained[0][at] && medians[6][at] <= 1.1 * medians[5][at];
    let threshold = (0..SIZES.len()).find(|first| (*first..SIZES.len()).all(better));
    match threshold {
        Some(at) => println!(
            "\nAppendRef pays from {} on (B has 1.1 x the rate of A or more, at no worse latency)",
            shown(SIZES[at])
        ),
        None => println!("\nAppendRef does not pay up to {}", shown(SIZES[SIZES.len() - 1])),
    }

    println!("\ngroups of frames in one write and one sync: median us, MB/s\n");
    for (frame, counts) in [(100 << 10, vec![1, 2, 4, 8, 16, 32, 64]), (1 << 10, vec![1, 4, 16, 64, 256, 1024])] {
        println!("frames of {}", shown(frame));
        for count in counts {
            let bytes = (frame * count).next_multiple_of(PAGE);
            let (mut buffered, mut direct) = (Vec::new(), Vec::new());
            for _ in 0..rounds * (16 * MIB / bytes).clamp(2, 12) {
                bench.journal.room(bytes)?;
                let parts: Vec<_> = bench.data[..bytes].chunks(frame).map(IoSlice::new).collect();
                let start = Instant::now();
                bench.journal.write(&parts)?;
                bench.journal.sync()?;
                buffered.push(start.elapsed());
                direct.push(bench.once(4, bytes)?);
            }
            let (buffered, direct) = (median(&mut buffered), median(&mut direct));
            let rate = |time: f64| bytes as f64 / time;
            println!(
                "  {count:5} = {:>6}: buffered {buffered:7.0} us {:6.0} MB/s   O_DIRECT {direct:7.0} us {:6.0} MB/s",
                shown(bytes),
                rate(buffered),
                rate(direct)
            );
        }
    }
    drop(bench);
    // Only if it is ours alone.
    let _ = std::fs::remove_dir(&dir);
    Ok(())
}
