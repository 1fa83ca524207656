//! A strict reader of Prometheus' text exposition format, version 0.0.4: what it takes, every scraper takes. It asks for more than the
//! format does where a careful exporter has no reason for less: help and type before the samples of each family, `_total` at the end of
//! a counter's name, no empty lines, no other comments, no times.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};

/// A family and its samples, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it means.
    pub help: String,
    /// Its samples; of a histogram, also its buckets, sums and counts.
    pub samples: Vec<Sample>,
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name: the family's, or with `_bucket`, `_sum` or `_count` behind it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Reads a page.
///
/// # Errors
/// What is wrong with it first, with its line.
pub fn parse(text: &str) -> anyhow::Result<Vec<Family>> {
    ensure!(text.ends_with('\n'), "the last line has no end");
    let mut families: Vec<Family> = Vec::new();
    let mut named = BTreeSet::new();
    // A family's help, until its type has come.
    let mut begun: Option<(String, String)> = None;
    for (number, line) in (1..).zip(text[..text.len() - 1].split('\n')) {
        let at = || format!("line {number}: {line:?}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            ensure!(begun.is_none(), "{}: the help before it has no type", at());
            let (name, help) = rest.split_once(' ').with_context(at)?;
            check_name(name).with_context(at)?;
            ensure!(named.insert(name.to_owned()), "{}: the family was there already", at());
            begun = Some((name.to_owned(), unescape(help, false).with_context(at)?));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(at)?;
            let (begun, help) = begun.take().with_context(|| format!("{}: no help before it", at()))?;
            ensure!(name == begun, "{}: the help before it is of {begun}", at());
            ensure!(["counter", "gauge", "histogram"].contains(&kind), "{}: no type", at());
            ensure!((kind == "counter") == name.ends_with("_total"), "{}: only counters are totals, and all are", at());
            families.push(Family { name: name.into(), kind: kind.into(), help, samples: Vec::new() });
        } else {
            ensure!(begun.is_none(), "{}: the help before it has no type", at());
            let sample = sample(line).with_context(at)?;
            let family = families.last_mut().with_context(|| format!("{}: of no family", at()))?;
            family.check(&sample).with_context(at)?;
            family.samples.push(sample);
        }
    }
    ensure!(begun.is_none(), "the last family has no type");
    for family in families.iter().filter(|family| family.kind == "histogram") {
        family.check_histograms().with_context(|| family.name.clone())?;
    }
    Ok(families)
}

/// The value of the one sample of that name with these labels, and no others.
///
/// # Errors
/// When there is none.
pub fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
    let labels: BTreeMap<_, _> = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut samples = families.iter().flat_map(|family| &family.samples);
    let found = samples.find(|sample| sample.name == name && sample.labels == labels);
    found.map(|sample| sample.value).with_context(|| format!("there is no {name}{labels:?}"))
}

impl Family {
    fn check(&self, sample: &Sample) -> anyhow::Result<()> {
        let suffix = sample.name.strip_prefix(&self.name).with_context(|| format!("it is not of {}", self.name))?;
        match (self.kind.as_str(), suffix) {
            ("histogram", "_bucket") => ensure!(sample.labels.contains_key("le"), "a bucket without a bound"),
            ("histogram", "_sum" | "_count") | ("counter" | "gauge", "") => {
                ensure!(!sample.labels.contains_key("le"), "a bound that is no bucket's");
            }
            _ => bail!("not a name of a {}", self.kind),
        }
        ensure!(!sample.value.is_nan(), "no number");
        ensure!(self.kind == "gauge" || (sample.value >= 0.0 && sample.value.is_finite()), "no count");
        let is_new = self.samples.iter().all(|other| (&other.name, &other.labels) != (&sample.name, &sample.labels));
        ensure!(is_new, "the same series twice");
        Ok(())
    }

    /// The samples without the bounds of buckets, by those labels.
    fn check_histograms(&self) -> anyhow::Result<()> {
        let mut series: BTreeMap<BTreeMap<&String, &String>, Vec<&Sample>> = BTreeMap::new();
        for sample in &self.samples {
            let labels = sample.labels.iter().filter(|(name, _)| *name != "le").collect();
            series.entry(labels).or_default().push(sample);
        }
        for (labels, samples) in series {
            let of = |suffix: &str| {
                let name = format!("{}{suffix}", self.name);
                samples.iter().filter(|sample| sample.name == name).copied().collect::<Vec<_>>()
            };
            let (buckets, sums, counts) = (of("_bucket"), of("_sum"), of("_count"));
            ensure!(sums.len() == 1 && counts.len() == 1, "{labels:?}: not one sum and one count");
            let bounds =
                buckets.iter().map(|bucket| number(&bucket.labels["le"])).collect::<anyhow::Result<Vec<_>>>()?;
            ensure!(bounds.is_sorted_by(|one, next| one < next), "{labels:?}: bounds do not ascend");
            ensure!(bounds.last() == Some(&f64::INFINITY), "{labels:?}: no bucket for all");
            ensure!(
                buckets.is_sorted_by_key(|bucket| bucket.value),
                "{labels:?}: a bucket has less than one within it"
            );
            ensure!(buckets.last().map(|all| all.value) == Some(counts[0].value), "{labels:?}: the count is another");
        }
        Ok(())
    }
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|first| first.is_ascii_lowercase());
    // Colons are for rules, capitals for nobody, two underscores for Prometheus itself.
    let rest = characters.all(|next| next.is_ascii_lowercase() || next.is_ascii_digit() || next == '_');
    ensure!(first && rest && !name.contains("__"), "{name:?} is no name");
    Ok(())
}

