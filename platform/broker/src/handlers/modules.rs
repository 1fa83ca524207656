//! ModulePush, ModuleList, ModuleDescribe, ModuleDelete, ModuleRead.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use millstream_catalog::{Command, Declaration, Module, Outcome, Refused, State};
use millstream_model::{ModuleRef, ModuleVersion, Name, TimestampMs};
use millstream_protocol::{
    ErrorCode,
    extension::modules::{
        ModuleDeclaration, ModuleDeleteRequest, ModuleDeleteResponse, ModuleDescribeRequest, ModuleDescribeResponse,
        ModuleInfo, ModuleListRequest, ModuleListResponse, ModulePushRequest, ModulePushResponse, ModuleReadRequest,
        ModuleReadResponse,
    },
};
use millstream_wasm::Factory;

use super::change::to_its_end;
use crate::{errors::WireError, shared::Shared, turn::Turn};

/// Most bytes of a module in one answer.
const PART_BYTES_MAX: usize = 1 << 20;
/// An answer of up to this size takes no share of the frames' memory, as with those that carry records.
const SMALL_BYTES: usize = 64 << 10;

pub(crate) async fn push(shared: Arc<Shared>, request: ModulePushRequest) -> ModulePushResponse {
    match push_checked(&shared, request).await {
        Ok((module, outcome)) => {
            ModulePushResponse { module: info(&module), unchanged: outcome == Outcome::Unchanged, ..Default::default() }
        }
        Err(error) => {
            ModulePushResponse { error_code: error.code, error_message: Some(error.message), ..Default::default() }
        }
    }
}

async fn push_checked(shared: &Arc<Shared>, request: ModulePushRequest) -> Result<(Arc<Module>, Outcome), WireError> {
    let module = name_and_version(&request.name, &request.version)?;
    // What a name means never changes: no need to compile what it does not.
    let taken = shared.catalog.state().modules.get(&module).map(|there| there.digest);
    if let (Some(there), Some(announced)) = (taken, request.digest)
        && there != announced
    {
        return Err(Refused::ModuleExists { module, there }.into());
    }
    shared.require_room(0)?;
    let prepared = shared.modules.prepare(request.bytes, request.digest).await?;
    let factory = prepared.factory();
    let declared = factory.declarations();
    let command = Command::PushModule {
        module: module.clone(),
        digest: factory.digest(),
        size_bytes: factory.size() as u64,
        kinds: factory.kinds().iter().copied().collect(),
        needs: declared.needs,
        declarations: declarations(factory),
        at: TimestampMs(shared.env.clock.wall_ms()),
    };
    // Refused by what the catalog knows before anything is written; the agreed log decides in the end.
    shared.dry_run(&command)?;
    let owned = shared.clone();
    let keep = async move {
        owned.require_room(0)?;
        owned.modules.keep(&owned.catalog, prepared, command).await
    };
    let outcome = to_its_end(shared, "keep module", keep).await?;
    Ok((crate::pools::find(&shared.catalog.state(), &module)?.clone(), outcome))
}

fn name_and_version(name: &str, version: &str) -> Result<ModuleRef, WireError> {
    let invalid = |error| WireError::new(ErrorCode::InvalidName, error);
    Ok(ModuleRef { name: Name::new(name).map_err(invalid)?, version: ModuleVersion::new(version).map_err(invalid)? })
}

fn declarations(factory: &Factory) -> Vec<Declaration> {
    let declared = factory.declarations();
    let of =
        |kind: &str, name: &str, value: &str| Declaration { kind: kind.into(), name: name.into(), value: value.into() };
    let params = declared.params.iter().map(|param| of("param", &param.name, &param.value));
    let metrics = declared.metrics.iter().map(|metric| of("metric", &metric.name, &metric.value));
    let needs = declared.needs.names().map(|name| of("needs", name, ""));
    params.chain(metrics).chain(needs).chain(declared.order.iter().map(|order| of("order", order, ""))).collect()
}

pub(crate) fn list(shared: &Shared, request: &ModuleListRequest) -> ModuleListResponse {
    let state = shared.catalog.state();
    let mut modules: Vec<_> = state
        .modules
        .values()
        .filter(|module| request.name.as_ref().is_none_or(|name| module.module.name.as_str() == name))
        .collect();
    modules.sort_by(|a, b| (&a.module.name, b.pushed_at).cmp(&(&b.module.name, a.pushed_at)));
    ModuleListResponse { modules: modules.into_iter().map(|module| info(module)).collect(), ..Default::default() }
}

