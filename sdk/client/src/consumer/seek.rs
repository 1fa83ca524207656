//! Where a consumer is between what was handed out and what was fetched, and how its caller moves it.

use std::{collections::VecDeque, sync::Arc};

use millstream_model::{Offset, PartitionId, TimestampMs};
use millstream_protocol::messages::offsets::LATEST_TIMESTAMP;

use super::{Consumer, Ready};
use crate::{ConsumeError, cluster::Topic, offsets::list_offsets};

impl Consumer {
    /// Moves a partition: its next record is the first at this offset or behind it, forwards or back. Other partitions stay where they
    /// are, and so does the end of [`until_end`](crate::ConsumerOptions::until_end). What has arrived of the partition is dropped; its
    /// next records take up to [`fetch_wait`](crate::ConsumerOptions::fetch_wait) longer where a question for others is under way.
    ///
    /// An offset that is not there is told of as for one that a consumer starts at: [`ConsumeError::OutOfRange`], or with
    /// [`pass_over_deleted`](crate::ConsumerOptions::pass_over_deleted) an event, where it lies before the first one.
    ///
    /// # Errors
    /// [`ConsumeError::NotRead`]: the partition is none of this consumer's.
    pub fn seek(&mut self, partition: PartitionId, offset: Offset) -> Result<(), ConsumeError> {
        self.check_read(partition)?;
        match self.partitions.get_mut(&partition) {
            Some(state) => state.next = offset,
            // Its end may still have to be asked for.
            None => drop(self.sought.insert(partition, offset)),
        }
        self.current.take_if(|current| current.partition() == partition);
        if self.partitions.contains_key(&partition) {
            self.undecoded.remove(&partition);
            self.failures.moved(partition);
        }
        self.drop_ready(partition);
        Ok(())
    }

    /// Moves a partition, as [`Consumer::seek`], to its first record of at least this time; behind its last record where there is none.
    /// Where that is. Dropping the future moves nothing.
    ///
    /// # Errors
    /// As [`Consumer::seek`]; the partition's leader could not be asked. Nothing has moved then.
    pub async fn seek_to_time(&mut self, partition: PartitionId, time: TimestampMs) -> Result<Offset, ConsumeError> {
        self.check_read(partition)?;
        let offset = match self.ask(&self.topic, partition, time).await? {
            Some(offset) => offset,
            None => self.ask(&self.topic, partition, LATEST_TIMESTAMP).await?.unwrap_or_default(),
        };
        self.seek(partition, offset)?;
        Ok(offset)
    }

    async fn ask(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionId,
        time: TimestampMs,
    ) -> Result<Option<Offset>, ConsumeError> {
        let mut found = list_offsets(&self.cluster, topic, &[partition], time).await?;
        let found = found.remove(&partition).unwrap_or(Ok(None));
        found.map_err(|source| ConsumeError::Partition { partition, source })
    }

    pub(super) fn check_read(&self, partition: PartitionId) -> Result<(), ConsumeError> {
        match self.partitions.contains_key(&partition) || self.unplaced.contains(&partition) {
            true => Ok(()),
            false => Err(ConsumeError::NotRead { topic: Arc::clone(&self.name), partition }),
        }
    }

    /// The first offset of a partition that was not handed out, where something of it waits for that.
    pub(super) fn next_of(&self, partition: PartitionId) -> Option<Offset> {
        let current = self.current.as_ref().filter(|current| current.partition() == partition);
        let mut ready = self.ready.iter().filter(|ready| ready.fetched.partition == partition);
        current.map(|current| current.next()).or_else(|| ready.next().map(|ready| ready.fetched.from))
    }

    /// Drops what has come of a partition and was not handed out.
    pub(super) fn drop_ready(&mut self, partition: PartitionId) {
        let ready = std::mem::take(&mut self.ready);
        let (dropped, others): (VecDeque<_>, _) =
            ready.into_iter().partition(|ready| ready.fetched.partition == partition);
        self.ready = others;
        for Ready { group, bytes, .. } in dropped {
            self.release(group, bytes);
        }
    }
}
