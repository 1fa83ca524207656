//! A simulated world: one thread, one seed, faults on request.
//!
//! - [`World`]: the whole of it, and the loop that runs it.
//! - [`Machine`]: one computer: tasks, a disk and an address, that can crash together.
//! - [`SimClock`]: virtual time, moved by hand or when nothing else can run.
//! - [`SimRng`]: random numbers from a seed.
//! - [`SimDisk`]: files in memory, with crashes that lose what was not synced.
//! - [`SimNet`]: connections of frame streams in memory.
//! - [`SimSpawn`]: tasks, polled one at a time in an order that the seed decides.
//!
//! Each can be used without the others. Code under simulation must get all time, randomness, files, frames and tasks from its
//! [`Env`]; then the same seed gives the same run, which [`World::fingerprint`] shows. Channels and locks may be tokio's
//! (they need no runtime); tokio's timers and sockets may not be used.

mod clock;
mod disk;
mod mailbox;
mod net;
mod rng;
mod spawn;
mod stuck;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, sync::Arc, time::Duration};

pub use clock::SimClock;
pub use disk::{DiskCounts, DiskOperation, Fault, FaultError, PAGE_BYTES, SECTOR_BYTES, SimDisk};
pub use net::SimNet;
pub use rng::SimRng;
pub use spawn::SimSpawn;
pub use stuck::Stuck;

use self::{net::Hub, spawn::Executor};
use crate::{Clock, Env, Net};

/// A world from a seed. Dropping it drops all its tasks.
pub struct World {
    seed: u64,
    rng: Arc<SimRng>,
    clock: SimClock,
    executor: Arc<Executor>,
    hub: Hub,
    /// The machines' worlds, by their ids.
    envs: Vec<Env>,
    time_limit: Duration,
    first: Machine,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// The world that a thread is running, and whose code it is just polling.
struct Running {
    envs: Vec<Env>,
    machine: u32,
}

impl Running {
    fn enter(envs: &[Env]) -> Leave {
        let running = Self { envs: envs.to_vec(), machine: 0 };
        Leave(RUNNING.replace(Some(running)))
    }

    /// What is polled from here on is this machine's.
    fn switch(machine: u32) {
        RUNNING.with_borrow_mut(|running| {
            if let Some(running) = running {
                running.machine = machine;
            }
        });
    }
}

/// Puts back what the thread ran before.
struct Leave(Option<Running>);

impl Drop for Leave {
    fn drop(&mut self) {
        RUNNING.set(self.0.take());
    }
}

/// The env of the machine whose code this thread is polling; none outside of a world. A test's own future counts as code of
/// the first machine.
pub(crate) fn running() -> Option<Env> {
    RUNNING
        .with_borrow(|running| running.as_ref().and_then(|running| running.envs.get(running.machine as usize)).cloned())
}

/// One computer of a [`World`]. Clones are the same one.
#[derive(Clone)]
pub struct Machine {
    id: u32,
    env: Env,
    disk: SimDisk,
    net: SimNet,
    rng: Arc<SimRng>,
    executor: Arc<Executor>,
    hub: Hub,
}

impl World {
    /// The virtual time that one [`World::run_until`] may take, unless said otherwise.
    pub const TIME_LIMIT: Duration = Duration::from_secs(24 * 3600);

    /// A world with one machine, called `localhost`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let rng = Arc::new(SimRng::new(seed));
        let clock = SimClock::new();
        let executor = Arc::new(Executor::new(rng.fork()));
        let hub = Hub::new(clock.clone());
        let first = Machine::new(0, "localhost", &rng, &clock, &executor, &hub);
        Self { seed, rng, clock, executor, hub, envs: vec![first.env()], time_limit: Self::TIME_LIMIT, first }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Another machine, which the others reach by `name`.
    pub fn machine(&mut self, name: &str) -> Machine {
        let id = u32::try_from(self.envs.len()).unwrap_or(u32::MAX);
        let machine = Machine::new(id, name, &self.rng, &self.clock, &self.executor, &self.hub);
        self.envs.push(machine.env());
        machine
    }

    /// The first machine.
    #[must_use]
    pub fn first(&self) -> &Machine {
        &self.first
    }

    /// The first machine's clock, randomness, disk and tasks.
    #[must_use]
    pub fn env(&self) -> Env {
        self.first.env()
    }

