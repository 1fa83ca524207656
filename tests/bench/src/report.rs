//! What the rounds add up to: one table with ratios, where processor time and a batch's time went, or JSON.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use crate::{
    closed_loop::Sample,
    meter::{Cpu, Side},
    suite::Measured,
};

/// A round in which others used more of the cores than this share says little.
const OTHERS_MAX: f64 = 0.10;

/// The figures of one sample, or the medians of several.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    mb_s: f64,
    ns_per_record: Option<f64>,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    client_cpu_s_per_gb: f64,
    server_cpu_s_per_gb: Option<f64>,
    /// Share of the cores, 0 to 1.
    others: f64,
}

impl Figures {
    fn of(sample: &Sample) -> Self {
        let gb = sample.moved.bytes as f64 / 1e9;
        let us = |quantile| sample.latency.value_at_quantile(quantile) as f64 / 1e3;
        let records = sample.moved.records;
        Self {
            mb_s: gb * 1e3 / sample.used.seconds,
            ns_per_record: (records > 0).then(|| sample.used.seconds * 1e9 / records as f64),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            client_cpu_s_per_gb: sample.used.client.total() / gb,
            server_cpu_s_per_gb: sample.used.server.map(|cpu| cpu.total() / gb),
            others: sample.used.others,
        }
    }

    fn median(of: &[&Self]) -> Self {
        let middle = |field: fn(&Self) -> f64| median(of.iter().map(|figures| field(figures)).collect());
        let some = |field: fn(&Self) -> Option<f64>| {
            let known: Vec<_> = of.iter().filter_map(|figures| field(figures)).collect();
            (!known.is_empty()).then(|| median(known))
        };
        Self {
            mb_s: middle(|figures| figures.mb_s),
            ns_per_record: some(|figures| figures.ns_per_record),
            p50_us: middle(|figures| figures.p50_us),
            p99_us: middle(|figures| figures.p99_us),
            p999_us: middle(|figures| figures.p999_us),
            client_cpu_s_per_gb: middle(|figures| figures.client_cpu_s_per_gb),
            server_cpu_s_per_gb: some(|figures| figures.server_cpu_s_per_gb),
            others: middle(|figures| figures.others),
        }
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    let middle = of.len() / 2;
    match of.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => of[middle],
        _ => f64::midpoint(of[middle - 1], of[middle]),
    }
}

/// A line's medians, compared with the first line that does the same.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    with: &'static str,
    #[serde(flatten)]
    median: Figures,
    /// Throughput, and median time of a step, relative to the first line of the same work: medians of the rounds' ratios.
    ratio_mb_s: Option<f64>,
    ratio_p50: Option<f64>,
    /// Rounds that the medians are of.
    rounds_used: usize,
    /// Whether even they had more than a tenth of the cores used by others.
    noisy: bool,
    /// Bytes written to disk for each byte moved, by the server (by this process, without one).
    written_per_byte: f64,
    /// Processor seconds per GB over all rounds.
    threads: Vec<Thread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    rounds: Vec<Figures>,
}

#[derive(Debug, Serialize)]
struct Thread {
    side: Side,
    name: String,
    #[serde(flatten)]
    s_per_gb: Cpu,
}

fn rows(measured: &[Measured]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for Measured { line, samples } in measured {
        let rounds: Vec<_> = samples.iter().map(Figures::of).collect();
        let base = rows.iter().find(|row| row.what == line.what);
        let used = quiet(&rounds, None);
        // Stages are compared with nothing.
        let ratio = |field: fn(&Figures) -> f64| {
            let base = base.filter(|_| line.what != "stage")?;
            let of = quiet(&rounds, Some(&base.rounds));
            Some(median(of.iter().map(|round| field(&rounds[*round]) / field(&base.rounds[*round])).collect()))
        };
        let medians = Figures::median(&used.iter().map(|round| &rounds[*round]).collect::<Vec<_>>());
        let bytes: u64 = samples.iter().map(|sample| sample.moved.bytes).sum();
        let written: u64 = samples.iter().map(|sample| sample.used.written).sum();
        let row = Row {
            what: line.what.clone(),
            with: line.with,
            ratio_mb_s: ratio(|figures| figures.mb_s),
            ratio_p50: ratio(|figures| figures.p50_us),
            rounds_used: used.len(),
            noisy: medians.others > OTHERS_MAX,
            median: medians,
            written_per_byte: written as f64 / bytes as f64,
            threads: threads(samples, bytes as f64 / 1e9),
            note: samples.last().and_then(|sample| sample.note.clone()),
            rounds,
        };
        rows.push(row);
    }
    rows
}

