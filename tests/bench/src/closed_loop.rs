//! The way everything is measured: lanes that each do one step after the other, all timed, until the time is over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::meter::{Meter, Used};

/// Slowest step that is told apart from slower ones, nanoseconds.
const SLOWEST_NS: u64 = 60_000_000_000;

/// One of the things that go on side by side: a producer, a reader, a caller.
pub(crate) trait Lane: Send + 'static {
    /// One step, such as a batch sent and acknowledged.
    fn step(&mut self) -> impl Future<Output = anyhow::Result<Moved>> + Send;
}

/// What a step has moved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

/// What was measured once.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) steps: u64,
    pub(crate) moved: Moved,
    /// Of steps, nanoseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) used: Used,
    /// What the other side has to say, for people.
    pub(crate) note: Option<String>,
}

/// Runs all lanes for so long, after one step of each that does not count: connections, files and caches are warm then.
///
/// Steps under way when the time is over are waited for and count.
pub(crate) async fn measure<L: Lane>(lanes: Vec<L>, time: Duration, server: Option<u32>) -> anyhow::Result<Sample> {
    let mut warm = JoinSet::new();
    for mut lane in lanes {
        warm.spawn(async move { lane.step().await.map(|_| lane) });
    }
    let mut lanes = Vec::new();
    while let Some(lane) = warm.join_next().await {
        lanes.push(lane??);
    }
    let mut sample =
        Sample { steps: 0, moved: Moved::default(), latency: histogram()?, used: Used::default(), note: None };
    let meter = Meter::start(server)?;
    let end = Instant::now() + time;
    let mut running = JoinSet::new();
    for lane in lanes {
        running.spawn(run(lane, end));
    }
    let mut ended = Vec::new();
    while let Some(lane) = running.join_next().await {
        let (lane, latency, moved) = lane??;
        sample.steps += latency.len();
        sample.latency.add(latency)?;
        sample.moved.bytes += moved.bytes;
        sample.moved.records += moved.records;
        ended.push(lane);
    }
    sample.used = meter.stop()?;
    // Only now: ending a lane may take a while.
    drop(ended);
    Ok(sample)
}

async fn run<L: Lane>(mut lane: L, end: Instant) -> anyhow::Result<(L, Histogram<u64>, Moved)> {
    let mut latency = histogram()?;
    let mut sum = Moved::default();
    let mut start = Instant::now();
    while start < end {
        let moved = lane.step().await?;
        let now = Instant::now();
        let took = u64::try_from((now - start).as_nanos()).unwrap_or(u64::MAX);
        latency.record(took.clamp(1, SLOWEST_NS))?;
        sum.bytes += moved.bytes;
        sum.records += moved.records;
        start = now;
    }
    Ok((lane, latency, sum))
}

/// Somebody who reads while others are measured, as fast as may be, on a thread of its own.
pub(crate) struct Reader {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<(u64, Duration)>>,
}

impl Reader {
    /// Starts one; `connect` runs on its thread.
    pub(crate) fn start<L: Lane>(
        connect: impl Future<Output = anyhow::Result<L>> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let until = ended.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let read = async move {
            let mut lane = connect.await?;
            let (mut bytes, begun) = (0, Instant::now());
            while !until.load(Ordering::Relaxed) {
                bytes += lane.step().await?.bytes;
            }
            anyhow::Ok((bytes, begun.elapsed()))
        };
        Ok(Self { ended, thread: std::thread::spawn(move || runtime.block_on(read)) })
    }

    /// What it has read.
    pub(crate) fn stop(self) -> anyhow::Result<String> {
        self.ended.store(true, Ordering::Relaxed);
        let read = self.thread.join().map_err(|_| anyhow::anyhow!("the reader has panicked"))?;
        let (bytes, took) = read?;
        Ok(format!("the reader beside took {:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64()))
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, SLOWEST_NS, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u64);

    impl Lane for Counting {
        async fn step(&mut self) -> anyhow::Result<Moved> {
            self.0 += 1;
            anyhow::ensure!(self.0 < 50, "the fiftieth step fails");
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Moved { bytes: 10, records: 2 })
        }
    }

    #[tokio::test]
    async fn steps_add_up_and_a_failing_lane_fails_all() {
        let sample = measure(vec![Counting(0), Counting(0)], Duration::from_millis(10), None).await.unwrap();
        assert!(sample.steps >= 2, "{}", sample.steps);
        assert_eq!((sample.moved.bytes, sample.moved.records), (sample.steps * 10, sample.steps * 2));
        assert!(sample.latency.min() >= 1_000_000);
        assert!(measure(vec![Counting(0)], Duration::from_secs(60), None).await.is_err());
    }
}
