//! What can be typed after `millstream`: the command families.

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

use crate::{
    commands::{bench, cluster, completions, consume, module, not_built, produce, serve, topic, transform, view},
    flags::Common,
    output::say,
};

/// A streaming broker that its users extend with WebAssembly, and the commands to work with it.
#[derive(Debug, Parser)]
#[command(
    name = "millstream",
    version,
    max_term_width = 110,
    after_help = "\
Data goes to standard output, words to standard error. Exit codes: 0 done, 1 refused or failed, 2 bad usage.

Which brokers to trust is in the profile that `serve` writes for its own user. On other machines, or for other users, set \
MILLSTREAM_PROFILE to a copy of the broker's DATA_DIR/client.json."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker; a single one needs no flag at all.
    Serve(Box<serve::Serve>),
    /// Create, list, describe, alter and delete topics.
    #[command(subcommand)]
    Topic(topic::Topic),
    /// Write records into a topic, one per line of the input.
    Produce(Box<produce::Produce>),
    /// Read records of a topic or a view.
    Consume(consume::Consume),
    /// Make, build, upload, download, list, describe and delete modules.
    #[command(subcommand)]
    Module(module::Module),
    /// Create, list, describe and delete views.
    #[command(subcommand)]
    View(view::View),
    /// Deploy, list, describe, pause, resume and delete transforms.
    #[command(subcommand)]
    Transform(transform::Transform),
    /// Describe the cluster.
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Measure: put a load on a broker, open or closed, and tell how it bears it.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Write a script that has a shell complete these commands.
    Completions(completions::Completions),
    /// Consumer groups: not built yet.
    #[command(hide = true, disable_help_flag = true)]
    Group(not_built::Words),
    /// Access rights: not built yet.
    #[command(hide = true, disable_help_flag = true)]
    Acl(not_built::Words),
}

impl Cli {
    /// What was typed.
    ///
    /// # Errors
    /// What is shown instead, help included.
    pub(crate) fn of_process() -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(std::env::args_os())?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if let (Command::Serve(serve), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
            serve.note_sources(matches);
        }
        Ok(cli)
    }
}

/// An error without clap's tip to write `-- --flag`: what looks like a flag is a mistake here, and no name.
pub(crate) fn without_misleading_tips(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument {
        error.remove(ContextKind::Suggested);
    }
    error
}

/// Shows an error, or the help that was asked for, and ends the process.
pub(crate) fn exit(error: clap::Error) -> ! {
    let error = without_misleading_tips(error);
    match in_words(&error.to_string()) {
        Some(text) => {
            say(text.trim_end());
            std::process::exit(error.exit_code())
        }
        None => error.exit(),
    }
}

