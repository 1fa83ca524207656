//! `cargo xtask compat` runs this: the script with every client, and the table of what came of it; or both beside Apache Kafka.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};
use clap::Parser;
use millstream_test_support::tree;
use millstream_tests_compat::{
    beside::{
        self, Asked,
        explained::{self, explain},
        report::{self, Report},
    },
    case::{self, Case},
    clients::{Answer, CLIENTS, Client, Programs},
    load,
    server::Server,
    signals,
    table::{Cell, Column, Table},
};

/// Where the table is, from the top of the repository.
const TABLE: &str = "tests/compat/COMPATIBILITY.md";
/// Where the comparison with Apache Kafka is.
const REPORT: &str = "tests/compat/DIFFERENCES.md";

/// Puts other peoples' clients through one script, and writes the table of what came of it.
///
/// The broker is $MILLSTREAM_BIN, or built now.
#[derive(Parser)]
#[command(name = "cargo xtask compat", disable_help_subcommand = true)]
struct Arguments {
    /// The folder that the clients were installed in
    #[arg(long)]
    cache: PathBuf,
    /// Only this client; may be given several times. The table keeps what it has of the others
    #[arg(long)]
    client: Vec<String>,
    /// Ask Apache Kafka the same, and raw requests beside the script, and compare the answers
    #[arg(long)]
    against_kafka: bool,
    /// Raw requests only, printed and not written
    #[arg(long, requires = "against_kafka")]
    requests_only: bool,
    /// Measure Kafka's own load program against both, and nothing else
    #[arg(long, conflicts_with = "against_kafka")]
    load: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask compat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing fails.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    signals::obey()?;
    let programs = Programs::new(arguments.cache.clone());
    if arguments.load {
        print!("{}", load::run(&programs.jars())?);
        return Ok(true);
    }
    let chosen = chosen(&arguments.client)?;
    let server = Server::millstream()?;
    if arguments.against_kafka {
        return against_kafka(arguments, &chosen, &programs, &server);
    }
    let mut columns = Vec::new();
    for client in &chosen {
        columns.push(column(client, &programs, &server)?);
    }
    let path = tree::root().join(TABLE);
    let cases: Vec<_> = Case::ALL.iter().map(|case| case.title()).collect();
    if chosen.len() < CLIENTS.len() {
        // The others' columns are kept where they are of the same cases.
        let kept = std::fs::read_to_string(&path).ok().and_then(|text| Table::parse(&text).ok());
        let kept = kept.filter(|table| table.cases == cases).map(|table| table.columns).unwrap_or_default();
        columns.extend(kept.into_iter().filter(|old| !chosen.iter().any(|client| client.name == old.client)));
        columns.sort_by_key(|column| CLIENTS.iter().position(|client| client.name == column.client));
    }
    let well = !columns.iter().flat_map(|column| &column.cells).any(|cell| matches!(cell, Cell::Fails(_)));
    std::fs::write(&path, Table { cases, columns }.render())?;
    eprintln!("{TABLE} is written");
    Ok(well)
}

/// Whether every difference is explained, and every explanation meets one. Only a whole comparison of which that is true is written.
fn against_kafka(
    arguments: &Arguments,
    chosen: &[&'static Client],
    programs: &Programs,
    ours: &Server,
) -> anyhow::Result<bool> {
    let theirs = Server::apache(&programs.jars())?;
    let mut asked = Asked::default();
    let requests = explain(explained::REQUESTS, beside::requests(ours, &theirs, &mut asked)?);
    let asked_of_clients = if arguments.requests_only { &[][..] } else { chosen };
    let clients = beside::clients(asked_of_clients, programs, ours, &theirs, &mut asked);
    let clients = explain(explained::CLIENTS, clients);
    let is_whole = asked_of_clients.len() == CLIENTS.len();
    // Some clients alone need not meet what others do.
    let unmet = [requests.unmet, if is_whole { clients.unmet } else { Vec::new() }].concat();
    let unexplained = [requests.unexplained, clients.unexplained].concat();
    let report = Report { asked, requests: requests.groups, clients: clients.groups };
    let well = unexplained.is_empty() && unmet.is_empty();
    if is_whole && well {
        std::fs::write(tree::root().join(REPORT), report.render())?;
        eprintln!("{REPORT} is written");
    } else {
        println!("{}", report.render());
    }
    eprintln!("{}", report.counts());
    let rows: String = unexplained.iter().map(report::row).collect();
    eprint!("{} differences nobody has explained\n{rows}", unexplained.len());
    eprintln!("{} explanations that meet no difference any more", unmet.len());
    unmet.iter().for_each(|place| eprintln!("{place}"));
    Ok(well)
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Client>> {
    for name in names {
        let all: Vec<_> = CLIENTS.iter().map(|client| client.name).collect();
        ensure!(all.contains(&name.as_str()), "there is no client {name}, only {}", all.join(", "));
    }
    Ok(CLIENTS.iter().filter(|client| names.is_empty() || names.iter().any(|name| name == client.name)).collect())
}

fn column(client: &Client, programs: &Programs, server: &Server) -> anyhow::Result<Column> {
    let version = match programs.ask(client, &["version"], b"").with_context(|| format!("asking {}", client.name))? {
        Answer::Lines(lines) => {
            let told = lines.first().and_then(|line| line["version"].as_str());
            told.with_context(|| format!("{} told no version", client.name))?.to_owned()
        }
        other => anyhow::bail!("{} told no version: {other:?}", client.name),
    };
    eprintln!("\n{} {version}", client.name);
    let mut cells = Vec::new();
    for case in Case::ALL {
        let told = case::run(case, client, programs, server);
        match &told.cell {
            Cell::Fails(why) => eprintln!("  {:<40} FAILS: {why}", case.title()),
            Cell::NotOffered(why) => eprintln!("  {:<40} not offered: {why}", case.title()),
            Cell::Ok => eprintln!("  {:<40} ok", case.title()),
            Cell::Later => eprintln!("  {:<40} later", case.title()),
        }
        cells.push(told.cell);
    }
    Ok(Column { client: client.name.to_owned(), version, limits: client.limits(), cells })
}
