//! Write Millstream modules: partitioners, views and transforms as plain Rust traits.
//!
//! A module is a type and one `impl`. Which trait it implements decides what it may be used for:
//!
//! | trait | exported as | does | used by |
//! |---|---|---|---|
//! | [`Partitioner`] | `partitioner` | chooses a record's partition | a topic (`--partitioner`) |
//! | [`Filter`] | `filter` | keeps a record or not | a view |
//! | [`Mapper`] | `mapper` | rewrites a record, or drops it | a view, a transform |
//! | [`Transform`] | `transform` | turns a record into any number of records on several outputs | a transform |
//!
//! ```
//! use millstream_guest::{Failure, Filter, Param, Params, Record};
//!
//! struct Long {
//!     bytes_min: usize,
//! }
//!
//! impl Filter for Long {
//!     const PARAMS: &'static [Param] = &[Param::required("bytes_min")];
//!
//!     fn init(params: &Params) -> Result<Self, Failure> {
//!         Ok(Long { bytes_min: params.parse("bytes_min")? })
//!     }
//!
//!     fn keep(&self, record: &Record) -> Result<bool, Failure> {
//!         Ok(record.value().is_some_and(|value| value.len() >= self.bytes_min))
//!     }
//! }
//!
//! millstream_guest::export!(Long as filter);
//! # fn main() {}
//! ```
//!
//! `millstream module build` compiles the project to a component, `millstream module push` uploads it.
//!
//! # What a module may rely on
//! A module is a pure function of its records and parameters: there is no clock, no randomness, no network and no file. Methods
//! take `&self`; what an instance remembers in memory is a cache, since instances come and go and a record may meet any of them,
//! in calls cut anywhere. A method that returns a [`Failure`] fails its call, and everything the call has emitted is dropped.
//! A panic is logged and fails the call as well, with the panic's message in the error, and the instance is thrown away.

#[doc(hidden)]
pub mod bindings;
mod failure;
mod frame;
pub mod hash;
#[cfg(feature = "json")]
pub mod json;
pub mod log;
mod module;
mod out;
mod params;
mod record;
#[doc(hidden)]
pub mod rt;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod varint;

pub use failure::Failure;
pub use module::{Filter, Mapper, Needs, Partitioner, Transform};
pub use out::{Draft, Out, Payload};
pub use params::{Param, Params};
pub use record::{Header, Headers, Record};
