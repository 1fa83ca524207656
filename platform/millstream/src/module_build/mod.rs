//! What `module new` and `module build` do: make a guest project, find or install the Wasm toolchain, compile, and wrap the
//! result into a component.
//!
//! A library for the commands; nothing here reads arguments or prints. The way of a module: [`scaffold::create`] writes the
//! project, [`build::build`] asks [`toolchain`] for a cargo that can target `wasm32-unknown-unknown`, runs it, and gives the core
//! module to [`component`], which makes the component and checks that a broker would know what to do with it.

pub(crate) mod build;
pub(crate) mod component;
pub(crate) mod scaffold;
pub(crate) mod toolchain;
