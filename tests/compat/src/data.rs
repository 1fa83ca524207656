//! The records of the script: as a client can say them, as lines for its program, and read back.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use millstream_test_support::message::{self, Message, Placed};
use serde_json::{Value, json};

use crate::clients::Limit;

/// How many partitions the topics of records have.
pub const PARTITIONS: i32 = 3;

/// Records that clients trip over, text that packs well, and lines of text for those who know nothing else.
#[must_use]
pub fn messages() -> Vec<Message> {
    let mut messages = message::awkward();
    for partition in 0..PARTITIONS {
        let value = format!("partition {partition} has text that packs well. ").repeat(400);
        messages.push(Message::new(partition, Some(b"packs"), Some(value.as_bytes())));
    }
    let plain = Message::new(0, Some(b"plain"), Some(b"with a header")).with_header("name", Some(b"text"));
    messages.push(plain.with_header("other", Some(b"")));
    for (at, message) in messages.iter_mut().enumerate() {
        message.timestamp = 1_373_241_600_000 + at as i64;
    }
    messages
}

/// Those of the records that a client with these limits can say, as it would say them.
#[must_use]
pub fn within(limits: &[Limit], mut messages: Vec<Message>) -> Vec<Message> {
    for limit in limits {
        match limit {
            Limit::NothingAtAll => messages.retain(|message| message.key.is_some() || message.value.is_some()),
            Limit::NullHeader => messages.retain(|message| message.headers.iter().all(|(_, value)| value.is_some())),
            Limit::ZeroInHeader => messages.retain(|message| {
                message.headers.iter().all(|(_, value)| value.as_ref().is_none_or(|value| !value.contains(&0)))
            }),
            Limit::EmptyHeader => messages.retain(|message| {
                message.headers.iter().all(|(_, value)| value.as_ref().is_none_or(|value| !value.is_empty()))
            }),
            Limit::HeaderOrder => messages.retain(|message| {
                let names: BTreeSet<_> = message.headers.iter().map(|(name, _)| name).collect();
                names.len() == message.headers.len()
            }),
            Limit::EmptyIsNull => messages.retain(|message| {
                let empty = |part: &Option<Vec<u8>>| part.as_ref().is_some_and(Vec::is_empty);
                !empty(&message.key) && !empty(&message.value)
            }),
            Limit::Text => messages.retain(is_text),
            Limit::Partition => messages.iter_mut().for_each(|message| message.partition = 0),
            Limit::Timestamp => {}
        }
    }
    messages
}

fn is_text(message: &Message) -> bool {
    let plain = |part: &Option<Vec<u8>>| {
        let Some(bytes) = part else { return true };
        let separators = ['\n', '\r', ',', ':', '~'];
        !bytes.is_empty() && std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(separators))
    };
    let headers = message.headers.iter().all(|(_, value)| plain(value));
    headers && plain(&message.key) && plain(&message.value)
}

/// A record of this many bytes that no codec makes smaller; of letters, so that everybody can say it.
#[must_use]
pub fn large(bytes: usize) -> Message {
    let mut state = 1_u64;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + (state >> 59).min(25) as u8
    });
    Message::new(0, Some(b"large"), Some(&letters.take(bytes).collect::<Vec<_>>()))
}

/// Records that are a second apart, in the first partition.
#[must_use]
pub fn by_the_second(count: i64) -> Vec<Message> {
    let message = |n: i64| {
        let mut message = Message::new(0, Some(b"k"), Some(format!("second {n}").as_bytes()));
        message.timestamp = 1_373_241_600_000 + n * 1000;
        message
    };
    (0..count).map(message).collect()
}

/// Records as a client's program reads them.
#[must_use]
pub fn lines(messages: &[Message]) -> Vec<u8> {
    let line = |message: &Message| {
        let headers: Vec<_> =
            message.headers.iter().map(|(name, value)| json!([name, hex(value.as_deref())])).collect();
        let line = json!({
            "partition": message.partition,
            "timestamp": message.timestamp,
            "key": hex(message.key.as_deref()),
            "value": hex(message.value.as_deref()),
            "headers": headers,
        });
        format!("{line}\n")
    };
    messages.iter().map(line).collect::<String>().into_bytes()
}

/// Records as a client's program printed them.
///
/// # Errors
/// When a line is not one.
pub fn placed(lines: &[Value]) -> anyhow::Result<Vec<Placed>> {
    lines.iter().map(|line| one(line).with_context(|| format!("the client printed {line}"))).collect()
}

fn one(line: &Value) -> anyhow::Result<Placed> {
    let number = |name: &str| line[name].as_i64().with_context(|| format!("no {name}"));
    let headers = line["headers"].as_array().context("no headers")?.iter();
    let headers = headers
        .map(|header| Ok((header[0].as_str().context("a header without a name")?.to_owned(), unhex(&header[1])?)));
    Ok(Placed {
        offset: number("offset")?,
        message: Message {
            partition: number("partition")?.try_into()?,
            timestamp: number("timestamp")?,
            key: unhex(&line["key"])?,
            value: unhex(&line["value"])?,
            headers: headers.collect::<anyhow::Result<_>>()?,
        },
    })
}

fn hex(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unhex(value: &Value) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(text) = value.as_str() else { return Ok(None) };
    let pairs = text.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    pairs.collect::<anyhow::Result<_>>().map(Some)
}

/// Holds what was read against what was sent: in each partition the same records in the same order, at offsets from 0 on.
///
/// # Errors
/// With the first difference.
pub fn hold(sent: &[Message], read: &[Placed], with_times: bool) -> anyhow::Result<()> {
    ensure!(sent.len() == read.len(), "{} of {} records were read", read.len(), sent.len());
    for partition in 0..PARTITIONS {
        let sent = sent.iter().filter(|message| message.partition == partition);
        let mut read: Vec<_> = read.iter().filter(|placed| placed.message.partition == partition).collect();
        read.sort_by_key(|placed| placed.offset);
        ensure!(sent.clone().count() == read.len(), "partition {partition} has {} records", read.len());
        for (at, (sent, read)) in sent.zip(read).enumerate() {
            ensure!(read.offset == at as i64, "partition {partition}: offset {} instead of {at}", read.offset);
            let read = &read.message;
            let parts = [
                ("key", read.key == sent.key, described(&sent.key), described(&read.key)),
                ("value", read.value == sent.value, described(&sent.value), described(&read.value)),
            ];
            for (part, same, sent, read) in parts {
                ensure!(same, "partition {partition} offset {at}: the {part} is {read}, not {sent}");
            }
            if read.headers != sent.headers {
                bail!("partition {partition} offset {at}: the headers are {:?}, not {:?}", read.headers, sent.headers);
            }
            if with_times {
                let (read, sent) = (read.timestamp, sent.timestamp);
                ensure!(read == sent, "partition {partition} offset {at}: the time is {read}, not {sent}");
            }
        }
    }
    Ok(())
}

fn described(bytes: &Option<Vec<u8>>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() > 20 => format!("{} bytes", bytes.len()),
        Some(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}
