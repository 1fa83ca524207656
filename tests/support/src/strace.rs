//! strace, while it meddles with what a running process asks of the operating system.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

/// How long it may take to come to every thread of a process.
const ATTACH_MAX: Duration = Duration::from_secs(60);

/// strace at work. Dropping it lets the process be.
#[derive(Debug)]
pub struct Strace(Child);

impl Strace {
    /// Changes what becomes of one system call of a process, in all of its threads when this returns. `how`: as strace's
    /// `inject=` has it, such as `error=EIO` or `delay_enter=1000` (microseconds).
    ///
    /// # Errors
    /// When there is no strace (see platform/xtask/src/setup.rs), or it may not trace the process: it needs root.
    pub fn inject(process: u32, call: &str, how: &str) -> anyhow::Result<Self> {
        let child = Command::new("strace")
            .args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:{how}"), "-p", &process.to_string()])
            .stderr(Stdio::inherit())
            .spawn()
            .context("strace is needed to have a call fail: see platform/xtask/src/setup.rs")?;
        let mut strace = Self(child);
        let start = Instant::now();
        while !strace.is_everywhere(process)? {
            let ended = strace.0.try_wait()?;
            ensure!(ended.is_none(), "strace cannot trace the process (it needs root): {ended:?}");
            ensure!(start.elapsed() < ATTACH_MAX, "strace does not come to every thread of the process");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(strace)
    }

    /// Whether every thread is traced.
    fn is_everywhere(&self, process: u32) -> anyhow::Result<bool> {
        let tracer = format!("TracerPid:\t{}\n", self.0.id());
        let threads = std::fs::read_dir(format!("/proc/{process}/task"))?;
        // A thread that has ended meanwhile needs none.
        Ok(threads.flatten().all(|thread| {
            std::fs::read_to_string(thread.path().join("status")).map_or(true, |status| status.contains(&tracer))
        }))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It ends by itself when the process does.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
