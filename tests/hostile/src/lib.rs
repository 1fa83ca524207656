//! The harness for hostile input: a broker that is watched while it is hurt, and its two doors, raw.

pub mod door;
pub mod text_guests;
pub mod victim;
