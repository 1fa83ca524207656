//! Modules refused at upload: is each refused with a clear error, and is nothing stored?

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod guests;

use bytes::Bytes;
use guests::{Guest, World};
use millstream_model::limits::MODULE_BYTES_MAX;
use millstream_wasm::{CallError, Phase, Refused};

/// A component around one core module.
fn component(core: &str) -> Bytes {
    wat::parse_str(format!("(component (core module {core}))")).unwrap().into()
}

/// Each is refused as `expected` says, and a good module is taken afterwards.
async fn check(cases: impl IntoIterator<Item = (&str, Bytes)>, expected: impl Fn(&Refused) -> bool) {
    let world = World::new();
    for (what, bytes) in cases {
        let refused = world.refused(bytes).await;
        assert!(expected(&refused), "{what}: {refused:?}");
        let words = refused.to_string();
        assert!(words.len() < 1500 && !words.chars().any(char::is_control), "{what}: {words}");
    }
    world.runtime.push(Guest::mapper().component(), None).await.unwrap();
}

#[tokio::test]
async fn files_that_are_no_components() {
    let good = Guest::mapper().component();
    let core = wat::parse_str("(module)").unwrap();
    let gzip_bomb = [b"\x1f\x8b\x08\x00".as_slice(), &[0; 1000]].concat();
    let native = {
        let world = World::new();
        world.runtime.push(good.clone(), None).await.unwrap();
        let image = std::fs::read_dir(world.dir.path().join("images")).unwrap().next().unwrap().unwrap().path();
        std::fs::read(image).unwrap()
    };
    check([("empty", Bytes::new())], |refused| matches!(refused, Refused::Empty)).await;
    let cases = [
        ("wrong magic", Bytes::from_static(b"\0ASM\x0d\0\x01\0")),
        ("text", Bytes::from_static(b"(component)")),
        ("core module", core.into()),
        ("native code", Bytes::from(native[104..].to_vec())),
        ("an image with its header", Bytes::from(native)),
        ("gzip", gzip_bomb.into()),
        ("future version", Bytes::from_static(b"\0asm\x0e\0\x01\0")),
    ];
    check(cases, |refused| matches!(refused, Refused::NotComponent { .. })).await;
    let large = Bytes::from(vec![0; MODULE_BYTES_MAX + 1]);
    check([("too large", large)], |refused| matches!(refused, Refused::TooLarge { .. })).await;
}

#[tokio::test]
async fn truncated_and_damaged_components() {
    let good = Guest::mapper().component();
    let world = World::new();
    // A cut behind the last export loses only custom sections: that is legal.
    let exports = |payload: wasmparser::Result<wasmparser::Payload<'_>>| match payload.unwrap() {
        wasmparser::Payload::ComponentExportSection(section) => Some(section.range().end),
        _ => None,
    };
    let end = wasmparser::Parser::new(0).parse_all(&good).filter_map(exports).max().unwrap();
    // Where a cut falls between two sections, what is left is well formed but lacks an export.
    for cut in (1..end).step_by(37) {
        let refused = world.refused(good.slice(..cut)).await;
        let legal =
            matches!(refused, Refused::Invalid { .. } | Refused::NotComponent { .. } | Refused::MissingExport { .. });
        assert!(legal, "cut at {cut}: {refused:?}");
    }
    // A byte changed may still be a legal module: it must only not hang or panic.
    for at in (8..good.len()).step_by(101) {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x55;
        let _ = world.runtime.prepare(bytes.into(), None).await;
    }
    world.runtime.push(good, None).await.unwrap();
}

#[tokio::test]
async fn too_much_of_something() {
    let many = |item: &str, count: usize| item.repeat(count);
    let nested = format!("(func {}{})", many("(block ", 5000), many(")", 5000));
    let components = format!("{}{}", many("(component ", 20), many(")", 20));
    let modules = format!("(component {})", many("(core module)", 40));
    let large_name = format!("(component (import \"{}\" (func)))", many("a", 1 << 20));
    let names = format!("(component {})", (0..100).map(|i| format!("(import \"f{i}\" (func))")).collect::<String>());
    let custom = {
        let mut bytes = Guest::mapper().component().to_vec();
        bytes.push(0);
        let mut length = (9u32 << 20) + 5;
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(b"\x04name");
        bytes.resize(bytes.len() + (9 << 20), 0);
        bytes
    };
    let text = |text: String| Bytes::from(wat::parse_str(text).unwrap());
    let cases = [
        ("functions", component(&many("(func)", 100_001))),
        ("a large body", component(&format!("(func {})", many("(drop (i64.const 0x7777777777777777))", 120_000)))),
        (
            "straight-line SIMD",
            component(&format!(
                "(func {})",
                many("(drop (i16x8.mul (v128.const i64x2 1 2) (v128.const i64x2 3 4)))", 40_000)
            )),
        ),
        ("locals", component(&format!("(func (local {}))", many("i32 ", 10_001)))),
        ("a wide br_table", component(&format!("(func (br_table {} (i32.const 0)))", many("0 ", 70_000)))),
        ("nesting", component(&nested)),
        ("nested components", text(format!("(component {components})"))),
        ("core modules", text(modules)),
        ("imports", text(names)),
        ("memory of 4 GiB", component("(memory 65536)")),
        ("a table of 2^32-1", component("(table 4294967295 funcref)")),
        ("a table of 10,001", component("(table 10001 funcref)")),
        ("three tables", component("(table 1 funcref) (table 1 funcref) (table 1 funcref)")),
        ("a giant custom section", Bytes::from(custom)),
    ];
    check(cases, |refused| matches!(refused, Refused::Limit { .. })).await;
    let large_name = wat::parse_str(large_name).map(Bytes::from);
    check([("a name of 1 MB", large_name.unwrap())], |refused| matches!(refused, Refused::Invalid { .. })).await;
}

