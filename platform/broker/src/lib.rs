//! The broker: dispatch, produce, route, fetch, views, transforms and partition owners.
