//! One simulated file: what the program reads, what is on the medium, and which sectors differ because nobody synced them.

use std::{collections::BTreeMap, sync::Arc};

use super::{PAGE_BYTES, SECTOR_BYTES};
use crate::{Rng, sim::rng::below};

type Page = [u8; PAGE_BYTES];
const SECTORS: usize = PAGE_BYTES / SECTOR_BYTES;
/// One bit per sector of a page.
type Mask = u8;
const _: () = assert!(SECTORS == Mask::BITS as usize);

/// Bytes in pages; one that is not there reads as zeros. Pages are shared between copies until written.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Content {
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> usize {
        let count = (buffer.len() as u64).min(self.len.saturating_sub(at)) as usize;
        for (page, within, range) in pages(at, count) {
            let into = &mut buffer[range];
            match self.pages.get(&page) {
                Some(bytes) => into.copy_from_slice(&bytes[within..within + into.len()]),
                None => into.fill(0),
            }
        }
        count
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        Arc::make_mut(self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }

    /// Makes the sectors in `mask` those of `from`.
    fn copy_sectors(&mut self, from: &Self, page: u64, mask: Mask) {
        match from.pages.get(&page) {
            _ if mask == 0 => {}
            Some(bytes) if mask == Mask::MAX => {
                self.pages.insert(page, Arc::clone(bytes));
            }
            source => {
                let into = self.page_mut(page);
                for sector in (0..SECTORS).filter(|sector| mask & (1 << sector) != 0) {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    match source {
                        Some(bytes) => into[range.clone()].copy_from_slice(&bytes[range]),
                        None => into[range].fill(0),
                    }
                }
            }
        }
    }

    /// Cuts or extends: what comes back after a cut is zeros.
    fn set_len(&mut self, len: u64) {
        let cut = len < self.len;
        self.len = len;
        if cut {
            self.trim();
        }
    }

    /// Clears what is behind the end, so that it does not come back when the file grows.
    fn trim(&mut self) {
        let (page, within) = (self.len / PAGE_BYTES as u64, (self.len % PAGE_BYTES as u64) as usize);
        drop(self.pages.split_off(&(page + u64::from(within > 0))));
        if within > 0 && self.pages.contains_key(&page) {
            self.page_mut(page)[within..].fill(0);
        }
    }
}

/// The pages that `count` bytes at `at` touch: page, position in it, range of the bytes.
fn pages(at: u64, count: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == count {
            return None;
        }
        let position = at + done as u64;
        let within = (position % PAGE_BYTES as u64) as usize;
        let take = (PAGE_BYTES - within).min(count - done);
        let range = done..done + take;
        done += take;
        Some((position / PAGE_BYTES as u64, within, range))
    })
}

/// The sectors of a page that a range in it touches.
fn mask(within: usize, len: usize) -> Mask {
    let (first, last) = (within / SECTOR_BYTES, (within + len - 1) / SECTOR_BYTES);
    (first..=last).fold(0, |mask, sector| mask | 1 << sector)
}

/// A random choice for each sector in `mask`.
fn some_of(rng: &dyn Rng, mask: Mask) -> Mask {
    mask & rng.next_u64() as Mask
}

/// A file's two sides.
///
/// ```text
/// live      what reads return: the page cache over the medium
/// durable   what a crash leaves at least
/// dirty     sectors written since the last sync, good or failed
/// low       the shortest length since then: what a cut took away below it is gone once synced
/// ```
/// After a failed sync nothing is dirty though live and durable differ: the kernel believes its pages are clean. Such
/// sectors are readable until forgotten, no later sync brings them to the medium, and a crash loses them.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) live: Content,
    durable: Content,
    dirty: BTreeMap<u64, Mask>,
    /// Earlier versions of dirty pages, which the kernel may have written back before they were written again.
    between: BTreeMap<u64, Content>,
    low: u64,
    /// Pages that `reserve` allocated, from the start of the file.
    reserved: u64,
    /// Pages allocated in all.
    allocated: u64,
}

impl File {
    /// Bytes of disk space taken.
    pub(super) fn space(&self) -> u64 {
        self.allocated * PAGE_BYTES as u64
    }

    /// Writes, page by page, as long as `room` (in bytes, shrinking as pages are allocated) lasts; whether all was written.
    pub(super) fn write(&mut self, bytes: &[u8], at: u64, room: &mut u64, rng: &dyn Rng) -> bool {
        for (page, within, range) in pages(at, bytes.len()) {
            if page >= self.reserved && !self.live.pages.contains_key(&page) {
                if *room < PAGE_BYTES as u64 {
                    return false;
                }
                *room -= PAGE_BYTES as u64;
                self.allocated += 1;
            }
            let touched = mask(within, range.len());
            let dirty = self.dirty.get(&page).copied().unwrap_or(0);
            if dirty & touched != 0 && below(rng, 8) == 0 {
                self.between.entry(page).or_default().copy_sectors(&self.live, page, Mask::MAX);
            }
            let end = at + range.end as u64;
            self.live.page_mut(page)[within..within + range.len()].copy_from_slice(&bytes[range]);
            self.live.len = self.live.len.max(end);
            self.dirty.insert(page, dirty | touched);
        }
        true
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.live.set_len(len);
        self.low = self.low.min(len);
        let end = len.div_ceil(PAGE_BYTES as u64);
        // Sectors that a cut took away are no longer dirty, or a later sync would write past the end.
        drop(self.dirty.split_off(&end));
        drop(self.between.split_off(&end.saturating_sub(1)));
        self.reserved = self.reserved.min(end);
        self.count_pages();
    }

