//! `bench e2e`: the way of records from a producer to a consumer that waits for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use millstream_client::{Consumer, ConsumerOptions, StartFrom};

use super::{
    Shared,
    load::{Mark, STAMP_BYTES, Sending, close},
    measured,
    meter::Tally,
    place::Place,
    prepared,
    report::{Latency, Report},
    run::{Outcome, Run},
};
use crate::{commands::connect::connect, flags::Common, signals::Signals};

/// How long a record that was acknowledged may be on its way to the consumer.
const ARRIVAL_MAX: Duration = Duration::from_secs(5);
/// How often the consumer looks whether it is done.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Records to send and to receive.
#[derive(Debug, Args)]
#[command(after_help = "\
Latency is from when a batch is sent (closed loop) or due (--rate, open loop): `acknowledged` until the last of its records is acknowledged, \
`received` until a consumer has each of them. MB are millions of bytes of keys and values. The exit code is 1 if records were not \
acknowledged, or not received. Ctrl-C ends it early and tells what was measured.

Values begin with 16 bytes by which the consumer knows its own records, so that a topic may be used by others meanwhile.

Examples:
  millstream bench e2e --rate 1000
  millstream bench e2e --producers 4 --batch 10 --durability replicated --output json")]
pub(crate) struct E2e {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    sending: Sending,
}

impl E2e {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        measured(common, &self.shared, async |_, place, signals| self.measure(common, place, signals).await).await
    }

    async fn measure(&self, common: &Common, place: &Place, signals: &mut Signals) -> anyhow::Result<Report> {
        // It knows where it begins before anything is sent.
        let (reading, consumer) = prepared(signals, async {
            let reading = connect(common).await?;
            let options = ConsumerOptions { start: StartFrom::End, ..ConsumerOptions::default() };
            let consumer = reading.consumer(&place.name, options).await;
            Ok((reading, consumer.with_context(|| format!("cannot read {}", place.name))?))
        })
        .await?;
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let stamp = (nanos as u64 ^ u64::from(std::process::id()).rotate_left(40)).to_be_bytes();

        let run = || Run::new(self.shared.warmup(), self.shared.seconds()).map(Arc::new);
        let size = self.shared.size.max(STAMP_BYTES as u32);
        let starting = self.sending.start(common, place, size, run, Some(stamp));
        let (run, lanes, clients) = prepared(signals, starting).await?;
        let all_sent = Arc::new(Sent::default());
        let receiving = tokio::spawn(receive(consumer, Arc::clone(&run), stamp, Arc::clone(&all_sent)));
        let outcome = run.watch(lanes, signals, self.shared.progress).await?;
        all_sent.are(outcome.tally.records);
        let received = tokio::select! {
            received = receiving => received??,
            _ = signals.next() => anyhow::bail!("stopped before all that was sent was received"),
        };
        close(clients).await;
        close(vec![reading]).await;
        Ok(self.report(place, outcome, &received))
    }

    fn report(&self, place: &Place, outcome: Outcome, received: &Tally) -> Report {
        let latency = vec![("acknowledged", Latency::of(&outcome.tally)), ("received", Latency::of(received))];
        let lost = outcome.tally.records.saturating_sub(received.records);
        let size = self.shared.size.max(STAMP_BYTES as u32);
        Report::new("e2e", self.sending.kind(), place, outcome, latency)
            .told(self.sending.told(size))
            .not_received(lost)
    }
}

/// How many records there are to be received, once that is known.
#[derive(Debug, Default)]
struct Sent {
    records: std::sync::atomic::AtomicU64,
    is_known: AtomicBool,
}

impl Sent {
    fn are(&self, records: u64) {
        self.records.store(records, Ordering::Release);
        self.is_known.store(true, Ordering::Release);
    }

    fn known(&self) -> Option<u64> {
        self.is_known.load(Ordering::Acquire).then(|| self.records.load(Ordering::Acquire))
    }
}

/// Receives until all that was sent is here, or it takes too long.
async fn receive(mut consumer: Consumer, run: Arc<Run>, stamp: [u8; 8], sent: Arc<Sent>) -> anyhow::Result<Tally> {
    let mut tally = Tally::new()?;
    let mut deadline = None;
    loop {
        if let Some(records) = sent.known() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + ARRIVAL_MAX);
            if tally.records >= records || Instant::now() >= deadline {
                return Ok(tally);
            }
        }
        let Ok(next) = tokio::time::timeout(LOOK_PAUSE, consumer.next()).await else { continue };
        let mut record = next?;
        while let Some(found) = record {
            let mark = found.value.as_ref().and_then(|value| Mark::of(value, stamp));
            if let Some(mark) = mark.filter(|mark| mark.is_counted) {
                let now = Instant::now();
                let bytes = [&found.key, &found.value].into_iter().flatten().map(|part| part.len() as u64).sum();
                tally.done(1, bytes, now.saturating_duration_since(run.start + mark.since), now);
            }
            record = consumer.next_ready();
        }
    }
}
