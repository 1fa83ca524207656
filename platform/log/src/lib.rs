//! The log on disk: journal, segments, indexes, append, read and recovery.
