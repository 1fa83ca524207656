//! Random values of every message, for tests and fuzzers: the macro that declares a message also says how to draw one.

use bytes::Bytes;
use millstream_model::{
    BrokerId, Digest, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, RoutingEpoch, TimestampMs, TopicId,
    TransformId, ViewId,
};
use uuid::Uuid;

use crate::{ErrorCode, RecordParts};

/// SplitMix64: small, and the same everywhere for one seed.
#[derive(Clone, Debug)]
pub struct SampleRng(pub u64);

impl SampleRng {
    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Can be drawn.
pub trait Sample {
    /// Draws one.
    fn sample(rng: &mut SampleRng) -> Self;
}

macro_rules! number {
    ($($number:ident),*) => {$(
        impl Sample for $number {
            /// Now and then an edge, else anything.
            fn sample(rng: &mut SampleRng) -> Self {
                match rng.below(6) {
                    0 => 0,
                    1 => -1,
                    2 => [$number::MIN, $number::MAX][rng.below(2)],
                    _ => rng.next() as $number,
                }
            }
        }
    )*};
}

number!(i8, i16, i32, i64);

macro_rules! newtype {
    ($($name:ident),*) => {$(
        impl Sample for $name {
            fn sample(rng: &mut SampleRng) -> Self {
                Self(Sample::sample(rng))
            }
        }
    )*};
}

newtype!(BrokerId, LeaderEpoch, PartitionId, RoutingEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs);
newtype!(TopicId, TransformId, ViewId);

impl Sample for bool {
    fn sample(rng: &mut SampleRng) -> Self {
        rng.below(2) == 1
    }
}

impl Sample for Uuid {
    fn sample(rng: &mut SampleRng) -> Self {
        Self::from_u64_pair(rng.next(), rng.next())
    }
}

impl Sample for Digest {
    fn sample(rng: &mut SampleRng) -> Self {
        Self(std::array::from_fn(|_| rng.next() as u8))
    }
}

impl Sample for ErrorCode {
    fn sample(rng: &mut SampleRng) -> Self {
        match rng.below(4) {
            0 => Self::from_code(Sample::sample(rng)),
            _ => Self::ALL[rng.below(Self::ALL.len())],
        }
    }
}

impl Sample for String {
    /// Lengths on both sides of where a compact length takes a second byte.
    fn sample(rng: &mut SampleRng) -> Self {
        let length = [0, 1, 5, 126, 127, 200][rng.below(6)];
        (0..length).map(|_| ['a', 'Z', '-', '0', 'é', '水', '"'][rng.below(7)]).collect()
    }
}

impl Sample for Bytes {
    /// Lengths on both sides of where a byte string becomes a part of its own.
    fn sample(rng: &mut SampleRng) -> Self {
        let length = [0, 1, 100, 1023, 1024, 3000][rng.below(6)];
        (0..length).map(|_| rng.next() as u8).collect()
    }
}

impl Sample for RecordParts {
    fn sample(rng: &mut SampleRng) -> Self {
        Self((0..rng.below(4)).map(|_| Bytes::sample(rng)).collect())
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(rng: &mut SampleRng) -> Self {
        (0..rng.below(4)).map(|_| T::sample(rng)).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(rng: &mut SampleRng) -> Self {
        (rng.below(3) > 0).then(|| T::sample(rng))
    }
}
