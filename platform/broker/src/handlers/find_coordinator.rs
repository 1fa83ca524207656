//! FindCoordinator: refused until consumer groups are built.

use millstream_model::BrokerId;
use millstream_protocol::{
    ErrorCode,
    messages::groups::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
};

const REFUSAL: &str = "consumer groups and transactions are not built yet: assign partitions yourself";
/// The first version that asks for several at once.
const VERSION_MANY: i16 = 4;

pub(crate) fn handle(version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let nobody = BrokerId(-1);
    // A code that clients take as final: "not available" would have them try for ever.
    let error_code = ErrorCode::GroupAuthorizationFailed;
    let error_message = Some(REFUSAL.to_owned());
    if version < VERSION_MANY {
        return FindCoordinatorResponse { error_code, error_message, node_id: nobody, port: -1, ..Default::default() };
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| Coordinator {
        key,
        node_id: nobody,
        host: String::new(),
        port: -1,
        error_code,
        error_message: error_message.clone(),
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..Default::default() }
}
