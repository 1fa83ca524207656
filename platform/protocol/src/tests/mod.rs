//! Questions asked of every message at once.

mod debug_tree;
mod differential;
mod hostile;
mod round_trip;

use crate::{ApiKey, RequestHeader};

/// Every api in every version that is served.
pub(crate) fn apis_and_versions() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::ALL.iter().flat_map(|api| api.versions().map(|version| (*api, version)))
}

/// A header for an answer.
pub(crate) fn header(api: ApiKey, version: i16) -> RequestHeader {
    RequestHeader { api, version, correlation_id: 7, client_id: None }
}
