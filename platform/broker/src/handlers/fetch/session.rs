//! Fetch sessions (KIP-227): a client names its partitions once, later only what has changed, and is told only of those with news.
//!
//! A session belongs to the stream that it was made on, one to a stream, and ends with it: nothing is left behind by clients that go
//! away, and nobody can use another's. Its memory is a share of what all sessions have; a client that gets none reads without, as the
//! protocol allows: it names all of its partitions each time.

use std::{collections::HashSet, sync::Arc};

use indexmap::IndexMap;
use millstream_env::{Budget, Share};
use millstream_model::{Offset, PartitionId, TopicId};
use millstream_protocol::{
    ErrorCode,
    messages::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData},
};
use parking_lot::Mutex;

use crate::readable::VERSION_BY_ID;

/// The epoch of a request that names everything and wants a session.
const EPOCH_FIRST: i32 = 0;
/// The epoch of a request that names everything and wants none.
const EPOCH_NONE: i32 = -1;
/// Most partitions of a session: a request of a few bytes has them all looked at.
const PARTITIONS_MAX: usize = 10_000;
/// What one takes in memory beside its topic's name, bytes; rounded up.
const PARTITION_BYTES: usize = 192;

/// The session of a stream, if it has one. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct StreamSession(Arc<Mutex<Option<Session>>>);

struct Session {
    id: i32,
    /// Of the next request.
    epoch: i32,
    /// Whether its topics are named by id.
    by_id: bool,
    /// In the order in which they are read, from `first` on and around.
    partitions: IndexMap<Key, Remembered>,
    /// Moves past those that have been given records: an answer has no room for all, and none is forgotten.
    first: usize,
    memory: Paid,
    /// A request of it is under way.
    is_asked: bool,
}

/// A partition as the client names it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: Arc<str>,
    id: TopicId,
    partition: PartitionId,
}

struct Remembered {
    request: FetchPartition,
    /// What the client was told last; none if it must be told.
    told: Option<Ends>,
}

/// Where a partition's readers may read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    high_watermark: Offset,
    last_stable_offset: Offset,
    log_start_offset: Offset,
}

/// Memory of a session.
struct Paid {
    budget: Budget,
    shares: Vec<Share>,
    paid: usize,
    used: usize,
}

/// What becomes of an answer.
pub(super) enum Told {
    /// All of it.
    All,
    /// All of it, and the session's number beside.
    First(StreamSession, i32),
    /// What is new.
    News(StreamSession, i32),
}

