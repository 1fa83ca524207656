//! What a run has to tell: one page for people, one line of JSON for programs. Every figure has its unit, in words or in its name.

use std::collections::BTreeMap;

use anyhow::bail;
use serde::Serialize;

use super::{meter::Tally, place::Place, run::Outcome};
use crate::{
    flags::Form,
    output::{Details, Table, say},
};

/// How long something took, milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    samples: u64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p99_9_ms: f64,
    max_ms: f64,
    mean_ms: f64,
}

impl Latency {
    pub(super) fn of(tally: &Tally) -> Self {
        Self {
            samples: tally.samples(),
            p50_ms: tally.at_ms(0.5),
            p90_ms: tally.at_ms(0.9),
            p99_ms: tally.at_ms(0.99),
            p99_9_ms: tally.at_ms(0.999),
            max_ms: tally.max_ms(),
            mean_ms: tally.mean_ms(),
        }
    }
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: &'static str,
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    kind: &'static str,
    topic: String,
    seconds: f64,
    records: u64,
    bytes: u64,
    records_per_second: f64,
    megabytes_per_second: f64,
    /// By what was waited for.
    latency: BTreeMap<&'static str, Latency>,
    /// Records that were refused or given up.
    errors: u64,
    first_error: Option<String>,
    /// Records that were sent and not answered before the end.
    unanswered: u64,
    /// Records that were due and not sent.
    unsent: u64,
    /// Records that were acknowledged and did not arrive.
    not_received: u64,
    /// Of this process.
    cpu_seconds: f64,
    interrupted: bool,
    #[serde(skip)]
    words: String,
    #[serde(skip)]
    place: String,
    #[serde(skip)]
    failed: Option<anyhow::Error>,
}

/// To the thousandth.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

impl Report {
    pub(super) fn new(
        bench: &'static str,
        kind: &'static str,
        place: &Place,
        outcome: Outcome,
        latency: Vec<(&'static str, Latency)>,
    ) -> Self {
        let Outcome { tally, seconds, unsent, cpu_seconds, interrupted, failed } = outcome;
        let a_second = |count: u64| if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 };
        Self {
            bench,
            kind,
            topic: place.name.clone(),
            seconds: rounded(seconds),
            records: tally.records,
            bytes: tally.bytes,
            records_per_second: a_second(tally.records),
            megabytes_per_second: rounded(a_second(tally.bytes) / 1e6),
            latency: latency.into_iter().collect(),
            errors: tally.errors,
            unanswered: tally.unanswered(),
            first_error: tally.first_error,
            unsent,
            not_received: 0,
            cpu_seconds: rounded(cpu_seconds),
            interrupted,
            words: String::new(),
            place: place.told(),
            failed,
        }
    }

    /// The load in words.
    pub(super) fn told(self, words: String) -> Self {
        Self { words, ..self }
    }

    pub(super) fn not_received(self, not_received: u64) -> Self {
        Self { not_received, ..self }
    }

    /// Tells it.
    ///
    /// # Errors
    /// Once it is told: what ended the run early, or records that went wrong.
    pub(super) fn tell(mut self, form: Form) -> anyhow::Result<()> {
        let failed = self.failed.take();
        form.output.one(&self, Self::details)?;
        if self.unsent > 0 && !self.interrupted {
            say(format_args!(
                "the load was not kept: {} records that were due were not sent, since those before took too long",
                self.unsent
            ));
        }
        if let Some(failed) = failed {
            return Err(failed.context("it ended early"));
        }
        if self.errors > 0 {
            let first = self.first_error.unwrap_or_default();
            bail!("{} records were not acknowledged; the first: {first}", self.errors);
        }
        // Whoever has stopped it has not waited for these.
        if self.unanswered > 0 && !self.interrupted {
            bail!("{} records were sent and not answered", self.unanswered);
        }
        if self.not_received > 0 {
            bail!("{} records were acknowledged and did not arrive at the consumer", self.not_received);
        }
        Ok(())
    }

    fn details(&self) -> Details {
        let mut details = Details::default().field(self.bench, &self.words).field("topic", &self.place);
        let early = if self.interrupted { ", stopped early" } else { "" };
        details = details
            .field("time", format_args!("{:.1} s{early}", self.seconds))
            .field("records", format_args!("{}, {:.0} records/s", self.records, self.records_per_second))
            .field("throughput", format_args!("{:.1} MB/s", self.megabytes_per_second));
        for (name, count) in [
            ("errors", self.errors),
            ("unanswered", self.unanswered),
            ("due, not sent", self.unsent),
            ("not received", self.not_received),
        ] {
            if count > 0 || name == "errors" {
                details = details.field(name, format_args!("{count} records"));
            }
        }
        details = details.field("cpu", format_args!("{:.1} s of this process", self.cpu_seconds));
        let mut table = Table::new(["latency, ms", "p50", "p90", "p99", "p99.9", "max", "mean", "samples"]);
        for (name, latency) in &self.latency {
            let ms = |time: f64| format!("{time:.3}");
            table.row([
                (*name).to_owned(),
                ms(latency.p50_ms),
                ms(latency.p90_ms),
                ms(latency.p99_ms),
                ms(latency.p99_9_ms),
                ms(latency.max_ms),
                ms(latency.mean_ms),
                latency.samples.to_string(),
            ]);
        }
        details.table(table)
    }
}
