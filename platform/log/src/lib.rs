//! The log on disk: journal, segments, indexes, append, read and recovery.
//!
//! A [`Storage`] is one data directory; a [`PartitionLog`] is one log in it: the records of a partition, or a companion stream of
//! it. An append goes to the log's segment through the page cache and to the one journal of the directory, which is synced;
//! a [`Ticket`] resolves when it is. Segments are synced in the background, and only then is the journal written over.
//!
//! # Limits
//!
//! 1. A batch and its frame fit one journal file: at most `journal_file_bytes` - 4096 - 104 bytes (128 MiB by default, above
//!    [`millstream_model::limits::BATCH_BYTES_MAX`]).
//! 2. Journal files take at most `journal_bytes_max` together (1 GiB by default), at least two files.
//! 3. A segment has at most 2^31 - 1 bytes of batches, one batch excepted that is larger by itself; its last offset is less
//!    than 2^32 past its first. Positions are 32 bits. It ends earlier where a batch is later than its first by more than
//!    `segment_ms` (`age`).
//! 4. An index has one entry of 16 bytes per 32 KiB of batches.
//! 5. What waits for the journal is at most `queue_bytes_max` (64 MiB), but for one append of each caller: each is let in before it is
//!    queued, so those that come at the same moment are all let in. Frames that are no appends are not asked: they are small, or
//!    have a limit of their own (`carry`). Past half of it, or with the journal 85 % full, [`Storage::writable`] holds appenders
//!    back.
//! 6. A log remembers the last five batches of at most 4,096 idempotent producers, each for `producer_expiration` (a day) after
//!    it was last heard of: at most 1.2 MiB of memory a log (`producers`). Of where segments began since the last sync it keeps
//!    at most as much again (`snapshot`).
//! 7. What is held of a log that is out of service is at most what the journal had, `journal_bytes_max`; a start reads it into memory,
//!    one log at a time.
//! 8. Offsets are dense from 0, LSNs dense from 1; neither wraps (63 and 64 bits).
//!
//! # On disk
//!
//! All numbers are big-endian, as in the batches; all CRCs are CRC-32C.
//!
//! ```text
//! DIR/LOCK, FORMAT, CLEAN          one opener; version and id of the directory; there after an orderly close only (`data_dir`)
//! DIR/BALLAST, RESERVE             room for what must be written on a full disk, given up then
//! DIR/JOURNAL                      which journal files a start must find (`span`)
//! DIR/METADATA                     how far the cluster's metadata was followed, and logs were made by it (`followed`)
//! DIR/journal/N.journal            journal files, N: 20 digits, counts uses
//! DIR/journal/spare-N              recycled, waiting for their next use
//! DIR/logs/TOPIC/PARTITION/STREAM-GENERATION/
//!     BASE.log  BASE.index         segment and its index, BASE: first offset, 20 digits
//!     mark                         up to where the segments are durable (`mark`); which log it is, and what made it (`made`)
//!     epochs                       leader epochs and where they began (`epochs`)
//!     OFFSET.producers             idempotent producers as of that offset, where a segment begins or as the mark says (`snapshot`)
//!     held                         frames of the journal while the log is out of service (`held`)
//!     compacted                    how far it was compacted, and when (`compact`)
//!     BASE.compacting              a compacted segment that is not finished; removed at the next start
//! DIR/held/TOPIC.PARTITION.STREAM-GENERATION
//!                                  the same where something else is in the place of the log's directory, another log's even; there
//!                                  where it is needed
//! DIR/trash/                       directories of deleted logs, and segments below the starts of logs; removed in steps
//! ```
//!
//! STREAM is `records`, `progress.TRANSFORM` or `state.TRANSFORM`.
//!
//! A **segment** is record batches (version 2) and nothing else, as the producer encoded them but for base offset and leader epoch.
//! Index (`index`), mark (`mark`), epochs (`epochs`) and producers (`snapshot`) have their layout on top of those files. Mark, JOURNAL
//! and METADATA are written over in place, in two slots (`slots`).
//!
//! A **journal file** has a header in its first 4096 bytes and then groups of frames:
//!
//! ```text
//! header   0  8 "MSjournl"      8  4 version = 1             12  4 CRC of bytes 16..64
//!         16 16 directory id   32  8 number of the use N     40  8 nonce of the use
//!         48  8 least LSN      56  8 file length             64.. zero
//!
//! frame    0  4 "MSfr"          4  4 CRC of bytes 8..104      8  8 nonce
//!         16  8 LSN            24  8 synced LSN              32  4 kind, stream kind, durability, 0
//!         36  4 leader epoch   40 16 topic                   56  4 partition
//!         60  4 generation     64 16 transform, or zero      80  8 base offset
//!         88  8 end offset     96  4 payload length         100  4 CRC of the payload
//!        104    payload
//!
//! 0        4096                    8192                          12288
//! +--------+-----------------------+-----------------------------+------
//! | header | frame frame 0000      | frame.....................  | 0000...
//! +--------+-----------------------+-----------------------------+------
//!            group: one write, one sync, filled up to 4096 bytes
//! ```
//!
//! Kinds: 1 Append (the payload is the batch), 2 AppendRef (an Append without its payload: the log's mark covers it),
//! 3 EpochStart, 4 Truncate (its base offset is the new end, its epoch the latest that is left), 5 LogStart (its base offset is
//! the start), 6 Drop, 7 DurabilityChange (its durability is the new one, both offsets are the log's end), 8 Carry (the payload is
//! batches, one after the other as stored; base offset and end offset are theirs together). Any other is refused at replay as a
//! newer version's.
//!
//! An Append's payload CRC is the batch's own, which covers it from byte 21; bytes 0..21 must repeat the frame's base offset,
//! epoch, length and CRC. So no byte is summed twice, and a caller must have checked the CRC of what it appends. An AppendRef has
//! that CRC, too, and a payload length of 0. A Carry's payload CRC covers all of the payload. An EpochStart, which has no payload, has
//! the entry of the metadata there by which the log was made (`made`), 0 if that is not known.
//!
//! The *nonce* tells a file's frames from what an earlier use left. The *synced LSN* says up to where the journal was durable when
//! the frame was written: a sound frame that proves an unsound one before it to have been durable means damage, not a torn tail.
//! A group begins on a page of its own, so a torn write cannot touch what was acknowledged, and no page is read to be written.
//!
//! # Writing
//!
//! 1. `PartitionLog::append` (`append`), under the log's lock: look the batch up among its producer's (`producers`), check, give offsets, write to the segment's page cache (`state`), then
//!    queue the frame (`queue`), which gives it its LSN. So a log's frames are in the order of its offsets, and a full
//!    disk refuses before anything is journaled. Where the commit loop has nothing to do, one batch is queued first and written while
//!    the journal is: who waits alone waits less. Still under the lock, so nobody sees it queued and not written. It cannot be
//!    refused then: it goes to a file that has batches, below any limit on a file's length, and should the disk be full just then,
//!    the ballast has room for it (one such append at a time, of an eighth of the ballast at most). The first frame since the last sync *pins* the journal from it on (`pin`).
//! 2. The commit loop (`commit`) takes all that is queued, up to `group_bytes_max`, as one group: one vectored write, one
//!    fdatasync. Then flushed ends advance and tickets resolve. What arrives meanwhile is the next group: no timer.
//!    An append of `append_ref_bytes` (2 MiB) or more is not written twice: before the group that it is in is written, the loop
//!    syncs its log, segments and mark (`sync_log`), unless a mark covers it already; the journal gets an AppendRef. Where
//!    that is not to be had at once, it is journaled whole: where the log's own files lack something, the log is being
//!    cut or synced, or more than `queue_bytes_max` would have to be synced with it. The log pins the journal as
//!    before: what such a sync leaves out (its index, producers, segments below its start) has its turn in the background.
//! 3. The sync loop (`sync`) prepares the next file (`ring`) when the present one is half full. When a quarter of the journal is used, logs
//!    that pin the oldest file with a MiB or more past their mark are synced. When it is half full, the logs
//!    that pin the oldest file are *carried forward*, where that is cheaper (`carry`): all batches past the mark, at most
//!    64 KiB, go into the journal again as one Carry, and when that is durable, the log pins the journal from there on only. Else the
//!    log is synced (`sync_log`): segments in order, each written back in pieces first, so that the journal's syncs have their turns
//!    between them, epochs, producers (as of where segments have begun since, and where a
//!    MiB was written since they last were), names, then the mark, then the pin goes.
//!    A file that nothing pins is recycled: renamed to a spare, durably, and later written over.
//! 4. Appenders wait in [`Storage::writable`], or are refused as overloaded. The sync loop waits for nobody, so neither does for
//!    long the commit loop, which waits for a file at most.
//!
//! A batch that an idempotent producer sends again is answered with the offsets that it has, and its ticket resolves when the
//! first one's does: an answer never says "durable" of what is only queued.
//!
//! A file is called a journal only after its header is durable: a journal with a bad header is always damage. The note JOURNAL
//! tells the numbers of the files that are needed, so that one that is missing is known from one that never was.
//!
//! Logs in durability `replicated` skip the journal; they are synced every `sync_interval` or 32 MiB. Such a log has its mark,
//! durably, before it has a record: one whose mark is missing is out of service, and nothing of it is cut. So is one of which the journal
//! speaks and nothing is there.
//!
//! # Reading
//!
//! The log's lock is held to find the segment and the position: from where a reader stopped last, else by the index. The read
//! itself is one `pread` of the segment's file and a walk over the batches' headers. Readers say up to which offset (their high
//! watermark) they may read; the log's own end is not durable yet.
//!
//! Who reads at the end is served from memory, if there is a reader there already (`tail`): the newest batches of such logs are
//! kept as they were written, at most `tail_bytes_max` (64 MiB) of all logs together, oldest out first.
//!
//! Each batch that came from the disk is checked before it is served (`sound`): its CRC, that its offsets follow those before
//! it, and its leader epoch against the log's, since the CRC covers neither base offset nor epoch. Where one is damaged, what is
//! sound before it is served, and a read that begins at it is refused and names the offsets that are lost. Readers go on after
//! them: at the next batch, where headers lead from it to the next place that the index knows; else at that place. The operator
//! is told once of each damaged place.
//!
//! Nothing in a segment names its log. Beside the mark is which log it is (`made`): a directory that was exchanged with another's as a whole,
//! or put back in the wrong place, is found by that, before anything of it is changed; under a running storage also by which directory it is
//! (`place`), since a log that was never synced has no mark. The mark tells how the last segment begins (`mark`), so
//! that a start finds one file that was exchanged with another log's: the log is out of service. That costs a read of one header for each log. A *closed* segment
//! that was exchanged is not detected: what it holds is served, and only where it ends at another offset than it must is that told, as
//! damage. What would tell is a note of how each begins, which had to be kept, durably and for every segment, through retention,
//! compaction and truncation; or the log's name in the segment, which holds batches and nothing else, so that they can be sent from the
//! file as they are. Either would be there for a mistake of an operator that a copy of the whole directory does not allow.
//!
//! Damage in a segment costs what it hides and no more. A closed segment whose end cannot be read is taken to end where the next
//! one begins. Offsets that no segment holds, since a file is missing or cut short at a batch, are held by a segment without a byte or
//! a file: they are lost, and named like others. A file that is shorter than its mark says is never made longer; the next
//! segment begins at the log's end, as it does where the segment that is appended to is damaged past what its index knows. Epochs,
//! producers, times and the place of a truncation are looked for past damage, in batches whose CRC is right. (`sound`)
//!
//! # Recovery
//!
//! 1. Lock the directory, check its version.
//! 2. Load every log up to its mark: bytes past it may never have reached the disk, whatever the page cache says. (A `replicated`
//!    log goes on past its mark as far as batches are sound, and is cut there.)
//! 3. Unless the last run closed the directory, see that every file of the journal is there that JOURNAL names. Replay the
//!    journal in the order of LSNs, skipping what a mark already covers. It ends where the next LSN is not found; see
//!    *synced LSN* above. Of a log that is deleted later in the journal no frame before its Drop is applied, and nothing is written: its
//!    room may be another's. (So the journal is read twice.) The frames of a log that was carried forward may begin past its end, since its first ones went with
//!    their file: they are passed over up to a Carry that has all of them, which must follow (or the log's Drop). Of a Carry, the
//!    batches that the log does not have yet are applied, each like an Append. An AppendRef is covered by the mark. Where it is
//!    not, the log's deletion must follow, which took its files; else the mark is damaged or missing, and the log is out of service.
//!    So what lies past the mark is written over in place, and cut away only after the last frame: it may be the only copy.
//! 4. Sync every log that the journal names: even one whose mark covers all, since a killed process may leave marks that can be
//!    read and are not durable. (Several at a time, `sync_all`, as they were loaded.) Also every log whose mark is ahead of
//!    the journal, by an append whose frame is not there since the crash came between the two: it was never acknowledged, and is
//!    a record from now on.
//! 5. Prepare a fresh journal file, rename the old ones to spares.
//! 6. Serve.
//!
//! Where the names of segments past the mark are still there, as after a killed process, replay begins segments there again: one
//! large segment could only be let go as a whole.
//!
//! Producers are those of the snapshot that the mark names, and of the batches after it; each replayed batch adds to them. Snapshots
//! that are neither named by the mark nor of where a segment begins below it are removed, after the mark was written again and synced.
//!
//! A log without a journal may have lost more than it was to keep: where a LogStart lies past its end, it begins there, empty.
//!
//! Of a mark with a damaged slot, which may have been the newer one, the other counts, and the log goes on past it as far as batches
//! are sound, like one without a journal; the journal's frames of what is there are passed over. A change of durability that the
//! damaged slot told of, its frame tells again, and where that has gone, the durability of the frames after it. What a log has that
//! changed to `replicated` past the change is kept; of one that changed back, the journal has what is past it. A log without a mark
//! has its frames in the journal from the first one on, and what its segments hold is written again, in place.
//!
//! A log is *out of service* where that does not tell what it holds: both slots are damaged, or one is and a segment is shorter than
//! the other says, the mark is missing though epochs were written down, or the journal's frames do not continue what is there. Nothing of it is cut
//! or removed (indexes are made again); opening it is refused and says why; all others serve. Its frames are copied beside it
//! (`held`), since the journal begins afresh and a log that pinned it for good would fill it. A later start that can load the log
//! replays them first, before the journal's, which has none of a log while it is out of service but its Drop. So each finds the log
//! as it would have at once: a reference and a change need the mark that they needed then. They go once the log is synced, even
//! where its mark covers them all. It can be deleted; where the journal goes on to its Drop, a start only tells of the damage.
//!
//! So is a log out of service in the place of whose directory, or of one above it, there is something else: a plain file, a FIFO, a link to
//! nothing; another log's directory, as its mark says, and then that log, too, unless its own is in its place. What is there is left alone and
//! named, also where the log is deleted whose place it is. Its frames are kept in `DIR/held` then, which each start looks through; what is kept
//! there is removed durably once the log is synced, and before it is deleted, or it would come back without the log. Where the
//! journal has no frame of such a log, it is known by its partition's place, or refused as it is opened.
//!
//! Every step can be repeated after a crash in the middle. In place of a snapshot that is missing or damaged the one before counts,
//! and the batches since; where there is none, all batches.
//! Indexes that are missing, damaged or reach past the mark are built again. One whose segment is not there is removed, before
//! another segment begins at that offset.
//!
//! # Deleting
//!
//! Drop is journaled; once it is durable, the log's directory is renamed into `trash`, durably, and only then may its frames go.
//! The trash (`trash`) is removed 64 MiB at a time, since unlinking a large file stalls the file system. Whatever is in it goes, foreign
//! things included; of a link itself only, never what it leads to. What cannot be removed is told of, and keeps nothing else there.
//!
//! LogStart (`start`) takes records away from the front, in logs of both durabilities. From the call on, what is below the start is
//! not read; segments that lie below it as a whole leave the log's list at once. When the frame is durable, the sync loop syncs
//! the log, so that its mark says the new start, and only then moves those segments into `trash`: up to the mark, a start looks for
//! all that the mark before speaks of. Producers are written down before a mark passes over their last batches; the snapshot of where
//! a segment begins goes with it. A segment that
//! a crash leaves below the start is moved away by the next start, after a mark that is durable for certain.
//! What to let go for its age or size is computed by [`Retention`]; when is the caller's.
//!
//! # Logs and metadata
//!
//! Which logs there should be, the cluster's metadata says, and the caller brings both in step. What it needs for that is kept here,
//! by the numbers of the metadata's entries; they are the caller's, and only compared.
//!
//! A log knows the entry that made it (`made`): from its first EpochStart on in the journal, then in its mark. So a log that the
//! metadata does not know was deleted if the metadata reaches to that entry, and if it ends before, it is an older copy. Of a log
//! without that note (an earlier version's) neither can be said: it is to stay.
//!
//! METADATA knows up to where the metadata was followed, and up to which entry all logs that it asks for are durable (`followed`). So a
//! log that is not there has gone if an entry up to there asks for it: [`Storage::miss`] puts it out of service, since nothing is left
//! that would. One of a later entry may never have been made, and begins empty.
//!
//! Making a log takes no sync for either, but for one of METADATA for all logs that are made together.
//!
//! # Compacting
//!
//! [`PartitionLog::compact`] leaves of each key the newest record in closed segments that a mark covers; when is the caller's. Offsets
//! stay dense, batch by batch. The new segment is synced, then takes the first old one's name, then the other names go. (`compact`)
//!
//! # Truncating
//!
//! Truncate (`truncate`) cuts a log's end back, as a follower must whose records are not the leader's. What is below a mark is
//! believed after a crash, so no byte of it may be written over while that mark may be found:
//!
//! 1. Under the log's lock the end, segments, index, epochs and producers are cut in memory, and the frame is queued. Tickets of
//!    what is cut fail. Appends are refused from now on.
//! 2. The sync loop finds the producers again: those of the last snapshot that is not past the new end, and of the batches since, which
//!    are in the segment that is cut. Where the mark reaches past the new end, or ends in a segment that goes as a whole (since the log
//!    starts within the batch that is cut), it writes them down, then a mark that ends there and is of the frame *before* the
//!    truncation's (of a log without a journal, which may find again what is past it: of the frame that the mark before was of, so that
//!    epochs which have begun since begin again, too); then it cuts the segment's file, durably, removes later snapshots and moves
//!    later segments into `trash`.
//! 3. It syncs the log as ever, with a mark of the truncation's frame. When that frame is durable too, the ticket resolves and
//!    appends are taken. So no frame after a Truncate is ever replayed onto files that are not cut.
//!
//! At replay a Truncate does the same at once. That of a log without a journal also cuts what was found past the mark: a tail that a
//! crash between the mark and the cut has left looks as sound as any. A start that finds a mark which says less than the one before
//! it writes it again and syncs it before it believes it.
//!
//! Where a crash leaves that mark and not the cut, what is past the mark is found again in a log without a journal. An epoch that had begun at
//! the end is then told by no batch, and by no frame past the mark if the mark before covered it: it is taken from the epochs file, of
//! which the last one counts if it begins where the log is found to end. So epochs that a start cuts from such a log are written before
//! it takes records, which could reach to where one of them began.
//!
//! # Changing durability
//!
//! DurabilityChange (`change`) makes a log in durability `fsync` one in `replicated`, or back. Whether what lies past a mark counts, a
//! start decides by the durability that the mark tells, before it reads a frame; and an Append that is replayed needs all
//! that is before it. So a log changes where nothing lies past its mark:
//!
//! 1. The sync loop syncs it while appends go on by the old durability, and once more while none is taken. Now its mark covers all
//!    records, and all frames that have some. What a start has cut off its last segment is durably gone with
//!    that, too, even where nothing is left.
//! 2. The frame is queued. The log's frames and marks tell the new durability from here on.
//! 3. The log is synced again, for a mark of the frame. When both are durable, the ticket resolves and appends are taken, by the
//!    new durability.
//!
//! An append that was under way has its ticket resolved as its frame becomes durable, which is before the change does. A crash
//! before the frame is durable leaves the log as it was, or as it was to be if the mark was faster. Between the frame and the mark,
//! the mark before tells the old durability, of a log with nothing past it; replay changes that, and the sync after it writes the
//! mark. Both are one: a mark of the new durability covers the frame.
//!
//! What a log's durability is, its mark tells and the frames after it. What it is opened with counts only for one that is made:
//! who wants it otherwise changes it, and does so again after a crash. A log without a mark never changed: a frame that says
//! so is refused, unless the log's Drop follows.
//!
//! # Failing
//!
//! After a failed write or sync nothing that was not durable may be believed: the storage is *failed*, every ticket fails, nothing
//! more is appended, and the process must stop ([`Storage::failed`]).
//!
//! A full disk (or quota, or a limit on a file's length) is no failure, and neither is a lack of descriptors. An append is
//! refused and leaves nothing behind. What must be written all the same (marks, epochs, names) takes the room that BALLAST
//! sets aside; what makes room (deletions, and the metadata that asks for them) takes that of RESERVE when BALLAST was not enough. Until
//! both could be set aside again, and a quarter of BALLAST was left beside them, appends are refused. A sync that cannot be done even so is postponed: the
//! journal keeps what it has, and refuses more when it is full. Reads go on. Only a failed *sync* of a segment, of what the
//! commit loop writes or of a directory is final whatever the reason (a mark and what else is beside the segments is written again
//! as a whole); a directory that could not be opened for it was not synced, and is a lack like others.
//!
//! At most `open_segments_max` segments are open (`handles`); those that were written and not synced stay open. Where most are open for
//! that, the sync loop syncs and closes them (`relief`), which takes no descriptor; where all are, an append to another is refused. A start
//! closes what it has written so, too.

