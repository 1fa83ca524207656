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
            let error_code = match error.kafka_code() {
                // What producers try again on.
                ErrorCode::NotController => ErrorCode::CoordinatorLoadInProgress,
                code => code,
            };
            InitProducerIdResponse {
                error_code,
                producer_id: ProducerId::NONE,
                producer_epoch: ProducerEpoch::NONE,
                ..Default::default()
            }
        }
    }
}

async fn init(shared: &Shared, request: &InitProducerIdRequest) -> Result<(ProducerId, ProducerEpoch), WireError> {
    let InitProducerIdRequest { transactional_id, producer_id: id, producer_epoch: epoch, .. } = request;
    if transactional_id.as_deref() == Some("") {
        return Err(WireError::new(ErrorCode::InvalidRequest, "a transactional id is not empty"));
    }
    if transactional_id.is_some() {
        // A code that clients show at once, and do not try again on.
        let code = ErrorCode::TransactionalIdAuthorizationFailed;
        return Err(WireError::new(code, "transactions are not built yet"));
    }
    if (*id == ProducerId::NONE) != (*epoch == ProducerEpoch::NONE) || epoch.0 < -1 {
        let message = format!("producer id {id} with epoch {epoch}: both or neither are given");
        return Err(WireError::new(ErrorCode::InvalidRequest, message));
    }
    // Partitions learn of the new epoch from its first batch (KIP-360). After the last epoch, and for who has an id that was never given out,
    // comes another id: Kafka's brokers give everybody without transactions another one.
    let is_known = (0..shared.catalog.state().next_producer_id.0).contains(&id.0);
    if is_known && let Some(next) = epoch.0.checked_add(1) {
        return Ok((*id, ProducerEpoch(next)));
    }
    Ok((shared.producer_ids.next(shared).await?, ProducerEpoch(0)))
}

#[cfg(test)]
mod tests {
    use millstream_env::sim::World;

    use super::*;
    use crate::testing::{start, stop};

    #[test]
    fn an_id_that_was_given_out_gets_its_next_epoch_and_all_others_another_id() {
        let world = World::new(1);
        let broker = start(&world);
        let ask = |transactional_id: Option<&str>, id: i64, epoch: i16| {
            let request = InitProducerIdRequest {
                transactional_id: transactional_id.map(Into::into),
                producer_id: ProducerId(id),
                producer_epoch: ProducerEpoch(epoch),
                ..Default::default()
            };
            let answer = world.run_until(handle(broker.shared().clone(), request));
            answer.error_code.ok().map(|()| (answer.producer_id.0, answer.producer_epoch.0))
        };
        let (first, epoch) = ask(None, -1, -1).unwrap();
        assert_eq!(epoch, 0);
        assert_eq!(ask(None, first, 0), Ok((first, 1)));
        for (id, epoch) in [(first, i16::MAX), (1 << 40, 3)] {
            let (other, epoch) = ask(None, id, epoch).unwrap();
            assert!(other != first && other != id && epoch == 0);
        }
        for (id, epoch) in [(first, -1), (-1, 0), (first, -2)] {
            assert_eq!(ask(None, id, epoch), Err(ErrorCode::InvalidRequest), "{id} {epoch}");
        }
        assert_eq!(ask(Some(""), -1, -1), Err(ErrorCode::InvalidRequest));
        assert_eq!(ask(Some("x"), -1, -1), Err(ErrorCode::TransactionalIdAuthorizationFailed));
        stop(&world, broker);
    }
}
