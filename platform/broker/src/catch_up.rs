//! Catching up gives way to producers: how fast old records are read while somebody waits for acknowledgements.
//!
//! Who reads what is not kept in memory takes all that processors, disk and network give, and a producer beside it waits several
//! times as long. Here that is measured, and held back as far as producers suffer from it and no further. Readers at the end of a log
//! are never held back. What a view reads is counted by what it shows.
//!
//! - *Calm* is what was appended with no old records read shortly before or meanwhile. *Slow* is what took more than twice as long as
//!   half of that. So a slow disk, or much to append, is no reader's fault.
//! - Of what is appended beside reading, little more may be slow than of what is calm. Where it is much more, and not just for a
//!   moment (the log has moments of its own, when segments are synced), reading is held to a rate: less than it was. As less is slow,
//!   the rate grows, up to where there is none again. It never falls below a share of what readers got when they had their way.
//! - While reading goes on, the calm is looked for: every second it rests for a moment.
//! - What is held to a rate is read a little at a time, so that producers' packets have their turn in between. Readers begin in the
//!   order in which they asked.
//!
//! Without producers all this does nothing. A reader is not told of it (`throttle_time_ms`): that asks clients to wait once more
//! (KIP-219), and here the answer itself has waited.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use millstream_env::{Clock, Monotonic};
use parking_lot::Mutex;

/// Somebody produces for so long after an acknowledgement.
const LIVE_FOR: Duration = Duration::from_millis(300);
/// After so long what was read has left, about: what is appended then is calm.
const CALM_AFTER: Duration = Duration::from_millis(10);
/// How long reading rests to find the calm, and how old what is known of it may be before that.
const REST: Duration = Duration::from_millis(25);
const REST_EVERY: Duration = Duration::from_secs(1);
/// So many calm appends are remembered, and so many tell something.
const CALM_MAX: usize = 64;
const CALM_MIN: usize = 16;
/// What is slow is told anew after so many.
const CALM_STEP: usize = 16;
/// How long a window is; longer, where so many appends have not come yet, and given up past the last.
const WINDOW: Duration = Duration::from_millis(40);
const WINDOW_APPENDS_MIN: u32 = 16;
const WINDOW_MAX: Duration = Duration::from_secs(5);
/// So many windows are judged by the middle one of them: fewer than half of them do not count.
const WINDOWS: usize = 5;
/// The part of appends that may be slow beyond that of the calm ones before reading is held back, and below which it gets on faster.
const SLOW_MAX: f64 = 0.08;
const SLOW_FEW: f64 = 0.04;
/// What is left of the rate then, at first (of what readers took) and further on; and by what part of the full one it grows.
const CUT_FIRST: f64 = 0.6;
const CUT: f64 = 0.8;
const GROWTH: f64 = 0.01;
/// Each window in which readers have their way and take less lets the full rate be forgotten by so much.
const FULL_KEPT: f64 = 0.99;
/// So much is read at a time where there is a rate, bytes.
pub(crate) const PART_BYTES: usize = 512 << 10;
/// A timer's step: what was not used before is used up to this time later.
const CREDIT: Duration = Duration::from_millis(2);
/// Nobody is held back for longer.
pub(crate) const HELD_MAX: Duration = Duration::from_secs(1);

/// See the file's head. Pure: it is told the time.
#[derive(Debug)]
struct Governor {
    /// The least part of the full rate.
    share: f64,
    calm: Calm,
    /// When an append was acknowledged last, when old records were read last.
    acknowledged: Option<Monotonic>,
    read: Option<Monotonic>,
    /// When an append was calm last, or reading last began to rest.
    calmed: Option<Monotonic>,
    rest_end: Monotonic,
    window: Window,
    /// Of the last windows: the part of appends that was slow.
    slow: VecDeque<f64>,
    /// What readers get when they have their way, bytes a second; 0: not known.
    full: f64,
    /// What readers are held to, bytes a second.
    rate: Option<f64>,
    /// When the next reader may begin.
    free_at: Monotonic,
}

/// How long calm appends take.
#[derive(Debug, Default)]
struct Calm {
    took: VecDeque<Duration>,
    untold: usize,
    slow: Option<Slow>,
}

