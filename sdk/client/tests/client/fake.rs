//! A broker of a few hundred lines: logs in memory, and a script of what goes wrong.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, future::Either};
use millstream_env::{Connection, Env, FrameSink, FrameSource, FrameStream, Listener, sim::World};
use millstream_model::{
    BrokerId, Digest, LeaderEpoch, Offset, PartitionId, ProducerId, RoutingEpoch, Sequence, TimestampMs, TopicId,
};
use millstream_protocol::{
    ApiKey, ErrorCode, Request, Response, api_versions,
    extension::{modules::*, routing::*, subscriptions::*, views::*},
    messages::{configs::*, fetch::*, metadata::*, offsets::*, produce::*, producers::*, records::*, topics::*},
    session::{Incoming, Session, SessionLimits, Slot, Taken},
};
use millstream_record::{Batch, BatchHeader, Record, raw};
use parking_lot::Mutex;

pub(crate) const ADDRESS: &str = "broker:9092";

/// What happens to a Produce request instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with this code; nothing is appended.
    Refuse(ErrorCode),
    /// The connection ends before anything is appended.
    BreakBefore,
    /// The connection ends after it was appended.
    BreakAfter,
}

/// How a topic's records are placed: the partition of a key, or a refusal.
pub(crate) type Partitioner = fn(Option<&[u8]>) -> Option<i32>;

#[derive(Default)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    /// By partition: the batches, patched.
    pub(crate) logs: Vec<Vec<Batch>>,
    pub(crate) partitioner: Option<Partitioner>,
    pub(crate) needs_values: bool,
    /// What is told of the partitioner's bytes.
    pub(crate) digest: Option<Digest>,
    /// How often it was routed anew: the routing epoch in force is so much more than [`FIRST_EPOCH`].
    pub(crate) turns: i32,
    /// By partition: where it passed to the next epoch, each time.
    pub(crate) fences: BTreeMap<usize, Vec<i64>>,
    /// What is said of how many partitions there are, if it is not the truth.
    pub(crate) claims: Option<i32>,
    /// Where the logs begin: what was before is deleted.
    pub(crate) start: i64,
    /// An answer's records end after so many bytes.
    pub(crate) cut: Option<usize>,
    /// For a view: an answer covers this many offsets and keeps only records at multiples of the second number.
    pub(crate) filter: Option<(i64, i64)>,
}

/// The routing epoch of a topic that was never routed anew.
pub(crate) const FIRST_EPOCH: i32 = 7;

impl Topic {
    /// The routing epoch that a partition is in.
    fn epoch(&self, partition: usize) -> i32 {
        FIRST_EPOCH + self.fences.get(&partition).map_or(0, |fences| fences.len() as i32)
    }

    fn in_force(&self) -> RoutingEpoch {
        RoutingEpoch(FIRST_EPOCH + self.turns)
    }

    pub(crate) fn end(&self, partition: usize) -> i64 {
        self.logs[partition].last().map_or(0, |batch| batch.header().end_offset().0)
    }

    pub(crate) fn records(&self, partition: usize) -> Vec<Record> {
        self.logs[partition].iter().flat_map(|batch| batch.records(1 << 30).unwrap()).map(Result::unwrap).collect()
    }
}

/// How records are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushes {
    /// As agreed.
    Well,
    /// Whatever the credit.
    TooMuch,
    /// From the wrong offset on.
    Astray,
    /// Not at all: there are too many.
    Refused,
    /// They end after each answer.
    Briefly,
    /// Nothing is ever sent.
    Silent,
}