impl StreamSession {
    /// Makes the request name all that it reads, and says what becomes of its answer. `id` is that of a session that it may make, never 0.
    ///
    /// # Errors
    ///
    /// As Kafka's brokers answer: the session is unknown, the request is not its next, or it changes from names to ids. One that comes before
    /// the last is answered is not the next.
    pub(super) fn ask(
        &self,
        version: i16,
        request: &mut FetchRequest,
        budget: &Budget,
        id: i32,
    ) -> Result<Told, ErrorCode> {
        let by_id = version >= VERSION_BY_ID;
        let mut session = self.0.lock();
        if matches!(request.session_epoch, EPOCH_FIRST | EPOCH_NONE) {
            session.take_if(|session| session.id == request.session_id);
            if request.session_epoch == EPOCH_NONE || request.topics.is_empty() {
                return Ok(Told::All);
            }
            let mut made = Session::new(id, by_id, budget.clone());
            if !made.change(request) {
                return Ok(Told::All);
            }
            // The newest counts: whoever uses the one before is told to begin again.
            *session = Some(made);
            return Ok(Told::First(self.clone(), id));
        }
        let Some(found) = session.as_mut().filter(|session| session.id == request.session_id) else {
            return Err(ErrorCode::FetchSessionIdNotFound);
        };
        if found.epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if found.is_asked {
            // Clients wait for their answer, which says what the next request is about. Each that waits takes memory for all partitions,
            // and a request takes none.
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if found.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if !found.change(request) {
            *session = None;
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        found.epoch = found.epoch.checked_add(1).unwrap_or(1);
        found.is_asked = true;
        request.topics = found.topics();
        let id = found.id;
        if found.partitions.is_empty() {
            *session = None;
            return Ok(Told::All);
        }
        Ok(Told::News(self.clone(), id))
    }
}

impl Session {
    fn new(id: i32, by_id: bool, budget: Budget) -> Self {
        let memory = Paid { budget, shares: Vec::new(), paid: 0, used: 0 };
        Self { id, epoch: 1, by_id, partitions: IndexMap::new(), first: 0, memory, is_asked: true }
    }

    /// Takes in what a request names, and lets go of what it forgets; false if there is no room.
    fn change(&mut self, request: &FetchRequest) -> bool {
        let mut forgotten = HashSet::new();
        for topic in &request.forgotten_topics_data {
            let name: Arc<str> = topic.topic.as_str().into();
            let key = |partition: &PartitionId| Key { name: name.clone(), id: topic.topic_id, partition: *partition };
            forgotten.extend(topic.partitions.iter().map(key));
        }
        if !forgotten.is_empty() {
            let memory = &mut self.memory;
            self.partitions.retain(|key, _| {
                let is_kept = !forgotten.contains(key);
                memory.used -= if is_kept { 0 } else { key.bytes() };
                is_kept
            });
        }
        for topic in &request.topics {
            let name: Arc<str> = topic.topic.as_str().into();
            for asked in &topic.partitions {
                let key = Key { name: name.clone(), id: topic.topic_id, partition: asked.partition };
                if let Some(known) = self.partitions.get_mut(&key) {
                    known.request = asked.clone();
                    continue;
                }
                if self.partitions.len() == PARTITIONS_MAX || !self.memory.take(key.bytes()) {
                    return false;
                }
                self.partitions.insert(key, Remembered { request: asked.clone(), told: None });
            }
        }
        true
    }

    /// All that is read.
    fn topics(&self) -> Vec<FetchTopic> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        let from_first = self.partitions.iter().skip(self.first);
        for (key, known) in from_first.chain(self.partitions.iter().take(self.first)) {
            let last = topics.last_mut().filter(|last| last.topic_id == key.id && *last.topic == *key.name);
            match last {
                Some(last) => last.partitions.push(known.request.clone()),
                None => topics.push(FetchTopic {
                    topic: key.name.as_ref().into(),
                    topic_id: key.id,
                    partitions: vec![known.request.clone()],
                }),
            }
        }
        topics
    }

    /// Notes what a partition's reader is told. Whether it is news.
    fn tell(&mut self, key: &Key, answer: &PartitionData) -> bool {
        // What has been forgotten since is told once more.
        let Some((index, _, known)) = self.partitions.get_full_mut(key) else { return true };
        if answer.error_code != ErrorCode::None {
            // Until it is well again, and then that.
            known.told = None;
            return true;
        }
        let ends = Ends {
            high_watermark: answer.high_watermark,
            last_stable_offset: answer.last_stable_offset,
            log_start_offset: answer.log_start_offset,
        };
        let before = known.told.replace(ends);
        let moved = answer.next_offset > known.request.fetch_offset;
        if !answer.records.is_empty() {
            self.first = index + 1;
        }
        before != Some(ends) || moved || !answer.records.is_empty()
    }
}

impl Key {
    fn bytes(&self) -> usize {
        PARTITION_BYTES + self.name.len()
    }
}

impl Paid {
    fn take(&mut self, bytes: usize) -> bool {
        self.used += bytes;
        if self.used <= self.paid {
            return true;
        }
        // Much at a time: a share is of whole units, and none is small.
        const SHARE_BYTES: usize = 4 << 10;
        let missing = (self.used - self.paid).max(SHARE_BYTES);
        let Some(share) = self.budget.try_take(missing) else { return false };
        self.shares.push(share);
        self.paid += missing;
        true
    }
}

impl Told {
    /// Leaves in an answer what its client is to be told.
    pub(super) fn tell(self, answer: &mut FetchResponse) {
        let (stream, id, is_first) = match self {
            Self::All => return,
            Self::First(stream, id) => (stream, id, true),
            Self::News(stream, id) => (stream, id, false),
        };
        let mut session = stream.0.lock();
        // It may have been replaced since; then the client has asked for that.
        let Some(session) = session.as_mut().filter(|session| session.id == id) else { return };
        answer.session_id = id;
        session.is_asked = false;
        answer.responses.retain_mut(|topic| {
            let name: Arc<str> = topic.topic.as_str().into();
            topic.partitions.retain(|partition| {
                let key = Key { name: name.clone(), id: topic.topic_id, partition: partition.partition_index };
                session.tell(&key, partition) || is_first
            });
            !topic.partitions.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::messages::fetch::{FetchableTopicResponse, ForgottenTopic, RecordParts};

    use super::*;

    const BY_NAME: i16 = 12;

    fn topic(name: &str, partitions: &[(i32, i64)]) -> FetchTopic {
        let partition = |(index, from): &(i32, i64)| FetchPartition {
            partition: PartitionId(*index),
            fetch_offset: Offset(*from),
            ..Default::default()
        };
        FetchTopic { topic: name.into(), partitions: partitions.iter().map(partition).collect(), ..Default::default() }
    }

    fn request(session_id: i32, session_epoch: i32, topics: Vec<FetchTopic>) -> FetchRequest {
        FetchRequest { session_id, session_epoch, topics, ..Default::default() }
    }

    /// What is read.
    fn read(request: &FetchRequest) -> Vec<(String, i32, i64)> {
        let of_topic = |topic: &FetchTopic| {
            let name = topic.topic.clone();
            topic
                .partitions
                .iter()
                .map(move |asked| (name.clone(), asked.partition.0, asked.fetch_offset.0))
                .collect::<Vec<_>>()
        };
        request.topics.iter().flat_map(of_topic).collect()
    }

    /// An answer to all that is read: `records` bytes from each partition that is named in it, all at high watermark `end`.
    fn answer(request: &FetchRequest, records: &[i32], end: i64) -> FetchResponse {
        let partition = |asked: &FetchPartition| PartitionData {
            partition_index: asked.partition,
            high_watermark: Offset(end),
            records: match records.contains(&asked.partition.0) {
                true => RecordParts(vec![b"records"[..].into()]),
                false => RecordParts::default(),
            },
            ..Default::default()
        };
        let of_topic = |topic: &FetchTopic| FetchableTopicResponse {
            topic: topic.topic.clone(),
            topic_id: topic.topic_id,
            partitions: topic.partitions.iter().map(partition).collect(),
        };
        FetchResponse { responses: request.topics.iter().map(of_topic).collect(), ..Default::default() }
    }

    fn told(told: Told, mut answer: FetchResponse) -> (i32, Vec<i32>) {
        told.tell(&mut answer);
        let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
        (answer.session_id, partitions.map(|partition| partition.partition_index.0).collect())
    }

    fn budget() -> Budget {
        Budget::new(1 << 20)
    }

    #[test]
    fn a_session_reads_all_and_tells_what_is_new() {
        let (stream, budget) = (StreamSession::default(), budget());
        let mut first = request(0, 0, vec![topic("a", &[(0, 5), (1, 5), (2, 5)]), topic("b", &[(7, 1)])]);
        let all = stream.ask(BY_NAME, &mut first, &budget, 9).unwrap();
        assert_eq!(told(all, answer(&first, &[], 5)), (9, vec![0, 1, 2, 7]), "the first answer tells all");

        let mut next = request(9, 1, Vec::new());
        let news = stream.ask(BY_NAME, &mut next, &budget, 10).unwrap();
        let everything =
            [("a", 0, 5), ("a", 1, 5), ("a", 2, 5), ("b", 7, 1)].map(|(name, p, at)| (name.to_owned(), p, at));
        assert_eq!(read(&next), everything);
        assert_eq!(told(news, answer(&next, &[], 5)), (9, vec![]), "nothing is new");

        // One is read further, one is no longer wanted; and what has given records comes last.
        let mut next = request(9, 2, vec![topic("a", &[(1, 6)])]);
        next.forgotten_topics_data =
            vec![ForgottenTopic { topic: "a".into(), partitions: vec![PartitionId(0)], ..Default::default() }];
        let news = stream.ask(BY_NAME, &mut next, &budget, 10).unwrap();
        assert_eq!(read(&next), [("a", 1, 6), ("a", 2, 5), ("b", 7, 1)].map(|(name, p, at)| (name.to_owned(), p, at)));
        assert_eq!(told(news, answer(&next, &[1], 5)), (9, vec![1]));
        let mut next = request(9, 3, Vec::new());
        let news = stream.ask(BY_NAME, &mut next, &budget, 10).unwrap();
        assert_eq!(read(&next), [("a", 2, 5), ("b", 7, 1), ("a", 1, 6)].map(|(name, p, at)| (name.to_owned(), p, at)));
        assert_eq!(told(news, answer(&next, &[], 6)), (9, vec![2, 7, 1]), "the high watermark has moved");
    }

    #[test]
    fn an_error_is_told_until_it_is_over_and_then_that() {
        let (stream, budget) = (StreamSession::default(), budget());
        let mut first = request(0, 0, vec![topic("a", &[(0, 5)])]);
        let all = stream.ask(BY_NAME, &mut first, &budget, 9).unwrap();
        told(all, answer(&first, &[], 5));
        for (epoch, error, expected) in [(1, true, true), (2, true, true), (3, false, true), (4, false, false)] {
            let mut next = request(9, epoch, Vec::new());
            let news = stream.ask(BY_NAME, &mut next, &budget, 10).unwrap();
            let mut answer = answer(&next, &[], 5);
            if error {
                answer.responses[0].partitions[0].error_code = ErrorCode::KafkaStorage;
            }
            assert_eq!(!told(news, answer).1.is_empty(), expected, "epoch {epoch}");
        }
    }

    #[test]
    fn progress_without_records_is_told() {
        let (stream, budget) = (StreamSession::default(), budget());
        let mut first = request(0, 0, vec![topic("view", &[(0, 5)])]);
        let all = stream.ask(BY_NAME, &mut first, &budget, 9).unwrap();
        told(all, answer(&first, &[], 50));
        let mut next = request(9, 1, Vec::new());
        let news = stream.ask(BY_NAME, &mut next, &budget, 10).unwrap();
        let mut answer = answer(&next, &[], 50);
        answer.responses[0].partitions[0].next_offset = Offset(20);
        assert_eq!(told(news, answer), (9, vec![0]));
    }

    #[test]
    fn who_has_no_session_is_told() {
        let (stream, budget) = (StreamSession::default(), budget());
        let ask = |version, id, epoch| {
            let mut request = request(id, epoch, vec![topic("a", &[(0, 5)])]);
            stream.ask(version, &mut request, &budget, 9).err()
        };
        assert_eq!(ask(BY_NAME, 9, 1), Some(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(ask(BY_NAME, 0, -1), None);
        assert_eq!(ask(BY_NAME, 9, 1), Some(ErrorCode::FetchSessionIdNotFound), "that one wanted none");
        assert_eq!(ask(BY_NAME, 0, 0), None);
        assert_eq!(ask(BY_NAME, 9, 1), Some(ErrorCode::InvalidFetchSessionEpoch), "the first is not answered");
        let answered = || Told::News(stream.clone(), 9).tell(&mut FetchResponse::default());
        answered();
        for epoch in [2, i32::MAX, -2] {
            assert_eq!(ask(BY_NAME, 9, epoch), Some(ErrorCode::InvalidFetchSessionEpoch));
        }
        assert_eq!(ask(VERSION_BY_ID, 9, 1), Some(ErrorCode::FetchSessionTopicIdError));
        assert_eq!(ask(BY_NAME, 9, 1), None);
        assert_eq!(ask(BY_NAME, 9, 2), Some(ErrorCode::InvalidFetchSessionEpoch), "that one is not answered");
        answered();
        assert_eq!(ask(BY_NAME, 9, 1), Some(ErrorCode::InvalidFetchSessionEpoch), "twice");
        assert_eq!(ask(BY_NAME, 9, -1), None);
        assert_eq!(ask(BY_NAME, 9, 2), Some(ErrorCode::FetchSessionIdNotFound), "that one ended it");
    }

    #[test]
    fn a_session_without_partitions_ends() {
        let (stream, budget) = (StreamSession::default(), budget());
        let mut first = request(0, 0, vec![topic("a", &[(0, 5)])]);
        let all = stream.ask(BY_NAME, &mut first, &budget, 9).ok().unwrap();
        told(all, answer(&first, &[], 5));
        let mut next = request(9, 1, Vec::new());
        next.forgotten_topics_data =
            vec![ForgottenTopic { topic: "a".into(), partitions: vec![PartitionId(0)], ..Default::default() }];
        assert_eq!(told(stream.ask(BY_NAME, &mut next, &budget, 10).ok().unwrap(), answer(&next, &[], 5)), (0, vec![]));
        assert_eq!(budget.free_bytes(), 1 << 20);
    }

    #[test]
    fn what_sessions_remember_is_bounded() {
        let all = |count: i32| topic("a", &(0..count).map(|index| (index, 5)).collect::<Vec<_>>());
        let most = i32::try_from(PARTITIONS_MAX).unwrap();
        // Of one.
        let (stream, budget) = (StreamSession::default(), Budget::new(16 << 20));
        let mut large = request(0, 0, vec![all(most + 1)]);
        assert!(matches!(stream.ask(BY_NAME, &mut large, &budget, 9), Ok(Told::All)));
        assert_eq!(read(&large).len(), PARTITIONS_MAX + 1, "it is read all the same");
        let mut first = request(0, 0, vec![all(most)]);
        let session = stream.ask(BY_NAME, &mut first, &budget, 9).ok().unwrap();
        assert_eq!(told(session, answer(&first, &[], 5)).0, 9);
        let mut more = request(9, 1, vec![topic("b", &[(0, 5)])]);
        assert_eq!(stream.ask(BY_NAME, &mut more, &budget, 9).err(), Some(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(budget.free_bytes(), 16 << 20);
        // Of all.
        let (other, budget) = (StreamSession::default(), Budget::new(8 << 10));
        let session = |stream: &StreamSession, count| {
            matches!(stream.ask(BY_NAME, &mut request(0, 0, vec![all(count)]), &budget, 9), Ok(Told::First(..)))
        };
        assert!(!session(&stream, 60) && session(&stream, 30));
        assert!(!session(&other, 30), "the first has it");
        drop(stream);
        assert!(session(&other, 30));
    }
}
