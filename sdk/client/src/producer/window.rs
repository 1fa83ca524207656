//! What is under way to one partition, in order: what goes out next, and what an answer means for the rest. No I/O.
//!
//! An idempotent producer numbers what it sends to a partition, and the broker takes it in that order only, each number once.
//! So several batches may be under way, and one that was not answered is sent again without a doubt. The rules:
//!
//! - In an epoch that no acknowledgement has come from yet, one batch is under way alone: a broker that does not know the
//!   producer takes any first number, and the second batch must not be that one. After that, up to [`IN_FLIGHT_MAX`] are.
//! - When an attempt fails, nothing more is sent until every attempt has ended. Then what is left is sent again, in order, with
//!   the numbers that it had.
//! - A batch that is given up leaves a gap, and the broker refuses those behind it as out of order: they are certainly not in
//!   the log. When the *oldest* one is so refused, what is left is numbered anew from 0 in the next epoch (KIP-360), which also
//!   fences whatever may still be on its way. Not earlier: while a batch may be in the log, its number must stay.
//! - Without numbers, one batch is under way at a time.

use std::collections::VecDeque;

use millstream_model::{ProducerEpoch, ProducerId, Sequence};

/// How many batches are under way to a partition: as many as brokers remember.
pub(super) const IN_FLIGHT_MAX: usize = 5;

/// A batch's place in the order of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
    pub(super) sequence: Sequence,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may have been appended or not; the same again may succeed.
    Retry,
    /// It was not appended, for what was before it.
    OutOfOrder,
    /// Nothing will help.
    Final,
}

/// How a batch is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// Not at all.
    Never,
    /// As soon as there is a producer id.
    Waiting,
    /// From this stamp on.
    Next(Stamp),
}

struct Slot<T> {
    serial: u64,
    payload: T,
    count: i32,
    stamp: Option<Stamp>,
    /// Not numbered, and nothing is under way beside it.
    alone: bool,
    running: bool,
}

/// The batches of one partition that were cut and have no fate yet, oldest first.
pub(super) struct Window<T> {
    slots: VecDeque<Slot<T>>,
    numbering: Numbering,
    next_serial: u64,
    running: usize,
    /// A batch of the present epoch was acknowledged.
    opened: bool,
    /// A number was used for a batch that was given up.
    gap: bool,
    /// An attempt failed: all must end.
    stalled: bool,
    /// The oldest batch was refused as out of order.
    renumber: bool,
}

