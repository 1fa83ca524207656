//! Marks JSON records with a field that says from which offset they came.
//!
//! A record that is not a JSON object fails, and the deployment's `--on-error` decides what becomes of it.

use millstream_guest::json::Object;
use millstream_guest::{Failure, Out, Param, Params, Record, Transform};

struct Mark {
    field: String,
}

millstream_guest::export!(Mark as transform);

impl Transform for Mark {
    const PARAMS: &'static [Param] = &[Param::default("field", "origin")];

    fn init(params: &Params) -> Result<Self, Failure> {
        Ok(Mark { field: params.required("field")?.to_owned() })
    }

    /// Outputs are numbered as the deployment lists them; `out.forward(record)` passes a record on as it is.
    fn process(&self, record: &Record, out: &mut Out) -> Result<(), Failure> {
        let mut object = Object::parse(record.value().unwrap_or_default())?;
        object.set(&self.field, &format!("{}/{}", record.partition(), record.offset()));
        out.to(0).like(record).value(&object.to_text()).send();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_guest::testing::{BASE_OFFSET, Input, transform};

    #[test]
    fn records_are_marked_and_keep_their_keys() {
        let emitted = transform::<Mark>(&[], &["output"], &[Input::new(r#"{"id":1}"#).key("k")]).unwrap();
        assert_eq!(emitted[0].text(), format!(r#"{{"id":1,"origin":"0/{BASE_OFFSET}"}}"#));
        assert_eq!(emitted[0].key.as_deref(), Some(&b"k"[..]));
    }

    #[test]
    fn what_is_not_json_fails() {
        assert!(transform::<Mark>(&[], &["output"], &[Input::new("words")]).is_err());
    }
}