#[tokio::test]
async fn a_million_locals_in_a_few_bytes() {
    // One run of 2^32-1 locals takes a dozen bytes.
    let core = [
        b"\0asm\x01\0\0\0".as_slice(),
        b"\x01\x04\x01\x60\0\0",
        b"\x03\x02\x01\0",
        b"\x0a\x0a\x01\x08\x01\xff\xff\xff\xff\x0f\x7f\x0b",
    ]
    .concat();
    let mut bytes = b"\0asm\x0d\0\x01\0\x01".to_vec();
    bytes.push(core.len() as u8);
    bytes.extend(core);
    check([("locals", bytes.into())], |refused| matches!(refused, Refused::Limit { .. } | Refused::Invalid { .. }))
        .await;
}

#[tokio::test]
async fn features_that_are_switched_off() {
    let cases = [
        ("64-bit memory", component("(memory i64 1)")),
        ("shared memory", component("(memory 1 1 shared)")),
        ("atomics", component("(memory 1) (func (drop (i32.atomic.load (i32.const 0))))")),
        ("tail calls", component("(func $f (return_call $f))")),
        ("garbage collection", component("(type (struct (field i32)))")),
        ("exceptions", component("(tag (param i32))")),
        ("external references", component("(func (param externref))")),
    ];
    check(cases, |refused| matches!(refused, Refused::Invalid { .. })).await;
    let two = component("(memory 1) (memory 1)");
    check([("two memories", two)], |refused| matches!(refused, Refused::Limit { .. })).await;
}

/// The contract with other text in place of some.
fn contract(changes: &[(&str, &str)]) -> String {
    let mut wit =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/millstream-ext.wit")).unwrap();
    for (from, to) in changes {
        assert!(wit.contains(from), "{from}");
        wit = wit.replace(from, to);
    }
    wit
}

#[tokio::test]
async fn imports_that_there_are_not() {
    let text = |text: &str| Bytes::from(wat::parse_str(text).unwrap());
    let wasi = |interface: &str| {
        text(&format!("(component (import \"wasi:{interface}@0.2.0\" (instance (export \"f\" (func)))))"))
    };
    let cases = [
        ("sockets", wasi("sockets/tcp")),
        ("files", wasi("filesystem/types")),
        ("clocks", wasi("clocks/wall-clock")),
        ("randomness", wasi("random/random")),
        ("environment", wasi("cli/environment")),
        ("a bare name", text("(component (import \"host\" (func)))")),
        ("our package, another interface", text("(component (import \"millstream:ext/shell@0.1.0\" (instance)))")),
    ];
    check(cases, |refused| matches!(refused, Refused::UnknownImport { .. })).await;
    let world = World::new();
    let refused = world.refused(wasi("sockets/tcp")).await.to_string();
    assert!(refused.contains("wasi:sockets/tcp@0.2.0"), "the import is named: {refused}");
}

#[tokio::test]
async fn what_is_not_built_is_refused_as_such() {
    let text = |text: &str| Bytes::from(wat::parse_str(text).unwrap());
    let cases = [
        ("state", text("(component (import \"millstream:ext/state@0.1.0\" (instance)))")),
        ("timers", text("(component (import \"millstream:ext/timers@0.1.0\" (instance)))")),
        ("timed", text("(component (instance $i) (export \"millstream:ext/timed@0.1.0\" (instance $i)))")),
        ("a store", Guest::mapper().declaring(&[("store", "counts", "")]).component()),
    ];
    check(cases, |refused| matches!(refused, Refused::NotBuilt { .. })).await;
}

