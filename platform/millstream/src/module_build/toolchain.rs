//! Finds a cargo that can compile for `wasm32-unknown-unknown`, and installs what is missing.
//!
//! Two ways lead there. rustup's target, installed from its server, is the usual one. Where that server cannot be reached (or
//! Rust came with the system), Debian's `rustc-web` compiles for the target and brings the standard library as source, which cargo
//! then builds along with the guest (`-Zbuild-std`, about a minute the first time).

use std::{
    env,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The target that guests are compiled for.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// Chooses a way (`rustup` or `debian`) instead of taking the first that works.
pub(crate) const CHOICE: &str = "MILLSTREAM_WASM_TOOLCHAIN";
/// SIMD is part of what brokers run, and worth 4-5x on byte work.
const RUSTFLAGS: &str = "-Ctarget-feature=+simd128";
/// A server that cannot be reached often does not say so.
const RUSTUP_WAIT: Duration = Duration::from_secs(90);
const APT_WAIT: Duration = Duration::from_secs(600);
const PROBE_WAIT: Duration = Duration::from_secs(30);
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld";

/// A way to compile for [`TARGET`] that works on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The cargo in the path, whose rustc has the target's standard library.
    Installed,
    /// Debian's compiler and its source of the standard library.
    Debian,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolchainError {
    /// Nothing that could be tried has worked.
    #[error(
        "no Rust compiler for {TARGET} here, and none could be installed.\n  {}\nInstall one of:\n  rustup target add {TARGET}\n  apt-get install {}",
        .tried.join("\n  "), DEBIAN_PACKAGES.join(" ")
    )]
    Missing {
        /// What was tried and what came of it.
        tried: Vec<String>,
    },
    /// [`CHOICE`] holds something else.
    #[error("{CHOICE} is {0:?}: it is `rustup` or `debian`")]
    Choice(String),
}

/// Finds a toolchain for a project in `dir`, installing one if need be; `say` hears what takes long.
///
/// Installs with rustup for the user, or with apt for the machine if it runs as root; otherwise only says how.
///
/// # Errors
/// [`ToolchainError::Missing`] says what was tried.
pub(crate) fn ensure(dir: &Path, say: &mut dyn FnMut(&str)) -> Result<Toolchain, ToolchainError> {
    let choice = env::var(CHOICE).unwrap_or_default();
    let (rustup, debian) = match choice.as_str() {
        "" => (true, true),
        "rustup" => (true, false),
        "debian" => (false, true),
        _ => return Err(ToolchainError::Choice(choice)),
    };
    let mut tried = Vec::new();
    if rustup {
        if has_target(dir) {
            return Ok(Toolchain::Installed);
        }
        match add_target(dir, say) {
            Ok(()) if has_target(dir) => return Ok(Toolchain::Installed),
            Ok(()) => tried.push(format!("rustup added {TARGET}, but rustc does not find it")),
            Err(why) => tried.push(why),
        }
    }
    if debian {
        if has_debian() {
            return Ok(Toolchain::Debian);
        }
        match add_debian(say) {
            Ok(()) if has_debian() => return Ok(Toolchain::Debian),
            Ok(()) => tried.push("apt-get installed the packages, but the compiler is not where it should be".into()),
            Err(why) => tried.push(why),
        }
    }
    Err(ToolchainError::Missing { tried })
}

impl Toolchain {
    /// A cargo command for the project in `dir`, up to and including the target's arguments.
    ///
    /// Whatever in the environment is meant for builds around this one (a compiler wrapper, flags of the host) does not reach it.
    pub(crate) fn cargo(self, dir: &Path, subcommand: &str) -> Command {
        let mut command = Command::new(match self {
            Toolchain::Installed => "cargo",
            Toolchain::Debian => DEBIAN_CARGO,
        });
        quiet_environment(&mut command);
        command.current_dir(dir).stdin(Stdio::null()).arg(subcommand).args(["--target", TARGET]);
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", RUSTFLAGS);
        if self == Toolchain::Debian {
            // Its artifacts and rustup's do not mix: two compilers, two directories.
            command.args(["-Zbuild-std=std,panic_abort", "--target-dir"]).arg(dir.join("target").join("debian"));
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
        }
        command
    }
}

