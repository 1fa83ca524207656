//! What guests log: the last lines of each pool, and the broker's own log, which they are told to at a bounded pace.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use millstream_env::{Clock, Env, Monotonic};
use millstream_model::PartitionId;
use parking_lot::Mutex;
use tracing::Level;

use crate::limits::{LOG_LINES_KEPT, LOG_LINES_PER_SECOND};

/// What the broker's log files the lines of guests under, for filters such as `RUST_LOG=module=debug`.
const TARGET: &str = "module";

/// How important a guest finds a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// A line that a guest wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written, by the broker's wall clock: milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// How important the guest finds it.
    pub level: LogLevel,
    /// At most 1 KiB; control characters replaced, so that it is one line and acts on no terminal.
    pub message: String,
}

/// The last lines of a pool's guests: at most [`LOG_LINES_KEPT`], shared by its instances.
pub(crate) struct LogRing {
    module: String,
    used_by: String,
    clock: Arc<dyn Clock>,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<LogLine>,
    dropped: u64,
    pace: Pace,
}

/// At most [`LOG_LINES_PER_SECOND`] of the lines that the broker's log would take are told to it; the others are counted.
#[derive(Default)]
struct Pace {
    since: Monotonic,
    told: u32,
    left_out: u64,
}

impl Pace {
    /// Whether a line may be told now, and how many were left out since the last one that was.
    fn turn(&mut self, now: Monotonic) -> Option<u64> {
        if now.0.saturating_sub(self.since.0) >= Duration::from_secs(1) {
            *self = Self { since: now, told: 0, left_out: self.left_out };
        }
        if self.told == LOG_LINES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl LogRing {
    /// `module`: its name and version; `used_by`: the deployment.
    pub(crate) fn new(module: &str, used_by: &str, env: &Env) -> Self {
        let clock = Arc::clone(&env.clock);
        Self { module: module.to_owned(), used_by: used_by.to_owned(), clock, lines: Mutex::default() }
    }

    /// Keeps a line and tells it to the broker's log. `message`: made harmless already; `partition`: of the records that the
    /// guest works on, if they have one.
    pub(crate) fn write(&self, level: LogLevel, partition: Option<PartitionId>, message: String) {
        self.tell(level, partition, &message);
        let line = LogLine { at_ms: self.clock.wall_ms(), level, message };
        let mut lines = self.lines.lock();
        if lines.kept.len() == LOG_LINES_KEPT {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
    }

    fn tell(&self, level: LogLevel, partition: Option<PartitionId>, message: &str) {
        let turn = || self.lines.lock().pace.turn(self.clock.now());
        let (module, used_by, partition) = (&*self.module, &*self.used_by, partition.map(|partition| partition.0));
        macro_rules! tell {
            ($level:expr) => {
                // A line that the log does not take anyway counts for nothing.
                if tracing::enabled!(target: TARGET, $level)
                    && let Some(left_out) = turn()
                {
                    let left_out = (left_out > 0).then_some(left_out);
                    tracing::event!(target: TARGET, $level, module, used_by, partition, left_out, "{message}");
                }
            };
        }
        match level {
            LogLevel::Trace => tell!(Level::TRACE),
            LogLevel::Debug => tell!(Level::DEBUG),
            LogLevel::Info => tell!(Level::INFO),
            LogLevel::Warn => tell!(Level::WARN),
            LogLevel::Error => tell!(Level::ERROR),
        }
    }

    /// Counts a line that is neither kept nor told.
    pub(crate) fn drop_line(&self) {
        let mut lines = self.lines.lock();
        lines.dropped += 1;
        lines.pace.left_out += 1;
    }

    /// The lines that are kept, oldest first, and how many were dropped because a call wrote too many.
    pub(crate) fn snapshot(&self) -> (Vec<LogLine>, u64) {
        let lines = self.lines.lock();
        (lines.kept.iter().cloned().collect(), lines.dropped)
    }
}

impl Drop for LogRing {
    fn drop(&mut self) {
        let left_out = self.lines.lock().pace.left_out;
        if left_out > 0 {
            let (module, used_by) = (&*self.module, &*self.used_by);
            tracing::info!(target: TARGET, module, used_by, left_out, "the module logged more than is told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_and_said_with_the_next_line() {
        let mut pace = Pace::default();
        let at = |ms| Monotonic(Duration::from_millis(ms));
        for _ in 0..LOG_LINES_PER_SECOND {
            assert_eq!(pace.turn(at(10)), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(pace.turn(at(999)), None);
        }
        assert_eq!(pace.turn(at(1010)), Some(1000));
        assert_eq!(pace.turn(at(1010)), Some(0));
    }
}
