//! Other peoples' clients, run as programs: kcat and kafka-python, sending and reading whole lists of messages.

use std::{ffi::OsString, net::SocketAddr, os::unix::ffi::OsStringExt, path::PathBuf, process::Command};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{
    cli::{self, Finished},
    message::{Message, Placed},
    tree,
};

/// Runs kcat with `words` and `input` on its stdin.
///
/// # Errors
/// When it is not installed (`cargo xtask test` installs it), or cannot be run to its end.
pub fn kcat(words: &[OsString], input: &[u8]) -> anyhow::Result<Finished> {
    cli::run(Command::new("kcat").args(words), input)
        .context("kcat, a Debian package that `cargo xtask test` installs, is needed")
}

/// Sends one message with kcat, acknowledged by all replicas. Its timestamp is kcat's own; a key may hold no NUL.
///
/// # Errors
/// When kcat fails, or the message is one that kcat cannot send.
pub fn kcat_produce(broker: SocketAddr, topic: &str, message: &Message) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let partition = message.partition.to_string();
    let address = broker.to_string();
    let mut words: Vec<OsString> =
        ["-P", "-b", &address, "-t", topic, "-p", &partition, "-X", "acks=all"].map(OsString::from).into();
    if let Some(key) = &message.key {
        ensure!(!key.is_empty() && !key.contains(&0), "kcat takes no such key");
        words.extend(["-k".into(), OsString::from_vec(key.clone())]);
    }
    for (name, value) in &message.headers {
        let value = value.as_deref().context("kcat takes no header without a value")?;
        let mut word = format!("{name}=").into_bytes();
        word.extend(value);
        words.extend(["-H".into(), OsString::from_vec(word)]);
    }
    match message.value.as_deref() {
        // From a file a value may hold anything, line ends included.
        Some(value) if !value.is_empty() => {
            let file = folder.path().join("value");
            std::fs::write(&file, value)?;
            words.push(file.into());
            kcat(&words, b"")?.ok()?;
        }
        Some(_) => drop(kcat(&words, b"\n")?.ok()?),
        None => {
            words.push("-Z".into());
            kcat(&words, b"\n")?.ok()?;
        }
    }
    Ok(())
}

/// Reads a topic from its beginning to its end with kcat.
///
/// # Errors
/// When kcat fails, or prints what cannot be parsed.
pub fn kcat_consume(broker: SocketAddr, topic: &str) -> anyhow::Result<Vec<Placed>> {
    // Lengths come first, so that keys and values may hold anything; headers are text here.
    let format = "%p %o %T %K %S\n%k%s\n%h\n";
    let words = ["-C", "-b", &broker.to_string(), "-t", topic, "-o", "beginning", "-e", "-q", "-f", format];
    let finished = kcat(&words.map(OsString::from), b"")?.ok()?;
    let mut rest = finished.stdout.as_slice();
    let mut read = Vec::new();
    while !rest.is_empty() {
        let line = std::str::from_utf8(until_line_end(&mut rest)?)?;
        let numbers: Vec<i64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().context(line.to_owned())?;
        let [partition, offset, timestamp, key, value] = numbers[..] else { bail!("kcat printed {line:?}") };
        let key = bytes(&mut rest, key)?;
        let value = bytes(&mut rest, value)?;
        ensure!(until_line_end(&mut rest)?.is_empty(), "kcat's lengths do not fit what it printed");
        let headers = headers(&String::from_utf8_lossy(until_line_end(&mut rest)?))?;
        let message = Message { partition: partition.try_into()?, timestamp, key, value, headers };
        read.push(Placed { offset, message });
    }
    Ok(read)
}

fn until_line_end<'a>(rest: &mut &'a [u8]) -> anyhow::Result<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n').context("kcat's output ends in the middle")?;
    let (line, after) = rest.split_at(end);
    *rest = &after[1..];
    Ok(line)
}

