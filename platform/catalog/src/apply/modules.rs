//! Commands about modules, and what is asked of those that name one.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use millstream_model::{ModuleRef, limits};

use super::{Outcome, Refused};
use crate::state::{Module, State, Topic};

pub(super) fn push_module(state: &mut State, module: Module) -> Result<Outcome, Refused> {
    if module.kinds.is_empty() {
        return Err(Refused::NoKind(module.module));
    }
    match state.modules.entry(module.module.clone()) {
        Entry::Vacant(place) => {
            place.insert(Arc::new(module));
            Ok(Outcome::Done)
        }
        Entry::Occupied(there) if there.get().digest == module.digest => Ok(Outcome::Unchanged),
        Entry::Occupied(there) => Err(Refused::ModuleExists { module: module.module, there: there.get().digest }),
    }
}

pub(super) fn delete_module(state: &mut State, module: &ModuleRef) -> Result<Outcome, Refused> {
    known_module(state, module)?;
    let topic = || {
        let topics = state.topics_by_name();
        let is_next =
            |topic: &Topic| topic.opening.as_ref().is_some_and(|opening| opening.partitioner.as_ref() == Some(module));
        let mut users = topics.filter(|topic| topic.config.partitioner.as_ref() == Some(module) || is_next(topic));
        users.next().map(|topic| format!("topic {}", topic.name))
    };
    let view = || {
        let mut users = state.views_by_name().filter(|view| view.chain.contains(module));
        users.next().map(|view| format!("view {}", view.name))
    };
    let transform = || {
        let mut users = state.transforms.values().filter(|transform| transform.module == *module);
        users.next().map(|transform| format!("transform {}", transform.name))
    };
    if let Some(user) = topic().or_else(view).or_else(transform) {
        return Err(Refused::ModuleInUse { module: module.clone(), user });
    }
    state.modules.remove(module);
    Ok(Outcome::Done)
}

pub(super) fn known_module<'a>(state: &'a State, module: &ModuleRef) -> Result<&'a Arc<Module>, Refused> {
    state.modules.get(module).ok_or_else(|| Refused::UnknownModule(module.clone()))
}

pub(super) fn wrong_kind(module: &Module, wants: &'static str) -> Refused {
    Refused::WrongKind { module: module.module.clone(), is: module.kinds_text(), wants: wants.into() }
}

pub(super) fn params_fit(params: &BTreeMap<String, String>) -> Result<(), Refused> {
    let bytes = params.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::PARAMS_BYTES_MAX {
        return Err(Refused::Params { bytes, max: limits::PARAMS_BYTES_MAX });
    }
    Ok(())
}
