"""Speaks to a broker with aiokafka: see ../lines.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asyncio
import json
from contextlib import asynccontextmanager

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import BrokerResponseError, KafkaError, for_code

from lines import Deadline, Refused, main, records, say, say_record


def version():
    say(version=aiokafka.__version__)


def asking(verb):
    """A verb that is asynchronous, and whose refusals are told as such."""

    def asked(*words):
        try:
            asyncio.run(asyncio.wait_for(verb(*words), 90))
        except KafkaError as error:
            if not isinstance(error, BrokerResponseError):
                raise
            raise Refused(error.errno, str(error)) from error

    return asked


def checked(code, message=None):
    if code:
        raise Refused(code, message or for_code(code).__name__)


async def produce(broker, topic, codec, idempotent="false"):
    producer = AIOKafkaProducer(
        bootstrap_servers=broker,
        compression_type=None if codec == "none" else codec,
        enable_idempotence=idempotent == "true",
        acks="all",
        linger_ms=200,
        max_batch_size=1_000_000,
        max_request_size=2_000_000,
    )
    async with producer:
        sent = []
        for partition, timestamp, key, value, headers in records():
            placed = await producer.send(
                topic, value, key=key, partition=partition, timestamp_ms=timestamp, headers=headers
            )
            sent.append(placed)
        await producer.flush()
        for future in sent:
            placed = await future
            say(partition=placed.partition, offset=placed.offset)


async def consume(broker, topic):
    async with AIOKafkaConsumer(bootstrap_servers=broker, group_id=None, enable_auto_commit=False) as consumer:
        numbers = await partitions_of(broker, topic)
        partitions = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        deadline = Deadline()
        while any([await consumer.position(place) < ends[place] for place in partitions]):
            deadline.check(f"stuck before {ends}")
            for read in (await consumer.getmany(timeout_ms=200)).values():
                for r in read:
                    say_record(r.partition, r.offset, r.timestamp, r.key, r.value, r.headers)


@asynccontextmanager
async def admin(broker):
    client = AIOKafkaAdminClient(bootstrap_servers=broker)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create(broker, topic, partitions, configs):
    async with admin(broker) as client:
        new = NewTopic(topic, int(partitions), 1, topic_configs=json.loads(configs))
        for _, code, message, *_ in (await client.create_topics([new])).topic_errors:
            checked(code, message)
    say(done=True)


async def list_(broker):
    async with admin(broker) as client:
        say(topics=sorted(await client.list_topics()))


async def partitions_of(broker, topic):
    async with admin(broker) as client:
        (told,) = await client.describe_topics([topic])
        checked(told["error_code"])
        return sorted(partition["partition"] for partition in told["partitions"])


async def describe(broker, topic):
    say(partitions=await partitions_of(broker, topic))


async def settings(client, topic):
    (told,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    ((code, message, _, _, entries),) = told.resources
    checked(code, message)
    return entries


async def configs(broker, topic):
    async with admin(broker) as client:
        say(configs={entry[0]: entry[1] for entry in await settings(client, topic)})


async def alter(broker, topic, name, value):
    # Kafka's older request replaces all settings: those that are set on the topic are sent along.
    of_the_topic = 1
    async with admin(broker) as client:
        old = {entry[0]: entry[1] for entry in await settings(client, topic) if entry[3] == of_the_topic}
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {**old, name: value})
        for told in await client.alter_configs([resource]):
            for code, message, *_ in told.resources:
                checked(code, message)
    say(done=True)


async def delete(broker, topic):
    async with admin(broker) as client:
        for _, code, *_ in (await client.delete_topics([topic])).topic_error_codes:
            checked(code)
    say(done=True)


async def offsets(broker, topic, time):
    async with AIOKafkaConsumer(bootstrap_servers=broker) as consumer:
        asked = {TopicPartition(topic, number): int(time) for number in await partitions_of(broker, topic)}
        told = await consumer.offsets_for_times(asked)
        say(offsets={str(place.partition): -1 if found is None else found.offset for place, found in told.items()})


async def delete_records(broker, topic, partition, offset):
    place = TopicPartition(topic, int(partition))
    async with admin(broker) as client:
        say(low_watermark=(await client.delete_records({place: RecordsToDelete(int(offset))}))[place])


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
        "unknown": asking(describe),
    }
)
