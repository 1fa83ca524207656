//! TransformDeploy, TransformList, TransformDescribe, TransformPause, TransformResume, TransformDelete.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::{Either, select};

use millstream_catalog::{Command, OnError, Outcome, RecordAt, StartAt, State, Transform, TransformState};
use millstream_model::{Name, Offset, PartitionId, TimestampMs, TopicId, TransformId};
use millstream_protocol::{
    ErrorCode,
    extension::transforms::{
        TransformDeleteRequest, TransformDeleteResponse, TransformDeployRequest, TransformDeployResponse,
        TransformDescribeRequest, TransformDescribeResponse, TransformInfo, TransformListResponse, TransformPartition,
        TransformPauseRequest, TransformPauseResponse, TransformResumeRequest, TransformResumeResponse,
    },
};
use uuid::Uuid;

use super::{
    change::to_its_end,
    wire::{module_ref, name, pairs, params},
};
use crate::{errors::WireError, pools::Use, shared::Shared};

/// How long a deployment waits for its first entries of progress to be on disk.
const START_MAX: Duration = Duration::from_secs(10);
/// How long a pause or a deletion waits until what was appended last can be read.
const COMMIT_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn deploy(shared: Arc<Shared>, request: TransformDeployRequest) -> TransformDeployResponse {
    match deploy_checked(&shared, request).await {
        Ok(transform_id) => TransformDeployResponse { transform_id, ..Default::default() },
        Err(error) => {
            TransformDeployResponse { error_code: error.code, error_message: Some(error.message), ..Default::default() }
        }
    }
}

async fn deploy_checked(shared: &Arc<Shared>, request: TransformDeployRequest) -> Result<TransformId, WireError> {
    if request.lanes != 1 {
        let message = format!("{} lanes: only 1 is built yet", request.lanes);
        return Err(WireError::new(
            if request.lanes < 1 { ErrorCode::InvalidParameter } else { ErrorCode::NotBuilt },
            message,
        ));
    }
    let id = TransformId(Uuid::from_u128(shared.env.rng.next_u128()));
    let topics = |names: &[String]| names.iter().map(|text| name(text)).collect::<Result<Vec<_>, _>>();
    let command = Command::DeployTransform {
        id,
        name: Name::new(&request.name).map_err(|error| WireError::new(ErrorCode::InvalidName, error))?,
        module: module_ref(&request.module)?,
        inputs: topics(&request.inputs)?,
        outputs: topics(&request.outputs)?,
        params: params(request.params)?,
        on_error: on_error(&request.on_error)?,
        from: start_at(&request.from)?,
        lanes: 1,
        at: TimestampMs(shared.env.clock.wall_ms()),
    };
    // Refused by what the catalog knows before an instance is made; the agreed log decides in the end.
    let would_be = shared.dry_run(&command)?;
    // Its progress is a log for each partition that it reads.
    let transform = find(&would_be, &request.name)?;
    begins_somewhere(shared, &would_be, transform)?;
    let inputs = transform.inputs.iter().filter_map(|input| would_be.topic_by_id(*input));
    shared.require_room(inputs.map(|topic| u64::from(topic.partition_count().unsigned_abs())).sum())?;
    shared.blame(&command, check_module(shared, &would_be, &request.name).await)?;
    let owned = shared.clone();
    to_its_end(shared, "deploy transform", async move {
        owned.propose(command).await?;
        owned.transforms.follow(&owned).await;
        // Acknowledged once it is decided where it starts: what is produced after that is read, also from "end".
        let placed = std::pin::pin!(owned.transforms.placed(id));
        let is_placed = matches!(select(placed, owned.env.clock.sleep(START_MAX)).await, Either::Left(_));
        let state = owned.catalog.state();
        match state.transform_by_id(id) {
            Some(transform) => not_running(transform, is_placed, owned.transforms.trouble(id)).map_or(Ok(id), Err),
            // Somebody has deleted it meanwhile.
            None => Ok(id),
        }
    })
    .await
}

