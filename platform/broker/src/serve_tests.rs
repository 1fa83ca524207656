//! Streams: what becomes of requests whose peer goes, of turns, and of subscriptions.

use std::net::Ipv4Addr;

use futures::channel::{mpsc, oneshot};
use millstream_env::sim::World;
use millstream_model::{Offset, PartitionId};
use millstream_protocol::{
    ErrorCode, Response, decode_response, encode_request,
    extension::subscriptions::{
        SubscribeRequest, SubscribeResponse, SubscribedPartition, SubscribedTopic, SubscriptionCreditRequest,
    },
    messages::{
        fetch::{FetchPartition, FetchRequest, FetchTopic},
        produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
    },
};
use millstream_record::{BatchBuilder, BatchOptions};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{Broker, testing};

/// The peer's end of a stream: what it sends and takes, and what becomes of it.
struct Peer {
    frames: mpsc::UnboundedSender<std::io::Result<Bytes>>,
    answers: mpsc::UnboundedReceiver<millstream_env::Frame>,
    finished: Option<oneshot::Sender<()>>,
    gone: Option<oneshot::Sender<()>>,
}

fn stream() -> (Peer, FrameStream) {
    let ((frames, source), (sink, answers)) = (mpsc::unbounded(), mpsc::unbounded());
    let ((finish, finished), (go, gone)) = (oneshot::channel(), oneshot::channel());
    let sink = sink.sink_map_err(|_| std::io::ErrorKind::BrokenPipe.into());
    let signal = |told: oneshot::Receiver<()>| async {
        if told.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let stream = FrameStream {
        source: Box::pin(source),
        sink: Box::pin(sink),
        finished: signal(finished).boxed(),
        gone: signal(gone).boxed(),
    };
    (Peer { frames, answers, finished: Some(finish), gone: Some(go) }, stream)
}

impl Peer {
    fn send(&self, version: i16, request: impl Into<Request>) {
        let frame = encode_request(version, 1, None, &request.into()).unwrap().to_bytes();
        self.frames.unbounded_send(Ok(frame)).unwrap();
    }

    /// As [`Peer::send`], of records from there on, as soon as there are any.
    fn fetch(&self, from: Offset) {
        let partitions =
            vec![FetchPartition { fetch_offset: from, partition_max_bytes: 1 << 20, ..Default::default() }];
        let topics = vec![FetchTopic { topic: "t".into(), partitions, ..Default::default() }];
        self.send(11, FetchRequest { max_wait_ms: i32::MAX, min_bytes: 1, topics, ..Default::default() });
    }

    /// To a partition; with acks=0 there is no answer.
    fn produce(&self, partition: i32, acks: i16) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(millstream_model::TimestampMs(0), None, Some(b"value"), &[]).unwrap();
        let records = Some(builder.build().unwrap());
        let partition_data =
            vec![PartitionProduceData { index: PartitionId(partition), records, ..Default::default() }];
        let topic_data = vec![TopicProduceData { name: "t".into(), partition_data, ..Default::default() }];
        self.send(7, ProduceRequest { acks, timeout_ms: 1000, topic_data, ..Default::default() });
    }
}

fn turns(broker: &Broker) -> Turns {
    Turns::new(CancellationToken::new(), broker.shared().catch_up.connection(Ipv4Addr::LOCALHOST.into()))
}

/// A broker with three old records and readers held back, and one who waits before all others.
fn busy(world: &World) -> (Broker, crate::catch_up::Place) {
    let broker = testing::start(world);
    world.run_until(testing::create(&broker, 1));
    for _ in 0..3 {
        world.run_until(testing::append(&broker, 0).commit).unwrap();
    }
    let catch_up = &broker.shared().catch_up;
    catch_up.hold(1.0);
    let mut first = catch_up.connection(Ipv4Addr::LOCALHOST.into()).ask(1 << 20).unwrap();
    assert!(first.is_due());
    (broker, first)
}

fn end(broker: &Broker) -> Offset {
    broker.shared().partitions.find(testing::TOPIC, PartitionId(0)).unwrap().log.end_offset()
}

