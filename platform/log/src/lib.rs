//! The log on disk: journal, segments, indexes, append, read and recovery.

mod bytes_io;
mod commit;
mod data_dir;
mod epochs;
mod error;
mod frame;
mod id;
mod index;
mod journal;
mod journal_file;
mod mark;
mod options;
mod partition;
mod read;
mod recover;
mod segment;
mod state;
mod storage;
mod sync;
mod sync_log;
mod ticket;

pub use error::{AppendError, CommitError, DeleteError, OpenError, OpenLogError, ReadError, StorageFailed};
pub use id::{LogId, Stream};
pub use options::{LogOptions, Recovered, StorageOptions};
pub use partition::{Appended, PartitionLog};
pub use read::Read;
pub use storage::Storage;
pub use ticket::Ticket;
