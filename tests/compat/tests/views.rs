//! Views that leave records out, read by kcat, kafka-python and our client: each gets exactly what is shown, and gets past
//! what is not, be it a few records, everything, or all that comes last.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{
    broker::Broker,
    guests,
    message::{Message, Placed},
    peers, sdk,
};

const PARTITIONS: i32 = 3;
/// Records of a partition: more bytes than one request scans.
const RECORDS: i64 = 6_000;

/// A broker whose topic `source` holds numbered records of about 1 KB in each of its partitions.
fn broker() -> Broker {
    let broker = Broker::start().unwrap();
    let partitions = PARTITIONS.to_string();
    broker.cli(&["topic", "create", "source", "--partitions", &partitions]).unwrap().ok().unwrap();
    let module = guests::component("view-filter").unwrap();
    let push = ["module", "push", module.to_str().unwrap(), "--name", "view-filter", "--version", "1"];
    broker.cli(&push).unwrap().ok().unwrap();
    let filler = "x".repeat(1000);
    let sent: Vec<Message> = (0..RECORDS * i64::from(PARTITIONS))
        .map(|at| {
            let (partition, n) = ((at % i64::from(PARTITIONS)) as i32, at / i64::from(PARTITIONS));
            let value = format!("{{\"n\":{n},\"last\":{},\"filler\":\"{filler}\"}}", n % 1000);
            Message::new(partition, Some(format!("k{n}").as_bytes()), Some(value.as_bytes()))
        })
        .collect();
    sdk::produce(&broker, "source", &sent).unwrap();
    broker
}

/// All clients read the view `name`: in each partition the source's records `shown`, at their own offsets, and they come to
/// the end.
fn check(broker: &Broker, name: &str, condition: [&str; 3], shown: impl Fn(i64) -> bool) {
    let [field, op, value] = condition.map(str::to_owned);
    let params = [format!("field={field}"), format!("op={op}"), format!("value={value}")];
    let create = ["view", "create", name, "--topic", "source", "--chain", "view-filter@1"];
    let params = ["--param", &params[0], "--param", &params[1], "--param", &params[2]];
    broker.cli(&[&create[..], &params[..]].concat()).unwrap().ok().unwrap();
    let expected: Vec<i64> = (0..RECORDS).filter(|n| shown(*n)).collect();
    let check = |reader: &str, read: Vec<Placed>| {
        for partition in 0..PARTITIONS {
            let of_it = || read.iter().filter(|placed| placed.message.partition == partition);
            let offsets: Vec<i64> = of_it().map(|placed| placed.offset).collect();
            assert_eq!(offsets, expected, "{reader} of {name}, partition {partition}");
            for placed in of_it() {
                let key = format!("k{}", placed.offset).into_bytes();
                assert_eq!(placed.message.key.as_ref(), Some(&key), "{reader} of {name}, partition {partition}");
            }
        }
    };
    check("our client", sdk::consume(broker, name).unwrap());
    check("kcat", peers::kcat_consume(broker.address(), name).unwrap());
    check("kafka-python", peers::kafka_python_consume(broker.address(), name).unwrap());
}

#[test]
fn every_client_reads_exactly_what_a_view_shows_and_comes_to_its_end() {
    let broker = broker();
    check(&broker, "few", ["last", "eq", "500"], |n| n % 1000 == 500);
    check(&broker, "none", ["n", "lt", "0"], |_| false);
    check(&broker, "tail-filtered", ["n", "lt", "100"], |n| n < 100);
    check(&broker, "head-filtered", ["n", "ge", "5990"], |n| n >= 5990);
    check(&broker, "all", ["n", "ge", "0"], |_| true);
}