/// Its fetches waited for their turn, or for records, and kept their places for as long as they liked to wait.
#[test]
fn what_waits_for_a_peer_that_takes_nothing_more_ends_at_once() {
    for from in [0, 3] {
        let world = World::new(7);
        let (broker, first) = busy(&world);
        let shared = broker.shared();
        let (mut peer, stream) = stream();
        peer.fetch(Offset(from));
        let mut driven = Box::pin(drive_stream(shared, stream, turns(&broker)));
        assert!((&mut driven).now_or_never().is_none());
        assert_eq!(shared.catch_up.waiting(), usize::from(from == 0));
        peer.gone.take().unwrap().send(()).unwrap();
        // What it had sent is taken, whether it had asked for an answer or not.
        peer.produce(0, 0);
        peer.fetch(Offset(from));
        let ended = driven.now_or_never().expect("it waits on");
        assert!(matches!(ended, Err(StreamEnd::Gone)), "{ended:?}");
        assert_eq!((shared.catch_up.waiting(), end(&broker)), (0, Offset(4)), "{from}");
        assert!(peer.answers.try_recv().is_err());
        drop(first);
        testing::stop(&world, broker);
    }
}

/// A client that asked for more than a stream takes at a time, and closed its connection, was not seen to have gone: nothing was read
/// from it before something was answered.
#[test]
fn nothing_waits_for_a_peer_that_has_ended_its_side_though_there_is_more_to_read() {
    let world = World::new(7);
    let (broker, first) = busy(&world);
    drop(first);
    let (mut peer, stream) = stream();
    let asked = 3 * broker.shared().options.session.requests_max;
    for _ in 0..asked {
        peer.fetch(Offset(3));
    }
    let mut driven = Box::pin(drive_stream(broker.shared(), stream, turns(&broker)));
    for _ in 0..10 {
        assert!((&mut driven).now_or_never().is_none());
    }
    peer.finished.take().unwrap().send(()).unwrap();
    peer.frames.close_channel();
    world.run_until(driven).unwrap();
    let answers = std::iter::from_fn(|| peer.answers.try_recv().ok()).count();
    assert_eq!(answers, asked);
    testing::stop(&world, broker);
}

/// It made readers give way to a producer that appended nothing, and counted as an append that was quick.
#[test]
fn a_produce_request_of_which_all_is_refused_is_no_append() {
    let world = World::new(7);
    let broker = testing::start(&world);
    world.run_until(testing::create(&broker, 1));
    let run = |partitions: &[i32]| {
        let (mut peer, stream) = stream();
        partitions.iter().for_each(|partition| peer.produce(*partition, -1));
        peer.frames.close_channel();
        world.run_until(drive_stream(broker.shared(), stream, turns(&broker))).unwrap();
        assert_eq!(std::iter::from_fn(|| peer.answers.try_recv().ok()).count(), partitions.len());
        broker.shared().catch_up.is_live()
    };
    assert!(!run(&[1, 7]), "there is no such partition");
    assert!(run(&[0, 1]));
    testing::stop(&world, broker);
}

#[test]
fn a_peer_that_reads_on_is_answered() {
    let world = World::new(7);
    let (broker, first) = busy(&world);
    drop(first);
    let (mut peer, stream) = stream();
    peer.fetch(Offset(0));
    peer.frames.close_channel();
    world.run_until(drive_stream(broker.shared(), stream, turns(&broker))).unwrap();
    assert!(peer.answers.try_recv().is_ok());
    testing::stop(&world, broker);
}

impl Peer {
    /// Subscribes to the first partitions of the topic, from these offsets on.
    fn subscribe(&self, from: &[i64], request: SubscribeRequest) {
        let ask = |(partition, offset): (i32, &i64)| SubscribedPartition {
            partition: PartitionId(partition),
            offset: Offset(*offset),
            ..Default::default()
        };
        let partitions = (0..).zip(from).map(ask).collect();
        let topics = vec![SubscribedTopic { topic_id: testing::TOPIC, partitions }];
        self.send(0, SubscribeRequest { subscription_id: 1, topics, ..request });
    }

