//! A pool: the instances of one module with one set of parameters, lent to one call at a time.
//!
//! ```text
//!             +--> idle instance --+
//! call --> queue (bounded)         +--> run --> fine or told a failure --> idle again
//!             +--> new instance  --+       \--> trap, budget, bad output, cancelled, swollen --> dropped
//! ```
//!
//! An instance is never shared between pools, so nothing that a guest keeps in its memory reaches another deployment.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use millstream_env::Monotonic;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    Blame, CallError, CallMetrics, Factory, LogLine, PoolOptions, WrongKind,
    frame::{Emitted, InputFrame, OutputRules},
    instance::{Answer, Instance, Job},
    logs::LogRing,
    metrics::CallCounters,
    slots::{Idle, Waiting},
};

/// Whether a call may be answered by an instance that has answered others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Any instance will do.
    Any,
    /// A new one: what fails there fails because of the call alone.
    Fresh,
}

/// What a pool has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// What its calls have come to.
    pub calls: CallMetrics,
    /// Instances that wait for a call now.
    pub idle: usize,
}

/// Runs calls of one module with one set of parameters. Cheap to clone; all clones are one pool.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<PoolInner>,
}

struct PoolInner {
    factory: Arc<Factory>,
    options: PoolOptions,
    logs: Arc<LogRing>,
    /// Newest last: the newest is used first, so that the others grow old and are given up.
    idle: Mutex<VecDeque<Instance>>,
    turns: Semaphore,
    waiting: AtomicU32,
    /// Why instances of this pool cannot start. A pure guest fails the same way again: it is asked once.
    broken: Mutex<Option<CallError>>,
    metrics: Mutex<Vec<f64>>,
    calls: CallCounters,
}

impl Factory {
    /// A pool of instances, none of them made yet: [`Pool::check`] makes the first.
    ///
    /// # Errors
    /// [`WrongKind`] when the module is not of the kind.
    pub fn pool(self: &Arc<Self>, options: PoolOptions) -> Result<Pool, WrongKind> {
        if !self.kinds().contains(&options.kind) {
            return Err(WrongKind { kinds: self.kinds().to_vec(), wanted: options.kind });
        }
        Ok(Pool::new(Arc::clone(self), options))
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Pool {
    fn new(factory: Arc<Factory>, options: PoolOptions) -> Self {
        let ground = Arc::clone(&factory.ground);
        let metrics = vec![0.0; factory.declarations().metrics.len()];
        let inner = Arc::new(PoolInner {
            logs: Arc::new(LogRing::new(&options.module, &options.name, &ground.env)),
            idle: Mutex::default(),
            turns: Semaphore::new(options.limits.instances.max(1) as usize),
            waiting: AtomicU32::new(0),
            broken: Mutex::default(),
            metrics: Mutex::new(metrics),
            calls: CallCounters::default(),
            factory,
            options,
        });
        let keeper: Weak<PoolInner> = Arc::downgrade(&inner);
        ground.slots.register(keeper);
        Self { inner }
    }

    /// The module.
    #[must_use]
    pub fn factory(&self) -> &Arc<Factory> {
        &self.inner.factory
    }

    /// How the pool is set up.
    #[must_use]
    pub fn options(&self) -> &PoolOptions {
        &self.inner.options
    }

    /// Makes an instance, so that wrong parameters show before the first record comes.
    ///
    /// # Errors
    /// [`CallError::Guest`] with [`crate::FailureCode::Config`] for wrong parameters, or any other.
    pub async fn check(&self) -> Result<(), CallError> {
        self.inner.check().await
    }

    /// Asks a partitioner for each record's partition: as many numbers as records, each -1 (the default placement) or less
    /// than `partitions`.
    ///
    /// Dropping the future cancels the call and discards the instance. Long calls yield to other tasks.
    ///
    /// # Errors
    /// [`CallError`]; nothing is known about any record then.
    pub async fn assign(&self, frame: &InputFrame, partitions: u32) -> Result<Vec<i32>, CallError> {
        match self.inner.run(Job::Assign(frame, partitions), Freshness::Any).await? {
            Answer::Assigned(assigned) => Ok(assigned),
            _ => Err(mismatch()),
        }
    }

    /// Asks a filter which records are seen: one answer a record. Cancellation as for [`Pool::assign`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn select(&self, frame: &InputFrame) -> Result<Vec<bool>, CallError> {
        match self.inner.run(Job::Select(frame), Freshness::Any).await? {
            Answer::Selected(selected) => Ok(selected),
            _ => Err(mismatch()),
        }
    }

    /// Has a mapper process records; what it emitted is checked against `rules` and comes in the order of the emits.
    /// Cancellation as for [`Pool::assign`].
    ///
    /// # Errors
    /// [`CallError`]: all that the call emitted is dropped.
    pub async fn process(
        &self,
        frame: &InputFrame,
        rules: &OutputRules,
        freshness: Freshness,
    ) -> Result<Vec<Emitted>, CallError> {
        match self.inner.run(Job::Process(frame, rules), freshness).await? {
            Answer::Emitted(emitted) => Ok(emitted),
            _ => Err(mismatch()),
        }
    }

    /// The last lines that instances wrote, oldest first, and how many more were dropped because a call wrote too many.
    #[must_use]
    pub fn logs(&self) -> (Vec<LogLine>, u64) {
        self.inner.logs.snapshot()
    }

    /// The sums of the metrics that calls with a result reported, under their declared names.
    #[must_use]
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let declared = &self.inner.factory.declarations().metrics;
        declared.iter().map(|metric| metric.name.clone()).zip(self.inner.metrics.lock().iter().copied()).collect()
    }

