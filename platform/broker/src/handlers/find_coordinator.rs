//! FindCoordinator: refused until consumer groups and transactions are built.

use std::collections::HashSet;

use millstream_model::BrokerId;
use millstream_protocol::{
    ErrorCode,
    messages::groups::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
};

use crate::errors::{Messages, WireError};

/// The first version that asks for several at once.
const VERSION_MANY: i16 = 4;
const TYPE_GROUP: i8 = 0;
const TYPE_TRANSACTION: i8 = 1;
const TYPE_SHARE: i8 = 2;

pub(crate) fn handle(version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let nobody = BrokerId(-1);
    let WireError { code: error_code, message, .. } = refusal(request.key_type);
    if version < VERSION_MANY {
        let error_message = Some(message);
        return FindCoordinatorResponse { error_code, error_message, node_id: nobody, port: -1, ..Default::default() };
    }
    let (mut messages, mut named) = (Messages::new(), HashSet::new());
    let keys = request.coordinator_keys.into_iter().filter(|key| named.insert(key.clone()));
    let coordinators = keys.map(|key| Coordinator {
        key,
        node_id: nobody,
        host: String::new(),
        port: -1,
        error_code,
        error_message: messages.say(&message),
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..Default::default() }
}

/// Codes that clients take as final and show: they would ask for ever for what is "not available". librdkafka's
/// transactional producers take few others.
fn refusal(key_type: i8) -> WireError {
    let (code, message) = match key_type {
        TYPE_GROUP => {
            (ErrorCode::InvalidRequest, "consumer groups are not built yet: assign partitions yourself".into())
        }
        TYPE_TRANSACTION => (ErrorCode::TransactionalIdAuthorizationFailed, "transactions are not built yet".into()),
        TYPE_SHARE => (ErrorCode::InvalidRequest, "share groups are not built yet".into()),
        other => (ErrorCode::InvalidRequest, format!("coordinators of type {other} do not exist")),
    };
    WireError::new(code, message)
}
