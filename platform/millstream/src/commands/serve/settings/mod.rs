//! A broker's settings: flags before environment before file before defaults. What is wrong with them is told at once.

mod file;
mod origin;
mod reader;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use millstream_broker::BrokerOptions;
use millstream_model::{Address, BrokerId, limits::FRAME_BYTES_MAX};
use millstream_transport::TcpSecurity;

use self::file::File;
pub(crate) use self::{
    file::{Entry, suggest},
    origin::{Mistakes, Origin},
    reader::{Form, InForce, Reader, of_text, variable},
    tls::{Clients, Own, Tls},
};
use super::{
    Serve,
    kafka::{self, Kafka},
};

const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9092);
const HTTP_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9644);
const NODE_ID_DEFAULT: i32 = 1;

/// Least of `--frame-memory`, bytes: a frame of the largest size and an answer beside it must fit.
pub(crate) const FRAME_MEMORY_MIN: u64 = 128 << 20;
/// Most that is taken of the machine's memory unless the operator says so, bytes.
const FRAME_MEMORY_DEFAULT_MAX: u64 = 2 << 30;

/// Kafka's defaults.
const RETENTION_CHECK_MS_DEFAULT: u64 = 5 * 60 * 1000;
const COMPACTION_CHECK_MS_DEFAULT: u64 = 15 * 1000;

const _: () = assert!(FRAME_MEMORY_MIN > FRAME_BYTES_MAX as u64);

/// Where health, metrics and the log's level are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    /// Nowhere.
    Off,
    /// There, or there is no start.
    On(SocketAddr),
    /// There, unless somebody else is: nobody asked for it, and a second broker on a machine needs no flag for this.
    IfFree(SocketAddr),
}

/// All that a broker is started with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<Address>,
    pub(crate) http: Http,
    pub(crate) tcp: TcpSecurity,
    pub(crate) tls: Tls,
    pub(crate) node_id: BrokerId,
    pub(crate) frame_memory: usize,
    pub(crate) kafka: Kafka,
    pub(crate) retention_check: Duration,
    pub(crate) compaction_check: Duration,
    /// None: the broker's own.
    pub(crate) catch_up_share: Option<u8>,
    pub(crate) ready_file: Option<PathBuf>,
    /// None: the broker's own.
    pub(crate) journal_file_bytes: Option<u64>,
    pub(crate) journal_bytes: Option<u64>,
}

/// What was found: settings, if nothing is wrong, and each with its source.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Result<Settings, Mistakes>,
    /// By name, in the order of the help; those that are wrong are missing.
    pub(crate) in_force: Vec<InForce>,
}

/// An IP address and a port; `localhost` counts as the former.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let expected = "expected an IP address and a port, such as 127.0.0.1:9092 or [::]:9092";
    local.as_deref().unwrap_or(text).parse().map_err(|_| expected.to_owned())
}

/// `none` (or `off`), or as [`parse_listen`].
fn parse_http(text: &str) -> Result<Http, String> {
    match text {
        "none" | "off" => Ok(Http::Off),
        _ => parse_listen(text)
            .map(Http::On)
            .map_err(|_| "expected `none`, or an IP address and a port, such as 127.0.0.1:9644".to_owned()),
    }
}

/// A number of bytes, without a unit: what a unit means is not agreed on.
fn parse_frame_memory(text: &str) -> Result<u64, String> {
    let bytes = text.parse().ok().filter(|bytes| *bytes >= FRAME_MEMORY_MIN);
    bytes.ok_or_else(|| {
        format!("expected a number of bytes, at least {FRAME_MEMORY_MIN} (128 MiB); 1073741824 is 1 GiB")
    })
}

fn parse_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: <Address as FromStr>::Err| error.to_string())
}

fn parse_addresses(text: &str) -> Result<Vec<Address>, String> {
    text.split(',').filter(|part| !part.is_empty()).map(parse_address).collect()
}

