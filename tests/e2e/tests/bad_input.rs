//! Bad input to every command: a clear error, the right exit code, nothing changed, and the next request succeeds.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{path::Path, time::Instant};

use millstream_test_support::{broker::Broker, guests};

/// Done, refused, or bad usage: what scripts trust.
const REFUSED: i32 = 1;
const USAGE: i32 = 2;

/// A command: its words, what is on its stdin, the exit code, and what stderr must hold.
type Case<'a> = (&'a [&'a str], &'a [u8], i32, &'a [&'a str]);

/// A broker with a plain topic of three partitions and one placed by a module, a module of each kind, a view, and a transform
/// whose input stays empty.
struct Fixture {
    broker: Broker,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { broker: Broker::start().unwrap() };
        for name in ["partition-by-field", "view-filter", "view-redact", "transform-flights"] {
            let file = guests::component(name).unwrap();
            fixture.good(&["module", "push", file.to_str().unwrap(), "--name", name, "--version", "1"], b"");
        }
        fixture.good(&["topic", "create", "plain", "--partitions", "3"], b"");
        let placed = ["--partitioner", "partition-by-field@1", "--param", "field=id", "--param", "strict=true"];
        fixture.good(&[&["topic", "create", "placed", "--partitions", "3"], &placed[..]].concat(), b"");
        for topic in ["delayed", "unparsed", "idle", "idle-late", "idle-rest"] {
            fixture.good(&["topic", "create", topic], b"");
        }
        let chain = ["--chain", "view-redact@1", "--param", "fields=id"];
        fixture.good(&[&["view", "create", "seen", "--topic", "plain"], &chain[..]].concat(), b"");
        let words = ["transform", "deploy", "waiting", "--module", "transform-flights@1", "--input", "idle"];
        fixture.good(&[&words[..], &["--output", "idle-late", "--output", "idle-rest"]].concat(), b"");
        fixture
    }

    /// A command that must succeed; what it printed.
    fn good(&self, words: &[&str], input: &[u8]) -> String {
        self.broker.cli_with(words, input).unwrap().ok().unwrap().text()
    }

    /// All that a user could see of the broker's state: what there is, with its settings and end offsets, every record of the
    /// plain topics, and the files of the modules.
    fn state(&self) -> String {
        let mut state = String::new();
        for what in ["topic", "module", "view", "transform"] {
            for line in self.broker.json(&[what, "list", "--output", "json"]).unwrap() {
                let name = line["name"].as_str().unwrap();
                let version = line["version"].as_str().map(|version| format!("@{version}")).unwrap_or_default();
                state += &self.good(&[what, "describe", &format!("{name}{version}"), "--output", "json"], b"");
            }
        }
        for topic in ["plain", "placed", "delayed", "unparsed", "idle", "idle-late", "idle-rest"] {
            let read = self.good(&["consume", topic, "--from", "beginning", "--until", "end", "--format", "json"], b"");
            // Order holds within a partition only; each line names its partition and offset.
            let mut lines: Vec<_> = read.lines().collect();
            lines.sort_unstable();
            state += &lines.join("\n");
        }
        for store in ["modules", "images"] {
            let entries = std::fs::read_dir(self.broker.data_dir().join(store)).unwrap();
            let mut files: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            files.sort_unstable();
            state += &format!("{store}: {files:?}\n");
        }
        state
    }

    /// Runs each (words, input) pair, which must end with `code` and say all of `said`; then looks whether anything
    /// changed, and whether the broker still takes a record.
    fn check(&self, cases: &[Case<'_>]) {
        let before = self.state();
        let mut wrong = Vec::new();
        for (words, input, code, said) in cases {
            let finished = self.broker.cli_with(words, input).unwrap();
            let shown = format!("{}\n    ended with {:?}: {}", finished.command, finished.code, finished.stderr.trim());
            let missing: Vec<_> = said.iter().filter(|word| !finished.stderr.contains(**word)).collect();
            if finished.code != Some(*code) {
                wrong.push(format!("{shown}\n    expected exit code {code}"));
            } else if !missing.is_empty() {
                wrong.push(format!("{shown}\n    expected to read {missing:?}"));
            } else if finished.stderr.contains("panicked") {
                wrong.push(shown);
            } else if !finished.stdout.is_empty() {
                wrong.push(format!("{shown}\n    printed on stdout: {}", finished.text()));
            }
        }
        assert!(wrong.is_empty(), "{} of {} cases:\n\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
        assert_eq!(self.state(), before, "a refused command changed something");
        self.good(&["produce", "plain"], b"the next request\n");
    }
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn words_that_make_no_sense_are_bad_usage() {
    let fixture = Fixture::new();
    fixture.check(&[
        (&["frobnicate"], b"", USAGE, &["frobnicate"]),
        (&["topic"], b"", USAGE, &[]),
        (&["topic", "create"], b"", USAGE, &["NAME"]),
        (&["topic", "create", "t", "--partitions", "many"], b"", USAGE, &["--partitions", "many"]),
        (&["topic", "create", "t", "--partitions", "0"], b"", USAGE, &["--partitions", "expected 1 or more"]),
        (&["topic", "create", "t", "--partitions", "-1"], b"", USAGE, &["--partitions", "leave it out"]),
        (&["topic", "create", "t", "--replicas", "-1"], b"", USAGE, &["--replicas", "leave it out"]),
        (&["topic", "create", "t", "--config", "novalue"], b"", USAGE, &["novalue", "="]),
        (&["topic", "list", "--output", "yaml"], b"", USAGE, &["yaml", "table", "json"]),
        (&["topic", "list", "--broker", "no port"], b"", USAGE, &["no port"]),
        (&["produce"], b"x\n", USAGE, &["TOPIC"]),
        (&["produce", "plain", "--acks", "7"], b"x\n", USAGE, &["--acks", "7"]),
        (&["produce", "plain", "--format", "xml"], b"x\n", USAGE, &["xml", "ndjson"]),
        (&["produce", "plain", "--compression", "rar"], b"x\n", USAGE, &["rar", "zstd"]),
        (&["produce", "plain", "--partition", "-1"], b"x\n", USAGE, &["--partition"]),
        (&["produce", "plain", "--header", "novalue"], b"x\n", USAGE, &["novalue"]),
        (&["consume"], b"", USAGE, &["TOPIC"]),
        (&["consume", "plain", "--from", "yesterday"], b"", USAGE, &["--from", "yesterday"]),
        (&["consume", "plain", "--until", "never"], b"", USAGE, &["--until", "never"]),
        (&["consume", "plain", "--count", "few"], b"", USAGE, &["--count", "few"]),
        (&["module", "push", "x.wasm"], b"", USAGE, &["--name"]),
        (&["module", "new", "n", "--kind", "gadget"], b"", USAGE, &["gadget", "partitioner"]),
        (&["view", "create", "v", "--topic", "plain"], b"", USAGE, &["--chain"]),
        (&["transform", "deploy", "t", "--input", "plain"], b"", USAGE, &["--module"]),
        (&["transform", "deploy", "t", "--on-error", "panic"], b"", USAGE, &["panic"]),
        (
            &["transform", "deploy", "t", "--module", "transform-flights@1", "--input", "plain", "--output", "json"],
            b"",
            USAGE,
            &["--output TOPIC"],
        ),
        (&["produce", "plain", "--header", "=value"], b"x\n", USAGE, &["--header", "=value"]),
        (&["produce", "plain", "--key", "id"], b"x\n", USAGE, &["--format ndjson"]),
        (&["produce", "plain", "--format", "ndjson", "--key-separator", ":"], b"{}\n", USAGE, &["--key FIELD"]),
        (&["consume", "plain", "--from", "-1"], b"", USAGE, &["--from", "0 or more"]),
        (&["consume", "plain", "--from", "2013-13-01T00:00:00Z"], b"", USAGE, &["--from", "2013-13-01"]),
        (&["consume", "plain", "--from", "99999999999999999999"], b"", USAGE, &["--from"]),
        (&["consume", "plain", "--format", "xml"], b"", USAGE, &["xml", "json"]),
        (&["module", "new", "n"], b"", USAGE, &["--kind"]),
        (&["module", "new", "n", "--kind", "view", "--lang", "cobol"], b"", USAGE, &["cobol", "rust"]),
        (&["view", "describe"], b"", USAGE, &["NAME"]),
        (&["view", "delete"], b"", USAGE, &["NAME"]),
        (&["module", "push", "x.wasm", "--name", "a b", "--version", "1"], b"", USAGE, &["--name", "a b"]),
        (&["produce", "plain", "--key-separator", ""], b"x\n", USAGE, &["--key-separator"]),
        (&["produce", "plain", "--key-separator", "\\q"], b"x\n", USAGE, &["backslash"]),
        (&["cluster", "describe", "extra"], b"", USAGE, &["extra"]),
        (&["cluster", "describe", "--output", "xml"], b"", USAGE, &["xml"]),
    ]);
}

#[test]
fn topics_that_cannot_be_are_refused() {
    let fixture = Fixture::new();
    let long = "x".repeat(250);
    fixture.check(&[
        (&["topic", "create", "../plain"], b"", REFUSED, &["../plain"]),
        (&["topic", "create", ""], b"", REFUSED, &["empty"]),
        (&["topic", "create", &long], b"", REFUSED, &["249"]),
        (&["topic", "create", "plain"], b"", REFUSED, &["plain", "exists"]),
        (&["topic", "create", "seen"], b"", REFUSED, &["seen", "view"]),
        (&["topic", "create", "t", "--partitions", "100000000"], b"", REFUSED, &["partitions"]),
        (&["topic", "create", "t", "--replicas", "3"], b"", REFUSED, &["replica"]),
        (&["topic", "create", "t", "--config", "no.such=1"], b"", REFUSED, &["no.such"]),
        (&["topic", "create", "t", "--config", "segment.bytes=-1"], b"", REFUSED, &["segment.bytes"]),
        (&["topic", "create", "t", "--config", "compression.type=zstd"], b"", REFUSED, &["not built"]),
        (&["topic", "create", "t", "--partitioner", "no-such@1"], b"", REFUSED, &["no-such@1"]),
        (&["topic", "create", "t", "--partitioner", "partition-by-field"], b"", REFUSED, &["VERSION"]),
        (&["topic", "create", "t", "--partitioner", "partition-by-field@2"], b"", REFUSED, &["partition-by-field@2"]),
        // A transform is no partitioner; a partitioner without its one parameter cannot start.
        (&["topic", "create", "t", "--partitioner", "transform-flights@1"], b"", REFUSED, &["partitioner"]),
        (&["topic", "create", "t", "--partitioner", "partition-by-field@1"], b"", REFUSED, &["field"]),
        (&["topic", "describe", "absent"], b"", REFUSED, &["absent"]),
        (&["topic", "delete", "gone"], b"", REFUSED, &["error: no topic \"gone\""]),
        (&["topic", "delete", "absent"], b"", REFUSED, &["absent"]),
        // Somebody's source, input or output.
        (&["topic", "delete", "plain"], b"", REFUSED, &["error: topic plain is used by view seen"]),
        (&["topic", "delete", "idle"], b"", REFUSED, &["idle", "waiting"]),
        (&["topic", "delete", "idle-rest"], b"", REFUSED, &["idle-rest", "waiting"]),
        (&["topic", "delete", "seen"], b"", REFUSED, &["seen", "view"]),
        (&["topic", "alter", "plain"], b"", USAGE, &["--config"]),
        (&["topic", "alter", "plain", "--config", "max.message.bytes=1"], b"", REFUSED, &["max.message.bytes", "1024"]),
        (&["topic", "alter", "plain", "--config", "no.such=1"], b"", REFUSED, &["no.such"]),
        (&["topic", "alter", "plain", "--reset", "no.such"], b"", REFUSED, &["no.such"]),
        (&["topic", "alter", "plain", "--config", "segment.ms=1", "--reset", "segment.ms"], b"", REFUSED, &["twice"]),
        (&["topic", "alter", "plain", "--config", "compression.type=zstd"], b"", REFUSED, &["not built"]),
        (
            &["topic", "alter", "plain", "--config", "millstream.partitioner=x@1"],
            b"",
            REFUSED,
            &["plain", "no module x@1", "push it first"],
        ),
        (&["topic", "alter", "absent", "--config", "segment.ms=1"], b"", REFUSED, &["absent"]),
        (&["topic", "alter", "seen", "--config", "segment.ms=1"], b"", REFUSED, &["seen", "view"]),
    ]);
}

#[test]
fn records_that_cannot_be_are_refused() {
    let fixture = Fixture::new();
    let ndjson = &["--format", "ndjson", "--key", "id"];
    let missing = fixture.broker.scratch().join("absent.txt");
    let huge = [vec![b'x'; 2 << 20], vec![b'\n']].concat();
    fixture.check(&[
        (&["produce", "absent"], b"x\n", REFUSED, &["absent"]),
        (&["produce", "seen"], b"x\n", REFUSED, &["seen", "view"]),
        (&["produce", "plain", "--partition", "3"], b"x\n", REFUSED, &["plain", "3"]),
        (&["produce", "plain", "--input", missing.to_str().unwrap()], b"", REFUSED, &["absent.txt"]),
        (&[&["produce", "plain"], &ndjson[..]].concat(), b"{\"no\": 1}\n", REFUSED, &["line 1", "id"]),
        (&[&["produce", "plain"], &ndjson[..]].concat(), b"{\"id\": [1]}\n", REFUSED, &["line 1", "id"]),
        (&[&["produce", "plain"], &ndjson[..]].concat(), b"{\"id\": \n", REFUSED, &["line 1"]),
        (&[&["produce", "plain"], &ndjson[..]].concat(), b"17\n", REFUSED, &["line 1"]),
        (&["produce", "plain"], &huge, REFUSED, &["max.message.bytes"]),
        // The topic's own partitioner refuses a record without the field that it places by.
        (&["produce", "placed"], b"no object\n", REFUSED, &["placed", "partition-by-field"]),
        (&["produce", "placed"], b"{\"other\": 1}\n", REFUSED, &["id"]),
    ]);
}

#[test]
fn reads_that_cannot_be_are_refused() {
    let fixture = Fixture::new();
    fixture.check(&[
        (&["consume", "absent", "--until", "end"], b"", REFUSED, &["absent"]),
        (&["consume", "plain", "--partition", "3", "--until", "end"], b"", REFUSED, &["3"]),
        (&["consume", "plain", "--from", "99", "--partition", "0", "--until", "end"], b"", REFUSED, &["99"]),
        (&["consume", "plain", "--group", "g"], b"", REFUSED, &["not built"]),
        // In every partition, and in each that was asked for.
        (&["consume", "plain", "--from", "99", "--until", "end"], b"", REFUSED, &["99"]),
        (&["module", "list", "absent"], b"", REFUSED, &["absent", "module list"]),
        (&["module", "describe", "absent@1"], b"", REFUSED, &["absent@1"]),
        (&["transform", "describe", "absent"], b"", REFUSED, &["absent"]),
        (&["view", "describe", "absent"], b"", REFUSED, &["absent"]),
        (&["view", "describe", "plain"], b"", REFUSED, &["plain"]),
        (&["consume", "plain", "--from", "7", "--partition", "1", "--until", "end"], b"", REFUSED, &["7", "plain"]),
    ]);
}

#[test]
fn modules_that_cannot_be_are_refused() {
    let fixture = Fixture::new();
    let folder = fixture.broker.scratch();
    let good = std::fs::read(guests::component("view-filter").unwrap()).unwrap();
    let empty = file(folder, "empty.wasm", b"");
    let text = file(folder, "text.wasm", b"(module)");
    let core = file(folder, "core.wasm", b"\0asm\x01\0\0\0");
    let cut = file(folder, "cut.wasm", &good[..good.len() / 2]);
    let whole = file(folder, "whole.wasm", &good);
    let absent = folder.join("absent.wasm").to_str().unwrap().to_owned();
    // The same module with a remark in a section of its own.
    let unseen = file(folder, "unseen.wasm", &[&good[..], &[0, 5, 4], b"seen"].concat());
    let state = file(folder, "state.wasm", &importing("millstream:ext/state@0.1.0"));
    let timers = file(folder, "timers.wasm", &importing("millstream:ext/timers@0.1.0"));
    let clock = file(folder, "clock.wasm", &importing("wasi:clocks/wall-clock@0.2.0"));
    let push = |path: &str| -> Vec<String> {
        ["module", "push", path, "--name", "bad", "--version", "1"].map(str::to_owned).into()
    };
    let cases =
        [(&empty, "empty"), (&text, "WebAssembly"), (&core, "component"), (&cut, "bad@1"), (&absent, "absent.wasm")];
    for (path, word) in cases {
        let words = push(path);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        fixture.check(&[(&words, b"", REFUSED, &[word])]);
    }
    fixture.check(&[
        // The same name and version, other bytes: what a name means never changes.
        (
            &[
                "module",
                "push",
                guests::component("view-redact").unwrap().to_str().unwrap(),
                "--name",
                "view-filter",
                "--version",
                "1",
            ],
            b"",
            REFUSED,
            &["view-filter@1"],
        ),
        (&["module", "push", &whole, "--name", "../bad", "--version", "1"], b"", USAGE, &["../bad"]),
        (&["module", "push", &whole, "--name", "bad", "--version", "a b"], b"", USAGE, &["a b"]),
        // Bytes that the broker has never seen, under a name that is taken: not even kept.
        (&["module", "push", &unseen, "--name", "view-filter", "--version", "1"], b"", REFUSED, &["view-filter@1"]),
        (&["module", "push", &state, "--name", "bad", "--version", "1"], b"", REFUSED, &["keyed state", "not built"]),
        (&["module", "push", &timers, "--name", "bad", "--version", "1"], b"", REFUSED, &["timers", "not built"]),
        (&["module", "push", &clock, "--name", "bad", "--version", "1"], b"", REFUSED, &["wasi:clocks/wall-clock"]),
    ]);
}

/// A component that only imports an instance of this name: two sections, for the instance's type and for the import.
fn importing(name: &str) -> Vec<u8> {
    let mut import = vec![1, 0, u8::try_from(name.len()).unwrap()];
    import.extend_from_slice(name.as_bytes());
    import.extend_from_slice(&[5, 0]);
    let types = [7, 3, 1, 0x42, 0];
    let length = u8::try_from(import.len()).unwrap();
    [b"\0asm\x0d\0\x01\0".as_slice(), &types, &[10, length], &import].concat()
}

#[test]
fn projects_that_cannot_be_are_refused() {
    let fixture = Fixture::new();
    let folder = fixture.broker.scratch().join("project");
    std::fs::create_dir_all(folder.join("src")).unwrap();
    let project = folder.to_str().unwrap();
    let absent = folder.join("absent");
    let empty = folder.join("src");
    fixture.check(&[
        (&["module", "build", absent.to_str().unwrap()], b"", REFUSED, &["absent"]),
        (&["module", "build", empty.to_str().unwrap()], b"", REFUSED, &["Cargo.toml"]),
        (&["module", "new", "Not-A-Name", "--kind", "view"], b"", REFUSED, &["Not-A-Name", "lower-case"]),
        (&["module", "new", "../out", "--kind", "view"], b"", REFUSED, &["../out"]),
        (&["module", "new", "fn", "--kind", "view"], b"", REFUSED, &["fn"]),
    ]);
    // Code that the compiler refuses, and code that compiles and is no module.
    let manifest = "[package]\nname = \"p\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n";
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    for (source, said) in [("fn broken( {", "error"), ("pub fn nobodys_guest() {}", "exports nothing")] {
        std::fs::write(folder.join("src/lib.rs"), source).unwrap();
        fixture.check(&[(&["module", "build", project], b"", REFUSED, &[said])]);
        assert!(!folder.join("target/millstream").join("p.wasm").exists());
    }
}

#[test]
fn views_and_transforms_that_cannot_be_are_refused() {
    let fixture = Fixture::new();
    let deploy = |more: &[&'static str]| -> Vec<&'static str> {
        [&["transform", "deploy", "t", "--input", "plain"], more].concat()
    };
    let both = ["--output", "delayed", "--output", "unparsed"];
    let module = ["--module", "transform-flights@1"];
    fixture.check(&[
        (&["view", "create", "v", "--topic", "absent", "--chain", "view-filter@1"], b"", REFUSED, &["absent"]),
        (&["view", "create", "v", "--topic", "plain", "--chain", "no-such@1"], b"", REFUSED, &["no-such@1"]),
        (&["view", "create", "plain", "--topic", "plain", "--chain", "view-redact@1"], b"", REFUSED, &["plain"]),
        (
            &["view", "create", "v", "--topic", "plain", "--chain", "partition-by-field@1"],
            b"",
            REFUSED,
            &["partition-by-field@1"],
        ),
        (&["view", "create", "v", "--topic", "plain", "--chain", "view-redact@1"], b"", REFUSED, &["fields"]),
        // Of a chain, the module that refuses is named.
        (
            &[
                "view",
                "create",
                "v",
                "--topic",
                "plain",
                "--chain",
                "view-redact@1,view-filter@1",
                "--param",
                "fields=id",
            ],
            b"",
            REFUSED,
            &["module view-filter@1 does not start"],
        ),
        (&deploy(&[&["--module", "no-such@1"], &both[..]].concat()), b"", REFUSED, &["no-such@1"]),
        (
            &deploy(&[&["--module", "partition-by-field@1"], &both[..]].concat()),
            b"",
            REFUSED,
            &["partition-by-field@1"],
        ),
        (&deploy(&[&module[..], &["--output", "absent", "--output", "unparsed"]].concat()), b"", REFUSED, &["absent"]),
        (&deploy(&[&module[..], &["--output", "plain", "--output", "unparsed"]].concat()), b"", REFUSED, &["plain"]),
        (&deploy(&[&module[..], &["--output", "delayed"]].concat()), b"", REFUSED, &["output"]),
        (&deploy(&[&module[..], &both[..], &["--param", "min_delay=soon"]].concat()), b"", REFUSED, &["min_delay"]),
        // Misspelt: named with what there is.
        (
            &deploy(&[&module[..], &both[..], &["--param", "min_dealy=9"]].concat()),
            b"",
            REFUSED,
            &["min_dealy", "min_delay"],
        ),
        (
            &[
                "view",
                "create",
                "v",
                "--topic",
                "plain",
                "--chain",
                "view-redact@1",
                "--param",
                "fields=a",
                "--param",
                "fiedl=b",
            ],
            b"",
            REFUSED,
            &["fiedl", "view-redact@1 takes fields"],
        ),
        (
            &[
                "topic",
                "create",
                "t",
                "--partitioner",
                "partition-by-field@1",
                "--param",
                "field=a",
                "--param",
                "foo=y",
            ],
            b"",
            REFUSED,
            &["foo", "field"],
        ),
        (&deploy(&[&module[..], &both[..], &["--lanes", "2"]].concat()), b"", REFUSED, &["lanes", "not built"]),
        (&deploy(&[&module[..], &both[..], &["--on-error", "dlq"]].concat()), b"", REFUSED, &["dlq", "not built"]),
        (&deploy(&[&module[..], &both[..], &["--on-error", "park-key"]].concat()), b"", REFUSED, &["park-key"]),
        (&deploy(&[&module[..], &both[..], &["--on-error", "retry"]].concat()), b"", REFUSED, &["retry"]),
        (
            &deploy(&[&module[..], &["--output", "topic:json", "--output", "unparsed"]].concat()),
            b"",
            REFUSED,
            &["json"],
        ),
        (
            &[&["transform", "deploy", "waiting", "--input", "plain"], &module[..], &both[..]].concat(),
            b"",
            REFUSED,
            &["waiting", "exists"],
        ),
        (&["view", "create", "seen", "--topic", "plain", "--chain", "view-filter@1"], b"", REFUSED, &["seen"]),
        (&["view", "delete", "absent"], b"", REFUSED, &["absent"]),
        (&["view", "delete", "plain"], b"", REFUSED, &["plain"]),
        (&["transform", "pause", "absent"], b"", REFUSED, &["absent"]),
        (&["transform", "resume", "absent"], b"", REFUSED, &["absent"]),
        (&["transform", "delete", "absent"], b"", REFUSED, &["absent"]),
    ]);
}

#[test]
fn a_broker_that_is_not_there_is_named_soon() {
    let fixture = Fixture::new();
    let start = Instant::now();
    // A port that nothing listens on: bound once, then let go.
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fixture.check(&[(&["topic", "list", "--broker", &free], b"", REFUSED, &[&free])]);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