/// What cargo knows of the packages in `dir`, as its JSON; none if there is no cargo yet, or it cannot tell. Nothing is fetched.
pub(crate) fn metadata(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    for cargo in ["cargo", DEBIAN_CARGO] {
        let mut command = Command::new(cargo);
        quiet_environment(&mut command);
        command.current_dir(dir).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
        match command.stdin(Stdio::null()).stderr(Stdio::null()).output() {
            Ok(told) => return Ok(told.status.success().then_some(told.stdout)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Drops the variables by which an outer cargo, or the developer's own set-up, would change this build.
fn quiet_environment(command: &mut Command) {
    for name in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTC_BOOTSTRAP",
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTC_WRAPPER",
        "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "LLVM_PROFILE_FILE",
    ] {
        command.env_remove(name);
    }
}

/// Whether the rustc in the path has the target's standard library.
fn has_target(dir: &Path) -> bool {
    let mut rustc = Command::new("rustc");
    quiet_environment(&mut rustc);
    rustc.current_dir(dir).args(["--print", "target-libdir", "--target", TARGET]);
    let Ok(printed) = run(rustc, PROBE_WAIT) else { return false };
    let Ok(entries) = PathBuf::from(printed.trim()).read_dir() else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

fn add_target(dir: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
    say(&format!("installing the Rust target {TARGET} (rustup target add {TARGET})"));
    let mut rustup = Command::new("rustup");
    rustup.current_dir(dir).args(["target", "add", TARGET]);
    run(rustup, RUSTUP_WAIT).map(drop).map_err(|why| format!("rustup target add {TARGET}: {why}"))
}

/// Whether Debian's compiler, linker and source of the standard library are there.
fn has_debian() -> bool {
    if ![DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_LINKER].iter().all(|path| Path::new(path).exists()) {
        return false;
    }
    let mut rustc = Command::new(DEBIAN_RUSTC);
    quiet_environment(&mut rustc);
    rustc.args(["--print", "sysroot"]);
    run(rustc, PROBE_WAIT)
        .is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std/Cargo.toml").exists())
}

fn add_debian(say: &mut dyn FnMut(&str)) -> Result<(), String> {
    let packages = DEBIAN_PACKAGES.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err("there is no apt-get here".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("apt-get install {packages}: not tried, it needs root"));
    }
    say(&format!("installing Debian's Rust for Wasm (apt-get install {packages})"));
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("/usr/bin/apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        run(apt, APT_WAIT).map_err(|why| format!("apt-get {}: {why}", arguments.join(" ")))
    };
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"][..], &DEBIAN_PACKAGES].concat()).map(drop)
}

/// Runs a command to its end, at most `wait`, and returns its standard output; or says what went wrong, in a line or two.
fn run(mut command: Command, wait: Duration) -> Result<String, String> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("there is no {} here", command.get_program().to_string_lossy()));
        }
        Err(error) => return Err(error.to_string()),
    };
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait_for(&mut child, wait)?;
    let stderr = stderr.join().unwrap_or_default();
    if status.success() {
        return Ok(stdout.join().unwrap_or_default());
    }
    let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{status}: {}", last.trim()))
}

/// Reads a pipe to its end on a thread of its own, so that the child never waits for it.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What could be read is used; an error here says no more than that the child is gone.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait_for(child: &mut Child, wait: Duration) -> Result<std::process::ExitStatus, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if start.elapsed() < wait => thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                // It is given up, so neither call's failure changes anything.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("gave up after {} s", wait.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_fails_or_hangs_or_is_not_there_is_told_in_words() {
        assert_eq!(run(shell("echo out; echo err >&2"), PROBE_WAIT), Ok("out\n".into()));
        let failed = run(shell("echo first >&2; echo 'no route to host' >&2; exit 3"), PROBE_WAIT).unwrap_err();
        assert!(failed.contains('3') && failed.ends_with("no route to host"), "{failed}");
        let hung = run(shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert!(hung.starts_with("gave up"), "{hung}");
        let absent = run(Command::new("millstream-no-such-command"), PROBE_WAIT).unwrap_err();
        assert_eq!(absent, "there is no millstream-no-such-command here");
    }

    #[test]
    fn the_error_says_what_was_tried_and_what_to_do() {
        let message = ToolchainError::Missing { tried: vec!["rustup: timed out".into()] }.to_string();
        assert!(message.contains("rustup: timed out") && message.contains("apt-get install rustc-web"), "{message}");
    }
}
