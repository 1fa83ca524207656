//! FindCoordinator: who looks after a consumer group.

use millstream_model::BrokerId;

use crate::{ErrorCode, codec::message};

message! {
    /// Asks for coordinators.
    pub struct FindCoordinatorRequest: 0..=6, flexible 3 {
        /// The group, up to version 3.
        pub key: String [..=3],
        /// 0 for consumer groups, 1 for transactions, 2 for share groups.
        pub key_type: i8 [1..],
        /// The groups, from version 4 on.
        pub coordinator_keys: Vec<String> [4..],
    }
}

message! {
    /// The coordinators.
    pub struct FindCoordinatorResponse: 0..=6, flexible 3 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32 [1..],
        /// What went wrong, if anything did; up to version 3.
        pub error_code: ErrorCode [..=3],
        /// The same for people.
        pub error_message: Option<String> [1..=3],
        /// The coordinator, up to version 3.
        pub node_id: BrokerId [..=3],
        /// Its host name.
        pub host: String [..=3],
        /// Its port.
        pub port: i32 [..=3],
        /// By group, from version 4 on.
        pub coordinators: Vec<Coordinator> [4..],
    }

    /// One group's coordinator.
    pub struct Coordinator {
        /// The group.
        pub key: String,
        /// The coordinator.
        pub node_id: BrokerId,
        /// Its host name.
        pub host: String,
        /// Its port.
        pub port: i32,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The same for people.
        pub error_message: Option<String>,
    }
}
