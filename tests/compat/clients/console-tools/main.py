"""Speaks to a broker with Kafka's console tools, run as programs of Java: see ../lines.py.

`MILLSTREAM_JARS` is the folder of their archives.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json
import os
import re
import subprocess
import tempfile

from lines import Refused, main, records, say, say_record

TOOLS = "org.apache.kafka.tools"
# The tools' texts; what no record of the tests holds.
NULL, SEPARATOR = "~null~", "~|~"


def tool(name, *words, given=""):
    java = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{os.environ['MILLSTREAM_JARS']}/*"]
    done = subprocess.run(
        [*java, name if "." in name else f"{TOOLS}.{name}", *words], input=given.encode(), capture_output=True, timeout=90
    )
    said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    # Some of them end well whatever they were told.
    if "UnknownTopicOrPartitionException" in said:
        raise Refused(3, "UnknownTopicOrPartitionException")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("SLF4J", "\tat"))]
    # Records may be long, and hold any word.
    exceptions = [line for line in lines if "Exception" in line and len(line) < 1000]
    if done.returncode != 0 or exceptions:
        raise RuntimeError([*exceptions, *lines[-1:], f"{name} failed"][0])
    return done.stdout.decode()


def version():
    said = tool("TopicCommand", "--version")
    say(version=said.split()[0])


def produce(broker, topic, codec, idempotent="false"):
    def text(value):
        return NULL if value is None else value.decode()

    lines = []
    for _, _, key, value, headers in records():
        told = ",".join(f"{name}:{text(inner)}" for name, inner in headers) or NULL
        lines.append(f"{told}{SEPARATOR}{text(key)}{SEPARATOR}{text(value)}\n")
    words = ["--bootstrap-server", broker, "--topic", topic, "--compression-codec", codec]
    for setting in [f"enable.idempotence={idempotent}", "linger.ms=200", "max.request.size=2000000"]:
        words += ["--command-property", setting]
    for setting in [
        "parse.key=true",
        "parse.headers=true",
        f"key.separator={SEPARATOR}",
        f"headers.delimiter={SEPARATOR}",
        f"null.marker={NULL}",
    ]:
        words += ["--reader-property", setting]
    tool("ConsoleProducer", *words, given="".join(lines))
    say(sent=len(lines))


def ends(broker, topic, time):
    """{partition: offset} of the tool that tells offsets by time."""
    said = tool("GetOffsetShell", "--bootstrap-server", broker, "--topic", topic, "--time", time)
    told = {}
    for line in said.strip().splitlines():
        _, number, offset = line.rsplit(":", 2)
        told[number] = int(offset) if offset else -1
    return told


def consume(broker, topic):
    first, last = ends(broker, topic, "earliest"), ends(broker, topic, "latest")
    for number in sorted(last, key=int):
        if first[number] == last[number]:
            continue
        words = ["--bootstrap-server", broker, "--topic", topic, "--partition", number, "--offset", "earliest"]
        words += ["--max-messages", str(last[number] - first[number]), "--timeout-ms", "30000"]
        for setting in [
            "print.timestamp=true",
            "print.partition=true",
            "print.offset=true",
            "print.headers=true",
            "print.key=true",
            f"key.separator={SEPARATOR}",
            f"line.separator={SEPARATOR}\n",
            f"null.literal={NULL}",
        ]:
            words += ["--formatter-property", setting]
        said = tool(f"{TOOLS}.consumer.ConsoleConsumer", *words)
        for line in said.split(f"{SEPARATOR}\n")[:-1]:
            say_line(line)


def say_line(line):
    timestamp, partition, offset, headers, key, value = line.split(SEPARATOR)

    def bytes_of(text):
        return None if text == NULL else text.encode()

    pairs = [] if headers == "NO_HEADERS" else [pair.partition(":") for pair in headers.split(",")]
    headers = [(name, bytes_of(inner)) for name, _, inner in pairs]
    say_record(
        int(partition.partition(":")[2]),
        int(offset.partition(":")[2]),
        int(timestamp.partition(":")[2]),
        bytes_of(key),
        bytes_of(value),
        headers,
    )


def topics(broker, *words):
    return tool("TopicCommand", "--bootstrap-server", broker, *words)


def create(broker, topic, partitions, configs):
    words = ["--create", "--topic", topic, "--partitions", partitions, "--replication-factor", "1"]
    for name, value in json.loads(configs).items():
        words += ["--config", f"{name}={value}"]
    topics(broker, *words)
    say(done=True)


def list_(broker):
    say(topics=sorted(topics(broker, "--list").split()))


def describe(broker, topic):
    said = topics(broker, "--describe", "--topic", topic)
    say(partitions=sorted(int(number) for number in re.findall(r"\tPartition: (\d+)", said)))


def configs(broker, topic):
    words = ["--bootstrap-server", broker, "--entity-type", "topics", "--entity-name", topic, "--describe", "--all"]
    said = tool("kafka.admin.ConfigCommand", *words)
    say(configs=dict(re.findall(r"^  ([\w.]+)=(.*?) sensitive=", said, re.M)))


def alter(broker, topic, name, value):
    words = ["--bootstrap-server", broker, "--entity-type", "topics", "--entity-name", topic, "--alter"]
    tool("kafka.admin.ConfigCommand", *words, "--add-config", f"{name}={value}")
    say(done=True)


def delete(broker, topic):
    topics(broker, "--delete", "--topic", topic)
    say(done=True)


def offsets(broker, topic, time):
    say(offsets=ends(broker, topic, time))


def delete_records(broker, topic, partition, offset):
    place = {"topic": topic, "partition": int(partition), "offset": int(offset)}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as asked:
        json.dump({"version": 1, "partitions": [place]}, asked)
        asked.flush()
        said = tool("DeleteRecordsCommand", "--bootstrap-server", broker, "--offset-json-file", asked.name)
    told = re.search(r"low_watermark: (\d+)", said)
    if told is None:
        raise RuntimeError(said.strip().splitlines()[-1])
    say(low_watermark=int(told.group(1)))


def log_dirs(broker, topic):
    said = tool("LogDirsCommand", "--bootstrap-server", broker, "--describe", "--topic-list", topic)
    (told,) = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    dirs = [folder for one in told["brokers"] for folder in one["logDirs"]]
    say(bytes=sum(partition["size"] for folder in dirs for partition in folder["partitions"]))


def unknown(broker, topic):
    # The tool for topics looks in the list of all, and is told no error.
    alter(broker, topic, "retention.ms", "1")


main(
    {
        "version": version,
        "produce": produce,
        "consume": consume,
        "create": create,
        "list": list_,
        "describe": describe,
        "configs": configs,
        "alter": alter,
        "delete": delete,
        "offsets": offsets,
        "delete_records": delete_records,
        "log_dirs": log_dirs,
        "unknown": unknown,
    }
)