    /// The first machine's disk.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.first.disk
    }

    /// The first machine's network.
    #[must_use]
    pub fn net(&self) -> Arc<dyn Net> {
        self.first.net()
    }

    /// The clock of all machines.
    #[must_use]
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Randomness for the test itself: faults, workloads.
    #[must_use]
    pub fn rng(&self) -> &SimRng {
        &self.rng
    }

    /// Changes the virtual time that one [`World::run_until`] may take.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.time_limit = limit;
    }

    /// Frames take this long from now on: at least `least`, and up to `spread` more, as the seed decides. Each stream stays in order.
    pub fn set_latency(&self, least: Duration, spread: Duration) {
        self.hub.set_latency(least, spread, self.rng.fork());
    }

    /// Runs the world until `future` is done. Tasks go on with the next call where they are. Time moves when nothing can run, to the next
    /// timer.
    ///
    /// # Panics
    /// With the seed, where [`World::try_run_until`] fails; and where a task panics.
    pub fn run_until<F: Future>(&self, future: F) -> F::Output {
        self.try_run_until(future).unwrap_or_else(|stuck| panic!("{stuck}"))
    }

    /// As [`World::run_until`], for those who have an answer to a world that does not get on. `future` is dropped then; the
    /// tasks stay as they are.
    ///
    /// # Errors
    /// [`Stuck`].
    ///
    /// # Panics
    /// Where a task panics.
    pub fn try_run_until<F: Future>(&self, future: F) -> Result<F::Output, Stuck> {
        let end = self.clock.now().0.saturating_add(self.time_limit);
        let mut future = std::pin::pin!(future);
        let _running = Running::enter(&self.envs);
        self.executor.wake_main();
        loop {
            match self.executor.run_main_or_task(future.as_mut(), self.clock.now().0) {
                spawn::Step::Done(output) => return Ok(output),
                spawn::Step::Ran => {}
                spawn::Step::Idle => {
                    let (seed, limit) = (self.seed, self.time_limit);
                    if !self.clock.advance_to_next() {
                        return Err(Stuck::Deadlock { seed, waiting: self.executor.names() });
                    }
                    if self.clock.now().0 > end {
                        return Err(Stuck::OutOfTime { seed, limit, waiting: self.executor.names() });
                    }
                }
            }
        }
    }

    /// Lets the world run for a while.
    ///
    /// # Panics
    /// As [`World::run_until`].
    pub fn run_for(&self, duration: Duration) {
        self.run_until(self.clock.sleep(duration));
    }

    /// A digest of which task ran when, so far: equal for equal runs.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.executor.fingerprint()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Tasks hold the executor that holds them.
        self.executor.drop_tasks(|_| true);
    }
}

impl Machine {
    fn new(id: u32, name: &str, rng: &Arc<SimRng>, clock: &SimClock, executor: &Arc<Executor>, hub: &Hub) -> Self {
        let disk = SimDisk::new(rng.fork().below(u64::MAX));
        let env = Env {
            clock: Arc::new(clock.clone()),
            rng: Arc::new(rng.fork()),
            disk: Arc::new(disk.clone()),
            spawn: Arc::new(SimSpawn::new(Arc::clone(executor), id)),
        };
        let net = hub.machine(id, name);
        Self { id, env, disk, net, rng: Arc::clone(rng), executor: Arc::clone(executor), hub: hub.clone() }
    }

    /// Its clock, randomness, disk and tasks.
    #[must_use]
    pub fn env(&self) -> Env {
        self.env.clone()
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Its network.
    #[must_use]
    pub fn net(&self) -> Arc<dyn Net> {
        Arc::new(self.net.clone())
    }

    /// The power fails: its tasks stop where they are, its connections break, its disk keeps what is durable and tears the rest.
    /// To be called from outside its tasks.
    pub fn crash(&self) {
        self.stop();
        self.disk.crash(&*self.rng);
    }

    /// Its processes are killed: as [`Machine::crash`], but the disk loses nothing.
    pub fn kill(&self) {
        self.stop();
        self.disk.kill();
    }

    fn stop(&self) {
        // The disk first: what tasks do in their destructors must not reach it.
        self.disk.kill();
        self.executor.drop_tasks(|machine| machine == self.id);
        self.hub.stop(self.id);
    }
}
