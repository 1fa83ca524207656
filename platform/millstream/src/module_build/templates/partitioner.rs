//! Puts records together whose keys have the same beginning: `eu:42` and `eu:43` with the separator `:`.

use millstream_guest::{Failure, Param, Params, Partitioner, Record, hash};

struct ByPrefix {
    separator: String,
}

millstream_guest::export!(ByPrefix as partitioner);

impl Partitioner for ByPrefix {
    const PARAMS: &'static [Param] = &[Param::default("separator", ":")];
    // A partitioner sees keys alone unless it asks for more:
    // const NEEDS: millstream_guest::Needs = millstream_guest::Needs::VALUE;

    fn init(params: &Params) -> Result<Self, Failure> {
        Ok(ByPrefix { separator: params.required("separator")?.to_owned() })
    }

    /// `None` leaves the choice to the hash of the whole key.
    fn partition(&self, record: &Record, partitions: u32) -> Result<Option<u32>, Failure> {
        let Some(key) = record.key() else { return Ok(None) };
        let Some((prefix, _)) = std::str::from_utf8(key)?.split_once(&self.separator) else { return Ok(None) };
        Ok(Some(hash::kafka_partition(prefix.as_bytes(), partitions)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_guest::testing::{Input, partitioner};

    #[test]
    fn equal_prefixes_share_a_partition() {
        let records = ["eu:42", "eu:43", "us:42", "42"].map(|key| Input::new("value").key(key));
        let placed = partitioner::<ByPrefix>(&[], &records, 1000).unwrap();
        assert!(placed[0].is_some() && placed[0] == placed[1] && placed[0] != placed[2]);
        assert_eq!(placed[3], None);
    }
}
