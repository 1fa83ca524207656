//! The result of a comparison, as Markdown: what was asked, and where the two differ, by the reasons for it.

use std::fmt::Write;

use anyhow::{Context, ensure};

use super::{Asked, compare::Difference, explained::Group};

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How much was asked.
    pub asked: Asked,
    /// Differences of requests, by reason.
    pub requests: Vec<Group>,
    /// Differences of clients, by reason.
    pub clients: Vec<Group>,
}

const HEAD: &str = "# Beside Apache Kafka 4.3

`cargo xtask compat --against-kafka` wrote this: the same was asked of Millstream and of Apache Kafka, each as it is when it is new, and
the answers were compared field by field. Of ids, addresses, sizes, times, epochs and words it was compared only whether they are told.
Where the answers are the same, there is nothing here. `-` is a field that the answer does not have.

";
const REQUESTS: &str = "\n## Requests\n";
const CLIENTS: &str = "\n## Clients\n";
const GROUP: &str = "\n### ";
/// Which requests or cases, in which versions or by which clients.
const TABLE: &str = "\n\n| asked | by | field | Millstream | Apache Kafka |\n| --- | --- | --- | --- | --- |\n";

impl Report {
    /// As Markdown.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("{HEAD}{}\n", self.counts());
        for (title, groups) in [(REQUESTS, &self.requests), (CLIENTS, &self.clients)] {
            text.push_str(title);
            for Group { title, why, differences } in groups {
                // Writing to a string does not fail.
                let _ = write!(text, "{GROUP}{title}\n\n{why}{TABLE}");
                text.extend(differences.iter().map(row));
            }
        }
        text
    }

    /// How much was asked, and how much of it is answered otherwise; two lines.
    #[must_use]
    pub fn counts(&self) -> String {
        let Asked { cases, requests } = self.asked;
        let told = |groups: &[Group]| format!("{} differences for {} reasons", count(groups), groups.len());
        format!("{requests} requests: {}.\n{cases} cases of clients: {}.", told(&self.requests), told(&self.clients))
    }

    /// Reads what [`Report::render`] wrote.
    ///
    /// # Errors
    /// When the text is not of that form.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let rest = text.strip_prefix(HEAD).context("it does not begin as the generator begins it")?;
        let (numbers, rest) = rest.split_once(REQUESTS).context("there are no requests")?;
        let (requests, clients) = rest.split_once(CLIENTS).context("there are no clients")?;
        let number = |before: &str| -> anyhow::Result<usize> {
            let line = numbers.lines().find_map(|line| line.split_once(before));
            Ok(line.with_context(|| format!("it does not say how many{before} there were"))?.0.parse()?)
        };
        let asked = Asked { cases: number(" cases of clients")?, requests: number(" requests")? };
        let groups = |text: &str| text.split(GROUP).skip(1).map(parse_group).collect::<anyhow::Result<_>>();
        Ok(Self { asked, requests: groups(requests)?, clients: groups(clients)? })
    }
}

fn count(groups: &[Group]) -> usize {
    groups.iter().map(|group| group.differences.len()).sum()
}

fn parse_group(text: &str) -> anyhow::Result<Group> {
    let (title, rest) = text.split_once("\n\n").with_context(|| format!("{text:?} has no reason"))?;
    let (why, rows) = rest.split_once(TABLE).with_context(|| format!("{title} has no table"))?;
    let differences = rows.lines().map(parse_row).collect::<anyhow::Result<_>>()?;
    Ok(Group { title: title.to_owned(), why: why.to_owned(), differences })
}

/// A line of a table.
#[must_use]
pub fn row(difference: &Difference) -> String {
    let Difference { what, at, field, ours, theirs } = difference;
    let cell = |part: &String| match part.replace('|', "/") {
        empty if empty.is_empty() => "-".to_owned(),
        part => part,
    };
    format!("| {} |\n", [what, at, field, ours, theirs].map(cell).join(" | "))
}

fn parse_row(line: &str) -> anyhow::Result<Difference> {
    let inner = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
    let inner = inner.with_context(|| format!("{line:?} is no row"))?;
    let cells: Vec<_> = inner.split(" | ").map(|cell| if cell == "-" { "" } else { cell }.to_owned()).collect();
    let cells = <[String; 5]>::try_from(cells);
    ensure!(cells.is_ok(), "{line:?} has another number of cells");
    let [what, at, field, ours, theirs] = cells.unwrap_or_default();
    Ok(Difference { what, at, field, ours, theirs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let difference = |field: &str| Difference {
            what: "Fetch: x".into(),
            at: "4-7".into(),
            field: field.into(),
            ours: String::new(),
            theirs: "3".into(),
        };
        let group = |title: &str, differences| Group { title: title.into(), why: "Because.".into(), differences };
        let report = Report {
            asked: Asked { cases: 12, requests: 345 },
            requests: vec![group("one", vec![difference("a"), difference("b")]), group("two", vec![difference("a")])],
            clients: vec![group("three", vec![difference("a")])],
        };
        let text = report.render();
        assert_eq!(Report::parse(&text).unwrap(), report);
        assert!(text.contains("345 requests: 3 differences for 2 reasons.\n"), "{text}");
        for (old, new) in [
            ("# Beside", "# Besides"),
            ("| 4-7 ", ""),
            ("## Clients", "## Others"),
            ("345", "many"),
            ("\n\n| asked", ""),
        ] {
            assert!(text.contains(old), "{old}");
            assert!(Report::parse(&text.replacen(old, new, 1)).is_err(), "{old} -> {new}");
        }
    }
}
