//! kcat and kafka-python on the TCP port, our client on the QUIC port: each reads the others' records, byte for byte.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use millstream_test_support::{
    broker::Broker,
    message::{self, Message, Placed},
    peers, sdk,
};

const PARTITIONS: i32 = 3;

fn broker_with(topic: &str) -> Broker {
    let broker = Broker::start().unwrap();
    let partitions = PARTITIONS.to_string();
    broker.cli(&["topic", "create", topic, "--partitions", &partitions]).unwrap().ok().unwrap();
    broker
}

/// What was read is what was sent: each partition's messages in order, at dense offsets from 0.
fn check(reader: &str, sent: &[Message], read: &[Placed]) {
    assert_eq!(read.len(), sent.len(), "{reader} read {} of {} messages", read.len(), sent.len());
    for partition in 0..PARTITIONS {
        let sent = sent.iter().filter(|message| message.partition == partition);
        let read = read.iter().filter(|placed| placed.message.partition == partition);
        for (offset, (sent, read)) in sent.zip(read).enumerate() {
            assert_eq!(read.offset, offset as i64, "{reader}, partition {partition}");
            assert_eq!(read.message, *sent, "{reader}, partition {partition} offset {offset}");
        }
    }
}

/// kcat prints headers as text, a null one as NULL and a comma between: what it cannot tell apart is not asked of it.
fn as_kcat_tells(message: &Message) -> Message {
    let mut message = message.clone();
    message.headers.retain(|(name, _)| name != "binary");
    message
}

fn as_all_tell(placed: &[Placed]) -> Vec<Placed> {
    placed.iter().map(|p| Placed { offset: p.offset, message: as_kcat_tells(&p.message) }).collect()
}

#[test]
fn what_our_client_sends_every_client_reads() {
    let broker = broker_with("ours");
    let sent = message::awkward();
    let places = sdk::produce(&broker, "ours", &sent).unwrap();
    assert_eq!(places.len(), sent.len());
    check("our client", &sent, &sdk::consume(&broker, "ours").unwrap());
    check("kafka-python", &sent, &peers::kafka_python_consume(broker.address(), "ours").unwrap());
    let told: Vec<Message> = sent.iter().map(as_kcat_tells).collect();
    // Binary header text is lossy in kcat's output, so that message's others are compared.
    check("kcat", &told, &as_all_tell(&peers::kcat_consume(broker.address(), "ours").unwrap()));
}

#[test]
fn what_kafka_python_sends_every_client_reads() {
    let broker = broker_with("theirs");
    // It refuses to send a record of nothing at all, and a header without a value.
    let sendable = |message: &Message| {
        let something = message.key.is_some() || message.value.is_some();
        something && message.headers.iter().all(|(_, value)| value.is_some())
    };
    let sent: Vec<Message> = message::awkward().into_iter().filter(sendable).collect();
    assert!(sent.len() > 10, "only {} messages are left", sent.len());
    let places = peers::kafka_python_produce(broker.address(), "theirs", &sent).unwrap();
    let read = sdk::consume(&broker, "theirs").unwrap();
    check("our client", &sent, &read);
    check("kafka-python", &sent, &peers::kafka_python_consume(broker.address(), "theirs").unwrap());
    let told: Vec<Message> = sent.iter().map(as_kcat_tells).collect();
    check("kcat", &told, &as_all_tell(&peers::kcat_consume(broker.address(), "theirs").unwrap()));
    // Each acknowledgement named the place where the record is.
    for ((partition, offset), sent) in places.iter().zip(&sent) {
        let found = read.iter().find(|placed| placed.message.partition == *partition && placed.offset == *offset);
        assert_eq!(&found.unwrap().message, sent);
    }
}

