//! From a core module to a component: wrapping it, and refusing here what a broker would refuse later.

use millstream_model::ModuleKind;
use millstream_wasm::{Refused, inspect};
use wit_component::ComponentEncoder;

/// A component that a broker can load.
#[derive(Debug)]
pub(crate) struct Component {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// What it can be used for.
    pub(crate) kind: ModuleKind,
}

/// Why compiled code is not a module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComponentError {
    /// The core module does not fit the contract that it was built with.
    #[error("it cannot be made a component: {0}")]
    Wrap(String),
    /// A broker would say the same at the upload.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No known set of exports.
    #[error(
        "it exports nothing that a broker calls: use `millstream_guest::export!(Type as partitioner)` (or filter, mapper, transform)"
    )]
    NoKind,
    /// More than one: brokers take it, but a project makes one thing.
    #[error("it is several things at once, {first} and {second}: export one from each project")]
    Kinds {
        /// One of them.
        first: ModuleKind,
        /// Another.
        second: ModuleKind,
    },
}

/// Wraps the core module that a guest was compiled to.
///
/// # Errors
/// See [`ComponentError`]. Takes time linear in the size of `core`.
pub(crate) fn wrap(core: &[u8]) -> Result<Component, ComponentError> {
    let bytes = ComponentEncoder::default()
        .module(core)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| ComponentError::Wrap(format!("{error:#}")))?;
    let kind = one_kind(&bytes)?;
    Ok(Component { bytes, kind })
}

/// Checks a component as brokers do, and says which one thing it is.
fn one_kind(bytes: &[u8]) -> Result<ModuleKind, ComponentError> {
    let kinds = inspect::check(bytes).map_err(|refused| match refused {
        // Whoever writes a module needs to hear of the macro, not of the contract's interfaces.
        Refused::MissingExport { .. } => ComponentError::NoKind,
        refused => refused.into(),
    })?;
    match *kinds.as_slice() {
        [] => Err(ComponentError::NoKind),
        [kind] => Ok(kind),
        [first, second, ..] => Err(ComponentError::Kinds { first, second }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_guest_is_refused_in_words() {
        let refused = wrap(b"not wasm").unwrap_err().to_string();
        assert!(refused.starts_with("it cannot be made a component"), "{refused}");
        // An empty core module: valid Wasm, and nobody's guest.
        let refused = wrap(b"\0asm\x01\0\0\0").unwrap_err();
        assert!(matches!(refused, ComponentError::NoKind | ComponentError::Wrap(_)), "{refused}");
        let refused = one_kind(b"\0asm\x01\0\0\0").unwrap_err().to_string();
        assert!(refused.contains("not a WebAssembly component"), "{refused}");
        // An empty component.
        assert!(matches!(one_kind(b"\0asm\x0d\0\x01\0"), Err(ComponentError::NoKind)));
    }
}
