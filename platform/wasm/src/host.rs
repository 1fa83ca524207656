//! What a guest can reach: the log, its metrics and its sink. Nothing else: no clock, randomness, network or files.

use std::{collections::VecDeque, sync::Arc};

use millstream_env::{Clock, Env};
use parking_lot::Mutex;
use wasmtime::component::HasData;

use crate::{
    Phase,
    frame::OutputError,
    limits::{FUEL_PER_HOST_CALL, LOG_LINE_BYTES_MAX, LOG_LINES_KEPT, LOG_LINES_PER_CALL, Limiter},
    text,
    worlds::{log, metrics, sink, types},
};

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
    name: String,
    clock: Arc<dyn Clock>,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<LogLine>,
    dropped: u64,
}

impl LogRing {
    pub(crate) fn new(name: &str, env: &Env) -> Self {
        Self { name: name.to_owned(), clock: Arc::clone(&env.clock), lines: Mutex::default() }
    }

    fn write(&self, level: LogLevel, message: String) {
        tracing::debug!(module = %self.name, ?level, "guest: {message}");
        let line = LogLine { at_ms: self.clock.wall_ms(), level, message };
        let mut lines = self.lines.lock();
        if lines.kept.len() == LOG_LINES_KEPT {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
    }

    fn drop_line(&self) {
        self.lines.lock().dropped += 1;
    }

    /// The lines that are kept, oldest first, and how many were dropped because a call wrote too many.
    pub(crate) fn snapshot(&self) -> (Vec<LogLine>, u64) {
        let lines = self.lines.lock();
        (lines.kept.iter().cloned().collect(), lines.dropped)
    }
}

/// A trap that the host raised. Travels through the engine as the cause.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostTrap {
    #[error("the budget is used up by calls of the host")]
    OutOfFuel,
    #[error(transparent)]
    Output(OutputError),
}

/// What one instance may do in the current phase and what it has done.
pub(crate) struct HostState {
    pub(crate) limiter: Limiter,
    logs: Arc<LogRing>,
    phase: Phase,
    /// Fuel that host calls may still cost.
    work_left: u64,
    output_bytes_left: usize,
    output_bytes_max: usize,
    log_lines_left: u32,
    metrics_declared: u32,
    emitted: Vec<(u32, Vec<u8>)>,
    reported: Vec<(u32, f64)>,
}

impl HostState {
    pub(crate) fn new(memory_bytes: usize, metrics_declared: u32, logs: Arc<LogRing>) -> Self {
        Self {
            limiter: Limiter::new(memory_bytes),
            logs,
            phase: Phase::Start,
            work_left: 0,
            output_bytes_left: 0,
            output_bytes_max: 0,
            log_lines_left: 0,
            metrics_declared,
            emitted: Vec::new(),
            reported: Vec::new(),
        }
    }

    /// Starts a phase with a budget of its own; what the last one left behind is gone.
    pub(crate) fn begin(&mut self, phase: Phase, fuel: u64, output_bytes: usize) {
        self.phase = phase;
        self.work_left = fuel;
        self.output_bytes_left = output_bytes;
        self.output_bytes_max = output_bytes;
        self.log_lines_left = LOG_LINES_PER_CALL;
        self.emitted.clear();
        self.reported.clear();
    }

    /// What was emitted since the phase began.
    pub(crate) fn take_emitted(&mut self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut self.emitted)
    }

    /// The metrics that were reported since the phase began; their ids are of declared metrics.
    pub(crate) fn take_reported(&mut self) -> Vec<(u32, f64)> {
        std::mem::take(&mut self.reported)
    }

    /// Charges a host call that was passed `bytes`. A guest pays little for a call that costs the host much, so these
    /// are counted apart from the engine's fuel, against as large a budget.
    fn charge(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let cost = FUEL_PER_HOST_CALL.saturating_add(bytes as u64);
        match self.work_left.checked_sub(cost) {
            Some(left) => {
                self.work_left = left;
                Ok(())
            }
            None => Err(wasmtime::Error::new(HostTrap::OutOfFuel)),
        }
    }
}

fn refuse<T>(error: OutputError) -> wasmtime::Result<T> {
    Err(wasmtime::Error::new(HostTrap::Output(error)))
}

impl types::Host for HostState {}

impl log::Host for HostState {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.charge(message.len())?;
        let Some(left) = self.log_lines_left.checked_sub(1) else {
            self.logs.drop_line();
            return Ok(());
        };
        self.log_lines_left = left;
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.logs.write(level, text::clean(&message, LOG_LINE_BYTES_MAX));
        Ok(())
    }
}

impl metrics::Host for HostState {
    fn report(&mut self, values: Vec<(u32, f64)>) -> wasmtime::Result<()> {
        self.charge(values.len() * size_of::<(u32, f64)>())?;
        for (id, value) in values {
            if id >= self.metrics_declared {
                return refuse(OutputError::Metric { id, declared: self.metrics_declared });
            }
            if value.is_finite() {
                self.reported.push((id, value));
            }
        }
        Ok(())
    }
}

impl sink::Host for HostState {
    fn emit(&mut self, output: u32, frame: Vec<u8>) -> wasmtime::Result<()> {
        self.charge(frame.len())?;
        if self.phase != Phase::Call {
            return refuse(OutputError::Phase { phase: self.phase });
        }
        let Some(left) = self.output_bytes_left.checked_sub(frame.len()) else {
            return refuse(OutputError::TooMuch { what: "bytes", max: self.output_bytes_max as u64 });
        };
        self.output_bytes_left = left;
        self.emitted.push((output, frame));
        Ok(())
    }
}

/// Tells the engine that a store's data is the host itself.
pub(crate) struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut HostState;
}
