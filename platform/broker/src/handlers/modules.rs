//! ModulePush, ModuleList, ModuleDescribe, ModuleDelete.

use std::{collections::BTreeSet, sync::Arc};

use millstream_catalog::{Command, Declaration, Module, Outcome, Refused, State};
use millstream_model::{ModuleRef, ModuleVersion, Name, TimestampMs};
use millstream_protocol::{
    ErrorCode,
    extension::modules::{
        ModuleDeclaration, ModuleDeleteRequest, ModuleDeleteResponse, ModuleDescribeRequest, ModuleDescribeResponse,
        ModuleInfo, ModuleListRequest, ModuleListResponse, ModulePushRequest, ModulePushResponse,
    },
};
use millstream_wasm::Factory;

use super::wire::to_its_end;
use crate::{errors::WireError, shared::Shared};

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
