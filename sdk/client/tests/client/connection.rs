//! Connections: brokers that grant fewer streams than asked for, and an end in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::FutureExt;
use millstream_client::{
    Acks, CallError, Client, ClientOptions, ConnectError, ConsumeError, ConsumerOptions, NewTopic, ProduceError,
    ProducerOptions, ProducerRecord,
};
use millstream_env::{BoxFuture, Connection, Env, FrameStream, Listener, Net, Peer, sim::World};
use parking_lot::Mutex;

use crate::{
    fake::{ADDRESS, FakeBroker},
    setting,
};

/// How long the clients of these tests wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A network whose brokers let `streams` streams be opened on a connection, and leave whoever wants more waiting.
struct Stingy {
    inner: Arc<dyn Net>,
    streams: usize,
    /// Whether its connections say that they have more than one.
    many: bool,
    slow: Slow,
}

struct StingyConnection {
    inner: Arc<dyn Connection>,
    left: Mutex<usize>,
    many: bool,
    slow: Slow,
}

/// How long connecting takes, and so does each opening of a stream.
#[derive(Clone)]
struct Slow(Arc<Mutex<Duration>>, Env);

impl Slow {
    async fn pass(&self) {
        let time = *self.0.lock();
        self.1.clock.sleep(time).await;
    }
}

impl Net for Stingy {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn Listener>>> {
        self.inner.listen(address)
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn Connection>>> {
        async move {
            self.slow.pass().await;
            let (inner, left) = (self.inner.connect(address).await?, Mutex::new(self.streams));
            Ok(Arc::new(StingyConnection { inner, left, many: self.many, slow: self.slow.clone() })
                as Arc<dyn Connection>)
        }
        .boxed()
    }
}

impl Connection for StingyConnection {
    fn peer(&self) -> &Peer {
        self.inner.peer()
    }

    fn has_many_streams(&self) -> bool {
        self.many
    }

    fn accept(&self) -> BoxFuture<'_, Option<FrameStream>> {
        self.inner.accept()
    }

    fn open(&self) -> BoxFuture<'_, io::Result<FrameStream>> {
        let mut left = self.left.lock();
        if *left == 0 {
            return std::future::pending().boxed();
        }
        *left -= 1;
        async {
            self.slow.pass().await;
            self.inner.open().await
        }
        .boxed()
    }

    fn close(&self, reason: &str) {
        self.inner.close(reason);
    }
}

/// A client of a broker that grants so many streams.
fn stingy(streams: usize) -> (World, FakeBroker, Result<Client, ConnectError>) {
    let (world, broker, client, _) = slow(streams);
    (world, broker, client)
}

/// As [`stingy`]; connecting and opening take no time yet.
fn slow(streams: usize) -> (World, FakeBroker, Result<Client, ConnectError>, Slow) {
    let (world, broker, _) = setting(1);
    let slow = Slow(Arc::default(), world.env());
    let net = Arc::new(Stingy { inner: world.net(), streams, many: true, slow: slow.clone() });
    let options = ClientOptions { request_timeout: PATIENCE, ..ClientOptions::default() };
    let connect = Client::connect_over(world.env(), net, vec![ADDRESS.into()], options);
    let client = world.run_until(connect);
    (world, broker, client, slow)
}

#[test]
fn a_broker_that_grants_no_stream_is_an_error_within_the_request_time_out() {
    let (world, _broker, client) = stingy(0);
    let error = client.unwrap_err().to_string();
    assert!(error.contains(ADDRESS) && error.contains("stream"), "{error}");
    assert!(world.env().clock.now().0 < PATIENCE * 2, "{:?}", world.env().clock.now());
}

#[test]
fn a_broker_that_grants_too_few_streams_is_an_error_and_nothing_hangs() {
    let (world, broker, client) = stingy(1);
    let client = client.unwrap();
    broker.topic("t", 1);
    let start = world.env().clock.now().0;
    let options = ConsumerOptions { patience: PATIENCE, ..ConsumerOptions::default() };
    let read = async { client.consumer("t", options).await?.next().await };
    let error = world.run_until(read).unwrap_err().to_string();
    assert!(error.contains("stream"), "{error}");
    let options = ProducerOptions { delivery_timeout: PATIENCE * 2, ..ProducerOptions::default() };
    let producer = client.producer(options);
    let record = ProducerRecord { topic: "t".into(), ..ProducerRecord::default() };
    let error = world.run_until(producer.produce(record)).unwrap_err().to_string();
    assert!(error.contains("stream"), "{error}");
    // Both had their patience and one more opening under way.
    let took = world.env().clock.now().0 - start;
    assert!(took < PATIENCE * 6, "{took:?}");
    // What needs no further stream still works.
    assert_eq!(world.run_until(client.admin().list_topics()).unwrap().len(), 1);
}