/// What slow appends are.
#[derive(Clone, Copy, Debug)]
struct Slow {
    /// They take longer.
    than: Duration,
    /// The part of calm ones that do, at most: what was found, and two standard errors.
    part_max: f64,
}

impl Calm {
    fn add(&mut self, took: Duration) {
        if self.took.len() == CALM_MAX {
            self.took.pop_front();
        }
        self.took.push_back(took);
        self.untold += 1;
        if self.untold >= CALM_STEP && self.took.len() >= CALM_MIN {
            let mut sorted = Vec::from_iter(self.took.iter().copied());
            sorted.sort_unstable();
            let than = 2 * sorted[sorted.len() / 2];
            let slow = sorted.len() - sorted.partition_point(|took| *took <= than);
            let (slow, all) = (slow as f64, sorted.len() as f64);
            let part = slow / all;
            self.slow = Some(Slow { than, part_max: part + 2.0 * (part * (1.0 - part) / all).sqrt() });
            self.untold = 0;
        }
    }
}

/// What has come since it was last decided.
#[derive(Debug, Default)]
struct Window {
    since: Monotonic,
    /// Beside reading.
    appends: u32,
    slow: u32,
    read_bytes: usize,
}

/// Leave to read.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Leave {
    /// Not before.
    at: Monotonic,
    bytes_max: usize,
    /// The rate that `bytes_max` was counted at.
    rate: Option<f64>,
}

fn after(at: Monotonic, time: Duration) -> Monotonic {
    Monotonic(at.0 + time)
}

/// The time that bytes take at a rate.
fn time_of(bytes: usize, rate: f64) -> Duration {
    Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(HELD_MAX).min(HELD_MAX)
}

impl Governor {
    /// `share`: percent.
    fn new(share: u8) -> Self {
        Self {
            share: f64::from(share.min(100)) / 100.0,
            calm: Calm::default(),
            acknowledged: None,
            read: None,
            calmed: None,
            rest_end: Monotonic::default(),
            window: Window::default(),
            slow: VecDeque::new(),
            full: 0.0,
            rate: None,
            free_at: Monotonic::default(),
        }
    }

    /// What was appended at `begun` is acknowledged.
    fn handle_acknowledged(&mut self, begun: Monotonic, now: Monotonic) {
        self.acknowledged = Some(now);
        let took = now - begun;
        if self.read.is_none_or(|read| after(read, CALM_AFTER) <= begun) {
            self.calm.add(took);
            self.calmed = Some(now);
        } else {
            self.window.appends += 1;
            self.window.slow += u32::from(self.calm.slow.is_some_and(|slow| took > slow.than));
        }
    }

    /// Somebody wants to read so many old bytes.
    fn ask(&mut self, bytes_max: usize, now: Monotonic) -> Leave {
        self.decide(now);
        let is_live = self.acknowledged.is_some_and(|at| now - at < LIVE_FOR);
        if !is_live || self.share >= 1.0 {
            self.free_at = now;
            return Leave { at: now, bytes_max, rate: None };
        }
        if self.calmed.is_none_or(|at| now - at >= REST_EVERY) {
            self.rest_end = after(now, REST);
            self.calmed = Some(now);
        }
        let Some(rate) = self.rate else {
            return Leave { at: now.max(self.rest_end), bytes_max, rate: None };
        };
        let bytes_max = bytes_max.min(PART_BYTES);
        let at = now.max(self.rest_end).max(self.free_at);
        let earliest = Monotonic(now.0.saturating_sub(CREDIT));
        self.free_at = after(self.free_at.max(earliest), time_of(bytes_max, rate)).min(after(now, HELD_MAX));
        Leave { at, bytes_max, rate: Some(rate) }
    }

    /// Who had leave has read so many bytes.
    fn handle_read(&mut self, leave: Leave, bytes: usize, now: Monotonic) {
        if let Some(rate) = leave.rate {
            let (counted, took) = (time_of(leave.bytes_max, rate), time_of(bytes, rate));
            self.free_at = Monotonic(self.free_at.0.saturating_sub(counted) + took);
        }
        if bytes > 0 {
            self.read = Some(now);
            self.window.read_bytes += bytes;
        }
    }

