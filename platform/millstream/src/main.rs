//! The program: `millstream serve`, which is the broker, and the operator's commands, which talk to one.
//!
//! [`args`] is what can be typed, [`flags`] what several commands share of it, [`commands`] what it does, [`output`] how answers look, [`failure`] how it ends.

mod args;
mod commands;
mod failure;
mod flags;
mod module_build;
mod output;
mod signals;
mod time;
mod values;

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::args::{Cli, Command};

/// What is logged unless `RUST_LOG` says otherwise: our own words, and only warnings of the libraries'. (Of one of openraft's, that
/// nobody waits for a step that it reports, no operator has any use.)
const SERVE_LOG: &str = "info,openraft=warn,openraft::raft::responder=error,sled=warn,quinn=warn,quinn_proto=warn,rustls=warn,wasmtime=warn,cranelift=warn";
/// Commands say what a person has to know: that a broker is lost, and there again.
const COMMAND_LOG: &str = "warn,millstream_client=info";

/// What `RUST_LOG` may be.
const RUST_LOG_TAKES: &str = "it takes a level (error, warn, info, debug, trace or off), or levels of parts, such as \
                              info,millstream_broker=debug";

/// Whether what `RUST_LOG` says has anything of ours logged, or says that nothing is to be: a word that is no level, such as
/// `verbose`, is taken for the name of some part.
fn reaches_us(words: &str) -> bool {
    words.split(',').map(str::trim).any(|word| {
        word.parse::<LevelFilter>().is_ok() || ["millstream", "module", "["].iter().any(|ours| word.starts_with(ours))
    })
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    // A compiler of modules limits its own process, so this comes before any thread is started.
    if words.nth(1).is_some_and(|word| word == millstream_wasm::COMPILE_ARGUMENT) {
        return millstream_wasm::compile_main(words);
    }
    let cli = Cli::try_parse().unwrap_or_else(|error| args::without_misleading_tips(error).exit());
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
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|words| !words.is_empty());
    let asked = asked.and_then(|words| match EnvFilter::try_new(&words) {
        Ok(filter) => {
            if serves && !reaches_us(&words) {
                output::say(format_args!("RUST_LOG={words} has nothing of the broker logged: {RUST_LOG_TAKES}"));
            }
            Some(filter)
        }
        Err(error) => {
            output::say(format_args!("RUST_LOG={words} is not understood ({error}) and passed over: {RUST_LOG_TAKES}"));
            None
        }
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_names_nothing_of_ours() {
        for words in ["info", "off", "quinn=debug,warn", "millstream_log=trace", "quinn=info, module=debug", "DEBUG"] {
            assert!(reaches_us(words), "{words}");
        }
        for words in ["verbose", "inof", "quinn=debug"] {
            assert!(!reaches_us(words), "{words}");
        }
    }
}
