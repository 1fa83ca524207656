//! What the log promises, broken on purpose: to see that the tests would notice.
//!
//! Only a build with the feature `faults` has any of it, which no program asks for; there one of them can be switched on for
//! what a thread runs, as a simulated world does. In every other build the questions are answered `false` by the compiler.

/// A promise to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "faults"), allow(dead_code, unreachable_pub, reason = "nobody can switch them on"))]
pub enum Fault {
    /// The journal is written and not synced, and its tickets resolve.
    SkipSync,
    /// A reference is journaled before the log's mark covers what it stands for.
    EarlyReference,
    /// Segments are not synced before a mark that a reference needs.
    SkipSegmentSync,
    /// A batch that is sent again is answered as durable before the first one is.
    EarlyDuplicate,
    /// A leader that starts again writes on in the epoch that was.
    ReusedEpoch,
    /// The journal does not tell that a log's end was cut back.
    NoTruncate,
    /// What is carried forward in the journal counts before it is durable there.
    EarlyCarry,
    /// Frames of a journal file's earlier use are taken for those of this one.
    StaleNonce,
}

#[cfg(feature = "faults")]
thread_local! {
    static ON: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Switches a fault on, or all off, for the calling thread.
#[cfg(feature = "faults")]
pub fn switch(fault: Option<Fault>) {
    ON.set(fault);
}

/// Whether the promise is to be broken.
pub(crate) fn is_on(fault: Fault) -> bool {
    #[cfg(feature = "faults")]
    return ON.get() == Some(fault);
    #[cfg(not(feature = "faults"))]
    {
        let _ = fault;
        false
    }
}