#[test]
fn connections_of_one_stream_each_serve_as_well() {
    let (world, broker, _) = setting(1);
    broker.topic("t", 3);
    let slow = Slow(Arc::default(), world.env());
    let net = Arc::new(Stingy { inner: world.net(), streams: 1, many: false, slow });
    let connect = Client::connect_over(world.env(), net, vec![ADDRESS.into()], ClientOptions::default());
    let client = world.run_until(connect).unwrap();
    let producer = client.producer(ProducerOptions::default());
    world.run_until(async {
        producer.produce(record()).await.unwrap();
        let mut consumer = client.consumer("t", ConsumerOptions::default()).await.unwrap();
        assert!(consumer.next().await.unwrap().is_some());
        assert_eq!(client.admin().list_topics().await.unwrap().len(), 1);
        client.close().await;
    });
    let state = broker.state.lock();
    assert_eq!(state.streams_max, 1);
    assert!(state.connections > 3, "{}", state.connections);
}

#[test]
fn closing_waits_until_the_broker_has_done_what_nobody_acknowledges() {
    for seed in 0..20 {
        let (world, broker, client) = setting(seed);
        broker.topic("t", 4);
        broker.state.lock().produce_time = Duration::from_millis(40);
        let options = ProducerOptions { acks: Acks::None, linger: Duration::ZERO, ..ProducerOptions::default() };
        let producer = client.producer(options);
        world.run_until(async {
            for number in 0..40 {
                let partition = Some(millstream_model::PartitionId(number % 4));
                let record = ProducerRecord { topic: "t".into(), partition, ..ProducerRecord::default() };
                drop(producer.send(record).await.unwrap());
            }
            producer.flush().await;
            client.close().await;
        });
        let state = broker.state.lock();
        let there: usize = (0..4).map(|partition| state.topics["t"].records(partition).len()).sum();
        assert_eq!(there, 40, "seed {seed}");
    }
}

#[test]
fn closing_does_not_wait_for_a_broker_that_never_finishes() {
    let (world, broker, _) = setting(1);
    let options = ClientOptions { request_timeout: PATIENCE, ..ClientOptions::default() };
    let client =
        world.run_until(Client::connect_over(world.env(), world.net(), vec![ADDRESS.into()], options)).unwrap();
    broker.topic("t", 1);
    broker.state.lock().hold = true;
    let producer = client.producer(ProducerOptions { acks: Acks::None, ..ProducerOptions::default() });
    let start = world.env().clock.now().0;
    world.run_until(async {
        let record = ProducerRecord { topic: "t".into(), ..ProducerRecord::default() };
        drop(producer.send(record).await.unwrap());
        producer.flush().await;
        client.close().await;
    });
    let took = world.env().clock.now().0 - start;
    assert!((PATIENCE..PATIENCE * 2).contains(&took), "{took:?}");
}

fn record() -> ProducerRecord {
    ProducerRecord { topic: "t".into(), ..ProducerRecord::default() }
}

#[test]
fn a_closed_client_stays_closed_and_everything_made_from_it_ends_with_that() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 2);
    let (clone, producer, admin) = (client.clone(), client.producer(ProducerOptions::default()), client.admin());
    let mut consumer = world.run_until(client.consumer("t", ConsumerOptions::default())).unwrap();
    world.run_until(producer.produce(record())).unwrap();
    assert!(world.run_until(consumer.next()).unwrap().is_some());
    let connections = broker.state.lock().connections;
    // One that waits is woken.
    let (read, ()) = world.run_until(async { futures::join!(consumer.next(), client.close()) });
    let start = world.env().clock.now();
    for read in [read, world.run_until(consumer.next())] {
        let error = read.unwrap_err();
        assert!(matches!(error, ConsumeError::Call(CallError::Closed)) && !error.is_retriable(), "{error}");
    }
    let error = world.run_until(producer.produce(record())).unwrap_err();
    assert!(matches!(error, ProduceError::Call(CallError::Closed)) && !error.is_retriable(), "{error}");
    for error in [
        world.run_until(admin.list_topics()).unwrap_err(),
        world.run_until(admin.delete_view("v")).unwrap_err(),
        world.run_until(clone.admin().list_topics()).unwrap_err(),
    ] {
        assert!(matches!(error, CallError::Closed) && !error.is_retriable(), "{error}");
    }
    let error = world.run_until(clone.consumer("t", ConsumerOptions::default())).unwrap_err();
    assert!(matches!(error, ConsumeError::Call(CallError::Closed)), "{error}");
    let error = world.run_until(clone.producer(ProducerOptions::default()).produce(record())).unwrap_err();
    assert!(matches!(error, ProduceError::Call(CallError::Closed)), "{error}");
    assert!(world.env().clock.now() - start < Duration::from_secs(1), "nothing is tried again");
    world.run_for(Duration::from_secs(100));
    assert_eq!(broker.state.lock().connections, connections);
}

