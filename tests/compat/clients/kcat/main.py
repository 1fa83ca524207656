"""Speaks to a broker with kcat, run as a program: see ../lines.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import itertools
import json
import re
import subprocess

from lines import Refused, main, records, say, say_record

# What no record of the tests holds.
KEY_END, RECORD_END = b"\x01\x02|", b"\x03\x04|"


def kcat(words, given=b""):
    done = subprocess.run(["kcat", *words], input=given, capture_output=True, timeout=90)
    said = done.stderr.decode(errors="replace")
    if done.returncode != 0:
        if "Unknown topic or partition" in said:
            raise Refused(3, said)
        raise RuntimeError(said.strip().splitlines()[-1] if said.strip() else f"ended with {done.returncode}")
    return done.stdout


def version():
    said = kcat(["-V"]).decode()
    number, library = re.search(r"Version ([0-9.]+).*librdkafka ([0-9.]+)", said, re.S).groups()
    say(version=f"{number}, librdkafka {library}")


def produce(broker, topic, codec, idempotent="false"):
    """One run for records that follow each other and share what is told on the command line."""

    def run(record):
        partition, _, _, value, headers = record
        return partition, tuple(headers), value is None

    sent = 0
    for (partition, headers, is_null), group in itertools.groupby(records(), run):
        words = ["-P", "-b", broker, "-t", topic, "-p", str(partition), "-z", codec, "-X", "acks=all"]
        words += ["-X", "linger.ms=200", "-X", "message.max.bytes=2000000", "-X", f"enable.idempotence={idempotent}"]
        words += ["-K", escaped(KEY_END), "-D", escaped(RECORD_END)]
        for name, value in headers:
            words += ["-H", name.encode() + b"=" + value]
        if is_null:
            words.append("-Z")
        lines = []
        for _, _, key, value, _ in group:
            # A line of nothing is not sent; with -Z an empty key is null.
            nothing = key is None and is_null
            lines.append(KEY_END if nothing else (b"" if key is None else key + KEY_END) + (value or b""))
        kcat(words, b"".join(line + RECORD_END for line in lines))
        sent += len(lines)
    # It tells no offsets.
    say(sent=sent)


def escaped(end):
    return "".join(f"\\x{byte:02x}" for byte in end)


def consume(broker, topic):
    # Lengths come first, so that keys and values may hold anything.
    form = "%p %o %T %K %S\n%k%s\n%h\n"
    rest = kcat(["-C", "-b", broker, "-t", topic, "-o", "beginning", "-e", "-q", "-f", form])
    while rest:
        line, _, rest = rest.partition(b"\n")
        partition, offset, timestamp, key_bytes, value_bytes = map(int, line.split())
        key, rest = taken(rest, key_bytes)
        value, rest = taken(rest, value_bytes)
        if rest[:1] != b"\n":
            raise ValueError("kcat's lengths do not fit what it printed")
        headers, _, rest = rest[1:].partition(b"\n")
        pairs = [pair.partition(b"=") for pair in headers.split(b",") if pair]
        headers = [(name.decode(), None if value == b"NULL" else value) for name, _, value in pairs]
        say_record(partition, offset, timestamp, key, value, headers)


def taken(rest, count):
    return (None, rest) if count < 0 else (rest[:count], rest[count:])


def metadata(broker, *words):
    return json.loads(kcat(["-L", "-J", "-b", broker, *words]))["topics"]


def list_(broker):
    say(topics=sorted(topic["topic"] for topic in metadata(broker)))


def partitions_of(broker, topic):
    (told,) = metadata(broker, "-t", topic)
    if "error" in told:
        raise Refused(3 if "Unknown topic or partition" in told["error"] else None, told["error"])
    return sorted(partition["partition"] for partition in told["partitions"])


def describe(broker, topic):
    say(partitions=partitions_of(broker, topic))


def offsets(broker, topic, time):
    told = {}
    for number in partitions_of(broker, topic):
        said = kcat(["-Q", "-b", broker, "-t", f"{topic}:{number}:{time}"]).decode()
        told[str(number)] = int(re.search(r"offset (-?\d+)", said).group(1))
    say(offsets=told)


def unknown(broker, topic):
    kcat(["-C", "-b", broker, "-t", topic, "-e", "-q", "-X", "topic.metadata.propagation.max.ms=0"])


main(
    {
        "version": version,
        "produce": produce,
        "consume": consume,
        "list": list_,
        "describe": describe,
        "offsets": offsets,
        "unknown": unknown,
    }
)
