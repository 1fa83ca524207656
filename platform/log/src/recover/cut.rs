//! What a log's files hold past its end, taken away: at once, or after the journal was read.

use std::{path::Path, sync::Arc};

use millstream_model::Offset;

use crate::{
    OpenError, PartitionLog,
    bytes_io::missing_is_fine,
    data_dir::{io, list},
    journal::Journal,
    segment::Segment,
    snapshot,
    state::Part,
};

/// Takes away what the files of a log with a journal still hold past its end, once all that the journal has is written there. Not
/// durably: past the mark nothing counts, and what was replayed is synced.
pub(super) fn cut_rest(journal: &Journal, log: &PartitionLog) -> Result<(), OpenError> {
    let mut state = log.state();
    if !std::mem::take(&mut state.loaded.uncut) {
        return Ok(());
    }
    if state.durable.mark.is_none() {
        remove_all_snapshots(journal, log)?;
    }
    for base in &state.loaded.begun {
        if state.parts.binary_search_by_key(base, |part| part.segment.base).is_err() {
            remove(journal, &Segment::new(&journal.handles, log.its_place(), *base).path)?;
        }
    }
    let marked = state.durable.mark.map_or(Offset(0), |mark| mark.segment_base);
    for part in state.parts.iter().filter(|part| part.segment.base >= marked) {
        let path = &part.segment.path;
        if part.segment.len().map_err(io("measure", path))? > part.len {
            let file = part.segment.handle.writer().map_err(io("open", path))?;
            file.set_len(part.len).map_err(io("cut", path))?;
        }
        // What was replayed stays open until it is synced.
        if state.unsynced.bytes == 0 {
            part.segment.handle.release();
        } else if journal.handles.is_pressed() {
            part.segment.handle.sync_and_close().map_err(io("sync", path))?;
        }
    }
    Ok(())
}

/// Lets the journal write what the segments hold of a log without a mark again. Nothing of it is cut before the last frame.
pub(super) fn uncut_unmarked(journal: &Journal, log: &PartitionLog) -> Result<(), OpenError> {
    let paths = list(&*journal.disk, log.dir())?;
    paths.iter().filter(|path| Segment::base_in_index(path).is_some()).try_for_each(|path| remove(journal, path))?;
    let mut state = log.state();
    (state.loaded.unmarked, state.loaded.uncut) = (false, true);
    Ok(())
}

/// Takes away, durably, what the segments hold of a log without a mark that the journal does not know: it never was durable.
pub(crate) fn cut_unmarked(journal: &Journal, log: &PartitionLog) -> Result<(), OpenError> {
    for base in list(&*journal.disk, log.dir())?.iter().filter_map(|path| Segment::base_in(path)) {
        let segment = Segment::new(&journal.handles, log.its_place(), base);
        remove(journal, &segment.index_path())?;
        match base {
            Offset(0) => cut_active(&Part { segment: Arc::new(segment), len: 0 })?,
            _ => remove(journal, &segment.path)?,
        }
    }
    remove_all_snapshots(journal, log)?;
    journal.disk.sync_dir(log.dir()).map_err(io("sync", log.dir()))?;
    log.state().loaded.unmarked = false;
    Ok(())
}

/// Cuts the file of the last segment to the length that counts, durably.
pub(super) fn cut_active(part: &Part) -> Result<(), OpenError> {
    let path = &part.segment.path;
    if part.segment.len().map_err(io("measure", path))? != part.len {
        let file = part.segment.handle.writer().map_err(io("open", path))?;
        file.set_len(part.len).map_err(io("cut", path))?;
    }
    part.segment.handle.sync_and_close().map_err(io("sync", path))?;
    part.segment.handle.release();
    Ok(())
}

/// Removes the snapshots of a log without a mark: what becomes of it need not be what they are of.
fn remove_all_snapshots(journal: &Journal, log: &PartitionLog) -> Result<(), OpenError> {
    let paths = list(&*journal.disk, log.dir())?;
    paths.iter().filter(|path| snapshot::is_snapshot(path)).try_for_each(|path| remove(journal, path))
}

/// Removes a file, if it is there.
pub(super) fn remove(journal: &Journal, path: &Path) -> Result<(), OpenError> {
    missing_is_fine(journal.disk.remove_file(path)).map_err(io("remove", path))
}
