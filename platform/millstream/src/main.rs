//! The program: `millstream serve`, which is the broker, and the operator's commands, which talk to one.
//!
//! [`args`] is what can be typed, [`flags`] what several commands share of it, [`commands`] what it does, [`output`] how answers look, [`failure`] how it ends.

mod args;
mod commands;
mod failure;
mod flags;
mod module_build;
mod output;
mod time;
mod values;

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};

/// What is logged unless `RUST_LOG` says otherwise: our own words, and only warnings of the libraries'.
const SERVE_LOG: &str =
    "info,openraft=warn,sled=warn,quinn=warn,quinn_proto=warn,rustls=warn,wasmtime=warn,cranelift=warn";
/// Commands say what a person has to know: that a broker is lost, and there again.
const COMMAND_LOG: &str = "warn,millstream_client=info";

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    // A compiler of modules limits its own process, so this comes before any thread is started.
    if words.nth(1).is_some_and(|word| word == millstream_wasm::COMPILE_ARGUMENT) {
        return millstream_wasm::compile_main(words);
    }
    let cli = Cli::parse();
    log_to_stderr(matches!(cli.command, Command::Serve(_)));
    failure::exit_code(run(cli))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let done = runtime.block_on(Box::pin(commands::run(cli)));
    // What still waits for input, a disk or a peer ends with the process.
    runtime.shutdown_background();
    done
}

/// A broker's log has times and levels; of a command the words alone are for people, unless `RUST_LOG` asks for more.
fn log_to_stderr(serves: bool) {
    let asked = EnvFilter::try_from_default_env().ok();
    let plain = !serves && asked.is_none();
    let filter = asked.unwrap_or_else(|| EnvFilter::new(if serves { SERVE_LOG } else { COMMAND_LOG }));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match plain {
        true => log.with_level(false).without_time().init(),
        false => log.init(),
    }
}
