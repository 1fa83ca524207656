//! The signals that stop a broker, or a command that has something to tell first; the one that has it read files again; and the one that
//! must not stop it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP; from now on it does not end the process.
#[derive(Debug)]
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// # Errors
    /// The operating system's.
    pub(crate) fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime ends.
            std::future::pending().await
        }
    }
}

/// SIGINT and SIGTERM; from now on neither ends the process by itself.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// # Errors
    /// The operating system's.
    pub(crate) fn new() -> io::Result<Self> {
        // A write past a limit on a file's length must be refused, not end the process. The handler stays when nobody listens.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
