//! Every record as it came.

use millstream_guest::{Failure, Out, Params, Record, Transform};

struct Identity;

millstream_guest::export!(Identity as transform);

impl Transform for Identity {
    fn init(_params: &Params) -> Result<Self, Failure> {
        Ok(Identity)
    }

    fn process(&self, record: &Record, out: &mut Out) -> Result<(), Failure> {
        out.forward(record);
        Ok(())
    }
}
