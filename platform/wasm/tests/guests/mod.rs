//! Guests in WebAssembly text for the tests: a well-behaved one, any part of which a test can replace by something hostile.
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::sync::Arc;

use bytes::Bytes;
use millstream_model::{Offset, TimestampMs};
use millstream_wasm::{
    Compiler, Factory, InitParams, Limits, Pool, PoolOptions, Refused, Runtime, RuntimeOptions,
    frame::{FrameBuilder, FrameHeader, FrameOptions, InputFrame, OutputRules},
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub(crate) const V: &str = "0.1.0";

/// What `process` of a well-behaved mapper does: forwards every record to output 0.
pub(crate) const FORWARD: &str = "
    (local $count i32) (local $at i32) (local $i i32)
    (local.set $count (i32.load offset=8 (local.get $ptr)))
    (local.set $at (call $alloc (i32.add (local.get $len) (i32.mul (local.get $count) (i32.const 4)))))
    (memory.copy (local.get $at) (local.get $ptr) (local.get $len))
    (i32.store offset=40 (local.get $at) (i32.const 1))
    (block $done (loop $next
        (br_if $done (i32.eq (local.get $i) (local.get $count)))
        (i32.store
            (i32.add (i32.add (local.get $at) (local.get $len)) (i32.mul (local.get $i) (i32.const 4)))
            (local.get $i))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (call $emit (i32.const 0) (local.get $at)
        (i32.add (local.get $len) (i32.mul (local.get $count) (i32.const 4))))
    (i32.const 64)";

/// A guest as text, by parts.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) world: &'static str,
    /// Whether it imports the sink.
    pub(crate) sink: bool,
    pub(crate) version: String,
    pub(crate) memory: String,
    /// Fields of the module: more functions, tables, data.
    pub(crate) extra: String,
    /// Body of `cabi_realloc`: (old, old size, alignment, size) -> address.
    pub(crate) realloc: String,
    pub(crate) describe: String,
    pub(crate) init: String,
    /// Body of `process` ($ptr, $len), `select` ($ptr, $len) or `assign` ($ptr, $len, $partitions).
    pub(crate) work: String,
    /// Runs when a call's result was read: frees what the call allocated.
    pub(crate) post: String,
}

impl Guest {
    pub(crate) fn mapper() -> Self {
        Self {
            world: "mapper",
            sink: true,
            version: V.into(),
            memory: "(memory (export \"memory\") 2)".into(),
            extra: String::new(),
            realloc: "(call $alloc (local.get $size))".into(),
            describe: "(i32.const 1024)".into(),
            init: "(i32.const 64)".into(),
            work: FORWARD.into(),
            post: "(global.set $heap (i32.const 98304))".into(),
        }
    }

    /// Selects every second record, from the first.
    pub(crate) fn filter() -> Self {
        let work = "
            (local $bytes i32) (local $at i32) (local $count i32)
            (local.set $count (i32.load offset=8 (local.get $ptr)))
            (local.set $bytes (i32.shr_u (i32.add (local.get $count) (i32.const 7)) (i32.const 3)))
            (local.set $at (call $alloc (local.get $bytes)))
            (memory.fill (local.get $at) (i32.const 0x55) (local.get $bytes))
            (if (i32.and (local.get $count) (i32.const 7)) (then
                (i32.store8
                    (i32.sub (i32.add (local.get $at) (local.get $bytes)) (i32.const 1))
                    (i32.and (i32.const 0x55)
                        (i32.sub (i32.shl (i32.const 1) (i32.and (local.get $count) (i32.const 7))) (i32.const 1))))))
            (i32.store (i32.const 132) (local.get $at))
            (i32.store (i32.const 136) (local.get $bytes))
            (i32.const 128)";
        Self { world: "filter", sink: false, work: work.into(), ..Self::mapper() }
    }

    /// Assigns record `i` the partition `i` modulo their number.
    pub(crate) fn partitioner() -> Self {
        let work = "
            (local $i i32) (local $at i32) (local $count i32)
            (local.set $count (i32.load offset=8 (local.get $ptr)))
            (local.set $at (call $alloc (i32.mul (local.get $count) (i32.const 4))))
            (block $done (loop $next
                (br_if $done (i32.eq (local.get $i) (local.get $count)))
                (i32.store (i32.add (local.get $at) (i32.mul (local.get $i) (i32.const 4)))
                    (i32.rem_u (local.get $i) (local.get $partitions)))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $next)))
            (i32.store (i32.const 132) (local.get $at))
            (i32.store (i32.const 136) (local.get $count))
            (i32.const 128)";
        Self { world: "partitioner", sink: false, work: work.into(), ..Self::mapper() }
    }

    /// A mapper whose every call emits these frames to these outputs, whatever comes in.
    pub(crate) fn emitting(frames: &[(u32, Vec<u8>)]) -> Self {
        let mut at = 1 << 20;
        let (mut extra, mut work) = (String::new(), String::new());
        for (output, frame) in frames {
            extra += &data(at, frame);
            let len = frame.len();
            work += &format!("(call $emit (i32.const {output}) (i32.const {at}) (i32.const {len}))\n");
            at += len;
        }
        let memory = format!("(memory (export \"memory\") {})", at / 65536 + 2);
        Self { extra, work: format!("{work} (i32.const 64)"), memory, ..Self::mapper() }
    }

    pub(crate) fn work(self, work: &str) -> Self {
        Self { work: work.into(), ..self }
    }

    pub(crate) fn extra(self, extra: &str) -> Self {
        Self { extra: format!("{}\n{extra}", self.extra), ..self }
    }

    /// Declares these kinds, names and values.
    pub(crate) fn declaring(self, declared: &[(&str, &str, &str)]) -> Self {
        let (mut list, mut texts) = (Vec::new(), Vec::new());
        let texts_at = 32768u32;
        for (kind, name, value) in declared {
            for text in [kind, name, value] {
                list.extend((texts_at + texts.len() as u32).to_le_bytes());
                list.extend((text.len() as u32).to_le_bytes());
                texts.extend(text.as_bytes());
            }
        }
        let mut head = 24576u32.to_le_bytes().to_vec();
        head.extend((declared.len() as u32).to_le_bytes());
        let extra = data(1024, &head) + &data(24576, &list) + &data(texts_at as usize, &texts);
        self.extra(&extra)
    }

    /// Fails every call as `failure` says. The message lies in the memory.
    pub(crate) fn failing(self, code: u32, at: Option<u32>, message: &[u8]) -> Self {
        self.work(&failing(code, at, message.len())).extra(&data(49152, message))
    }

    pub(crate) fn core_text(&self) -> String {
        let Self { version, memory, extra, realloc, describe, init, work, post, .. } = self;
        let (name, function, params) = match self.world {
            "mapper" => ("processor", "process", ""),
            "filter" => ("selector", "select", ""),
            _ => ("assigner", "assign", "(param $partitions i32)"),
        };
        let export = format!("millstream:ext/{name}@{version}#{function}");
        let emit = if self.sink {
            format!("(import \"millstream:ext/sink@{version}\" \"emit\" (func $emit (param i32 i32 i32)))")
        } else {
            String::new()
        };
        format!(
            "(module
            (import \"millstream:ext/log@{version}\" \"write\" (func $log (param i32 i32 i32)))
            (import \"millstream:ext/metrics@{version}\" \"report\" (func $report (param i32 i32)))
            {emit}
            {memory}
            (global $heap (mut i32) (i32.const 98304))
            (func $alloc (param $size i32) (result i32) (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get $size)))
                (block $fits (loop $more
                    (br_if $fits (i32.ge_u (i32.shl (memory.size) (i32.const 16)) (global.get $heap)))
                    (drop (memory.grow (i32.const 1)))
                    (br $more)))
                (local.get $at))
            (func (export \"cabi_realloc\") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32)
                (result i32) {realloc})
            (func (export \"millstream:ext/module@{version}#describe\") (result i32) {describe})
            (func (export \"millstream:ext/module@{version}#init\")
                (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {init})
            (func (export \"{export}\") (param $ptr i32) (param $len i32) {params} (result i32) {work})
            (func (export \"cabi_post_{export}\") (param i32) {post})
            {extra})"
        )
    }

    pub(crate) fn component(&self) -> Bytes {
        let wit =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/millstream-ext.wit")).unwrap();
        self.component_of(&wit.replace("@0.1.0", &format!("@{}", self.version)))
    }

    /// The component for another contract.
    pub(crate) fn component_of(&self, wit: &str) -> Bytes {
        let mut core = wat::parse_str(self.core_text()).unwrap_or_else(|error| panic!("{error}"));
        let mut resolve = Resolve::default();
        let package = resolve.push_str("guest.wit", wit).unwrap();
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&core).unwrap().validate(false).encode().unwrap().into()
    }
}

/// The body of a function that reports a failure whose message lies at 49152.
pub(crate) fn failing(code: u32, at: Option<u32>, message_len: usize) -> String {
    let (some, at) = at.map_or((0, 0), |at| (1, at));
    format!(
        "(i32.store8 (i32.const 128) (i32.const 1)) (i32.store (i32.const 132) (i32.const {code}))
         (i32.store8 (i32.const 136) (i32.const {some})) (i32.store (i32.const 140) (i32.const {at}))
         (i32.store (i32.const 144) (i32.const 49152)) (i32.store (i32.const 148) (i32.const {message_len}))
         (i32.const 128)"
    )
}

/// A data segment.
pub(crate) fn data(at: usize, bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const {at}) \"{text}\")\n")
}

/// A runtime in a directory of its own.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut RuntimeOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = RuntimeOptions::new(dir.path());
        options.compiler = Compiler::InProcess;
        options.instances_max = 8;
        change(&mut options);
        let runtime = Runtime::new(options, millstream_env::real::env()).unwrap();
        Self { dir, runtime }
    }

    pub(crate) async fn factory(&self, guest: &Guest) -> Arc<Factory> {
        Arc::clone(self.runtime.prepare(guest.component(), None).await.unwrap().factory())
    }

    pub(crate) async fn pool(&self, guest: &Guest) -> Pool {
        self.pool_with(guest, |_| {}).await
    }

    pub(crate) async fn pool_with(&self, guest: &Guest, change: impl FnOnce(&mut PoolOptions)) -> Pool {
        let factory = self.factory(guest).await;
        let mut options = PoolOptions {
            module: "test@1".into(),
            name: "test".into(),
            kind: factory.kinds()[0],
            params: InitParams::default(),
            limits: Limits::default(),
        };
        change(&mut options);
        factory.pool(options).unwrap()
    }

    /// The files of modules and images, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for folder in ["modules", "images"] {
            let entries = std::fs::read_dir(self.dir.path().join(folder)).unwrap();
            files.extend(entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap())));
        }
        files.sort();
        files
    }

    /// Pushes bytes that must be refused, and checks that nothing of them stays.
    pub(crate) async fn refused(&self, bytes: impl Into<Bytes>) -> Refused {
        let before = self.files();
        let refused = match self.runtime.push(bytes.into(), None).await {
            Ok(factory) => panic!("taken: {factory:?}"),
            Err(refused) => refused,
        };
        assert_eq!(self.files(), before, "nothing is stored of {refused}");
        refused
    }
}

/// A frame of `count` records: offsets from 100, timestamps from 1000, keys `k<i>`, values `v<i>`.
pub(crate) fn frame(count: u32) -> InputFrame {
    let mut builder = FrameBuilder::new(FrameOptions::default());
    for i in 0..i64::from(count) {
        let (key, value) = (format!("k{i}"), format!("v{i}"));
        builder
            .push(Offset(100 + i), TimestampMs(1000 + i), Some(key.as_bytes()), Some(value.as_bytes()), &[])
            .unwrap();
    }
    builder.take().unwrap()
}

/// An output frame: the records of `input`, with this source column, and the header changed as the test likes.
pub(crate) fn output(input: &InputFrame, sources: &[u32], change: impl FnOnce(&mut FrameHeader)) -> Vec<u8> {
    let mut header = FrameHeader { columns: 1, ..*input.header() };
    change(&mut header);
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(&input.bytes()[48..]);
    bytes.extend(sources.iter().flat_map(|source| source.to_le_bytes()));
    bytes
}

/// Rules of a transform with two outputs of four partitions.
pub(crate) fn two_outputs() -> OutputRules {
    OutputRules::transform(vec![4, 4])
}
