//! `millstream serve`: runs a broker until it is told to stop or cannot keep its word any more.
//!
//! The order of a start: settings; the ports, so that a taken one is known before anything is made or recovered, and HTTP, which
//! tells how far it is; the data directory, locked before anything in it is touched; its identity (CA and certificate); the listeners; the clients' profile;
//! and the ready file last. A start that is refused changes nothing that was acknowledged, and one that is refused before the data directory is
//! locked leaves no trace.

mod check;
mod http;
mod kafka;
mod limits;
mod ready;
mod settings;
mod tls;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::{ArgMatches, Args, parser::ValueSource};
use millstream_broker::{Broker, BrokerOptions};
use millstream_env::Budget;
use millstream_transport::{BoundPort, Limits, ListenError, Listeners, Profile, QuicListener, TcpSecurity, profile};
use tracing::{info, warn};

use self::{
    http::{HttpServer, Site},
    ready::Ready,
    settings::Settings,
    tls::{Keeper, Source},
};
use crate::{
    failure::explain,
    flags::{Form, Unasked},
    log_filter::LogFilter,
    output::{Output, say},
    signals::{Hangup, Signals},
};

/// How long a stopped broker waits until its QUIC clients have heard that it closes their connections.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// A broker's settings. Each can be given as a flag, in the environment, or in the configuration file, in this order of
/// precedence.
#[derive(Debug, Default, Args)]
#[command(
    after_help = "\
Examples:
  millstream serve
  millstream serve --data-dir /var/lib/millstream --listen 0.0.0.0:9092 --advertise broker-1.example.com:9092
  millstream serve --config /etc/millstream.toml --check-config",
    after_long_help = "\
The configuration file is TOML; its keys are the flags' names:

    data-dir = \"/var/lib/millstream\"
    listen = \"0.0.0.0:9092\"
    advertise = \"broker-1.example.com:9092\"
    http = \"127.0.0.1:9644\"
    tcp-tls = \"on\"
    tls-cert = \"/etc/millstream/broker.pem\"
    tls-key = \"/etc/millstream/broker.key\"
    tls-client-ca = \"/etc/millstream/clients-ca.pem\"
    tls-client-auth = \"required\"
    node-id = 1
    frame-memory = 1073741824
    retention-check-ms = 300000
    compaction-check-ms = 15000
    catch-up-share = 25

    [kafka]
    num.partitions = 3
    log.retention.hours = 72

In the table [kafka] are settings of Kafka's, under Kafka's names. On the command line they are given as --set NAME=VALUE, in the \
environment as MILLSTREAM_NUM_PARTITIONS and so on:

    num.partitions              partitions of a topic whose creator leaves the number open; 1
    default.replication.factor  replicas of each partition, likewise; 1
    auto.create.topics.enable   whether a topic is made when a Kafka client asks for one that is not there; true
    log.retention.ms            and the other defaults of topics' settings, by Kafka's names of them for brokers: log.retention.bytes, \
log.retention.hours, log.retention.minutes, log.segment.bytes, log.roll.ms, log.roll.hours, log.cleanup.policy, message.max.bytes, ... \
Each topic has them that is not given its own, topics that are there already, too

