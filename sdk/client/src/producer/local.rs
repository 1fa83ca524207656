//! Running a topic's partitioner in this process: the broker's very module, told what the broker tells it. (Feature `local-routing`.)
//!
//! ```text
//! DescribeRouting: digest, parameters --> the pool's? -----------------------> pool --> partitions of this routing epoch
//!                                           \--> ModuleRead, checked, compiled, started --^         |
//!                                                   \--> cannot be had: ask the broker               \--> fails: ask the broker
//! ```
//!
//! A module is a pure function of its parameters and input, so both have the same answer. Where there is none here, for whatever reason, the
//! broker is asked about the same records: there is one source of verdicts, and nothing of this file refuses a record. Records wait
//! while their module is made ready, in order.
//!
//! The module is believed as little as in the broker: inspected, run with fuel, memory and time of a bounded amount, thrown away after a trap.
//! What a broker does in a child process, compiling, is done in this one unless the program says otherwise: it has no say over what this
//! program does with its arguments, so that it cannot start it again. Bounds for that are the module's size, the inspection, and that no
//! other is compiled after one that has taken too long.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::{Either, select};
use millstream_env::{Env, Monotonic};
use millstream_model::{Digest, ModuleKind, Needs, PartitionId, limits::BATCH_BYTES_MAX};
use millstream_protocol::extension::routing::TopicRouting;
use millstream_wasm::{
    Blame, CallError as RunError, Compiler, Factory, InitParams, Limits, Pool, PoolOptions, Refused, Runtime,
    RuntimeError, RuntimeOptions, WrongKind, frame::InputFrame,
};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use crate::{CallError, cluster::Cluster, module_bytes::download};

/// Instances of all of a producer's partitioners together. Topics take turns: an idle one is given up for a call that waits.
const INSTANCES_MAX: u32 = 4;
/// Modules that are kept ready, the one used last beside others: a topic may go back to one, and topics share one.
const KEPT_MAX: usize = 4;
/// How long a call waits for an instance.
const INSTANCE_WAIT: Duration = Duration::from_secs(5);
/// How long an ordinary call may take before the broker is asked instead: what bounds it is fuel, so that this says something of the
/// machine's load only.
const CALL_TIME: Duration = Duration::from_secs(10);
/// When it is tried again to run a module, after something failed that was not the module's fault.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A producer runs its topics' partitioners itself, within these bounds, and asks brokers only about what fails here.
/// [`crate::ProducerOptions::local_routing`] turns it on. (Feature `local-routing`.)
///
/// ```no_run
/// use millstream_client::{Client, ClientOptions, LocalRouting, ProducerOptions, ProducerRecord};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(ClientOptions::default()).await?;
/// let local_routing = Some(LocalRouting::default());
/// let producer = client.producer(ProducerOptions { local_routing, ..ProducerOptions::default() });
/// // The first record waits until the module is downloaded and compiled; no other asks anybody.
/// let value = Some(r#"{"tailnum":"N14228"}"#.into());
/// producer.produce(ProducerRecord { topic: "flights".into(), value, ..ProducerRecord::default() }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LocalRouting {
    /// Largest module that is downloaded and compiled, bytes; about larger ones the broker is asked. By default 8 MiB.
    pub module_bytes_max: usize,
    /// What the instances of all of the producer's partitioners may hold together, bytes. By default 256 MiB.
    pub memory_bytes: usize,
    /// How long records may wait for a module to be downloaded, compiled and started; then the broker is asked. By default 30 s. After one
    /// that has taken longer, this producer makes no other ready.
    pub prepare_max: Duration,
    /// Who compiles. By default this process does, without bounds on the compiler's time and memory but those of [`LocalRouting`]. A
    /// program that calls [`crate::compile_main`] when its first argument is [`crate::COMPILE_ARGUMENT`], before anything else, has it done
    /// in a limited child by [`Compiler::this_executable`].
    pub compiler: Compiler,
}

impl Default for LocalRouting {
    fn default() -> Self {
        Self {
            module_bytes_max: 8 << 20,
            memory_bytes: 256 << 20,
            prepare_max: Duration::from_secs(30),
            compiler: Compiler::InProcess,
        }
    }
}

/// What a broker tells of a topic's partitioner to who runs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    module: String,
    /// None: the broker does not tell, and so does not hand out modules.
    digest: Option<Digest>,
    params: BTreeMap<String, String>,
    /// The largest record that may be shown to it, bytes.
    record_bytes: usize,
}

