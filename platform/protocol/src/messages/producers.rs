//! InitProducerId: who a producer is, so that a batch that it repeats is known again.

use millstream_model::{ProducerEpoch, ProducerId};

use crate::{ErrorCode, codec::message};

message! {
    /// Asks for a producer id, or for the next epoch of one.
    pub struct InitProducerIdRequest: 0..=5, flexible 2 {
        /// The transaction's id, if any.
        pub transactional_id: Option<String>,
        /// How long a transaction may take before it is given up, milliseconds.
        pub transaction_timeout_ms: i32,
        /// The producer's id, if it has one and wants its next epoch (KIP-360); -1 asks for a new one.
        pub producer_id: ProducerId [3..] = ProducerId::NONE,
        /// Its present epoch; -1 without an id.
        pub producer_epoch: ProducerEpoch [3..] = ProducerEpoch::NONE,
    }
}

message! {
    /// Who the producer is from now on.
    pub struct InitProducerIdResponse: 0..=5, flexible 2 {
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32,
        /// What went wrong, if anything did.
        pub error_code: ErrorCode,
        /// The id; -1 with an error.
        pub producer_id: ProducerId = ProducerId::NONE,
        /// Its epoch. Kafka's default here is 0, which is also the epoch of every new id.
        pub producer_epoch: ProducerEpoch,
    }
}
