//! Kafka's variable-length integers: zigzag, seven bits a byte, least significant first.

/// The value at the start of `bytes` and what follows it; `None` if it is cut short or longer than ten bytes.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Option<(i64, &[u8])> {
    // Nearly all of them are one byte: lengths under 64, small deltas.
    if let [first, rest @ ..] = bytes
        && *first < 0x80
    {
        return Some((unzigzag(u64::from(*first)), rest));
    }
    read_long(bytes)
}

fn read_long(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((unzigzag(value), &bytes[index + 1..]));
        }
    }
    None
}

/// Appends `value`, at most ten bytes.
#[inline]
pub(crate) fn write(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes that [`write`] takes for `value`.
#[inline]
pub(crate) fn size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_in_the_size_that_was_promised() {
        for value in [0, -1, 1, 63, 64, -64, -65, 8191, 8192, 1 << 40, i64::from(i32::MAX), i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            assert_eq!(bytes.len(), size(value), "size of {value}");
            bytes.push(0xaa);
            assert_eq!(read(&bytes), Some((value, &[0xaa][..])), "{value}");
        }
    }

    #[test]
    fn known_bytes() {
        let mut bytes = Vec::new();
        for value in [0, -1, 1, 64, -65] {
            write(&mut bytes, value);
        }
        assert_eq!(bytes, [0x00, 0x01, 0x02, 0x80, 0x01, 0x81, 0x01]);
    }

    #[test]
    fn cut_short_or_endless_is_none() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0x80]), None);
        assert_eq!(read(&[0x80; 11]), None);
    }
}
