//! What QUIC clients may have under way to us, all together: bytes that have come and that nobody has read yet.
//!
//! QUIC keeps them in our memory and not in the kernel's. A frame that waits for its share of [`Limits::budget`] is read when it has it, and so
//! is what stands behind a request that cannot be started: until then as much as a connection's window lies here. With a full window for
//! each, a thousand connections of one client would hold sixteen gigabytes.
//!
//! So the windows have a size together, and the more connections there are, the less of it each has:
//!
//! ```text
//! connections   1 .. 16       32      64  ...  1024        (all: 256 MiB)
//! window each   16 MiB     8 MiB   4 MiB  ...  256 KiB
//! ```
//!
//! What was allowed before cannot be taken back: connections that stood when there were few use up what they have, and are given less from
//! then on. So the worst that can lie here is as much again for each time that the connections have doubled since the windows began to shrink.

use std::sync::{Mutex, PoisonError};

use quinn::VarInt;

use crate::Limits;

/// Part of the budget for frames that the windows have together.
const BUDGET_SHARE: usize = 8;
/// What each has at least, bytes: a round trip of a few milliseconds is no obstacle with it.
const WINDOW_BYTES_MIN: u32 = 64 << 10;
/// When so many times as much has become free, windows that stand are made larger again.
const GROWTH: u32 = 4;

/// A window that can be changed, as long as its connection is there.
pub(crate) trait Window {
    /// False: the connection is gone.
    fn resize(&self, bytes: VarInt) -> bool;
}

/// The windows of a listener's connections.
#[derive(Debug)]
pub(crate) struct Windows<W> {
    together: usize,
    max: u32,
    standing: Mutex<Standing<W>>,
}

#[derive(Debug)]
struct Standing<W> {
    /// What each was given last.
    each: u32,
    windows: Vec<W>,
    /// How many windows there may be before those of connections that are gone are looked for.
    tidy_at: usize,
}

impl<W: Window> Windows<W> {
    pub(crate) fn new(limits: &Limits) -> Self {
        let max = limits.connection_window_bytes;
        let standing = Standing { each: max, windows: Vec::new(), tidy_at: 0 };
        Self { together: limits.budget.total_bytes() / BUDGET_SHARE, max, standing: Mutex::new(standing) }
    }

    /// What a connection begins with that is one of so many.
    pub(crate) fn each_of(&self, connections: usize) -> u32 {
        let share = self.together / connections.next_power_of_two();
        u32::try_from(share).unwrap_or(u32::MAX).clamp(WINDOW_BYTES_MIN.min(self.max), self.max)
    }

    /// Takes in a connection that began with this window and is now one of so many. All others are given less if they must be, and more
    /// if there is much more.
    pub(crate) fn join(&self, window: W, begun_with: u32, connections: usize) {
        let each = self.each_of(connections);
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let change =
            each < standing.each || each / GROWTH >= standing.each || (each == self.max && each > standing.each);
        if change || standing.windows.len() >= standing.tidy_at {
            standing.each = if change { each } else { standing.each };
            let now = VarInt::from_u32(standing.each);
            standing.windows.retain(|window| window.resize(now));
            standing.tidy_at = 2 * standing.windows.len() + 16;
        }
        if begun_with != standing.each {
            window.resize(VarInt::from_u32(standing.each));
        }
        standing.windows.push(window);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use millstream_env::Budget;

    use super::*;

    const MIB: u32 = 1 << 20;

    /// A connection's window, 0 once it is gone.
    #[derive(Clone, Default)]
    struct Told(Rc<Cell<u32>>);

    impl Window for Told {
        fn resize(&self, bytes: VarInt) -> bool {
            let is_there = self.0.get() > 0;
            if is_there {
                self.0.set(u32::try_from(bytes.into_inner()).unwrap());
            }
            is_there
        }
    }

    fn windows(budget: usize) -> Windows<Told> {
        Windows::new(&Limits { budget: Budget::new(budget), ..Limits::default() })
    }

    #[test]
    fn the_more_connections_there_are_the_less_each_may_have_under_way() {
        let windows = windows(2 << 30);
        let check = |connections: usize, expected: u32| {
            assert_eq!(windows.each_of(connections), expected, "{connections}");
        };
        check(1, 16 * MIB);
        check(16, 16 * MIB);
        check(17, 8 * MIB);
        check(1024, MIB / 4);
        check(4096, MIB / 16);
        check(1 << 20, WINDOW_BYTES_MIN);
        let unlimited = Windows::<Told>::new(&Limits::default());
        assert_eq!(unlimited.each_of(4096), 16 * MIB);
    }

    #[test]
    fn windows_that_stand_shrink_with_the_crowd_and_grow_when_it_has_gone() {
        let windows = windows(2 << 30);
        let told: Vec<_> = (0..64).map(|_| Told(Rc::new(Cell::new(16 * MIB)))).collect();
        for (before, window) in told.iter().enumerate() {
            let begun_with = windows.each_of(before + 1);
            window.0.set(begun_with);
            windows.join(window.clone(), begun_with, before + 1);
            assert!(told[..=before].iter().all(|window| window.0.get() == begun_with), "{before}");
        }
        assert_eq!(told[0].0.get(), 4 * MIB);
        // Half of them go, and again: not each coming and going is told to all.
        told[40..].iter().for_each(|window| window.0.set(0));
        let late = Told(Rc::new(Cell::new(8 * MIB)));
        windows.join(late.clone(), 8 * MIB, 32);
        assert_eq!((told[0].0.get(), late.0.get()), (4 * MIB, 4 * MIB));
        told[4..].iter().for_each(|window| window.0.set(0));
        windows.join(late.clone(), 16 * MIB, 6);
        assert_eq!((told[0].0.get(), late.0.get()), (16 * MIB, 16 * MIB));
        assert_eq!(windows.standing.lock().unwrap().windows.len(), 6, "those that are gone are forgotten");
    }
}