#[test]
fn what_has_no_fate_when_the_client_is_closed_is_told_so_and_is_not_tried_again() {
    let (world, broker, _) = setting(1);
    let options = ClientOptions { request_timeout: PATIENCE, ..ClientOptions::default() };
    let connect = Client::connect_over(world.env(), world.net(), vec![ADDRESS.into()], options);
    let client = world.run_until(connect).unwrap();
    broker.topic("t", 1);
    broker.state.lock().hold = true;
    let producer = client.producer(ProducerOptions { batch_bytes: 1, ..ProducerOptions::default() });
    world.run_until(async {
        // Each in a batch of its own, of which the first is under way.
        let deliveries = [producer.send(record()).await.unwrap(), producer.send(record()).await.unwrap()];
        world.env().clock.sleep(Duration::from_millis(100)).await;
        client.close().await;
        for delivery in deliveries {
            let error = delivery.await.unwrap_err();
            assert!(matches!(error, ProduceError::Call(CallError::Closed)) && !error.is_refusal(), "{error}");
        }
    });
    let took = world.env().clock.now().0;
    assert!(took < PATIENCE * 2, "{took:?}");
    broker.state.lock().hold = false;
    world.run_for(Duration::from_secs(100));
    assert_eq!(broker.state.lock().produced.len(), 1);
}

#[test]
fn who_waits_for_a_stream_is_told_at_once_that_the_client_was_closed() {
    let (world, broker, client) = stingy(1);
    let client = client.unwrap();
    broker.topic("t", 1);
    let mut consumer = world.run_until(client.consumer("t", ConsumerOptions::default())).unwrap();
    let start = world.env().clock.now();
    let closing = async {
        world.env().clock.sleep(Duration::from_millis(100)).await;
        client.close().await;
    };
    let (read, ()) = world.run_until(async { futures::join!(consumer.next(), closing) });
    let error = read.unwrap_err();
    assert!(matches!(error, ConsumeError::Call(CallError::Closed)), "{error}");
    assert!(world.env().clock.now() - start < PATIENCE / 2);
}

/// Connecting, opening a stream and asking each fit into the time that a request has, but not all of them.
#[test]
fn a_request_takes_no_longer_than_its_time_out_whatever_it_is_spent_on() {
    for changes in [false, true] {
        for (part, answers) in [(0.25, false), (0.4, true), (0.6, true), (2.0, true)] {
            let (world, broker, client, slow) = slow(usize::MAX);
            let admin = client.unwrap().admin();
            broker.state.lock().break_creates = true;
            world.run_until(admin.create_topic(NewTopic { name: "a".into(), ..NewTopic::default() })).unwrap_err();
            broker.state.lock().silent = !answers;
            *slow.0.lock() = PATIENCE.mul_f64(part);
            let start = world.env().clock.now();
            let error = match changes {
                true => world.run_until(admin.delete_view("v")).unwrap_err(),
                false => world.run_until(admin.list_topics()).unwrap_err(),
            };
            let took = world.env().clock.now() - start;
            let expected = PATIENCE..=PATIENCE + Duration::from_millis(1);
            assert!(expected.contains(&took), "{part}, {changes}: {took:?}, {error}");
            assert!(error.is_retriable(), "{error}");
        }
    }
}

#[test]
fn a_broker_that_cannot_be_reached_in_time_leaves_time_for_the_next() {
    let (world, broker, _) = setting(1);
    let slow = Slow(Arc::default(), world.env());
    // The first never lets a stream be opened.
    struct Half(Stingy, Arc<dyn Net>);
    impl Net for Half {
        fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Arc<dyn Listener>>> {
            self.1.listen(address)
        }
        fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn Connection>>> {
            match address {
                ADDRESS => self.1.connect(address),
                _ => self.0.connect(ADDRESS),
            }
        }
    }
    let net = Arc::new(Half(Stingy { inner: world.net(), streams: 0, many: true, slow }, world.net()));
    let options = ClientOptions { request_timeout: PATIENCE, ..ClientOptions::default() };
    let brokers = vec!["silent:9092".into(), ADDRESS.into()];
    let client = world.run_until(Client::connect_over(world.env(), net, brokers, options)).unwrap();
    broker.topic("t", 1);
    assert_eq!(world.run_until(client.admin().list_topics()).unwrap().len(), 1);
    assert!(world.env().clock.now().0 < PATIENCE * 2);
}
