//! Changes that run to their end, whoever asked for them has gone away or waits no longer.

use std::pin::pin;

use futures::future::{Either, select};
use millstream_protocol::ErrorCode;

use crate::{errors::WireError, shared::Shared};

/// Runs a change to its end in a task of its own: a client that goes away half-way leaves no half of it.
///
/// # Errors
/// The change's own; UNKNOWN_SERVER_ERROR where its task has failed; NOT_CONTROLLER, which clients try again on, where the broker stops.
pub(super) async fn to_its_end<T: Send + 'static>(
    shared: &Shared,
    what: &'static str,
    change: impl Future<Output = Result<T, WireError>> + Send + 'static,
) -> Result<T, WireError> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let run = async move {
        // Whoever asked may have gone away.
        let _ = done.send(change.await);
    };
    shared.env.spawn.spawn(what, Box::pin(run));
    outcome.await.unwrap_or_else(|_| {
        Err(match shared.stop.is_cancelled() {
            true => WireError::new(ErrorCode::NotController, "the broker is stopping"),
            false => {
                WireError::new(ErrorCode::UnknownServer, format!("{what}: a fault in the broker; its log says more"))
            }
        })
    })
}

/// The same, waited for until a deadline: REQUEST_TIMED_OUT then, in the words of `late`, while it goes on.
pub(super) async fn in_time<T: Send + 'static>(
    shared: &Shared,
    what: &'static str,
    change: impl Future<Output = Result<T, WireError>> + Send + 'static,
    deadline: &mut (impl Future<Output = ()> + Unpin),
    late: &'static str,
) -> Result<T, WireError> {
    match select(pin!(to_its_end(shared, what, change)), deadline).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(WireError::new(ErrorCode::RequestTimedOut, late)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_env::sim::World;

    use super::*;
    use crate::testing::{start, stop};

    #[test]
    fn a_change_goes_on_when_it_is_not_waited_for_any_more() {
        let world = World::new(1);
        let broker = start(&world);
        let shared = broker.shared().clone();
        let (changed, done) = tokio::sync::oneshot::channel();
        let change = {
            let clock = shared.env.clock.clone();
            async move {
                clock.sleep(Duration::from_secs(5)).await;
                let _ = changed.send(());
                Ok(())
            }
        };
        let mut deadline = shared.env.clock.sleep(Duration::from_secs(1));
        let late = world.run_until(in_time(&shared, "test", change, &mut deadline, "it comes")).unwrap_err();
        assert_eq!((late.code, late.message.as_str()), (ErrorCode::RequestTimedOut, "it comes"));
        world.run_until(done).unwrap();
        let mut deadline = shared.env.clock.sleep(Duration::from_secs(1));
        let soon = in_time(&shared, "test", async { Ok(7) }, &mut deadline, "late");
        assert_eq!(world.run_until(soon).unwrap(), 7);
        stop(&world, broker);
    }
}