    fn allow(&self, credit_bytes: i64) {
        self.send(0, SubscriptionCreditRequest { subscription_id: 1, credit_bytes });
    }

    /// The answers that have come, each with its bytes.
    fn pushed(&mut self) -> Vec<(SubscribeResponse, usize)> {
        let frames = std::iter::from_fn(|| self.answers.try_recv().ok());
        let read = |frame: millstream_env::Frame| {
            let (_, response) = decode_response(ApiKey::Subscribe, 0, frame.to_bytes()).unwrap();
            let Response::Subscribe(response) = response else { panic!("{response:?}") };
            (response, frame.len())
        };
        frames.map(read).collect()
    }
}

fn asking(credit_bytes: i64) -> SubscribeRequest {
    SubscribeRequest {
        credit_bytes,
        max_wait_ms: 60_000,
        max_bytes: 1 << 20,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    }
}

/// (partition, error, from, to) of all that answers tell.
fn told(answers: &[(SubscribeResponse, usize)]) -> Vec<(i32, ErrorCode, i64, i64)> {
    let topics = answers.iter().flat_map(|(answer, _)| &answer.topics);
    let partitions = topics.flat_map(|topic| &topic.partitions);
    partitions.map(|at| (at.partition.0, at.error_code, at.offset.0, at.next_offset.0)).collect()
}

/// A broker with so many partitions and a stream that it drives, step by step.
struct Subscribed {
    world: World,
    broker: Broker,
}

impl Subscribed {
    fn new(partitions: i32) -> Self {
        let world = World::new(7);
        let broker = testing::start(&world);
        world.run_until(testing::create(&broker, partitions));
        Self { world, broker }
    }

    fn append(&self, partition: i32) {
        self.world.run_until(testing::append(&self.broker, partition).commit).unwrap();
    }

    /// Runs the stream for a while, in which nothing is to end.
    fn run(&self, driven: &mut (impl Future<Output = Result<(), StreamEnd>> + Unpin)) {
        let moment = self.broker.shared().env.clock.sleep(Duration::from_secs(1));
        let ended = self.world.run_until(futures::future::select(driven, moment));
        assert!(matches!(ended, futures::future::Either::Right(_)), "the stream has ended");
    }
}

#[test]
fn a_subscription_sends_what_comes_within_its_credit() {
    let setting = Subscribed::new(1);
    let (mut peer, stream) = stream();
    let shared = setting.broker.shared();
    let mut driven = Box::pin(drive_stream(shared, stream, turns(&setting.broker)));
    peer.subscribe(&[0], asking(0));
    setting.append(0);
    setting.run(&mut driven);
    assert!(peer.pushed().is_empty(), "it was allowed nothing");
    // One byte is enough to finish an answer, and the next needs more.
    peer.allow(1);
    setting.run(&mut driven);
    let first = peer.pushed();
    assert_eq!(told(&first), [(0, ErrorCode::None, 0, 1)]);
    for _ in 0..5 {
        setting.append(0);
        setting.run(&mut driven);
    }
    let used = first[0].1 as i64;
    peer.allow(used);
    setting.run(&mut driven);
    assert!(peer.pushed().is_empty(), "all that was allowed is used up");
    // What has come meanwhile comes in whole batches, one answer for each bit of credit.
    peer.allow(used + 1);
    setting.run(&mut driven);
    assert_eq!(told(&peer.pushed()), [(0, ErrorCode::None, 1, 2)]);
    peer.allow(i64::MAX);
    setting.run(&mut driven);
    assert_eq!(told(&peer.pushed()), [(0, ErrorCode::None, 2, 6)]);
    // Nothing is asked any more, and all is sent as it comes.
    for offset in 6..9 {
        setting.append(0);
        setting.run(&mut driven);
        assert_eq!(told(&peer.pushed()), [(0, ErrorCode::None, offset, offset + 1)]);
    }
    assert_eq!(
        shared
            .memory
            .metrics(&shared.options.frames)
            .iter()
            .find(|of| of.purpose == "subscriptions")
            .map(|of| of.used > 0),
        Some(true)
    );
    peer.frames.close_channel();
    setting.world.run_until(driven).unwrap();
    let ended = peer.pushed();
    assert!(matches!(&ended[..], [(answer, _)] if answer.is_last && answer.topics.is_empty()), "{ended:?}");
    assert_eq!(shared.memory.metrics(&shared.options.frames).iter().map(|of| of.used).sum::<usize>(), 0);
    testing::stop(&setting.world, setting.broker);
}

