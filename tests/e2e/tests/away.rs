//! What a person sees of commands whose broker goes away and comes back: words on stderr, and then what was asked for.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use millstream_test_support::{broker::Broker, cli};

/// Far above what any of it takes on two busy cores.
const LONG: Duration = Duration::from_secs(60);

/// A command that goes on, with its lines as they come.
struct Running {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

impl Running {
    fn start(broker: &Broker, words: &[&str]) -> Self {
        let mut command = Command::new(cli::millstream().unwrap());
        command
            .args(words)
            .env("MILLSTREAM_PROFILE", broker.profile())
            .env("MILLSTREAM_BROKER", broker.address().to_string())
            .env_remove("RUST_LOG");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, stdout, stderr }
    }

    fn printed(&self) -> String {
        self.stdout.recv_timeout(LONG).unwrap()
    }

    fn said(&self) -> String {
        self.stderr.recv_timeout(LONG).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    told
}

#[test]
fn who_follows_a_topic_is_told_of_a_lost_broker_and_goes_on_when_it_is_back() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "news"]).unwrap().ok().unwrap();
    let address = broker.address();
    let reader = Running::start(&broker, &["consume", "news"]);
    let mut writer = Running::start(&broker, &["produce", "news"]);
    let mut typed = writer.child.stdin.take().unwrap();
    typed.write_all(b"before\n").unwrap();
    assert_eq!(reader.printed(), "before");

    broker.kill().unwrap();
    typed.write_all(b"after\n").unwrap();
    for (running, how_long) in [(&reader, "until it is back"), (&writer, "for 120 s")] {
        // Long before it is certain that the broker is lost.
        assert_eq!(running.said(), format!("{address} has not answered for 2 s, waiting for it"));
        assert_eq!(running.said(), format!("lost {address}, trying again {how_long}"));
    }
    broker.restart_in_place().unwrap();
    for running in [&reader, &writer] {
        assert_eq!(running.said(), format!("connected to {address} again"));
    }
    assert_eq!(reader.printed(), "after");
    drop(typed);
    assert!(cli::wait(&mut writer.child, LONG).unwrap().success());
    assert_eq!(writer.said(), "2 records acknowledged by news");
}

#[test]
fn who_interrupts_a_writer_is_told_what_was_acknowledged_and_what_was_not() {
    let mut broker = Broker::start().unwrap();
    broker.cli(&["topic", "create", "news"]).unwrap().ok().unwrap();
    let reader = Running::start(&broker, &["consume", "news"]);
    let interrupt = |writer: &mut Running| {
        assert!(Command::new("kill").args(["-INT", &writer.child.id().to_string()]).status().unwrap().success());
        let said = writer.said();
        assert_eq!(cli::wait(&mut writer.child, LONG).unwrap().code(), Some(1), "{said}");
        said
    };
    let mut writer = Running::start(&broker, &["produce", "news"]);
    let mut typed = writer.child.stdin.take().unwrap();
    typed.write_all(b"one\ntwo\n").unwrap();
    assert_eq!((reader.printed(), reader.printed()), ("one".into(), "two".into()));
    let said = interrupt(&mut writer);
    // What the reader has is acknowledged, but that may be on its way still: what is told is true of what has come.
    let in_doubt = |line: i32, acknowledged: &str, lines: &str| {
        format!(
            "error: cannot produce to news: line {line}: interrupted by SIGINT before it was acknowledged; {acknowledged} \
             acknowledged; perhaps written: {lines}; nothing after line 2 was sent"
        )
    };
    let (none, one) = (in_doubt(1, "0 records", "lines 1-2"), in_doubt(2, "1 record", "line 2"));
    let both =
        "error: cannot produce to news: interrupted by SIGINT; 2 records acknowledged; nothing after line 2 was sent";
    assert!([both, &none, &one].contains(&said.as_str()), "{said}");

    let mut writer = Running::start(&broker, &["produce", "news"]);
    let mut typed = writer.child.stdin.take().unwrap();
    typed.write_all(b"three\n").unwrap();
    assert_eq!(reader.printed(), "three");
    broker.kill().unwrap();
    typed.write_all(b"four\n").unwrap();
    let waiting = writer.said();
    assert!(waiting.contains("has not answered"), "{waiting}");
    let said = interrupt(&mut writer);
    assert!([none, one].contains(&said), "{said}");
}
