//! The four things that a module can be.

use crate::failure::Failure;
use crate::out::Out;
use crate::params::{Param, Params};
use crate::record::Record;

/// Chooses the partition of each record of a topic.
pub trait Partitioner: Sized + 'static {
    /// The parameters that it takes. A deployment that gives others is refused.
    const PARAMS: &'static [Param] = &[];
    /// What it looks at beside the key. Whatever is not asked for is not sent to it, which is much cheaper.
    const NEEDS: Needs = Needs::KEY;

    /// Makes an instance; runs once in each.
    ///
    /// # Errors
    /// Parameters that cannot be worked with.
    fn init(params: &Params) -> Result<Self, Failure>;

    /// The partition for `record`, under `partitions`; `None` leaves it to the hash of the key.
    ///
    /// # Errors
    /// A failure refuses the producer's whole request.
    fn partition(&self, record: &Record, partitions: u32) -> Result<Option<u32>, Failure>;
}

/// What a [`Partitioner`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub(crate) value: bool,
    pub(crate) headers: bool,
}

impl Needs {
    /// The key alone.
    pub const KEY: Needs = Needs { value: false, headers: false };
    /// Key and value.
    pub const VALUE: Needs = Needs { value: true, headers: false };
    /// Key and headers.
    pub const HEADERS: Needs = Needs { value: false, headers: true };
    /// All of the record.
    pub const ALL: Needs = Needs { value: true, headers: true };
}

/// Keeps a record in a view, or leaves it out.
pub trait Filter: Sized + 'static {
    /// The parameters that it takes. A deployment that gives others is refused.
    const PARAMS: &'static [Param] = &[];

    /// Makes an instance; runs once in each.
    ///
    /// # Errors
    /// Parameters that cannot be worked with.
    fn init(params: &Params) -> Result<Self, Failure>;

    /// Whether a reader of the view sees `record`.
    ///
    /// # Errors
    /// A failure ends the read that met the record: better leave a record out than refuse it.
    fn keep(&self, record: &Record) -> Result<bool, Failure>;
}

/// Rewrites the records of a view, one by one.
pub trait Mapper: Sized + 'static {
    /// The parameters that it takes. A deployment that gives others is refused.
    const PARAMS: &'static [Param] = &[];

    /// Makes an instance; runs once in each.
    ///
    /// # Errors
    /// Parameters that cannot be worked with.
    fn init(params: &Params) -> Result<Self, Failure>;

    /// Emits what a reader sees in place of `record`: one record on output 0, or none. Offset and time stay the record's.
    ///
    /// # Errors
    /// A failure ends the read that met the record: better leave a record out than refuse it.
    fn map(&self, record: &Record, out: &mut Out) -> Result<(), Failure>;
}

/// Turns the records of its input topics into records of its output topics.
pub trait Transform: Sized + 'static {
    /// The parameters that it takes. A deployment that gives others is refused.
    const PARAMS: &'static [Param] = &[];

    /// Makes an instance; runs once in each.
    ///
    /// # Errors
    /// Parameters that cannot be worked with.
    fn init(params: &Params) -> Result<Self, Failure>;

    /// Emits whatever `record` turns into: any number of records, on any of the outputs.
    ///
    /// # Errors
    /// A failure hands the record to the transform's error policy.
    fn process(&self, record: &Record, out: &mut Out) -> Result<(), Failure>;
}