    /// Once a window is over.
    fn decide(&mut self, now: Monotonic) {
        let Window { since, appends, slow, read_bytes } = self.window;
        let lasted = now - since;
        let is_over = match appends {
            0 => lasted >= WINDOW,
            WINDOW_APPENDS_MIN.. => lasted >= WINDOW,
            _ => lasted >= WINDOW_MAX,
        };
        if !is_over {
            return;
        }
        self.window = Window { since: now, ..Window::default() };
        let measured = read_bytes as f64 / lasted.as_secs_f64();
        if self.rate.is_none() && read_bytes > 0 {
            self.full = measured.max(self.full * FULL_KEPT);
        }
        let tells = appends >= WINDOW_APPENDS_MIN && read_bytes > 0 && lasted < WINDOW_MAX;
        let Some(calm) = self.calm.slow.filter(|_| tells) else { return };
        self.slow.push_back(f64::from(slow) / f64::from(appends) - calm.part_max);
        if self.slow.len() > WINDOWS {
            self.slow.pop_front();
        }
        let mut sorted = Vec::from_iter(self.slow.iter().copied());
        sorted.sort_unstable_by(f64::total_cmp);
        // Those that are not there yet speak against either.
        let missing = WINDOWS - sorted.len();
        let middle_at_least = (WINDOWS / 2).checked_sub(missing).map(|at| sorted[at]);
        let middle_at_most = sorted.get(WINDOWS / 2);
        if middle_at_least.is_some_and(|slow| slow > SLOW_MAX) {
            let rate = match self.rate {
                None => CUT_FIRST * measured,
                Some(rate) => CUT * rate.min(measured),
            };
            self.rate = Some(rate.max(self.share * self.full));
            // What comes now is another rate's.
            self.slow.clear();
        } else if middle_at_most.is_some_and(|slow| *slow < SLOW_FEW) {
            let grown = self.rate.map(|rate| rate + GROWTH * self.full);
            self.rate = grown.filter(|rate| *rate < self.full);
        }
    }
}

/// A broker's.
pub(crate) struct CatchUp {
    governor: Mutex<Governor>,
    clock: Arc<dyn Clock>,
}

/// Leave to read old records from some moment on, given up when it is dropped.
pub(crate) struct Admitted<'a> {
    of: &'a CatchUp,
    leave: Leave,
    read_bytes: usize,
}

impl CatchUp {
    /// `share`: the least part of their speed that readers keep, percent; 100: they are never held back.
    pub(crate) fn new(share: u8, clock: Arc<dyn Clock>) -> Self {
        Self { governor: Mutex::new(Governor::new(share)), clock }
    }

    /// Says that what was appended at `begun` is acknowledged now.
    pub(crate) fn acknowledged(&self, begun: Monotonic) {
        let now = self.clock.now();
        self.governor.lock().handle_acknowledged(begun, now);
    }

    /// Holds readers to a rate from now on, as beside a producer that suffers: for a while, nothing being read.
    #[cfg(test)]
    pub(crate) fn hold(&self, rate: f64) {
        let now = self.clock.now();
        let mut governor = self.governor.lock();
        (governor.rate, governor.acknowledged, governor.calmed) = (Some(rate), Some(now), Some(now));
    }

    /// Asks for leave to read old records, `bytes_max` at most.
    pub(crate) fn ask(&self, bytes_max: usize) -> Admitted<'_> {
        let now = self.clock.now();
        let leave = self.governor.lock().ask(bytes_max, now);
        Admitted { of: self, leave, read_bytes: 0 }
    }
}

impl<'a> Admitted<'a> {
    /// Resolves when it is time to read.
    pub(crate) fn due(&self) -> impl Future<Output = ()> + Send + use<'a> {
        let (at, clock) = (self.leave.at, &self.of.clock);
        async move {
            let wait = at - clock.now();
            if !wait.is_zero() {
                clock.sleep(wait).await;
            }
        }
    }

    /// Most bytes that may be read.
    pub(crate) fn bytes_max(&self) -> usize {
        self.leave.bytes_max
    }

    /// Says how many have been read.
    pub(crate) fn read(mut self, bytes: usize) {
        self.read_bytes = bytes;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let now = self.of.clock.now();
        self.of.governor.lock().handle_read(self.leave, self.read_bytes, now);
    }
}

#[cfg(test)]
#[path = "catch_up_tests.rs"]
mod tests;