/// Refuses an offset to start at that is beyond the end of every input partition: it would wait without a word, perhaps for ever.
/// Partitions are of different lengths, so that some may well end before it.
fn begins_somewhere(shared: &Shared, state: &State, transform: &Transform) -> Result<(), WireError> {
    /// So many partitions are named.
    const TOLD_MAX: usize = 10;
    let StartAt::Offset(from) = transform.from else { return Ok(()) };
    let mut ends = Vec::new();
    for topic in transform.inputs.iter().filter_map(|input| state.topic_by_id(*input)) {
        for partition in (0..topic.partition_count()).map(PartitionId) {
            // Of one that is not led here nothing is known.
            let Some(led) = shared.partitions.find(topic.id, partition) else { return Ok(()) };
            let end = led.high_watermark();
            if end >= from {
                return Ok(());
            }
            ends.push(format!("{}/{partition} at {end}", topic.name));
        }
    }
    let left = ends.len().saturating_sub(TOLD_MAX);
    ends.truncate(TOLD_MAX);
    let more = if left > 0 { format!(" and {left} more") } else { String::new() };
    let message = format!(
        "offset {from} is beyond the end of every input partition ({}{more}): start at `end` to have what is produced from now on",
        ends.join(", ")
    );
    Err(WireError::new(ErrorCode::OffsetOutOfRange, message))
}

/// Why a transform that was deployed does not run, if that is known already. `trouble`: what one of its tasks waits for.
fn not_running(transform: &Transform, is_placed: bool, trouble: Option<String>) -> Option<WireError> {
    let name = &transform.name;
    if let TransformState::Failed { message, record } = &transform.state {
        let skip = if record.is_some() { ", leave the record out with `--skip` there," } else { "" };
        let message = format!(
            "transform {name} is deployed, and has failed: {message}. Mend the cause and `millstream transform resume {name}`{skip} or \
             delete it"
        );
        return Some(WireError::new(ErrorCode::CallFailed, message));
    }
    if is_placed {
        return None;
    }
    let waits = trouble.map_or_else(String::new, |trouble| format!(" ({trouble})"));
    let message = format!(
        "transform {name} is deployed, and has not started yet{waits}: it is tried on, and `millstream transform describe {name}` \
         shows it"
    );
    Some(WireError::new(ErrorCode::RequestTimedOut, message))
}

fn on_error(text: &str) -> Result<OnError, WireError> {
    match text {
        "fail" => Ok(OnError::Fail),
        "skip" => Ok(OnError::Skip),
        "retry" | "dlq" | "park-key" => {
            let message = format!("the error policy {text} is not built yet: use fail or skip");
            Err(WireError::new(ErrorCode::NotBuilt, message))
        }
        _ => {
            let message = format!("error policy {text:?}: takes fail, skip, retry, dlq or park-key");
            Err(WireError::new(ErrorCode::InvalidParameter, message))
        }
    }
}

fn start_at(text: &str) -> Result<StartAt, WireError> {
    match (text, text.parse::<i64>()) {
        ("beginning", _) => Ok(StartAt::Beginning),
        ("end", _) => Ok(StartAt::End),
        (_, Ok(offset)) if offset >= 0 => Ok(StartAt::Offset(Offset(offset))),
        _ => {
            let message = format!("start {text:?}: takes beginning, end or an offset from 0");
            Err(WireError::new(ErrorCode::InvalidParameter, message))
        }
    }
}

/// Starts the module once, so that wrong parameters show now and not at the first record.
async fn check_module(shared: &Shared, would_be: &State, name: &str) -> Result<(), WireError> {
    let usage = Use::transform(would_be, find(would_be, name)?);
    for (module, pool) in shared.modules.candidates(would_be, vec![usage]).await? {
        pool.check().await.map_err(|error| WireError::does_not_start(module, &error))?;
    }
    Ok(())
}

