//! A log's frames in the journal, and which part of it they pin.

use crate::{carry::Carried, frame::Kind};

/// Which part of the journal a log pins: its first frame that its segments do not durably hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pin {
    /// None.
    #[default]
    Free,
    /// From this frame on.
    At(u64),
    /// From `at` on, which is being synced; `after` is the first frame since that began.
    Syncing { at: Option<u64>, after: Option<u64> },
}

/// The frames of a log, by their numbers. 0: there is none.
#[derive(Default)]
pub(crate) struct Frames {
    pub(crate) pin: Pin,
    /// The last one, but for its deletion.
    pub(crate) last: u64,
    /// The last one that is no batch's, but for its deletion.
    pub(crate) changed: u64,
    /// The one that told the start, if it is of this run.
    pub(crate) start: u64,
    /// How the log was carried forward since its mark.
    pub(crate) carried: Carried,
}

impl Frames {
    /// Notes a frame that was queued, and is not the log's deletion.
    pub(crate) fn queued(&mut self, kind: Kind, lsn: u64) {
        self.last = lsn;
        if !matches!(kind, Kind::Append | Kind::Carry) {
            self.changed = lsn;
        }
    }

    /// Notes that frame `lsn` concerns this log. Whether it is the first since the last sync: then the caller pins it.
    pub(crate) fn pin_at(&mut self, lsn: u64) -> bool {
        match &mut self.pin {
            Pin::Free => {
                self.pin = Pin::At(lsn);
                return true;
            }
            Pin::Syncing { after, .. } => {
                after.get_or_insert(lsn);
            }
            Pin::At(_) => {}
        }
        false
    }

    /// Begins a sync, unless one is under way; whether it does. `after`: a frame that the sync does not cover all the same.
    pub(crate) fn begin_sync(&mut self, after: Option<u64>) -> bool {
        let at = match self.pin {
            Pin::Free => None,
            Pin::At(at) => Some(at),
            Pin::Syncing { .. } => return false,
        };
        self.pin = Pin::Syncing { at, after };
        // What is on its way is overtaken: the mark will say more.
        self.carried = Carried::default();
        true
    }

    /// Ends a sync. `frees`: what was there when it began needs the journal no more. Gives the pin that goes, and the one that comes.
    pub(crate) fn end_sync(&mut self, frees: bool) -> (Option<u64>, Option<u64>) {
        let Pin::Syncing { at, after } = self.pin else { return (None, None) };
        let (goes, pin, comes) = match frees {
            true => (at, after, after),
            // The first is there still.
            false => (None, at.or(after), after.filter(|_| at.is_none())),
        };
        self.pin = pin.map_or(Pin::Free, Pin::At);
        (goes, comes)
    }
}