/// `NAME{LABEL="VALUE",...} NUMBER`.
fn sample(line: &str) -> anyhow::Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    check_name(name)?;
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").context("no label")?;
            check_name(label)?;
            let mut escaped = false;
            let end = after.find(|character| {
                let ends = character == '"' && !escaped;
                escaped = character == '\\' && !escaped;
                ends
            });
            let end = end.context("a value without an end")?;
            ensure!(labels.insert(label.to_owned(), unescape(&after[..end], true)?).is_none(), "{label} twice");
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').context("labels without an end")?;
    }
    let value = rest.strip_prefix(' ').context("no value")?;
    Ok(Sample { name: name.into(), labels, value: number(value)? })
}

fn unescape(text: &str, quotes: bool) -> anyhow::Result<String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quotes => '"',
                other => bail!("\\{other:?} is no escape"),
            },
            '\r' => bail!("a bare carriage return"),
            other => other,
        });
    }
    Ok(plain)
}

fn number(text: &str) -> anyhow::Result<f64> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        _ => {
            let digits = text.chars().all(|character| character.is_ascii_digit() || "+-.e".contains(character));
            ensure!(digits, "{text:?} is no number");
            text.parse().with_context(|| format!("{text:?} is no number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total Things, \\\\ and\\nmore.\n# TYPE a_total counter\na_total 3\n\
                        a_total{x=\"1\\\"\\n\\\\,}\",y_z=\"é\"} 0.5\n\
                        # HELP empty Nothing.\n# TYPE empty gauge\n# HELP g Up and down.\n# TYPE g gauge\ng -1e-3\n\
                        # HELP h Times.\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 7\nh_count 2\n";

    #[test]
    fn what_is_well_formed_is_read() {
        let families = parse(GOOD).unwrap();
        let told: Vec<_> = families.iter().map(|family| (family.name.as_str(), family.samples.len())).collect();
        assert_eq!(told, [("a_total", 2), ("empty", 0), ("g", 1), ("h", 4)]);
        assert_eq!(families[0].help, "Things, \\ and\nmore.");
        assert_eq!(value(&families, "a_total", &[("y_z", "é"), ("x", "1\"\n\\,}")]).unwrap(), 0.5);
        assert_eq!(value(&families, "h_bucket", &[("le", "0.1")]).unwrap(), 1.0);
        assert!(value(&families, "a_total", &[("x", "1")]).is_err());
    }

    /// Each is broken in one way.
    #[test]
    fn what_is_not_is_refused() {
        for (from, to) in [
            ("h_count 2\n", "h_count 2"),
            ("# HELP g Up and down.\n", ""),
            ("# TYPE g gauge\n", ""),
            ("# TYPE g gauge\n", "# TYPE f gauge\n"),
            ("# TYPE g gauge\n", "# TYPE g number\n"),
            ("# TYPE g gauge\n", "# TYPE g gauge\n\n"),
            ("# TYPE g gauge\n", "# TYPE g gauge\n# more\n"),
            ("# TYPE g gauge\n", "# TYPE g counter\n"),
            ("g -1e-3\n", "g -1e-3\ng 1\n"),
            ("g -1e-3\n", "g -1e-3 1700000000\n"),
            ("g -1e-3\n", "g NaN\n"),
            ("g -1e-3\n", "g 0x1\n"),
            ("g -1e-3\n", "g inf\n"),
            ("g -1e-3\n", "g  1\n"),
            ("g -1e-3\n", "g{} 1\n"),
            ("g -1e-3\n", "g{x=\"1\",} 1\n"),
            ("g -1e-3\n", "g{x=\"1\",x=\"2\"} 1\n"),
            ("g -1e-3\n", "g{x=1} 1\n"),
            ("g -1e-3\n", "g{x=\"\\t\"} 1\n"),
            ("g -1e-3\n", "g{X=\"1\"} 1\n"),
            ("g -1e-3\n", "a_total{b=\"1\"} 1\n"),
            ("a_total 3\n", "a_total -3\n"),
            ("a_total 3\n", "a_total_count 3\n"),
            ("Things, \\\\", "Things, \\"),
            ("h_bucket{le=\"+Inf\"} 2\n", ""),
            ("h_bucket{le=\"+Inf\"} 2\n", "h_bucket{le=\"+Inf\"} 3\n"),
            ("h_bucket{le=\"0.1\"} 1\n", "h_bucket{le=\"0.1\"} 3\n"),
            ("h_bucket{le=\"0.1\"} 1\n", "h_bucket 1\n"),
            ("h_sum 7\n", ""),
            ("# HELP empty Nothing.\n# TYPE empty gauge\n", "# HELP g Twice.\n# TYPE g gauge\n"),
        ] {
            let broken = GOOD.replacen(from, to, 1);
            assert_ne!(broken, GOOD, "{from:?} is not there");
            assert!(parse(&broken).is_err(), "{from:?} -> {to:?} is taken");
        }
    }
}