pub(crate) fn list(shared: &Shared) -> TransformListResponse {
    let state = shared.catalog.state();
    let transforms = state.transforms.values().map(|transform| info(shared, &state, transform));
    TransformListResponse { transforms: transforms.collect(), ..Default::default() }
}

pub(crate) fn describe(shared: &Shared, request: &TransformDescribeRequest) -> TransformDescribeResponse {
    let state = shared.catalog.state();
    match find(&state, &request.name) {
        Ok(transform) => TransformDescribeResponse {
            transform: info(shared, &state, transform),
            partitions: partitions(shared, &state, transform),
            ..Default::default()
        },
        Err(error) => TransformDescribeResponse {
            error_code: error.code,
            error_message: Some(error.message),
            ..Default::default()
        },
    }
}

pub(crate) async fn delete(shared: Arc<Shared>, request: TransformDeleteRequest) -> TransformDeleteResponse {
    let owned = shared.clone();
    let outcome = to_its_end(&shared, "delete transform", async move {
        let state = owned.catalog.state();
        let transform = find(&state, &request.name)?;
        owned.propose(Command::DeleteTransform { id: transform.id }).await?;
        // Stopped before it is answered: what is deleted appends nothing more.
        owned.transforms.follow(&owned).await;
        outputs_committed(&owned, &state, transform, "deleted").await
    });
    match outcome.await {
        Ok(()) => TransformDeleteResponse::default(),
        Err(error) => TransformDeleteResponse { error_code: error.code, error_message: Some(error.message) },
    }
}

pub(crate) async fn pause(shared: Arc<Shared>, request: TransformPauseRequest) -> TransformPauseResponse {
    match set_paused(&shared, request.name).await {
        Ok(outcome) => TransformPauseResponse { unchanged: outcome == Outcome::Unchanged, ..Default::default() },
        Err(error) => {
            TransformPauseResponse { error_code: error.code, error_message: Some(error.message), ..Default::default() }
        }
    }
}

pub(crate) async fn resume(shared: Arc<Shared>, request: TransformResumeRequest) -> TransformResumeResponse {
    let skip = request.skip;
    match set_running(&shared, request.name, skip).await {
        Ok((outcome, failed_at)) => TransformResumeResponse {
            unchanged: outcome == Outcome::Unchanged,
            failed_at,
            skipped: skip,
            ..Default::default()
        },
        Err(error) => {
            TransformResumeResponse { error_code: error.code, error_message: Some(error.message), ..Default::default() }
        }
    }
}

/// Waits until everything in the outputs of a transform that has stopped can be read, so that readers who come after the
/// answer find no more of it later.
async fn outputs_committed(shared: &Shared, state: &State, transform: &Transform, is: &str) -> Result<(), WireError> {
    let topics = transform.outputs.iter().filter_map(|id| state.topic_by_id(*id));
    let led = topics.flat_map(|topic| {
        (0..topic.partition_count()).filter_map(|index| shared.partitions.find(topic.id, PartitionId(index)))
    });
    let ends: Vec<_> = led.map(|partition| (partition.log.end_offset(), partition)).collect();
    let committed = async {
        for (end, partition) in ends {
            partition.committed(end).await;
        }
    };
    match select(std::pin::pin!(committed), shared.env.clock.sleep(COMMIT_MAX)).await {
        Either::Left(_) => Ok(()),
        Either::Right(_) => {
            let message = format!("the transform is {is}, but what it has appended last is not committed yet");
            Err(WireError::new(ErrorCode::RequestTimedOut, message))
        }
    }
}

