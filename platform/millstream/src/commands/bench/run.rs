//! One run: its times, what has been counted in it, who watches over it, and how it ends.

use std::{
    io::IsTerminal,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use super::{
    meter::{Meter, Tally},
    pace::Pace,
};
use crate::{output::say, signals::Signals};

/// How long what is under way may take once the time is over.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// The same once somebody has asked for an end.
const INTERRUPTED_MAX: Duration = Duration::from_secs(3);
/// How late a unit of an open load may be sent still once the time is over.
const LATE_MAX: Duration = Duration::from_secs(1);
/// How often it is told how it goes.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// What lanes share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) start: Instant,
    /// What is sent before this warms up, and is not counted.
    pub(super) counted_from: Instant,
    /// What begins after this does not begin.
    pub(super) end: Instant,
    pub(super) meter: Meter,
    stopped: OnceLock<Instant>,
    /// Of an open load: when units are due, and how many records each has.
    paced: OnceLock<(Pace, u64)>,
    /// Records that were sent, warming up included.
    sent: AtomicU64,
}

/// How a run went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// Seconds from when counting began until the time was over or the last record was done, whichever came later.
    pub(super) seconds: f64,
    /// Records that were due and not sent.
    pub(super) unsent: u64,
    /// Seconds of this process's processor time, from when counting began.
    pub(super) cpu_seconds: f64,
    pub(super) interrupted: bool,
    /// What ended it early.
    pub(super) failed: Option<anyhow::Error>,
}

impl Run {
    /// Begins now.
    pub(super) fn new(warmup: Duration, time: Duration) -> anyhow::Result<Self> {
        let start = Instant::now();
        let counted_from = start + warmup;
        let (end, meter) = (counted_from + time, Meter::new()?);
        let (stopped, paced, sent) = (OnceLock::new(), OnceLock::new(), AtomicU64::new(0));
        Ok(Self { start, counted_from, end, meter, stopped, paced, sent })
    }

    /// Whether nothing more is to be begun.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.is_stopped() || now >= self.end
    }

    /// Whether it is too late for what was due in time.
    pub(super) fn is_too_late(&self, now: Instant) -> bool {
        self.is_stopped() || now >= self.end + LATE_MAX
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get().is_some()
    }

    /// Nothing more is begun.
    pub(super) fn stop(&self) {
        self.stopped.get_or_init(Instant::now);
    }

    /// The load is an open one: units of so many records are due at this pace.
    pub(super) fn goes_at(&self, pace: Pace, records: u64) {
        // It is said once.
        let _ = self.paced.set((pace, records));
    }

    /// So many records are being sent.
    pub(super) fn sends(&self, records: u64) {
        self.sent.fetch_add(records, Ordering::Relaxed);
    }

    /// Records that were due until now and are not sent.
    fn unsent(&self) -> u64 {
        let Some((pace, records)) = self.paced.get() else { return 0 };
        let until = self.stopped.get().map_or(self.end, |stopped| self.end.min(*stopped));
        (pace.count(until) * records).saturating_sub(self.sent.load(Ordering::Relaxed))
    }

    /// Watches until all lanes have ended, the time that they may take is over, or a signal has come. `progress`: whether it is told even
    /// where nobody sits before a terminal.
    pub(super) async fn watch(
        &self,
        mut lanes: JoinSet<anyhow::Result<()>>,
        signals: &mut Signals,
        progress: bool,
    ) -> anyhow::Result<Outcome> {
        let is_told = progress || std::io::stderr().is_terminal();
        let (mut tally, mut interrupted, mut failed) = (Tally::new()?, false, None);
        let mut deadline = self.end + DRAIN_MAX;
        let mut tick = tokio::time::interval_at((self.start + PROGRESS_PAUSE).into(), PROGRESS_PAUSE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticked = self.counted_from;
        let mut cpu_before = None;
        loop {
            tokio::select! {
                ended = lanes.join_next() => match ended {
                    None => break,
                    Some(ended) => if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|ended| ended) {
                        self.stop();
                        deadline = deadline.min(Instant::now() + INTERRUPTED_MAX);
                        failed.get_or_insert(error);
                    },
                },
                _ = signals.next() => {
                    if interrupted {
                        break;
                    }
                    interrupted = true;
                    self.stop();
                    deadline = deadline.min(Instant::now() + INTERRUPTED_MAX);
                }
                () = tokio::time::sleep_until(self.counted_from.into()), if cpu_before.is_none() => cpu_before = Some(cpu()),
                _ = tick.tick() => {
                    let now = Instant::now();
                    let mut part = Tally::new()?;
                    self.meter.take(&mut part);
                    if is_told {
                        say(self.line(now, &part, now.saturating_duration_since(ticked)));
                    }
                    ticked = ticked.max(now);
                    tally.add(&part);
                }
                () = tokio::time::sleep_until(deadline.into()) => break,
            }
        }
        lanes.abort_all();
        let unsent = self.unsent();
        self.meter.take(&mut tally);
        let end = self.ended(tally.last());
        self.stop();
        let seconds = end.saturating_duration_since(self.counted_from).as_secs_f64();
        let cpu_seconds = cpu() - cpu_before.unwrap_or_else(cpu);
        Ok(Outcome { tally, seconds, unsent, cpu_seconds, interrupted, failed })
    }

    /// Until when what was done is counted by: a load that stands still until the end has had all of the time.
    fn ended(&self, last: Option<Instant>) -> Instant {
        let over = self.end.min(self.stopped.get().copied().unwrap_or(self.end)).min(Instant::now());
        last.map_or(over, |last| last.max(over))
    }

    /// How the last while went.
    fn line(&self, now: Instant, part: &Tally, took: Duration) -> String {
        let second = now.saturating_duration_since(self.start).as_secs_f64().round();
        // The first moments after it say nothing either.
        if now < self.counted_from + PROGRESS_PAUSE / 2 {
            return format!("{second:>4} s  warming up");
        }
        let took = took.as_secs_f64().max(1e-3);
        let (records, megabytes) = (part.records as f64 / took, part.bytes as f64 / 1e6 / took);
        let errors = if part.errors > 0 { format!("  errors {}", part.errors) } else { String::new() };
        format!(
            "{second:>4} s  {records:.0} records/s  {megabytes:.1} MB/s  p50 {:.3} ms  p99 {:.3} ms  max {:.3} ms{errors}",
            part.at_ms(0.5),
            part.at_ms(0.99),
            part.max_ms(),
        )
    }
}

