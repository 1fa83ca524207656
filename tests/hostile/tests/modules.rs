//! Modules that must be refused at upload: a clear error, memory flat, nothing stored, the next upload fine.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{io::Write, path::PathBuf, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use millstream_model::Digest;
use millstream_protocol::{
    ErrorCode,
    extension::{
        modules::{ModuleReadRequest, ModuleReadResponse},
        routing::DescribeRoutingRequest,
    },
};
use millstream_test_support::{broker::Broker, guests};
use millstream_tests_hostile::{door::Client, victim::Victim};

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files that the broker keeps of modules: their bytes and their images.
fn stored(broker: &Broker) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["modules", "images"] {
        let entries = std::fs::read_dir(broker.data_dir().join(folder)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.sort();
    files
}

/// A section of a WebAssembly binary: its id, its length, its bytes.
fn section(id: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![id];
    let mut length = bytes.len();
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        out.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            break;
        }
    }
    out.extend(bytes);
    out
}

const CORE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

#[test]
fn modules_that_must_be_refused_are() {
    let good = std::fs::read(guests::component("view-filter").unwrap()).unwrap();
    let bomb = {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        for _ in 0..256 {
            gzip.write_all(&vec![0; 1 << 20]).unwrap();
        }
        gzip.finish().unwrap()
    };
    let native = [&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0][..], &[0; 4096]].concat();
    let custom = section(0, &[&[4][..], b"junk", &vec![7; 40 << 20]].concat());
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].fill(0xff);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an empty file", Vec::new()),
        ("wrong magic", b"\0elf\x01\0\0\0".to_vec()),
        ("text", b"(component)".to_vec()),
        ("only the magic", good[..4].to_vec()),
        ("a truncated section", good[..good.len() / 3].to_vec()),
        ("one byte short", good[..good.len() - 1].to_vec()),
        ("trailing bytes", [&good[..], b"more"].concat()),
        ("damage in the middle", flipped),
        ("a core module", CORE.to_vec()),
        ("a component that exports nothing", COMPONENT.to_vec()),
        ("an unknown version", b"\0asm\x0d\0\x7f\0".to_vec()),
        ("a section longer than the file", [COMPONENT, &[1, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat()),
        ("a native image", native),
        ("a gzip bomb", bomb),
        ("over the size limit", [COMPONENT, &custom].concat()),
    ];
    let mut victim = Victim::start().unwrap();
    let before = stored(victim.broker());
    for (name, bytes) in &cases {
        let path = victim.broker().scratch().join("bad.wasm");
        std::fs::write(&path, bytes).unwrap();
        let push = ["module", "push", path.to_str().unwrap(), "--name", "bad", "--version", "1"];
        let refused = victim.broker().cli(&push).unwrap();
        assert_eq!(refused.code, Some(1), "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains("bad"), "{name}: {}", refused.stderr);
        assert!(refused.stderr.len() < 4_000, "{name}: an error of {} bytes", refused.stderr.len());
        assert_eq!(stored(victim.broker()), before, "{name}: something was stored");
        let list = victim.broker().cli(&["module", "list", "--output", "json"]).unwrap().ok().unwrap();
        assert_eq!(list.text(), "", "{name}: it is listed");
        victim.unhurt().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
    let file = guests::component("view-filter").unwrap();
    let push = ["module", "push", file.to_str().unwrap(), "--name", "good", "--version", "1"];
    victim.broker().cli(&push).unwrap().ok().unwrap();
    assert_eq!(stored(victim.broker()).len(), before.len() + 2);
    // Good, never seen, but its name is taken: nothing of it stays either.
    let before = stored(victim.broker());
    let other = guests::component("view-redact").unwrap();
    let taken = ["module", "push", other.to_str().unwrap(), "--name", "good", "--version", "1"];
    let refused = victim.broker().cli(&taken).unwrap();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert_eq!(stored(victim.broker()), before);
}

/// An upload may be cut off at any time, such as between its bytes and its name.
#[test]
fn what_an_interrupted_upload_left_behind_is_gone_at_the_next_start() {
    let mut broker = Broker::start().unwrap();
    let file = guests::component("view-filter").unwrap();
    let push = ["module", "push", file.to_str().unwrap(), "--name", "good", "--version", "1"];
    broker.cli(&push).unwrap().ok().unwrap();
    let good = stored(&broker);
    broker.stop().unwrap();
    let image = good.iter().find(|path| path.parent().unwrap().ends_with("images")).unwrap();
    let nobodys = "a".repeat(64);
    let name = image.file_name().unwrap().to_str().unwrap();
    let engine = name.split_once('-').unwrap().0;
    std::fs::write(broker.data_dir().join("modules").join(&nobodys), b"left behind").unwrap();
    std::fs::write(image.with_file_name(format!("{engine}-{nobodys}")), b"left behind").unwrap();
    broker.restart().unwrap();
    assert_eq!(stored(&broker), good);
    broker.cli(&["topic", "create", "t"]).unwrap().ok().unwrap();
    broker
        .cli(&[
            "view", "create", "v", "--topic", "t", "--chain", "good@1", "--param", "field=f", "--param", "op=ge",
            "--param", "value=1",
        ])
        .unwrap()
        .ok()
        .unwrap();
}

/// Pushes an example with a section of so many bytes that says nothing; gives its bytes and digest.
fn push_padded(victim: &Victim, padding: usize) -> (Vec<u8>, Digest) {
    let good = std::fs::read(guests::component("partition-by-field").unwrap()).unwrap();
    let module = [good, section(0, &[&[4][..], b"junk", &vec![7; padding]].concat())].concat();
    let path = victim.broker().scratch().join("padded.wasm");
    std::fs::write(&path, &module).unwrap();
    let push = ["module", "push", path.to_str().unwrap(), "--name", "padded", "--version", "1", "--output", "json"];
    let pushed = victim.broker().json(&push).unwrap().remove(0);
    (module, pushed["digest"].as_str().unwrap().parse().unwrap())
}

#[test]
fn a_module_is_handed_out_in_parts_of_a_sane_size() {
    const PART_MAX: usize = 1 << 20;
    let mut victim = Victim::start().unwrap();
    let (module, digest) = push_padded(&victim, 3 << 20);
    let mut client = Client::connect(victim.broker().address(), PATIENCE).unwrap();
    let mut read = |digest, offset, max_bytes| -> ModuleReadResponse {
        client.call(0, ModuleReadRequest { digest, offset, max_bytes }).unwrap()
    };
    for max_bytes in [i32::MAX, PART_MAX as i32 + 1, 700_001, 60_000] {
        let mut got = Vec::new();
        while got.len() < module.len() {
            let part = read(digest, got.len() as i64, max_bytes);
            assert_eq!((part.error_code, part.size_bytes), (ErrorCode::None, module.len() as i64), "{part:?}");
            let expected = PART_MAX.min(max_bytes as usize).min(module.len() - got.len());
            assert_eq!(part.bytes.len(), expected, "at {} of {}", got.len(), module.len());
            got.extend_from_slice(&part.bytes);
        }
        assert!(got == module, "{max_bytes} at a time");
    }
    let end = module.len() as i64;
    let refused = [
        (digest, -1, 10, ErrorCode::InvalidRequest),
        (digest, i64::MIN, 10, ErrorCode::InvalidRequest),
        (digest, end, 10, ErrorCode::InvalidRequest),
        (digest, i64::MAX, i32::MAX, ErrorCode::InvalidRequest),
        (digest, 0, 0, ErrorCode::InvalidRequest),
        (digest, 0, i32::MIN, ErrorCode::InvalidRequest),
        (Digest([0; 32]), 0, 10, ErrorCode::ModuleNotFound),
    ];
    for (digest, offset, max_bytes, expected) in refused {
        let answer = read(digest, offset, max_bytes);
        let told = (answer.error_code, answer.size_bytes, answer.bytes.clone());
        assert_eq!(told, (expected, 0, Bytes::new()), "{digest} {offset} {max_bytes}: {answer:?}");
    }
    // What no name stands for any more is not handed out, though a pool of it may still be at work.
    victim.broker().cli(&["module", "delete", "padded@1"]).unwrap().ok().unwrap();
    assert_eq!(read(digest, 0, 10).error_code, ErrorCode::ModuleNotFound);
    // A file that has gone is an error in words, not silence.
    let (_, digest) = push_padded(&victim, 10);
    std::fs::remove_file(victim.broker().data_dir().join("modules").join(digest.to_string())).unwrap();
    let gone = read(digest, 0, 10);
    assert_eq!(gone.error_code, ErrorCode::CallFailed, "{gone:?}");
    victim.unhurt().unwrap();
}

/// A small request has a large answer: who does not take them has one of them made at a time.
#[test]
fn parts_that_nobody_reads_are_gathered_one_at_a_time() {
    const PEAK_MAX: u64 = 96 << 20;
    let mut victim = Victim::start().unwrap();
    let (_, digest) = push_padded(&victim, 3 << 20);
    let before = victim.forget_peak().unwrap();
    let mut greedy = Client::connect(victim.broker().address(), PATIENCE).unwrap();
    let request = ModuleReadRequest { digest, offset: 0, max_bytes: i32::MAX };
    for _ in 0..500 {
        greedy.send(0, request.clone()).unwrap();
    }
    assert!(greedy.receive::<ModuleReadRequest>(0).unwrap().is_some());
    victim.serves().unwrap();
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
}

#[test]
fn parameters_of_many_partitioners_are_told_in_a_sane_size_and_of_one_in_any_case() {
    const TOLD_MAX: usize = 256 << 10;
    let mut victim = Victim::start().unwrap();
    push_padded(&victim, 1);
    let field = format!("field={}", "f".repeat(30 << 10));
    let names: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    for name in &names {
        let create = ["topic", "create", name, "--partitioner", "padded@1", "--param", &field];
        victim.broker().cli(&create).unwrap().ok().unwrap();
    }
    let mut client = Client::connect(victim.broker().address(), PATIENCE).unwrap();
    let mut told = |topics: Vec<String>| -> Vec<(bool, usize)> {
        let answer = client.call(0, DescribeRoutingRequest { topics }).unwrap();
        let bytes = |pairs: &[millstream_protocol::extension::Pair]| -> usize {
            pairs.iter().map(|pair| pair.name.len() + pair.value.len()).sum()
        };
        let topics = answer.topics.iter();
        topics.map(|topic| (topic.partitioner_digest.is_some(), bytes(&topic.partitioner_params))).collect()
    };
    let all = told(names.clone());
    assert!(all.iter().map(|(_, bytes)| bytes).sum::<usize>() <= TOLD_MAX, "{all:?}");
    assert!(all.iter().all(|(is_told, bytes)| *is_told == (*bytes == field.len() - 1)), "{all:?}");
    assert!(all[0].0 && !all[11].0, "{all:?}");
    assert_eq!(told(vec![names[11].clone()]), [(true, field.len() - 1)]);
    victim.unhurt().unwrap();
}
