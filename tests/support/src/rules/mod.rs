//! The rules of the source tree, each a pure function from what is there to what is wrong with it.
//!
//! They are functions so that each can be checked on a tree that breaks it: a rule that never says no proves nothing.

pub mod floors;
pub mod hosts;
pub mod prose;
