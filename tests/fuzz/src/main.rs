//! One target under libFuzzer. The environment says which: libFuzzer reads the arguments.
//!
//! - `MILLSTREAM_FUZZ_TARGET`: the target's name. Without it, the names that there are are printed.
//! - `MILLSTREAM_FUZZ_SEEDS`: a folder into which the target's seeds are written before anything is tried.

#![no_main]
#![allow(unsafe_code, reason = "libFuzzer finds what it calls by names that are not mangled: the macro's")]

use std::{path::Path, process, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use millstream_tests_fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(init: start(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(bytes);
    }
});

fn start() {
    let Ok(name) = std::env::var("MILLSTREAM_FUZZ_TARGET") else {
        println!("{}", TARGETS.map(|target| target.name).join("\n"));
        process::exit(0);
    };
    let Some(target) = TARGETS.into_iter().find(|target| target.name == name) else {
        eprintln!("MILLSTREAM_FUZZ_TARGET={name:?} is none of {:?}", TARGETS.map(|target| target.name));
        process::exit(2);
    };
    if let Some(folder) = std::env::var_os("MILLSTREAM_FUZZ_SEEDS") {
        for (index, seed) in (target.seeds)().into_iter().enumerate() {
            let path = Path::new(&folder).join(format!("{index:05}"));
            if let Err(error) = std::fs::write(&path, seed) {
                eprintln!("writing {}: {error}", path.display());
                process::exit(2);
            }
        }
    }
    TARGET.get_or_init(|| target);
}