/// How modules are handed out.
pub(crate) type Hand = fn(&ModuleReadRequest) -> ModuleReadResponse;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<String, Topic>,
    /// Used up by Produce requests, first to last.
    pub(crate) faults: VecDeque<Fault>,
    /// While set, Produce requests wait.
    pub(crate) hold: bool,
    /// While set, every Produce is refused so.
    pub(crate) refuse: Option<ErrorCode>,
    /// While set, no producer ids are given out.
    pub(crate) refuse_ids: Option<ErrorCode>,
    /// How often one was asked for.
    pub(crate) producer_ids: i64,
    /// How long Produce takes.
    pub(crate) produce_time: Duration,
    /// (partition, routing epoch) of every Produce that arrived.
    pub(crate) produced: Vec<(i32, i32)>,
    /// Partitions with a Produce under way.
    under_way: BTreeSet<(String, i32)>,
    /// Set when a partition had two at a time.
    pub(crate) overlapped: bool,
    /// Keys of each question to a partitioner.
    pub(crate) asked: Vec<Vec<Option<Vec<u8>>>>,
    /// While set, every question is refused so.
    pub(crate) assign_refuse: Option<ErrorCode>,
    /// A question of more bytes is refused; 0: of none.
    pub(crate) assign_bytes_max: usize,
    /// The next question is answered with this first.
    pub(crate) stale_answers: usize,
    /// What is told of any module.
    pub(crate) described: Option<Digest>,
    /// None: modules are not handed out, which ApiVersions says.
    pub(crate) hand: Option<Hand>,
    /// How long that takes.
    pub(crate) hand_time: Duration,
    /// How often it was asked for.
    pub(crate) module_reads: usize,
    /// Fetches to break the connection on.
    pub(crate) break_fetches: usize,
    pub(crate) fetches: usize,
    /// None: there are no subscriptions, which ApiVersions says.
    pub(crate) pushes: Option<Pushes>,
    /// How many there were.
    pub(crate) subscriptions: usize,
    /// Bytes of answers that each has sent.
    pub(crate) pushed: Vec<u64>,
    /// Partitions that the metadata calls out of service.
    pub(crate) offline: BTreeSet<i32>,
    /// Partitions of which neither offsets nor records are told nor records taken, but this is said.
    pub(crate) failing: BTreeMap<i32, ErrorCode>,
    /// How often that was told.
    pub(crate) refusals: usize,
    pub(crate) creates: usize,
    /// Breaks the connection after creating a topic.
    pub(crate) break_creates: bool,
    /// How often Metadata was asked for.
    pub(crate) metadata: usize,
    /// While set, nothing is told of how topics are routed but this.
    pub(crate) refuse_routing: Option<ErrorCode>,
    /// Where DeleteRecords were asked for, as on the wire.
    pub(crate) deletes: Vec<i64>,
    /// While set, Metadata and what is about views are not answered.
    pub(crate) silent: bool,
    pub(crate) connections: usize,
    /// Most streams that one connection has opened.
    pub(crate) streams_max: usize,
}

#[derive(Clone)]
pub(crate) struct FakeBroker {
    pub(crate) state: Arc<Mutex<State>>,
    env: Env,
}

impl FakeBroker {
    pub(crate) fn start(world: &mut World) -> Self {
        let machine = world.machine("broker");
        let (env, net) = (machine.env(), machine.net());
        let listener = world.run_until(net.listen("0.0.0.0:9092".parse().unwrap())).unwrap();
        Self::serve_on(env, listener)
    }

    /// One in any world.
    pub(crate) fn serve_on(env: Env, listener: Arc<dyn Listener>) -> Self {
        let broker = Self { state: Arc::default(), env: env.clone() };
        let accepting = broker.clone();
        drop(env.spawn.spawn(
            "fake accept",
            Box::pin(async move {
                while let Some(connection) = listener.accept().await {
                    accepting.state.lock().connections += 1;
                    let broker = accepting.clone();
                    let serve = async move {
                        let mut streams = 0;
                        while let Some(stream) = connection.accept().await {
                            streams += 1;
                            let mut state = broker.state.lock();
                            state.streams_max = state.streams_max.max(streams);
                            drop(state);
                            let task = broker.clone().serve(Arc::clone(&connection), stream);
                            drop(broker.env.spawn.spawn("fake stream", Box::pin(task)));
                        }
                    };
                    drop(accepting.env.spawn.spawn("fake connection", Box::pin(serve)));
                }
            }),
        ));
        broker
    }

