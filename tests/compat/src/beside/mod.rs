//! Millstream beside Apache Kafka: the same asked of both, and what they answer compared field by field.
//!
//! - `probes`: requests that are sent as they are, in every version that both know; bad ones first of all.
//! - The script of [`crate::case`], which clients' programs run against both.
//! - [`leaves`] and [`compare`]: answers as fields with values, and which of them differ.
//! - [`explained`]: why they differ where they do. A difference that nobody has explained fails a run, and so does a reason without one.
//! - [`report`]: the result, which is `tests/compat/DIFFERENCES.md`.

use std::{
    collections::BTreeMap,
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use millstream_protocol::{
    ErrorCode, Request, Response, decode_response, encode_request,
    messages::{api_versions::*, producers::*},
};
use serde_json::{Value, json};

use crate::{
    case::{self, Case, Told},
    clients::{Client, Programs},
    server::Server,
    wire::{Exchanged, Wire},
};

pub mod apis;
pub mod compare;
pub mod explained;
pub mod leaves;
mod probes;
pub mod report;

use compare::{Difference, Found};
use leaves::{CONNECTION, Leaves};

/// How long Apache Kafka may take until it gives ids to producers.
const PRODUCERS_MAX: Duration = Duration::from_secs(60);
/// How long a request's answer is waited for: no broker needs as long.
const PROBE_MAX: Duration = Duration::from_secs(20);
/// What is told of a broker that answers, and of one that does not.
const ANSWERS: &str = "answers";
const SILENCE: &str = "no answer";
/// Cases that only ours can be asked.
const OURS_ONLY: [Case; 2] = [Case::CommandReads, Case::CommandSends];

/// What was asked, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Cases of clients.
    pub cases: usize,
    /// Requests, each version counted.
    pub requests: usize,
}

/// Sends every probe to both in every version that both know, and compares.
///
/// # Errors
/// When a broker is lost, or an answer cannot be read.
pub fn requests(ours: &Server, theirs: &Server, asked: &mut Asked) -> anyhow::Result<Vec<Difference>> {
    let known = (probes::prepare(ours)?, probes::prepare(theirs)?);
    wait_for_producer_ids(theirs)?;
    let versions = advertised(&mut theirs.wire()?)?;
    let mut wires = (patient(ours)?, patient(theirs)?);
    let mut found = Found::default();
    for probe in probes::all() {
        for version in 0..=i16::from(u8::MAX) {
            let (Some(to_ours), Some(to_theirs)) = ((probe.make)(&known.0, version), (probe.make)(&known.1, version))
            else {
                continue;
            };
            let api = to_ours.api();
            let both = versions.get(&api.code()).is_some_and(|(min, max)| (*min..=*max).contains(&version));
            if !both || !api.versions().contains(&version) {
                continue;
            }
            let answer_of_ours = answer(&mut wires.0, ours, version, &to_ours)?;
            let answer_of_theirs = answer(&mut wires.1, theirs, version, &to_theirs)?;
            asked.requests += 1;
            let what = format!("{api}: {}", probe.name);
            found.compare(&what, &version.to_string(), &answer_of_ours, &answer_of_theirs);
            // Nothing else is to be learned from waiting again.
            if [&answer_of_ours, &answer_of_theirs].iter().any(|leaves| leaves.values().any(|value| value == SILENCE)) {
                break;
            }
        }
    }
    Ok(found.into_differences(compare::ranges))
}

/// What a broker answers, or that it closes the connection.
fn answer(wire: &mut Wire, server: &Server, version: i16, request: &Request) -> anyhow::Result<Leaves> {
    let api = request.api();
    let at = || format!("{api} {version}: {request:?}");
    let frame = encode_request(version, 7, Some("compat"), request).with_context(at)?;
    let bytes = match wire.exchange(&frame.to_bytes()).with_context(at)? {
        Exchanged::Answer(bytes) => bytes,
        other => {
            *wire = patient(server)?;
            let told = if other == Exchanged::Closed { "closed" } else { SILENCE };
            return Ok([(CONNECTION.to_owned(), told.to_owned())].into());
        }
    };
    let (_, response) = decode_response(api, version, bytes).with_context(at)?;
    let mut leaves = match response {
        Response::ApiVersions(told) => of_versions(&told),
        other => leaves::of_message(&other),
    };
    leaves.insert(CONNECTION.to_owned(), ANSWERS.to_owned());
    Ok(leaves)
}

fn patient(server: &Server) -> anyhow::Result<Wire> {
    let wire = server.wire()?;
    wire.wait_at_most(PROBE_MAX)?;
    Ok(wire)
}

/// By the apis' names, so that it does not matter in which order they are told.
fn of_versions(told: &ApiVersionsResponse) -> Leaves {
    // Those of Kafka's: ours have numbers from 20000 on.
    let apis = told.api_keys.iter().filter(|api| api.api_key < 20_000).map(|api| {
        (format!(".api_keys[{}]", apis::name(api.api_key)), format!("{}-{}", api.min_version, api.max_version))
    });
    let mut leaves: Leaves = apis.collect();
    leaves.insert(".error_code".to_owned(), told.error_code.code().to_string());
    leaves.insert(".supported_features.count".to_owned(), told.supported_features.len().to_string());
    leaves.insert(".finalized_features.count".to_owned(), told.finalized_features.len().to_string());
    leaves
}

/// The versions that a broker says it knows, by the api's key.
fn advertised(wire: &mut Wire) -> anyhow::Result<BTreeMap<i16, (i16, i16)>> {
    let told = wire.call(0, ApiVersionsRequest::default())?;
    ensure!(told.error_code.is_ok(), "ApiVersions: {:?}", told.error_code);
    Ok(told.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect())
}

/// Apache Kafka gives none until it has loaded what it knows of producers.
fn wait_for_producer_ids(server: &Server) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
        let told = server.wire()?.call(1, request)?.error_code;
        if told.is_ok() {
            return Ok(());
        }
        let loading = matches!(told, ErrorCode::CoordinatorLoadInProgress | ErrorCode::CoordinatorNotAvailable);
        ensure!(loading && start.elapsed() < PRODUCERS_MAX, "InitProducerId: {told:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Puts clients through the script with both, and compares what they were told.
#[must_use]
pub fn clients(
    clients: &[&Client],
    programs: &Programs,
    ours: &Server,
    theirs: &Server,
    asked: &mut Asked,
) -> Vec<Difference> {
    let mut found = Found::default();
    for client in clients {
        for case in Case::ALL.into_iter().filter(|case| !OURS_ONLY.contains(case)) {
            let asking_theirs = || case::run(case, client, programs, theirs);
            let (ours, theirs) = thread::scope(|scope| {
                let theirs = scope.spawn(asking_theirs);
                (case::run(case, client, programs, ours), theirs.join().unwrap_or_else(|panic| resume_unwind(panic)))
            });
            asked.cases += 1;
            eprintln!("{}, {}: {:?} {:?}", client.name, case.title(), ours.cell, theirs.cell);
            found.compare(&case.title(), client.name, &of_told(&ours), &of_told(&theirs));
        }
    }
    found.into_differences(compare::names)
}

fn of_told(told: &Told) -> Leaves {
    let mut lines = told.said.clone();
    // Records come partition by partition or mixed, as it happens.
    if lines.iter().all(|line| !line["key"].is_null() || !line["headers"].is_null()) {
        lines.sort_by_key(|line| (line["partition"].as_i64(), line["offset"].as_i64()));
    }
    let mut leaves = leaves::of_json(&Value::Array(lines));
    leaves.extend(leaves::of_json(&json!({"result": told.cell.word()})));
    leaves
}
