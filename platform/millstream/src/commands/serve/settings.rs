//! A broker's settings: flags before environment before file before defaults. (The first two are sorted out by clap.)

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use millstream_broker::NewTopics;
use millstream_model::{Address, BrokerId, limits::FRAME_BYTES_MAX};
use millstream_transport::TcpSecurity;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Serve, kafka};
use crate::failure::{Malformed, NotBuilt};

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

/// On or off, as words: a flag without a value could not turn off what the file turns on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Switch {
    Off,
    On,
}

/// Whether clients are asked for certificates; the words of Kafka's `ssl.client.auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientAuth {
    None,
    Requested,
    Required,
}

/// What the listeners show, and ask clients for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// None: a certificate of the broker's own making.
    pub(crate) own: Option<Own>,
    /// None: clients are not asked.
    pub(crate) clients: Option<Clients>,
}

/// The operator's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: Option<PathBuf>,
}

/// Whose certificates clients may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clients {
    pub(crate) ca: PathBuf,
    pub(crate) required: bool,
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
    pub(crate) new_topics: NewTopics,
    pub(crate) retention_check: Duration,
    pub(crate) compaction_check: Duration,
    /// None: the broker's own.
    pub(crate) catch_up_share: Option<u8>,
    pub(crate) ready_file: Option<PathBuf>,
    /// None: the broker's own.
    pub(crate) journal_file_bytes: Option<u64>,
    pub(crate) journal_bytes: Option<u64>,
}

/// The configuration file. Its keys are the flags' names; settings of Kafka's are in a table of their own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    data_dir: Option<PathBuf>,
    #[serde(default, deserialize_with = "listen_text")]
    listen: Option<SocketAddr>,
    #[serde(default, deserialize_with = "address_text")]
    advertise: Option<Address>,
    #[serde(default, deserialize_with = "http_text")]
    http: Option<Http>,
    tcp_tls: Option<Switch>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    tls_client_auth: Option<ClientAuth>,
    #[serde(default, deserialize_with = "node_id_number")]
    node_id: Option<i32>,
    #[serde(default, deserialize_with = "address_texts")]
    join: Option<Vec<Address>>,
    #[serde(default, deserialize_with = "frame_memory_bytes")]
    frame_memory: Option<u64>,
    retention_check_ms: Option<NonZeroU64>,
    compaction_check_ms: Option<NonZeroU64>,
    #[serde(default, deserialize_with = "percent")]
    catch_up_share: Option<u8>,
    ready_file: Option<PathBuf>,
    #[serde(default)]
    kafka: kafka::Table,
}

/// An IP address and a port; `localhost` counts as the former.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let expected = "expected an IP address and a port, such as 127.0.0.1:9092 or [::]:9092";
    local.as_deref().unwrap_or(text).parse().map_err(|_| expected.to_owned())
}

/// `none` (or `off`), or as [`parse_listen`].
pub(crate) fn parse_http(text: &str) -> Result<Http, String> {
    match text {
        "none" | "off" => Ok(Http::Off),
        _ => parse_listen(text)
            .map(Http::On)
            .map_err(|_| "expected `none`, or an IP address and a port, such as 127.0.0.1:9644".to_owned()),
    }
}

/// A number of bytes, without a unit: what a unit means is not agreed on.
pub(crate) fn parse_frame_memory(text: &str) -> Result<u64, String> {
    let bytes = text.parse().ok().filter(|bytes| *bytes >= FRAME_MEMORY_MIN);
    bytes.ok_or_else(|| {
        format!("expected a number of bytes, at least {FRAME_MEMORY_MIN} (128 MiB); 1073741824 is 1 GiB")
    })
}

fn listen_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    parse_listen(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn address_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Address>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

fn address_texts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Address>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Some).map_err(D::Error::custom)
}

fn http_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Http>, D::Error> {
    parse_http(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

fn node_id_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i32>, D::Error> {
    match i32::deserialize(from)? {
        id if id >= 0 => Ok(Some(id)),
        _ => Err(D::Error::custom("a broker's number is 0 or more")),
    }
}

fn frame_memory_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(from)? {
        bytes if bytes >= FRAME_MEMORY_MIN => Ok(Some(bytes)),
        _ => Err(D::Error::custom(format!("at least {FRAME_MEMORY_MIN} bytes (128 MiB) are needed"))),
    }
}

fn percent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    match u8::deserialize(from)? {
        percent @ 1..=100 => Ok(Some(percent)),
        _ => Err(D::Error::custom("expected 1 to 100 percent")),
    }
}