/// Has a transform stand still. Once this is answered, it appends nothing more, and all that it has appended can be read.
async fn set_paused(shared: &Arc<Shared>, name: String) -> Result<Outcome, WireError> {
    let owned = shared.clone();
    to_its_end(shared, "pause transform", async move {
        let state = owned.catalog.state();
        let transform = find(&state, &name)?;
        if let TransformState::Failed { message, .. } = &transform.state {
            // Its error would be forgotten, and it stands still anyway.
            let message = format!("transform {name} has failed and stands still: resume or delete it ({message})");
            return Err(WireError::new(ErrorCode::InvalidRequest, message));
        }
        let (id, revision) = (transform.id, transform.revision);
        let paused = Command::SetTransformState { id, revision, reporter: None, state: TransformState::Paused };
        let outcome = owned.propose(paused).await?;
        owned.transforms.follow(&owned).await;
        outputs_committed(&owned, &state, transform, "paused").await?;
        Ok(outcome)
    })
    .await
}

/// Has a transform run, where its progress says, in the middle of a batch if need be; gives the record that it had failed at, if
/// one was to blame. `skip`: it leaves that one out.
async fn set_running(shared: &Arc<Shared>, name: String, skip: bool) -> Result<(Outcome, Option<String>), WireError> {
    let owned = shared.clone();
    to_its_end(shared, "resume transform", async move {
        let state = owned.catalog.state();
        let transform = find(&state, &name)?;
        let (id, revision, at) = (transform.id, transform.revision, failed_at(transform));
        let command = match (skip, at) {
            (false, _) => Command::SetTransformState { id, revision, reporter: None, state: TransformState::Running },
            (true, Some(record)) => Command::SkipRecord { id, revision, record },
            (true, None) => return Err(nothing_to_skip(transform)),
        };
        let outcome = owned.propose(command).await?;
        owned.transforms.follow(&owned).await;
        Ok((outcome, at.map(|at| place(&state, at))))
    })
    .await
}

/// The record that a transform has failed at, if one is to blame.
fn failed_at(transform: &Transform) -> Option<RecordAt> {
    match transform.state {
        TransformState::Failed { record, .. } => record,
        TransformState::Running | TransformState::Paused => None,
    }
}

/// A record's place for people, `TOPIC/PARTITION@OFFSET`.
fn place(state: &State, at: RecordAt) -> String {
    format!("{}/{}@{}", topic_names(state, &[at.topic]).concat(), at.partition, at.offset)
}

fn nothing_to_skip(transform: &Transform) -> WireError {
    let name = &transform.name;
    let message = match &transform.state {
        TransformState::Running => format!("transform {name} runs: there is no record to leave out"),
        TransformState::Paused => format!(
            "transform {name} is paused, and has failed at no record that could be left out: resume it without --skip"
        ),
        TransformState::Failed { message, .. } => format!(
            "transform {name} has failed, but not at one record that could be left out ({message}): mend the cause and resume it \
             without --skip"
        ),
    };
    WireError::new(ErrorCode::InvalidRequest, message)
}

fn find<'a>(state: &'a State, name: &str) -> Result<&'a Arc<Transform>, WireError> {
    state.transforms.get(name).ok_or_else(|| {
        let message = format!("no transform {name:?}: see `millstream transform list`");
        WireError::new(ErrorCode::TransformNotFound, message)
    })
}

fn topic_names(state: &State, ids: &[TopicId]) -> Vec<String> {
    let name = |id: &TopicId| state.topic_by_id(*id).map_or_else(|| id.to_string(), |topic| topic.name.to_string());
    ids.iter().map(name).collect()
}

