//! The result: a column for each client, a row for each case, and beneath why something is not offered or fails.
//!
//! It is written as Markdown and can be read back, so that a test sees whether the committed table is of this form.

use std::{fmt::Write, net::SocketAddr};

use anyhow::{Context, bail, ensure};

/// What came of one case with one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// It is well.
    Ok,
    /// The client has no way to do it, and why.
    NotOffered(String),
    /// The broker is not built for it yet.
    Later,
    /// It fails, and why: one line.
    Fails(String),
}

/// Most characters of a reason.
const REASON_MAX: usize = 200;

impl Cell {
    /// A failure, in one line without what changes from run to run.
    #[must_use]
    pub fn fails(why: &str, broker: SocketAddr) -> Self {
        let line = why.split_whitespace().collect::<Vec<_>>().join(" ").replace(&broker.to_string(), "BROKER");
        let mut line: String = line.replace('|', "/").chars().take(REASON_MAX).collect();
        if line.is_empty() {
            line.push_str("it says nothing");
        }
        Self::Fails(line)
    }

    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotOffered(_) => "-",
            Self::Later => "later",
            Self::Fails(_) => "fails",
        }
    }

    const fn reason(&self) -> Option<&String> {
        match self {
            Self::NotOffered(why) | Self::Fails(why) => Some(why),
            Self::Ok | Self::Later => None,
        }
    }
}

/// One client's results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The client.
    pub client: String,
    /// Which version.
    pub version: String,
    /// What of the script its program cannot be asked, in words; empty where it says and tells everything.
    pub limits: String,
    /// One for each case.
    pub cells: Vec<Cell>,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The titles of the cases.
    pub cases: Vec<String>,
    /// By client.
    pub columns: Vec<Column>,
}

const HEAD: &str = "# Other peoples' clients

`cargo xtask compat` wrote this: each client's program, in `clients/`, was put through the same script, and what it sent and read
was held byte for byte against what our own client read and sent. **ok**: as it must be. **-**: the client, or what Kafka has
under its name, does not do that. **later**: the broker is not built for it yet. **fails**: see below.

";
const LIMITS: &str = "\n## What clients cannot say\n\nRecords of that kind were not asked of them.\n\n";
const FAILS: &str = "\n## What fails\n\n";
const NOT_OFFERED: &str = "\n## What clients do not offer\n\n";
const NOTHING: &str = "Nothing.\n";

