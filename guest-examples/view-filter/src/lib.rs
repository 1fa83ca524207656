//! Keeps the JSON records whose field compares with a value as asked.
//!
//! - `field`: the name of the field.
//! - `op`: `eq`, `ne`, `lt`, `le`, `gt`, `ge`; or `exists`, which needs no value.
//! - `value`: what to compare with. If it is a number, numbers are compared (also such as are written as strings), else texts.
//!
//! A record that has nothing to compare (no such field, null, another type, not JSON) is left out, under `ne` as well.

use std::cmp::Ordering;

use millstream_guest::json::Object;
use millstream_guest::{Failure, Filter, Param, Params, Record};

struct FieldFilter {
    field: String,
    test: Test,
}

enum Test {
    Exists,
    Number { op: Op, value: f64 },
    Text { op: Op, value: String },
}

/// Which results of comparing a field with the value pass.
type Op = fn(Ordering) -> bool;

millstream_guest::export!(FieldFilter as filter);

impl Filter for FieldFilter {
    const PARAMS: &'static [Param] = &[Param::required("field"), Param::required("op"), Param::optional("value")];

    fn init(params: &Params) -> Result<Self, Failure> {
        let op: Op = match params.required("op")? {
            "eq" => Ordering::is_eq,
            "ne" => Ordering::is_ne,
            "lt" => Ordering::is_lt,
            "le" => Ordering::is_le,
            "gt" => Ordering::is_gt,
            "ge" => Ordering::is_ge,
            "exists" => {
                return Ok(FieldFilter { field: params.required("field")?.to_owned(), test: Test::Exists });
            }
            other => {
                let known = "eq, ne, lt, le, gt, ge and exists";
                return Err(Failure::config(format_args!("parameter `op` is `{other}`: there are {known}")));
            }
        };
        let value = params.required("value")?;
        let test = match value.parse::<f64>().ok().filter(|number| number.is_finite()) {
            Some(value) => Test::Number { op, value },
            None => Test::Text { op, value: value.to_owned() },
        };
        Ok(FieldFilter { field: params.required("field")?.to_owned(), test })
    }

    fn keep(&self, record: &Record) -> Result<bool, Failure> {
        let Some(object) = record.value().and_then(|value| Object::parse(value).ok()) else { return Ok(false) };
        let Some(field) = object.field(&self.field) else { return Ok(false) };
        Ok(match &self.test {
            Test::Exists => !field.is_null(),
            Test::Number { op, value } => field.number().and_then(|number| number.partial_cmp(value)).is_some_and(op),
            Test::Text { op, value } => field.text().is_some_and(|text| op(text.as_ref().cmp(value))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_guest::testing::{Input, filter};

    /// What a view with this condition keeps of 5, "30", "NA", null, nothing, and a record that is not JSON.
    fn check(op: &str, value: &str, expected: [bool; 6]) {
        let records =
            [r#"{"delay":5}"#, r#"{"delay":"30"}"#, r#"{"delay":"NA"}"#, r#"{"delay":null}"#, r#"{"other":5}"#, "5,UA"]
                .map(Input::new);
        let kept = filter::<FieldFilter>(&[("field", "delay"), ("op", op), ("value", value)], &records);
        assert_eq!(kept, Ok(expected.to_vec()), "delay {op} {value}");
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_the_rest_as_text() {
        check("ge", "15", [false, true, false, false, false, false]);
        check("lt", "15", [true, false, false, false, false, false]);
        check("ne", "5.0", [false, true, false, false, false, false]);
        check("eq", "NA", [false, false, true, false, false, false]);
        check("ne", "NA", [true, true, false, false, false, false]);
        check("exists", "", [true, true, true, false, false, false]);
    }

    #[test]
    fn bad_parameters_are_refused() {
        let refused = |params: &[(&str, &str)]| filter::<FieldFilter>(params, &[]).unwrap_err().message().to_owned();
        assert!(refused(&[("op", "eq"), ("value", "1")]).contains("`field` is missing"));
        assert!(refused(&[("field", "a"), ("op", "eq")]).contains("`value` is missing"));
        assert!(refused(&[("field", "a"), ("op", "like"), ("value", "1")]).contains("`op` is `like`"));
    }
}
