//! Partitions that are not read for a while, and records as a stream.

use futures::{Stream, stream};
use millstream_model::PartitionId;

use super::{ConsumedRecord, Consumer};
use crate::ConsumeError;

impl Consumer {
    /// Reads nothing more of a partition until [`Consumer::resume`]: none of its records is handed out, also those that have arrived,
    /// which are fetched again then. The others are read on. Where it was paused already nothing changes.
    ///
    /// While all that is left to be read is paused, [`Consumer::next`] waits: drop its future to resume one.
    ///
    /// # Errors
    /// [`ConsumeError::NotRead`]: the partition is none of this consumer's.
    pub fn pause(&mut self, partition: PartitionId) -> Result<(), ConsumeError> {
        self.check_read(partition)?;
        if self.paused.insert(partition)
            && let Some(next) = self.next_of(partition)
        {
            // What waits to be handed out would hold up the others.
            self.seek(partition, next)?;
        }
        Ok(())
    }

    /// Reads a partition on, from where it was paused or moved to since.
    ///
    /// # Errors
    /// As [`Consumer::pause`].
    pub fn resume(&mut self, partition: PartitionId) -> Result<(), ConsumeError> {
        self.check_read(partition)?;
        self.paused.remove(&partition);
        Ok(())
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.paused.iter().copied()
    }

    /// Its records as a stream, which ends as [`Consumer::next`] does; after an error, going on tries again. The consumer can be used
    /// again once the stream is dropped: nothing is lost.
    ///
    /// ```no_run
    /// use futures::{StreamExt, pin_mut};
    /// use millstream_client::{ConsumeError, Consumer};
    ///
    /// # async fn example(consumer: &mut Consumer) -> Result<(), ConsumeError> {
    /// let records = consumer.stream();
    /// pin_mut!(records);
    /// while let Some(record) = records.next().await {
    ///     println!("{:?}", record?.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&mut self) -> impl Stream<Item = Result<ConsumedRecord, ConsumeError>> + Send + '_ {
        stream::unfold(self, |consumer| async move {
            let record = consumer.next().await.transpose()?;
            Some((record, consumer))
        })
    }

    /// Whether nothing is left to be read but what is paused.
    pub(super) fn is_all_paused(&self) -> bool {
        let mut left = self.partitions.iter().filter(|(_, state)| !state.is_done()).map(|(at, _)| at);
        !self.stale && self.unplaced.is_empty() && left.all(|at| self.paused.contains(at))
    }
}
