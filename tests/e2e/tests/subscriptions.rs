//! Records that are pushed: the same as those that are fetched, through views too, as they come, and over a restart.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::time::Duration;

use millstream_client::{Client, ClientOptions, Consumer, ConsumerOptions, Security, StartFrom};
use millstream_test_support::{broker::Broker, guests};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);

fn good(broker: &Broker, words: &[&str], input: &[u8]) -> String {
    broker.cli_with(words, input).unwrap().ok().unwrap().text()
}

async fn values(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        let record = tokio::time::timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap();
        values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
    }
    values.sort_unstable();
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_is_what_is_fetched_as_it_comes_and_over_a_restart() {
    let mut broker = Broker::start().unwrap();
    good(&broker, &["topic", "create", "t", "--partitions", "3"], b"");
    let lines: String =
        (0..5_000).map(|number| format!("{{\"id\":{number},\"text\":\"some more of it\"}}\n")).collect();
    good(&broker, &["produce", "t"], lines.as_bytes());
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let words = ["consume", "t", "--until", "end", "--format", "json"];
    let fetched = sorted(good(&broker, &words, b""));
    assert_eq!(fetched.len(), 5_000);
    assert_eq!(sorted(good(&broker, &[&words[..], &["--push"]].concat(), b"")), fetched);

    let file = guests::component("view-redact").unwrap();
    good(&broker, &["module", "push", file.to_str().unwrap(), "--name", "view-redact", "--version", "1"], b"");
    let view = ["view", "create", "v", "--topic", "t", "--chain", "view-redact@1", "--param", "fields=id"];
    good(&broker, &view, b"");
    let words = ["consume", "v", "--until", "end", "--format", "json"];
    let shown = sorted(good(&broker, &words, b""));
    assert_eq!(sorted(good(&broker, &[&words[..], &["--push"]].concat(), b"")), shown);

    let options = ClientOptions {
        brokers: vec![broker.address().to_string()],
        security: Security::ProfileFile(broker.profile()),
        ..ClientOptions::default()
    };
    let client = Client::connect(options).await.unwrap();
    // So little that it is given back all the time.
    let options = ConsumerOptions {
        push: true,
        start: StartFrom::End,
        fetch_bytes_max: 500,
        partition_bytes_max: 100,
        ..ConsumerOptions::default()
    };
    let mut consumers =
        [client.consumer("t", options.clone()).await.unwrap(), client.consumer("v", options).await.unwrap()];
    for round in 0..5 {
        let new: Vec<_> =
            (0..20).map(|number| format!("{{\"round\":{round},\"number\":{:02}}}", number + 10)).collect();
        good(&broker, &["produce", "t"], (new.join("\n") + "\n").as_bytes());
        for consumer in &mut consumers {
            assert_eq!(values(consumer, new.len()).await, new, "{} in round {round}", consumer.name());
        }
        if round == 2 {
            broker.kill().unwrap();
            broker.restart_in_place().unwrap();
        }
    }
}
