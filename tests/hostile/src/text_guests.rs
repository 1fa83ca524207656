//! Modules written as WebAssembly text, for what no honest author writes: they look for a marker in what they are given and
//! misbehave where they find it.

use anyhow::Context;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Four bytes anywhere in a call's records at which these modules misbehave.
pub const MARKER: &str = "!bad";

const CONTRACT: &str = "0.1.0";

/// Forwards every record to output 0, and traps where the marker is.
///
/// # Errors
/// When the text does not make a component.
pub fn trapping_mapper() -> anyhow::Result<Vec<u8>> {
    mapper("(if (call $marked (local.get $ptr) (local.get $len)) (then unreachable))", FORWARD)
}

/// Forwards every record to output 0, but has used its instance up after one call: it traps on every call but the first.
///
/// # Errors
/// As [`trapping_mapper`].
pub fn worn_out_mapper() -> anyhow::Result<Vec<u8>> {
    mapper("(if (global.get $calls) (then unreachable)) (global.set $calls (i32.const 1))", FORWARD)
}

/// Forwards every record to output 0, whatever it holds.
///
/// # Errors
/// As [`trapping_mapper`].
pub fn forwarding_mapper() -> anyhow::Result<Vec<u8>> {
    mapper("", FORWARD)
}

/// Takes every record and emits nothing.
///
/// # Errors
/// As [`trapping_mapper`].
pub fn swallowing_mapper() -> anyhow::Result<Vec<u8>> {
    mapper("", "")
}

/// Places record `i` in partition `i` modulo their number; where the marker is in a key, all in a partition that there is not.
///
/// # Errors
/// As [`trapping_mapper`].
pub fn lying_partitioner() -> anyhow::Result<Vec<u8>> {
    partitioner(
        "(local.set $lie (call $marked (local.get $ptr) (local.get $len)))",
        "(select (local.get $partitions) (i32.rem_u (local.get $i) (local.get $partitions)) (local.get $lie))",
    )
}

/// Places every record in partition 1, and traps where the marker is in a key.
///
/// # Errors
/// As [`trapping_mapper`].
pub fn trapping_partitioner() -> anyhow::Result<Vec<u8>> {
    partitioner("(if (call $marked (local.get $ptr) (local.get $len)) (then unreachable))", "(i32.const 1)")
}

fn partitioner(before: &str, choice: &str) -> anyhow::Result<Vec<u8>> {
    let work = format!(
        "(local $i i32) (local $at i32) (local $count i32) (local $lie i32)
        {before}
        (local.set $count (i32.load offset=8 (local.get $ptr)))
        (local.set $at (call $alloc (i32.mul (local.get $count) (i32.const 4))))
        (block $done (loop $next
            (br_if $done (i32.eq (local.get $i) (local.get $count)))
            (i32.store (i32.add (local.get $at) (i32.mul (local.get $i) (i32.const 4))) {choice})
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next)))
        (i32.store (i32.const 132) (local.get $at))
        (i32.store (i32.const 136) (local.get $count))
        (i32.const 128)"
    );
    component("partitioner", "assigner", "assign", "(param $partitions i32)", "", &work)
}

/// Emits the frame as it came, with a source column behind it.
const FORWARD: &str = "
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
        (i32.add (local.get $len) (i32.mul (local.get $count) (i32.const 4))))";

fn mapper(before: &str, work: &str) -> anyhow::Result<Vec<u8>> {
    let locals = "(local $count i32) (local $at i32) (local $i i32)";
    let emit = format!("(import \"millstream:ext/sink@{CONTRACT}\" \"emit\" (func $emit (param i32 i32 i32)))");
    component("mapper", "processor", "process", "", &emit, &format!("{locals} {before} {work} (i32.const 64)"))
}

fn component(
    world: &str,
    interface: &str,
    function: &str,
    params: &str,
    imports: &str,
    work: &str,
) -> anyhow::Result<Vec<u8>> {
    let export = format!("millstream:ext/{interface}@{CONTRACT}#{function}");
    let marker = u32::from_le_bytes(*MARKER.as_bytes().first_chunk().context("a marker of four bytes")?);
    let text = format!(
        "(module
        (import \"millstream:ext/log@{CONTRACT}\" \"write\" (func $log (param i32 i32 i32)))
        (import \"millstream:ext/metrics@{CONTRACT}\" \"report\" (func $report (param i32 i32)))
        {imports}
        (memory (export \"memory\") 2)
        (global $heap (mut i32) (i32.const 98304))
        (global $calls (mut i32) (i32.const 0))
        (func $alloc (param $size i32) (result i32) (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
            (global.set $heap (i32.add (local.get $at) (local.get $size)))
            (block $fits (loop $more
                (br_if $fits (i32.ge_u (i32.shl (memory.size) (i32.const 16)) (global.get $heap)))
                (drop (memory.grow (i32.const 1)))
                (br $more)))
            (local.get $at))
        (func $marked (param $ptr i32) (param $len i32) (result i32) (local $at i32) (local $end i32)
            (local.set $at (i32.add (local.get $ptr) (i32.const 48)))
            (local.set $end (i32.sub (i32.add (local.get $ptr) (local.get $len)) (i32.const 4)))
            (block $none (loop $next
                (br_if $none (i32.gt_u (local.get $at) (local.get $end)))
                (if (i32.eq (i32.load align=1 (local.get $at)) (i32.const {marker}))
                    (then (return (i32.const 1))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))
            (i32.const 0))
        (func (export \"cabi_realloc\") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32)
            (result i32) (call $alloc (local.get $size)))
        (func (export \"millstream:ext/module@{CONTRACT}#describe\") (result i32) (i32.const 1024))
        (func (export \"millstream:ext/module@{CONTRACT}#init\")
            (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 64))
        (func (export \"{export}\") (param $ptr i32) (param $len i32) {params} (result i32) {work})
        (func (export \"cabi_post_{export}\") (param i32) (global.set $heap (i32.const 98304))))"
    );
    let mut core = wat::parse_str(text)?;
    let wit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/millstream-ext.wit"))?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("guest.wit", &wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().module(&core)?.validate(false).encode()
}