#[tokio::test]
async fn another_contract() {
    let other = Guest { version: "0.2.0".into(), ..Guest::mapper() };
    let none = wat::parse_str("(component (import \"millstream:ext/log\" (instance)))").unwrap();
    let cases = [("0.2.0", other.component()), ("no version", none.into())];
    check(cases, |refused| matches!(refused, Refused::ContractVersion { .. })).await;
}

#[tokio::test]
async fn right_names_with_wrong_types_and_missing_exports() {
    let import =
        contract(&[("write: func(level: level, message: string)", "write: func(level: level, message: list<u8>)")]);
    let export = contract(&[("process: func(frame: list<u8>)", "process: func(frame: string)")]);
    let failure = contract(&[("record failure { code: u32,", "record failure { code: s32,")]);
    let wrong = |wit: &str| Guest::mapper().component_of(wit);
    // Uses the log, so that its type matters.
    let logs = Guest::mapper().work("(call $log (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 64)");
    let cases =
        [("an import", logs.component_of(&import)), ("an export", wrong(&export)), ("a type of both", wrong(&failure))];
    check(cases, |refused| matches!(refused, Refused::WrongType { .. })).await;

    let text = |text: &str| Bytes::from(wat::parse_str(text).unwrap());
    let no_module = contract(&[("import metrics; export module; }", "import metrics; }")]);
    let cases = [
        ("nothing at all", text("(component)")),
        ("no module", Guest::mapper().component_of(&no_module)),
        ("no work", text("(component (instance $i) (export \"millstream:ext/module@0.1.0\" (instance $i)))")),
    ];
    check(cases, |refused| matches!(refused, Refused::MissingExport { .. })).await;

    let sink = contract(&[("world filter { include base;", "world filter { include base; import sink;")]);
    let emits = Guest { sink: true, ..Guest::filter() }.component_of(&sink);
    let foreign = text("(component (instance $i) (export \"acme:tools/extra@1.0.0\" (instance $i)))");
    let cases = [("an export of somebody else's", foreign), ("a filter that emits", emits)];
    check(cases, |refused| matches!(refused, Refused::WrongWorld { .. })).await;
}

#[tokio::test]
async fn modules_that_do_not_start() {
    let far = Guest::mapper().extra("(data (i32.const 6553600) \"out there\")");
    let traps = Guest::mapper().extra("(func $start unreachable) (start $start)");
    let describe = Guest { describe: "(unreachable)".into(), ..Guest::mapper() };
    let lies = Guest { describe: "(i32.const -4)".into(), ..Guest::mapper() };
    let many = Guest {
        describe: "(i32.store (i32.const 1028) (i32.const 0x7fffffff)) (i32.const 1024)".into(),
        ..Guest::mapper()
    };
    let cases = [
        ("data beyond the memory", far.component()),
        ("a start that traps", traps.component()),
        ("a describe that traps", describe.component()),
        ("a describe that points nowhere", lies.component()),
        ("two billion declarations", many.component()),
    ];
    check(cases, |refused| {
        matches!(
            refused,
            Refused::Describe(CallError::Trap { phase: Phase::Start | Phase::Describe, .. } | CallError::Output(_))
        )
    })
    .await;
    let hungry = Guest { memory: "(memory (export \"memory\") 1100)".into(), ..Guest::mapper() };
    check([("more memory than an instance gets", hungry.component())], |refused| {
        matches!(refused, Refused::Describe(CallError::OutOfMemory { phase: Phase::Start, .. }))
    })
    .await;
}

#[tokio::test]
async fn declarations_that_are_not_legal() {
    let long = "x".repeat(2000);
    let cases = [
        ("a control character", Guest::mapper().declaring(&[("param", "a\x1b[2J", "")]).component()),
        ("an unknown kind", Guest::mapper().declaring(&[("wish", "x", "")]).component()),
        ("an unknown need", Guest::mapper().declaring(&[("needs", "the moon", "")]).component()),
        ("a long text", Guest::mapper().declaring(&[("param", "a", &long)]).component()),
    ];
    check(cases, |refused| matches!(refused, Refused::Declaration { .. })).await;
}

#[tokio::test]
async fn names_that_are_not_utf_8() {
    let good = Guest::mapper().component();
    let name = b"millstream:ext/log@0.1.0";
    let at = good.windows(name.len()).position(|window| window == name).unwrap();
    let mut bytes = good.to_vec();
    bytes[at] = 0xff;
    check([("import", bytes.into())], |refused| matches!(refused, Refused::Invalid { .. })).await;
}

#[tokio::test]
async fn a_thousand_uploads_of_rubbish_leave_nothing() {
    let world = World::new();
    for i in 0..1000u32 {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend(i.to_le_bytes());
        world.refused(bytes).await;
    }
    assert_eq!(std::fs::read_dir(world.dir.path().join("images")).unwrap().count(), 0);
    world.runtime.push(Guest::mapper().component(), None).await.unwrap();
}
