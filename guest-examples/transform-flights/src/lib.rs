//! Delayed flights with their airline's name on output 0; on output 1, as they came, the rows that could not be read.
//!
//! A flight is a JSON object with the columns of `nycflights13`: `carrier` (the airline's code), `dep_delay` and `arr_delay`
//! (minutes, early ones negative; `NA`, null or empty for a flight that never left or arrived). A delayed one gets the field
//! `airline`, and keeps its key, headers and time. A flight that was not delayed goes nowhere.
//!
//! - `min_delay`: the minutes from which a flight counts as delayed, at departure or on arrival; 15 by default.

use millstream_guest::json::{Object, Value};
use millstream_guest::{Failure, Out, Param, Params, Record, Transform};

const DELAYED: u32 = 0;
const UNREADABLE: u32 = 1;

/// The table `airlines` of `nycflights13`.
const AIRLINES: [(&str, &str); 16] = [
    ("9E", "Endeavor Air Inc."),
    ("AA", "American Airlines Inc."),
    ("AS", "Alaska Airlines Inc."),
    ("B6", "JetBlue Airways"),
    ("DL", "Delta Air Lines Inc."),
    ("EV", "ExpressJet Airlines Inc."),
    ("F9", "Frontier Airlines Inc."),
    ("FL", "AirTran Airways Corporation"),
    ("HA", "Hawaiian Airlines Inc."),
    ("MQ", "Envoy Air"),
    ("OO", "SkyWest Airlines Inc."),
    ("UA", "United Air Lines Inc."),
    ("US", "US Airways Inc."),
    ("VX", "Virgin America"),
    ("WN", "Southwest Airlines Co."),
    ("YV", "Mesa Airlines Inc."),
];

struct DelayedFlights {
    min_delay: f64,
}

millstream_guest::export!(DelayedFlights as transform);

impl Transform for DelayedFlights {
    const PARAMS: &'static [Param] = &[Param::default("min_delay", "15")];

    fn init(params: &Params) -> Result<Self, Failure> {
        if params.outputs().len() != 2 {
            let given = params.outputs().len();
            return Err(Failure::config(format_args!(
                "this transform has two outputs (delayed flights, unreadable rows), and {given} were given"
            )));
        }
        Ok(DelayedFlights { min_delay: params.parse("min_delay")? })
    }

    fn process(&self, record: &Record, out: &mut Out) -> Result<(), Failure> {
        let Some(mut flight) = Flight::read(record) else {
            out.forward_to(UNREADABLE, record);
            return Ok(());
        };
        if flight.delay.is_some_and(|delay| delay >= self.min_delay) {
            flight.row.set("airline", flight.airline);
            out.to(DELAYED).like(record).value(&flight.row.to_text()).send();
        }
        Ok(())
    }
}

struct Flight<'a> {
    row: Object<'a>,
    airline: &'static str,
    /// The larger delay of the two; `None` if it neither left nor arrived.
    delay: Option<f64>,
}

impl<'a> Flight<'a> {
    /// `None` if the record is no flight.
    fn read(record: &Record<'a>) -> Option<Self> {
        let row = Object::parse(record.value()?).ok()?;
        let carrier = row.field("carrier")?.text()?;
        let airline = AIRLINES.iter().find(|(code, _)| *code == carrier).map_or("unknown", |(_, name)| name);
        let departure = minutes(row.field("dep_delay")?)?;
        let arrival = minutes(row.field("arr_delay")?)?;
        let delay = departure.into_iter().chain(arrival).reduce(f64::max);
        Some(Flight { row, airline, delay })
    }
}

/// A column of minutes: `Some(None)` where there is no figure, `None` where there is something else than one.
fn minutes(value: Value) -> Option<Option<f64>> {
    if value.is_null() {
        return Some(None);
    }
    match value.text()?.as_ref() {
        "NA" | "" => Some(None),
        _ => value.number().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_guest::testing::{Input, transform};

    fn run(params: &[(&str, &str)], rows: &[&str]) -> Vec<(u32, usize, String)> {
        let records: Vec<Input> = rows.iter().map(|row| Input::new(row).key("N14228")).collect();
        let emitted = transform::<DelayedFlights>(params, &["delayed", "unreadable"], &records).unwrap();
        assert!(emitted.iter().all(|e| e.key.as_deref() == Some(b"N14228")));
        emitted.iter().map(|e| (e.output, e.source, e.text().to_owned())).collect()
    }

    #[test]
    fn delayed_flights_get_their_airline_and_the_others_go_nowhere() {
        let rows = [
            r#"{"carrier":"UA","dep_delay":2,"arr_delay":11}"#,
            r#"{"carrier":"UA","dep_delay":4,"arr_delay":20}"#,
            r#"{"carrier":"DL","dep_delay":"15","arr_delay":"NA"}"#,
            r#"{"carrier":"ZZ","dep_delay":60,"arr_delay":-3}"#,
            r#"{"carrier":"AA","dep_delay":"NA","arr_delay":null}"#,
        ];
        let expected = [
            (0, 1, r#"{"carrier":"UA","dep_delay":4,"arr_delay":20,"airline":"United Air Lines Inc."}"#),
            (0, 2, r#"{"carrier":"DL","dep_delay":"15","arr_delay":"NA","airline":"Delta Air Lines Inc."}"#),
            (0, 3, r#"{"carrier":"ZZ","dep_delay":60,"arr_delay":-3,"airline":"unknown"}"#),
        ];
        assert_eq!(run(&[], &rows), expected.map(|(output, source, row)| (output, source, row.to_owned())));
        assert_eq!(run(&[("min_delay", "60")], &rows).len(), 1);
    }

    #[test]
    fn unreadable_rows_come_out_as_they_came() {
        let rows = [
            "2013,1,1,517,515,2,830,819,11,UA",
            r#"{"carrier":"UA","dep_delay":"soon","arr_delay":1}"#,
            r#"{"carrier":"UA","arr_delay":1}"#,
            r#"{"dep_delay":1,"arr_delay":1}"#,
            "",
        ];
        let expected: Vec<_> = rows.iter().enumerate().map(|(at, row)| (1, at, (*row).to_owned())).collect();
        assert_eq!(run(&[], &rows), expected);
    }

    #[test]
    fn it_wants_two_outputs_and_a_number() {
        let refused = transform::<DelayedFlights>(&[], &["delayed"], &[]).unwrap_err();
        assert!(refused.message().contains("two outputs"), "{refused}");
        let refused = transform::<DelayedFlights>(&[("min_delay", "x")], &["a", "b"], &[]).unwrap_err();
        assert!(refused.message().starts_with("parameter `min_delay` is `x`"), "{refused}");
    }
}
