//! The log on disk: journal, segments, indexes, append, read and recovery.

mod error;
mod id;
mod options;
mod partition;
mod storage;
mod ticket;

pub use error::{AppendError, CommitError, DeleteError, OpenError, OpenLogError, ReadError, StorageFailed};
pub use id::{LogId, Stream};
pub use options::{LogOptions, Recovered, StorageOptions};
pub use partition::{Appended, PartitionLog, Read};
pub use storage::Storage;
pub use ticket::Ticket;
