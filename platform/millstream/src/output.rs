//! What goes to standard output: tables for people, lines of JSON for programs. And remarks, which go to standard error.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;

use crate::failure::output_error;

/// Who reads the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One object a line for programs, nothing else.
    Json,
}

/// Columns with headings. Every row has as many cells as there are headings.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self { headings: headings.into(), rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    fn render(&self) -> String {
        let mut widths: Vec<usize> = self.headings.iter().map(|heading| heading.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        let headings = self.headings.iter().map(|heading| heading.to_uppercase()).collect::<Vec<_>>();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// One thing in detail: names and values under each other, then tables.
#[derive(Debug, Default)]
pub(crate) struct Details {
    fields: Vec<(String, String)>,
    tables: Vec<Table>,
}

impl Details {
    pub(crate) fn field(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.fields.push((name.into(), value.to_string()));
        self
    }

    pub(crate) fn table(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    fn render(&self) -> String {
        let width = self.fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default() + 2;
        let mut text = String::new();
        for (name, value) in &self.fields {
            text.push_str(format!("{name:<width$}{value}").trim_end());
            text.push('\n');
        }
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            text.push('\n');
            text.push_str(&table.render());
        }
        text
    }
}

impl Output {
    /// Prints many things. `none` is said to people when there are none.
    pub(crate) fn list<T: Serialize>(
        self,
        items: &[T],
        none: &str,
        table: impl FnOnce(&[T]) -> Table,
    ) -> anyhow::Result<()> {
        match self {
            Self::Json => items.iter().try_for_each(|item| print(&line(item)?)),
            Self::Table if items.is_empty() => {
                say(none);
                Ok(())
            }
            Self::Table => print(&table(items).render()),
        }
    }

    /// Prints one thing.
    pub(crate) fn one<T: Serialize>(self, item: &T, details: impl FnOnce(&T) -> Details) -> anyhow::Result<()> {
        match self {
            Self::Json => print(&line(item)?),
            Self::Table => print(&details(item).render()),
        }
    }

    /// Tells that something was done: a sentence for people, the thing itself for programs.
    pub(crate) fn done<T: Serialize>(self, item: &T, sentence: &str) -> anyhow::Result<()> {
        match self {
            Self::Json => print(&line(item)?),
            Self::Table => {
                say(sentence);
                Ok(())
            }
        }
    }
}

/// A remark for people, on standard error.
pub(crate) fn say(words: impl Display) {
    // Nobody may be reading; what was done stays done.
    let _ = writeln!(io::stderr(), "{words}");
}

/// Several names in one cell.
pub(crate) fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `1 record`, `2 records`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn line<T: Serialize>(item: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string(item)? + "\n")
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(output_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["name", "partitions"]);
        table.row(["flights".into(), "6".into()]);
        table.row(["é".into(), "12".into()]);
        assert_eq!(table.render(), "NAME     PARTITIONS\nflights  6\né        12\n");
    }

    #[test]
    fn details_leave_out_tables_without_rows() {
        let mut table = Table::new(["a"]);
        table.row(["1".into()]);
        let details =
            Details::default().field("name", "x").field("longer", "").table(Table::new(["none"])).table(table);
        assert_eq!(details.render(), "name    x\nlonger\n\nA\n1\n");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(0, "record"), "0 records");
    }
}
