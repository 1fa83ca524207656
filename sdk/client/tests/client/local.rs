//! A partitioner that a producer is to run itself and cannot have: whatever the broker says or hands out, it is asked instead, every record
//! goes where it says, and it is told once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_client::{LocalRouting, ProducerOptions, ProducerRecord};
use millstream_model::{Digest, PartitionId};
use millstream_protocol::{
    ErrorCode,
    extension::modules::{ModuleReadRequest, ModuleReadResponse},
};
use sha2::{Digest as _, Sha256};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{fake::Hand, setting};

/// Bytes that have their digest, and are no module.
const NO_MODULE: &[u8] = b"these bytes are no component";
const PARTITIONS: i32 = 3;
const RECORDS: i32 = 300;

fn digest() -> Digest {
    Digest(Sha256::digest(NO_MODULE).into())
}

fn part(size_bytes: usize, bytes: impl Into<Bytes>) -> ModuleReadResponse {
    ModuleReadResponse { size_bytes: size_bytes as i64, bytes: bytes.into(), ..ModuleReadResponse::default() }
}

fn whole(request: &ModuleReadRequest) -> ModuleReadResponse {
    let from = usize::try_from(request.offset).unwrap();
    // Seven bytes at a time.
    part(NO_MODULE.len(), NO_MODULE[from..].iter().take(7).copied().collect::<Bytes>())
}

fn by_first_byte(key: Option<&[u8]>) -> Option<i32> {
    Some(key.map_or(-1, |key| i32::from(key[0]) % PARTITIONS))
}

/// Counts what is said of partitioners that do not run.
struct Heard(Arc<AtomicUsize>);

struct IsIt(bool);

impl Visit for IsIt {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}").contains("does not run here");
    }
}

impl Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut is_it = IsIt(false);
        event.record(&mut is_it);
        self.0.fetch_add(usize::from(is_it.0), Ordering::Relaxed);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Case {
    name: &'static str,
    digest: Option<Digest>,
    hand: Option<Hand>,
    hand_time: Duration,
    module_bytes_max: usize,
    /// How often parts are asked for, at most.
    reads_max: usize,
}

impl Case {
    fn handed(name: &'static str, reads_max: usize, hand: Hand) -> Self {
        let (digest, hand) = (Some(digest()), Some(hand));
        Self { name, digest, hand, hand_time: Duration::ZERO, module_bytes_max: 1 << 20, reads_max }
    }
}

fn check(case: &Case) {
    let (world, broker, _) = setting(1);
    let name = case.name;
    broker.topic("t", PARTITIONS as usize);
    {
        let mut state = broker.state.lock();
        (state.hand, state.hand_time) = (case.hand, case.hand_time);
        let topic = state.topics.get_mut("t").unwrap();
        topic.partitioner = Some(by_first_byte);
        topic.digest = case.digest;
    }
    // Which apis there are is asked once for a connection: by a client that comes now.
    let client = world.run_until(crate::connect(&world)).unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let told = tracing::subscriber::with_default(Heard(Arc::clone(&heard)), || {
        let local = LocalRouting { module_bytes_max: case.module_bytes_max, ..LocalRouting::default() };
        let producer = client.producer(ProducerOptions { local_routing: Some(local), ..ProducerOptions::default() });
        world.run_until(async {
            let mut deliveries = Vec::new();
            for number in 0..RECORDS {
                let record = ProducerRecord {
                    topic: "t".into(),
                    key: Some(Bytes::from(format!("{}", number % 10))),
                    value: Some(number.to_string().into()),
                    ..ProducerRecord::default()
                };
                deliveries.push(producer.send(record).await.unwrap());
                if number % 100 == 0 {
                    // More than one question.
                    producer.flush().await;
                }
            }
            futures::future::join_all(deliveries).await
        })
    });
    let state = broker.state.lock();
    for (number, fate) in (0..).zip(told) {
        let key = format!("{}", number % 10);
        assert_eq!(fate.unwrap().partition.0, by_first_byte(Some(key.as_bytes())).unwrap(), "{name}: {number}");
    }
    for partition in 0..PARTITIONS {
        let values = state.topics["t"].records(partition as usize);
        let numbers = values
            .iter()
            .map(|record| String::from_utf8(record.value.as_ref().unwrap().to_vec()).unwrap().parse::<i32>().unwrap());
        assert!(numbers.collect::<Vec<_>>().is_sorted(), "{name}: in the order sent");
    }
    assert_eq!(state.asked.iter().flatten().count(), RECORDS as usize, "{name}: the broker is asked");
    assert!(state.asked.len() > 2, "{name}");
    assert!(state.module_reads <= case.reads_max, "{name}: {} parts were asked for", state.module_reads);
    assert_eq!(heard.load(Ordering::Relaxed), 1, "{name}: it is told once");
}

#[test]
fn a_broker_that_hands_out_no_modules_is_asked() {
    check(&Case { digest: None, hand: None, ..Case::handed("an older broker", 0, whole) });
    check(&Case { digest: None, ..Case::handed("no digest is told", 0, whole) });
    check(&Case { hand: None, ..Case::handed("it is not served", 0, whole) });
    check(&Case::handed("it was deleted", 1, |_| ModuleReadResponse {
        error_code: ErrorCode::ModuleNotFound,
        error_message: Some("no module has that digest".into()),
        ..ModuleReadResponse::default()
    }));
}

#[test]
fn a_broker_that_lies_is_believed_in_nothing_and_asked() {
    check(&Case::handed("bytes that are no module", 4, whole));
    check(&Case { digest: Some(Digest([7; 32])), ..Case::handed("other bytes", 4, whole) });
    check(&Case { module_bytes_max: NO_MODULE.len() - 1, ..Case::handed("more than the program allows", 1, whole) });
    check(&Case::handed("an empty part", 1, |_| part(10, Bytes::new())));
    check(&Case::handed("a part past the end", 1, |_| part(5, &b"123456"[..])));
    check(&Case::handed("no bytes at all", 1, |_| part(0, Bytes::new())));
    check(&Case::handed("a size less than nothing", 1, |_| ModuleReadResponse {
        size_bytes: -1,
        ..part(0, &b"1"[..])
    }));
    check(&Case::handed("a size without end", 1, |_| ModuleReadResponse {
        size_bytes: i64::MAX,
        ..part(0, &b"1"[..])
    }));
    check(&Case::handed("a part larger than was asked for", 1, |_| part(1 << 20, vec![0; (1 << 20) + 1])));
    check(&Case::handed("a size that shrinks", 2, |request| {
        if request.offset == 0 { part(100, &b"1234567"[..]) } else { part(6, &b"1"[..]) }
    }));
}

/// The module is waited for, in order, no longer than is allowed.
#[test]
fn a_broker_that_is_long_at_handing_it_out_is_asked() {
    let slow = Case { hand_time: Duration::from_secs(13), ..Case::handed("long", 3, whole) };
    check(&slow);
}

#[test]
fn what_a_topic_does_not_need_is_not_asked_for() {
    let (world, broker, client) = setting(1);
    broker.topic("t", 3);
    let options = ProducerOptions { local_routing: Some(LocalRouting::default()), ..ProducerOptions::default() };
    let producer = client.producer(options);
    let record = |partition| ProducerRecord { topic: "t".into(), partition, ..ProducerRecord::default() };
    for partition in [None, Some(PartitionId(1))] {
        world.run_until(producer.produce(record(partition))).unwrap();
    }
    let state = broker.state.lock();
    assert_eq!((state.module_reads, state.asked.len()), (0, 0));
}