SIGHUP has the files of certificates read again, which otherwise happens within a dozen seconds: new connections are shown what they hold then, \
open ones go on, and files that cannot be used change nothing. \
SIGINT or SIGTERM stops the broker in order; a second one stops it at once, which the next start recovers from. \
RUST_LOG says what is logged, such as RUST_LOG=debug."
)]
pub(crate) struct Serve {
    /// Read settings from a file.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_CONFIG")]
    config: Option<PathBuf>,
    /// Where everything is kept; one broker at a time may use it. The default is $XDG_DATA_HOME/millstream, else
    /// ~/.local/share/millstream.
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<OsString>,
    /// Where to listen: QUIC on this UDP port, Kafka's protocol on the same TCP port. Port 0 takes a free one. The default is
    /// 127.0.0.1:9092.
    #[arg(long, value_name = "ADDR", env = "MILLSTREAM_LISTEN")]
    listen: Option<OsString>,
    /// What clients are told to connect to, if it is not the address listened on. Needed to listen on every interface (0.0.0.0
    /// or [::]), where there is no one address to tell.
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_ADVERTISE")]
    advertise: Option<OsString>,
    /// Where to serve health, metrics and the log's level over HTTP, to whoever reaches the address; `none`: nowhere. The default is
    /// 127.0.0.1:9644, or nowhere if that is in use.
    #[arg(long, value_name = "ADDR", env = "MILLSTREAM_HTTP")]
    http: Option<OsString>,
    /// Whether Kafka's protocol is spoken in TLS 1.2 or 1.3 on the TCP port, with the certificate that QUIC has: Kafka's clients then
    /// need security.protocol=SSL and the CA: DATA_DIR/tls/ca.pem, or that of --tls-cert. The default is off.
    #[arg(long, value_name = "off|on", env = "MILLSTREAM_TCP_TLS")]
    tcp_tls: Option<OsString>,
    /// The certificate to show, in PEM: the broker's own first, then those that lead to its CA. The default is one that the broker makes,
    /// with a CA of its own in DATA_DIR/tls.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_TLS_CERT")]
    tls_cert: Option<OsString>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_TLS_KEY")]
    tls_key: Option<OsString>,
    /// The CA that the client profile tells clients to trust, in PEM; the default is the last certificate in --tls-cert.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_TLS_CA")]
    tls_ca: Option<OsString>,
    /// Ask clients for certificates of these CAs, in PEM.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_TLS_CLIENT_CA")]
    tls_client_ca: Option<OsString>,
    /// Whether a client without a certificate is refused, on QUIC and TCP alike: `none` does not ask, `requested` takes it in, `required`
    /// does not. A wrong one is refused whenever it is asked for. The default is required if --tls-client-ca is given. (Kafka's
    /// ssl.client.auth.)
    #[arg(long, value_name = "none|requested|required", env = "MILLSTREAM_TLS_CLIENT_AUTH")]
    tls_client_auth: Option<OsString>,
    /// The broker's number in its cluster; the default is 1.
    #[arg(long, value_name = "N", env = "MILLSTREAM_NODE_ID")]
    node_id: Option<OsString>,
    /// The cluster to join: not built yet.
    #[arg(long, value_name = "HOST:PORT", env = "MILLSTREAM_JOIN", hide = true)]
    join: Option<OsString>,
    /// Most memory that large requests and answers may take together, bytes; the default is a quarter of the machine's, at
    /// most 2 GiB.
    #[arg(long, value_name = "BYTES", env = "MILLSTREAM_FRAME_MEMORY")]
    frame_memory: Option<OsString>,
    /// How often to look for records that topics need not keep any longer, milliseconds; the default is 300000, five minutes.
    #[arg(long, value_name = "MS", env = "MILLSTREAM_RETENTION_CHECK_MS")]
    retention_check_ms: Option<OsString>,
    /// How often to look for topics to be compacted, milliseconds; the default is 15000.
    #[arg(long, value_name = "MS", env = "MILLSTREAM_COMPACTION_CHECK_MS")]
    compaction_check_ms: Option<OsString>,
    /// Readers of old records are held back as far as producers wait longer for them; this is the least part of their speed that they
    /// keep, all together, percent. 100: they are never held back. The default is 25.
    #[arg(long, value_name = "PERCENT", env = "MILLSTREAM_CATCH_UP_SHARE")]
    catch_up_share: Option<OsString>,
    /// Set one of Kafka's settings, such as num.partitions=3; may be given several times. `--help` names those that there are.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<OsString>,
    /// Write where the broker listens to this file, as JSON, once it is ready.
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_READY_FILE")]
    ready_file: Option<OsString>,
    /// Tell the settings that are in force and where each is from, or all that is wrong with them, and end: 0 or 2 (1 for a certificate that
    /// cannot be used). Nothing is made, and no broker is started.
    #[arg(long)]
    check_config: bool,
    /// Bytes of a journal file: for tests, which want to see files used again and again.
    #[arg(long, value_name = "BYTES", hide = true)]
    journal_file_bytes: Option<OsString>,
    /// Bytes that all journal files may take together: for tests.
    #[arg(long, value_name = "BYTES", hide = true)]
    journal_bytes: Option<OsString>,
    /// Which of these the environment gave, by their names in this struct.
    #[arg(skip)]
    of_environment: Vec<String>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    unasked: Unasked,
}

