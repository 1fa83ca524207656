//! Budgets: how much computing, memory, output and logging a guest gets, and the tables that fuel is counted by.
//!
//! Every verdict here is a function of the input and of constants, never of the machine's load: two brokers that run the
//! same call stop it at the same instruction. Changing a constant changes verdicts, so it changes [`FUEL_VERSION`] too.

use std::time::Duration;

use millstream_model::limits::{BATCH_BYTES_MAX, PARAMS_BYTES_MAX};
use wasmtime::{OperatorCost, VariableOperatorCost};

/// Counts the changes of what fuel means: the costs of operators and the budgets of calls.
pub const FUEL_VERSION: u32 = 2;

/// Fuel of a call that carries no records: lazy set-up inside the guest, about 50 ms of work.
pub const FUEL_PER_CALL: u64 = 50_000_000;
/// Fuel for each record of a call: about 1 ms, twenty times what an interpreted guest takes for a record of 1 KB.
pub const FUEL_PER_RECORD: u64 = 1_000_000;
/// Fuel for each byte of a call's frame.
pub const FUEL_PER_BYTE: u64 = 1_000;
/// Fuel for each partition that an assigner is told about.
pub const FUEL_PER_PARTITION: u64 = 100;
/// Fuel for instantiating: the start function and data segments.
pub const FUEL_START: u64 = 1_000_000_000;
/// Fuel for `init`, which may read tables out of its parameters.
pub const FUEL_INIT: u64 = 2_000_000_000;
/// Fuel for `describe`.
pub const FUEL_DESCRIBE: u64 = 1_000_000_000;
/// A guest that runs yields to the other tasks of its thread each time it has used this much: about every millisecond.
pub const FUEL_YIELD: u64 = 1_000_000;
/// What a host call costs in addition to what the guest spent on it, and for each byte that it passes.
pub const FUEL_PER_HOST_CALL: u64 = 500;

/// How long a call may take where its deployment does not say otherwise. A call with more fuel than
/// [`FUEL_PER_CALL_TIME`] has in proportion more time. Time never judges: a call that it ends is the host's failure.
pub const CALL_TIME_DEFAULT: Duration = Duration::from_secs(60);
/// The fuel of a call up to which the time is as it stands: fifty million a second, which any machine does that is not
/// hopelessly busy.
pub const FUEL_PER_CALL_TIME: u64 = 3_000_000_000;

/// Memory of an instance where its deployment does not say otherwise, bytes.
pub const MEMORY_BYTES_DEFAULT: usize = 64 << 20;
/// Most memory that a deployment may be given, bytes: the size of a slot of the pool.
pub const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Most elements of a table.
pub const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Most tables of an instance: the module's own and the one that ties its imports.
pub const TABLES_MAX: usize = 2;
/// Most core instances that a component consists of.
pub const CORE_INSTANCES_MAX: u32 = 16;
/// An instance that holds more than this share of its memory limit (in sixteenths) is replaced after its call, so that a
/// slow leak ends in a new instance and not in a failed call.
pub const RECYCLE_SIXTEENTHS: usize = 12;

/// Output that any call may emit, bytes, whatever came in.
pub const OUTPUT_BYTES_BASE: usize = 4 << 20;
/// Output that a call may emit for each byte of its frame, bytes.
pub const OUTPUT_PER_INPUT_BYTE: usize = 8;
/// Most that a call may emit, bytes: the largest record of any topic fits with its frame.
pub const OUTPUT_BYTES_MAX: usize = BATCH_BYTES_MAX + HOST_CALL_SLACK;
/// Most frames that a call may emit.
pub const OUTPUT_FRAMES_MAX: usize = 65_536;
/// What an emitted frame counts for at least, bytes: the host keeps more of it than its bytes.
pub const OUTPUT_FRAME_BYTES_MIN: usize = 64;
/// Most records that a call may emit.
pub const OUTPUT_RECORDS_MAX: u32 = 1_000_000;
/// Largest output record where the deployment does not say otherwise, bytes as encoded.
pub const RECORD_BYTES_DEFAULT: usize = 1 << 20;
/// What a guest may pass in one host call beside its largest record, bytes.
pub const HOST_CALL_SLACK: usize = 64 << 10;

/// Most log lines kept of one call; the rest are counted and dropped.
pub const LOG_LINES_PER_CALL: u32 = 100;
/// Most log lines of a pool that the broker's own log is told in a second; the rest are counted.
pub const LOG_LINES_PER_SECOND: u32 = 20;
/// Longest log line kept, bytes; the rest of it is cut off.
pub const LOG_LINE_BYTES_MAX: usize = 1024;
/// Longest failure message kept, bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Most log lines that a pool remembers.
pub const LOG_LINES_KEPT: usize = 1000;

/// Most declarations of a module.
pub const DECLARATIONS_MAX: usize = 256;
/// Longest name or value of a declaration, bytes.
pub const DECLARATION_BYTES_MAX: usize = 1024;
/// Most metrics of a module.
pub const METRICS_MAX: usize = 64;

