//! What a guest can reach: the log, its metrics and its sink. Nothing else: no clock, randomness, network or files.

use std::{sync::Arc, task::Poll};

use millstream_model::PartitionId;
use wasmtime::component::HasData;

use crate::{
    LogLevel, Phase,
    frame::{FrameError, HEADER_BYTES, OutputError},
    limiter::{Grown, Limiter},
    limits::{
        FUEL_PER_HOST_CALL, FUEL_YIELD, LOG_LINE_BYTES_MAX, LOG_LINES_PER_CALL, OUTPUT_FRAME_BYTES_MIN,
        OUTPUT_FRAMES_MAX,
    },
    logs::LogRing,
    text,
    worlds::{log, metrics, sink, types},
};

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
    /// Of the records at work, if they have one.
    partition: Option<PartitionId>,
    /// What the guest logged last as an error: a trap alone says nothing.
    last_error: Option<String>,
    /// Fuel that host calls may still cost.
    work_left: u64,
    /// What host calls have cost since the other tasks of the thread had their turn.
    work_in_turn: u64,
    output_bytes_left: usize,
    output_bytes_max: usize,
    log_lines_left: u32,
    emitted: Vec<(u32, Vec<u8>)>,
    /// What the frames in `emitted` count for.
    emitted_bytes: usize,
    /// One sum for each declared metric: however often a guest reports, it takes no more room.
    sums: Vec<f64>,
    has_reported: bool,
}

impl HostState {
    pub(crate) fn new(limiter: Limiter, metrics_declared: usize, logs: Arc<LogRing>) -> Self {
        Self {
            limiter,
            logs,
            phase: Phase::Start,
            partition: None,
            last_error: None,
            work_left: 0,
            work_in_turn: 0,
            output_bytes_left: 0,
            output_bytes_max: 0,
            log_lines_left: 0,
            emitted: Vec::new(),
            emitted_bytes: 0,
            sums: vec![0.0; metrics_declared],
            has_reported: false,
        }
    }

    /// Starts a phase with a budget of its own; what the last one left behind is gone.
    pub(crate) fn begin(&mut self, phase: Phase, fuel: u64, output_bytes: usize) {
        self.phase = phase;
        self.partition = None;
        self.last_error = None;
        self.work_left = fuel;
        self.output_bytes_left = output_bytes;
        self.output_bytes_max = output_bytes;
        self.log_lines_left = LOG_LINES_PER_CALL;
        drop(self.take_emitted());
        self.sums.fill(0.0);
        self.has_reported = false;
    }

    /// Says which partition the records of this call are from.
    pub(crate) fn set_partition(&mut self, partition: PartitionId) {
        self.partition = (partition.0 >= 0).then_some(partition);
    }

    /// What the guest logged last as an error since the phase began.
    pub(crate) fn last_error(&mut self) -> Option<String> {
        self.last_error.take()
    }

    /// What was emitted since the phase began.
    pub(crate) fn take_emitted(&mut self) -> Vec<(u32, Vec<u8>)> {
        self.limiter.share.give_back(std::mem::take(&mut self.emitted_bytes));
        std::mem::take(&mut self.emitted)
    }

    /// What was added to each declared metric since the phase began; empty if nothing was reported.
    pub(crate) fn reported(&self) -> Vec<f64> {
        if self.has_reported { self.sums.clone() } else { Vec::new() }
    }

    /// Charges a host call that was passed `bytes`. A guest pays little for a call that costs the host much, so these
    /// are counted apart from the engine's fuel, against as large a budget; and as the engine does for its fuel, the
    /// thread's other tasks get their turn in between.
    async fn charge(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let cost = FUEL_PER_HOST_CALL.saturating_add(bytes as u64);
        let Some(left) = self.work_left.checked_sub(cost) else {
            return Err(wasmtime::Error::new(HostTrap::OutOfFuel));
        };
        self.work_left = left;
        self.work_in_turn = self.work_in_turn.saturating_add(cost);
        if self.work_in_turn >= FUEL_YIELD {
            self.work_in_turn = 0;
            yield_now().await;
        }
        Ok(())
    }
}

/// Lets the other tasks of the thread have their turn. Works on any executor.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn refuse<T>(error: OutputError) -> wasmtime::Result<T> {
    Err(wasmtime::Error::new(HostTrap::Output(error)))
}

impl types::Host for HostState {}

impl log::Host for HostState {
    async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.charge(message.len()).await?;
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        // Remembered even if it is one line too many for the log: it may be why the guest is about to trap.
        if level == LogLevel::Error {
            self.last_error = Some(text::clean(&message, LOG_LINE_BYTES_MAX));
        }
        let Some(left) = self.log_lines_left.checked_sub(1) else {
            self.logs.drop_line();
            return Ok(());
        };
        self.log_lines_left = left;
        self.logs.write(level, self.partition, text::clean(&message, LOG_LINE_BYTES_MAX));
        Ok(())
    }
}

impl metrics::Host for HostState {
    async fn report(&mut self, values: Vec<(u32, f64)>) -> wasmtime::Result<()> {
        self.charge(values.len() * size_of::<(u32, f64)>()).await?;
        for (id, value) in values {
            let declared = self.sums.len() as u32;
            let Some(sum) = self.sums.get_mut(id as usize) else {
                return refuse(OutputError::Metric { id, declared });
            };
            if value.is_finite() {
                *sum = (*sum + value).clamp(f64::MIN, f64::MAX);
                self.has_reported = true;
            }
        }
        Ok(())
    }
}

impl sink::Host for HostState {
    async fn emit(&mut self, output: u32, frame: Vec<u8>) -> wasmtime::Result<()> {
        let bytes = frame.len().max(OUTPUT_FRAME_BYTES_MIN);
        self.charge(bytes).await?;
        if self.phase != Phase::Call {
            return refuse(OutputError::Phase { phase: self.phase });
        }
        if frame.len() < HEADER_BYTES {
            let error = FrameError::Truncated { bytes: frame.len() };
            return refuse(OutputError::Frame { output, error });
        }
        if self.emitted.len() == OUTPUT_FRAMES_MAX {
            return refuse(OutputError::TooMuch { what: "frames", max: OUTPUT_FRAMES_MAX as u64 });
        }
        let Some(left) = self.output_bytes_left.checked_sub(bytes) else {
            return refuse(OutputError::TooMuch { what: "bytes", max: self.output_bytes_max as u64 });
        };
        // The host keeps the frame until the call ends: it is the guest's memory as much as its own is.
        if !self.limiter.share.grow(bytes) {
            return Err(wasmtime::Error::new(Grown::Budget { max: self.limiter.share.max() }));
        }
        self.output_bytes_left = left;
        self.emitted_bytes += bytes;
        self.emitted.push((output, frame));
        Ok(())
    }
}

/// Tells the engine that a store's data is the host itself.
pub(crate) struct Host;

impl HasData for Host {
    type Data<'a> = &'a mut HostState;
}
