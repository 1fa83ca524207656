// Speaks to a broker with Kafka's own client library for Java: see ../lines.py.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

public class Main {
    static final ObjectMapper JSON = new ObjectMapper();

    static class NotOffered extends RuntimeException {
        NotOffered(String why) {
            super(why);
        }
    }

    static void say(ObjectNode answer) {
        System.out.println(answer);
    }

    static void done() {
        say(JSON.createObjectNode().put("done", true));
    }

    static byte[] packed(JsonNode text) {
        return text.isNull() ? null : HexFormat.of().parseHex(text.asText());
    }

    static String shown(byte[] bytes) {
        return bytes == null ? null : HexFormat.of().formatHex(bytes);
    }

    static Admin admin(String broker) {
        return Admin.create(Map.of("bootstrap.servers", broker));
    }

    static void produce(String broker, String topic, String codec, boolean idempotent) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", broker,
            "compression.type", codec,
            "enable.idempotence", idempotent,
            "linger.ms", 200,
            "batch.size", 1_000_000,
            "max.request.size", 2_000_000);
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            var input = new BufferedReader(new InputStreamReader(System.in));
            for (String line; (line = input.readLine()) != null; ) {
                JsonNode told = JSON.readTree(line);
                List<Header> headers = new ArrayList<>();
                for (JsonNode header : told.get("headers")) {
                    headers.add(new RecordHeader(header.get(0).asText(), packed(header.get(1))));
                }
                sent.add(producer.send(new ProducerRecord<>(
                    topic,
                    told.get("partition").asInt(),
                    told.get("timestamp").asLong(),
                    packed(told.get("key")),
                    packed(told.get("value")),
                    headers)));
            }
            for (var placed : sent) {
                RecordMetadata place = placed.get();
                say(JSON.createObjectNode().put("partition", place.partition()).put("offset", place.offset()));
            }
        }
    }

    static void consume(String broker, String topic) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", broker, "allow.auto.create.topics", false);
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> places = new ArrayList<>();
            consumer.partitionsFor(topic).forEach(at -> places.add(new TopicPartition(topic, at.partition())));
            consumer.assign(places);
            consumer.seekToBeginning(places);
            var ends = consumer.endOffsets(places);
            long start = System.nanoTime();
            while (places.stream().anyMatch(place -> consumer.position(place) < ends.get(place))) {
                if (System.nanoTime() - start > 60_000_000_000L) {
                    throw new IllegalStateException("stuck before " + ends);
                }
                for (var read : consumer.poll(Duration.ofMillis(200))) {
                    ObjectNode line = JSON.createObjectNode();
                    line.put("partition", read.partition()).put("offset", read.offset());
                    line.put("timestamp", read.timestamp());
                    line.put("key", shown(read.key())).put("value", shown(read.value()));
                    ArrayNode headers = line.putArray("headers");
                    read.headers().forEach(header -> headers.addArray().add(header.key()).add(shown(header.value())));
                    say(line);
                }
            }
        }
    }

    static void create(String broker, String topic, String partitions, String configs) throws Exception {
        Map<String, String> settings = new HashMap<>();
        JSON.readTree(configs).fields().forEachRemaining(entry -> settings.put(entry.getKey(), entry.getValue().asText()));
        try (Admin admin = admin(broker)) {
            var topics = List.of(new NewTopic(topic, Integer.parseInt(partitions), (short) 1).configs(settings));
            admin.createTopics(topics).all().get();
        }
        done();
    }

    static void list(String broker) throws Exception {
        try (Admin admin = admin(broker)) {
            ObjectNode answer = JSON.createObjectNode();
            ArrayNode topics = answer.putArray("topics");
            new TreeSet<>(admin.listTopics().names().get()).forEach(topics::add);
            say(answer);
        }
    }

    static TreeSet<Integer> partitions(Admin admin, String topic) throws Exception {
        TreeSet<Integer> numbers = new TreeSet<>();
        var told = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        told.partitions().forEach(at -> numbers.add(at.partition()));
        return numbers;
    }

    static void describe(String broker, String topic) throws Exception {
        try (Admin admin = admin(broker)) {
            ObjectNode answer = JSON.createObjectNode();
            ArrayNode numbers = answer.putArray("partitions");
            partitions(admin, topic).forEach(numbers::add);
            say(answer);
        }
    }

    static ConfigResource resource(String topic) {
        return new ConfigResource(ConfigResource.Type.TOPIC, topic);
    }

    static void configs(String broker, String topic) throws Exception {
        try (Admin admin = admin(broker)) {
            ObjectNode answer = JSON.createObjectNode();
            ObjectNode values = answer.putObject("configs");
            var told = admin.describeConfigs(List.of(resource(topic))).all().get().get(resource(topic));
            told.entries().forEach(entry -> values.put(entry.name(), entry.value()));
            say(answer);
        }
    }

    static void alter(String broker, String topic, String name, String value) throws Exception {
        try (Admin admin = admin(broker)) {
            var change = new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(resource(topic), List.of(change))).all().get();
        }
        done();
    }

    static void delete(String broker, String topic) throws Exception {
        try (Admin admin = admin(broker)) {
            admin.deleteTopics(List.of(topic)).all().get();
        }
        done();
    }

    static void offsets(String broker, String topic, String time) throws Exception {
        try (Admin admin = admin(broker)) {
            Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
            for (int number : partitions(admin, topic)) {
                asked.put(new TopicPartition(topic, number), OffsetSpec.forTimestamp(Long.parseLong(time)));
            }
            ObjectNode answer = JSON.createObjectNode();
            ObjectNode offsets = answer.putObject("offsets");
            admin.listOffsets(asked).all().get().forEach((at, told) -> offsets.put("" + at.partition(), told.offset()));
            say(answer);
        }
    }

    static void deleteRecords(String broker, String topic, String partition, String offset) throws Exception {
        try (Admin admin = admin(broker)) {
            var place = new TopicPartition(topic, Integer.parseInt(partition));
            var asked = Map.of(place, RecordsToDelete.beforeOffset(Long.parseLong(offset)));
            var told = admin.deleteRecords(asked).lowWatermarks().get(place).get();
            say(JSON.createObjectNode().put("low_watermark", told.lowWatermark()));
        }
    }

    static void logDirs(String broker, String topic) throws Exception {
        try (Admin admin = admin(broker)) {
            List<Integer> brokers = new ArrayList<>();
            admin.describeCluster().nodes().get().forEach(node -> brokers.add(node.id()));
            long bytes = 0;
            for (var dirs : admin.describeLogDirs(brokers).allDescriptions().get().values()) {
                for (var dir : dirs.values()) {
                    for (var replica : dir.replicaInfos().entrySet()) {
                        bytes += replica.getKey().topic().equals(topic) ? replica.getValue().size() : 0;
                    }
                }
            }
            say(JSON.createObjectNode().put("bytes", bytes));
        }
    }

    static void call(String verb, String[] words) throws Exception {
        switch (verb) {
            case "version" -> say(JSON.createObjectNode().put("version", AppInfoParser.getVersion()));
            case "produce" -> produce(words[0], words[1], words[2], words.length > 3 && words[3].equals("true"));
            case "consume" -> consume(words[0], words[1]);
            case "create" -> create(words[0], words[1], words[2], words[3]);
            case "list" -> list(words[0]);
            case "describe", "unknown" -> describe(words[0], words[1]);
            case "configs" -> configs(words[0], words[1]);
            case "alter" -> alter(words[0], words[1], words[2], words[3]);
            case "delete" -> delete(words[0], words[1]);
            case "offsets" -> offsets(words[0], words[1], words[2]);
            case "delete-records" -> deleteRecords(words[0], words[1], words[2], words[3]);
            case "log-dirs" -> logDirs(words[0], words[1]);
            default -> throw new NotOffered("the client has no such request");
        }
    }

    public static void main(String[] words) {
        try {
            call(words[0], Arrays.copyOfRange(words, 1, words.length));
        } catch (NotOffered why) {
            say(JSON.createObjectNode().put("not_offered", why.getMessage()));
        } catch (Exception failure) {
            Throwable cause = failure instanceof ExecutionException ? failure.getCause() : failure;
            if (cause instanceof ApiException && Errors.forException(cause) != Errors.UNKNOWN_SERVER_ERROR) {
                ObjectNode answer = JSON.createObjectNode();
                answer.putObject("error").put("code", Errors.forException(cause).code()).put("message", cause.getMessage());
                say(answer);
            } else {
                cause.printStackTrace();
                System.err.println(cause);
                System.exit(1);
            }
        }
    }
}
