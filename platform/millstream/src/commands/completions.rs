//! `millstream completions`: a script for a shell, on standard output.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, failure::output_error, flags::Unasked};

/// Which script.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millstream completions bash > ~/.local/share/bash-completion/completions/millstream
  millstream completions zsh > ~/.zfunc/_millstream
  millstream completions fish > ~/.config/fish/completions/millstream.fish")]
pub(crate) struct Completions {
    /// Whose.
    shell: Shell,
    #[command(flatten)]
    unasked: Unasked,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        io::stdout().write_all(&script(self.shell)).map_err(output_error)
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "millstream", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shells_script_names_the_commands_and_their_flags() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for word in ["millstream", "produce", "describe", "partitions", "key-separator"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
