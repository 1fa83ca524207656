//! What a fetch waits for: enough to answer with, and leave to read what is old.

use futures::{StreamExt, stream::FuturesUnordered};
use millstream_log::ReadParts;
use millstream_model::Offset;
use tokio::sync::watch;

use super::{Source, Target, Targets, answer::read_in_pieces};
use crate::catch_up::{Place, ReadingConnection};

/// Old records of a partition are not waited for where there are new ones of others: of them an answer has so much then, bytes.
const BESIDE_BYTES: usize = 64 << 10;

/// Partitions that are looked at before others have the thread.
const LOOKS_AT_ONCE: usize = 256;

/// How far one source has been counted.
struct Counted<'a> {
    source: &'a Source,
    partition_bytes_max: usize,
    next: Offset,
    bytes: usize,
    high_watermark: watch::Receiver<Offset>,
}

impl Counted<'_> {
    /// How many bytes have come, counted once; none when that must be said at once, whatever else is missing.
    ///
    /// What there is to read is read and let go. Only what came since the last time: a wait costs as much as what it waits for.
    async fn count(&mut self, bytes_max: usize, exactly: bool) -> Option<usize> {
        // Seen before the log is read: what grows later wakes the wait.
        let high_watermark = *self.high_watermark.borrow_and_update();
        let start = self.source.partition.log.start_offset();
        if self.next < start || self.next > high_watermark {
            return None;
        }
        if self.next == high_watermark {
            self.source.partition.log.watch_tail();
            return Some(self.bytes);
        }
        // What a view shows is known once its modules have seen it: its reader is answered at any progress.
        if self.source.view.is_some() {
            return None;
        }
        if !exactly {
            return Some(1);
        }
        let bytes_max = self.partition_bytes_max.min(bytes_max).saturating_sub(self.bytes);
        if bytes_max > 0 {
            let (partition, from) = (&self.source.partition, self.next);
            let count = |read: ReadParts| (self.bytes, self.next) = (self.bytes + read.bytes(), read.next);
            read_in_pieces(partition, from, bytes_max, count).await.ok()?;
        }
        Some(self.bytes)
    }
}

/// Resolves once there are `bytes_min` bytes to answer with, or something to say at once: an error, or progress of a view.
pub(super) async fn enough(topics: &[Targets], bytes_min: usize, bytes_max: usize) {
    let exactly = bytes_min > 1;
    let (mut total, mut waits) = (0_usize, FuturesUnordered::new());
    let targets = topics.iter().flat_map(|(_, _, targets)| targets);
    for (at, target) in targets.enumerate() {
        if at % LOOKS_AT_ONCE == LOOKS_AT_ONCE - 1 {
            // Others on this thread first.
            tokio::task::yield_now().await;
        }
        let Ok(source) = &target.source else { return };
        let mut counted = Counted {
            source,
            partition_bytes_max: usize::try_from(target.request.partition_max_bytes).unwrap_or(0),
            next: target.request.fetch_offset,
            bytes: 0,
            high_watermark: source.partition.subscribe(),
        };
        let Some(bytes) = counted.count(bytes_max, exactly).await else { return };
        total = total.saturating_add(bytes);
        if total >= bytes_min.max(1) {
            return;
        }
        waits.push(grown(counted, bytes));
    }
    loop {
        // With nothing to wait for, only time ends the wait.
        let Some(grew) = waits.next().await else { return std::future::pending().await };
        let Some((mut counted, before)) = grew else { return };
        let Some(bytes) = counted.count(bytes_max, exactly).await else { return };
        total = total.saturating_add(bytes - before);
        if total >= bytes_min.max(1) {
            return;
        }
        waits.push(grown(counted, bytes));
    }
}

/// Resolves when the high watermark has moved; none if it cannot any more.
async fn grown(mut counted: Counted<'_>, bytes: usize) -> Option<(Counted<'_>, usize)> {
    counted.high_watermark.changed().await.ok()?;
    Some((counted, bytes))
}

/// Has a request for old records wait where producers would suffer from it. Once there is something new to answer with, or to say, it
/// waits no longer, and has little room for the old. So it is once `hurried` resolves. None if it asks for nothing old.
pub(super) async fn give_way(
    reading: &ReadingConnection,
    topics: &mut [Targets],
    bytes_max: usize,
    hurried: impl Future<Output = ()>,
) -> Option<Place> {
    // Most fetches ask for nothing old: they pay for no more than this look.
    let is_old = |target: &Target| target.source.as_ref().is_ok_and(|source| source.is_old(&target.request));
    if !topics.iter().flat_map(|(_, _, targets)| targets).any(is_old) {
        return None;
    }
    let (mut old, mut others, mut news) = (Vec::new(), Vec::new(), false);
    for target in topics.iter_mut().flat_map(|(_, _, targets)| targets) {
        let Ok(source) = &target.source else {
            news = true;
            continue;
        };
        // Before it is looked at: what grows later ends the wait.
        let high_watermark = source.partition.subscribe();
        if source.is_old(&target.request) {
            old.push(&mut target.request);
        } else {
            news |= *high_watermark.borrow() != target.request.fetch_offset;
            others.push(high_watermark);
        }
    }
    // No more than it asks for there: who asks for little is taken at its word.
    let asked_bytes = old.iter().map(|request| usize::try_from(request.partition_max_bytes).unwrap_or(0));
    let mut place = reading.ask(asked_bytes.fold(0, usize::saturating_add).min(bytes_max))?;
    if place.is_due() {
        return Some(place);
    }
    if !news {
        let mut grown: FuturesUnordered<_> = others.iter_mut().map(watch::Receiver::changed).collect();
        let grown = async {
            if grown.next().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = place.due() => return Some(place),
            () = grown => {}
            () = hurried => {}
        }
    }
    let beside_bytes_max = i32::try_from(BESIDE_BYTES).unwrap_or(i32::MAX);
    for request in old {
        request.partition_max_bytes = request.partition_max_bytes.min(beside_bytes_max);
    }
    Some(place)
}