    pub(crate) fn topic(&self, name: &str, partitions: usize) {
        let mut state = self.state.lock();
        let mut id = [0; 16];
        id[0] = state.topics.len() as u8 + 1;
        let id = TopicId(uuid::Uuid::from_bytes(id));
        state.topics.insert(name.into(), Topic { id, logs: vec![Vec::new(); partitions], ..Topic::default() });
    }

    /// Has a topic routed anew, with more partitions, step by step as a broker does; `wait` lies between the steps.
    pub(crate) async fn route_anew<F: Future<Output = ()>>(
        &self,
        name: &str,
        more: usize,
        partitioner: Option<Partitioner>,
        wait: impl Fn() -> F,
    ) {
        let topic = |change: &dyn Fn(&mut Topic)| change(self.state.lock().topics.get_mut(name).unwrap());
        let before = self.state.lock().topics[name].logs.len();
        topic(&|topic| {
            topic.claims = Some(before as i32);
            for new in before..before + more {
                topic.logs.push(Vec::new());
                topic.fences.insert(new, vec![0; topic.turns as usize + 1]);
            }
        });
        for partition in 0..before {
            wait().await;
            topic(&|topic| {
                let end = topic.end(partition);
                topic.fences.entry(partition).or_default().push(end);
            });
        }
        wait().await;
        topic(&|topic| {
            topic.turns += 1;
            (topic.claims, topic.partitioner) = (None, partitioner);
        });
    }

    pub(crate) fn append(&self, name: &str, partition: usize, batch: Bytes) {
        append(self.state.lock().topics.get_mut(name).unwrap(), partition, batch);
    }

