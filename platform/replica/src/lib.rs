//! The replication rules of one partition, without I/O.
