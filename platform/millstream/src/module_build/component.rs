//! From a core module to a component: wrapping it, and refusing here what a broker would refuse later.

use millstream_model::ModuleKind;
use wasmparser::{Encoding, Parser, Payload, Validator};
use wit_component::ComponentEncoder;

/// The package of the contract (`wit/millstream-ext.wit`) and the version prefix that this broker serves.
const CONTRACT: &str = "millstream:ext/";
const CONTRACT_VERSION: &str = "@0.1.";
/// Interfaces that a component may import.
const IMPORTS: [&str; 4] = ["types", "log", "metrics", "sink"];
/// Interfaces of the contract that brokers do not serve yet.
const IMPORTS_LATER: [&str; 2] = ["state", "timers"];

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
    /// What came out is not valid WebAssembly.
    #[error("the component does not validate")]
    Invalid(#[source] wasmparser::BinaryReaderError),
    /// An import that brokers do not serve yet.
    #[error("it imports {0}, which brokers do not serve yet")]
    NotBuilt(String),
    /// An import that no broker serves.
    #[error(
        "it imports {0}: a module has only records, parameters, a log and its outputs (no clock, files, network or randomness)"
    )]
    Import(String),
    /// No known set of exports.
    #[error(
        "it exports nothing that a broker calls: use `millstream_guest::export!(Type as partitioner)` (or filter, mapper, transform)"
    )]
    NoKind,
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
    let kind = inspect(&bytes)?;
    Ok(Component { bytes, kind })
}

/// Checks a component and says what it is.
pub(crate) fn inspect(bytes: &[u8]) -> Result<ModuleKind, ComponentError> {
    Validator::new().validate_all(bytes).map_err(ComponentError::Invalid)?;
    let mut exports = Vec::new();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(ComponentError::Invalid)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && encoding == Encoding::Module {
                    return Err(ComponentError::Wrap("this is a core module, not a component".into()));
                }
            }
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    allowed(import.map_err(ComponentError::Invalid)?.name.name)?;
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(ComponentError::Invalid)?.name.name);
                }
            }
            _ => {}
        }
    }
    let has = |interface| exports.iter().any(|export| contract_interface(export) == Some(interface));
    match (has("module"), has("assigner"), has("selector"), has("processor")) {
        (true, true, false, false) => Ok(ModuleKind::Partitioner),
        (true, false, true, false) => Ok(ModuleKind::Filter),
        (true, false, false, true) => Ok(ModuleKind::Mapper),
        _ => Err(ComponentError::NoKind),
    }
}

fn allowed(import: &str) -> Result<(), ComponentError> {
    match contract_interface(import) {
        Some(interface) if IMPORTS.contains(&interface) => Ok(()),
        Some(interface) if IMPORTS_LATER.contains(&interface) => Err(ComponentError::NotBuilt(import.to_owned())),
        _ => Err(ComponentError::Import(import.to_owned())),
    }
}

/// `log` of `millstream:ext/log@0.1.0`; `None` for a name of another package or version.
fn contract_interface(name: &str) -> Option<&str> {
    let (interface, _patch) = name.strip_prefix(CONTRACT)?.split_once(CONTRACT_VERSION)?;
    Some(interface)
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
        let refused = inspect(b"\0asm\x01\0\0\0").unwrap_err().to_string();
        assert!(refused.contains("a core module, not a component"), "{refused}");
    }

    #[test]
    fn imports_outside_the_contract_are_named() {
        assert!(allowed("millstream:ext/log@0.1.0").is_ok());
        assert!(allowed("millstream:ext/log@0.1.7").is_ok());
        assert!(matches!(allowed("millstream:ext/state@0.1.0"), Err(ComponentError::NotBuilt(_))));
        for import in [
            "millstream:ext/log@0.2.0",
            "millstream:ext/log",
            "wasi:clocks/wall-clock@0.2.0",
            "millstream:ext/clock@0.1.0",
        ] {
            let refused = allowed(import).unwrap_err();
            assert!(matches!(&refused, ComponentError::Import(named) if named == import), "{refused}");
        }
    }
}
