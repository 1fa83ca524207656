//! What an answer holds, taken apart and checked: in the Fetch's own task, beside whoever reads what came before.

use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{FetchResponse, PartitionData},
};
use millstream_record::{Batch, BatchError, Batches, RoutingMarker, batches};

/// One partition's part of an answer.
pub(super) struct Answer {
    pub(super) partition: PartitionId,
    /// Where it was asked from.
    pub(super) from: Offset,
    pub(super) error: Option<(ErrorCode, Option<String>)>,
    /// Where the partition starts, and what of it could be read, when it was answered; none where the broker does not say.
    pub(super) log_start: Option<Offset>,
    pub(super) high_watermark: Option<Offset>,
    /// Records, without control batches, before the damage if there is any; the first may begin before `from`.
    pub(super) batches: Vec<Batch>,
    /// Where reading goes on.
    pub(super) next: Offset,
    /// The topic is routed anew from somewhere in the answer on: there may be more partitions.
    pub(super) is_routed_anew: bool,
    /// The first batch that cannot be used, by its base offset, with the reason.
    pub(super) damage: Option<(Offset, String)>,
}

impl Answer {
    /// What the batches take, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes().len()).sum()
    }
}

/// Takes an answer apart. Partitions that were not asked for are left out.
pub(super) fn check(response: FetchResponse, asked: &[(PartitionId, Offset)]) -> Vec<Answer> {
    let answers = response.responses.into_iter().flat_map(|topic| topic.partitions);
    let check = |answer: PartitionData| {
        let (partition, from) = asked.iter().copied().find(|(at, _)| *at == answer.partition_index)?;
        Some(check_partition(partition, from, answer))
    };
    answers.filter_map(check).collect()
}

/// As [`check`], of one partition that was asked for.
pub(super) fn check_partition(partition: PartitionId, from: Offset, data: PartitionData) -> Answer {
    let known = |offset: Offset| Some(offset).filter(|offset| offset.0 >= 0);
    let mut answer = Answer {
        partition,
        from,
        error: Some((data.error_code, data.error_message)).filter(|(code, _)| !code.is_ok()),
        log_start: known(data.log_start_offset),
        high_watermark: known(data.high_watermark),
        batches: Vec::new(),
        next: from,
        is_routed_anew: false,
        damage: None,
    };
    if answer.error.is_some() {
        return answer;
    }
    let mut rest: Batches = batches(data.records.to_bytes());
    for batch in &mut rest {
        match check_batch(batch, answer.next) {
            // Wholly before the position: a broker may begin earlier, never twice.
            Ok(None) => {}
            Ok(Some((batch, end))) => {
                answer.next = end;
                match batch.header().attributes.is_control() {
                    true => answer.is_routed_anew |= RoutingMarker::of(&batch).is_some(),
                    false => answer.batches.push(batch),
                }
            }
            Err(found) => {
                answer.damage = Some(found);
                break;
            }
        }
    }
    if answer.damage.is_none() {
        answer.next = answer.next.max(data.next_offset);
    }
    // Brokers cut an answer anywhere but in its first batch: asked again, this one would say the same for ever.
    if answer.next == from && answer.damage.is_none() && !data.records.is_empty() {
        let detail = match rest.rest().len() {
            0 => "the answer has only batches before it".into(),
            cut => format!("the answer ends within the batch, of which it has {cut} bytes"),
        };
        answer.damage = Some((from, detail));
    }
    answer
}

/// Checks a batch and says where it ends; none if that is before `next`. What is damaged is told with where it begins.
fn check_batch(batch: Result<Batch, BatchError>, next: Offset) -> Result<Option<(Batch, Offset)>, (Offset, String)> {
    let batch = batch.map_err(|error| (next, error.to_string()))?;
    let (base, delta) = {
        let header = batch.header();
        (header.base_offset, header.last_offset_delta)
    };
    let end = base.0.checked_add(i64::from(delta)).and_then(|last| last.checked_add(1)).map(Offset);
    let end = end.ok_or_else(|| (base, "its offsets overflow".to_owned()))?;
    if end <= next {
        return Ok(None);
    }
    batch.verify_crc().map_err(|error| (base, error.to_string()))?;
    Ok(Some((batch, end)))
}
