//! The contract as Rust: bindings of the worlds in `wit/`, sharing one set of types.
//!
//! `base` is bound first; the other worlds use its types and imports. The world `transform` (state and timers) is not
//! bound until those are built: modules that ask for them are refused by name in [`crate::inspect`].

pub(crate) mod base {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "base",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

pub(crate) mod mapper {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "mapper",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "millstream:ext/types@0.1.0": super::base::millstream::ext::types,
            "millstream:ext/log@0.1.0": super::base::millstream::ext::log,
            "millstream:ext/metrics@0.1.0": super::base::millstream::ext::metrics,
        },
    });
}

pub(crate) mod filter {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "filter",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "millstream:ext/types@0.1.0": super::base::millstream::ext::types,
            "millstream:ext/log@0.1.0": super::base::millstream::ext::log,
            "millstream:ext/metrics@0.1.0": super::base::millstream::ext::metrics,
        },
    });
}

pub(crate) mod partitioner {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "partitioner",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "millstream:ext/types@0.1.0": super::base::millstream::ext::types,
            "millstream:ext/log@0.1.0": super::base::millstream::ext::log,
            "millstream:ext/metrics@0.1.0": super::base::millstream::ext::metrics,
        },
    });
}

pub(crate) use base::millstream::ext::{log, metrics, types};
pub(crate) use mapper::millstream::ext::sink;