impl Told {
    /// None: the topic has no partitioner.
    pub(super) fn of(found: &TopicRouting) -> Option<Arc<Self>> {
        let module = found.partitioner.clone()?;
        let params = found.partitioner_params.iter().map(|pair| (pair.name.clone(), pair.value.clone())).collect();
        let record_bytes = usize::try_from(found.message_bytes_max).unwrap_or(0).min(BATCH_BYTES_MAX);
        Some(Arc::new(Self { module, digest: found.partitioner_digest, params, record_bytes }))
    }
}

/// A producer's host of modules. Dropped with it, and with it all that is left of them.
pub(super) struct Host {
    options: LocalRouting,
    env: Env,
    /// Made when first needed.
    runtime: OnceCell<Runtime>,
    /// Oldest use first. Held while a module is made ready: who else wants it finds it then, and one is compiled at a time.
    kept: AsyncMutex<VecDeque<Arc<Factory>>>,
    /// A module was given up that took too long: its compiler may be at it still, so that no other is begun.
    is_over: AtomicBool,
}

impl Host {
    pub(super) fn new(options: LocalRouting, env: Env) -> Self {
        Self { options, env, runtime: OnceCell::new(), kept: AsyncMutex::default(), is_over: AtomicBool::new(false) }
    }

    async fn runtime(&self) -> Result<&Runtime, RuntimeError> {
        let options = RuntimeOptions {
            compiler: self.options.compiler.clone(),
            instances_max: INSTANCES_MAX,
            memory_bytes: self.options.memory_bytes,
            instance_wait: INSTANCE_WAIT,
            upload_wait: self.options.prepare_max,
            ..RuntimeOptions::without_files()
        };
        self.runtime.get_or_try_init(|| async { Runtime::new(options, self.env.clone()) }).await
    }

    /// Makes a module ready, within the time for that.
    async fn prepare(&self, cluster: &Cluster, topic: &str, told: &Told) -> Result<Pool, Unable> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(Unable::Over);
        }
        let work = pin!(self.prepare_now(cluster, topic, told));
        match select(work, self.env.clock.sleep(self.options.prepare_max)).await {
            Either::Left((pool, _)) => pool,
            Either::Right(_) => {
                self.is_over.store(true, Ordering::Relaxed);
                Err(Unable::Slow { after: self.options.prepare_max })
            }
        }
    }

    async fn prepare_now(&self, cluster: &Cluster, topic: &str, told: &Told) -> Result<Pool, Unable> {
        let digest = told.digest.ok_or(Unable::NotTold)?;
        let factory = self.factory(cluster, &told.module, digest).await?;
        let pool = factory.pool(PoolOptions {
            module: told.module.clone(),
            name: format!("partitioner of {topic}"),
            kind: ModuleKind::Partitioner,
            params: InitParams { inputs: vec![topic.into()], outputs: Vec::new(), params: told.params.clone() },
            limits: Limits { instances: INSTANCES_MAX, time: CALL_TIME, ..Limits::for_records(told.record_bytes) },
        })?;
        pool.check().await?;
        Ok(pool)
    }

    async fn factory(&self, cluster: &Cluster, module: &str, digest: Digest) -> Result<Arc<Factory>, Unable> {
        let mut kept = self.kept.lock().await;
        let known = kept.iter().position(|factory| factory.digest() == digest).and_then(|at| kept.remove(at));
        let factory = match known {
            Some(factory) => factory,
            None => {
                let what = format!("module {module}");
                let bytes = download(cluster, &what, digest, self.options.module_bytes_max).await?;
                let prepared = self.runtime().await?.prepare(bytes, Some(digest)).await?;
                Arc::clone(prepared.factory())
            }
        };
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&factory));
        Ok(factory)
    }
}

