//! Tasks on one thread, polled one at a time in an order that the seed decides.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::SimRng;
use crate::{BoxFuture, Rng, Spawn, Task};

/// The future that the world runs for.
const MAIN: u64 = 0;

/// One machine's tasks in a [`super::World`]. A dedicated loop is a task like others.
#[derive(Clone)]
pub struct SimSpawn {
    executor: Arc<Executor>,
    machine: u32,
}

impl SimSpawn {
    pub(super) fn new(executor: Arc<Executor>, machine: u32) -> Self {
        Self { executor, machine }
    }
}

impl Spawn for SimSpawn {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        let (done, id) = self.executor.add(name, self.machine, future);
        let executor = Arc::downgrade(&self.executor);
        let abort = move || {
            if let Some(executor) = executor.upgrade() {
                executor.drop_task(id);
            }
        };
        Task { done, abort: Some(Box::new(abort)) }
    }

    fn dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        let (done, _) = self.executor.add(name, self.machine, future);
        Task { done, abort: None }
    }
}

/// What one round of the executor did.
pub(super) enum Step<T> {
    /// The main future is done.
    Done(T),
    /// Something was polled.
    Ran,
    /// Nothing is ready.
    Idle,
}

pub(super) struct Executor {
    rng: SimRng,
    ready: Arc<Mutex<Vec<u64>>>,
    tasks: Mutex<Tasks>,
}

struct Tasks {
    slots: BTreeMap<u64, Slot>,
    next: u64,
    fingerprint: u64,
}

struct Slot {
    name: &'static str,
    machine: u32,
    /// None while it is polled.
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
    /// Dropped with the slot, which tells the handle.
    _done: oneshot::Sender<()>,
}

/// Puts a task on the ready list, once.
struct Ready {
    id: u64,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut ready = self.ready.lock();
        if !ready.contains(&self.id) {
            ready.push(self.id);
        }
    }
}

impl Executor {
    pub(super) fn new(rng: SimRng) -> Self {
        let tasks = Tasks { slots: BTreeMap::new(), next: MAIN + 1, fingerprint: 0 };
        Self { rng, ready: Arc::default(), tasks: Mutex::new(tasks) }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.tasks.lock().fingerprint
    }

    /// The names of the tasks that have not ended.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.tasks.lock().slots.values().map(|slot| slot.name).collect()
    }

    pub(super) fn wake_main(&self) {
        self.waker(MAIN).wake();
    }

    fn waker(&self, id: u64) -> Waker {
        Arc::new(Ready { id, ready: Arc::clone(&self.ready) }).into()
    }

    fn add(&self, name: &'static str, machine: u32, future: BoxFuture<'static, ()>) -> (oneshot::Receiver<()>, u64) {
        let (done_tx, done) = oneshot::channel();
        let mut tasks = self.tasks.lock();
        let id = tasks.next;
        tasks.next += 1;
        let waker = self.waker(id);
        waker.wake_by_ref();
        tasks.slots.insert(id, Slot { name, machine, future: Some(future), waker, _done: done_tx });
        (done, id)
    }

    fn drop_task(&self, id: u64) {
        let slot = self.tasks.lock().slots.remove(&id);
        // Not under the lock: its destructors may wake or spawn.
        drop(slot);
    }

    /// Drops the tasks of some machines, and those that they start meanwhile.
    pub(super) fn drop_tasks(&self, of: impl Fn(u32) -> bool) {
        loop {
            let dropped: Vec<_> = self.tasks.lock().slots.extract_if(.., |_, slot| of(slot.machine)).collect();
            if dropped.is_empty() {
                return;
            }
        }
    }

    /// Polls the main future or a task, whichever the seed picks of those that are ready.
    pub(super) fn run_main_or_task<F: Future>(&self, main: Pin<&mut F>, now: Duration) -> Step<F::Output> {
        let id = {
            let mut ready = self.ready.lock();
            if ready.is_empty() {
                return Step::Idle;
            }
            let pick = self.rng.below(ready.len() as u64) as usize;
            ready.remove(pick)
        };
        self.note(id, now);
        if id == MAIN {
            super::Running::switch(0);
            let waker = self.waker(MAIN);
            return match main.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => Step::Done(output),
                Poll::Pending => Step::Ran,
            };
        }
        let taken = self.tasks.lock().slots.get_mut(&id).and_then(|slot| {
            super::Running::switch(slot.machine);
            Some((slot.future.take()?, slot.waker.clone()))
        });
        if let Some((mut future, waker)) = taken {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => self.drop_task(id),
                Poll::Pending => {
                    // Unless it was aborted while it ran: then the future goes now.
                    if let Some(slot) = self.tasks.lock().slots.get_mut(&id) {
                        slot.future = Some(future);
                    }
                }
            }
        }
        Step::Ran
    }

    fn note(&self, id: u64, now: Duration) {
        let mut tasks = self.tasks.lock();
        for value in [id, now.as_nanos() as u64] {
            tasks.fingerprint = SimRng::new(tasks.fingerprint ^ value).next_u64();
        }
    }
}
