//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs: the settings of topics and brokers, shown and changed.

use crate::{ErrorCode, codec::message};

/// Resource type: a topic.
pub const RESOURCE_TOPIC: i8 = 2;
/// Resource type: a broker.
pub const RESOURCE_BROKER: i8 = 4;

/// A value's source: set on the topic.
pub const SOURCE_TOPIC: i8 = 1;
/// A value's source: changed for all brokers while they ran.
pub const SOURCE_DYNAMIC_DEFAULT_BROKER: i8 = 3;
/// A value's source: what the broker was started with.
pub const SOURCE_STATIC_BROKER: i8 = 4;
/// A value's source: nobody set it.
pub const SOURCE_DEFAULT: i8 = 5;

message! {
    /// Asks for settings.
    pub struct DescribeConfigsRequest: 1..=4, flexible 4 {
        /// Of what.
        pub resources: Vec<DescribeConfigsResource>,
        /// Whether to tell where else each value could come from.
        pub include_synonyms: bool,
        /// Whether to explain each setting.
        pub include_documentation: bool [3..],
    }

    /// One thing asked about.
    pub struct DescribeConfigsResource {
        /// [`RESOURCE_TOPIC`] or [`RESOURCE_BROKER`].
        pub resource_type: i8,
        /// The topic's name, or the broker's number as text.
        pub resource_name: String,
        /// Which settings; null, or none, is all.
        pub configuration_keys: Option<Vec<String>>,
    }
}

message! {
    /// The settings.
    pub struct DescribeConfigsResponse: 1..=4, flexible 4 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By resource.
        pub results: Vec<DescribeConfigsResult>,
    }

    /// The settings of one thing.
    pub struct DescribeConfigsResult {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// [`RESOURCE_TOPIC`] or [`RESOURCE_BROKER`].
        pub resource_type: i8,
        /// The topic's name, or the broker's number as text.
        pub resource_name: String,
        /// The settings.
        pub configs: Vec<DescribeConfigsEntry>,
    }

    /// One setting.
    pub struct DescribeConfigsEntry {
        /// Its name.
        pub name: String,
        /// Its value; null when secret or unset.
        pub value: Option<String>,
        /// Whether it cannot be changed.
        pub read_only: bool,
        /// Where the value comes from: [`SOURCE_TOPIC`], [`SOURCE_DYNAMIC_DEFAULT_BROKER`], [`SOURCE_STATIC_BROKER`] or
        /// [`SOURCE_DEFAULT`].
        pub config_source: i8 = -1,
        /// Whether the value is secret.
        pub is_sensitive: bool,
        /// Where else it could come from.
        pub synonyms: Vec<DescribeConfigsSynonym>,
        /// Its type (Kafka's `ConfigType`: 1 boolean, 2 string, 3 int, 4 short, 5 long, 6 double, 7 list); 0 is unknown.
        pub config_type: i8 [3..],
        /// What it does, for people.
        pub documentation: Option<String> [3..],
    }

    /// Another place that a value could come from.
    pub struct DescribeConfigsSynonym {
        /// The setting's name there.
        pub name: String,
        /// Its value there.
        pub value: Option<String>,
        /// The place: as `config_source`.
        pub source: i8,
    }
}

message! {
    /// Replaces all settings: what is not named has its default again. Kafka's older way; [`IncrementalAlterConfigsRequest`] is the newer.
    pub struct AlterConfigsRequest: 0..=2, flexible 2 {
        /// Of what.
        pub resources: Vec<ReplacedConfigs>,
        /// Whether to check only.
        pub validate_only: bool,
    }

    /// All settings of one thing.
    pub struct ReplacedConfigs {
        /// [`RESOURCE_TOPIC`] or [`RESOURCE_BROKER`].
        pub resource_type: i8,
        /// The topic's name, or the broker's number as text.
        pub resource_name: String,
        /// Each setting at most once.
        pub configs: Vec<ReplacedConfig>,
    }

    /// One setting.
    pub struct ReplacedConfig {
        /// Its name.
        pub name: String,
        /// Its value; null is none.
        pub value: Option<String>,
    }
}

message! {
    /// What became of each.
    pub struct AlterConfigsResponse: 0..=2, flexible 2 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By resource.
        pub responses: Vec<AlterConfigsResourceResponse>,
    }
}

/// What to do with a setting: give it a value.
pub const OPERATION_SET: i8 = 0;
/// What to do with a setting: give it its default again.
pub const OPERATION_DELETE: i8 = 1;
/// What to do with a setting that is a list: add to it.
pub const OPERATION_APPEND: i8 = 2;
/// What to do with a setting that is a list: take from it.
pub const OPERATION_SUBTRACT: i8 = 3;

message! {
    /// Changes the settings that it names (KIP-339).
    pub struct IncrementalAlterConfigsRequest: 0..=1, flexible 1 {
        /// Of what.
        pub resources: Vec<AlterConfigsResource>,
        /// Whether to check only.
        pub validate_only: bool,
    }

    /// The changes of one thing: all of them are made or none.
    pub struct AlterConfigsResource {
        /// [`RESOURCE_TOPIC`] or [`RESOURCE_BROKER`].
        pub resource_type: i8,
        /// The topic's name, or the broker's number as text.
        pub resource_name: String,
        /// Each setting at most once.
        pub configs: Vec<AlterableConfig>,
    }

    /// The change of one setting.
    pub struct AlterableConfig {
        /// Its name.
        pub name: String,
        /// [`OPERATION_SET`], [`OPERATION_DELETE`], [`OPERATION_APPEND`] or [`OPERATION_SUBTRACT`].
        pub config_operation: i8,
        /// What to set, add or take; null where it is deleted.
        pub value: Option<String>,
    }
}

message! {
    /// What became of each.
    pub struct IncrementalAlterConfigsResponse: 0..=1, flexible 1 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// By resource.
        pub responses: Vec<AlterConfigsResourceResponse>,
    }

    /// What became of the changes of one thing.
    pub struct AlterConfigsResourceResponse {
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
        /// [`RESOURCE_TOPIC`] or [`RESOURCE_BROKER`].
        pub resource_type: i8,
        /// The topic's name, or the broker's number as text.
        pub resource_name: String,
    }
}