impl Table {
    /// As Markdown.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = HEAD.to_owned();
        let mut row = |cells: Vec<&str>| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        row(std::iter::once("").chain(self.columns.iter().map(|column| column.client.as_str())).collect());
        row(std::iter::repeat_n("---", self.columns.len() + 1).collect());
        row(std::iter::once("version").chain(self.columns.iter().map(|column| column.version.as_str())).collect());
        for (at, case) in self.cases.iter().enumerate() {
            let words = self.columns.iter().map(|column| column.cells.get(at).map_or("", Cell::word));
            row(std::iter::once(case.as_str()).chain(words).collect());
        }
        text.push_str(LIMITS);
        let limits = self.columns.iter().filter(|column| !column.limits.is_empty());
        push_list(&mut text, limits.map(|column| format!("- {}: {}", column.client, column.limits)));
        text.push_str(FAILS);
        push_list(&mut text, self.reasons(|cell| matches!(cell, Cell::Fails(_))));
        text.push_str(NOT_OFFERED);
        push_list(&mut text, self.reasons(|cell| matches!(cell, Cell::NotOffered(_))));
        text
    }

    fn reasons(&self, wanted: fn(&Cell) -> bool) -> impl Iterator<Item = String> {
        self.columns.iter().flat_map(move |column| {
            let cells = column.cells.iter().zip(&self.cases).filter(move |(cell, _)| wanted(cell));
            cells.filter_map(|(cell, case)| Some(format!("- {}, {case}: {}", column.client, cell.reason()?)))
        })
    }

    /// Reads what [`Table::render`] wrote.
    ///
    /// # Errors
    /// When the text is not of that form: with the place.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let rest = text.strip_prefix(HEAD).context("it does not begin as the generator begins it")?;
        let (rows, rest) = rest.split_once(LIMITS).context("there is no list of limits")?;
        let (limits, rest) = rest.split_once(FAILS).context("there is no list of what fails")?;
        let (fails, not_offered) = rest.split_once(NOT_OFFERED).context("there is no list of what is not offered")?;
        let mut rows = rows.lines().map(row);
        let clients = rows.next().context("no row of clients")??;
        let line = rows.next().context("no line below the clients")??;
        ensure!(line.iter().all(|cell| cell == "---"), "below the clients there is {line:?}");
        let versions = rows.next().context("no row of versions")??;
        ensure!(versions.first().is_some_and(|word| word == "version"), "the versions are missing");
        let mut table = Self { cases: Vec::new(), columns: Vec::new() };
        for (client, version) in clients.iter().zip(&versions).skip(1) {
            let limits = limit_of(limits, client).unwrap_or_default().to_owned();
            table.columns.push(Column { client: client.clone(), version: version.clone(), limits, cells: Vec::new() });
        }
        for cells in rows {
            let cells = cells?;
            let case = cells.first().context("a row without a case")?.clone();
            ensure!(cells.len() == table.columns.len() + 1, "{case}: {} cells", cells.len());
            for (column, word) in table.columns.iter_mut().zip(&cells[1..]) {
                let why = |list: &str| {
                    let start = format!("- {}, {case}: ", column.client);
                    let line = list.lines().find_map(|line| line.strip_prefix(start.as_str()));
                    line.map(str::to_owned).with_context(|| format!("{}, {case}: no reason is given", column.client))
                };
                column.cells.push(match word.as_str() {
                    "ok" => Cell::Ok,
                    "later" => Cell::Later,
                    "fails" => Cell::Fails(why(fails)?),
                    "-" => Cell::NotOffered(why(not_offered)?),
                    other => bail!("{}, {case}: {other:?} is no result", column.client),
                });
            }
            table.cases.push(case);
        }
        Ok(table)
    }
}

fn push_list(text: &mut String, lines: impl Iterator<Item = String>) {
    let before = text.len();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    if text.len() == before {
        text.push_str(NOTHING);
    }
}

fn row(line: &str) -> anyhow::Result<Vec<String>> {
    let inner = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
    let inner = inner.with_context(|| format!("{line:?} is no row"))?;
    Ok(inner.split(" | ").map(str::to_owned).collect())
}

fn limit_of<'a>(limits: &'a str, client: &str) -> Option<&'a str> {
    limits.lines().find_map(|line| line.strip_prefix("- ")?.strip_prefix(client)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |client: &str, limits: &str, cells| Column {
            client: client.to_owned(),
            version: "1.2".to_owned(),
            limits: limits.to_owned(),
            cells,
        };
        let fails = Cell::fails("a\n  reason with | and 127.0.0.1:7", "127.0.0.1:7".parse().unwrap());
        Table {
            cases: vec!["sends".to_owned(), "reads".to_owned()],
            columns: vec![
                column("one", "", vec![Cell::Ok, Cell::Later]),
                column("two", "zeros", vec![fails, Cell::NotOffered("it has none".to_owned())]),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(Table::parse(&table().render()).unwrap(), table());
        assert!(table().render().contains("- two, sends: a reason with / and BROKER\n"), "{}", table().render());
    }

    #[test]
    fn what_the_generator_does_not_write_is_noticed() {
        let text = table().render();
        for (old, new) in [
            ("# Other", "# Others"),
            ("| reads | later", "| reads | maybe"),
            ("| reads | later | - |", "| reads | later |"),
            ("- two, sends: a reason with / and BROKER\n", ""),
            ("| version |", "| versions |"),
            (FAILS, "\n"),
        ] {
            assert!(text.contains(old), "{old}");
            assert!(Table::parse(&text.replacen(old, new, 1)).is_err(), "{old} -> {new}");
        }
    }
}
