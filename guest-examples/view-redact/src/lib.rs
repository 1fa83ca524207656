//! Leaves fields out of JSON records: the view to hand to readers who must not see a tail number or an address.
//!
//! - `fields`: the names, separated by commas. Fields of the object itself; what lies inside nested objects is not looked at.
//! - `key`: `drop` leaves out the records' keys too, if they repeat what is redacted; `keep` by default.
//!
//! A value that is not a JSON object cannot be redacted, so it is not shown: the record is left out, and the log says so.
//! Tombstones pass.

use millstream_guest::json::Object;
use millstream_guest::{Failure, Mapper, Out, Param, Params, Record, log};

struct Redact {
    fields: Vec<String>,
    drop_key: bool,
}

millstream_guest::export!(Redact as mapper);

impl Mapper for Redact {
    const PARAMS: &'static [Param] = &[Param::required("fields"), Param::default("key", "keep")];

    fn init(params: &Params) -> Result<Self, Failure> {
        let fields: Vec<String> = params.list("fields").map(str::to_owned).collect();
        if fields.is_empty() {
            return Err(Failure::config("parameter `fields` names no field"));
        }
        let drop_key = match params.required("key")? {
            "keep" => false,
            "drop" => true,
            other => return Err(Failure::config(format_args!("parameter `key` is `{other}`: it is keep or drop"))),
        };
        Ok(Redact { fields, drop_key })
    }

    fn map(&self, record: &Record, out: &mut Out) -> Result<(), Failure> {
        let key = record.key().filter(|_| !self.drop_key);
        let Some(value) = record.value() else {
            out.to(0).like(record).key(key).value(None::<&[u8]>).send();
            return Ok(());
        };
        let Ok(mut object) = Object::parse(value) else {
            log::warn(format_args!("offset {}: not a JSON object, left out", record.offset()));
            return Ok(());
        };
        let mut changed = false;
        for field in &self.fields {
            changed |= object.remove(field);
        }
        if changed || self.drop_key {
            out.to(0).like(record).key(key).value(&object.to_text()).send();
        } else {
            out.forward(record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_guest::testing::{BASE_TIMESTAMP_MS, Input, mapper};

    #[test]
    fn fields_go_and_everything_else_stays() {
        let records = [
            Input::new(r#"{"a":1.0,"tailnum":"N1","b":[1],"tail\u006eum":"N1"}"#).key("k").header("trace", "1"),
            Input::new(r#"{ "a": 2 }"#).key("k"),
            Input::tombstone().key("gone"),
        ];
        let seen = mapper::<Redact>(&[("fields", "tailnum, secret")], &records).unwrap();
        assert_eq!(seen.iter().map(|e| e.text()).collect::<Vec<_>>(), [r#"{"a":1.0,"b":[1]}"#, r#"{ "a": 2 }"#, ""]);
        assert_eq!(seen.iter().map(|e| e.source).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(seen[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(seen[0].headers, [(b"trace".to_vec(), Some(b"1".to_vec()))]);
        assert_eq!(seen[1].timestamp_ms, BASE_TIMESTAMP_MS + 1);
        assert_eq!((seen[2].key.as_deref(), &seen[2].value), (Some(&b"gone"[..]), &None));
    }

    #[test]
    fn what_cannot_be_redacted_is_not_shown() {
        let records = [Input::new("N14228,UA"), Input::new(r#"["N14228"]"#), Input::new("")];
        assert_eq!(mapper::<Redact>(&[("fields", "tailnum")], &records), Ok(vec![]));
    }

    #[test]
    fn keys_can_go_as_well() {
        let records = [Input::new(r#"{"a":1}"#).key("N14228"), Input::tombstone().key("N14228")];
        let seen = mapper::<Redact>(&[("fields", "tailnum"), ("key", "drop")], &records).unwrap();
        assert!(seen.iter().all(|emitted| emitted.key.is_none()), "{seen:?}");
    }

    #[test]
    fn bad_parameters_are_refused() {
        assert!(mapper::<Redact>(&[("fields", " , ")], &[]).unwrap_err().message().contains("names no field"));
        assert!(mapper::<Redact>(&[("fields", "a"), ("key", "hash")], &[]).unwrap_err().message().contains("`hash`"));
    }
}
