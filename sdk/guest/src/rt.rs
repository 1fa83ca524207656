//! What [`crate::export!`] stands on: from the contract's calls to the author's methods and back. Not for use by hand.
#![allow(missing_docs, reason = "hidden; each function is the contract's call of the same name")]

use std::cell::{OnceCell, RefCell};

pub use crate::bindings::module::millstream::ext::types::{Declaration, Failure as WireFailure, InitParams};
use crate::failure::Failure;
use crate::frame::FrameHeader;
use crate::module::{Filter, Mapper, Needs, Partitioner, Transform};
use crate::out::{Buffer, Out};
use crate::params::{Param, Params};
use crate::record::{Record, for_each_record};

/// The one value of a module in a Wasm instance, from `init` on.
#[derive(Debug)]
pub struct Instance<T>(OnceCell<T>);

impl<T> Instance<T> {
    #[expect(clippy::new_without_default, reason = "const, for a thread-local's initializer")]
    pub const fn new() -> Self {
        Instance(OnceCell::new())
    }

    pub fn init(
        &self,
        declared: &[Param],
        given: InitParams,
        make: fn(&Params) -> Result<T, Failure>,
    ) -> Result<(), WireFailure> {
        log_panics();
        let pairs = |pairs: Vec<_>| pairs.into_iter().map(pair).collect();
        let params = Params {
            inputs: given.inputs,
            outputs: given.outputs,
            values: pairs(given.params),
            host: pairs(given.host),
        };
        let made = params
            .complete(declared)
            .and_then(|params| make(&params))
            .and_then(|made| self.0.set(made).map_err(|_| Failure::stop("init was called twice in one instance")));
        made.map_err(|failure| WireFailure {
            code: failure.code_in_init(),
            at: None,
            message: failure.message().to_owned(),
        })
    }

    pub fn value(&self) -> Result<&T, WireFailure> {
        self.0.get().ok_or_else(|| in_call(None, &Failure::stop("called before init")))
    }
}

pub fn describe(params: &[Param], needs: Needs) -> Vec<Declaration> {
    let params = params.iter().map(|param| declaration("param", param.name(), param.declared()));
    let needs = [("value", needs.value), ("headers", needs.headers)]
        .into_iter()
        .filter(|(_, needed)| *needed)
        .map(|(name, _)| declaration("needs", name, String::new()));
    params.chain(needs).collect()
}

pub fn select<T: Filter>(module: &T, frame: &[u8]) -> Result<Vec<u8>, WireFailure> {
    let (header, body) = parse(frame)?;
    let mut bits = Vec::with_capacity(body.len().min((header.count as usize).div_ceil(8)));
    for_each_record(&header, body, |record| {
        let bit = record.index % 8;
        if bit == 0 {
            bits.push(0);
        }
        if module.keep(record)?
            && let Some(last) = bits.last_mut()
        {
            *last |= 1 << bit;
        }
        Ok(())
    })
    .map_err(|(at, failure)| in_call(at, &failure))?;
    Ok(bits)
}

pub fn assign<T: Partitioner>(module: &T, frame: &[u8], partitions: u32) -> Result<Vec<i32>, WireFailure> {
    let (header, body) = parse(frame)?;
    let mut chosen = Vec::with_capacity(body.len().min(header.count as usize));
    for_each_record(&header, body, |record| {
        // A number that no topic can have stays out of range, for the broker to refuse.
        let partition = module.partition(record, partitions)?.map_or(-1, |p| i32::try_from(p).unwrap_or(i32::MAX));
        chosen.push(partition);
        Ok(())
    })
    .map_err(|(at, failure)| in_call(at, &failure))?;
    Ok(chosen)
}

pub fn map<T: Mapper>(module: &T, frame: &[u8], emit: &mut dyn FnMut(u32, &[u8])) -> Result<(), WireFailure> {
    each_with_out(frame, emit, |record, out| module.map(record, out))
}

pub fn process<T: Transform>(module: &T, frame: &[u8], emit: &mut dyn FnMut(u32, &[u8])) -> Result<(), WireFailure> {
    each_with_out(frame, emit, |record, out| module.process(record, out))
}

/// The broker's sink.
pub fn sink(output: u32, frame: &[u8]) {
    crate::bindings::processor::millstream::ext::sink::emit(output, frame);
}

