//! Tasks, and loops that own a thread in the real world.

use crate::BoxFuture;

/// Starts work that runs beside the caller.
pub trait Spawn: Send + Sync + 'static {
    /// Starts a task on the shared runtime. It must not block.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task;

    /// Starts a loop that may block in [`crate::Disk`] calls: a thread of its own in the real world, an ordinary task in
    /// simulation. The future must use no timer or socket of a runtime, only channels and [`crate::Disk`].
    ///
    /// # Panics
    /// When the operating system refuses a thread.
    fn dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task;

    /// Does work that keeps a thread busy for long, by computing or in [`crate::Disk`] calls, away from the runtime's own
    /// threads; in simulation, in a task.
    fn blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) -> Task {
        self.spawn(name, Box::pin(async move { work() }))
    }

    /// Calls `work` with every number below `count`, several at a time, and returns when all calls have: for work that waits for
    /// the disk more than it computes. Blocks. In simulation one after the other, in order.
    ///
    /// # Panics
    /// When a call panics; the others are ended first.
    fn each(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(work);
    }
}

/// A handle on started work: resolves when it ended. Dropping it lets the work go on.
pub struct Task {
    pub(crate) done: tokio::sync::oneshot::Receiver<()>,
    pub(crate) abort: Option<Box<dyn FnOnce() + Send>>,
}

impl Task {
    /// Waits until the work has ended, in whichever way.
    pub async fn join(mut self) {
        self.ended().await;
    }

    /// The same without giving the handle up: who is dropped while it waits can wait again. Not once it has resolved.
    pub async fn ended(&mut self) {
        let _ = (&mut self.done).await;
    }

    /// Ends a task at its next await point. A dedicated loop goes on: end it by closing its channel.
    pub fn abort(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort();
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}