/// A number within bounds, inclusive.
fn parse_number<N: FromStr + PartialOrd + std::fmt::Display + Copy>(
    least: N,
    most: N,
    unit: &'static str,
) -> impl Fn(&str) -> Result<N, String> {
    move |text| {
        let number = text.parse().ok().filter(|number| least <= *number && *number <= most);
        number.ok_or_else(|| format!("expected {least} to {most}{unit}"))
    }
}

/// A time that must pass between two looks, milliseconds.
fn parse_millis(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|millis| *millis > 0).ok_or_else(|| "expected a number of milliseconds, 1 or more".into())
}

/// A quarter of the machine's memory, within bounds.
fn frame_memory_default() -> u64 {
    let system = rustix::system::sysinfo();
    let total = system.totalram.saturating_mul(u64::from(system.mem_unit));
    (total / 4).clamp(FRAME_MEMORY_MIN, FRAME_MEMORY_DEFAULT_MAX)
}

impl Settings {
    /// Reads what is given, all of it, and touches nothing.
    pub(crate) fn resolve(given: &Serve) -> Resolved {
        let mut mistakes = Mistakes::default();
        let environment = |variable: &str| std::env::var_os(variable);
        let file = given.config.as_deref().map(|path| File::read(path, &mut mistakes)).unwrap_or_default();
        let reader = Reader::new(given.flags(), &environment, file, mistakes);
        Self::merge(reader, &given.set, data_dir_default())
    }

    fn merge(mut reader: Reader<'_>, set: &[OsString], data_dir_default: Option<PathBuf>) -> Resolved {
        let data_dir = reader.take_path("data-dir");
        let data_dir = data_dir.or_else(|| data_dir_default.map(|dir| (dir, Origin::Default)));
        match &data_dir {
            Some((dir, origin)) => reader.note("data-dir", dir.display().to_string(), origin),
            None => reader
                .mistakes
                .add(None, "no place for the data: give --data-dir DIR (there is no home directory to put it into)"),
        }

        let (listen, listen_at) = or(reader.take("listen", Form::Text, parse_listen), LISTEN_DEFAULT);
        reader.note("listen", listen.to_string(), &listen_at);
        let mistakes_before = reader.mistakes.clone();
        let advertise = reader.take("advertise", Form::Text, parse_address);
        let (advertise, advertise_at) = advertise.map_or((None, Origin::Default), |(address, at)| (Some(address), at));
        reader.note("advertise", advertise.as_ref().map(ToString::to_string), &advertise_at);
        // One that is wrong is told of as that.
        if listen.ip().is_unspecified() && advertise.is_none() && reader.mistakes == mistakes_before {
            let told = format!(
                "--listen {listen} takes connections on every interface, so that there is no one address to tell clients: \
                 give --advertise HOST:PORT, the name and port that they reach this machine by"
            );
            reader.mistakes.add(Some(listen_at), told);
        }

        let (http, http_at) = or(reader.take("http", Form::Text, parse_http), Http::IfFree(HTTP_DEFAULT));
        let shown = match http {
            Http::Off => "none".to_owned(),
            Http::On(address) | Http::IfFree(address) => address.to_string(),
        };
        reader.note("http", shown, &http_at);

        let (tcp, tls) = tls::take(&mut reader);

        let node_id = reader.take("node-id", Form::Number, parse_number(0, i32::MAX, ""));
        let (node_id, node_id_at) = or(node_id, NODE_ID_DEFAULT);
        reader.note("node-id", node_id, &node_id_at);

        if let Some((brokers, at)) = reader.take("join", Form::Texts, parse_addresses)
            && !brokers.is_empty()
        {
            reader.mistakes.add_not_built(at, "--join", "a cluster is one broker for now");
        }

        let frame_memory = reader.take("frame-memory", Form::Number, parse_frame_memory);
        let (frame_memory, frame_memory_at) = or(frame_memory, frame_memory_default());
        reader.note("frame-memory", frame_memory, &frame_memory_at);

        let mut millis = |name, default| {
            let (millis, at) = or(reader.take(name, Form::Number, parse_millis), default);
            reader.note(name, millis, &at);
            Duration::from_millis(millis)
        };
        let retention_check = millis("retention-check-ms", RETENTION_CHECK_MS_DEFAULT);
        let compaction_check = millis("compaction-check-ms", COMPACTION_CHECK_MS_DEFAULT);

        let share = reader.take("catch-up-share", Form::Number, parse_number(1u8, 100, " percent"));
        let own = BrokerOptions::new(BrokerId(node_id), PathBuf::new()).catch_up_share;
        let shown = share.as_ref().map_or((own, Origin::Default), Clone::clone);
        reader.note("catch-up-share", shown.0, &shown.1);

        let ready_file = reader.take_path_or_none("ready-file");

        // For tests: told only where they are given.
        let mut hidden = |name| {
            let (bytes, at) = reader.take_flag(name, parse_number(0u64, u64::MAX, " bytes"))?;
            reader.note(name, bytes, &at);
            Some(bytes)
        };
        let (journal_file_bytes, journal_bytes) = (hidden("journal-file-bytes"), hidden("journal-bytes"));

        let kafka = kafka::resolve(&mut reader, set);
        reader.finish(&kafka::names());
        let Reader { mistakes, in_force, .. } = reader;
        let settings = match data_dir {
            Some((data_dir, _)) if mistakes.is_empty() => Ok(Self {
                data_dir,
                listen,
                advertise,
                http,
                tcp,
                tls,
                kafka,
                node_id: BrokerId(node_id),
                retention_check,
                compaction_check,
                catch_up_share: share.map(|(share, _)| share),
                frame_memory: usize::try_from(frame_memory).unwrap_or(usize::MAX),
                ready_file: ready_file.map(|(path, _)| path),
                journal_file_bytes,
                journal_bytes,
            }),
            _ => Err(mistakes),
        };
        Resolved { settings, in_force }
    }

