//! The newest offset of each key, in bounded memory.

use std::collections::HashMap;

use millstream_model::Offset;
use sha2::{Digest, Sha256};

/// What one key takes, bytes: 24 in a table that is between 7/16 and 7/8 full, beside half of it while it grows.
const ENTRY_BYTES: usize = 96;

/// A key's name: half of its SHA-256. Two keys that share one would lose records, so not even chosen ones may (Kafka uses MD5).
type Name = [u8; 16];

/// See the module.
pub(super) struct Keys {
    newest: HashMap<Name, Offset>,
    max: usize,
}

impl Keys {
    /// No key; `bytes_max` bounds the memory of those to come.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { newest: HashMap::new(), max: (bytes_max / ENTRY_BYTES).max(1) }
    }

    /// Whether no more keys should be added.
    pub(super) fn is_full(&self) -> bool {
        self.newest.len() >= self.max
    }

    /// Notes that the key's newest record is at that offset. Offsets ascend from call to call.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) {
        self.newest.insert(name(key), offset);
    }

    /// The newest record's offset, of a key that was noted.
    pub(super) fn newest(&self, key: &[u8]) -> Option<Offset> {
        self.newest.get(&name(key)).copied()
    }
}

fn name(key: &[u8]) -> Name {
    let digest = Sha256::digest(key);
    let mut name = Name::default();
    name.copy_from_slice(&digest[..16]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_key_is_known_and_their_number_is_bounded() {
        let mut keys = Keys::new(10 * ENTRY_BYTES);
        for at in 0..30i64 {
            assert_eq!(keys.is_full(), at >= 10);
            keys.note(format!("key {}", at % 15).as_bytes(), Offset(at));
        }
        assert_eq!(keys.newest(b"key 3"), Some(Offset(18)));
        assert_eq!(keys.newest(b"key 14"), Some(Offset(29)));
        assert_eq!(keys.newest(b"key 15"), None);
    }
}