#[test]
fn a_subscription_says_that_the_broker_is_there_and_ends_with_it() {
    let setting = Subscribed::new(1);
    let (mut peer, stream) = stream();
    let shared = setting.broker.shared();
    let reading = shared.catch_up.connection(Ipv4Addr::LOCALHOST.into());
    let mut driven = Box::pin(drive_stream(shared, stream, Turns::new(shared.stop.child_token(), reading)));
    peer.subscribe(&[0], SubscribeRequest { max_wait_ms: 400, ..asking(1 << 20) });
    setting.run(&mut driven);
    let answers = peer.pushed();
    assert!(matches!(answers.len(), 2 | 3) && told(&answers).is_empty(), "{answers:?}");
    setting.broker.shared().stop.cancel();
    setting.world.run_until(driven).unwrap();
    assert!(peer.pushed().last().unwrap().0.is_last);
    testing::stop(&setting.world, setting.broker);
}

#[test]
fn what_cannot_be_read_is_told_once_and_the_rest_goes_on() {
    let setting = Subscribed::new(3);
    let (mut peer, stream) = stream();
    let mut driven = Box::pin(drive_stream(setting.broker.shared(), stream, turns(&setting.broker)));
    // The third begins beyond its end, and the fourth is not there.
    peer.subscribe(&[0, 0, 5, 0], asking(1 << 20));
    setting.run(&mut driven);
    let mut first = told(&peer.pushed());
    first.sort_unstable_by_key(|told| told.0);
    assert_eq!(first, [(2, ErrorCode::OffsetOutOfRange, 5, 5), (3, ErrorCode::UnknownTopicOrPartition, 0, 0)]);
    for partition in [0, 1, 2] {
        setting.append(partition);
        setting.run(&mut driven);
    }
    assert_eq!(told(&peer.pushed()), [(0, ErrorCode::None, 0, 1), (1, ErrorCode::None, 0, 1)]);
    assert_eq!(setting.world.run_until(testing::delete(&setting.broker)), ErrorCode::None);
    setting.run(&mut driven);
    let gone = peer.pushed();
    let unknown = |at| (at, ErrorCode::UnknownTopicId, 1, 1);
    assert_eq!(told(&gone), [unknown(0), unknown(1)]);
    assert!(gone.last().unwrap().0.is_last);
    drop(driven);
    testing::stop(&setting.world, setting.broker);
}

#[test]
fn a_subscription_ends_where_it_is_told_to() {
    let setting = Subscribed::new(1);
    for _ in 0..4 {
        setting.append(0);
    }
    let (mut peer, stream) = stream();
    let mut driven = Box::pin(drive_stream(setting.broker.shared(), stream, turns(&setting.broker)));
    let partitions = vec![SubscribedPartition { offset: Offset(1), end_offset: Offset(3), ..Default::default() }];
    let topics = vec![SubscribedTopic { topic_id: testing::TOPIC, partitions }];
    peer.send(0, SubscribeRequest { topics, partition_max_bytes: 1, ..asking(1 << 20) });
    // What is behind it is answered then.
    peer.fetch(Offset(0));
    setting.run(&mut driven);
    let frames: Vec<_> = std::iter::from_fn(|| peer.answers.try_recv().ok()).collect();
    assert_eq!(frames.len(), 3, "two answers of one batch each, and another request's");
    let (_, second) = decode_response(ApiKey::Subscribe, 0, frames[1].to_bytes()).unwrap();
    let Response::Subscribe(second) = second else { panic!("{second:?}") };
    assert!(second.is_last && second.topics[0].partitions[0].next_offset == Offset(3), "{second:?}");
    drop(driven);
    testing::stop(&setting.world, setting.broker);
}
