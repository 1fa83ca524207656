//! `cargo xtask compat`: installs other peoples' clients into a cache below the target folder, and runs the script with them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::{
    run::{self, output, root, run, target},
    setup,
};

/// What `cargo xtask compat` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this client, by its folder in `tests/compat/clients/`; may be given several times.
    #[arg(long)]
    client: Vec<String>,
    /// Ask Apache Kafka the same, and raw requests beside the script, and compare the answers.
    #[arg(long)]
    against_kafka: bool,
    /// With --against-kafka: raw requests only, whose differences are printed and not written.
    #[arg(long, requires = "against_kafka")]
    requests_only: bool,
    /// Measure Kafka's own load program against this broker and Apache Kafka, and nothing else.
    #[arg(long, conflicts_with_all = ["against_kafka", "client"])]
    load: bool,
}

/// The program that runs the script.
const DRIVER: &str = "millstream-tests-compat";

/// Clients that are packages of Python's, of their own versions each.
const PYTHON: [&str; 3] = ["confluent-kafka", "kafka-python", "aiokafka"];
/// Clients that are packages of Go's, in one module.
const GO: [&str; 3] = ["franz-go", "sarama", "kafka-go"];

/// Installs what is missing, and runs the script. The table of what came of it goes into `tests/compat/`.
pub(crate) fn run_all(options: &Options) -> anyhow::Result<()> {
    let cache = target().join("compat");
    std::fs::create_dir_all(&cache)?;
    let chosen = |name: &str| options.client.is_empty() || options.client.iter().any(|client| client == name);
    let wanted = |name: &str| !options.requests_only && !options.load && chosen(name);
    if wanted("kcat") {
        setup::kcat()?;
    }
    for name in PYTHON.into_iter().filter(|name| wanted(name)) {
        python(name, &cache)?;
    }
    if wanted("kafkajs") {
        node("kafkajs", &cache)?;
    }
    if GO.into_iter().any(wanted) {
        go(&cache)?;
    }
    if options.against_kafka || options.load || wanted("kafka-clients") || wanted("console-tools") {
        java(&cache)?;
    }
    run::build(&["millstream", DRIVER])?;
    let programs = target().join("release");
    let mut driver = Command::new(programs.join(DRIVER));
    driver.current_dir(root()).arg("--cache").arg(&cache).env("MILLSTREAM_BIN", programs.join("millstream"));
    for client in &options.client {
        driver.args(["--client", client]);
    }
    if options.against_kafka {
        driver.arg("--against-kafka");
    }
    if options.load {
        driver.arg("--load");
    }
    if options.requests_only {
        driver.arg("--requests-only");
    }
    run(&mut driver)
}

fn folder_of(client: &str) -> PathBuf {
    root().join("tests/compat/clients").join(client)
}

/// What a file in the cache says was installed last is this text.
fn is_installed(cache: &Path, name: &str, wanted: &str) -> bool {
    std::fs::read_to_string(mark(cache, name)).is_ok_and(|text| text == wanted)
}

fn mark(cache: &Path, name: &str) -> PathBuf {
    cache.join(format!("{name}.installed"))
}

fn note(cache: &Path, name: &str, wanted: &str) -> anyhow::Result<()> {
    Ok(std::fs::write(mark(cache, name), wanted)?)
}

/// A Python with what the client's folder asks for.
fn python(client: &str, cache: &Path) -> anyhow::Result<()> {
    let requirements = folder_of(client).join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    if is_installed(cache, client, &wanted) {
        return Ok(());
    }
    let folder = cache.join(client);
    setup::venv(&folder)?;
    run(Command::new(folder.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(&requirements))?;
    note(cache, client, &wanted)
}

/// The packages of Node.js that the client's folder asks for.
fn node(client: &str, cache: &Path) -> anyhow::Result<()> {
    let manifest = folder_of(client).join("package.json");
    let wanted = std::fs::read_to_string(&manifest)?;
    if is_installed(cache, client, &wanted) {
        return Ok(());
    }
    if output(Command::new("npm").arg("--version")).is_none() {
        setup::debian(&["nodejs", "npm"]).context("Node.js and npm are needed for kafkajs; install them by hand")?;
    }
    let folder = cache.join(client);
    std::fs::create_dir_all(&folder)?;
    std::fs::copy(&manifest, folder.join("package.json"))?;
    run(Command::new("npm").current_dir(&folder).args([
        "install",
        "--no-package-lock",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel",
        "error",
    ]))?;
    note(cache, client, &wanted)
}

/// The clients of Go, built. It knows by itself what is built already.
fn go(cache: &Path) -> anyhow::Result<()> {
    let has_go = output(Command::new("go").arg("version")).is_some();
    ensure!(has_go, "Go is needed for {}; Debian's is too old for them: install a newer one by hand", GO.join(", "));
    let mut build = Command::new("go");
    build.current_dir(folder_of("")).args(["build", "-buildvcs=false", "-mod=readonly", "-o"]).arg(cache.join("go/"));
    std::fs::create_dir_all(cache.join("go"))?;
    run(build.args(GO.map(|client| format!("./{client}"))))
}

/// Kafka's own client, tools and broker: archives of Java's.
fn java(cache: &Path) -> anyhow::Result<()> {
    const NAME: &str = "jars";
    let manifest = folder_of("pom.xml");
    let wanted = std::fs::read_to_string(&manifest)?;
    if output(Command::new("java").arg("-version")).is_none() || output(Command::new("mvn").arg("-version")).is_none() {
        setup::debian(&["default-jdk-headless", "maven"])
            .context("Java 17 and Maven are needed for Kafka's own tools; install them by hand")?;
    }
    if is_installed(cache, NAME, &wanted) {
        return Ok(());
    }
    let folder = cache.join(NAME);
    // None of an earlier version may stay.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    run(Command::new("mvn")
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(&manifest)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", folder.display())))?;
    note(cache, NAME, &wanted)
}
