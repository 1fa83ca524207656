//! Modules at work: pools by module, use and parameters, made when they are first needed.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use bytes::Bytes;
use millstream_catalog::{Catalog, Command, Module, Outcome, ProposeError, State, Topic, Transform, View};
use millstream_env::Env;
use millstream_model::{Digest, ModuleKind, ModuleRef, TopicId, TransformId, ViewId};
use millstream_protocol::ErrorCode;
use millstream_wasm::{
    CallMetrics, Declared, InitParams, Limits, Pool, PoolOptions, Prepared, Refused, Runtime, RuntimeError,
    RuntimeMetrics, RuntimeOptions, StoreError,
};
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::{BrokerOptions, errors::WireError, jobs::Jobs, metrics::ModuleMetrics};

/// Why the module host did not start.
pub(crate) type ModulesError = RuntimeError;

/// The module host and the pools in use.
pub(crate) struct Modules {
    runtime: Runtime,
    pools: Mutex<Table<Pool>>,
    /// What pools had done that are gone, by module. Taken while the pools are held.
    gone: Mutex<BTreeMap<String, CallMetrics>>,
    keeping: tokio::sync::Mutex<()>,
    /// Parts of modules that are read for clients.
    reading: Jobs,
}

/// What a pool works for. Ids, not names: what is made anew under an old name shares nothing with what was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Routing(TopicId),
    View(ViewId),
    Transform(TransformId),
}

/// One use of a module: for whom, as what, what its instances are told and how large their records may be.
#[derive(Clone, Debug)]
pub(crate) struct Use<'a> {
    pub(crate) module: &'a ModuleRef,
    owner: Owner,
    /// What its log lines are filed under.
    name: String,
    kind: ModuleKind,
    params: InitParams,
    record_bytes: usize,
}

impl<'a> Use<'a> {
    /// A topic's partitioner; none if it has none.
    pub(crate) fn routing(topic: &'a Topic) -> Option<Self> {
        Some(Self {
            module: topic.config.partitioner.as_ref()?,
            owner: Owner::Routing(topic.id),
            name: format!("partitioner of {}", topic.name),
            kind: ModuleKind::Partitioner,
            params: InitParams {
                inputs: vec![topic.name.to_string()],
                outputs: Vec::new(),
                params: topic.config.partitioner_params.clone(),
            },
            record_bytes: record_bytes([topic]),
        })
    }

    /// The modules of a view's chain, in its order.
    ///
    /// # Errors
    /// When the catalog does not know one of them.
    pub(crate) fn chain(state: &State, view: &'a View, topic: &Topic) -> Result<Vec<Self>, WireError> {
        let each = |module| {
            let is_filter = find(state, module)?.kinds.contains(&ModuleKind::Filter);
            Ok(Self {
                module,
                owner: Owner::View(view.id),
                name: format!("view {}", view.name),
                kind: if is_filter { ModuleKind::Filter } else { ModuleKind::Mapper },
                params: InitParams {
                    inputs: vec![topic.name.to_string()],
                    outputs: Vec::new(),
                    params: view.params.clone(),
                },
                record_bytes: record_bytes([topic]),
            })
        };
        view.chain.iter().map(each).collect()
    }

    /// A transform's module.
    pub(crate) fn transform(state: &State, transform: &'a Transform) -> Self {
        let topics =
            |ids: &[TopicId]| -> Vec<_> { ids.iter().filter_map(|id| state.topic_by_id(*id)).cloned().collect() };
        let (inputs, outputs) = (topics(&transform.inputs), topics(&transform.outputs));
        let names = |topics: &[Arc<Topic>]| topics.iter().map(|topic| topic.name.to_string()).collect();
        Self {
            module: &transform.module,
            owner: Owner::Transform(transform.id),
            name: format!("transform {}", transform.name),
            kind: ModuleKind::Mapper,
            params: InitParams { inputs: names(&inputs), outputs: names(&outputs), params: transform.params.clone() },
            record_bytes: record_bytes(inputs.iter().chain(&outputs).map(|topic| &**topic)),
        }
    }

    fn key(&self, digest: Digest) -> PoolKey {
        PoolKey { digest, kind: self.kind, owner: self.owner, params: self.params.clone() }
    }
}

/// The largest record that any of these topics takes, bytes as encoded.
fn record_bytes<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> usize {
    topics.into_iter().map(|topic| topic.config.message_bytes_max).max().unwrap_or_default()
}

impl Modules {
    pub(crate) fn open(options: &BrokerOptions, env: &Env) -> Result<Self, ModulesError> {
        let runtime_options =
            RuntimeOptions { compiler: options.compiler.clone(), ..RuntimeOptions::new(&options.data_dir) };
        let runtime = Runtime::new(runtime_options, env.clone())?;
        let (keeping, reading) = (tokio::sync::Mutex::default(), Jobs::new(Arc::clone(&env.spawn)));
        Ok(Self { runtime, pools: Mutex::default(), gone: Mutex::default(), keeping, reading })
    }

