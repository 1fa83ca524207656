//! The flags that several commands take.

use std::path::PathBuf;

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
    /// The certificate to show to brokers that ask for one, in PEM; the default is the client profile's.
    #[arg(long, global = true, env = "MILLSTREAM_CLIENT_CERT", value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, global = true, env = "MILLSTREAM_CLIENT_KEY", value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,
}

/// For commands that ask no broker: the flags are taken, as everywhere, but nobody is told of them.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Unasked {
    #[arg(id = "broker", short = 'b', long = "broker", hide = true, value_delimiter = ',')]
    _broker: Vec<Address>,
    #[arg(id = "client_cert", long = "client-cert", hide = true)]
    _client_cert: Option<PathBuf>,
    #[arg(id = "client_key", long = "client-key", hide = true)]
    _client_key: Option<PathBuf>,
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
