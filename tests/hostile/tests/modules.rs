//! Modules that must be refused at upload: a clear error, memory flat, nothing stored, the next upload fine.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{io::Write, path::PathBuf};

use flate2::{Compression, write::GzEncoder};
use millstream_test_support::{broker::Broker, guests};
use millstream_tests_hostile::victim::Victim;

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