    /// Inspects, compiles, starts and describes an uploaded module. Nothing is written.
    pub(crate) async fn prepare(&self, bytes: Bytes, expected: Option<Digest>) -> Result<Prepared, Refused> {
        self.runtime.prepare(bytes, expected).await
    }

    /// Stores a prepared module durably and has the catalog take it; it is there either for both or for neither.
    pub(crate) async fn keep(
        &self,
        catalog: &Catalog,
        prepared: Prepared,
        command: Command,
    ) -> Result<Outcome, WireError> {
        // One at a time: what one upload removes may be what another has just stored.
        let _turn = self.keeping.lock().await;
        let digest = self.runtime.keep(prepared).await.map_err(Refused::from)?.digest();
        let proposed = catalog.propose(command).await;
        if let Err(ProposeError::Refused(_) | ProposeError::Command(_)) = &proposed {
            self.remove_unnamed(catalog, digest).await;
        }
        Ok(proposed?)
    }

    /// Reads a part of a module's bytes, unchecked: at most `bytes_max` from `offset` on.
    pub(crate) async fn read_part(&self, module: &Module, offset: u64, bytes_max: usize) -> Result<Bytes, WireError> {
        let (store, digest) = (self.runtime.store().clone(), module.digest);
        let read = self.reading.run("read module", move |_| store.read_part(digest, offset, bytes_max)).await;
        let read = read.unwrap_or(Err(StoreError::Stopped));
        read.map_err(|error| WireError::unloadable(&module.module, &error.into()))
    }

    /// Has the catalog forget a module, which it refuses while something uses it, and removes its bytes if no other name stands for them.
    pub(crate) async fn delete(&self, catalog: &Catalog, module: ModuleRef) -> Result<(), WireError> {
        // An upload of the same bytes under another name must not find them stored, and then lose them.
        let _turn = self.keeping.lock().await;
        let digest = find(&catalog.state(), &module)?.digest;
        catalog.propose(Command::DeleteModule { module }).await?;
        self.remove_unnamed(catalog, digest).await;
        Ok(())
    }

    /// Removes a module's bytes, unless a name stands for them.
    async fn remove_unnamed(&self, catalog: &Catalog, digest: Digest) {
        if !digests(&catalog.state()).contains(&digest)
            && let Err(error) = self.runtime.remove(digest).await
        {
            warn!(%digest, %error, "a module that nobody needs stays until the next start");
        }
    }

