//! What was started ends with this program, also where it is told to stop.

use std::{
    process,
    sync::{Mutex, PoisonError},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

static STARTED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// The process is killed when this program is told to end. One that has ended by itself is to be forgotten.
pub fn ends_with_us(process: u32) {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).push(process);
}

/// The process has been waited for: its number may be another's.
pub fn has_ended(process: u32) {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).retain(|started| *started != process);
}

/// From here on, an interrupt and a request to end are obeyed, after what was started has been killed.
///
/// # Errors
/// When the operating system refuses.
pub fn obey() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _here = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        for process in STARTED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(process) = i32::try_from(*process).ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(process, Signal::KILL);
            }
        }
        process::exit(130);
    });
    Ok(())
}