thread_local! {
    /// The output buffers of the last call, kept for their memory.
    static BUFFERS: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

#[inline]
fn each_with_out(
    frame: &[u8],
    emit: &mut dyn FnMut(u32, &[u8]),
    mut each: impl FnMut(&Record, &mut Out) -> Result<(), Failure>,
) -> Result<(), WireFailure> {
    let (header, body) = parse(frame)?;
    let mut out = Out::new(&header, BUFFERS.take(), emit);
    for_each_record(&header, body, |record| {
        out.start(record);
        each(record, &mut out)
    })
    .map_err(|(at, failure)| in_call(at, &failure))?;
    BUFFERS.set(out.finish());
    Ok(())
}

fn parse(frame: &[u8]) -> Result<(FrameHeader, &[u8]), WireFailure> {
    FrameHeader::parse(frame).map_err(|failure| in_call(None, &failure))
}

fn in_call(at: Option<u32>, failure: &Failure) -> WireFailure {
    WireFailure { code: failure.code_in_call(), at, message: failure.message().to_owned() }
}

fn declaration(kind: &str, name: &str, value: String) -> Declaration {
    Declaration { kind: kind.to_owned(), name: name.to_owned(), value }
}

fn pair(pair: crate::bindings::module::millstream::ext::types::Pair) -> (String, String) {
    (pair.name, pair.value)
}

/// A panic ends in a trap, which says nothing; so what it has to say goes to the log first, as one line. The broker puts the
/// last error that was logged into the call's error.
fn log_panics() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|panic| crate::log::error(panic.to_string().replace('\n', " "))));
}

/// Exports a module: `export!(MyView as filter)`, `as mapper`, `as partitioner` or `as transform`.
///
/// Once in a crate, which is built as a `cdylib`.
#[macro_export]
macro_rules! export {
    ($module:ty as partitioner) => {
        const _: () = {
            $crate::__export_module_part!($module, $crate::Partitioner, <$module as $crate::Partitioner>::NEEDS);
            impl $crate::bindings::assigner::exports::millstream::ext::assigner::Guest for Component {
                fn assign(
                    frame: ::std::vec::Vec<u8>,
                    partitions: u32,
                ) -> ::std::result::Result<::std::vec::Vec<i32>, $crate::rt::WireFailure> {
                    INSTANCE.with(|instance| $crate::rt::assign(instance.value()?, &frame, partitions))
                }
            }
            $crate::bindings::assigner::__export_assigner! { Component with_types_in $crate::bindings::assigner }
        };
    };
    ($module:ty as filter) => {
        const _: () = {
            $crate::__export_module_part!($module, $crate::Filter, $crate::Needs::KEY);
            impl $crate::bindings::selector::exports::millstream::ext::selector::Guest for Component {
                fn select(
                    frame: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<::std::vec::Vec<u8>, $crate::rt::WireFailure> {
                    INSTANCE.with(|instance| $crate::rt::select(instance.value()?, &frame))
                }
            }
            $crate::bindings::selector::__export_selector! { Component with_types_in $crate::bindings::selector }
        };
    };
    ($module:ty as mapper) => {
        const _: () = {
            $crate::__export_module_part!($module, $crate::Mapper, $crate::Needs::KEY);
            $crate::__export_processor_part!(map);
        };
    };
    ($module:ty as transform) => {
        const _: () = {
            $crate::__export_module_part!($module, $crate::Transform, $crate::Needs::KEY);
            $crate::__export_processor_part!(process);
        };
    };
}

/// The interface `module`, which every world exports.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_module_part {
    ($module:ty, $kind:path, $needs:expr) => {
        ::std::thread_local! {
            static INSTANCE: $crate::rt::Instance<$module> = const { $crate::rt::Instance::new() };
        }
        struct Component;
        impl $crate::bindings::module::exports::millstream::ext::module::Guest for Component {
            fn describe() -> ::std::vec::Vec<$crate::rt::Declaration> {
                $crate::rt::describe(<$module as $kind>::PARAMS, $needs)
            }
            fn init(params: $crate::rt::InitParams) -> ::std::result::Result<(), $crate::rt::WireFailure> {
                INSTANCE.with(|instance| instance.init(<$module as $kind>::PARAMS, params, <$module as $kind>::init))
            }
        }
        $crate::bindings::module::__export_module! { Component with_types_in $crate::bindings::module }
    };
}

/// The interface `processor`; `$call` is the function of [`crate::rt`] that knows the author's trait.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_processor_part {
    ($call:ident) => {
        impl $crate::bindings::processor::exports::millstream::ext::processor::Guest for Component {
            fn process(frame: ::std::vec::Vec<u8>) -> ::std::result::Result<(), $crate::rt::WireFailure> {
                INSTANCE.with(|instance| $crate::rt::$call(instance.value()?, &frame, &mut $crate::rt::sink))
            }
        }
        $crate::bindings::processor::__export_processor! { Component with_types_in $crate::bindings::processor }
    };
}