/// Processor time that this process has used, seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_lane_that_fails_ends_the_others_and_what_was_counted_is_told() {
        let run = Arc::new(Run::new(Duration::ZERO, Duration::from_secs(3600)).unwrap());
        let mut lanes = JoinSet::new();
        let other = Arc::clone(&run);
        lanes.spawn(async move {
            other.meter.of(0).done(5, 50, Duration::from_millis(2), Instant::now());
            while !other.is_over(Instant::now()) {
                tokio::task::yield_now().await;
            }
            Ok(())
        });
        lanes.spawn(async { anyhow::bail!("the disk is gone") });
        let mut signals = Signals::new().unwrap();
        let outcome = run.watch(lanes, &mut signals, false).await.unwrap();
        assert_eq!((outcome.tally.records, outcome.interrupted), (5, false));
        assert_eq!(outcome.failed.unwrap().to_string(), "the disk is gone");
    }

    #[test]
    fn what_stands_still_has_had_the_time_all_the_same() {
        let run = Run::new(Duration::ZERO, Duration::from_millis(20)).unwrap();
        while Instant::now() < run.end {
            std::thread::yield_now();
        }
        assert_eq!(run.ended(Some(run.start)), run.end, "nothing came after the first moment");
        assert_eq!(run.ended(None), run.end);
        let late = run.end + Duration::from_secs(3);
        assert_eq!(run.ended(Some(late)), late, "what was under way is waited for");
        let stopped = Run::new(Duration::ZERO, Duration::from_secs(3600)).unwrap();
        stopped.stop();
        assert!(stopped.ended(None) < stopped.end);
    }

    #[test]
    fn a_line_of_progress_has_units() {
        let run = Run::new(Duration::from_secs(1), Duration::from_secs(10)).unwrap();
        let mut part = Tally::new().unwrap();
        assert_eq!(run.line(run.start, &part, Duration::ZERO), "   0 s  warming up");
        part.done(100, 2_000_000, Duration::from_millis(2), run.start);
        part.failed(3, String::new);
        let line = run.line(run.start + Duration::from_secs(3), &part, Duration::from_secs(2));
        assert_eq!(line, "   3 s  50 records/s  1.0 MB/s  p50 2.000 ms  p99 2.000 ms  max 2.000 ms  errors 3");
    }
}
