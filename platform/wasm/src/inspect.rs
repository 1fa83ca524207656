//! Looks at an uploaded module before anything is compiled: is it a component of a world that there is, within bounds?
//!
//! Nothing here runs or compiles the module. Time and memory are linear in its size, which is checked first.

use millstream_model::{ModuleKind, limits::MODULE_BYTES_MAX};
use wasmparser::{Encoding, Operator, Parser, Payload, ValidPayload, Validator};

use crate::{
    Refused,
    engine::FEATURES,
    limits::{MEMORY_BYTES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX},
    text,
};

/// Most functions of all core modules together.
const FUNCTIONS_MAX: u64 = 100_000;
/// Largest function body, bytes. Compiling takes more than linear time in it.
const FUNCTION_BYTES_MAX: u64 = 1 << 20;
/// Most locals of a function.
const LOCALS_MAX: u64 = 10_000;
/// Most targets of a `br_table`.
const BRANCH_TARGETS_MAX: u64 = 65_536;
/// Deepest nesting of blocks.
const NESTING_MAX: u64 = 4_096;
/// Deepest nesting of components and modules.
const COMPONENT_DEPTH_MAX: u64 = 8;
/// Most core modules of a component.
const CORE_MODULES_MAX: u64 = 16;
/// Most bytes of custom sections (names, debug information).
const CUSTOM_BYTES_MAX: u64 = 8 << 20;
/// Most imports and exports of the component.
const EXTERNS_MAX: u64 = 64;

const WASM_PAGE_BYTES: u64 = 64 << 10;
const PACKAGE: &str = "millstream:ext/";
/// The track of the contract that this version speaks: any 0.1.x.
const TRACK: &str = "0.1.";

/// Checks a module's bytes and finds what it can be used for: at least one kind, sorted.
///
/// # Errors
/// [`Refused`] says what is wrong; a module that passes may still be refused by the compiler or the linker.
pub fn check(bytes: &[u8]) -> Result<Vec<ModuleKind>, Refused> {
    check_file(bytes)?;
    let mut walk = Walk::default();
    let mut validator = Validator::new_with_features(FEATURES);
    let mut allocations = Default::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        walk.payload(&payload)?;
        if let ValidPayload::Func(function, body) = validator.payload(&payload).map_err(invalid)? {
            let mut function = function.into_validator(allocations);
            check_function(&mut function, &body)?;
            allocations = function.into_allocations();
        }
    }
    walk.kinds()
}

fn invalid(error: wasmparser::BinaryReaderError) -> Refused {
    Refused::Invalid { offset: error.offset(), reason: text::clean(error.message(), 400) }
}

fn limit(what: &'static str, actual: u64, max: u64) -> Result<(), Refused> {
    if actual > max { Err(Refused::Limit { what, actual, max }) } else { Ok(()) }
}

/// Tells by the first bytes what the file is, because "magic number mismatch" helps nobody.
fn check_file(bytes: &[u8]) -> Result<(), Refused> {
    if bytes.is_empty() {
        return Err(Refused::Empty);
    }
    if bytes.len() > MODULE_BYTES_MAX {
        return Err(Refused::TooLarge { bytes: bytes.len(), max: MODULE_BYTES_MAX });
    }
    let other = |what, advice| Err(Refused::NotComponent { what, advice });
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => other(
            "a core WebAssembly module",
            "build it with `millstream module build`, or wrap it with `wasm-tools component new`",
        ),
        [0, b'a', b's', b'm', ..] => {
            other("WebAssembly of an unknown version", "build it with `millstream module build`")
        }
        [0x7f, b'E', b'L', b'F', ..] => other("native code", "push the .wasm file itself, not a compiled image of it"),
        [0x1f, 0x8b, ..] => other("a gzip archive", "unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => other("a zstd archive", "unpack it first"),
        [b'P', b'K', 3, 4, ..] => other("a zip archive", "unpack it first"),
        [b'(' | b';' | b' ' | b'\n', ..] => other("text", "translate it with `wasm-tools parse` first"),
        _ => other("an unknown file", "push the .wasm file that `millstream module build` made"),
    }
}

