//! How long something may take: one deadline for a whole request, and pauses between attempts.

use std::{io, sync::Arc, time::Duration};

use millstream_env::{Clock, Env, Monotonic, Rng};
use millstream_protocol::Call;
use tokio_util::sync::CancellationToken;

use crate::{
    CallError,
    cluster::{Cluster, Role, Target},
};

/// How long something is tried again without a word.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Until when a request may take: finding a connection, making it, asking, and asking again share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Monotonic);

impl Deadline {
    /// What is left, to the millisecond that has begun.
    pub(crate) fn left(self, clock: &dyn Clock) -> Duration {
        let left = self.0 - clock.now();
        Duration::from_millis(u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    fn is_over(self, clock: &dyn Clock) -> bool {
        self.0 <= clock.now()
    }

    /// A deadline before this one, after a share of what is left.
    pub(crate) fn share(self, clock: &dyn Clock, of: usize) -> Self {
        let (now, of) = (clock.now(), u32::try_from(of.max(1)).unwrap_or(u32::MAX));
        Self(Monotonic(now.0.saturating_add((self.0 - now) / of)))
    }
}

impl Cluster {
    /// The deadline of a request that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline(Monotonic(self.env.clock.now().0.saturating_add(self.options.request_timeout)))
    }

    /// Asks something that may be asked twice: connections that end are made again within the request time-out.
    pub(crate) async fn ask<C: Call + Clone>(&self, target: Target, request: C) -> Result<C::Response, CallError> {
        self.ask_by(self.deadline(), target, request).await
    }

    /// As [`Cluster::ask`], as part of something that has a deadline.
    pub(crate) async fn ask_by<C: Call + Clone>(
        &self,
        deadline: Deadline,
        target: Target,
        request: C,
    ) -> Result<C::Response, CallError> {
        let mut retry = self.retry_by(deadline);
        loop {
            let error = match self.ask_once_by(deadline, target, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_retriable() || !retry.wait().await || deadline.is_over(&*self.env.clock) {
                return Err(error);
            }
        }
    }

    /// Asks something that changes things: it is sent once, over a connection that is made again if needed.
    pub(crate) async fn ask_once<C: Call>(&self, target: Target, request: C) -> Result<C::Response, CallError> {
        self.ask_once_by(self.deadline(), target, request).await
    }

    async fn ask_once_by<C: Call>(
        &self,
        deadline: Deadline,
        target: Target,
        request: C,
    ) -> Result<C::Response, CallError> {
        let mut retry = self.retry_by(deadline);
        let channel = loop {
            match self.channel_by(deadline, target, Role::Admin).await {
                Ok(channel) => break channel,
                Err(error) if !error.is_retriable() => return Err(error),
                Err(error) => {
                    if !retry.wait().await || deadline.is_over(&*self.env.clock) {
                        return Err(error);
                    }
                }
            }
        };
        channel.call(request, deadline.left(&*self.env.clock)).await
    }

    /// Does something that waits for a broker until the deadline, and for as long as the client is not closed. `late` says what has not
    /// come about.
    pub(crate) async fn within<T>(
        &self,
        deadline: Deadline,
        broker: &Arc<str>,
        late: &str,
        doing: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let after = deadline.left(&*self.env.clock);
        tokio::select! {
            // The same order in every run of a simulation.
            biased;
            () = self.closed.cancelled() => Err(CallError::Closed),
            done = doing => done,
            () = self.env.clock.sleep(after) => {
                let text = format!("{broker} {late} within {after:?}");
                let source = Arc::new(io::Error::new(io::ErrorKind::TimedOut, text));
                Err(CallError::Unreachable { broker: Arc::clone(broker), source })
            }
        }
    }

    /// Pauses between attempts, until `patience` is used up.
    pub(crate) fn retry(&self, patience: Duration) -> Retry {
        self.retry_by(Deadline(Monotonic(self.env.clock.now().0.saturating_add(patience))))
    }

    /// Pauses between attempts, until the deadline.
    pub(crate) fn retry_by(&self, deadline: Deadline) -> Retry {
        Retry {
            env: self.env.clone(),
            closed: self.closed.clone(),
            started: self.env.clock.now(),
            told: false,
            deadline,
            pause: self.options.backoff_min,
            pause_max: self.options.backoff_max,
        }
    }
}

/// Pauses that double, with some chance in them, until patience is used up.
pub(crate) struct Retry {
    env: Env,
    closed: CancellationToken,
    started: Monotonic,
    /// Whether it was said that this takes long.
    told: bool,
    deadline: Deadline,
    pause: Duration,
    pause_max: Duration,
}

impl Retry {
    /// Whether this is the time to say that trying again takes long; true once.
    pub(crate) fn takes_long(&mut self) -> bool {
        !self.told && {
            self.told = self.env.clock.now() - self.started >= SILENCE_MAX;
            self.told
        }
    }

    /// Waits for the next attempt; false when there should be none. When the client is closed, the next one finds out at once.
    pub(crate) async fn wait(&mut self) -> bool {
        let left = self.deadline.0 - self.env.clock.now();
        if left.is_zero() {
            return false;
        }
        let pause = jittered(&*self.env.rng, self.pause).min(left);
        self.pause = (self.pause * 2).min(self.pause_max);
        let closed = std::pin::pin!(self.closed.cancelled());
        futures::future::select(self.env.clock.sleep(pause), closed).await;
        true
    }
}

/// Between half and all of a pause, so that clients that failed together do not come back together.
pub(crate) fn jittered(rng: &dyn Rng, pause: Duration) -> Duration {
    pause.mul_f64(0.5 + (rng.next_u64() >> 11) as f64 / (1u64 << 54) as f64)
}
