//! Programs that do the same work without Millstream: what the machine and the libraries allow. A broker's figures mean
//! something only beside theirs, from the same minutes on the same machine.

mod client;
mod disk;
mod modules;
mod quic;
mod second;
mod server;
mod tcp;

pub(crate) use client::BareServer;
pub(crate) use disk::Ack;
pub(crate) use modules::{Budget, Linked};
pub(crate) use server::run as run_server;
pub(crate) use tcp::{ANSWER_BYTES, TcpLane};
