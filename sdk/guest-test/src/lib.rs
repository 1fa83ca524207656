//! Runs a guest in the real engine, without a broker: for module authors' tests.
//!
//! A [`Module`] is a component loaded from a file; [`Module::open`] gives it its parameters, as a deployment would; then it
//! takes native [`Record`]s:
//!
//! ```no_run
//! # async fn example() -> Result<(), millstream_guest_test::Error> {
//! use millstream_guest_test::{Module, ModuleKind, Record};
//!
//! let module = Module::load("target/guests/partition-by-field.wasm").await?;
//! let partitioner = module.open(ModuleKind::Partitioner).param("field", "tailnum").start().await?;
//! let records = [Record::new(r#"{"tailnum":"N14228"}"#)];
//! assert_eq!(partitioner.assign(&records, 6).await?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! The engine, its budgets and its checks are the broker's own, so what passes here behaves the same there.

mod module;
mod purity;
mod record;

pub use millstream_model::ModuleKind;
pub use millstream_wasm::{CallError, Declarations, Failure, FailureCode, Limits, LogLine, Refused};
pub use module::{Error, Module, Open, Opened};
pub use purity::{Impure, PurityError};
pub use record::{Output, Record};