#[test]
fn what_kcat_sends_every_client_reads() {
    let broker = broker_with("kcats");
    let sendable = |message: &Message| {
        let key = message.key.as_ref().is_none_or(|key| !key.is_empty() && !key.contains(&0));
        let headers = message.headers.iter().all(|(_, value)| value.as_ref().is_some_and(|v| !v.contains(&0)));
        // An empty value is null to kcat, and the other way round.
        key && headers && message.value.as_ref().is_some_and(|value| !value.is_empty())
    };
    let mut sent: Vec<Message> = message::awkward().into_iter().filter(sendable).collect();
    let every_byte: Vec<u8> = (1..=255).collect();
    sent.push(Message::new(1, Some(&every_byte), Some(&every_byte)));
    assert!(sent.len() > 6, "only {} messages are left", sent.len());
    for message in &sent {
        peers::kcat_produce(broker.address(), "kcats", message).unwrap();
    }
    // kcat stamps its records itself; all readers must agree on when.
    let read = sdk::consume(&broker, "kcats").unwrap();
    for message in &mut sent {
        let same = |placed: &&Placed| placed.message.key == message.key && placed.message.value == message.value;
        message.timestamp = read.iter().find(same).map_or(-1, |placed| placed.message.timestamp);
    }
    check("our client", &sent, &read);
    check("kafka-python", &sent, &peers::kafka_python_consume(broker.address(), "kcats").unwrap());
    check("kcat", &sent, &peers::kcat_consume(broker.address(), "kcats").unwrap());
}

#[test]
fn kafkas_own_clients_list_what_the_operator_made() {
    let broker = broker_with("listed");
    let address = broker.address().to_string();
    let words = ["-L", "-J", "-b", &address].map(Into::into);
    let told: Vec<_> = peers::kcat(&words, b"").unwrap().ok().unwrap().json().unwrap();
    let topics = told[0]["topics"].as_array().unwrap();
    let topic = topics.iter().find(|topic| topic["topic"] == "listed").unwrap();
    assert_eq!(topic["partitions"].as_array().unwrap().len(), PARTITIONS as usize);
    assert_eq!(told[0]["brokers"][0]["name"], address.as_str(), "clients are sent to the port they came by");
}

#[test]
fn a_view_is_read_by_kafkas_own_clients() {
    let broker = broker_with("source");
    let module = millstream_test_support::guests::component("view-redact").unwrap();
    let push = ["module", "push", module.to_str().unwrap(), "--name", "view-redact", "--version", "1"];
    broker.cli(&push).unwrap().ok().unwrap();
    let create =
        ["view", "create", "seen", "--topic", "source", "--chain", "view-redact@1", "--param", "fields=secret"];
    broker.cli(&create).unwrap().ok().unwrap();
    let sent: Vec<Message> = (0..200)
        .map(|n| {
            let value = format!("{{\"n\":{n},\"secret\":\"s{n}\"}}");
            Message::new(n % PARTITIONS, Some(format!("k{n}").as_bytes()), Some(value.as_bytes()))
        })
        .collect();
    sdk::produce(&broker, "source", &sent).unwrap();
    let mut expected = sent;
    for message in &mut expected {
        let value = String::from_utf8(message.value.take().unwrap()).unwrap();
        message.value = Some(format!("{}}}", value.split(",\"secret\"").next().unwrap()).into_bytes());
    }
    check("our client", &expected, &sdk::consume(&broker, "seen").unwrap());
    check("kcat", &expected, &peers::kcat_consume(broker.address(), "seen").unwrap());
    check("kafka-python", &expected, &peers::kafka_python_consume(broker.address(), "seen").unwrap());
}

/// A batch's bytes without what the broker writes into it: the base offset and the leader's epoch, which lie before the checksum.
fn but_what_brokers_write(batch: &[u8]) -> [&[u8]; 2] {
    [&batch[8..12], &batch[16..]]
}

#[test]
fn a_stored_batch_is_the_producers_to_the_byte_but_for_what_brokers_write() {
    let broker = broker_with("stored");
    for (at, codec) in sdk::CODECS.into_iter().enumerate() {
        let sent: Vec<Message> = message::awkward();
        let batch = sdk::encode(&sent, codec).unwrap();
        let partition = i32::try_from(at).unwrap() % PARTITIONS;
        let (offset, read) = sdk::send_and_read_batch(&broker, "stored", partition, &batch).unwrap();
        assert_eq!(read.len(), batch.len(), "{codec:?}");
        assert_eq!(but_what_brokers_write(&read), but_what_brokers_write(&batch), "{codec:?}");
        assert_eq!(read[..8], offset.to_be_bytes(), "{codec:?}: the base offset is where it was appended");
        // The same bytes by the other protocol, through a client that brings all of the codecs and unpacks them itself.
        let theirs = peers::kcat_consume(broker.address(), "stored").unwrap();
        let values = theirs.iter().filter(|placed| placed.message.partition == partition && placed.offset >= offset);
        let values: Vec<_> = values.map(|placed| placed.message.value.clone()).collect();
        assert_eq!(values, sent.iter().map(|message| message.value.clone()).collect::<Vec<_>>(), "{codec:?}");
    }
}
