"""Speaks to a broker with confluent-kafka, which is librdkafka: see ../lines.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json

import confluent_kafka
from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, OffsetSpec, ResourceType

from lines import Deadline, Refused, main, records, say, say_record


def version():
    say(version=f"{confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}")


def refused(error):
    """librdkafka's own errors are negative: they are no answer of the broker's."""
    return Refused(error.code() if error.code() > 0 else None, error.str())


def done(futures):
    """What a request gave for each thing that it named."""
    try:
        return {name: future.result(timeout=60) for name, future in futures.items()}
    except KafkaException as failure:
        raise refused(failure.args[0]) from failure


def produce(broker, topic, codec, idempotent="false"):
    settings = {
        "bootstrap.servers": broker,
        "compression.type": codec,
        "enable.idempotence": idempotent,
        "linger.ms": 200,
        "acks": "all",
        "message.max.bytes": 2_000_000,
    }
    producer = Producer(settings)
    places = {}
    for at, (partition, timestamp, key, value, headers) in enumerate(records()):

        def delivered(failure, message, at=at):
            places[at] = (failure, message)

        producer.produce(
            topic, value, key, partition, on_delivery=delivered, timestamp=timestamp, headers=headers or None
        )
    producer.flush(60)
    for at in sorted(places):
        failure, message = places[at]
        if failure is not None:
            raise refused(failure)
        say(partition=message.partition(), offset=message.offset())


def reader(broker):
    # A group is named because it must be, and never joined.
    settings = {"bootstrap.servers": broker, "group.id": "unused", "enable.auto.commit": False}
    return Consumer({**settings, "allow.auto.create.topics": False, "fetch.message.max.bytes": 2_000_000})


def partitions_of(client, topic):
    told = client.list_topics(topic, timeout=30).topics[topic]
    if told.error is not None:
        raise refused(told.error)
    return sorted(told.partitions)


def consume(broker, topic):
    consumer = reader(broker)
    ends = {}
    for number in partitions_of(consumer, topic):
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
        if first < end:
            ends[number] = (first, end)
    consumer.assign([TopicPartition(topic, number, first) for number, (first, _) in ends.items()])
    deadline = Deadline()
    left = {number: end for number, (_, end) in ends.items()}
    while left:
        deadline.check(f"stuck before {left}")
        record = consumer.poll(1)
        if record is None:
            continue
        if record.error() is not None:
            # It looks for the group's coordinator though it reads on its own, and tells what comes of that.
            if "FindCoordinator" in record.error().str():
                continue
            raise refused(record.error())
        say_record(
            record.partition(), record.offset(), record.timestamp()[1], record.key(), record.value(), record.headers()
        )
        if record.offset() + 1 >= left.get(record.partition(), 0):
            left.pop(record.partition(), None)
    consumer.close()


def admin(broker):
    """To be held in a name until the answer is there: requests end with their client."""
    return AdminClient({"bootstrap.servers": broker})


def create(broker, topic, partitions, configs):
    client = admin(broker)
    done(client.create_topics([NewTopic(topic, int(partitions), 1, config=json.loads(configs))]))
    say(done=True)


def list_(broker):
    say(topics=sorted(admin(broker).list_topics(timeout=30).topics))


def describe(broker, topic):
    client = admin(broker)
    told = done(client.describe_topics(TopicCollection([topic])))[topic]
    say(partitions=sorted(partition.id for partition in told.partitions))


def resource(topic, entries=None):
    return ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)


def configs(broker, topic):
    client = admin(broker)
    (told,) = done(client.describe_configs([resource(topic)])).values()
    say(configs={name: entry.value for name, entry in told.items()})


def alter(broker, topic, name, value):
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    client = admin(broker)
    done(client.incremental_alter_configs([resource(topic, [entry])]))
    say(done=True)


def delete(broker, topic):
    client = admin(broker)
    done(client.delete_topics([topic]))
    say(done=True)


def offsets(broker, topic, time):
    client = admin(broker)
    asked = {TopicPartition(topic, n): OffsetSpec.for_timestamp(int(time)) for n in partitions_of(client, topic)}
    told = done(client.list_offsets(asked))
    say(offsets={str(place.partition): entry.offset for place, entry in told.items()})


def delete_records(broker, topic, partition, offset):
    client = admin(broker)
    (told,) = done(client.delete_records([TopicPartition(topic, int(partition), int(offset))])).values()
    say(low_watermark=told.low_watermark)


def unknown(broker, topic):
    partitions_of(reader(broker), topic)


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
        "unknown": unknown,
    }
)
