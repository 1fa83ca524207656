//! When the records of an open load are due: by the clock, whatever became of those before.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::run::Run;

/// Units that are due and wait for their producer. More of them wait for room, and lose no time by it: they are due when they are due.
const WAITING_MAX: usize = 4096;
/// Longest sleep: a run may be stopped meanwhile.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The clock of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    start: Instant,
    /// Units a second.
    rate: f64,
}

impl Pace {
    /// `rate`: units a second, above 0.
    pub(super) fn new(start: Instant, rate: f64) -> Self {
        Self { start, rate }
    }

    /// When the unit of this number is due, counted from 0. It depends on nothing else.
    pub(super) fn due(&self, unit: u64) -> Instant {
        self.start + Duration::from_secs_f64(unit as f64 / self.rate)
    }

    /// How many are due before `end`.
    pub(super) fn count(&self, end: Instant) -> u64 {
        let count = (end.saturating_duration_since(self.start).as_secs_f64() * self.rate).ceil();
        count.max(0.0) as u64
    }

    /// Tells each of `lanes` lanes in turn when its next unit is due, as soon as it is. It keeps time better than the runtime's timer,
    /// which counts in milliseconds.
    pub(super) fn start(self, run: &Arc<Run>, lanes: usize) -> Vec<mpsc::Receiver<Instant>> {
        let (senders, receivers): (Vec<_>, _) = (0..lanes).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        let run = Arc::clone(run);
        thread::spawn(move || {
            for unit in 0..self.count(run.end) {
                let due = self.due(unit);
                let mut left = due.saturating_duration_since(Instant::now());
                while !left.is_zero() && !run.is_stopped() {
                    thread::sleep(left.min(SLEEP_MAX));
                    left = due.saturating_duration_since(Instant::now());
                }
                if run.is_stopped() || senders[(unit % lanes as u64) as usize].blocking_send(due).is_err() {
                    break;
                }
            }
        });
        receivers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_due_by_its_number_alone() {
        let start = Instant::now();
        let pace = Pace::new(start, 250.0);
        assert_eq!(pace.due(0), start);
        assert_eq!(pace.due(1) - start, Duration::from_millis(4));
        assert_eq!(pace.due(250 * 3600) - start, Duration::from_secs(3600), "no error adds up");
        assert_eq!(pace.count(start + Duration::from_secs(2)), 500);
        assert_eq!(pace.count(start + Duration::from_millis(1)), 1);
    }

    /// Nobody takes the units for a while: they come all the same, each with the time when it was due.
    #[test]
    fn whoever_takes_late_is_told_the_same_times() {
        let run = Arc::new(Run::new(Duration::ZERO, Duration::from_millis(200)).unwrap());
        let pace = Pace::new(run.start, 1000.0);
        let mut lanes = pace.start(&run, 2);
        thread::sleep(Duration::from_millis(300));
        for (lane, receiver) in lanes.iter_mut().enumerate() {
            let due: Vec<_> = std::iter::from_fn(|| receiver.blocking_recv()).collect();
            let expected: Vec<_> = (0..100).map(|unit| pace.due(2 * unit + lane as u64)).collect();
            assert_eq!(due, expected);
        }
    }
}