    /// Removes what uploads left behind that were interrupted. `state` must be all that the cluster has agreed on.
    pub(crate) async fn sweep(&self, state: &State) {
        match self.runtime.retain(digests(state)).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "modules were removed that no name stands for"),
            Err(error) => warn!(%error, "modules that no name stands for could not be removed"),
        }
    }

    /// The pool of a topic's partitioner; none if the topic has none.
    pub(crate) async fn partitioner(&self, state: &State, topic: &Topic) -> Result<Option<Pool>, WireError> {
        match Use::routing(topic) {
            Some(usage) => self.pool(state, usage).await.map(Some),
            None => Ok(None),
        }
    }

    /// The pools of a view's chain, in its order.
    pub(crate) async fn chain(&self, state: &State, view: &View, topic: &Topic) -> Result<Vec<Pool>, WireError> {
        let mut chain = Vec::with_capacity(view.chain.len());
        for usage in Use::chain(state, view, topic)? {
            chain.push(self.pool(state, usage).await?);
        }
        Ok(chain)
    }

    /// The pool for a module in one use, loaded if it is not at work yet. It is kept until its owner is gone, or its topics take
    /// larger records: of those that it was made for there may still be some.
    pub(crate) async fn pool(&self, state: &State, usage: Use<'_>) -> Result<Pool, WireError> {
        let key = usage.key(find(state, usage.module)?.digest);
        let record_bytes = Limits::for_records(usage.record_bytes).record_bytes;
        let fits = |pool: &Pool| pool.options().limits.record_bytes >= record_bytes;
        if let Some(pool) = self.pools.lock().0.get(&key).filter(|pool| fits(pool)) {
            return Ok(pool.clone());
        }
        let pool = self.make(state, usage).await?;
        let replaced = match self.pools.lock().0.entry(key) {
            // Two may have come this far at once: the first one's pool is used by both.
            Entry::Occupied(there) if fits(there.get()) => return Ok(there.get().clone()),
            Entry::Occupied(mut there) => {
                self.note_gone(there.get());
                Some(there.insert(pool.clone()))
            }
            Entry::Vacant(place) => {
                place.insert(pool.clone());
                None
            }
        };
        // Not under the lock: dropping instances takes a while.
        drop(replaced);
        Ok(pool)
    }

    /// A pool, not yet where others find it: [`Modules::pool`] puts it there. On its own it shows whether instances start, for what may
    /// never be created.
    pub(crate) async fn make(&self, state: &State, usage: Use<'_>) -> Result<Pool, WireError> {
        let module = usage.module;
        let digest = find(state, module)?.digest;
        let factory = self.runtime.load(digest).await.map_err(|error| WireError::unloadable(module, &error))?;
        let Use { name, kind, params, record_bytes, .. } = usage;
        let limits = Limits::for_records(record_bytes);
        let options = PoolOptions { module: module.to_string(), name, kind, params, limits };
        factory.pool(options).map_err(|error| WireError::new(ErrorCode::WrongKind, error))
    }

    /// The pools of what may never be created, in the order of `uses`, as [`Modules::make`] makes them; the modules share one
    /// set of parameters.
    ///
    /// # Errors
    /// Also when a parameter is given that none of them declares.
    pub(crate) async fn candidates<'a>(
        &self,
        state: &State,
        uses: Vec<Use<'a>>,
    ) -> Result<Vec<(&'a ModuleRef, Pool)>, WireError> {
        let mut pools = Vec::with_capacity(uses.len());
        for usage in uses {
            pools.push((usage.module, self.make(state, usage).await?));
        }
        if let Some((_, first)) = pools.first() {
            let declared: Vec<_> =
                pools.iter().map(|(module, pool)| (*module, &*pool.factory().declarations().params)).collect();
            check_names(&first.options().params.params, &declared)?;
        }
        Ok(pools)
    }

    /// Forgets the pools of owners that are gone, whoever deleted them; calls under way end as they would.
    ///
    /// A call that began before the deletion may put its pool back: that one goes at the next change.
    pub(crate) fn follow(&self, state: &State) {
        let gone = {
            let mut pools = self.pools.lock();
            let gone = pools.remove_gone(state);
            gone.iter().for_each(|pool| self.note_gone(pool));
            let is_there = |module: &String| module.parse().is_ok_and(|module| state.modules.contains_key(&module));
            self.gone.lock().retain(|module, _| is_there(module));
            gone
        };
        // Not under the lock: dropping instances takes a while.
        drop(gone);
    }
}

/// What the modules do, in numbers.
impl Modules {
    /// Of all of them.
    pub(crate) fn runtime_metrics(&self) -> RuntimeMetrics {
        self.runtime.metrics()
    }

    /// Of each module that has pools, or had and is still there; in order. Calls under way in a pool that goes are not counted.
    pub(crate) fn metrics(&self) -> Vec<ModuleMetrics> {
        let pools = self.pools.lock();
        let mut modules = self.gone.lock().clone();
        for pool in pools.0.values() {
            *modules.entry(pool.options().module.clone()).or_default() += pool.stats().calls;
        }
        modules.into_iter().map(|(module, calls)| ModuleMetrics { module, calls }).collect()
    }

    /// Keeps what a pool has done.
    fn note_gone(&self, pool: &Pool) {
        *self.gone.lock().entry(pool.options().module.clone()).or_default() += pool.stats().calls;
    }
}

/// The pools in use.
struct Table<P>(HashMap<PoolKey, P>);

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// Two users share instances only if nothing that an instance is told tells them apart, and never across owners.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    digest: Digest,
    kind: ModuleKind,
    owner: Owner,
    params: InitParams,
}

impl<P> Table<P> {
    fn remove_gone(&mut self, state: &State) -> Vec<P> {
        let is_there = |key: &PoolKey| match &key.owner {
            // Of another partitioner, or other parameters, that the topic had before, nothing is asked any more.
            Owner::Routing(id) => state.topics.get(id).is_some_and(|topic| {
                let module = topic.config.partitioner.as_ref().and_then(|module| state.modules.get(module));
                module.is_some_and(|module| module.digest == key.digest)
                    && topic.config.partitioner_params == key.params.params
            }),
            Owner::View(id) => state.views.contains_key(id),
            Owner::Transform(id) => state.transforms.values().any(|transform| transform.id == *id),
        };
        self.0.extract_if(|key, _| !is_there(key)).map(|(_, pool)| pool).collect()
    }
}

/// The modules that a name stands for.
fn digests(state: &State) -> HashSet<Digest> {
    state.modules.values().map(|module| module.digest).collect()
}

/// The module, as the catalog knows it.
pub(crate) fn find<'a>(state: &'a State, module: &ModuleRef) -> Result<&'a Arc<Module>, WireError> {
    state.modules.get(module).ok_or_else(|| {
        WireError::new(
            ErrorCode::ModuleNotFound,
            format!("no module {module}: push it, or see `millstream module list`"),
        )
    })
}