    /// Allocates the first `len` bytes; false, and nothing changed, when there is not enough `room`.
    pub(super) fn reserve(&mut self, len: u64, room: u64) -> bool {
        let end = len.div_ceil(PAGE_BYTES as u64);
        if end > self.reserved {
            let there = self.live.pages.range(self.reserved..end).count() as u64;
            if (end - self.reserved - there) * PAGE_BYTES as u64 > room {
                return false;
            }
            self.reserved = end;
            self.count_pages();
        }
        self.live.len = self.live.len.max(len);
        true
    }

    fn count_pages(&mut self) {
        self.allocated = self.reserved + self.live.pages.range(self.reserved..).count() as u64;
    }

    /// A sync that works: all that is dirty becomes durable.
    pub(super) fn sync(&mut self) {
        if self.low < self.durable.len {
            self.durable.set_len(self.low);
        }
        for (page, mask) in std::mem::take(&mut self.dirty) {
            self.durable.copy_sectors(&self.live, page, mask);
        }
        self.durable.len = self.live.len;
        self.clean();
    }

    fn clean(&mut self) {
        self.dirty.clear();
        self.between.clear();
        self.low = self.live.len;
    }

    /// A sync that fails: some of it reached the medium, and the rest is forgotten to be dirty.
    pub(super) fn sync_fails(&mut self, rng: &dyn Rng) {
        self.tear(rng);
        self.clean();
    }

    /// The machine stops: what is not durable survives sector by sector, or not.
    pub(super) fn crash(&mut self, rng: Option<&dyn Rng>) {
        if let Some(rng) = rng {
            self.tear(rng);
        }
        self.live = self.durable.clone();
        self.clean();
        self.reserved = 0;
        self.count_pages();
    }

    /// Brings some of what is dirty to the medium.
    fn tear(&mut self, rng: &dyn Rng) {
        let cut = self.low < self.durable.len;
        if cut && below(rng, 2) == 0 {
            // The cut did not take place, so nothing that was written behind it did.
            self.tear_below(rng, self.low);
            return;
        }
        if cut {
            self.durable.set_len(self.low);
        }
        let end = match below(rng, 3) {
            0 => self.durable.len,
            1 => self.live.len,
            _ => self.durable.len + below(rng, self.live.len.saturating_sub(self.durable.len) + 1),
        };
        self.durable.len = end.max(self.durable.len);
        self.tear_below(rng, self.durable.len);
    }

    /// Brings some of the dirty sectors that begin below `end` to the medium; the file's length there stays.
    fn tear_below(&mut self, rng: &dyn Rng, end: u64) {
        for (&page, &dirty) in &self.dirty {
            let begins = |sector: usize| page * PAGE_BYTES as u64 + (sector * SECTOR_BYTES) as u64;
            let inside = (0..SECTORS).filter(|sector| begins(*sector) < end).fold(0, |mask, sector| mask | 1 << sector);
            let kept = some_of(rng, dirty & inside);
            self.durable.copy_sectors(&self.live, page, kept);
            if let Some(between) = self.between.get(&page) {
                self.durable.copy_sectors(between, page, some_of(rng, kept));
            }
        }
        // What a kept sector holds behind the end is not part of the file.
        self.durable.trim();
    }

    /// The cache lets go of clean pages in the range: what reads return is then the medium's.
    pub(super) fn forget(&mut self, at: u64, len: u64) {
        let first = at.div_ceil(PAGE_BYTES as u64);
        let end = at.saturating_add(len) / PAGE_BYTES as u64;
        let cached: Vec<u64> = match first < end {
            true => self.live.pages.range(first..end).map(|(page, _)| *page).collect(),
            false => Vec::new(),
        };
        for page in cached.into_iter().filter(|page| !self.dirty.contains_key(page)) {
            self.live.copy_sectors(&self.durable, page, Mask::MAX);
        }
    }

    /// Flips bits at a place, on the medium and in the cache.
    pub(super) fn corrupt(&mut self, at: u64, xor: u8) {
        let (page, within) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
        for side in [&mut self.live, &mut self.durable] {
            if at < side.len {
                side.page_mut(page)[within] ^= xor;
            }
        }
    }
}