    /// The hosts that clients know the broker by, for its certificate; those of every machine are in it anyway.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let listen = Some(self.listen.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
        let advertise = self.advertise.as_ref().map(|address| address.host.clone());
        listen.map(|ip| ip.to_string()).into_iter().chain(advertise).collect()
    }

    /// Says to whom an address that others reach is open. That it was given is taken for consent.
    pub(crate) fn warn_of_openness(&self, bound: SocketAddr) {
        let plain = match self.tcp {
            TcpSecurity::Plain => "; what Kafka's clients send and read can be read on the way (--tcp-tls on)",
            TcpSecurity::Tls => "",
        };
        match &self.tls.clients {
            Some(Clients { ca, required: true }) => tracing::info!(
                address = %bound,
                "whoever shows a certificate of a CA in {} may do everything: there are no access rights yet",
                ca.display()
            ),
            _ => tracing::warn!(
                address = %bound,
                "whoever reaches this address may do everything: there are no access rights yet, and no client has to prove who it \
                 is (--tls-client-ca){plain}"
            ),
        }
    }

    /// Where clients connect to.
    pub(crate) fn address(&self, bound: SocketAddr) -> String {
        self.advertise.as_ref().map_or_else(|| bound.to_string(), ToString::to_string)
    }
}

/// What is given, or else the default.
fn or<T>(taken: Option<(T, Origin)>, default: T) -> (T, Origin) {
    taken.unwrap_or((default, Origin::Default))
}

/// `$XDG_DATA_HOME/millstream`, else `$HOME/.local/share/millstream`: the same wherever the broker is started from.
fn data_dir_default() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").map(|home| home.join(".local/share"));
    variable("XDG_DATA_HOME").or_else(home).map(|dir| dir.join("millstream"))
}
