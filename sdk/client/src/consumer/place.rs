//! Where reading begins and ends in each partition, as its leader says.

use std::{collections::BTreeMap, sync::Arc};

use millstream_model::{PartitionId, TimestampMs};
use millstream_protocol::messages::offsets::{EARLIEST_TIMESTAMP, LATEST_TIMESTAMP};

use super::{Partition, StartFrom};
use crate::{
    CallError,
    cluster::{Cluster, Topic},
    offsets::{Found, list_offsets},
};

/// What is known of the partitions' places: an error where the storage has failed.
pub(super) type Placed = BTreeMap<PartitionId, Result<Partition, CallError>>;

/// Finds where each of the partitions is read from, and with `until_end` up to where.
pub(super) async fn place(
    cluster: &Cluster,
    topic: &Arc<Topic>,
    wanted: &[PartitionId],
    start: &StartFrom,
    until_end: bool,
) -> Result<Placed, CallError> {
    let ask = |time: TimestampMs| list_offsets(cluster, topic, wanted, time);
    let ends = match until_end || *start == StartFrom::End {
        true => ask(LATEST_TIMESTAMP).await?,
        false => BTreeMap::new(),
    };
    let starts: BTreeMap<PartitionId, Found> = match start {
        StartFrom::Beginning => ask(EARLIEST_TIMESTAMP).await?,
        StartFrom::End => ends.clone(),
        StartFrom::Offset(offset) => wanted.iter().map(|partition| (*partition, Ok(Some(*offset)))).collect(),
        StartFrom::Offsets(offsets) => {
            let others: Vec<_> = wanted.iter().copied().filter(|partition| !offsets.contains_key(partition)).collect();
            let mut starts = list_offsets(cluster, topic, &others, EARLIEST_TIMESTAMP).await?;
            let named = wanted.iter().filter_map(|partition| Some((*partition, *offsets.get(partition)?)));
            starts.extend(named.map(|(partition, offset)| (partition, Ok(Some(offset)))));
            starts
        }
        StartFrom::Timestamp(time) => {
            let mut found = ask(*time).await?;
            let latest = match found.values().any(|found| matches!(found, Ok(None))) {
                true => ask(LATEST_TIMESTAMP).await?,
                false => BTreeMap::new(),
            };
            for (partition, found) in &mut found {
                if let (Ok(None), Some(end)) = (&found, latest.get(partition)) {
                    *found = end.clone();
                }
            }
            found
        }
    };
    let place_of = |at: &PartitionId| -> Result<Partition, CallError> {
        let known = |from: &BTreeMap<PartitionId, Found>| from.get(at).cloned().unwrap_or(Ok(None));
        let (next, end) = (known(&starts)?.unwrap_or_default(), known(&ends)?);
        Ok(Partition { next, end: end.filter(|_| until_end), high_watermark: end })
    };
    Ok(wanted.iter().map(|at| (*at, place_of(at))).collect())
}
