"""Speaks to a broker with kafka-python: see ../lines.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import AlterConfigOp, ConfigResource, ConfigResourceType
from kafka.errors import BrokerResponseError, KafkaError, for_code

from lines import Deadline, Refused, main, records, say, say_record


def version():
    say(version=kafka.__version__)


def asking(verb):
    """A verb whose refusals are told as such."""

    def asked(*words):
        try:
            verb(*words)
        except BrokerResponseError as error:
            raise Refused(error.errno, str(error)) from error

    return asked


def produce(broker, topic, codec, idempotent="false"):
    producer = KafkaProducer(
        bootstrap_servers=broker,
        compression_type=None if codec == "none" else codec,
        enable_idempotence=idempotent == "true",
        linger_ms=200,
        batch_size=1_000_000,
        max_request_size=2_000_000,
    )
    sent = [
        producer.send(topic, partition=partition, key=key, value=value, headers=headers, timestamp_ms=timestamp)
        for partition, timestamp, key, value, headers in records()
    ]
    producer.flush(timeout=60)
    for future in sent:
        placed = future.get(timeout=60)
        say(partition=placed.partition, offset=placed.offset)
    producer.close(timeout=10)


def consume(broker, topic):
    consumer = KafkaConsumer(bootstrap_servers=broker, group_id=None, enable_auto_commit=False)
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    deadline = Deadline()
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        deadline.check(f"stuck before {ends}")
        for read in consumer.poll(timeout_ms=200).values():
            for r in read:
                say_record(r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
    consumer.close()


def admin(broker):
    return KafkaAdminClient(bootstrap_servers=broker)


def create(broker, topic, partitions, configs):
    wanted = {"num_partitions": int(partitions), "replication_factor": 1, "configs": json.loads(configs)}
    admin(broker).create_topics({topic: wanted})
    say(done=True)


def list_(broker):
    say(topics=sorted(admin(broker).list_topics()))


def described(broker, topic):
    (told,) = admin(broker).describe_topics([topic])
    if told["error_code"]:
        raise for_code(told["error_code"])
    return sorted(partition["partition_index"] for partition in told["partitions"])


def describe(broker, topic):
    say(partitions=described(broker, topic))


def configs(broker, topic):
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    told = admin(broker).describe_configs([resource], config_filter="all")
    say(configs={name: entry["value"] for name, entry in told["topic"][topic].items()})


def alter(broker, topic, name, value):
    change = ConfigResource(ConfigResourceType.TOPIC, topic, configs={name: (AlterConfigOp.SET, value)})
    told = admin(broker).alter_configs([change])["topic"][topic]
    if told != "OK":
        raise Refused(None, told)
    say(done=True)


def delete(broker, topic):
    admin(broker).delete_topics([topic])
    say(done=True)


def offsets(broker, topic, time):
    asked = {TopicPartition(topic, number): int(time) for number in described(broker, topic)}
    told = admin(broker).list_partition_offsets(asked)
    say(offsets={str(place.partition): entry.offset for place, entry in told.items()})


def delete_records(broker, topic, partition, offset):
    place = TopicPartition(topic, int(partition))
    say(low_watermark=admin(broker).delete_records({place: int(offset)})[place]["low_watermark"])


def log_dirs(broker, topic):
    told = admin(broker).describe_log_dirs()
    dirs = [folder for answer in told for folder in answer["log_dirs"]]
    of_it = [found for folder in dirs for found in folder["topics"] if found["name"] == topic]
    say(bytes=sum(partition["partition_size"] for found in of_it for partition in found["partitions"]))


main(
    {
        "version": version,
        "produce": asking(produce),
        "consume": asking(consume),
        "create": asking(create),
        "list": asking(list_),
        "describe": asking(describe),
        "configs": asking(configs),
        "alter": asking(alter),
        "delete": asking(delete),
        "offsets": asking(offsets),
        "delete_records": asking(delete_records),
        "log_dirs": asking(log_dirs),
        "unknown": asking(describe),
    }
)
