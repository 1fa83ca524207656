//! Millstream's own messages: api keys from 20000, always flexible, version 0.
//!
//! Every answer begins with `error_code` and `error_message`: what went wrong, and the same for people.

pub mod cluster;
pub mod modules;
pub mod routing;
pub mod subscriptions;
pub mod transforms;
pub mod views;

use crate::codec::message;

message! { @structs
    /// A named value: a parameter or a declaration.
    pub struct Pair {
        /// The name.
        pub name: String,
        /// The value.
        pub value: String,
    }
}
