//! Variable-length integers: 7 bits a byte, low bits first, bit 7 set on all but the last (protobuf's); signed ones
//! zig-zag first.
//!
//! Encodings longer than needed are read, as Kafka reads them: some producers reserve a fixed width. Bits past the type's
//! are refused.

use bytes::BufMut;

/// Why a variable-length integer could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VarintError {
    /// The bytes end within the number.
    #[error("the bytes end within the number")]
    Truncated,
    /// More bits than the type has.
    #[error("the number has too many bits")]
    TooLarge,
}

/// Most bytes of a 32-bit number.
pub const VARINT_BYTES_MAX: usize = 5;
/// Most bytes of a 64-bit number.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Takes an unsigned 32-bit number off the front of `bytes`. On an error `bytes` is unchanged.
///
/// # Errors
/// [`VarintError`].
pub fn take_u32(bytes: &mut &[u8]) -> Result<u32, VarintError> {
    // Nearly all lengths and deltas have one byte.
    if let [first @ 0..=0x7f, rest @ ..] = *bytes {
        *bytes = rest;
        return Ok(u32::from(*first));
    }
    let mut value = 0;
    for (index, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        // The fifth byte holds the last 4 bits, and ends the number.
        if index == VARINT_BYTES_MAX - 1 && *byte > 0x0f {
            return Err(VarintError::TooLarge);
        }
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(VarintError::Truncated)
}

/// Takes an unsigned 64-bit number off the front of `bytes`. On an error `bytes` is unchanged.
///
/// # Errors
/// [`VarintError`].
pub fn take_u64(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    if let [first @ 0..=0x7f, rest @ ..] = *bytes {
        *bytes = rest;
        return Ok(u64::from(*first));
    }
    let mut value = 0;
    for (index, byte) in bytes.iter().take(VARLONG_BYTES_MAX).enumerate() {
        // The tenth byte holds the last bit, and ends the number.
        if index == VARLONG_BYTES_MAX - 1 && *byte > 0x01 {
            return Err(VarintError::TooLarge);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(VarintError::Truncated)
}

/// Takes a signed (zig-zag) 32-bit number off the front of `bytes`. On an error `bytes` is unchanged.
///
/// # Errors
/// [`VarintError`].
pub fn take_i32(bytes: &mut &[u8]) -> Result<i32, VarintError> {
    let zigzag = take_u32(bytes)?;
    Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

/// Takes a signed (zig-zag) 64-bit number off the front of `bytes`. On an error `bytes` is unchanged.
///
/// # Errors
/// [`VarintError`].
pub fn take_i64(bytes: &mut &[u8]) -> Result<i64, VarintError> {
    let zigzag = take_u64(bytes)?;
    Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

/// Writes an unsigned 32-bit number: 1 to 5 bytes.
pub fn put_u32(out: &mut impl BufMut, value: u32) {
    put_u64(out, u64::from(value));
}

/// Writes an unsigned 64-bit number: 1 to 10 bytes.
pub fn put_u64(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Writes a signed 32-bit number, zig-zag: 1 to 5 bytes.
pub fn put_i32(out: &mut impl BufMut, value: i32) {
    put_u32(out, ((value << 1) ^ (value >> 31)).cast_unsigned());
}

/// Writes a signed 64-bit number, zig-zag: 1 to 10 bytes.
pub fn put_i64(out: &mut impl BufMut, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// How many bytes [`put_u64`] (and [`put_u32`]) writes.
#[must_use]
pub const fn len_u64(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// How many bytes [`put_i32`] writes.
#[must_use]
pub const fn len_i32(value: i32) -> usize {
    len_u64(((value << 1) ^ (value >> 31)).cast_unsigned() as u64)
}

/// How many bytes [`put_i64`] writes.
#[must_use]
pub const fn len_i64(value: i64) -> usize {
    len_u64(((value << 1) ^ (value >> 63)).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let check = |value: i64, expected: &[u8]| {
            let mut out = Vec::new();
            put_i64(&mut out, value);
            assert_eq!(out, expected, "{value}");
            assert_eq!(take_i64(&mut &*out), Ok(value));
        };
        check(0, &[0]);
        check(-1, &[1]);
        check(1, &[2]);
        check(63, &[0x7e]);
        check(-64, &[0x7f]);
        check(64, &[0x80, 0x01]);
        check(300, &[0xd8, 0x04]);
        check(i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]);
        check(i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        check(i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    }

    #[test]
    fn what_is_cut_off_or_too_large_is_refused_and_padding_is_not() {
        for bytes in [&[][..], &[0x80], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(take_u32(&mut &*bytes), Err(VarintError::Truncated), "{bytes:?}");
        }
        for bytes in [&[0xff, 0xff, 0xff, 0xff, 0x10][..], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]] {
            assert_eq!(take_u32(&mut &*bytes), Err(VarintError::TooLarge), "{bytes:?}");
        }
        assert_eq!(take_u64(&mut &[0xff; 11][..]), Err(VarintError::TooLarge));
        assert_eq!(take_u32(&mut &[0x81, 0x80, 0x80, 0x80, 0x00][..]), Ok(1));
    }

    proptest! {
        #[test]
        fn what_is_put_is_taken(value: i64, unsigned: u64, small: i32, rest: [u8; 3]) {
            let mut out = Vec::new();
            put_i64(&mut out, value);
            prop_assert_eq!(out.len(), len_i64(value));
            put_u64(&mut out, unsigned);
            prop_assert_eq!(out.len(), len_i64(value) + len_u64(unsigned));
            put_i32(&mut out, small);
            prop_assert_eq!(out.len(), len_i64(value) + len_u64(unsigned) + len_i32(small));
            out.extend(rest);
            let mut bytes = &*out;
            prop_assert_eq!(take_i64(&mut bytes), Ok(value));
            prop_assert_eq!(take_u64(&mut bytes), Ok(unsigned));
            prop_assert_eq!(take_i32(&mut bytes), Ok(small));
            prop_assert_eq!(bytes, rest);
        }

        #[test]
        fn a_refused_number_takes_nothing(bytes: [u8; 12]) {
            let mut rest = &bytes[..];
            if take_u32(&mut rest).is_err() {
                prop_assert_eq!(rest, bytes);
            }
        }
    }
}
