//! The harness for hostile input: a broker that is watched while it is hurt, and its doors, raw.

pub mod bare;
pub mod door;
pub mod initial;
pub mod text_guests;
pub mod victim;
