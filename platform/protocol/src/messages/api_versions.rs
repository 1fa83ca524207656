//! ApiVersions: what a broker serves, asked first on every connection.

use crate::{ErrorCode, codec::message};

message! {
    /// Asks which apis and versions the broker serves.
    pub struct ApiVersionsRequest: 0..=4, flexible 3 {
        /// The client's name, for people.
        pub client_software_name: String [3..],
        /// The client's version, for people.
        pub client_software_version: String [3..],
    }
}

message! {
    /// What the broker serves.
    pub struct ApiVersionsResponse: 0..=4, flexible 3 {
        /// [`ErrorCode::UnsupportedVersion`] when the request's version was too new: then this is version 0, and
        /// `api_keys` says which version to ask again with.
        pub error_code: ErrorCode,
        /// The apis.
        pub api_keys: Vec<ApiVersion>,
        /// How long the client is held back, milliseconds.
        pub throttle_time_ms: i32 [1..],
        /// Features that the broker could switch on.
        pub supported_features: Vec<SupportedFeature> [tag 0, 3..],
        /// Grows with every change of the features; -1 is unknown.
        pub finalized_features_epoch: i64 [tag 1, 3..] = -1,
        /// Features that are on.
        pub finalized_features: Vec<FinalizedFeature> [tag 2, 3..],
    }

    /// One api and its versions.
    pub struct ApiVersion {
        /// The api key.
        pub api_key: i16,
        /// The lowest version.
        pub min_version: i16,
        /// The highest version.
        pub max_version: i16,
    }

    /// A feature that the broker could switch on.
    pub struct SupportedFeature {
        /// Its name.
        pub name: String,
        /// The lowest level.
        pub min_version: i16,
        /// The highest level.
        pub max_version: i16,
    }

    /// A feature that is on.
    pub struct FinalizedFeature {
        /// Its name.
        pub name: String,
        /// The highest level in use.
        pub max_version_level: i16,
        /// The lowest level in use.
        pub min_version_level: i16,
    }
}