    async fn serve(self, connection: Arc<dyn Connection>, stream: FrameStream) {
        let FrameStream { mut source, mut sink, .. } = stream;
        let mut session = Session::new(SessionLimits::default());
        while let Some(Ok(frame)) = source.next().await {
            match session.handle_frame(frame).unwrap() {
                Taken::Request(Incoming { slot, request: Request::Subscribe(request), .. }) => {
                    let ended = self.push(&mut session, slot, request, &mut source, &mut sink).await;
                    if ended.is_none() {
                        return connection.close("scripted");
                    }
                }
                Taken::Request(incoming) => match self.handle(incoming.request).await {
                    Some(response) => session.respond(incoming.slot, &response).unwrap(),
                    None => {
                        connection.close("scripted");
                        return;
                    }
                },
                Taken::Done(_) => {}
            }
            while let Some(frame) = session.poll_frame() {
                if sink.send(frame).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Pushes until the peer has gone; none breaks the connection.
    async fn push(
        &self,
        session: &mut Session,
        slot: Slot,
        request: SubscribeRequest,
        source: &mut FrameSource,
        sink: &mut FrameSink,
    ) -> Option<()> {
        let (how, at) = {
            let mut state = self.state.lock();
            state.subscriptions += 1;
            state.pushed.push(0);
            (state.pushes.unwrap(), state.pushed.len() - 1)
        };
        if how == Pushes::Refused {
            let error_code = ErrorCode::ThrottlingQuotaExceeded;
            let refused = SubscribeResponse { error_code, is_last: true, ..SubscribeResponse::default() };
            session.respond(slot, &refused.into()).unwrap();
            return Some(());
        }
        let mut topics: Vec<FetchTopic> = Vec::new();
        for SubscribedTopic { topic_id, partitions } in request.topics {
            let ask = |at: SubscribedPartition| FetchPartition {
                partition: at.partition,
                fetch_offset: at.offset,
                partition_max_bytes: request.partition_max_bytes,
                ..FetchPartition::default()
            };
            let partitions = partitions.into_iter().map(ask).collect();
            topics.push(FetchTopic { topic_id, partitions, ..FetchTopic::default() });
        }
        loop {
            {
                let mut state = self.state.lock();
                if state.break_fetches > 0 {
                    state.break_fetches -= 1;
                    return None;
                }
            }
            let may_send = how != Pushes::Silent && (session.credit_bytes() > 0 || how == Pushes::TooMuch);
            let mut answer = SubscribeResponse { is_last: how == Pushes::Briefly, ..SubscribeResponse::default() };
            if may_send {
                let fetched = self.fetch_now(&FetchRequest { topics: topics.clone(), ..FetchRequest::default() });
                for (topic, found) in topics.iter_mut().zip(fetched.responses) {
                    let mut partitions = Vec::new();
                    for data in found.partitions {
                        let asked =
                            topic.partitions.iter_mut().find(|at| at.partition == data.partition_index).unwrap();
                        let offset = asked.fetch_offset;
                        let bytes = data.records.to_bytes();
                        let read = millstream_record::batches(bytes).filter_map(Result::ok).last();
                        let read = read.map_or(offset, |batch| batch.header().end_offset());
                        asked.fetch_offset = offset.max(read).max(data.next_offset);
                        if asked.fetch_offset == offset && data.error_code.is_ok() && data.records.is_empty() {
                            continue;
                        }
                        partitions.push(PushedPartition {
                            partition: data.partition_index,
                            error_code: data.error_code,
                            error_message: data.error_message,
                            offset: Offset(offset.0 + i64::from(how == Pushes::Astray)),
                            next_offset: asked.fetch_offset,
                            high_watermark: data.high_watermark,
                            log_start_offset: data.log_start_offset,
                            records: data.records,
                        });
                    }
                    let failed: Vec<_> =
                        partitions.iter().filter(|at| !at.error_code.is_ok()).map(|at| at.partition).collect();
                    topic.partitions.retain(|at| !failed.contains(&at.partition));
                    if !partitions.is_empty() {
                        answer.topics.push(PushedTopic { topic_id: topic.topic_id, partitions });
                    }
                }
            }
            if !answer.topics.is_empty() {
                let is_last = answer.is_last || topics.iter().all(|topic| topic.partitions.is_empty());
                let answer = SubscribeResponse { is_last, ..answer }.into();
                if is_last {
                    session.respond(slot, &answer).unwrap();
                    return Some(());
                }
                session.respond_partly(slot, &answer).unwrap();
                while let Some(frame) = session.poll_frame() {
                    self.state.lock().pushed[at] += frame.len() as u64;
                    if sink.send(frame).await.is_err() {
                        return Some(());
                    }
                }
                continue;
            }
            let pause = self.env.clock.sleep(Duration::from_millis(5));
            match futures::future::select(source.next(), pause).await {
                Either::Left((Some(Ok(frame)), _)) => {
                    assert!(matches!(session.handle_frame(frame).unwrap(), Taken::Done(ApiKey::SubscriptionCredit)));
                }
                Either::Left(_) => {
                    session.skip(slot).unwrap();
                    return Some(());
                }
                Either::Right(_) => {}
            }
        }
    }

    /// The answer; none breaks the connection.
    async fn handle(&self, request: Request) -> Option<Response> {
        if self.state.lock().silent && matches!(request, Request::Metadata(_) | Request::ViewDelete(_)) {
            std::future::pending::<()>().await;
        }
        Some(match request {
            Request::ApiVersions(_) => {
                let mut served = api_versions();
                if self.state.lock().hand.is_none() {
                    served.api_keys.retain(|api| api.api_key != ApiKey::ModuleRead.code());
                }
                if self.state.lock().pushes.is_none() {
                    served.api_keys.retain(|api| api.api_key != ApiKey::Subscribe.code());
                }
                served.into()
            }
            Request::ModuleDescribe(_) => {
                let digest = self.state.lock().described.unwrap();
                let module = ModuleInfo { digest, ..ModuleInfo::default() };
                ModuleDescribeResponse { module, ..ModuleDescribeResponse::default() }.into()
            }
            Request::ModuleRead(request) => {
                let (hand, time) = {
                    let mut state = self.state.lock();
                    state.module_reads += 1;
                    (state.hand.unwrap(), state.hand_time)
                };
                self.env.clock.sleep(time).await;
                hand(&request).into()
            }
            Request::Metadata(request) => {
                self.state.lock().metadata += 1;
                self.metadata(&request).into()
            }
            // There are no views.
            Request::ViewList(request) => {
                let error_code = request.name.map_or(ErrorCode::None, |_| ErrorCode::ViewNotFound);
                ViewListResponse { error_code, ..ViewListResponse::default() }.into()
            }
            Request::ModuleList(_) => ModuleListResponse::default().into(),
            Request::DescribeConfigs(_) => {
                let results = vec![DescribeConfigsResult::default()];
                DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() }.into()
            }
            Request::DeleteRecords(request) => {
                let asked = &request.topics[0].partitions[0];
                self.state.lock().deletes.push(asked.offset.0);
                let partitions = vec![DeleteRecordsPartitionResult {
                    partition_index: asked.partition_index,
                    low_watermark: Offset(1),
                    ..Default::default()
                }];
                let topics = vec![DeleteRecordsTopicResult { name: request.topics[0].name.clone(), partitions }];
                DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() }.into()
            }
            Request::Produce(request) => self.produce(request).await?.into(),
            Request::InitProducerId(request) => {
                assert_eq!(request, InitProducerIdRequest::default());
                let mut state = self.state.lock();
                state.producer_ids += 1;
                let error_code = state.refuse_ids.unwrap_or_default();
                let producer_id = ProducerId(if error_code.is_ok() { 4000 + state.producer_ids } else { -1 });
                InitProducerIdResponse { error_code, producer_id, ..Default::default() }.into()
            }
            Request::Fetch(request) => self.fetch(request).await?.into(),
            Request::ListOffsets(request) => self.list_offsets(request).into(),
            Request::DescribeRouting(request) => self.describe_routing(request).into(),
            Request::Assign(request) => self.assign(&request).into(),
            Request::CreateTopics(request) => self.create_topics(&request)?.into(),
            Request::ModulePush(_) => ModulePushResponse {
                error_code: ErrorCode::ModuleRefused,
                error_message: Some("it imports wasi:sockets, which no module may".into()),
                ..ModulePushResponse::default()
            }
            .into(),
            other => panic!("the fake broker was asked {other:?}"),
        })
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let state = self.state.lock();
        let all = || state.topics.keys().cloned().collect();
        let names: Vec<String> = match &request.topics {
            None => all(),
            Some(topics) => topics.iter().filter_map(|topic| topic.name.clone()).collect(),
        };
        let partition = |index: usize| MetadataPartition {
            partition_index: PartitionId(index as i32),
            leader_id: BrokerId(1),
            leader_epoch: LeaderEpoch(3),
            replica_nodes: vec![BrokerId(1)],
            isr_nodes: vec![BrokerId(1)],
            offline_replicas: if state.offline.contains(&(index as i32)) { vec![BrokerId(1)] } else { Vec::new() },
            ..MetadataPartition::default()
        };
        let topic = |name: String| match state.topics.get(&name) {
            Some(topic) => MetadataTopic {
                topic_id: topic.id,
                partitions: (0..topic.logs.len()).map(partition).collect(),
                name: Some(name),
                ..MetadataTopic::default()
            },
            None => MetadataTopic {
                error_code: ErrorCode::UnknownTopicOrPartition,
                name: Some(name),
                ..MetadataTopic::default()
            },
        };
        MetadataResponse {
            brokers: vec![MetadataBroker { node_id: BrokerId(1), host: "broker".into(), port: 9092, rack: None }],
            topics: names.into_iter().map(topic).collect(),
            ..MetadataResponse::default()
        }
    }

    async fn produce(&self, request: ProduceRequest) -> Option<ProduceResponse> {
        let mut response = ProduceResponse::default();
        for data in request.topic_data {
            let name = self.name_of(data.topic_id, &data.name);
            let mut answers = Vec::new();
            for part in data.partition_data {
                let place = (name.clone(), part.index.0);
                let (fault, time) = {
                    let mut state = self.state.lock();
                    state.produced.push((part.index.0, part.routing_epoch.0));
                    if !state.under_way.insert(place.clone()) {
                        state.overlapped = true;
                    }
                    (state.faults.pop_front(), state.produce_time)
                };
                self.env.clock.sleep(time).await;
                while self.state.lock().hold {
                    self.env.clock.sleep(Duration::from_millis(1)).await;
                }
                let mut state = self.state.lock();
                state.under_way.remove(&place);
                if fault == Some(Fault::BreakBefore) {
                    return None;
                }
                let mut answer = PartitionProduceResponse { index: part.index, ..Default::default() };
                let (batch, partition) = (Batch::parse_one(part.records.unwrap()).unwrap(), part.index.0 as usize);
                let looked_up = look_up(&state.topics[&name], partition, &batch);
                let refused = match fault {
                    // For good is only refused what was not taken before.
                    Some(Fault::Refuse(code)) if code.retriable() || !matches!(looked_up, Ok(Some(_))) => Some(code),
                    _ => state.refuse.or_else(|| state.failing.get(&part.index.0).copied()),
                };
                let epoch = state.topics[&name].epoch(partition);
                let is_stale = part.routing_epoch.0 >= 0 && part.routing_epoch.0 != epoch;
                // What is there already is told so first.
                let stale = is_stale && !matches!(looked_up, Ok(Some(_)));
                let refused = refused.or(stale.then_some(ErrorCode::StaleRouting));
                let outcome = match (refused, looked_up) {
                    (Some(code), _) | (None, Err(code)) => Err(code),
                    (None, Ok(Some(duplicate))) => Ok(duplicate),
                    (None, Ok(None)) => {
                        let topic = state.topics.get_mut(&name).unwrap();
                        Ok(append(topic, partition, batch.into_bytes()))
                    }
                };
                if outcome.is_ok() && fault == Some(Fault::BreakAfter) {
                    return None;
                }
                match outcome {
                    Ok(base) => answer.base_offset = base,
                    Err(code) => {
                        answer.error_code = code;
                        answer.error_message = Some("scripted".into());
                        answer.base_offset = Offset(-1);
                    }
                }
                answers.push(answer);
            }
            response.responses.push(TopicProduceResponse {
                name,
                topic_id: data.topic_id,
                partition_responses: answers,
            });
        }
        Some(response)
    }

    async fn fetch(&self, request: FetchRequest) -> Option<FetchResponse> {
        {
            let mut state = self.state.lock();
            state.fetches += 1;
            if state.break_fetches > 0 {
                state.break_fetches -= 1;
                return None;
            }
        }
        let deadline = self.env.clock.now().0 + Duration::from_millis(request.max_wait_ms as u64);
        loop {
            let response = self.fetch_now(&request);
            let told = response
                .responses
                .iter()
                .flat_map(|topic| &topic.partitions)
                .any(|at| !at.records.is_empty() || !at.error_code.is_ok() || at.next_offset.0 >= 0);
            if told || self.env.clock.now().0 >= deadline {
                return Some(response);
            }
            self.env.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    fn fetch_now(&self, request: &FetchRequest) -> FetchResponse {
        let mut response = FetchResponse::default();
        for asked in &request.topics {
            let name = self.name_of(asked.topic_id, &asked.topic);
            let mut state = self.state.lock();
            let refused = asked.partitions.iter().filter(|at| state.failing.contains_key(&at.partition.0)).count();
            state.refusals += refused;
            let topic = &state.topics[&name];
            let partitions = asked.partitions.iter().map(|at| {
                let end = topic.end(at.partition.0 as usize);
                let mut answer = PartitionData {
                    partition_index: at.partition,
                    high_watermark: Offset(end),
                    log_start_offset: Offset(topic.start),
                    ..PartitionData::default()
                };
                if let Some(code) = state.failing.get(&at.partition.0) {
                    (answer.error_code, answer.error_message) = (*code, Some("scripted".into()));
                    return answer;
                }
                if !(topic.start..=end).contains(&at.fetch_offset.0) {
                    answer.error_code = ErrorCode::OffsetOutOfRange;
                    return answer;
                }
                let log = &topic.logs[at.partition.0 as usize];
                let wanted = log.iter().filter(|batch| batch.header().end_offset() > at.fetch_offset);
                match topic.filter {
                    None => {
                        let mut bytes = Vec::new();
                        for batch in wanted {
                            if !bytes.is_empty() && bytes.len() + batch.bytes().len() > at.partition_max_bytes as usize
                            {
                                break;
                            }
                            bytes.extend_from_slice(batch.bytes());
                        }
                        bytes.truncate(topic.cut.unwrap_or(usize::MAX));
                        answer.records = Bytes::from(bytes).into();
                    }
                    Some((span, keep)) => {
                        let to = (at.fetch_offset.0 + span).min(end);
                        let kept = wanted.filter(|batch| {
                            let base = batch.header().base_offset.0;
                            base % keep == 0 && base < to
                        });
                        let bytes: Vec<u8> = kept.flat_map(|batch| batch.bytes().to_vec()).collect();
                        answer.records = Bytes::from(bytes).into();
                        answer.next_offset = Offset(if to > at.fetch_offset.0 { to } else { -1 });
                    }
                }
                answer
            });
            let partitions = partitions.collect();
            response.responses.push(FetchableTopicResponse { topic: name, topic_id: asked.topic_id, partitions });
        }
        response
    }

    fn list_offsets(&self, request: ListOffsetsRequest) -> ListOffsetsResponse {
        let mut state = self.state.lock();
        let asked = request.topics.iter().flat_map(|topic| &topic.partitions);
        let named: BTreeSet<_> = asked.clone().map(|at| at.partition_index).collect();
        let is_twice = named.len() < asked.clone().count();
        state.refusals += asked.filter(|at| state.failing.contains_key(&at.partition_index.0)).count();
        let answer = |name: &str, at: &ListOffsetsPartition| {
            let topic = &state.topics[name];
            let partition = at.partition_index.0 as usize;
            // As brokers do.
            let twice = is_twice.then_some(ErrorCode::InvalidRequest);
            if let Some(code) = twice.as_ref().or(state.failing.get(&at.partition_index.0)) {
                return ListOffsetsPartitionResponse {
                    partition_index: at.partition_index,
                    error_code: *code,
                    error_message: Some("scripted".into()),
                    ..ListOffsetsPartitionResponse::default()
                };
            }
            let offset = match at.timestamp {
                EARLIEST_TIMESTAMP => 0,
                LATEST_TIMESTAMP => topic.end(partition),
                time => topic
                    .records(partition)
                    .iter()
                    .find(|record| record.timestamp >= time)
                    .map_or(-1, |record| record.offset.0),
            };
            ListOffsetsPartitionResponse {
                partition_index: at.partition_index,
                offset: Offset(offset),
                timestamp: TimestampMs(-1),
                ..ListOffsetsPartitionResponse::default()
            }
        };
        let topics = request.topics.into_iter().map(|topic| ListOffsetsTopicResponse {
            partitions: topic.partitions.iter().map(|at| answer(&topic.name, at)).collect(),
            name: topic.name,
        });
        ListOffsetsResponse { topics: topics.collect(), ..ListOffsetsResponse::default() }
    }

    fn describe_routing(&self, request: DescribeRoutingRequest) -> DescribeRoutingResponse {
        let state = self.state.lock();
        let topics = request.topics.into_iter().map(|name| {
            let topic = &state.topics[&name];
            TopicRouting {
                error_code: state.refuse_routing.unwrap_or_default(),
                topic_id: topic.id,
                partitions: topic.claims.unwrap_or(topic.logs.len() as i32),
                routing_epoch: topic.in_force(),
                partitioner: topic.partitioner.map(|_| "by-test@1".into()),
                needs_values: topic.needs_values,
                partitioner_digest: topic.digest,
                topic: name,
                ..TopicRouting::default()
            }
        });
        DescribeRoutingResponse { topics: topics.collect(), ..DescribeRoutingResponse::default() }
    }

    fn assign(&self, request: &AssignRequest) -> AssignResponse {
        let mut state = self.state.lock();
        if state.stale_answers > 0 {
            state.stale_answers -= 1;
            return AssignResponse { error_code: ErrorCode::StaleRouting, ..AssignResponse::default() };
        }
        if let Some(error_code) = state.assign_refuse {
            return AssignResponse { error_code, ..AssignResponse::default() };
        }
        if state.assign_bytes_max > 0 && request.frame.len() > state.assign_bytes_max {
            return AssignResponse { error_code: ErrorCode::MessageTooLarge, ..AssignResponse::default() };
        }
        let Some(topic) = state.topics.get(&request.topic) else {
            return AssignResponse { error_code: ErrorCode::UnknownTopicOrPartition, ..AssignResponse::default() };
        };
        let routing_epoch = topic.in_force();
        if request.routing_epoch != routing_epoch {
            return AssignResponse { error_code: ErrorCode::StaleRouting, routing_epoch, ..AssignResponse::default() };
        }
        let (partitioner, needs_values) = (topic.partitioner.unwrap(), topic.needs_values);
        let records: Vec<_> = raw::records(&request.frame[48..]).map(Result::unwrap).collect();
        assert_eq!(records.len(), request.count as usize);
        assert!(records.iter().all(|record| record.value.is_some() == needs_values), "values are shown when needed");
        state.asked.push(records.iter().map(|record| record.key.map(<[u8]>::to_vec)).collect());
        let mut partitions = Vec::new();
        for (index, record) in (0..).zip(&records) {
            match partitioner(record.key) {
                Some(partition) => partitions.push(PartitionId(partition)),
                None => {
                    return AssignResponse {
                        error_code: ErrorCode::CallFailed,
                        error_message: Some("no such field".into()),
                        error_record: index,
                        ..AssignResponse::default()
                    };
                }
            }
        }
        AssignResponse { routing_epoch, partitions, ..AssignResponse::default() }
    }

    fn create_topics(&self, request: &CreateTopicsRequest) -> Option<CreateTopicsResponse> {
        let name = request.topics[0].name.clone();
        let exists = self.state.lock().topics.contains_key(&name);
        if !exists {
            self.topic(&name, request.topics[0].num_partitions.max(1) as usize);
        }
        let mut state = self.state.lock();
        state.creates += 1;
        if state.break_creates {
            return None;
        }
        let result = CreatableTopicResult {
            error_code: if exists { ErrorCode::TopicAlreadyExists } else { ErrorCode::None },
            error_message: exists.then(|| format!("there is a topic {name:?} already")),
            topic_id: state.topics[&name].id,
            num_partitions: state.topics[&name].logs.len() as i32,
            name,
            ..CreatableTopicResult::default()
        };
        Some(CreateTopicsResponse { topics: vec![result], ..CreateTopicsResponse::default() })
    }

    fn name_of(&self, id: TopicId, name: &str) -> String {
        let state = self.state.lock();
        let found = state.topics.iter().find(|(_, topic)| topic.id == id);
        found.map_or_else(|| name.into(), |(name, _)| name.clone())
    }
}

/// Where a batch is already; an error where it has no place in its producer's sequence. As brokers do, by all that there is.
fn look_up(topic: &Topic, partition: usize, batch: &Batch) -> Result<Option<Offset>, ErrorCode> {
    let header = batch.header();
    let own = || topic.logs[partition].iter().map(Batch::header).filter(|own| own.producer_id == header.producer_id);
    let Some(last) = own().last().filter(|last| last.has_producer_id()) else { return Ok(None) };
    if header.producer_epoch < last.producer_epoch {
        return Err(ErrorCode::InvalidProducerEpoch);
    }
    let next = match header.producer_epoch == last.producer_epoch {
        true => last.base_sequence.plus(last.count),
        false => Sequence(0),
    };
    if header.base_sequence == next {
        return Ok(None);
    }
    let place = |header: &BatchHeader| (header.producer_epoch, header.base_sequence, header.count);
    let same = own().find(|own| place(own) == place(header));
    same.map(|own| Some(own.base_offset)).ok_or(ErrorCode::OutOfOrderSequenceNumber)
}

/// What a leader does: checks, gives offsets.
fn append(topic: &mut Topic, partition: usize, batch: Bytes) -> Offset {
    let mut batch = Batch::parse_one(batch).unwrap();
    if batch.header().attributes.compression().unwrap() == millstream_record::Compression::None {
        batch.validate_for_append().unwrap();
    }
    let base = Offset(topic.end(partition));
    let patched = batch.patched(base, LeaderEpoch(3));
    topic.logs[partition].push(Batch::parse_one(patched).unwrap());
    base
}