/// Refuses a parameter that none of the modules declares: a misspelt one would be left out of account in silence.
fn check_names(given: &BTreeMap<String, String>, modules: &[(&ModuleRef, &[Declared])]) -> Result<(), WireError> {
    let is_known = |name: &String| modules.iter().any(|(_, params)| params.iter().any(|param| param.name == *name));
    let Some(unknown) = given.keys().find(|name| !is_known(name)) else { return Ok(()) };
    let takes = modules.iter().map(|(module, params)| {
        let names: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
        format!("{module} takes {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
    });
    let message = format!("no such parameter {unknown:?}: {}", takes.collect::<Vec<_>>().join("; "));
    Err(WireError::new(ErrorCode::InvalidParameter, message))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_catalog::{DirectoryId, Incarnation, apply};
    use millstream_model::{Address, BrokerId, TimestampMs, TopicConfig, TopicName};
    use uuid::Uuid;

    use super::*;

    fn create(state: &mut State, id: u128, module: &ModuleRef) -> Arc<Topic> {
        let command = Command::CreateTopic {
            id: TopicId(Uuid::from_u128(id)),
            name: TopicName::new("t").unwrap(),
            partitions: 1,
            replication_factor: 1,
            config: TopicConfig { partitioner: Some(module.clone()), ..TopicConfig::default() },
            at: TimestampMs(0),
        };
        apply(state, id as u64, command).unwrap();
        state.topic("t").unwrap().clone()
    }

    /// A topic that is deleted and made anew keeps nothing of what its partitioner was told or has remembered.
    #[test]
    fn what_is_made_anew_under_a_name_gets_pools_of_its_own() {
        let mut state = State::default();
        let broker = Command::RegisterBroker {
            id: BrokerId(1),
            incarnation: Incarnation(Uuid::from_u128(1)),
            directory: DirectoryId(Uuid::from_u128(1)),
            addresses: vec![Address { host: "127.0.0.1".into(), port: 9092 }],
            clean: true,
            replicated: Vec::new(),
            holds_logs: false,
        };
        apply(&mut state, 0, broker).unwrap();
        let module: ModuleRef = "m@1".parse().unwrap();
        let pushed = Command::PushModule {
            module: module.clone(),
            digest: Digest([1; 32]),
            size_bytes: 1,
            kinds: [ModuleKind::Partitioner].into(),
            needs: Default::default(),
            declarations: Vec::new(),
            at: TimestampMs(0),
        };
        apply(&mut state, 1, pushed).unwrap();
        let mut table = Table::default();
        for id in [2, 3] {
            let topic = create(&mut state, id, &module);
            let key = Use::routing(&topic).unwrap().key(Digest([1; 32]));
            assert!(table.0.insert(key, id).is_none(), "{id}");
            assert_eq!(table.remove_gone(&state), [0; 0]);
            apply(&mut state, 10 + id as u64, Command::DeleteTopic { id: topic.id }).unwrap();
            assert_eq!(table.remove_gone(&state), [id]);
        }
        assert!(table.0.is_empty());
    }

    #[test]
    fn a_parameter_must_be_declared_by_one_module_of_the_chain() {
        let declared = |names: &[&str]| -> Vec<_> {
            names.iter().map(|name| Declared { name: (*name).into(), value: "required".into() }).collect()
        };
        let (filter, redact): (ModuleRef, ModuleRef) = ("filter@1".parse().unwrap(), "redact@2".parse().unwrap());
        let (of_filter, of_redact) = (declared(&["field", "op"]), declared(&["fields"]));
        let chain = [(&filter, &*of_filter), (&redact, &*of_redact)];
        let given = |names: &[&str]| names.iter().map(|name| ((*name).into(), String::new())).collect();
        check_names(&given(&["field", "fields", "op"]), &chain).unwrap();
        check_names(&given(&[]), &[(&filter, &[])]).unwrap();
        let refused = check_names(&given(&["field", "fiedls"]), &chain).unwrap_err();
        assert_eq!(refused.message, "no such parameter \"fiedls\": filter@1 takes field, op; redact@2 takes fields");
        let refused = check_names(&given(&["x"]), &[(&filter, &[])]).unwrap_err();
        assert_eq!(refused.message, "no such parameter \"x\": filter@1 takes none");
    }

    #[test]
    fn pools_of_views_and_transforms_that_are_gone_are_given_up() {
        let mut table = Table::default();
        let key = |owner| PoolKey {
            digest: Digest([1; 32]),
            kind: ModuleKind::Mapper,
            owner,
            params: InitParams { params: BTreeMap::new(), ..InitParams::default() },
        };
        table.0.insert(key(Owner::View(ViewId(Uuid::from_u128(1)))), ());
        table.0.insert(key(Owner::Transform(TransformId(Uuid::from_u128(1)))), ());
        assert_eq!(table.remove_gone(&State::default()).len(), 2);
    }
}
