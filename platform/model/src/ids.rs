//! Numbers and UUIDs that identify things, each with one meaning.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

macro_rules! unique {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The nil UUID: "none" on the wire, never given to anything.
            pub const NIL: Self = Self(Uuid::nil());
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A record's position in its partition: dense, from 0, never reused. As an *end* it is exclusive.
    Offset(i64)
}
number! {
    /// A partition's index within its topic, from 0.
    PartitionId(i32)
}
number! {
    /// A partition leader's term: grows by one with every election. -1 stands for "unknown" on the wire.
    LeaderEpoch(i32)
}
number! {
    /// A broker's number in its cluster, from 0.
    BrokerId(i32)
}
number! {
    /// A producer's number for idempotence; -1 is "none". Bit 62 is reserved for transforms.
    ProducerId(i64)
}
number! {
    /// The incarnation of a producer id; -1 is "none".
    ProducerEpoch(i16)
}
number! {
    /// A batch's place among those of one producer and partition; -1 is "none". Wraps from `i32::MAX` to 0.
    Sequence(i32)
}
number! {
    /// Counts the changes of how a topic's records are placed: partitioner version or number of partitions.
    RoutingEpoch(i32)
}
number! {
    /// Milliseconds since 1970-01-01 UTC; -1 is "none".
    TimestampMs(i64)
}
unique! {
    /// A topic's identity: new when a topic of the same name is created again (KIP-516).
    TopicId
}
unique! {
    /// A view's identity.
    ViewId
}
unique! {
    /// A transform deployment's identity.
    TransformId
}

impl Offset {
    /// The offset `count` records further on.
    ///
    /// # Panics
    /// When the sum passes `i64::MAX`, which no log that can be stored reaches.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0.checked_add(count).unwrap_or_else(|| panic!("offset {} + {count} overflows", self.0)))
    }
}

impl ProducerId {
    /// "No producer id": the batch is not idempotent.
    pub const NONE: Self = Self(-1);
    /// Ids from here on are the broker's own (transforms), never given to clients nor taken from them.
    pub const RESERVED: Self = Self(1 << 62);

    /// Whether a client may have it.
    #[must_use]
    pub fn is_clients(self) -> bool {
        (0..Self::RESERVED.0).contains(&self.0)
    }
}

impl ProducerEpoch {
    /// "No epoch": there is no producer id either.
    pub const NONE: Self = Self(-1);
}

impl Sequence {
    /// "No sequence": there is no producer id either.
    pub const NONE: Self = Self(-1);

    /// The sequence `count` records further on; `i32::MAX` is followed by 0.
    #[must_use]
    pub fn plus(self, count: i32) -> Self {
        // Sequences have 31 bits: what does not fit wraps into them.
        Self(self.0.wrapping_add(count) & i32::MAX)
    }
}

impl LeaderEpoch {
    /// "Unknown": the client does not say, or the broker does not know.
    pub const UNKNOWN: Self = Self(-1);
}

impl RoutingEpoch {
    /// "Unknown": who has placed the records does not say, as no Kafka client does.
    pub const UNKNOWN: Self = Self(-1);

    /// Whether it is said.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.0 >= 0
    }
}

/// One partition of one topic, by identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionId,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(Sequence(7).plus(3), Sequence(10));
        assert_eq!(Sequence(i32::MAX).plus(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(4), Sequence(2));
        assert_eq!(Sequence(i32::MAX).plus(i32::MAX), Sequence(i32::MAX - 1));
    }

    #[test]
    fn clients_have_ids_below_the_reserved_ones() {
        for (id, clients) in
            [(-2, false), (-1, false), (0, true), ((1 << 62) - 1, true), (1 << 62, false), (i64::MAX, false)]
        {
            assert_eq!(ProducerId(id).is_clients(), clients, "{id}");
        }
    }
}