impl<T> Window<T> {
    pub(super) fn new(idempotent: bool) -> Self {
        Self {
            slots: VecDeque::new(),
            numbering: if idempotent { Numbering::Waiting } else { Numbering::Never },
            next_serial: 0,
            running: 0,
            opened: false,
            gap: false,
            stalled: false,
            renumber: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether another batch may be added. One that goes alone needs an empty window.
    pub(super) fn has_room(&self) -> bool {
        !self.stalled && self.slots.len() < self.in_flight_max() && !self.slots.iter().any(|slot| slot.alone)
    }

    /// Adds the next batch, of `count` records. `alone`: it is not numbered, and the window must be empty.
    pub(super) fn push(&mut self, payload: T, count: i32, alone: bool) {
        assert!(self.has_room() && (!alone || self.slots.is_empty()), "a batch too many is under way");
        let stamp = if alone { None } else { self.take_stamp(count) };
        self.slots.push_back(Slot { serial: self.next_serial, payload, count, stamp, alone, running: false });
        self.next_serial += 1;
    }

    /// The next batch to be sent now: its serial number for the answer, and its place. It counts as under way.
    pub(super) fn next(&mut self) -> Option<(u64, &mut T, Option<Stamp>)> {
        if self.stalled || self.needs_id() || self.running >= self.in_flight_max() {
            return None;
        }
        let at = self.slots.iter().position(|slot| !slot.running)?;
        self.running += 1;
        let slot = &mut self.slots[at];
        slot.running = true;
        Some((slot.serial, &mut slot.payload, slot.stamp))
    }

    /// Whether nothing can be sent before [`Window::set_id`].
    pub(super) fn needs_id(&self) -> bool {
        self.numbering == Numbering::Waiting && self.slots.front().is_some_and(|slot| !slot.alone)
    }

    /// Numbers everything from 0, as this producer in its first epoch.
    pub(super) fn set_id(&mut self, id: ProducerId) {
        self.begin(Stamp { id, epoch: ProducerEpoch(0), sequence: Sequence(0) });
    }

    /// A batch was acknowledged: it is out of the window.
    pub(super) fn acknowledged(&mut self, serial: u64) -> Option<T> {
        let at = self.ended(serial)?;
        self.opened |= self.slots[at].stamp.is_some();
        self.remove(at)
    }

    /// An attempt failed. Given back where the batch is given up; else it stays.
    pub(super) fn failed(&mut self, serial: u64, failure: Failure) -> Option<T> {
        let at = self.ended(serial)?;
        let stamp = self.slots[at].stamp;
        let failure = match failure {
            // Nothing can be missing before the first of an epoch.
            Failure::OutOfOrder if stamp.is_none_or(|stamp| !self.opened && stamp.sequence.0 == 0) => Failure::Final,
            other => other,
        };
        match failure {
            Failure::Final => return self.give_up(at),
            Failure::OutOfOrder => self.renumber |= at == 0,
            Failure::Retry => {}
        }
        self.stalled = true;
        None
    }

    /// Gives the oldest batch up, which must not be under way.
    pub(super) fn give_up_oldest(&mut self) -> Option<T> {
        match self.slots.front() {
            Some(slot) if !slot.running => self.give_up(0),
            _ => None,
        }
    }

    /// The oldest batch.
    pub(super) fn oldest(&mut self) -> Option<&mut T> {
        self.slots.front_mut().map(|slot| &mut slot.payload)
    }

    /// All, oldest first.
    pub(super) fn payloads(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().map(|slot| &mut slot.payload)
    }

    /// The batch of an attempt.
    pub(super) fn batch(&mut self, serial: u64) -> Option<&mut T> {
        self.slots.iter_mut().find(|slot| slot.serial == serial).map(|slot| &mut slot.payload)
    }

    /// Nothing is sent until [`Window::resume`]: there is no producer id to be had at the moment.
    pub(super) fn stall(&mut self) {
        self.stalled = true;
    }

    /// Whether an attempt has failed and all have ended: time to pause, and to [`Window::resume`].
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled && self.running == 0
    }

    /// Whether the batches are only to be numbered anew: the broker is well, and there is nothing to wait for.
    pub(super) fn renumbers(&self) -> bool {
        self.renumber
    }

    /// Sends what is left again.
    pub(super) fn resume(&mut self) {
        assert!(self.running == 0, "an attempt is still under way");
        self.stalled = false;
        if std::mem::take(&mut self.renumber) {
            self.next_epoch();
        }
    }

    fn in_flight_max(&self) -> usize {
        if self.opened && self.numbering != Numbering::Never { IN_FLIGHT_MAX } else { 1 }
    }

    /// Notes that an attempt has ended; where its batch is.
    fn ended(&mut self, serial: u64) -> Option<usize> {
        let at = self.slots.iter().position(|slot| slot.serial == serial && slot.running)?;
        self.slots[at].running = false;
        self.running -= 1;
        Some(at)
    }

    fn remove(&mut self, at: usize) -> Option<T> {
        let payload = self.slots.remove(at).map(|slot| slot.payload);
        if self.slots.is_empty() {
            self.renumber = false;
            if std::mem::take(&mut self.gap) {
                self.next_epoch();
            }
        }
        payload
    }

    fn give_up(&mut self, at: usize) -> Option<T> {
        self.gap |= self.slots[at].stamp.is_some();
        self.remove(at)
    }

    fn next_epoch(&mut self) {
        let Numbering::Next(Stamp { id, epoch, .. }) = self.numbering else { return };
        match epoch.0.checked_add(1) {
            Some(epoch) => self.begin(Stamp { id, epoch: ProducerEpoch(epoch), sequence: Sequence(0) }),
            None => {
                self.numbering = Numbering::Waiting;
                (self.opened, self.gap) = (false, false);
            }
        }
    }

    fn begin(&mut self, first: Stamp) {
        self.numbering = Numbering::Next(first);
        (self.opened, self.gap) = (false, false);
        for at in 0..self.slots.len() {
            if !self.slots[at].alone {
                self.slots[at].stamp = self.take_stamp(self.slots[at].count);
            }
        }
    }

    fn take_stamp(&mut self, count: i32) -> Option<Stamp> {
        let Numbering::Next(stamp) = &mut self.numbering else { return None };
        let taken = *stamp;
        stamp.sequence = stamp.sequence.plus(count);
        Some(taken)
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
