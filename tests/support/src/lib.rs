//! What the tests share: a broker process, ports, real data, and the rules of the source tree.

pub mod broker;
pub mod cli;
pub mod exposition;
pub mod flights;
pub mod guests;
pub mod history;
pub mod http;
pub mod image;
pub mod message;
pub mod peers;
pub mod rules;
pub mod sdk;
pub mod strace;
pub mod tree;
