//! Hashes whose results are part of what a module promises: they never change.

/// The partition in which Kafka's producers put a record with this key, under `partitions`: the positive half of [`murmur2`]
/// modulo their number. 0 if there are none.
pub fn kafka_partition(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

/// The murmur2 of Kafka's clients (`org.apache.kafka.common.utils.Utils.murmur2`), as unsigned bits.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn kafkas_own_values() {
        let check = |bytes: &[u8], expected: i32| assert_eq!(murmur2(bytes) as i32, expected, "{bytes:?}");
        check(b"21", -973932308);
        check(b"foobar", -790332482);
        check(b"a-little-bit-long-string", -985981536);
        check(b"a-little-bit-longer-string", -1486304829);
        check(b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971);
        check(b"abc", 479470107);
    }

    #[test]
    fn partitions_are_in_range() {
        assert_eq!(kafka_partition(b"foobar", 0), 0);
        assert!((1..100).all(|partitions| kafka_partition(b"foobar", partitions) < partitions));
    }
}
