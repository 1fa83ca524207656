// Speaks to a broker with kafkajs: see ../lines.py. Its packages are where NODE_PATH says.
"use strict";

const readline = require("node:readline");
const { Kafka, CompressionCodecs, CompressionTypes, ConfigResourceTypes, logLevel } = require("kafkajs");

// What the client's own guide has users do for a codec that it does not bring.
CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
};

class NotOffered extends Error {}

const packed = (text) => (text === null ? null : Buffer.from(text, "hex"));
const say = (answer) => console.log(JSON.stringify(answer));

function client(broker) {
  return new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING, retry: { initialRetryTime: 50 } });
}

async function asking(broker, ask) {
  const admin = client(broker).admin();
  await admin.connect();
  try {
    return await ask(admin);
  } finally {
    await admin.disconnect();
  }
}

async function records() {
  const messages = [];
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const told = JSON.parse(line);
    const headers = {};
    for (const [name, value] of told.headers) {
      const inner = packed(value);
      headers[name] = name in headers ? [].concat(headers[name], inner) : inner;
    }
    messages.push({
      partition: told.partition,
      timestamp: String(told.timestamp),
      key: packed(told.key),
      value: packed(told.value),
      headers,
    });
  }
  return messages;
}

const verbs = {
  async version() {
    say({ version: require("kafkajs/package.json").version });
  },
  async produce(broker, topic, codec, idempotent = "false") {
    if (!(codec in CODECS)) {
      throw new NotOffered("not without a package that compiles C++");
    }
    const producer = client(broker).producer({ idempotent: idempotent === "true", allowAutoTopicCreation: false });
    await producer.connect();
    try {
      const messages = await records();
      const places = await producer.send({ topic, acks: -1, compression: CODECS[codec], messages });
      // It tells the first offset of each partition's records.
      const next = new Map(places.map((place) => [place.partition, Number(place.baseOffset)]));
      for (const { partition } of messages) {
        say({ partition, offset: next.get(partition) });
        next.set(partition, next.get(partition) + 1);
      }
    } finally {
      await producer.disconnect();
    }
  },
  async consume() {
    throw new NotOffered("it reads only as a member of a group");
  },
  async create(broker, topic, partitions, configs) {
    const configEntries = Object.entries(JSON.parse(configs)).map(([name, value]) => ({ name, value }));
    const wanted = { topic, numPartitions: Number(partitions), replicationFactor: 1, configEntries };
    await asking(broker, (admin) => admin.createTopics({ topics: [wanted] }));
    say({ done: true });
  },
  async list(broker) {
    say({ topics: (await asking(broker, (admin) => admin.listTopics())).sort() });
  },
  async describe(broker, topic) {
    const told = await asking(broker, (admin) => admin.fetchTopicMetadata({ topics: [topic] }));
    say({ partitions: told.topics[0].partitions.map((partition) => partition.partitionId).sort() });
  },
  async configs(broker, topic) {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic }];
    const told = await asking(broker, (admin) => admin.describeConfigs({ resources, includeSynonyms: false }));
    const entries = told.resources[0].configEntries;
    say({ configs: Object.fromEntries(entries.map((entry) => [entry.configName, entry.configValue])) });
  },
  async alter(broker, topic, name, value) {
    // Kafka's older request replaces all settings: those that are set on the topic are sent along.
    const ofTheTopic = 1;
    const type = ConfigResourceTypes.TOPIC;
    await asking(broker, async (admin) => {
      const told = await admin.describeConfigs({ resources: [{ type, name: topic }], includeSynonyms: false });
      const old = told.resources[0].configEntries.filter((entry) => entry.configSource === ofTheTopic);
      const configEntries = old
        .filter((entry) => entry.configName !== name)
        .map((entry) => ({ name: entry.configName, value: entry.configValue }));
      configEntries.push({ name, value });
      await admin.alterConfigs({ validateOnly: false, resources: [{ type, name: topic, configEntries }] });
    });
    say({ done: true });
  },
  async delete(broker, topic) {
    await asking(broker, (admin) => admin.deleteTopics({ topics: [topic] }));
    say({ done: true });
  },
  async offsets(broker, topic, time) {
    const told = await asking(broker, (admin) => admin.fetchTopicOffsetsByTimestamp(topic, Number(time)));
    say({ offsets: Object.fromEntries(told.map((place) => [place.partition, Number(place.offset)])) });
  },
  async "delete-records"(broker, topic, partition, offset) {
    const partitions = [{ partition: Number(partition), offset }];
    await asking(broker, async (admin) => {
      // It looks for the leader among the topics that it has asked about before.
      await admin.fetchTopicOffsets(topic);
      await admin.deleteTopicRecords({ topic, partitions });
    });
    say({ done: true });
  },
  async unknown(broker, topic) {
    await verbs.describe(broker, topic);
  },
};

/** The broker's own errors have a code; the client wraps them. */
function refusal(error) {
  for (let at = error; at; at = at.cause ?? at.originalError ?? at.errors?.[0]) {
    if (typeof at.code === "number" && at.type) {
      return { code: at.code, message: at.message };
    }
  }
  return null;
}

async function main([verb, ...words]) {
  try {
    if (!verbs[verb]) {
      throw new NotOffered("the client has no such request");
    }
    await verbs[verb](...words);
  } catch (error) {
    const refused = refusal(error);
    if (error instanceof NotOffered) {
      say({ not_offered: error.message });
    } else if (refused) {
      say({ error: refused });
    } else {
      console.error(error);
      console.error(`${error.name}: ${error.message}`);
      process.exitCode = 1;
    }
  }
}

main(process.argv.slice(2));