pub(crate) fn describe(shared: &Shared, request: &ModuleDescribeRequest) -> ModuleDescribeResponse {
    let state = shared.catalog.state();
    let found = state
        .modules
        .values()
        .filter(|module| module.module.name.as_str() == request.name)
        .filter(|module| request.version.as_ref().is_none_or(|version| module.module.version.as_str() == version))
        .max_by_key(|module| module.pushed_at);
    let Some(module) = found else {
        let version = request.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
        return ModuleDescribeResponse {
            error_code: ErrorCode::ModuleNotFound,
            error_message: Some(format!("no module {}{version}: see `millstream module list`", request.name)),
            ..Default::default()
        };
    };
    let declarations = module.declarations.iter().map(|declared| ModuleDeclaration {
        kind: declared.kind.clone(),
        name: declared.name.clone(),
        value: declared.value.clone(),
    });
    ModuleDescribeResponse {
        module: info(module),
        declarations: declarations.collect(),
        used_by: users(&state, &module.module).into_iter().collect(),
        ..Default::default()
    }
}

pub(crate) async fn delete(shared: Arc<Shared>, request: ModuleDeleteRequest) -> ModuleDeleteResponse {
    let outcome = async {
        let module = name_and_version(&request.name, &request.version)?;
        let owned = shared.clone();
        let delete = async move { owned.modules.delete(&owned.catalog, module).await };
        to_its_end(&shared, "delete module", delete).await
    };
    match outcome.await {
        Ok(()) => ModuleDeleteResponse::default(),
        Err(error) => ModuleDeleteResponse { error_code: error.code, error_message: Some(error.message) },
    }
}

/// Who asks for many parts and does not take them has one gathered for it at a time.
pub(crate) async fn read(shared: Arc<Shared>, request: ModuleReadRequest, turn: Turn) -> ModuleReadResponse {
    match read_part(&shared, &request, turn).await {
        Ok((size_bytes, bytes)) => ModuleReadResponse { size_bytes, bytes, ..Default::default() },
        Err(error) => {
            ModuleReadResponse { error_code: error.code, error_message: Some(error.message), ..Default::default() }
        }
    }
}

/// The module's size, and the part.
async fn read_part(shared: &Shared, request: &ModuleReadRequest, mut turn: Turn) -> Result<(i64, Bytes), WireError> {
    let ModuleReadRequest { digest, offset, max_bytes } = *request;
    let state = shared.catalog.state();
    let module = state.modules.values().find(|module| module.digest == digest).ok_or_else(|| {
        WireError::new(ErrorCode::ModuleNotFound, format!("no module has the digest {digest}: was it deleted?"))
    })?;
    let invalid = |what: String| WireError::new(ErrorCode::InvalidRequest, what);
    let offset = u64::try_from(offset).ok().filter(|offset| *offset < module.size_bytes);
    let offset = offset.ok_or_else(|| {
        invalid(format!("no byte {} in module {} of {} bytes", request.offset, module.module, module.size_bytes))
    })?;
    let left = usize::try_from(module.size_bytes - offset).unwrap_or(usize::MAX);
    let bytes_max = usize::try_from(max_bytes).ok().filter(|bytes| *bytes > 0);
    let bytes_max = bytes_max.ok_or_else(|| invalid(format!("at most {max_bytes} bytes of a module")))?;
    let bytes_max = bytes_max.min(left).min(PART_BYTES_MAX);
    turn.come().await;
    let share = match bytes_max > SMALL_BYTES {
        true => Some(shared.options.frames.take(bytes_max).await),
        false => None,
    };
    let bytes = shared.modules.read_part(module, offset, bytes_max).await?;
    if bytes.is_empty() {
        // A client would ask for ever.
        let what = format!("the file of module {} ends before byte {offset}", module.module);
        return Err(WireError::new(ErrorCode::CallFailed, what));
    }
    let size = i64::try_from(module.size_bytes).unwrap_or(i64::MAX);
    Ok((
        size,
        match share {
            Some(share) => share.hold(bytes),
            None => bytes,
        },
    ))
}

fn users(state: &State, module: &ModuleRef) -> BTreeSet<String> {
    let topics = state
        .topics
        .values()
        .filter(|topic| topic.config.partitioner.as_ref() == Some(module))
        .map(|topic| format!("topic {}", topic.name));
    let views =
        state.views.values().filter(|view| view.chain.contains(module)).map(|view| format!("view {}", view.name));
    let transforms = state
        .transforms
        .values()
        .filter(|transform| transform.module == *module)
        .map(|transform| format!("transform {}", transform.name));
    topics.chain(views).chain(transforms).collect()
}

fn info(module: &Module) -> ModuleInfo {
    ModuleInfo {
        name: module.module.name.to_string(),
        version: module.module.version.to_string(),
        digest: module.digest,
        size_bytes: i64::try_from(module.size_bytes).unwrap_or(i64::MAX),
        kind: module.kinds_text(),
        needs: module.needs.names().map(Into::into).collect(),
        pushed_at: module.pushed_at,
    }
}
