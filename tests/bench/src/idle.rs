//! What partitions cost that nobody uses: memory, processor time, and the time that starts and stops take with them.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::broker::Broker;

use crate::meter::{cpu_of, resident_kb};

/// How long the idle broker's processor time is watched.
const WATCH: Duration = Duration::from_secs(5);
/// Partitions of one topic: the most that one is made with here.
const TOPIC_PARTITIONS: u32 = 1000;

/// A broker's start: how long it took, and what the process holds then.
struct Started {
    took: Duration,
    resident_kb: u64,
}

/// Measures a broker without partitions beside itself with `partitions` of them; gives a table.
pub(crate) fn run(partitions: u32) -> anyhow::Result<String> {
    let mut broker = Broker::start()?;
    broker.stop()?;
    let empty = start(&mut broker)?;
    let made = Instant::now();
    for (topic, first) in (0..partitions).step_by(TOPIC_PARTITIONS as usize).enumerate() {
        let count = TOPIC_PARTITIONS.min(partitions - first).to_string();
        broker.cli(&["topic", "create", &format!("idle-{topic}"), "--partitions", &count])?.ok()?;
    }
    let made = made.elapsed();
    let stopped_new = stop(&mut broker)?;
    let clean = start(&mut broker)?;
    let before = cpu_of(broker.process_id())?.total();
    thread::sleep(WATCH);
    let busy = cpu_of(broker.process_id())?.total() - before;
    broker.kill()?;
    let killed = start(&mut broker)?;
    let stopped = stop(&mut broker)?;
    let each = clean.resident_kb.saturating_sub(empty.resident_kb) as f64 / f64::from(partitions);
    let mut text = String::new();
    let mut line = |what: &str, value: String| writeln!(text, "{what:<40} {value:>14}");
    let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1000.0);
    line("start, no partitions", ms(empty.took))?;
    line("resident, no partitions", format!("{:.1} MB", empty.resident_kb as f64 / 1000.0))?;
    line(&format!("making {partitions} partitions"), ms(made))?;
    line("stop, all of them new", ms(stopped_new))?;
    line("start after an orderly stop", ms(clean.took))?;
    line("resident, each partition", format!("{each:.2} kB"))?;
    line("processor time, idle", format!("{:.3} s/s", busy / WATCH.as_secs_f64()))?;
    line("start after kill -9", ms(killed.took))?;
    line("stop after that", ms(stopped))?;
    Ok(text)
}

fn start(broker: &mut Broker) -> anyhow::Result<Started> {
    let begun = Instant::now();
    broker.restart()?;
    let took = begun.elapsed();
    Ok(Started { took, resident_kb: resident_kb(broker.process_id())? })
}

fn stop(broker: &mut Broker) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    broker.stop()?;
    Ok(begun.elapsed())
}
