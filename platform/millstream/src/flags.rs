//! The flags that several commands take.

use clap::Args;
use millstream_model::Address;

use crate::output::Output;

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Brokers to ask first, comma-separated.
    #[arg(
        short = 'b',
        long,
        global = true,
        env = "MILLSTREAM_BROKER",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:9092"
    )]
    pub(crate) broker: Vec<Address>,
}

/// For commands that ask no broker: the flag is taken, as everywhere, but nobody is told of it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Unasked {
    #[arg(id = "broker", short = 'b', long = "broker", hide = true, value_delimiter = ',')]
    _broker: Vec<Address>,
}

/// The flag of every command that answers. (`transform deploy` has one of its own, which names topics too.)
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Form {
    /// Tables for people, or JSON for programs: one object a line.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Something that has a name already.
#[derive(Clone, Debug, Args)]
pub(crate) struct Named {
    /// Its name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) form: Form,
}
