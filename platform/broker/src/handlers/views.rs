//! ViewCreate, ViewList, ViewDelete.

use std::sync::Arc;

use millstream_catalog::{Command, State, View};
use millstream_model::{ModuleKind, ModuleRef, TimestampMs, ViewId};
use millstream_protocol::{
    ErrorCode,
    extension::views::{
        ViewCreateRequest, ViewCreateResponse, ViewDeleteRequest, ViewDeleteResponse, ViewInfo, ViewListRequest,
        ViewListResponse,
    },
};
use uuid::Uuid;

use super::wire::{module_ref, name, pairs, params};
use crate::{errors::WireError, pools::Use, shared::Shared};

pub(crate) async fn create(shared: Arc<Shared>, request: ViewCreateRequest) -> ViewCreateResponse {
    match create_checked(&shared, request).await {
        Ok(view_id) => ViewCreateResponse { view_id, ..Default::default() },
        Err(error) => {
            ViewCreateResponse { error_code: error.code, error_message: Some(error.message), ..Default::default() }
        }
    }
}

async fn create_checked(shared: &Shared, request: ViewCreateRequest) -> Result<ViewId, WireError> {
    let id = ViewId(Uuid::from_u128(shared.env.rng.next_u128()));
    let command = Command::CreateView {
        id,
        name: name(&request.name)?,
        topic: name(&request.topic)?,
        chain: request.chain.iter().map(|text| module_ref(text)).collect::<Result<_, _>>()?,
        params: params(request.params)?,
        at: TimestampMs(shared.env.clock.wall_ms()),
    };
    // Refused by what the catalog knows before an instance is made; the agreed log decides in the end.
    let would_be = shared.dry_run(&command)?;
    shared.require_room(0)?;
    shared.blame(&command, check_chain(shared, &would_be, id).await)?;
    shared.propose(command).await?;
    Ok(id)
}

/// Mappers that choose among outputs look like those that do not, until they are told how many there are.
const VIEWS_HAVE_NO_OUTPUTS: &str = "; a view has no outputs: a module that needs some is for `transform deploy`";

fn is_mapper(state: &State, module: &ModuleRef) -> bool {
    state.modules.get(module).is_some_and(|module| module.kinds.contains(&ModuleKind::Mapper))
}

/// Starts each module of the chain once, so that wrong parameters show now and not at the first fetch.
async fn check_chain(shared: &Shared, would_be: &State, id: ViewId) -> Result<(), WireError> {
    let Some(view) = would_be.views.get(&id) else { return Ok(()) };
    let Some(topic) = would_be.topic_by_id(view.topic) else { return Ok(()) };
    for (module, pool) in shared.modules.candidates(would_be, Use::chain(would_be, view, topic)?).await? {
        pool.check().await.map_err(|error| {
            let mut refused = WireError::does_not_start(module, &error);
            if is_mapper(would_be, module) {
                refused.message += VIEWS_HAVE_NO_OUTPUTS;
            }
            refused
        })?;
    }
    Ok(())
}

pub(crate) fn list(shared: &Shared, request: &ViewListRequest) -> ViewListResponse {
    let state = shared.catalog.state();
    let views: Vec<_> = state
        .views_by_name()
        .filter(|view| request.name.as_ref().is_none_or(|name| view.name.as_str() == name))
        .map(|view| info(&state, view))
        .collect();
    match &request.name {
        Some(name) if views.is_empty() => {
            let error = not_found(name);
            ViewListResponse { error_code: error.code, error_message: Some(error.message), ..Default::default() }
        }
        _ => ViewListResponse { views, ..Default::default() },
    }
}

pub(crate) async fn delete(shared: Arc<Shared>, request: ViewDeleteRequest) -> ViewDeleteResponse {
    let outcome = async {
        let state = shared.catalog.state();
        let view = state.view(&request.name).ok_or_else(|| not_found(&request.name))?;
        shared.propose(Command::DeleteView { id: view.id }).await?;
        Ok::<(), WireError>(())
    };
    match outcome.await {
        Ok(()) => ViewDeleteResponse::default(),
        Err(error) => ViewDeleteResponse { error_code: error.code, error_message: Some(error.message) },
    }
}

fn not_found(name: &str) -> WireError {
    WireError::new(ErrorCode::ViewNotFound, format!("no view {name:?}: see `millstream view list`"))
}

fn info(state: &State, view: &View) -> ViewInfo {
    ViewInfo {
        name: view.name.to_string(),
        view_id: view.id,
        topic: state.topic_by_id(view.topic).map(|topic| topic.name.to_string()).unwrap_or_default(),
        topic_id: view.topic,
        chain: view.chain.iter().map(ToString::to_string).collect(),
        params: pairs(&view.params),
    }
}
