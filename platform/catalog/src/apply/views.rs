//! Commands about views.

use std::sync::Arc;

use millstream_model::ViewId;

use super::{
    Outcome, Refused,
    modules::{known_module, params_fit, wrong_kind},
    topics::name_is_free,
};
use crate::state::{Named, State, View};

/// Most modules in a view's chain.
pub const CHAIN_MAX: usize = 16;

pub(super) fn create_view(state: &mut State, view: View) -> Result<Outcome, Refused> {
    name_is_free(state, &view.name)?;
    if state.views.contains_key(&view.id) || view.id == ViewId::NIL {
        return Err(Refused::IdTaken(view.id.to_string()));
    }
    if !(1..=CHAIN_MAX).contains(&view.chain.len()) {
        return Err(Refused::Chain(view.chain.len()));
    }
    for module in &view.chain {
        let found = known_module(state, module)?;
        if !found.serves_views() {
            return Err(wrong_kind(found, "filter or mapper"));
        }
    }
    params_fit(&view.params)?;
    state.names.insert(view.name.clone(), Named::View(view.id));
    state.views.insert(view.id, Arc::new(view));
    Ok(Outcome::Done)
}

pub(super) fn delete_view(state: &mut State, id: ViewId) -> Result<Outcome, Refused> {
    let view = state.views.remove(&id).ok_or(Refused::UnknownViewId(id))?;
    state.names.remove(&view.name);
    Ok(Outcome::Done)
}
