//! `bench produce`: how long acknowledgements take, and how many there are.

use std::sync::Arc;

use clap::Args;

use super::{
    Shared,
    load::{Sending, close},
    measured,
    place::Place,
    prepared,
    report::{Latency, Report},
    run::Run,
};
use crate::{flags::Common, signals::Signals};

/// A load to produce.
#[derive(Debug, Args)]
#[command(after_help = "\
Latency is from when a batch is sent (closed loop) or due (--rate, open loop) until the last of its records is acknowledged. MB are millions of \
bytes of keys and values. The exit code is 1 if records were not acknowledged. Ctrl-C ends it early and tells what was measured.

Examples:
  millstream bench produce --producers 8
  millstream bench produce --rate 50000 --size 200 --seconds 60
  millstream bench produce --topic flights --keys 1000 --rate 2000 --output json")]
pub(crate) struct Produce {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    sending: Sending,
}

impl Produce {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        measured(common, &self.shared, async |_, place, signals| self.measure(common, place, signals).await).await
    }

    async fn measure(&self, common: &Common, place: &Place, signals: &mut Signals) -> anyhow::Result<Report> {
        let run = || Run::new(self.shared.warmup(), self.shared.seconds()).map(Arc::new);
        let starting = self.sending.start(common, place, self.shared.size, run, None);
        let (run, lanes, clients) = prepared(signals, starting).await?;
        let outcome = run.watch(lanes, signals, self.shared.progress).await?;
        close(clients).await;
        let latency = vec![("acknowledged", Latency::of(&outcome.tally))];
        Ok(Report::new("produce", self.sending.kind(), place, outcome, latency)
            .told(self.sending.told(self.shared.size)))
    }
}
