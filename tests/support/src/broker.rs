//! A real broker as a child process: started on free ports in a folder of its own, killed, restarted, spoken to.

use std::{
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{self, Finished};

/// How long a start may take, recovery included, before the test fails.
const START_MAX: Duration = Duration::from_secs(60);

/// How long a clean stop may take.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A port that the operating system chooses.
const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A broker's process and the folder it lives in. Dropping it kills the process and removes the folder.
#[derive(Debug)]
pub struct Broker {
    home: TempDir,
    profile: PathBuf,
    data_dir: PathBuf,
    /// Where it listens when nothing else is asked for: usually on a free port.
    listen: SocketAddr,
    serve: Vec<String>,
    running: Option<Running>,
    /// Where it listened last.
    address: Option<SocketAddr>,
    starts: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    listen: SocketAddr,
    http: Option<SocketAddr>,
}

impl Broker {
    /// Starts a broker with an empty data directory on free ports, and waits until it serves. It does without HTTP: see
    /// [`Broker::http`].
    ///
    /// # Errors
    /// When it does not build, does not start, or is not ready within a minute; with what it printed.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Broker::start`], with more words on the command line of every start.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_with(serve: &[&str]) -> anyhow::Result<Self> {
        Self::start_listening(FREE_PORT, serve)
    }

    /// As [`Broker::start_with`], listening on this address.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_listening(listen: SocketAddr, serve: &[&str]) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("millstream-test-").tempdir()?;
        let profile = home.path().join("profile.json");
        Self::start_in(home, profile, listen, serve)
    }

    /// A broker that is not started yet, whose data directory is somewhere else. It stays there when the broker is dropped. Its
    /// port is one that stays free while it is down.
    ///
    /// # Errors
    /// When there is no folder for its log, or no such port.
    pub fn over(data_dir: PathBuf, serve: &[&str]) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("millstream-test-").tempdir()?;
        let profile = home.path().join("profile.json");
        let serve = serve.iter().map(ToString::to_string).collect();
        Ok(Self { home, profile, data_dir, listen: lasting_port()?, serve, running: None, address: None, starts: 0 })
    }

    /// Starts a second broker of the same user: with data of its own, and the client profile of the first.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_beside(other: &Self) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("millstream-test-").tempdir()?;
        Self::start_in(home, other.profile.clone(), FREE_PORT, &[])
    }

    fn start_in(home: TempDir, profile: PathBuf, listen: SocketAddr, serve: &[&str]) -> anyhow::Result<Self> {
        let serve = serve.iter().map(ToString::to_string).collect();
        let data_dir = home.path().join("data");
        let mut broker = Self { home, profile, data_dir, listen, serve, running: None, address: None, starts: 0 };
        broker.restart()?;
        Ok(broker)
    }

    /// Starts the process again on the same data directory; the port is new unless one was asked for.
    ///
    /// # Errors
    /// When it runs already, or as [`Broker::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.start_at(self.listen)
    }

    /// As [`Broker::restart`], at the address where it was: for clients that wait for it to come back.
    ///
    /// # Errors
    /// As [`Broker::restart`], or when it never ran.
    pub fn restart_in_place(&mut self) -> anyhow::Result<()> {
        self.start_at(self.address.context("the broker never ran")?)
    }

    fn start_at(&mut self, listen: SocketAddr) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "the broker is running");
        self.starts += 1;
        let ready = self.home.path().join(format!("ready-{}.json", self.starts));
        let log = self.log_path();
        // Its default address is one for all brokers of a machine, and many are tested at a time.
        let http: &[&str] = if self.serve.iter().any(|word| word == "--http") { &[] } else { &["--http", "none"] };
        let mut child = self
            .command()?
            .args(["serve", "--listen", &listen.to_string(), "--data-dir"])
            .arg(self.data_dir())
            .arg("--ready-file")
            .arg(&ready)
            .args(http)
            .args(&self.serve)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("serve ended with {status} before it was ready:\n{}", self.log());
            }
            if let Ok(text) = std::fs::read_to_string(&ready) {
                let said: Value =
                    serde_json::from_str(&text).with_context(|| format!("the ready file holds {text:?}"))?;
                let address = |name: &str| -> anyhow::Result<SocketAddr> {
                    let text = said[name].as_str().with_context(|| format!("the ready file {said} lacks {name}"))?;
                    Ok(text.parse()?)
                };
                let listen = address("listen")?;
                ensure!(said["pid"] == child.id(), "the ready file {said} is another process's, not {}", child.id());
                let http = if said["http"].is_null() { None } else { Some(address("http")?) };
                self.address = Some(listen);
                self.running = Some(Running { child, listen, http });
                return Ok(());
            }
            if start.elapsed() > START_MAX {
                child.kill()?;
                child.wait()?;
                bail!("serve was not ready after {START_MAX:?}:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// `kill -9`: nothing of the process runs once this returns.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the broker is not running")?;
        running.child.kill()?;
        running.child.wait()?;
        Ok(())
    }

    /// Asks the process to stop, as an operator would, and waits until it has.
    ///
    /// # Errors
    /// When it is not running, takes longer than half a minute, or does not end with code 0.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the broker is not running")?;
        let sent = Command::new("kill").args(["-TERM", &running.child.id().to_string()]).status()?;
        ensure!(sent.success(), "kill -TERM ended with {sent}");
        let waited = cli::wait(&mut running.child, STOP_MAX);
        if waited.is_err() {
            running.child.kill()?;
            running.child.wait()?;
        }
        let status = waited.with_context(|| format!("stopping:\n{}", self.log()))?;
        ensure!(status.success(), "serve ended with {status} when asked to stop:\n{}", self.log());
        Ok(())
    }

    /// Whether the process still runs: false once it has stopped by itself.
    ///
    /// # Errors
    /// When the operating system cannot say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(match &mut self.running {
            Some(running) => running.child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Where it listens: QUIC on this UDP port, Kafka's protocol on the same TCP port.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running().listen
    }

    /// Where it serves HTTP: of one that was started with `--http 127.0.0.1:0`, say.
    ///
    /// # Panics
    /// When it is not running, or does not serve it.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that asks for what it has turned off is wrong")]
    pub fn http(&self) -> SocketAddr {
        self.running().http.expect("the broker was started with --http")
    }

    /// The operating system's id of the process.
    ///
    /// # Panics
    /// When it is not running.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.running().child.id()
    }

    #[expect(clippy::expect_used, reason = "a test that asks a stopped broker for its address is wrong")]
    fn running(&self) -> &Running {
        self.running.as_ref().expect("the broker is running")
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    /// The client profile that the broker writes and clients read, apart from the user's own.
    #[must_use]
    pub fn profile(&self) -> PathBuf {
        self.profile.clone()
    }

    /// A folder of the test's own, removed with the broker.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// What the process has printed since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join(format!("serve-{}.log", self.starts))
    }

    /// The program, with nothing of the user's own settings.
    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(cli::millstream()?);
        command
            .env("MILLSTREAM_PROFILE", self.profile())
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("MILLSTREAM_BROKER")
            .env_remove("RUST_LOG");
        Ok(command)
    }

    /// Runs one of the operator's commands against this broker, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be run to its end.
    pub fn cli(&self, words: &[&str]) -> anyhow::Result<Finished> {
        self.cli_with(words, b"")
    }

    /// As [`Broker::cli`], with something on stdin.
    ///
    /// # Errors
    /// As [`Broker::cli`].
    pub fn cli_with(&self, words: &[&str], input: &[u8]) -> anyhow::Result<Finished> {
        let mut command = self.command()?;
        if let Some(running) = &self.running {
            command.env("MILLSTREAM_BROKER", running.listen.to_string());
        }
        cli::run(command.args(words), input)
    }

    /// Runs a command that must succeed and print lines of JSON.
    ///
    /// # Errors
    /// When it fails, or prints anything else.
    pub fn json(&self, words: &[&str]) -> anyhow::Result<Vec<Value>> {
        self.cli(words)?.ok()?.json()
    }
}

/// A free port below those that the operating system gives to clients, which would take it sooner or later while a broker is
/// down: each attempt to reach it has a port, too.
fn lasting_port() -> anyhow::Result<SocketAddr> {
    for _ in 0..100 {
        let port = 10_000 + u16::try_from(RandomState::new().build_hasher().finish() % 20_000)?;
        let address = SocketAddr::new(FREE_PORT.ip(), port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from 10000 to 29999 is free")
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.running.is_some() {
            if thread::panicking() {
                eprintln!("the broker had printed:\n{}", self.log());
            }
            // It may have ended by itself; the folder goes either way.
            drop(self.kill());
        }
    }
}
