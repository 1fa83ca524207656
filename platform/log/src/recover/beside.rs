//! What is kept of a log beside its segments, as their files tell and the batches since: leader epochs and producers.

use std::path::Path;

use millstream_model::{LeaderEpoch, Offset};
use millstream_record::BatchHeader;

use super::unreadable;
use crate::{
    OpenError,
    data_dir::io,
    epochs::{Epochs, LiveEpochs},
    journal::Journal,
    mark::{Mark, Saved},
    producers::Producers,
    snapshot::{self, UNKNOWN_BYTES},
    sound::{Step, extents},
    state::Part,
};

/// The epochs below `end`: from their file, or where that is not sound from the batches. Where the file says otherwise,
/// it is to be written before the mark moves on, or an epoch that was lost would come back once the log has grown past its start.
///
/// Also the last one of the file, if it begins at `found_end`, where the log was found to end: past the mark, too, nothing belies it.
pub(super) fn load_epochs(
    journal: &Journal,
    dir: &Path,
    parts: &[Part],
    (start, end): (Offset, Offset),
    found_end: Offset,
) -> Result<(LiveEpochs, Option<LeaderEpoch>), OpenError> {
    let path = dir.join("epochs");
    let mut stored = Epochs::load(&*journal.disk, &path).map_err(io("read", &path))?;
    let last = stored.as_ref().and_then(|stored| stored.begun_at(found_end));
    // The start may have moved past what is left, and the first epoch with it: that one had begun before, and for good. (Or past the
    // mark: then batches of older epochs are found there, by replay or in the tail that is kept.)
    let moved = stored.as_mut().is_some_and(|stored| stored.begin_by(end));
    let is_stored = stored.is_some();
    let mut epochs = match stored {
        // Its first one is cut to a start that the mark does not know of, and that need not have become durable. (None is left where the
        // log was cut there, too.)
        Some(stored) if stored.first_start().is_none_or(|first| first > start) && end > start => {
            let mut epochs = epochs_of(parts, stored.first_start().unwrap_or(end))?;
            epochs.extend(&stored);
            epochs
        }
        Some(epochs) => epochs,
        None if end == Offset(0) => Epochs::default(),
        None => {
            tracing::warn!(path = %path.display(), "not sound; the epochs are taken from the batches");
            epochs_of(parts, end)?
        }
    };
    let changed = moved | epochs.cut(end) | epochs.cut_below(start) || (!is_stored && end > Offset(0));
    Ok((LiveEpochs::new(epochs, changed), last))
}

/// The epochs that the batches below `end` tell of. Of an epoch whose batches are all lost nothing tells.
fn epochs_of(parts: &[Part], end: Offset) -> Result<Epochs, OpenError> {
    let mut epochs = Epochs::default();
    each_sound(parts, Offset(0), end, |header| {
        epochs.begin(header.partition_leader_epoch, header.base_offset);
    })?;
    Ok(epochs)
}

/// Goes over the sound batches between two offsets, and the one that holds the first.
fn each_sound(parts: &[Part], from: Offset, end: Offset, mut each: impl FnMut(&BatchHeader)) -> Result<(), OpenError> {
    for extent in extents(parts, end).filter(|extent| extent.end > from) {
        let segment = &extent.part.segment;
        let index = segment.index_so_far(extent.part.len).map_err(unreadable)?;
        let mut salvage = extent.salvage(&index, from);
        while let Some(step) = salvage.next().map_err(unreadable)? {
            match step {
                Step::Batch(_, header) if header.end_offset() > from => each(&header),
                Step::Batch(..) => {}
                Step::Lost(at, hole) => extent.tell(at, hole),
            }
        }
        segment.handle.release();
    }
    Ok(())
}

/// The producers at the mark: as its snapshot says and the batches after it; where that is not sound, the last one that is among
/// `snapshots`, or all batches. Also how many bytes of batches were looked at.
pub(super) fn load_producers(
    journal: &Journal,
    dir: &Path,
    parts: &[Part],
    mark: &Mark,
    snapshots: &[Offset],
) -> Result<(Producers, u64), OpenError> {
    let disk = &*journal.disk;
    let Saved { at, behind } = mark.producers;
    let path = snapshot::path(dir, at);
    let limits = journal.producer_limits();
    let stored = match at {
        Offset(0) => Some(Producers::new(limits)),
        _ => snapshot::load(disk, dir, at, limits).map_err(io("read", &path))?,
    };
    let (mut producers, from) = match stored {
        // How much follows is not known, unless it is nothing.
        Some(producers) if !behind => return Ok((producers, if at == mark.end { 0 } else { UNKNOWN_BYTES })),
        Some(producers) => (producers, at.max(mark.start)),
        None => {
            tracing::warn!(path = %path.display(), "not sound; the producers are taken from what is before, and the batches since");
            let before = &snapshots[..snapshots.partition_point(|before| *before < at)];
            let found = snapshot::load_last(disk, dir, before, limits).map_err(io("read", dir))?;
            found.map_or_else(|| (Producers::new(limits), mark.start), |(at, producers)| (producers, at))
        }
    };
    let now = journal.now();
    let mut bytes = 0;
    // What is lost cannot be served twice: it is no loss that nobody remembers who sent it. Who comes next in sequence after what is
    // lost is refused, if more of it is remembered, and begins a new epoch.
    each_sound(parts, from, mark.end, |header| {
        bytes += header.batch_bytes() as u64;
        producers.note(header, now);
    })?;
    Ok((producers, bytes))
}