/// The rounds in which others left the machine alone (in both lines, when two are compared); all, if there are none.
fn quiet(rounds: &[Figures], base: Option<&[Figures]>) -> Vec<usize> {
    let is_quiet = |round: &usize| {
        rounds[*round].others <= OTHERS_MAX && base.is_none_or(|base| base[*round].others <= OTHERS_MAX)
    };
    let quiet: Vec<_> = (0..rounds.len()).filter(is_quiet).collect();
    if quiet.is_empty() { (0..rounds.len()).collect() } else { quiet }
}

fn threads(samples: &[Sample], gb: f64) -> Vec<Thread> {
    let mut sums: BTreeMap<_, Cpu> = BTreeMap::new();
    for (thread, cpu) in samples.iter().flat_map(|sample| &sample.used.threads) {
        sums.entry(thread).or_default().add(*cpu);
    }
    let per_gb = |cpu: Cpu| Cpu { user: cpu.user / gb, kernel: cpu.kernel / gb };
    let thread =
        |((side, name), cpu): (&(Side, String), Cpu)| Thread { side: *side, name: name.clone(), s_per_gb: per_gb(cpu) };
    sums.into_iter().map(thread).collect()
}

/// One JSON object a line of the table.
pub(crate) fn json(measured: &[Measured]) -> anyhow::Result<String> {
    let mut text = String::new();
    for row in rows(measured) {
        writeln!(text, "{}", serde_json::to_string(&row)?)?;
    }
    Ok(text)
}

/// For people.
pub(crate) fn table(measured: &[Measured]) -> anyhow::Result<String> {
    let rows = rows(measured);
    let mut text = String::new();
    writeln!(
        text,
        "Medians of the rounds in which others used at most {:.0} % of the cores; lines marked ! have no such round.\n\
         Ratios are to the first line of the same work, round by round: throughput, and median time of a step.\n\
         A step is a batch acknowledged, an answer (bare: 1 MiB; records: 100) read, a call. CPU is seconds per GB.\n",
        OTHERS_MAX * 100.0
    )?;
    let head = [
        "what",
        "with",
        "MB/s",
        "ratio",
        "ns/record",
        "p50",
        "ratio",
        "p99",
        "p99.9",
        "client",
        "server",
        "others",
        "rounds",
    ];
    let mut cells = vec![head.map(String::from)];
    let mut last = "";
    for row in &rows {
        let times = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x"));
        let or_dash = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        let Figures { mb_s, ns_per_record, p50_us, p99_us, p999_us, .. } = row.median;
        let noisy = if row.noisy { "!" } else { "" };
        cells.push([
            if row.what == last { String::new() } else { row.what.clone() },
            row.with.into(),
            format!("{mb_s:.1}"),
            times(row.ratio_mb_s),
            or_dash(ns_per_record, 0),
            time(p50_us),
            times(row.ratio_p50),
            time(p99_us),
            time(p999_us),
            format!("{:.2}", row.median.client_cpu_s_per_gb),
            or_dash(row.median.server_cpu_s_per_gb, 2),
            format!("{noisy}{:.0}%", row.median.others * 100.0),
            format!("{}/{}", row.rounds_used, row.rounds.len()),
        ]);
        last = &row.what;
    }
    align(&mut text, &cells);
    budget(&mut text, &rows)?;
    processor(&mut text, &rows)?;
    Ok(text)
}

