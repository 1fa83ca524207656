//! Work that takes a thread for long: unpacking batches, looking through a log. It is done away from the runtime's threads,
//! a little of it at a time, so that what anybody may ask for holds up neither the others nor the memory.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use millstream_env::Spawn;
use tokio::sync::{Semaphore, oneshot};

/// Jobs of one kind that may run at the same time.
const JOBS_MAX: usize = 2;

/// A queue for one kind of such work.
pub(crate) struct Jobs {
    spawn: Arc<dyn Spawn>,
    room: Arc<Semaphore>,
}

/// Tells a job whether anybody still waits for it.
#[derive(Clone, Default)]
pub(crate) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    /// Whether the job's outcome would be dropped: it should stop.
    pub(crate) fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tells it so when the future that waits is dropped.
struct GiveUp(Wanted);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Jobs {
    pub(crate) fn new(spawn: Arc<dyn Spawn>) -> Self {
        Self { spawn, room: Arc::new(Semaphore::new(JOBS_MAX)) }
    }

    /// Does the job when there is room for it; none if it panicked. Dropping the future gives the job up: it is not begun,
    /// or is told by [`Wanted`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        job: impl FnOnce(&Wanted) -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.room.clone().acquire_owned().await.ok()?;
        let (sender, outcome) = oneshot::channel();
        let give_up = GiveUp(Wanted::default());
        let wanted = give_up.0.clone();
        self.spawn.blocking(
            name,
            Box::new(move || {
                // Held for as long as the job runs, whoever waits for it.
                let _permit = permit;
                let _ = sender.send(job(&wanted));
            }),
        );
        outcome.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_that_nobody_waits_for_is_told_and_its_place_is_given_to_the_next() {
        let jobs = Arc::new(Jobs::new(millstream_env::real::env().spawn));
        let mut told = Vec::new();
        for _ in 0..JOBS_MAX {
            let (begun, has_begun) = oneshot::channel();
            let (ended, has_ended) = oneshot::channel();
            let job = jobs.run("test", move |wanted| {
                let _ = begun.send(());
                while !wanted.is_given_up() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let _ = ended.send(());
            });
            tokio::select! {
                _ = job => panic!("nobody has given it up"),
                _ = has_begun => {}
            }
            told.push(has_ended);
        }
        for has_ended in told {
            has_ended.await.unwrap();
        }
        assert_eq!(jobs.run("test", |_| 7).await, Some(7));
    }

    #[tokio::test]
    async fn a_job_that_panics_leaves_its_place() {
        let jobs = Jobs::new(millstream_env::real::env().spawn);
        for _ in 0..JOBS_MAX + 1 {
            assert_eq!(jobs.run::<()>("test", |_| panic!("on purpose")).await, None);
        }
    }
}
