//! A queue that is waited on: for connections and streams that the other end made.

use std::{
    collections::VecDeque,
    task::{Poll, Waker},
};

use parking_lot::Mutex;

pub(super) struct Mailbox<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    wakers: Vec<Waker>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { items: VecDeque::new(), closed: false, wakers: Vec::new() }) }
    }
}

impl<T> Mailbox<T> {
    /// Adds an item, or gives it back once closed.
    pub(super) fn put(&self, item: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push_back(item);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Takes no more, and drops what nobody took.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let items = std::mem::take(&mut state.items);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        drop(items);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The next item; none once closed.
    pub(super) async fn take(&self) -> Option<T> {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if let Some(item) = state.items.pop_front() {
                return Poll::Ready(Some(item));
            }
            if state.closed {
                return Poll::Ready(None);
            }
            if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                state.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