impl Serve {
    /// Notes where its words are from. (What they mean, and what is wrong with them, is told of all together.)
    pub(crate) fn note_sources(&mut self, matches: &ArgMatches) {
        let is_of_environment = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::EnvVariable);
        self.of_environment = matches.ids().filter(is_of_environment).map(ToString::to_string).collect();
    }

    /// What the command line gives, by the flags' names.
    fn flags(&self) -> Vec<(&'static str, OsString)> {
        let all = [
            ("data-dir", &self.data_dir),
            ("listen", &self.listen),
            ("advertise", &self.advertise),
            ("http", &self.http),
            ("tcp-tls", &self.tcp_tls),
            ("tls-cert", &self.tls_cert),
            ("tls-key", &self.tls_key),
            ("tls-ca", &self.tls_ca),
            ("tls-client-ca", &self.tls_client_ca),
            ("tls-client-auth", &self.tls_client_auth),
            ("node-id", &self.node_id),
            ("join", &self.join),
            ("frame-memory", &self.frame_memory),
            ("retention-check-ms", &self.retention_check_ms),
            ("compaction-check-ms", &self.compaction_check_ms),
            ("catch-up-share", &self.catch_up_share),
            ("ready-file", &self.ready_file),
            ("journal-file-bytes", &self.journal_file_bytes),
            ("journal-bytes", &self.journal_bytes),
        ];
        let of_line = |name: &str| !self.of_environment.iter().any(|other| *other == name.replace('-', "_"));
        let given = all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        given.filter(|(name, _)| of_line(name)).collect()
    }

    pub(crate) async fn run(self, log: LogFilter) -> anyhow::Result<()> {
        let form = self.form;
        let resolved = Settings::resolve(&self);
        if self.check_config {
            return check::tell(resolved, form.output);
        }
        let settings = resolved.settings.map_err(settings::Mistakes::into_error)?;
        // Before anything takes long, so that a stop is heard at any time.
        let mut signals = Signals::new().context("cannot listen for signals")?;
        let hangup = Hangup::new().context("cannot listen for signals")?;
        let starting = Box::pin(Running::start(&settings, log));
        let running = tokio::select! {
            running = starting => running?,
            signal = signals.next() => bail!("stopped by {signal} before the broker was ready"),
        };
        if let Err(error) = running.tell(&settings, form) {
            // It serves already: in order, so that the next start need not recover.
            let Running { broker, quic, http, .. } = running;
            if let Err(stopped) = stop(&broker, &quic, http, signals).await {
                warn!("{stopped:#}");
            }
            return Err(error);
        }
        running.serve(signals, hangup).await
    }
}

/// A broker that serves.
struct Running {
    broker: Arc<Broker>,
    quic: Arc<QuicListener>,
    bound: SocketAddr,
    http: Option<HttpServer>,
    keeper: Keeper,
    told: Told,
    profile: Option<PathBuf>,
    /// The data directory was empty.
    is_new: bool,
}

/// What clients are told, but for the CA.
#[derive(Clone, Debug)]
struct Told {
    address: String,
    data_dir: PathBuf,
}

impl Told {
    /// Writes what clients need to know: beside the data, and where this user's clients look for it. Returns the latter, if any. A broker
    /// can do without: on a full disk it must start, so that room can be made.
    fn write(&self, ca_pem: String) -> Option<PathBuf> {
        let profile = Profile::new(vec![self.address.clone()], ca_pem);
        if let Err(error) = profile.write(&self.data_dir.join("client.json")) {
            warn!(error = explain(&error), "the profile in the data directory is not of this start");
        }
        let Some(path) = profile::default_path() else {
            warn!("there is no place for this user's client profile: set {}", profile::PROFILE_VARIABLE);
            return None;
        };
        match profile.write_beside_others(&path) {
            Ok(()) => Some(path),
            Err(error) => {
                warn!(error = explain(&error), "clients must be given DATA_DIR/client.json");
                None
            }
        }
    }
}

impl Running {
    async fn start(settings: &Settings, log: LogFilter) -> anyhow::Result<Self> {
        // Before anything is made or recovered. They are read again when there is something to listen with.
        tls::check(&settings.tls)?;
        let data_dir = &settings.data_dir;
        let port = bind(settings.listen)?;
        let bound = port.address();
        if !bound.ip().is_loopback() {
            settings.warn_of_openness(bound);
        }
        let site = Arc::new(Site::new(log));
        let http = http::listen(settings.http).await?;
        let http = http.map(|listener| HttpServer::start(listener, site.clone())).transpose()?;
        let frames = Budget::new(settings.frame_memory);
        let defaults = BrokerOptions::new(settings.node_id, data_dir.clone());
        let options = BrokerOptions {
            tcp_in_tls: settings.tcp != TcpSecurity::Plain,
            advertise: settings.advertise.clone(),
            frames: frames.clone(),
            new_topics: settings.kafka.new_topics.clone(),
            topic_defaults: settings.kafka.topic_defaults.clone(),
            retention_check: settings.retention_check,
            compaction_check: settings.compaction_check,
            catch_up_share: settings.catch_up_share.unwrap_or(defaults.catch_up_share),
            open_segments_max: limits::raise_open_files(),
            journal_file_bytes: settings.journal_file_bytes.unwrap_or(defaults.journal_file_bytes),
            journal_bytes_max: settings.journal_bytes.unwrap_or(defaults.journal_bytes_max),
            ..defaults
        };
        let prepared = Broker::prepare(options, millstream_env::real::env(), bound)
            .await
            .with_context(|| format!("cannot start a broker on the data directory {}", data_dir.display()))?;
        let recovered = prepared.recovered();
        let shown = data_dir.display();
        match (recovered.created, recovered.clean) {
            (true, _) => info!("the data directory {shown} is new"),
            (false, true) => info!("the data directory {shown} was left in order"),
            (false, false) if recovered.replayed_bytes == 0 => {
                info!(
                    "the data directory {shown} was not left in order, as after a start that failed; nothing was missing"
                );
            }
            (false, false) => info!(
                "the data directory {shown} was not left in order, as after a crash: {} bytes that were written last were gone \
                 through again",
                recovered.replayed_bytes
            ),
        }
        let is_new = recovered.created;
        let (listeners, keeper) = match listen(port, settings, frames) {
            Ok(listening) => listening,
            Err(refused) => {
                // The refusal is what counts; what could not be written is recovered by the next start.
                let _ = prepared.close().await;
                return Err(refused);
            }
        };
        let quic = listeners.quic.clone();
        let broker = Arc::new(prepared.serve(vec![listeners.quic, listeners.tcp]));
        site.serves(broker.clone(), keeper.credentials().clone());
        let told = Told { address: settings.address(bound), data_dir: data_dir.clone() };
        let profile = told.write(keeper.ca_pem().to_owned());
        Ok(Self { broker, quic, bound, http, keeper, told, profile, is_new })
    }

