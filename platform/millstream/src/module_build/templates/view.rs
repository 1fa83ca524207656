//! Shows the JSON records that have a given value in a given field.
//!
//! A view that changes records instead of leaving some out implements `Mapper`, exported `as mapper`.

use millstream_guest::json::Object;
use millstream_guest::{Failure, Filter, Param, Params, Record};

struct FieldIs {
    field: String,
    value: String,
}

millstream_guest::export!(FieldIs as filter);

impl Filter for FieldIs {
    const PARAMS: &'static [Param] = &[Param::required("field"), Param::required("value")];

    fn init(params: &Params) -> Result<Self, Failure> {
        Ok(FieldIs { field: params.required("field")?.to_owned(), value: params.required("value")?.to_owned() })
    }

    /// A record that cannot be read is left out: failing would stop whoever reads the view.
    fn keep(&self, record: &Record) -> Result<bool, Failure> {
        let object = record.value().and_then(|value| Object::parse(value).ok());
        let text = object.as_ref().and_then(|object| object.field(&self.field)?.text());
        Ok(text.is_some_and(|text| text == self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_guest::testing::{Input, filter};

    #[test]
    fn only_matching_records_are_kept() {
        let records = [r#"{"status":"open"}"#, r#"{"status":"done"}"#, r#"{"id":1}"#, "not JSON"].map(Input::new);
        let kept = filter::<FieldIs>(&[("field", "status"), ("value", "open")], &records);
        assert_eq!(kept, Ok(vec![true, false, false, false]));
    }
}
