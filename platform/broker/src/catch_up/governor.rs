//! The rules: how fast old records are read, and who reads next. Pure: told the time.

use std::{collections::VecDeque, time::Duration};

use millstream_env::Monotonic;

use super::queue::{Ask, Queue, Reader, Ticket};

/// Somebody produces for so long after an acknowledgement.
pub(crate) const LIVE_FOR: Duration = Duration::from_millis(300);
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
/// So much is read at a time where there is a rate, bytes; less where so many wait that a round would take longer than this, and no less
/// than that.
pub(super) const PART_BYTES: usize = 512 << 10;
const ROUND: Duration = Duration::from_secs(1);
const PART_BYTES_MIN: usize = 64 << 10;
/// What a read is charged with at least before it is known what it took, bytes.
const CHARGED_MIN: usize = 4 << 10;
/// A timer's step: what was not used before is used up to this time later.
const CREDIT: Duration = Duration::from_millis(2);
/// However much somebody has read, the next one is not held back for longer.
const GAP_MAX: Duration = Duration::from_secs(1);
/// Nobody waits for longer, whatever the rate.
const HELD_MAX: Duration = Duration::from_secs(5);

/// See the head of [`super`].
#[derive(Debug)]
pub(super) struct Governor {
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
    queue: Queue,
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
pub(super) struct Leave {
    /// The answer may have no more than this, whatever else is in it.
    pub(super) bytes_max: usize,
    /// Of old records it has this at most.
    old_bytes_max: usize,
    /// The reader was charged with so many, where there is a rate.
    charged: usize,
    /// How long the next one was held back for it.
    held: Duration,
}

/// What is to be done for those who wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// This one may read.
    Begin(Ticket, Leave),
    /// Nothing before this moment.
    Wait(Monotonic),
    /// Nobody waits.
    Idle,
}

fn after(at: Monotonic, time: Duration) -> Monotonic {
    Monotonic(at.0 + time)
}

/// The time that bytes take at a rate.
fn time_of(bytes: usize, rate: f64) -> Duration {
    Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(GAP_MAX).min(GAP_MAX)
}

impl Governor {
    /// `share`: percent.
    pub(super) fn new(share: u8) -> Self {
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
            queue: Queue::new(),
        }
    }

    /// What was appended at `begun` is acknowledged.
    pub(super) fn handle_acknowledged(&mut self, begun: Monotonic, now: Monotonic) {
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

    /// Somebody wants to read so many old bytes at most.
    pub(super) fn ask(&mut self, reader: Reader, bytes_max: usize, now: Monotonic) -> Ticket {
        self.decide(now);
        self.queue.join(Ask { reader, bytes_max, since: now })
    }

    /// What is to be done now. To be asked again until it is nothing, and whenever something has changed.
    pub(super) fn poll_next(&mut self, now: Monotonic) -> Next {
        let Some((oldest, since)) = self.queue.oldest() else { return Next::Idle };
        let live_end = self.acknowledged.map(|at| after(at, LIVE_FOR)).filter(|end| now < *end && self.share < 1.0);
        let Some(live_end) = live_end else {
            self.free_at = now;
            return self.begin_freely();
        };
        if self.calmed.is_none_or(|at| now - at >= REST_EVERY) {
            self.rest_end = after(now, REST);
            self.calmed = Some(now);
        }
        if now < self.rest_end {
            return Next::Wait(self.rest_end);
        }
        let Some(rate) = self.rate else { return self.begin_freely() };
        let (overdue_at, part_bytes) = (after(since, HELD_MAX), self.part_bytes(rate));
        let is_overdue = overdue_at <= now;
        if !is_overdue && now < self.free_at {
            return Next::Wait(self.free_at.min(overdue_at).min(live_end));
        }
        let ticket = match is_overdue {
            true => Some(oldest),
            false => self.queue.front(part_bytes),
        };
        let Some((ticket, ask)) = ticket.and_then(|ticket| Some((ticket, self.queue.ask(ticket)?))) else {
            return Next::Idle;
        };
        let old_bytes_max = ask.bytes_max.min(part_bytes);
        let estimate = self.queue.estimate(ask.reader).unwrap_or(old_bytes_max);
        let charged = estimate.min(old_bytes_max).max(CHARGED_MIN);
        self.queue.begin(ticket, charged);
        let earliest = Monotonic(now.0.saturating_sub(CREDIT));
        let before = self.free_at.max(earliest);
        self.free_at = after(before, time_of(charged, rate)).min(after(now, GAP_MAX)).max(before);
        Next::Begin(ticket, Leave { bytes_max: part_bytes, old_bytes_max, charged, held: self.free_at - before })
    }

    /// The next reads as much as it likes.
    fn begin_freely(&mut self) -> Next {
        let begun = self.queue.front(PART_BYTES).and_then(|ticket| Some((ticket, self.queue.begin(ticket, 0)?)));
        begun.map_or(Next::Idle, |(ticket, ask)| {
            let old_bytes_max = ask.bytes_max;
            Next::Begin(ticket, Leave { bytes_max: usize::MAX, old_bytes_max, charged: 0, held: Duration::ZERO })
        })
    }

    /// How much is read at a time: less, where so much is waited for, so that each has its turn soon.
    fn part_bytes(&self, rate: f64) -> usize {
        let rounds = rate * ROUND.as_secs_f64() / self.queue.expected_bytes().max(1) as f64;
        ((PART_BYTES as f64 * rounds.min(1.0)) as usize).max(PART_BYTES_MIN)
    }

    /// Somebody does not want to read any more: what it has read is said as of others.
    pub(super) fn give_up(&mut self, ticket: Ticket) {
        self.queue.remove(ticket);
    }

    /// Somebody has read so many bytes; with leave, if it did not do without.
    pub(super) fn handle_read(&mut self, reader: Reader, leave: Option<Leave>, bytes: usize, now: Monotonic) {
        // Who had its way before there was a rate is not charged afterwards.
        let (charged, held) = leave.map_or((0, Duration::ZERO), |leave| (leave.charged, leave.held));
        if let Some(rate) = self.rate.filter(|_| charged > 0 || leave.is_none()) {
            let free_at = Monotonic(self.free_at.0.saturating_sub(held) + time_of(bytes, rate));
            self.free_at = free_at.min(after(now, GAP_MAX).max(self.free_at));
            let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
            self.queue.charge(reader, signed(bytes) - signed(charged));
        }
        if let Some(leave) = leave {
            self.queue.note_read(reader, bytes, leave.old_bytes_max);
        }
        if bytes > 0 {
            self.read = Some(now);
            self.window.read_bytes += bytes;
        }
    }

    /// A connection is gone, and all that it had asked for given up.
    pub(super) fn forget(&mut self, reader: Reader) {
        self.queue.forget(reader);
    }

    /// Holds readers to a rate, as beside a producer that suffers: for a while, nothing being read.
    #[cfg(test)]
    pub(super) fn hold(&mut self, rate: f64, now: Monotonic) {
        (self.rate, self.acknowledged, self.calmed) = (Some(rate), Some(now), Some(now));
        self.window = Window { since: now, ..Window::default() };
    }

    #[cfg(test)]
    pub(super) fn is_live(&self, now: Monotonic) -> bool {
        self.acknowledged.is_some_and(|at| now - at < LIVE_FOR)
    }

    #[cfg(test)]
    pub(super) fn knows_nobody(&self) -> bool {
        self.queue.is_unused()
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

#[cfg(test)]
#[path = "governor_tests.rs"]
mod tests;
