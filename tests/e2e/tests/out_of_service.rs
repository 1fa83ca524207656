//! One partition's files are damaged: what people see who read, write and look at the topic, and that the rest of it works.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use millstream_test_support::{broker::Broker, cli};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Far above what any of it takes on two busy cores, and far below the two minutes that records are tried for.
const LONG: Duration = Duration::from_secs(60);

/// The damaged partition of the topic's three.
const DAMAGED: i32 = 1;
/// What each partition has got, in values.
const VALUES: usize = 20;

fn partition_dir(broker: &Broker, topic: &str, partition: i32) -> PathBuf {
    let told = broker.json(&["topic", "describe", topic, "--output", "json"]).unwrap();
    let id = told[0]["topic_id"].as_str().unwrap();
    broker.data_dir().join(format!("logs/{id}/{partition}/records-0"))
}

/// A broker with a topic `t` of three partitions with values in each, one of which is out of service.
fn damaged() -> Broker {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t", "--partitions", "3"]).unwrap().ok().unwrap();
    for partition in 0..3 {
        let values: String = (0..VALUES).map(|number| format!("{partition}/{number}\n")).collect();
        let words = ["produce", "t", "--partition", &partition.to_string()];
        broker.cli_with(&words, values.as_bytes()).unwrap().ok().unwrap();
    }
    let mark = partition_dir(&broker, "t", DAMAGED).join("mark");
    broker.stop().unwrap();
    let mut bytes = std::fs::read(&mark).unwrap();
    // Both of its slots.
    for at in [40, 4096 + 40] {
        bytes[at] ^= 1;
    }
    std::fs::write(&mark, bytes).unwrap();
    broker.restart().unwrap();
    broker
}

#[test]
fn the_other_partitions_are_read_and_the_damaged_one_is_told_of_at_once() {
    let broker = damaged();
    for from in ["beginning", "0", "2013-01-01T10:00:00Z"] {
        let start = Instant::now();
        let read = broker.cli(&["consume", "t", "--from", from, "--until", "end"]).unwrap();
        let (took, said) = (start.elapsed(), &read.stderr);
        assert_eq!(read.text().lines().count(), 2 * VALUES, "{from}: {said}");
        assert_eq!(read.code, Some(1), "{from}: {said}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        // Once when it was found, and once in the end.
        let lines: Vec<_> = said.lines().collect();
        let [first, last] = lines[..] else { panic!("{from}: {said}") };
        for part in
            ["t partition 1 is out of service", "mark is damaged", "`millstream topic describe t`", "the broker's log"]
        {
            assert!(first.contains(part), "no {part:?} in {first}");
        }
        for part in ["error: cannot read t: partition 1 was not read to its end", "mark is damaged"] {
            assert!(last.contains(part), "no {part:?} in {last}");
        }
    }
    // Whoever asks for as much as there is gets it.
    let read = broker.cli(&["consume", "t", "--count", &(2 * VALUES).to_string()]).unwrap().ok().unwrap();
    assert_eq!(read.text().lines().count(), 2 * VALUES);
}

/// Runs `produce` and gives what it says meanwhile, line by line; its stdin is given, too.
fn produce(broker: &Broker, words: &[&str], input: Vec<u8>) -> (std::process::Child, mpsc::Receiver<String>) {
    let mut command = Command::new(cli::millstream().unwrap());
    command
        .arg("produce")
        .args(words)
        .env("MILLSTREAM_PROFILE", broker.profile())
        .env("MILLSTREAM_BROKER", broker.address().to_string())
        .env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stderr) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
    // It may be killed before it has read all.
    thread::spawn(move || drop(stdin.write_all(&input)));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    (child, told)
}

#[test]
fn records_without_a_place_go_to_the_other_partitions_and_those_with_one_wait_with_a_word() {
    let broker = damaged();
    let lines: String = (0..1000).map(|number| format!("{number}\n")).collect();
    let sent = broker.cli_with(&["produce", "t", "--output", "json"], lines.as_bytes()).unwrap().ok().unwrap();
    assert_eq!(sent.json().unwrap()[0]["records"], 1000);
    assert_eq!(sent.stderr, "");
    let start = Instant::now();
    let (mut child, told) = produce(&broker, &["t", "--partition", "1"], b"placed\n".to_vec());
    let line = told.recv_timeout(LONG).unwrap();
    assert!(start.elapsed() > Duration::from_secs(3), "what may pass by itself is no news");
    for part in ["t partition 1", "out of service", "mark is damaged", "trying again, for 120 s at most"] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn on_a_full_disk_producers_say_that_they_wait_and_that_it_goes_on() {
    let broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "t", "--partitions", "2"]).unwrap().ok().unwrap();
    let process = Pid::from_raw(i32::try_from(broker.process_id()).unwrap());
    // Past a journal file, which is 128 MiB: only segments reach it.
    let most = u64::MAX >> 1;
    let limit = |bytes| {
        prlimit(process, Resource::Fsize, Rlimit { current: Some(bytes), maximum: Some(most) }).unwrap();
    };
    limit(130 << 20);
    let line = [&[b'x'; 100_000][..], b"\n"].concat();
    let (mut child, told) = produce(&broker, &["t"], line.repeat(3500));
    let first = told.recv_timeout(LONG).unwrap();
    for part in ["t partition", "no space left for", "trying again, for 120 s at most"] {
        assert!(first.contains(part), "no {part:?} in {first}");
    }
    limit(most);
    let rest: Vec<_> = std::iter::from_fn(|| told.recv_timeout(LONG).ok()).collect();
    assert!(cli::wait(&mut child, LONG).unwrap().success());
    let [again, done] = rest.as_slice() else { panic!("{rest:?}") };
    assert!(again.starts_with("topic t partition") && again.ends_with("takes records again"), "{again}");
    assert!(done.starts_with("3500 records acknowledged by t"), "{done}");
}

#[test]
fn lists_and_descriptions_show_what_is_out_of_service() {
    let broker = damaged();
    broker.cli(&["topic", "create", "sound"]).unwrap().ok().unwrap();
    let shown = |words: &[&str]| broker.cli(words).unwrap().ok().unwrap().text();
    let listed = shown(&["topic", "list"]);
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("t").ends_with("1 out of service: see `millstream topic describe t`"), "{listed}");
    assert!(!line("sound").contains("out of service"), "{listed}");
    let cluster = shown(&["cluster", "describe"]);
    assert!(cluster.contains("4, 1 out of service (`millstream topic describe` shows more): t\n"), "{cluster}");
    let listed = broker.json(&["topic", "list", "--output", "json"]).unwrap();
    let counts: Vec<_> = listed.iter().map(|topic| (&topic["name"], &topic["out_of_service"])).collect();
    assert_eq!(counts, [(&"sound".into(), &0.into()), (&"t".into(), &1.into())]);
    let cluster = broker.json(&["cluster", "describe", "--output", "json"]).unwrap().remove(0);
    assert_eq!((&cluster["out_of_service"], &cluster["damaged_topics"]["t"]), (&1.into(), &1.into()));
}