/// Where the time of one durable batch goes: the wire from the page-cache lines, the disk from what durability adds.
fn budget(text: &mut String, rows: &[Row]) -> anyhow::Result<()> {
    let p50 = |ack: &str, producers: &str, with: &str| {
        let what = format!("produce, {ack}, {producers}");
        rows.iter().find(|row| row.what == what && row.with.starts_with(with)).map(|row| row.median.p50_us)
    };
    let mut told = String::new();
    for producers in ["1", "8", "64"] {
        for with in ["bare", "millstream, encoded"] {
            if let (Some(durable), Some(cached)) = (p50("durable", producers, with), p50("page cache", producers, with))
            {
                let (all, wire, disk) = (time(durable), time(cached), time((durable - cached).max(0.0)));
                writeln!(
                    told,
                    "  {producers:>2} producers, {with}: {all} = {wire} wire, CRC and page cache + {disk} sync"
                )?;
            }
        }
    }
    if !told.is_empty() {
        write!(text, "\nWhere a durable batch's time goes (p50 against the page-cache line)\n{told}")?;
    }
    for row in rows {
        if let Some(note) = &row.note {
            writeln!(text, "  {}: {}: {note}", row.what, row.with)?;
        }
    }
    Ok(())
}

/// Which threads used the processors.
fn processor(text: &mut String, rows: &[Row]) -> anyhow::Result<()> {
    writeln!(text, "\nWhere the processors' time goes, seconds per GB over all rounds (user + kernel)")?;
    for row in rows.iter().filter(|row| row.median.server_cpu_s_per_gb.is_some() || row.threads.len() > 1) {
        let thread = |thread: &Thread| {
            let side = if thread.side == Side::Client { "client" } else { "server" };
            format!("{side} {} {:.2}+{:.2}", thread.name, thread.s_per_gb.user, thread.s_per_gb.kernel)
        };
        let mut threads: Vec<_> = row.threads.iter().filter(|thread| thread.s_per_gb.total() >= 0.01).collect();
        threads.sort_by(|a, b| b.s_per_gb.total().total_cmp(&a.s_per_gb.total()));
        let threads: Vec<_> = threads.into_iter().map(thread).collect();
        let written = row.written_per_byte;
        writeln!(text, "  {}: {}: {}; {written:.2} bytes to disk a byte", row.what, row.with, threads.join(", "))?;
    }
    Ok(())
}

/// Microseconds with a unit that leaves two or three digits.
fn time(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2}us"),
        us if us < 1000.0 => format!("{us:.0}us"),
        us => format!("{:.2}ms", us / 1e3),
    }
}

/// Words to the left, figures to the right.
fn align<const N: usize>(text: &mut String, cells: &[[String; N]]) {
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    for row in cells {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column < 2 { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(mb_s: f64, others: f64) -> Figures {
        Figures {
            mb_s,
            ns_per_record: None,
            p50_us: 1.0,
            p99_us: 1.0,
            p999_us: 1.0,
            client_cpu_s_per_gb: 1.0,
            server_cpu_s_per_gb: None,
            others,
        }
    }

    #[test]
    fn noisy_rounds_are_left_out_unless_there_are_no_others() {
        let rounds = [figures(1.0, 0.5), figures(2.0, 0.05), figures(3.0, 0.0)];
        assert_eq!(quiet(&rounds, None), [1, 2]);
        let base = [figures(1.0, 0.0), figures(2.0, 0.0), figures(3.0, 0.2)];
        assert_eq!(quiet(&rounds, Some(&base)), [1]);
        assert_eq!(quiet(&rounds[..1], None), [0]);
    }

    #[test]
    fn the_middle_is_found() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn columns_are_aligned() {
        let mut text = String::new();
        align(&mut text, &[["a".into(), "bb".into(), "1".into()], ["aaa".into(), "b".into(), "100".into()]]);
        assert_eq!(text, "a    bb    1\naaa  b   100\n");
    }
}