mod age;
mod append;
mod bytes_io;
mod carry;
mod change;
mod commit;
mod compact;
mod data_dir;
mod epochs;
mod error;
#[cfg(feature = "faults")]
pub mod fault;
#[cfg(not(feature = "faults"))]
mod fault;
mod followed;
mod frame;
mod full;
mod handles;
mod held;
mod id;
mod index;
mod journal;
mod journal_file;
mod locked;
mod made;
mod mark;
mod metrics;
mod options;
mod partition;
mod pin;
mod place;
mod producers;
mod queue;
mod read;
mod recover;
mod relief;
mod retention;
mod ring;
mod segment;
mod slots;
mod snapshot;
mod sound;
mod span;
mod start;
mod state;
mod storage;
mod sync;
mod sync_all;
mod sync_error;
mod sync_log;
mod sync_plan;
mod tail;
mod ticket;
#[cfg(test)]
mod told;
mod trash;
mod truncate;

pub use append::Appended;
pub use compact::{Compacted, Compaction};
pub use error::{
    AppendError, ChangeError, CommitError, CompactError, DeleteError, Ended, Hole, MoveStartError, OpenError,
    OpenLogError, ReadError, SequenceError, StorageFailed, TruncateError,
};
pub use id::{LogId, Stream};
pub use locked::Locked;
pub use metrics::{JournalMetrics, LogMetrics};
pub use options::{LogOptions, Recovered, StorageOptions};
pub use partition::PartitionLog;
pub use producers::KnownProducer;
pub use read::{Read, ReadParts};
pub use retention::Retention;
pub use start::ClosedSegment;
pub use storage::Storage;
pub use ticket::Ticket;
