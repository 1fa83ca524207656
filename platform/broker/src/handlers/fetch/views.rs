//! What the views of a fetch show, read before anything is held that others wait for.

use std::sync::Arc;

use millstream_env::Share;

use super::{
    Source, Target, Targets,
    answer::{AnswerRoom, read_in_pieces},
};
use crate::{
    errors::WireError,
    shared::Shared,
    view::{self, Scan, Seen},
};

/// What the views of a request show.
pub(super) struct Shown {
    /// One for each target, in their order; none for topics and where there is nothing new.
    pub(super) seen: Vec<Option<Result<Seen, Arc<WireError>>>>,
    /// Until it is part of an answer that has its share, or is not sent.
    _held: Option<Share>,
}

impl Shown {
    pub(super) async fn read(shared: &Shared, topics: &[Targets], bytes_max: usize) -> Self {
        let targets: Vec<&Target> = topics.iter().flat_map(|(_, _, targets)| targets).collect();
        let mut seen: Vec<_> = targets.iter().map(|_| None).collect();
        // Loading a module may have to wait for others that are compiled: before anything is held.
        let mut chains: Vec<_> = targets.iter().map(|_| None).collect();
        for (index, target) in targets.iter().enumerate() {
            let Ok(source @ Source { view: Some(view), .. }) = &target.source else { continue };
            if !source.has_news(&target.request) {
                continue;
            }
            match view::open(shared, view).await {
                Ok(chain) => chains[index] = Some(chain),
                Err(error) => seen[index] = Some(Err(Arc::new(error))),
            }
        }
        let Some(last) = chains.iter().rposition(Option::is_some) else { return Self { seen, _held: None } };
        let views = targets.iter().zip(&chains).filter(|(_, chain)| chain.is_some()).map(|(target, _)| *target);
        let mut held = shared.memory.show(wanted_of_views(views).min(bytes_max)).await;
        let (mut left, mut scan) = (AnswerRoom::new(bytes_max), Scan::new(&*shared.env.clock));
        for (index, (target, chain)) in targets.iter().zip(chains).enumerate().take(last + 1) {
            let (Ok(source), Some(room)) = (&target.source, left.room(&target.request)) else { continue };
            let (partition, from) = (&source.partition, target.request.fetch_offset);
            if let Some(chain) = chain {
                let read = view::read(shared, chain, partition, from, room, &mut scan).await;
                left.take(read.as_ref().map_or(0, Seen::bytes));
                seen[index] = Some(read.map_err(Arc::new));
            } else if source.view.is_none() && source.has_news(&target.request) {
                // Counted and let go, to be read with a share: what the request names first has the room first.
                let mut bytes = 0;
                // What it cannot read is told when it is read for the answer.
                let _ = read_in_pieces(partition, from, room, |read| bytes += read.bytes()).await;
                left.take(bytes);
            }
        }
        held.shrink(seen.iter().flatten().flatten().map(Seen::bytes).sum());
        Self { seen, _held: Some(held) }
    }
}

/// The most that these views may show, and a batch that is larger than they should, bytes.
fn wanted_of_views<'a>(targets: impl Iterator<Item = &'a Target>) -> usize {
    let (mut wanted, mut largest) = (0_usize, 0);
    for target in targets {
        wanted = wanted.saturating_add(usize::try_from(target.request.partition_max_bytes).unwrap_or(0));
        let batch_bytes_max = target.source.as_ref().map_or(0, |source| source.partition.batch_bytes_max());
        largest = largest.max(batch_bytes_max);
    }
    wanted.min(view::SHOWN_BYTES_MAX) + largest
}
