//! Other peoples' clients put through one script, and what came of it as a table.
//!
//! - [`clients`]: whose clients, how their programs are run, and what they cannot say.
//! - [`case`]: the script. Every client's program is asked the same; what it prints is checked here.
//! - [`server`]: the broker that is asked, and [`wire`] to look into it without any client's help.
//! - [`table`]: the result, which is `tests/compat/COMPATIBILITY.md`.
//! - [`load`]: how fast Kafka's own load program goes against both.
//! - [`beside`]: the same asked of Apache Kafka, and where the answers differ.

pub mod beside;
pub mod case;
pub mod clients;
pub mod data;
pub mod load;
pub mod server;
pub mod signals;
pub mod table;
pub mod wire;