/// A quarter of the machine's memory, within bounds.
fn frame_memory_default() -> u64 {
    let system = rustix::system::sysinfo();
    let total = system.totalram.saturating_mul(u64::from(system.mem_unit));
    (total / 4).clamp(FRAME_MEMORY_MIN, FRAME_MEMORY_DEFAULT_MAX)
}

impl File {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        // The error shows the line.
        toml::from_str(&text)
            .map_err(|error| Malformed(format!("the configuration file {}: {error}", path.display())).into())
    }
}

/// A time that is given, or in the file, or neither, milliseconds.
fn millis(given: Option<u64>, file: Option<NonZeroU64>, default: u64) -> Duration {
    Duration::from_millis(given.or(file.map(NonZeroU64::get)).unwrap_or(default))
}

impl Settings {
    /// # Errors
    /// The configuration file, with the line; a setting that is not built; no place for data.
    pub(crate) fn resolve(given: Serve) -> anyhow::Result<Self> {
        let file = given.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        Self::merge(given, file, data_dir_default())
    }

    fn merge(given: Serve, file: File, data_dir_default: Option<PathBuf>) -> anyhow::Result<Self> {
        if given.join.or(file.join).is_some_and(|brokers| !brokers.is_empty()) {
            return Err(NotBuilt::new("--join", "a cluster is one broker for now").into());
        }
        let Some(data_dir) = given.data_dir.or(file.data_dir).or(data_dir_default) else {
            bail!("no place for the data: give --data-dir DIR (there is no home directory to put it into)");
        };
        if data_dir.as_os_str().is_empty() {
            bail!("no place for the data: --data-dir is empty");
        }
        let listen = given.listen.or(file.listen).unwrap_or(LISTEN_DEFAULT);
        let advertise = given.advertise.or(file.advertise);
        if listen.ip().is_unspecified() && advertise.is_none() {
            let told = format!(
                "--listen {listen} takes connections on every interface, so that there is no one address to tell clients: \
                 give --advertise HOST:PORT, the name and port that they reach this machine by"
            );
            return Err(Malformed(told).into());
        }
        let tcp = match given.tcp_tls.or(file.tcp_tls) {
            Some(Switch::On) => TcpSecurity::Tls,
            Some(Switch::Off) | None => TcpSecurity::Plain,
        };
        let own = own(given.tls_cert.or(file.tls_cert), given.tls_key.or(file.tls_key), given.tls_ca.or(file.tls_ca))?;
        let client_ca = given.tls_client_ca.or(file.tls_client_ca);
        let tls = Tls { own, clients: clients(client_ca, given.tls_client_auth.or(file.tls_client_auth), tcp)? };
        let frame_memory = given.frame_memory.or(file.frame_memory).unwrap_or_else(frame_memory_default);
        Ok(Self {
            data_dir,
            listen,
            advertise,
            http: given.http.or(file.http).unwrap_or(Http::IfFree(HTTP_DEFAULT)),
            tcp,
            tls,
            new_topics: kafka::resolve(&given.set, kafka::environment, &file.kafka)?,
            node_id: BrokerId(given.node_id.or(file.node_id).unwrap_or(NODE_ID_DEFAULT)),
            retention_check: millis(given.retention_check_ms, file.retention_check_ms, RETENTION_CHECK_MS_DEFAULT),
            compaction_check: millis(given.compaction_check_ms, file.compaction_check_ms, COMPACTION_CHECK_MS_DEFAULT),
            catch_up_share: given.catch_up_share.or(file.catch_up_share),
            frame_memory: usize::try_from(frame_memory).unwrap_or(usize::MAX),
            ready_file: given.ready_file.or(file.ready_file),
            journal_file_bytes: given.journal_file_bytes,
            journal_bytes: given.journal_bytes,
        })
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

fn own(certificate: Option<PathBuf>, key: Option<PathBuf>, ca: Option<PathBuf>) -> anyhow::Result<Option<Own>> {
    match (certificate, key, ca) {
        (Some(certificate), Some(key), ca) => Ok(Some(Own { certificate, key, ca })),
        (None, None, None) => Ok(None),
        (None, None, Some(_)) => {
            Err(Malformed("--tls-ca is the CA of the certificate in --tls-cert, which is not given".into()).into())
        }
        _ => Err(Malformed("--tls-cert and --tls-key belong together: one of them is not given".into()).into()),
    }
}

fn clients(ca: Option<PathBuf>, auth: Option<ClientAuth>, tcp: TcpSecurity) -> anyhow::Result<Option<Clients>> {
    let (ca, required) = match (ca, auth) {
        (_, Some(ClientAuth::None)) | (None, None) => return Ok(None),
        (None, Some(_)) => {
            let told = "--tls-client-auth asks clients for certificates: give --tls-client-ca FILE, the CAs that they must come from";
            return Err(Malformed(told.into()).into());
        }
        // Whoever names a CA means to have it count.
        (Some(ca), auth) => (ca, auth != Some(ClientAuth::Requested)),
    };
    if required && tcp == TcpSecurity::Plain {
        let told = "clients must show certificates (--tls-client-ca), but the TCP port, which is plain, would take anybody: give \
                    --tcp-tls on, or --tls-client-auth requested";
        return Err(Malformed(told.into()).into());
    }
    Ok(Some(Clients { ca, required }))
}

/// `$XDG_DATA_HOME/millstream`, else `$HOME/.local/share/millstream`: the same wherever the broker is started from.
fn data_dir_default() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").map(|home| home.join(".local/share"));
    variable("XDG_DATA_HOME").or_else(home).map(|dir| dir.join("millstream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        toml::from_str(text).unwrap()
    }

    fn merge(given: Serve, text: &str) -> anyhow::Result<Settings> {
        Settings::merge(given, file(text), Some("/home/data".into()))
    }

    #[test]
    fn a_single_broker_needs_no_setting() {
        let settings = merge(Serve::default(), "").unwrap();
        assert_eq!(settings.data_dir, Path::new("/home/data"));
        assert_eq!(settings.listen.to_string(), "127.0.0.1:9092");
        assert_eq!(settings.node_id, BrokerId(1));
        assert!(settings.hosts().is_empty());
    }

    #[test]
    fn what_is_given_wins_over_the_file_and_the_file_over_defaults() {
        let given = Serve { listen: Some("127.0.0.1:1".parse().unwrap()), ..Serve::default() };
        let settings =
            merge(given, "listen = \"127.0.0.1:2\"\ndata-dir = \"/d\"\nnode-id = 7\nadvertise = \"b.example:3\"")
                .unwrap();
        assert_eq!(settings.listen.port(), 1);
        assert_eq!(settings.data_dir, Path::new("/d"));
        assert_eq!(settings.node_id, BrokerId(7));
        assert_eq!(settings.address(settings.listen), "b.example:3");
        assert_eq!(settings.hosts(), ["b.example"]);
    }

    #[test]
    fn a_mistake_in_the_file_is_shown_with_its_line() {
        for (text, line, named) in [
            ("node-id = 1\nlistne = \"127.0.0.1:1\"", "line 2", "listne"),
            ("\n\nlisten = \"nowhere\"", "line 3", "IP address"),
            ("node-id = -1", "line 1", "0 or more"),
            ("http = \"nowhere\"", "line 1", "none"),
            ("catch-up-share = 0", "line 1", "1 to 100"),
            ("tcp-tls = \"perhaps\"", "line 1", "`on`"),
            ("advertise = \"nowhere\"", "line 1", "HOST:PORT"),
            ("node-id = ", "line 1", ""),
            ("node-id = 1\n[kafka]\nnum.partitions = 0", "line 3", "from 1 to 10000"),
            ("kafka = 1", "line 1", "a table of Kafka's settings"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("millstream.toml");
            std::fs::write(&path, text).unwrap();
            let refused = format!("{:#}", File::read(&path).unwrap_err());
            for word in ["millstream.toml", line, named] {
                assert!(refused.contains(word), "{text:?}: no {word:?} in {refused}");
            }
        }
    }

    #[test]
    fn memory_is_a_number_of_bytes() {
        assert_eq!(parse_frame_memory("1073741824"), Ok(1 << 30));
        for text in ["1GB", "1024", "", "-1", "1e9"] {
            assert!(parse_frame_memory(text).unwrap_err().contains("1073741824 is 1 GiB"), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_wherever_it_is_said() {
        let refused = merge(Serve::default(), "join = [\"a:1\"]").unwrap_err().to_string();
        assert!(refused.contains("not built"), "{refused}");
        merge(Serve::default(), "join = []").unwrap();
    }

    #[test]
    fn an_http_address_that_was_asked_for_is_told_from_the_default() {
        let check = |given: Option<&str>, text: &str, expected: Http| {
            let given = Serve { http: given.map(|given| parse_http(given).unwrap()), ..Serve::default() };
            assert_eq!(merge(given, text).unwrap().http, expected, "{text:?}");
        };
        let default = "127.0.0.1:9644".parse().unwrap();
        check(None, "", Http::IfFree(default));
        check(None, "http = \"127.0.0.1:9644\"", Http::On(default));
        check(Some("127.0.0.1:9644"), "http = \"none\"", Http::On(default));
        check(Some("none"), "http = \"127.0.0.1:9644\"", Http::Off);
        check(Some("off"), "", Http::Off);
        assert!(parse_http("nowhere").unwrap_err().contains("none"));
    }

    #[test]
    fn tls_on_tcp_is_off_unless_it_is_turned_on() {
        let check = |tcp_tls: Option<Switch>, text: &str, expected: TcpSecurity| {
            let given = Serve { tcp_tls, ..Serve::default() };
            assert_eq!(merge(given, text).unwrap().tcp, expected, "{tcp_tls:?} {text:?}");
        };
        check(None, "", TcpSecurity::Plain);
        check(None, "tcp-tls = \"on\"", TcpSecurity::Tls);
        check(Some(Switch::On), "", TcpSecurity::Tls);
        check(Some(Switch::Off), "tcp-tls = \"on\"", TcpSecurity::Plain);
    }

    #[test]
    fn certificates_are_given_whole_or_not_at_all() {
        let check = |text: &str, expected: Result<(bool, Option<bool>), &str>| {
            let text = text.replace(' ', "\n");
            let told = merge(Serve::default(), &text).map_err(|error| error.to_string());
            match (&told, expected) {
                (Ok(settings), Ok(expected)) => {
                    let asked = settings.tls.clients.as_ref().map(|clients| clients.required);
                    assert_eq!((settings.tls.own.is_some(), asked), expected, "{text:?}");
                }
                (Err(told), Err(words)) => assert!(told.contains(words), "{text:?}: {told}"),
                _ => panic!("{text:?}: {told:?}"),
            }
        };
        check("", Ok((false, None)));
        check("tls-cert=\"c\" tls-key=\"k\"", Ok((true, None)));
        check("tls-cert=\"c\" tls-key=\"k\" tls-ca=\"a\"", Ok((true, None)));
        check("tls-cert=\"c\"", Err("--tls-cert and --tls-key"));
        check("tls-key=\"k\" tls-ca=\"a\"", Err("--tls-cert and --tls-key"));
        check("tls-ca=\"a\"", Err("--tls-cert, which is not given"));
        check("tcp-tls=\"on\" tls-client-ca=\"a\"", Ok((false, Some(true))));
        check("tcp-tls=\"on\" tls-client-ca=\"a\" tls-client-auth=\"required\"", Ok((false, Some(true))));
        check("tls-client-ca=\"a\" tls-client-auth=\"requested\"", Ok((false, Some(false))));
        check("tls-client-ca=\"a\" tls-client-auth=\"none\"", Ok((false, None)));
        check("tls-client-auth=\"none\"", Ok((false, None)));
        check("tls-client-auth=\"required\"", Err("--tls-client-ca FILE"));
        check("tls-client-ca=\"a\"", Err("--tcp-tls on"));
    }

    #[test]
    fn a_broker_on_every_interface_must_be_told_its_address() {
        for text in ["listen = \"0.0.0.0:5\"", "listen = \"[::]:5\""] {
            let refused = merge(Serve::default(), text).unwrap_err().to_string();
            assert!(refused.contains("--advertise HOST:PORT"), "{refused}");
        }
        let settings = merge(Serve::default(), "listen = \"0.0.0.0:5\"\nadvertise = \"b.example:6\"").unwrap();
        assert_eq!(settings.address(settings.listen), "b.example:6");
        assert_eq!(settings.hosts(), ["b.example"]);
        let settings = merge(Serve::default(), "listen = \"192.0.2.7:5\"").unwrap();
        assert_eq!(settings.address(settings.listen), "192.0.2.7:5");
        assert_eq!(settings.hosts(), ["192.0.2.7"]);
    }
}