fn info(shared: &Shared, state: &State, transform: &Transform) -> TransformInfo {
    let (text, error) = match &transform.state {
        TransformState::Running => ("running", None),
        TransformState::Paused => ("paused", None),
        TransformState::Failed { message, .. } => ("failed", Some(message.clone())),
    };
    let on_error = match transform.on_error {
        OnError::Fail => "fail",
        OnError::Skip => "skip",
        OnError::Retry => "retry",
        OnError::Dlq => "dlq",
        OnError::ParkKey => "park-key",
    };
    let from = match transform.from {
        StartAt::Beginning => "beginning".to_owned(),
        StartAt::End => "end".to_owned(),
        StartAt::Offset(offset) => offset.to_string(),
    };
    let partitions = partitions(shared, state, transform);
    // Of one that has stood still since the broker was started, nothing is known.
    let is_known = text == "running" || !partitions.is_empty();
    let lag = if is_known { partitions.iter().map(|partition| partition.lag).sum() } else { -1 };
    TransformInfo {
        name: transform.name.to_string(),
        transform_id: transform.id,
        module: transform.module.to_string(),
        inputs: topic_names(state, &transform.inputs),
        outputs: topic_names(state, &transform.outputs),
        params: pairs(&transform.params),
        on_error: on_error.into(),
        from,
        lanes: i32::try_from(transform.lanes).unwrap_or(i32::MAX),
        state: text.into(),
        error,
        lag,
        left_out: partitions.iter().map(|partition| partition.left_out).sum(),
        failed_at: failed_at(transform).map(|at| place(state, at)),
    }
}

fn partitions(shared: &Shared, state: &State, transform: &Transform) -> Vec<TransformPartition> {
    let mut partitions = Vec::new();
    for id in &transform.inputs {
        let Some(topic) = state.topic_by_id(*id) else { continue };
        for index in 0..topic.partition_count() {
            let partition = PartitionId(index);
            let Some(stats) = shared.transforms.stats(transform.id, *id, partition) else { continue };
            let Some(led) = shared.partitions.find(*id, partition) else { continue };
            let next_offset = Offset(stats.next_offset.load(Ordering::Relaxed));
            let end_offset = led.high_watermark();
            partitions.push(TransformPartition {
                input: topic.name.to_string(),
                partition,
                next_offset,
                end_offset,
                lag: (end_offset.0 - next_offset.0).max(0),
                records_in: stats.records_in.load(Ordering::Relaxed),
                records_out: stats.records_out.load(Ordering::Relaxed),
                errors: stats.errors.load(Ordering::Relaxed),
                error: stats.error(),
                left_out: stats.left_out.load(Ordering::Relaxed),
            });
        }
    }
    partitions
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn why_a_deployed_transform_does_not_run_is_told() {
        let check = |state: TransformState, is_placed, trouble: Option<&str>, expected: Option<(ErrorCode, &str)>| {
            let transform = Transform {
                id: TransformId(Uuid::from_u128(1)),
                name: Name::new("copy").unwrap(),
                module: "m@1".parse().unwrap(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                params: BTreeMap::new(),
                on_error: OnError::Fail,
                from: StartAt::Beginning,
                lanes: 1,
                state,
                revision: 1,
                deployed_by: 0,
                deployed_at: TimestampMs(0),
                skips: BTreeSet::new(),
            };
            let told = not_running(&transform, is_placed, trouble.map(str::to_owned));
            assert_eq!(told.as_ref().map(|error| error.code), expected.map(|(code, _)| code), "{told:?}");
            let said = told.map(|error| error.message).unwrap_or_default();
            assert!(said.contains(expected.map_or("", |(_, part)| part)), "{said}");
        };
        let failed = || TransformState::Failed { message: "in/3: record 0: no id".into(), record: None };
        let reason = "copy is deployed, and has failed: in/3: record 0: no id.";
        check(TransformState::Running, true, None, None);
        check(TransformState::Running, true, Some("the disk is full"), None);
        check(failed(), true, None, Some((ErrorCode::CallFailed, reason)));
        check(failed(), false, None, Some((ErrorCode::CallFailed, "`millstream transform resume copy`")));
        let waits = "copy is deployed, and has not started yet (the disk is full): it is tried on";
        check(TransformState::Running, false, Some("the disk is full"), Some((ErrorCode::RequestTimedOut, waits)));
        check(TransformState::Running, false, None, Some((ErrorCode::RequestTimedOut, "has not started yet: it is")));
    }
}
