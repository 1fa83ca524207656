//! Why clients' programs are told otherwise.

use super::{ANY, Reason, place};

/// In the order in which they are told. The first reason that fits a difference is its reason: what is special comes first.
pub const CLIENTS: &[Reason] = &[Reason {
    title: "Other settings",
    why: "As above: what of Kafka's would do nothing here is not there, and what begins with millstream. is ours.",
    places: &[place("describe settings", "only one has", ANY, ANY)],
}];
