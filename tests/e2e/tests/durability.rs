//! A topic's durability changed while records come: none is lost, and what the disk says is what was asked for.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{collections::BTreeSet, thread};

use millstream_test_support::{broker::Broker, message::Message, sdk};

/// What the newest mark of the topic's only partition tells: 0 is `fsync`, 1 `replicated` (platform/log/src/mark.rs).
fn marked(broker: &Broker, topic: &str) -> u8 {
    let told = broker.json(&["topic", "describe", topic, "--output", "json"]).unwrap();
    let id = told[0]["topic_id"].as_str().unwrap();
    let mark = std::fs::read(broker.data_dir().join(format!("logs/{id}/0/records-0/mark"))).unwrap();
    let slots = [0, 4096].into_iter().filter_map(|at| mark.get(at..at + 72)).filter(|slot| slot.starts_with(b"MSmark"));
    let newest = slots.max_by_key(|slot| u64::from_be_bytes(slot[16..24].try_into().unwrap()));
    newest.unwrap()[12]
}

fn alter(broker: &Broker, durability: &str) {
    let setting = format!("millstream.durability={durability}");
    broker.cli(&["topic", "alter", "t", "--config", &setting]).unwrap().ok().unwrap();
}

#[test]
fn records_that_come_while_it_changes_are_there_once_and_in_order_also_after_kill_9() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    let mut sent = 0;
    for (durability, code) in [("replicated", 1), ("fsync", 0), ("replicated", 1)] {
        let messages: Vec<_> =
            (sent..sent + 3000).map(|n: u32| Message::new(0, None, Some(n.to_string().as_bytes()))).collect();
        sent += 3000;
        let places = thread::scope(|scope| {
            let producing = scope.spawn(|| {
                let by_few = messages.chunks(50).map(|few| sdk::produce(&broker, "t", few).unwrap());
                by_few.flatten().collect::<Vec<_>>()
            });
            alter(&broker, durability);
            producing.join().unwrap()
        });
        let offsets: BTreeSet<_> = places.iter().map(|(_, offset)| *offset).collect();
        assert_eq!(offsets.len(), 3000, "{durability}");
        assert_eq!(marked(&broker, "t"), code, "{durability}");
    }
    for round in ["at once", "after kill -9"] {
        let read = sdk::consume(&broker, "t").unwrap();
        let values: Vec<_> = read.iter().map(|placed| placed.message.value.clone().unwrap()).collect();
        let expected: Vec<_> = (0..sent).map(|n| n.to_string().into_bytes()).collect();
        assert!(values == expected, "{round}: {} read of {}", values.len(), expected.len());
        if round == "at once" {
            broker.kill().unwrap();
            broker.restart().unwrap();
            assert_eq!(marked(&broker, "t"), 1);
        }
    }
}