/// What the standard library says of numbers, for people; none: it says nothing of them.
fn in_words(text: &str) -> Option<String> {
    const NUMBERS: [&str; 2] = ["invalid digit found in string", "cannot parse integer from empty string"];
    let found = NUMBERS.iter().find(|words| text.contains(**words))?;
    Some(text.replace(found, "expected a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_said_in_words() {
        for words in ["consume t --count x", "consume t --partition 0,1", "produce t --partition="] {
            let error = parse(words).unwrap_err().to_string();
            assert!(in_words(&error).unwrap().contains("expected a whole number"), "{error}");
        }
        assert_eq!(in_words(&parse("topic").unwrap_err().to_string()), None);
    }

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("millstream").chain(words.split_whitespace()))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    /// Scripts rely on these.
    #[test]
    fn every_built_command_of_the_contract_is_taken() {
        for words in [
            "serve",
            "serve --config f.toml --data-dir d --listen 127.0.0.1:0 --advertise host:1 --http none --node-id 3 --ready-file r",
            "serve --join a:1,b:2",
            "serve --tcp-tls on --tls-cert c --tls-key k --tls-ca a --tls-client-ca a --tls-client-auth requested",
            "topic list --client-cert c --client-key k",
            "topic create t --partitions 3 --replicas 1 --config a=b --config c=d --partitioner m@1 --param k=v",
            "topic list --output json",
            "topic describe t --broker a:1,b:2",
            "topic delete t",
            "produce t --input f --format ndjson --key id --compression zstd --acks 1 --header a=b --header a=c",
            "produce t --key-separator : --partition 0 --acks all",
            "consume t --from beginning --partition 0 --count 3 --until end --format json",
            "consume t --from 2013-01-01T10:00:00Z",
            "consume t --group g",
            "module new m --kind view --lang rust",
            "topic alter t --config a=b --config c=d --reset e",
            "topic alter t --reset e --output json",
            "module build",
            "module build dir --out modules",
            "module push f.wasm --name n --version 1",
            "module pull n@1 --out f.wasm",
            "module list",
            "module describe n@1",
            "module delete n@1",
            "transform deploy t --module m@1 --input a --input b --output c --output json --param k=v --on-error skip --from end --lanes 2",
            "transform list",
            "transform describe t",
            "transform pause t",
            "transform resume t",
            "transform resume t --skip",
            "transform delete t",
            "view create v --topic t --chain a@1,b@2 --param k=v",
            "view list",
            "view describe v",
            "view delete v",
            "cluster describe",
            "completions bash",
            "bench produce --producers 8 --batch 100 --size 1024 --durability fsync --seconds 5 --output json",
            "bench produce --topic t --rate 50000 --keys 10 --acks 1 --compression zstd --warmup 0 --progress",
            "bench consume --topic t --consumers 3",
            "bench consume --records 1000 --partitions 2",
            "bench e2e --rate 1000 --durability replicated",
            // Not built, and said so when they are run.
            "group list --anything",
            "transform logs t",
        ] {
            if let Err(error) = parse(words) {
                panic!("{words}: {error}");
            }
        }
    }

    #[test]
    fn an_unknown_flag_is_not_said_to_be_a_name() {
        let told = |words| without_misleading_tips(parse(words).unwrap_err()).to_string();
        assert!(!told("topic describe --verbose t").contains("-- --verbose"));
        // Those that help stay.
        let typing_error = told("topic create t --partition 3");
        assert!(typing_error.contains("--partitions"), "{typing_error}");
    }

    #[test]
    fn words_that_make_no_sense_are_refused_by_name() {
        for (words, kind, named) in [
            ("frobnicate", ErrorKind::InvalidSubcommand, "frobnicate"),
            ("topic create", ErrorKind::MissingRequiredArgument, "NAME"),
            ("topic create t --partitions many", ErrorKind::ValueValidation, "many"),
            ("topic create t --config novalue", ErrorKind::ValueValidation, "novalue"),
            ("topic alter t", ErrorKind::MissingRequiredArgument, "--config"),
            ("topic list --output yaml", ErrorKind::InvalidValue, "json"),
            ("topic list --broker nowhere", ErrorKind::ValueValidation, "nowhere"),
            ("produce t --acks 7", ErrorKind::InvalidValue, "7"),
            ("produce t --compression rar", ErrorKind::InvalidValue, "zstd"),
            ("produce t --partition -1", ErrorKind::ValueValidation, "--partition"),
            ("consume t --from yesterday", ErrorKind::ValueValidation, "yesterday"),
            ("consume t --until never", ErrorKind::InvalidValue, "never"),
            ("module pull n", ErrorKind::ValueValidation, "NAME@VERSION"),
            ("module delete n", ErrorKind::ValueValidation, "NAME@VERSION"),
            ("module new n --kind gadget", ErrorKind::InvalidValue, "partitioner"),
            ("transform deploy t --on-error panic", ErrorKind::InvalidValue, "panic"),
            ("transform deploy t --input a", ErrorKind::MissingRequiredArgument, "--module"),
            ("view create v --topic t", ErrorKind::MissingRequiredArgument, "--chain"),
            ("serve --listen", ErrorKind::InvalidValue, "--listen"),
            ("bench produce --producers 0", ErrorKind::ValueValidation, "--producers"),
            ("bench produce --rate 0", ErrorKind::ValueValidation, "--rate"),
            ("bench produce --topic t --partitions 3", ErrorKind::ArgumentConflict, "--topic"),
            ("bench consume --topic t --records 3", ErrorKind::ArgumentConflict, "--topic"),
        ] {
            match parse(words) {
                Ok(_) => panic!("{words} was taken"),
                Err(error) => {
                    assert_eq!(error.kind(), kind, "{words}: {error}");
                    assert!(error.to_string().contains(named), "{words}: {error}");
                    assert_eq!(error.exit_code(), 2, "{words}");
                }
            }
        }
    }
}
