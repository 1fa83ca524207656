//! InitProducerId: a new producer id, or the next epoch of one.

use std::sync::Arc;

use millstream_model::{ProducerEpoch, ProducerId};
use millstream_protocol::{
    ErrorCode,
    messages::producers::{InitProducerIdRequest, InitProducerIdResponse},
};
use tracing::debug;

use crate::{errors::WireError, shared::Shared};

pub(crate) async fn handle(shared: Arc<Shared>, request: InitProducerIdRequest) -> InitProducerIdResponse {
    match init(&shared, &request).await {
        Ok((producer_id, producer_epoch)) => {
            InitProducerIdResponse { producer_id, producer_epoch, ..Default::default() }
        }
        Err(error) => {
            // The answer has no room for words.
            debug!(error = error.message, "InitProducerId refused");
            InitProducerIdResponse {
                error_code: error.code,
                producer_id: ProducerId::NONE,
                producer_epoch: ProducerEpoch::NONE,
                ..Default::default()
            }
        }
    }
}

async fn init(shared: &Shared, request: &InitProducerIdRequest) -> Result<(ProducerId, ProducerEpoch), WireError> {
    let InitProducerIdRequest { transactional_id, producer_id: id, producer_epoch: epoch, .. } = request;
    if transactional_id.is_some() {
        // A code that clients show at once, and do not try again on.
        let code = ErrorCode::TransactionalIdAuthorizationFailed;
        return Err(WireError::new(code, "transactions are not built yet"));
    }
    if (*id == ProducerId::NONE) != (*epoch == ProducerEpoch::NONE) || epoch.0 < -1 {
        let message = format!("producer id {id} with epoch {epoch}: both or neither are given");
        return Err(WireError::new(ErrorCode::InvalidRequest, message));
    }
    if *id != ProducerId::NONE {
        if !(0..shared.catalog.state().next_producer_id.0).contains(&id.0) {
            return Err(WireError::new(
                ErrorCode::InvalidProducerIdMapping,
                format!("producer id {id} was never given out"),
            ));
        }
        // Partitions learn of the new epoch from its first batch (KIP-360). After the last epoch comes another id.
        if let Some(next) = epoch.0.checked_add(1) {
            return Ok((*id, ProducerEpoch(next)));
        }
    }
    Ok((shared.producer_ids.next(shared).await?, ProducerEpoch(0)))
}
