//! Prometheus' text exposition format, version 0.0.4: families with help and type, their samples, everything escaped.

use std::fmt::{self, Display, Write};

use millstream_broker::Buckets;

/// What a family's numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grows, and begins at 0 with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// A name and a value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// A family that is written. Its samples must differ in their labels.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins a family. Its name must be one that there was not yet.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let text = &mut self.0;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        put(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text, name }
    }

    /// All that was written.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One number. Durations are given in seconds.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// One histogram of seconds.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], buckets: &Buckets) {
        let mut below = 0;
        let bounds = buckets.bounds.iter().map(|bound| bound.as_secs_f64().to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&buckets.counts) {
            below += count;
            self.line("_bucket", labels, Some(("le", &bound)), below);
        }
        self.line("_sum", labels, None, buckets.sum.as_secs_f64());
        self.line("_count", labels, None, below);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], last: Option<Label<'_>>, value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut before = '{';
        for (name, value) in labels.iter().chain(&last) {
            put(self.text, format_args!("{before}{name}=\""));
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        put(self.text, format_args!(" {value}\n"));
    }
}

fn put(text: &mut String, what: fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = text.write_fmt(what);
}
