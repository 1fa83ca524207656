//! Form: formatting, lints, and what the project may depend on.

use std::process::Command;

use anyhow::{Context, bail};

use crate::run::{cargo, output, run};

/// The cargo-deny whose configuration `deny.toml` is.
const CARGO_DENY: &str = "0.20.2";

/// Crates outside the workspace, compiled for Wasm when they are used, natively when they are looked at.
const GUESTS: [&str; 3] = ["sdk/guest/Cargo.toml", "guest-examples/Cargo.toml", "tests/bench/guests/Cargo.toml"];

/// Every lock file of the tree.
fn manifests() -> impl Iterator<Item = &'static str> {
    ["Cargo.toml"].into_iter().chain(GUESTS)
}

/// Formats, or only checks the format.
pub(crate) fn fmt(check: bool) -> anyhow::Result<()> {
    for manifest in manifests() {
        let mut command = cargo(&["fmt", "--all", "--manifest-path", manifest]);
        if check {
            command.arg("--check");
        }
        run(&mut command)?;
    }
    Ok(())
}

/// Lints every target, warnings being errors.
pub(crate) fn clippy() -> anyhow::Result<()> {
    let clippy = ["clippy", "--all-targets", "--locked"];
    let deny = ["--", "-D", "warnings"];
    // In release, like the tests, so that build scripts and macros are compiled once.
    run(&mut cargo(&[&clippy[..], &["--release", "--workspace"], &deny].concat()))?;
    // The tests turn on features of the client that its users turn on only if they want them.
    run(&mut cargo(&[&clippy[..], &["--release", "--package", "millstream-client"], &deny].concat()))?;
    for manifest in GUESTS {
        run(&mut cargo(&[&clippy[..], &["--workspace", "--manifest-path", manifest], &deny].concat()))?;
    }
    Ok(())
}

/// Checks bans, licences and sources; advisories too, if their database can be reached. One `deny.toml` for every lock file.
pub(crate) fn deny() -> anyhow::Result<()> {
    install_deny()?;
    // For every platform, of which a build here fetches only its own: the checks look at all of them, and take nothing from the net.
    for manifest in manifests() {
        run(&mut cargo(&["fetch", "--locked", "--quiet", "--manifest-path", manifest]))?;
    }
    check_all(&["bans", "licenses", "sources"])?;
    // Fetched apart from the check, so that "cannot be reached" and "an advisory hurts us" are told apart.
    let fetched = cargo(&["deny", "--locked", "fetch", "db"]).output().context("starting cargo deny")?;
    if fetched.status.success() {
        return check_all(&["advisories"]);
    }
    eprintln!(
        "\n*** ADVISORIES WERE NOT CHECKED: the advisory database cannot be reached from here. ***\n\
         *** Run `cargo xtask deny` where it can be.                                        ***\n"
    );
    Ok(())
}

fn check_all(checks: &[&str]) -> anyhow::Result<()> {
    for manifest in manifests() {
        let mut deny = cargo(&["deny", "--locked", "--offline", "--config", "deny.toml", "--manifest-path", manifest]);
        deny.args(["check", "--hide-inclusion-graph"]);
        if GUESTS.contains(&manifest) {
            // What `deny.toml` says of the broker's libraries finds nothing there, and should not.
            let missed = ["unused-wrapper", "license-not-encountered", "license-exception-not-encountered"];
            deny.args(missed.iter().flat_map(|warning| ["--allow", warning]));
        }
        run(deny.args(checks))?;
    }
    Ok(())
}

fn install_deny() -> anyhow::Result<()> {
    let have = output(&mut cargo(&["deny", "--version"]));
    if have.as_deref().is_some_and(|have| have.trim().ends_with(CARGO_DENY)) {
        return Ok(());
    }
    // A tool that runs for a second: half the optimising is half the wait.
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install
        .args(["install", "--locked", "--quiet", "cargo-deny", "--version", CARGO_DENY])
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    if let Err(error) = run(&mut install) {
        bail!("{error:#}: cargo-deny {CARGO_DENY} is needed to check what the project depends on");
    }
    Ok(())
}
