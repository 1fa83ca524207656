//! The program: `millstream serve`, which is the broker, and the operator's commands, which talk to one.
//!
//! [`args`] is what can be typed, [`flags`] what several commands share of it, [`commands`] what it does, [`output`] how answers look, [`failure`] how it ends,
//! [`log_filter`] what is told on the way.

mod args;
mod commands;
mod failure;
mod flags;
mod log_filter;
mod module_build;
mod output;
mod signals;
mod time;
mod values;

use std::process::ExitCode;

use anyhow::Context;

use crate::{
    args::{Cli, Command},
    log_filter::LogFilter,
};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    // A compiler of modules limits its own process, so this comes before any thread is started.
    if words.nth(1).is_some_and(|word| word == millstream_wasm::COMPILE_ARGUMENT) {
        return millstream_wasm::compile_main(words);
    }
    let cli = Cli::of_process().unwrap_or_else(|error| args::exit(error));
    let serves = matches!(cli.command, Command::Serve(_));
    if serves {
        millstream_env::heap::give_back_what_is_freed();
    }
    let log = LogFilter::start(serves);
    failure::exit_code(run(cli, log))
}

fn run(cli: Cli, log: LogFilter) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let done = runtime.block_on(Box::pin(commands::run(cli, log)));
    // What still waits for input, a disk or a peer ends with the process.
    runtime.shutdown_background();
    done
}
