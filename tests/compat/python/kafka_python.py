"""Speaks to a broker with kafka-python: one JSON object a line on stdin or stdout, bytes as hex, null as null.

usage: kafka_python.py produce|consume|group|transact|delete|delete_records|alter HOST:PORT TOPIC
       kafka_python.py produce|consume HOST:PORT TOPIC CA_FILE      (in TLS)
"""

import json
import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import AlterConfigOp, ConfigResource, ConfigResourceType
from kafka.errors import KafkaError


def packed(text):
    return None if text is None else bytes.fromhex(text)


def shown(value):
    return None if value is None else value.hex()


def secured(ca):
    return {} if ca is None else {"security_protocol": "SSL", "ssl_cafile": ca}


def produce(address, topic, ca=None):
    """Sends each line's record and prints where it went, one after another."""
    # The library's own defaults: idempotent, acknowledged by all replicas.
    producer = KafkaProducer(bootstrap_servers=address, compression_type=None, linger_ms=5, **secured(ca))
    sent = []
    for line in sys.stdin:
        record = json.loads(line)
        headers = [(name, packed(value)) for name, value in record["headers"]]
        sent.append(
            producer.send(
                topic,
                partition=record["partition"],
                key=packed(record["key"]),
                value=packed(record["value"]),
                headers=headers,
                timestamp_ms=record["timestamp"],
            )
        )
    producer.flush(timeout=60)
    for future in sent:
        placed = future.get(timeout=60)
        print(json.dumps({"partition": placed.partition, "offset": placed.offset, "timestamp": placed.timestamp}))
    producer.close(timeout=10)


def consume(address, topic, ca=None, isolation="read_uncommitted"):
    """Prints every record of the topic, from the beginning to where the end was at the start."""
    how = {"group_id": None, "enable_auto_commit": False, "isolation_level": isolation}
    consumer = KafkaConsumer(bootstrap_servers=address, **how, **secured(ca))
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    # The position decides, not the last record: a view may leave out everything up to the end.
    deadline = time.monotonic() + 60
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        if time.monotonic() > deadline:
            sys.exit(f"stuck at {[(p.partition, consumer.position(p)) for p in partitions]}, the ends are {ends}")
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                print(
                    json.dumps(
                        {
                            "partition": record.partition,
                            "offset": record.offset,
                            "timestamp": record.timestamp,
                            "timestamp_type": record.timestamp_type,
                            "key": shown(record.key),
                            "value": shown(record.value),
                            "headers": [[name, shown(value)] for name, value in record.headers],
                        }
                    )
                )
    consumer.close()


def group(address, topic):
    """Reads as a member of a group."""
    consumer = KafkaConsumer(topic, bootstrap_servers=address, group_id="a-group")
    print(json.dumps(len(consumer.poll(timeout_ms=60000))))


def transact(address, _topic):
    """Begins to be a transactional producer."""
    producer = KafkaProducer(bootstrap_servers=address, transactional_id="a-transaction", max_block_ms=60000)
    producer.init_transactions()


def delete(address, topic):
    """Deletes a topic."""
    KafkaAdminClient(bootstrap_servers=address).delete_topics([topic])


def delete_records(address, topic):
    """Reads {partition: offset} and deletes the records before; an offset of -1 means all."""
    asked = {TopicPartition(topic, int(number)): offset for number, offset in json.load(sys.stdin).items()}
    done = KafkaAdminClient(bootstrap_servers=address).delete_records(asked)
    print(json.dumps({str(partition.partition): done[partition]["low_watermark"] for partition in asked}))


def alter(address, topic):
    """Reads {setting: [operation, value]}, changes them, and prints what the topic's settings are then."""
    client = KafkaAdminClient(bootstrap_servers=address)
    changes = {name: (AlterConfigOp[operation], value) for name, (operation, value) in json.load(sys.stdin).items()}
    # Whether there is such a setting is the broker's to say.
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic, configs=changes)]
    told = client.alter_configs(asked, raise_on_unknown=False)["topic"][topic]
    described = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="dynamic")
    values = {name: entry["value"] for name, entry in described["topic"][topic].items()}
    print(json.dumps({"told": told, "configs": values}))


def grow(address, topic):
    """Reads {"count", "assignments", "validate_only"}, asks for so many partitions, and prints what was told: a code and words."""
    asked = json.load(sys.stdin)
    validate_only = asked.pop("validate_only", False)
    client = KafkaAdminClient(bootstrap_servers=address)
    wanted = {topic: asked} if "assignments" in asked else {topic: asked["count"]}
    told = client.create_partitions(wanted, timeout_ms=30000, validate_only=validate_only, raise_errors=False)
    result = (told["results"] if isinstance(told, dict) else told.results)[0]
    field = result.get if isinstance(result, dict) else lambda name: getattr(result, name)
    print(json.dumps([field("error_code"), field("error_message")]))


if __name__ == "__main__":
    verbs = {
        "produce": produce,
        "consume": consume,
        "consume_committed": lambda address, topic: consume(address, topic, isolation="read_committed"),
        "group": group,
        "transact": transact,
        "delete": delete,
        "delete_records": delete_records,
        "alter": alter,
        "grow": grow,
    }
    try:
        verbs[sys.argv[1]](*sys.argv[2:])
    except KafkaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