/// Counts over the whole component, and its names.
#[derive(Default)]
struct Walk {
    depth: u64,
    core_modules: u64,
    functions: u64,
    memories: u64,
    tables: u64,
    custom_bytes: u64,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Walk {
    fn payload(&mut self, payload: &Payload<'_>) -> Result<(), Refused> {
        match payload {
            Payload::Version { encoding, .. } if self.depth == 0 && *encoding != Encoding::Component => {
                return Err(Refused::NotComponent { what: "a core WebAssembly module", advice: "wrap it first" });
            }
            Payload::ModuleSection { .. } => {
                self.core_modules += 1;
                self.depth += 1;
                limit("core modules", self.core_modules, CORE_MODULES_MAX)?;
                limit("levels of nested components", self.depth, COMPONENT_DEPTH_MAX)?;
            }
            Payload::ComponentSection { .. } => {
                self.depth += 1;
                limit("levels of nested components", self.depth, COMPONENT_DEPTH_MAX)?;
            }
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            Payload::CustomSection(section) => {
                self.custom_bytes += section.range().len() as u64;
                limit(
                    "bytes of custom sections (build in release mode, without debug information)",
                    self.custom_bytes,
                    CUSTOM_BYTES_MAX,
                )?;
            }
            Payload::FunctionSection(functions) => {
                self.functions += u64::from(functions.count());
                limit("functions", self.functions, FUNCTIONS_MAX)?;
            }
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    let memory = memory.map_err(invalid)?;
                    self.memories += 1;
                    limit("memories", self.memories, 1)?;
                    let bytes = memory.initial.saturating_mul(WASM_PAGE_BYTES);
                    if !memory.memory64 {
                        limit("bytes of memory at the start", bytes, MEMORY_BYTES_MAX as u64)?;
                    }
                }
            }
            Payload::TableSection(tables) => {
                for table in tables.clone() {
                    let table = table.map_err(invalid)?;
                    self.tables += 1;
                    limit("tables", self.tables, TABLES_MAX as u64)?;
                    limit("elements in a table", table.ty.initial, TABLE_ELEMENTS_MAX as u64)?;
                }
            }
            Payload::CodeSectionEntry(body) => {
                limit("bytes in a function", body.range().len() as u64, FUNCTION_BYTES_MAX)?;
                let mut locals = 0;
                for local in body.get_locals_reader().map_err(invalid)? {
                    locals += u64::from(local.map_err(invalid)?.0);
                    limit("locals in a function", locals, LOCALS_MAX)?;
                }
            }
            Payload::ComponentImportSection(imports) if self.depth == 0 => {
                for import in imports.clone() {
                    self.imports.push(import.map_err(invalid)?.name.name.to_owned());
                    limit("imports", self.imports.len() as u64, EXTERNS_MAX)?;
                }
            }
            Payload::ComponentExportSection(exports) if self.depth == 0 => {
                for export in exports.clone() {
                    self.exports.push(export.map_err(invalid)?.name.name.to_owned());
                    limit("exports", self.exports.len() as u64, EXTERNS_MAX)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn kinds(self) -> Result<Vec<ModuleKind>, Refused> {
        let mut kinds = Vec::new();
        let mut describes = false;
        for name in &self.exports {
            match interface(name)? {
                Some("module") => describes = true,
                Some("assigner") => kinds.push(ModuleKind::Partitioner),
                Some("selector") => kinds.push(ModuleKind::Filter),
                Some("processor") => kinds.push(ModuleKind::Mapper),
                Some("timed") => return Err(Refused::NotBuilt { name: "timers (the export timed)".into() }),
                _ => return Err(Refused::WrongWorld { what: "exports", name: shown(name), world: "Millstream" }),
            }
        }
        kinds.sort_unstable();
        for name in &self.imports {
            match interface(name)? {
                Some("types" | "log" | "metrics") => {}
                Some("sink") if kinds.contains(&ModuleKind::Mapper) => {}
                Some("sink") if !kinds.is_empty() => {
                    return Err(Refused::WrongWorld {
                        what: "imports",
                        name: shown(name),
                        world: kinds.first().map_or("", |kind| kind.as_str()),
                    });
                }
                Some("sink") => {}
                Some("state") => return Err(Refused::NotBuilt { name: "keyed state (the import state)".into() }),
                Some("timers") => return Err(Refused::NotBuilt { name: "timers (the import timers)".into() }),
                _ => return Err(Refused::UnknownImport { name: shown(name) }),
            }
        }
        if !describes {
            return Err(Refused::MissingExport { name: "the interface module (describe and init)" });
        }
        if kinds.is_empty() {
            return Err(Refused::MissingExport { name: "any of the interfaces assigner, selector or processor" });
        }
        Ok(kinds)
    }
}

/// The interface's name if it belongs to the contract.
fn interface(name: &str) -> Result<Option<&str>, Refused> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(None) };
    match rest.split_once('@') {
        Some((interface, version)) if version.starts_with(TRACK) => Ok(Some(interface)),
        _ => Err(Refused::ContractVersion { name: shown(name) }),
    }
}

fn shown(name: &str) -> String {
    text::clean(name, 120)
}

fn check_function<T: wasmparser::WasmModuleResources>(
    function: &mut wasmparser::FuncValidator<T>,
    body: &wasmparser::FunctionBody<'_>,
) -> Result<(), Refused> {
    function.read_locals(&mut body.get_binary_reader()).map_err(invalid)?;
    let mut operators = body.get_operators_reader().map_err(invalid)?;
    while !operators.eof() {
        let offset = operators.original_position();
        let operator = operators.read().map_err(invalid)?;
        if let Operator::BrTable { targets } = &operator {
            limit("targets in a br_table", targets.len().into(), BRANCH_TARGETS_MAX)?;
        }
        function.op(offset, &operator).map_err(invalid)?;
        limit("levels of nested blocks", u64::from(function.control_stack_height()), NESTING_MAX)?;
    }
    operators.finish().map_err(invalid)
}