    /// What the pool has done so far.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let inner = &self.inner;
        PoolStats { calls: inner.calls.metrics(), idle: inner.idle.lock().len() }
    }
}

fn mismatch() -> CallError {
    CallError::Host { reason: "the call was answered with another kind of result".into() }
}

impl Idle for PoolInner {
    fn oldest_idle(&self) -> Option<Monotonic> {
        self.idle.lock().front().map(|instance| instance.idle_since)
    }

    fn evict_oldest(&self) {
        // Taken out first: dropping an instance takes a while, and others want the lock.
        let oldest = self.idle.lock().pop_front();
        drop(oldest);
    }

    fn evict_before(&self, deadline: Monotonic) {
        let evicted: Vec<_> = {
            let mut idle = self.idle.lock();
            let old = idle.iter().take_while(|instance| instance.idle_since < deadline).count();
            idle.drain(..old).collect()
        };
        drop(evicted);
    }
}

impl PoolInner {
    async fn check(&self) -> Result<(), CallError> {
        let _turn = self.turn().await?;
        let idle = self.idle.lock().pop_back();
        let instance = match idle {
            Some(instance) => instance,
            None => self.start().await?,
        };
        self.put_back(instance);
        Ok(())
    }

    async fn run(&self, job: Job<'_>, freshness: Freshness) -> Result<Answer, CallError> {
        let result = self.attempt(job, freshness).await;
        self.counters().for_each(|calls| calls.count(&result));
        result
    }

    /// Its own, and those of all pools.
    fn counters(&self) -> impl Iterator<Item = &CallCounters> {
        [&self.calls, &self.factory.ground.counters.calls].into_iter()
    }

    async fn attempt(&self, job: Job<'_>, freshness: Freshness) -> Result<Answer, CallError> {
        let _turn = self.turn().await?;
        let idle = self.idle.lock().pop_back();
        let used = match (idle, freshness) {
            (Some(instance), Freshness::Any) => Some(instance),
            _ => None,
        };
        if let Some(mut instance) = used {
            let had_calls = instance.calls > 0;
            let result = self.call(&mut instance, job).await;
            // What earlier calls left in the memory may be the cause: a new instance decides.
            if !(had_calls && matches!(result, Err(CallError::OutOfMemory { .. }))) {
                return self.finish(instance, result);
            }
        }
        let mut instance = self.start().await?;
        let result = self.call(&mut instance, job).await;
        self.finish(instance, result)
    }

    async fn call(&self, instance: &mut Instance, job: Job<'_>) -> Result<Answer, CallError> {
        let limits = &self.options.limits;
        let time = limits.call_time(Instance::fuel(job, limits));
        let clock = &*self.factory.ground.env.clock;
        let Some((result, spent)) = crate::within(clock, time, instance.run(job, limits)).await else {
            return Err(CallError::slow(time));
        };
        self.counters().for_each(|calls| calls.add_fuel(spent.fuel));
        if result.is_ok() && !spent.reported.is_empty() {
            let mut metrics = self.metrics.lock();
            for (metric, sum) in metrics.iter_mut().zip(spent.reported) {
                *metric = (*metric + sum).clamp(f64::MIN, f64::MAX);
            }
        }
        result
    }

    /// Keeps the instance if its call left it in a known state.
    fn finish(&self, instance: Instance, result: Result<Answer, CallError>) -> Result<Answer, CallError> {
        if matches!(result, Ok(_) | Err(CallError::Guest(_))) && !instance.is_swollen() {
            self.put_back(instance);
        }
        result
    }

    fn put_back(&self, mut instance: Instance) {
        let ground = &self.factory.ground;
        instance.idle_since = ground.env.clock.now();
        self.idle.lock().push_back(instance);
        ground.slots.returned();
    }

    /// Waits for one of the pool's turns.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, CallError> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        let _waiting = Waiting::enter(&self.waiting, self.options.limits.waiting)
            .map_err(|waiting| CallError::Exhausted { waiting })?;
        let ground = &self.factory.ground;
        match crate::within(&*ground.env.clock, ground.slots.wait_max(), self.turns.acquire()).await {
            Some(turn) => turn.map_err(|_| CallError::Host { reason: "the pool was closed".into() }),
            None => Err(CallError::Exhausted { waiting: self.waiting.load(Ordering::Relaxed) }),
        }
    }

    async fn start(&self) -> Result<Instance, CallError> {
        if let Some(error) = &*self.broken.lock() {
            return Err(error.clone());
        }
        let slot = self.factory.ground.slots.take().await?;
        self.counters().for_each(CallCounters::add_started);
        let time = self.options.limits.time;
        let starting = self.factory.instance(&self.options, &self.logs, slot);
        let result = crate::within(&*self.factory.ground.env.clock, time, starting).await;
        let result = result.unwrap_or_else(|| Err(CallError::slow(time)));
        if let Err(error) = &result
            && error.blame() != Blame::Host
        {
            *self.broken.lock() = Some(error.clone());
        }
        result
    }
}
