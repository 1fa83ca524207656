//! Why requests are answered otherwise.

use super::{ANY, Reason, place};

/// In the order in which they are told. The first reason that fits a difference is its reason: what is special comes first.
pub const REQUESTS: &[Reason] = &[
    Reason {
        title: "Not built yet",
        why: "Consumer groups of each kind, transactions, access rights, SASL, delegation tokens and quotas are not there yet, nor is moving \
              replicas: clients see from ApiVersions that they are not offered. What Kafka's brokers and controllers say to each other, and \
              how a KRaft quorum is changed, will not be there: brokers agree in their own way. Version 5 of DescribeLogDirs tells which \
              directories take no new partitions, and a broker here has one directory.",
        places: &[
            place("ApiVersions: asked", "only one has", "", ANY),
            place("ApiVersions: asked", "api_keys[DescribeLogDirs]", "1-4", "1-5"),
            place("Produce: a transaction's batch without a transaction", "error_code", "42 InvalidRequest", ANY),
        ],
    },
    Reason {
        title: "No feature levels",
        why: "Kafka's features (metadata.version, group.version and so on) say which of its inner formats a cluster has agreed on. The \
              formats here are not Kafka's, and there is nothing for kafka-features.sh to raise.",
        places: &[
            place("ApiVersions: asked", "supported_features.count", "0", ANY),
            place("ApiVersions: asked", "finalized_features.count", "0", ANY),
        ],
    },
    Reason {
        title: "Clients need not name their software",
        why: "Kafka refuses an ApiVersions request without a client's name and version. Nothing here depends on them, and a client that \
              does not name itself is served.",
        places: &[
            place("ApiVersions: nameless software", "error_code", "0", "42"),
            place("ApiVersions: nameless software", "only one has", ANY, ""),
        ],
    },
    Reason {
        title: "Other settings",
        why: "Settings of Kafka's that would do nothing here are not shown, and where they are set they are refused unless it is to Kafka's \
              default: the levels of compression (batches are stored as they were sent), flushing (what is acknowledged is on the disk: \
              millstream.durability), files and their index, preallocation, unclean elections, throttling of replicas, and remote \
              storage. Those that begin with millstream. are ours.",
        places: &[
            place("CreateTopics", "only one has", ANY, ANY),
            place("DescribeConfigs: no settings", "only one has", ANY, ANY),
        ],
    },
    Reason {
        title: "The source of min.insync.replicas",
        why: "A new Kafka cluster sets it for itself, as a default that can be changed while it runs, because eligible leader replicas need \
              it there. Here it is a default like others; its value is the same.",
        places: &[
            place("CreateTopics", "configs[min.insync.replicas].config_source", "5", "3"),
            place("DescribeConfigs", "configs[min.insync.replicas].config_source", "5", "3"),
        ],
    },
    Reason {
        title: "The order of a list",
        why: "A list is a set here, and is told in one order; Kafka tells it as it was written.",
        places: &[place(
            "DescribeConfigs: of a topic with another list",
            "value",
            "\"compact,delete\"",
            "\"delete,compact\"",
        )],
    },
    Reason {
        title: "Where retention.ms comes from",
        why: "Kafka's default is that of log.retention.hours, which it lists among the settings that stand behind retention.ms only where \
              another does, too. Here log.retention.ms has the value that is in force, and is listed.",
        places: &[
            place("DescribeConfigs: a default, with synonyms", "synonyms.count", "1", "0"),
            place("DescribeConfigs: of a topic with its default again", "synonyms.count", "1", "0"),
            place("DescribeConfigs: of a", ".name", "\"log.retention.ms\"", "\"log.retention.hours\""),
            place("DescribeConfigs: of a", ".value", "\"604800000\"", "\"168\""),
        ],
    },
    Reason {
        title: "No id for a topic that is not made",
        why: "Where CreateTopics only checks, Kafka tells an id that no topic will have.",
        places: &[place("CreateTopics", "topic_id", "not told", "told")],
    },
    Reason {
        title: "Named twice, answered once",
        why: "Asked about the settings of one thing twice in a request, or for changes to them, Kafka answers twice with the same: a small \
              request could so have a topic's settings told a thousand times. Here it is answered once; changes are refused by both.",
        places: &[
            place("DescribeConfigs: the same topic twice", "results.count", "1", "2"),
            place("IncrementalAlterConfigs: the same topic twice", "responses.count", "1", "2"),
        ],
    },
    Reason {
        title: "Records deleted twice",
        why: "Where one DeleteRecords request names a partition twice, Kafka heeds and answers the last. Here both are done, and answered.",
        places: &[place("DeleteRecords: one partition twice", "partitions.count", "2", "1")],
    },
    Reason {
        title: "Mistakes in changes of settings",
        why: "To take a setting back that there is not does nothing in Kafka; here it is refused as an unknown setting is that is set: it may \
              be misspelt. An unknown operation fails within Kafka, which tells no reason; here it is an invalid request.",
        places: &[
            place("IncrementalAlterConfigs: back to no default", "error_code", "40 InvalidConfig", "0 None"),
            place(
                "IncrementalAlterConfigs: an unknown operation",
                "error_code",
                "42 InvalidRequest",
                "-1 UnknownServer",
            ),
        ],
    },
    Reason {
        title: "What may be done to topics that are not there",
        why: "DescribeTopicPartitions of a topic that is not there tells in Kafka what could be done to it. Here that is not told.",
        places: &[place("DescribeTopicPartitions", "topic_authorized_operations", "-2147483648", "3576")],
    },
    Reason {
        title: "Where a log begins and ends, also to who reads outside of it",
        why: "Refused an offset out of range, a consumer here is told the first and the last one; in Kafka it asks for them with \
              ListOffsets, which clients do here too.",
        places: &[
            place("Fetch: from", "high_watermark", "10", "-1"),
            place("Fetch: from", "last_stable_offset", "10", "-1"),
            place("Fetch: from", "log_start_offset", "0", "-1"),
        ],
    },
    Reason {
        title: "No list of aborted transactions",
        why: "Of partitions that it does not know, Kafka tells an empty list of aborted transactions also to who does not ask for committed \
              records only; of others it tells none, as Millstream does of all.",
        places: &[
            place("Fetch", "aborted_transactions", "None", ""),
            place("Fetch", "aborted_transactions.count", "", "0"),
        ],
    },
    Reason {
        title: "Special times are known in every version",
        why: "Kafka answers -3 to -6 (the latest time, the first here, those about remote storage) from the version on in which each came, \
              and refuses them in earlier ones. They mean nothing else there, and here they are answered.",
        places: &[
            place("ListOffsets: of nothing, the latest time", "error_code", "0 None", "35 UnsupportedVersion"),
            place("ListOffsets: the first on a disk here", "error_code", "0 None", "35 UnsupportedVersion"),
            place("ListOffsets: the first on a disk here", ".offset", "0", "-1"),
            place("ListOffsets: the first to be uploaded", "error_code", "0 None", "35 UnsupportedVersion"),
            place("ListOffsets: the last in remote storage", "error_code", "0 None", "35 UnsupportedVersion"),
            place("ListOffsets: the latest time", "error_code", "0 None", "35 UnsupportedVersion"),
            place("ListOffsets: the latest time", ".offset", "9", "-1"),
            place("ListOffsets: the latest time", ".timestamp", ANY, "-1"),
            place("ListOffsets: the latest time", ".leader_epoch", "told", "not told"),
            place("ListOffsets: the first on a disk here", ".leader_epoch", "told", "not told"),
        ],
    },
    Reason {
        title: "Batches that cannot be read: other codes",
        why: "A batch of another format than version 2 is told so by its own code (43), upon which no client tries again; Kafka calls old ones \
              invalid, and new ones corrupt, which its clients send again until their time is up. A batch that is cut off is corrupt \
              here, as one with a wrong checksum is in both; Kafka does not see it, and says that a batch is missing. An unknown codec \
              and bytes that do not unpack fail within Kafka, which tells no reason.",
        places: &[
            place("Produce: a format to come", "error_code", "43 UnsupportedForMessageFormat", "2 CorruptMessage"),
            place("Produce: an old format", "error_code", "43 UnsupportedForMessageFormat", "87 InvalidRecord"),
            place("Produce: half a batch", "error_code", "2 CorruptMessage", "87 InvalidRecord"),
            place("Produce: half a header", "error_code", "2 CorruptMessage", "87 InvalidRecord"),
            place(
                "Produce: a codec that there is not",
                "error_code",
                "76 UnsupportedCompressionType",
                "-1 UnknownServer",
            ),
            place("Produce: what is not compressed as it says", "error_code", "87 InvalidRecord", "-1 UnknownServer"),
        ],
    },
    Reason {
        title: "Null instead of records",
        why: "Kafka does not answer at all, and its client waits until its time is up. Here it is refused.",
        places: &[place("Produce: null records", "connection", "answers", "no answer")],
    },
    Reason {
        title: "A producer without an epoch",
        why: "Kafka takes a batch with a producer's id and sequence number and with -1 for its epoch, though that cannot be told from one of \
              an older producer. Here it is refused.",
        places: &[
            place("Produce: a producer's number without its epoch", "error_code", "87 InvalidRecord", "0 None"),
            place("Produce: a producer's number without its epoch", "base_offset", "-1", "1"),
        ],
    },
    Reason {
        title: "The time of a batch that was there already",
        why: "For an idempotent producer's batch that it has already, Kafka tells its records' latest time as the time of appending, which it \
              did not tell the first time. Here neither answer has one: the topic keeps the producer's times.",
        places: &[place("Produce", "log_append_time_ms", "not told", "told")],
    },
    Reason {
        title: "No offsets with a refusal",
        why: "For some reasons to refuse a batch, Kafka tells where the log begins, for others it does not. Here it is not told with any: nothing \
              was appended.",
        places: &[place("Produce", "log_start_offset", "-1", "0")],
    },
    Reason {
        title: "Reasons in words",
        why: "Where Kafka tells a code alone, Millstream tells in words what is wrong and, where it can, what to do. In answers of Fetch and \
              ListOffsets, which have no room for words, they are in a tagged field that Kafka's clients pass over.",
        places: &[
            place("Fetch", "error_message", "told", "not told"),
            place("ListOffsets", "error_message", "told", "not told"),
            place("Produce", "error_message", "told", "not told"),
            place("DescribeConfigs", "error_message", "told", "not told"),
            place("DescribeProducers", "error_message", "told", "not told"),
            place("IncrementalAlterConfigs", "error_message", "told", "not told"),
        ],
    },
];