/// Why a module does not run here.
#[derive(Debug, thiserror::Error)]
enum Unable {
    #[error("the broker does not tell which bytes it is: it is of an older version")]
    NotTold,
    #[error(transparent)]
    Download(#[from] CallError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Kind(#[from] WrongKind),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("it was not ready within {after:?}; this producer tries no other")]
    Slow { after: Duration },
    #[error("another module was not ready in time")]
    Over,
}

impl Unable {
    /// Whether it may do so later, without anybody changing anything.
    fn is_passing(&self) -> bool {
        match self {
            Self::Download(error) => error.is_retriable(),
            Self::Refused(refused) => refused.is_retriable(),
            Self::Run(error) => error.is_retriable(),
            Self::NotTold | Self::Runtime(_) | Self::Kind(_) | Self::Slow { .. } | Self::Over => false,
        }
    }
}

/// One topic's partitioner at work here, or the reason why it is not.
pub(super) struct Local {
    /// None: the producer asks brokers.
    host: Option<Arc<Host>>,
    /// Held while a module is made ready: the others of the topic wait for it.
    at: AsyncMutex<Option<Arc<At>>>,
}

/// What was made of what a broker told.
struct At {
    told: Arc<Told>,
    state: Mutex<State>,
    /// That it does not run here was said already.
    warned: AtomicBool,
}

enum State {
    Ready(Pool),
    /// Until then, if ever.
    Unable(Option<Monotonic>),
}

impl At {
    fn ready(&self) -> Option<Pool> {
        match &*self.state.lock() {
            State::Ready(pool) => Some(pool.clone()),
            State::Unable(_) => None,
        }
    }

    /// Whether it is to be tried now to make it ready.
    fn is_due(&self, now: Monotonic) -> bool {
        matches!(&*self.state.lock(), State::Unable(Some(again)) if *again <= now)
    }

    /// Says once that the broker is asked, and notes until when.
    fn fail(&self, topic: &str, env: &Env, error: &dyn std::error::Error, is_passing: bool) {
        let now = env.clock.now();
        let again = is_passing.then(|| Monotonic(now.0.saturating_add(AGAIN_AFTER)));
        *self.state.lock() = State::Unable(again);
        let module = &self.told.module;
        if self.warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(topic, module, %error, "the partitioner still does not run here");
        } else {
            tracing::warn!(topic, module, %error, "the partitioner does not run here: the broker is asked instead");
        }
    }
}

impl Local {
    pub(super) fn new(host: Option<Arc<Host>>) -> Self {
        Self { host, at: AsyncMutex::default() }
    }

    /// Has the partitioner choose for records; none: ask the broker. -1 leaves one to its host.
    ///
    /// `frame`: the records, as what is needed of them is to be shown, by the way in which brokers are asked.
    pub(super) async fn choose(
        &self,
        cluster: &Cluster,
        topic: &str,
        (told, partitions): (&Arc<Told>, i32),
        frame: impl Fn(Needs) -> Bytes,
    ) -> Option<Vec<PartitionId>> {
        let host = self.host.as_ref()?;
        let at = self.at(host, cluster, topic, told).await;
        let pool = at.ready()?;
        let bytes = frame(pool.factory().declarations().needs);
        let frame = InputFrame::parse(bytes, u32::MAX).ok()?;
        match assign(&pool, &frame, u32::try_from(partitions).ok()?).await {
            Ok(chosen) => Some(chosen),
            Err(error) if error.blame() == Blame::Host => {
                at.fail(topic, &host.env, &error, true);
                None
            }
            Err(error) => {
                // The module's own: the broker's verdict counts, and there is one for each such record.
                tracing::debug!(topic, module = at.told.module, %error, "the broker is asked about these records");
                None
            }
        }
    }

    /// What is known of the module, made ready if nobody has tried that yet.
    async fn at(&self, host: &Host, cluster: &Cluster, topic: &str, told: &Arc<Told>) -> Arc<At> {
        let mut place = self.at.lock().await;
        let known = place.take().filter(|at| at.told == *told);
        let is_new = known.is_none();
        let at = known.unwrap_or_else(|| {
            let (told, state) = (Arc::clone(told), Mutex::new(State::Unable(None)));
            Arc::new(At { told, state, warned: AtomicBool::new(false) })
        });
        if is_new || at.is_due(host.env.clock.now()) {
            match host.prepare(cluster, topic, told).await {
                Ok(pool) => *at.state.lock() = State::Ready(pool),
                Err(error) => at.fail(topic, &host.env, &error, error.is_passing()),
            }
        }
        *place = Some(Arc::clone(&at));
        at
    }
}

/// As the broker asks it: in calls of the same size.
async fn assign(pool: &Pool, frame: &InputFrame, partitions: u32) -> Result<Vec<PartitionId>, RunError> {
    let mut chosen = Vec::with_capacity(frame.count() as usize);
    for range in frame.calls() {
        chosen.extend(pool.assign(&frame.slice(range), partitions).await?.into_iter().map(PartitionId));
    }
    Ok(chosen)
}