    /// Tells people and programs that the broker is ready.
    fn tell(&self, settings: &Settings, form: Form) -> anyhow::Result<()> {
        let ready = Ready {
            listen: self.bound.to_string(),
            http: self.http.as_ref().map(|http| http.address().to_string()),
            pid: std::process::id(),
            data_dir: settings.data_dir.clone(),
            profile: self.profile.clone(),
        };
        let in_tls = match settings.tcp {
            TcpSecurity::Plain => "",
            TcpSecurity::Tls => " in TLS",
        };
        say(format_args!(
            "millstream {} listens on {}: QUIC on UDP, Kafka's protocol{in_tls} on TCP; data in {}",
            env!("CARGO_PKG_VERSION"),
            self.bound,
            settings.data_dir.display(),
        ));
        if let Some(http) = &self.http {
            say(format_args!("health, metrics and the log's level: curl http://{}/", http.address()));
        }
        let address = settings.address(self.bound);
        if self.is_new {
            let broker = if address == "127.0.0.1:9092" { String::new() } else { format!(" --broker {address}") };
            say(format_args!("try: millstream topic create greetings{broker}"));
        }
        if form.output == Output::Json {
            form.output.done(&ready, "")?;
        }
        match &settings.ready_file {
            Some(path) => ready.write(path).with_context(|| format!("cannot write the ready file {}", path.display())),
            None => Ok(()),
        }
    }

    /// Until a signal or a failure.
    async fn serve(self, mut signals: Signals, hangup: Hangup) -> anyhow::Result<()> {
        let Self { keeper, told, broker, quic, http, .. } = self;
        tokio::select! {
            () = keeper.keep(hangup, told) => {}
            signal = signals.next() => info!(signal, "stopping; another signal stops at once"),
            failed = broker.failed() => {
                return Err(anyhow::Error::new(failed).context("the broker has stopped itself"));
            }
        }
        stop(&broker, &quic, http, signals).await
    }
}

/// Stops in order, unless another signal comes.
async fn stop(
    broker: &Broker,
    quic: &QuicListener,
    http: Option<HttpServer>,
    mut signals: Signals,
) -> anyhow::Result<()> {
    tokio::select! {
        stopped = broker.shutdown() => stopped.context("the broker has stopped, but not all was written down")?,
        signal = signals.next() => bail!("stopped at once by {signal}: the next start recovers"),
    }
    // The connections are closed; their peers should hear of it.
    let _ = tokio::time::timeout(FAREWELL_MAX, quic.wait_idle()).await;
    // Until here it has told that the broker stops.
    if let Some(http) = http {
        http.stop().await;
    }
    info!("stopped");
    Ok(())
}

/// Takes the port before anything else is done.
fn bind(address: SocketAddr) -> anyhow::Result<BoundPort> {
    BoundPort::bind(address).map_err(|error| match error {
        ListenError::InUse { protocol, address } => anyhow::anyhow!(
            "cannot listen on {address}: its {protocol} port is in use by another process; stop that one, or choose another \
             port with --listen (port 0 takes a free one)"
        ),
        error => error.into(),
    })
}

/// Listens with the operator's certificate, else with the data directory's, which is made if it is not there.
fn listen(port: BoundPort, settings: &Settings, frames: Budget) -> anyhow::Result<(Listeners, Keeper)> {
    let source = Source::new(settings.tls.clone(), settings.data_dir.clone(), settings.hosts());
    let keeper = Keeper::start(source)?;
    let limits = Limits { budget: frames, ..Limits::default() };
    Ok((port.listen(keeper.credentials(), settings.tcp, &limits)?, keeper))
}
