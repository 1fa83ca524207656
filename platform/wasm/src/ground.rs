//! What the runtime, its factories and their pools stand on: the engine, what it links, the world outside, the slots, what is counted.

use std::sync::Arc;

use millstream_env::Env;
use wasmtime::{Engine, component::Linker};

use crate::{host::HostState, metrics::Counters, slots::Slots};

pub(crate) struct Ground {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<HostState>,
    pub(crate) env: Env,
    pub(crate) slots: Arc<Slots>,
    pub(crate) counters: Counters,
}
