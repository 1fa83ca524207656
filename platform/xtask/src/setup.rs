//! What the tests need on a machine that has only Rust: kcat, curl, strace, g++ and XFS's programs from Debian, kafka-python from PyPI.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::run::{output, run, target};

/// The kafka-python that the compatibility tests are written against.
const KAFKA_PYTHON: &str = "3.0.12";

/// Makes sure that kcat can be called.
pub(crate) fn kcat() -> anyhow::Result<()> {
    if output(Command::new("kcat").arg("-V")).is_some() {
        return Ok(());
    }
    debian(&["kcat"]).context("kcat is needed to test Kafka's own clients against the broker; install it by hand")
}

/// Makes sure that what the README asks over HTTP can be asked.
pub(crate) fn curl() -> anyhow::Result<()> {
    if output(Command::new("curl").arg("-V")).is_some() {
        return Ok(());
    }
    debian(&["curl"]).context("curl is needed to test the README's commands; install it by hand")
}

/// Makes sure that a process's calls can be made to fail.
pub(crate) fn strace() -> anyhow::Result<()> {
    if output(Command::new("strace").arg("-V")).is_some() {
        return Ok(());
    }
    debian(&["strace"]).context("strace is needed to test what a failed sync does; install it by hand")
}

/// Makes sure that libFuzzer, which is C++, can be compiled.
pub(crate) fn cpp() -> anyhow::Result<()> {
    if output(Command::new("c++").arg("--version")).is_some() {
        return Ok(());
    }
    debian(&["g++"]).context("a C++ compiler is needed to build libFuzzer; install one by hand")
}

/// Makes sure that file systems can be made whose power is cut.
pub(crate) fn file_systems() -> anyhow::Result<()> {
    let made = |program| output(Command::new(program).arg("-V")).is_some();
    if made("mkfs.ext4") && made("mkfs.xfs") {
        return Ok(());
    }
    debian(&["e2fsprogs", "xfsprogs"])
        .context("mkfs.ext4 and mkfs.xfs are needed to test power cuts; install them by hand")
}

/// Makes sure that there is a Python with kafka-python, apart from the system's, and returns it.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    let folder = target().join("python");
    let python = folder.join("bin/python");
    if has_kafka(&python) {
        return Ok(python);
    }
    venv(&folder)?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("kafka-python=={KAFKA_PYTHON}")))?;
    ensure!(has_kafka(&python), "{} was installed but does not import", python.display());
    Ok(python)
}

/// Makes a Python environment apart from the system's, in place of what is in this folder.
pub(crate) fn venv(folder: &Path) -> anyhow::Result<()> {
    let create = |with: &str| run(Command::new(with).args(["-m", "venv", "--clear"]).arg(folder));
    if output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_some() {
        return create("python3");
    }
    debian(&["python3", "python3-venv"])
        .context("Python 3 with venv is needed for clients that are written in it; install it by hand")?;
    create("/usr/bin/python3")
}

fn has_kafka(python: &Path) -> bool {
    let version = output(Command::new(python).args(["-c", "import kafka; print(kafka.__version__)"]));
    version.is_some_and(|version| version.trim() == KAFKA_PYTHON)
}

/// Installs Debian packages, as root or through sudo. The list of packages is fetched first: a fresh machine has none.
pub(crate) fn debian(packages: &[&str]) -> anyhow::Result<()> {
    let is_root = output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    let apt = |words: &[&str]| {
        let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root {
            command.args(["-n", "apt-get"]);
        }
        run(command.env("DEBIAN_FRONTEND", "noninteractive").args(words))
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], packages].concat())
}