/// `-1` is kcat's length of null.
fn bytes(rest: &mut &[u8], length: i64) -> anyhow::Result<Option<Vec<u8>>> {
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    ensure!(length <= rest.len(), "kcat's output ends in the middle");
    let (taken, after) = rest.split_at(length);
    *rest = after;
    Ok(Some(taken.to_vec()))
}

fn headers(text: &str) -> anyhow::Result<Vec<(String, Option<Vec<u8>>)>> {
    text.split(',')
        .filter(|header| !header.is_empty())
        .map(|header| {
            let (name, value) = header.split_once('=').context("kcat printed a header without '='")?;
            Ok((name.to_owned(), (value != "NULL").then(|| value.as_bytes().to_vec())))
        })
        .collect()
}

/// Runs a Python program, a path from the top of the repository, that may import kafka-python.
///
/// # Errors
/// When there is no Python, or it cannot be run to its end.
pub fn python(script: &str, words: &[&str], input: &[u8]) -> anyhow::Result<Finished> {
    let python = std::env::var_os("MILLSTREAM_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    cli::run(Command::new(python).arg("-u").arg(tree::root().join(script)).args(words), input)
        .context("a Python with kafka-python, which `cargo xtask test` installs, is needed")
}

const KAFKA_PYTHON: &str = "tests/compat/python/kafka_python.py";

/// Sends messages with kafka-python as it is by default, idempotent and acknowledged by all replicas; returns (partition, offset) of each.
///
/// # Errors
/// When any is not acknowledged.
pub fn kafka_python_produce(broker: SocketAddr, topic: &str, messages: &[Message]) -> anyhow::Result<Vec<(i32, i64)>> {
    let mut lines = String::new();
    for message in messages {
        let headers: Vec<Value> = message.headers.iter().map(|(n, v)| json!([n, v.as_deref().map(hex)])).collect();
        let line = json!({
            "partition": message.partition,
            "timestamp": message.timestamp,
            "key": message.key.as_deref().map(hex),
            "value": message.value.as_deref().map(hex),
            "headers": headers,
        });
        lines += &format!("{line}\n");
    }
    let said = python(KAFKA_PYTHON, &["produce", &broker.to_string(), topic], lines.as_bytes())?.ok()?.json()?;
    said.iter().map(|place| Ok((i32::try_from(number(place, "partition")?)?, number(place, "offset")?))).collect()
}

/// Reads a topic from its beginning to its end with kafka-python.
///
/// # Errors
/// When it cannot be read.
pub fn kafka_python_consume(broker: SocketAddr, topic: &str) -> anyhow::Result<Vec<Placed>> {
    let said = python(KAFKA_PYTHON, &["consume", &broker.to_string(), topic], b"")?.ok()?.json()?;
    said.iter()
        .map(|record| {
            let headers = record["headers"].as_array().context("no headers")?.iter().map(|header| {
                Ok((header[0].as_str().context("a header without a name")?.to_owned(), unhex(&header[1])?))
            });
            Ok(Placed {
                offset: number(record, "offset")?,
                message: Message {
                    partition: number(record, "partition")?.try_into()?,
                    timestamp: number(record, "timestamp")?,
                    key: unhex(&record["key"])?,
                    value: unhex(&record["value"])?,
                    headers: headers.collect::<anyhow::Result<_>>()?,
                },
            })
        })
        .collect()
}

/// Has kafka-python do something else: `group`, to read as a member of a group, or `transact`, to begin transactions.
///
/// # Errors
/// When it cannot be run to its end.
pub fn kafka_python(broker: SocketAddr, verb: &str, topic: &str) -> anyhow::Result<Finished> {
    python(KAFKA_PYTHON, &[verb, &broker.to_string(), topic], b"")
}

fn number(record: &Value, name: &str) -> anyhow::Result<i64> {
    record[name].as_i64().with_context(|| format!("no {name} in {record}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(text) = value.as_str() else { return Ok(None) };
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    pairs.collect::<anyhow::Result<_>>().map(Some)
}
