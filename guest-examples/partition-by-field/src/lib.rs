//! Places JSON records by one of their fields, so that everything about one aircraft, user or order is in one partition, in order,
//! whatever the records' keys are.
//!
//! The partition is that of Kafka's own partitioner for a key with the field's text (murmur2, see
//! [`millstream_guest::hash::kafka_partition`]): a string's content, or the text of a number, `true` or `false`.
//!
//! - `field`: the name of the field.
//! - `strict`: `true` refuses a record without a text in that field, and with it the whole request that brings it. Otherwise
//!   such a record goes where its key says.

use millstream_guest::json::Object;
use millstream_guest::{Failure, Needs, Param, Params, Partitioner, Record, hash};

struct ByField {
    field: String,
    strict: bool,
}

millstream_guest::export!(ByField as partitioner);

impl Partitioner for ByField {
    const PARAMS: &'static [Param] = &[Param::required("field"), Param::default("strict", "false")];
    const NEEDS: Needs = Needs::VALUE;

    fn init(params: &Params) -> Result<Self, Failure> {
        Ok(ByField { field: params.required("field")?.to_owned(), strict: params.flag("strict")? })
    }

    fn partition(&self, record: &Record, partitions: u32) -> Result<Option<u32>, Failure> {
        let object = record.value().and_then(|value| Object::parse(value).ok());
        let text = object.as_ref().and_then(|object| object.field(&self.field)?.text());
        match text {
            Some(text) => Ok(Some(hash::kafka_partition(text.as_bytes(), partitions))),
            None if self.strict => {
                Err(Failure::record(format_args!("field missing: the record has no text in `{}`", self.field)))
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_guest::testing::{Input, partitioner};

    #[test]
    fn equal_fields_share_a_partition_whatever_their_keys() {
        let records = [
            Input::new(r#"{"tailnum":"N14228","flight":1545}"#).key("a"),
            Input::new(r#"{"flight":1,"tailnum":"N1422\u0038"}"#).key("b"),
            Input::new(r#"{"tailnum":"N24211"}"#).key("a"),
        ];
        let placed = partitioner::<ByField>(&[("field", "tailnum")], &records, 1000).unwrap();
        assert_eq!(placed, [Some(hash::kafka_partition(b"N14228", 1000)), placed[0], placed[2]]);
        assert_ne!(placed[0], placed[2]);
    }

    #[test]
    fn a_record_without_the_field_follows_its_key_unless_strict() {
        let records = [Input::new("{}"), Input::new(r#"{"tailnum":null}"#), Input::new("not JSON"), Input::tombstone()];
        assert_eq!(partitioner::<ByField>(&[("field", "tailnum")], &records, 4), Ok(vec![None; 4]));
        for record in records {
            let refused =
                partitioner::<ByField>(&[("field", "tailnum"), ("strict", "true")], &[record], 4).unwrap_err();
            assert!(refused.message().starts_with("field missing"), "{refused}");
        }
    }
}
