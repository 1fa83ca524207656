//! What the group's tasks run on: the world that the catalog was opened in, real or simulated.
//!
//! openraft asks for its runtime through functions without a receiver, so this one asks [`millstream_env::ambient`]. Channels
//! and locks are tokio's, which need no runtime.

use std::{
    future::Future,
    ops::{Add, AddAssign, Sub, SubAssign},
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use millstream_env::{BoxFuture, Monotonic, ambient};
use openraft::{AsyncRuntime, OptionalSend, async_runtime, impls::TokioRuntime};
use rand::TryRng;
use tokio::sync::oneshot;

/// The runtime of the group's types.
#[derive(Debug)]
pub(crate) struct Ambient;

/// Why a task has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinError {
    /// It panicked.
    #[error("the task panicked")]
    Panicked,
    /// Its world ended first.
    #[error("the task was dropped")]
    Dropped,
}

/// The time was up.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the time is up")]
pub(crate) struct Elapsed;

/// Resolves to a task's result.
pub(crate) struct JoinHandle<T>(oneshot::Receiver<Result<T, JoinError>>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|result| result.unwrap_or(Err(JoinError::Dropped)))
    }
}

/// A future with a limit.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: BoxFuture<'static, ()>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.poll_unpin(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.poll_unpin(cx).map(|()| Err(Elapsed))
    }
}

/// A moment of the ambient clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Monotonic);

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(Monotonic(self.0.0.saturating_add(after)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, after: Duration) {
        *self = *self + after;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, before: Duration) -> Self {
        Self(Monotonic(self.0.0.saturating_sub(before)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, before: Duration) {
        *self = *self - before;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl async_runtime::instant::Instant for Instant {
    fn now() -> Self {
        Self(ambient::clock().now())
    }
}

/// The ambient randomness, in the group's form.
#[derive(Debug)]
pub(crate) struct Random;

impl TryRng for Random {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(ambient::rng().next_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(ambient::rng().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        ambient::rng().fill(bytes);
        Ok(())
    }
}

impl AsyncRuntime for Ambient {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = BoxFuture<'static, ()>;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Random;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (result_tx, result) = oneshot::channel();
        let task = async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(output) => drop(result_tx.send(Ok(output))),
                Err(panic) => {
                    let _ = result_tx.send(Err(JoinError::Panicked));
                    resume_unwind(panic);
                }
            }
        };
        drop(ambient::spawn().spawn("raft", Box::pin(task)));
        JoinHandle(result)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        ambient::clock().sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let clock = ambient::clock();
        clock.sleep(deadline.0 - clock.now())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        *error == JoinError::Panicked
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Random
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        // For openraft's own test suite: a world whose tasks are real, as a program's are.
        match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(future),
            Err(error) => panic!("no runtime: {error}"),
        }
    }
}
