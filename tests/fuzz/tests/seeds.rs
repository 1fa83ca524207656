//! Does every target take all that it begins with, and is that something?

#![expect(clippy::unwrap_used, reason = "a helper of tests, outside of test functions")]

use millstream_tests_fuzz::TARGETS;

fn check(name: &str) {
    let target = TARGETS.into_iter().find(|target| target.name == name).unwrap();
    let seeds = (target.seeds)();
    assert!(seeds.len() >= 50, "{} seeds", seeds.len());
    assert_eq!((target.seeds)(), seeds, "the same every time");
    for seed in &seeds {
        (target.run)(seed);
        // Cut off, they are what a fuzzer tries first.
        (target.run)(&seed[..seed.len() / 2]);
    }
    (target.run)(&[]);
}

#[test]
fn frame() {
    check("frame");
}

#[test]
fn request() {
    check("request");
}

#[test]
fn batch() {
    check("batch");
}

#[test]
fn session() {
    check("session");
}

#[test]
fn response() {
    check("response");
}