const _: () = assert!(MEMORY_BYTES_DEFAULT <= MEMORY_BYTES_MAX);
const _: () = assert!(OUTPUT_BYTES_BASE + OUTPUT_PER_INPUT_BYTE <= OUTPUT_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_DEFAULT + HOST_CALL_SLACK <= OUTPUT_BYTES_BASE);
// The number of frames is never what stops a call that the number of bytes lets through with honest frames.
const _: () = assert!(OUTPUT_FRAMES_MAX * OUTPUT_FRAME_BYTES_MIN <= OUTPUT_BYTES_BASE);
const _: () = assert!(PARAMS_BYTES_MAX < MEMORY_BYTES_DEFAULT);

/// What one deployment of a module is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of an instance, bytes; at most [`MEMORY_BYTES_MAX`].
    pub memory_bytes: usize,
    /// Instances that may serve calls at one time.
    pub instances: u32,
    /// Calls that may wait for an instance; one more is refused.
    pub waiting: u32,
    /// Largest record that may be emitted, bytes as encoded.
    pub record_bytes: usize,
    /// How long a call may take, and starting an instance: see [`CALL_TIME_DEFAULT`].
    pub time: Duration,
    /// Multiplies the fuel of every call: 1 unless a deployment is known to need more.
    pub fuel_factor: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_BYTES_DEFAULT,
            instances: 8,
            waiting: 1024,
            record_bytes: RECORD_BYTES_DEFAULT,
            time: CALL_TIME_DEFAULT,
            fuel_factor: 1,
        }
    }
}

impl Limits {
    /// The defaults for topics whose records may have `record_bytes`: such a record can be taken in, copied and emitted.
    #[must_use]
    pub fn for_records(record_bytes: usize) -> Self {
        // The frame, the copy, and a buffer that doubled while it grew.
        let memory = record_bytes.saturating_mul(4).saturating_add(16 << 20);
        Self {
            record_bytes: record_bytes.max(RECORD_BYTES_DEFAULT),
            memory_bytes: memory.clamp(MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MAX),
            ..Self::default()
        }
    }

    /// How long a call with so much fuel may take.
    #[must_use]
    pub fn call_time(&self, fuel: u64) -> Duration {
        let times = (fuel as f64 / FUEL_PER_CALL_TIME as f64).max(1.0);
        Duration::try_from_secs_f64(self.time.as_secs_f64() * times).unwrap_or(Duration::MAX)
    }

    /// The fuel of a call whose frame has `records` records in `bytes` bytes.
    #[must_use]
    pub fn fuel(&self, records: u32, bytes: usize) -> u64 {
        FUEL_PER_CALL
            .saturating_add(u64::from(records).saturating_mul(FUEL_PER_RECORD))
            .saturating_add((bytes as u64).saturating_mul(FUEL_PER_BYTE))
            .saturating_mul(u64::from(self.fuel_factor.max(1)))
    }

    /// The bytes that a call may emit whose frame has `bytes` bytes.
    #[must_use]
    pub fn output_bytes(&self, bytes: usize) -> usize {
        bytes
            .saturating_mul(OUTPUT_PER_INPUT_BYTE)
            .saturating_add(OUTPUT_BYTES_BASE)
            .max(self.record_bytes.saturating_add(HOST_CALL_SLACK))
            .min(OUTPUT_BYTES_MAX)
    }
}

/// The fuel that each operator costs. Ours and not the engine's default, so that an engine's upgrade does not change
/// verdicts unnoticed: a test holds the table against [`FUEL_VERSION`].
pub(crate) fn operator_costs() -> OperatorCost {
    OperatorCost {
        I32DivS: 8,
        I32DivU: 8,
        I32RemS: 8,
        I32RemU: 8,
        I64DivS: 16,
        I64DivU: 16,
        I64RemS: 16,
        I64RemU: 16,
        F32Div: 4,
        F64Div: 4,
        F32Sqrt: 8,
        F64Sqrt: 8,
        F32x4Div: 4,
        F64x2Div: 8,
        F32x4Sqrt: 8,
        F64x2Sqrt: 16,
        Call: 2,
        CallIndirect: 4,
        // Growing asks the operating system; its pages must be cleared.
        MemoryGrow: 250,
        TableGrow: 250,
        variable: VariableOperatorCost { memory_grow_per_page: 250, ..VariableOperatorCost::new() },
        ..OperatorCost::new()
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// An upgrade of the engine that adds operators changes this digest: look at what the new ones cost, decide whether
    /// verdicts change, count FUEL_VERSION up if they do, and put the new digest here.
    #[test]
    fn the_table_of_costs_belongs_to_its_version() {
        let table = format!("{:?}", operator_costs());
        let digest = millstream_model::Digest(Sha256::digest(table.as_bytes()).into()).to_string();
        assert_eq!((FUEL_VERSION, &digest[..16]), (2, "90c0f5e538de9b04"));
    }

    #[test]
    fn budgets_do_not_overflow() {
        let limits = Limits { fuel_factor: u32::MAX, ..Limits::default() };
        assert_eq!(limits.fuel(u32::MAX, usize::MAX), u64::MAX);
        assert_eq!(limits.output_bytes(usize::MAX), OUTPUT_BYTES_MAX);
        assert!(limits.call_time(u64::MAX) > CALL_TIME_DEFAULT);
        assert_eq!(limits.call_time(FUEL_PER_CALL), CALL_TIME_DEFAULT);
        let forever = Limits { time: Duration::MAX, ..limits };
        assert_eq!(forever.call_time(u64::MAX), Duration::MAX);
    }
}
