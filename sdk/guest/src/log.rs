//! A module's log: lines in the broker's own log, within bounds, with the module's name and what it is used by.

use std::fmt::Display;

/// For following a module step by step.
pub fn trace(message: impl Display) {
    write(Level::Trace, message);
}

/// For whoever debugs the module.
pub fn debug(message: impl Display) {
    write(Level::Debug, message);
}

/// For the record.
pub fn info(message: impl Display) {
    write(Level::Info, message);
}

/// Something that somebody should look at.
pub fn warn(message: impl Display) {
    write(Level::Warn, message);
}

/// Something that did not work.
pub fn error(message: impl Display) {
    write(Level::Error, message);
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, message: impl Display) {
    use crate::bindings::module::millstream::ext::log;
    let level = match level {
        Level::Trace => log::Level::Trace,
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
        Level::Error => log::Level::Error,
    };
    log::write(level, &message.to_string());
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: impl Display) {
    eprintln!("[{level:?}] {message}");
}
