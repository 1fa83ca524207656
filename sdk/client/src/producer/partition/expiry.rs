//! Giving up what has waited long enough, wherever it waits: in the queue, in a batch that gathers, or under way.
//!
//! One timer, set to the oldest deadline when it was armed: a queue whose records are acknowledged in time sets it once in a delivery time-out.

use std::future::poll_fn;

use millstream_env::{BoxFuture, Monotonic};

use super::{Entry, Filling, Item, Queue};

/// When it is to be looked again for what has waited long enough.
#[derive(Default)]
pub(super) struct Expiry(Option<(Monotonic, BoxFuture<'static, ()>)>);

impl Expiry {
    /// Something is there with this deadline, which may be earlier than those before it.
    pub(super) fn notes(&mut self, deadline: Monotonic) {
        self.0.take_if(|(at, _)| *at > deadline);
    }

    /// Resolves when it is time; never when nothing waits.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some((_, sleep)) => sleep.await,
            None => poll_fn(|_| std::task::Poll::Pending).await,
        }
    }
}

impl Queue {
    /// Sets the timer, unless it is set.
    pub(super) fn arm(&mut self) {
        if self.expiry.0.is_none()
            && let Some(deadline) = self.oldest_deadline()
        {
            let clock = &self.shared.cluster.env.clock;
            self.expiry.0 = Some((deadline, clock.sleep(deadline - clock.now())));
        }
    }

    fn oldest_deadline(&mut self) -> Option<Monotonic> {
        let under_way = self.window.payloads().filter(|batch| batch.is_waited_for()).map(|batch| batch.deadline).min();
        let returned = self.returned.values().flatten().chain(&self.behind).map(|item| item.pending.deadline).min();
        let filling = self.filling.as_ref().and_then(Filling::deadline);
        let held = self.held.as_ref().and_then(Entry::deadline);
        [under_way, returned, filling, held].into_iter().flatten().min()
    }

    /// Gives up what has waited long enough. What is under way may be taken all the same: nobody hears of it.
    pub(super) fn expire(&mut self) {
        let now = self.shared.cluster.env.clock.now();
        self.expiry = Expiry::default();
        for batch in self.window.payloads().filter(|batch| batch.deadline <= now) {
            let error = self.shared.expired(batch.last.as_ref().or(self.last.as_ref()));
            batch.given_up(&error);
        }
        if self.window.is_stalled() {
            while self.window.oldest().is_some_and(|batch| batch.deadline <= now) {
                if self.window.give_up_oldest().is_none() {
                    break;
                }
            }
        }
        let error = self.shared.expired(self.last.as_ref());
        let give_up = |item: Item| item.pending.done(Err(error.clone()));
        self.returned.values_mut().chain([&mut self.behind]).for_each(|items| {
            items.extract_if(.., |item| item.is_due(now)).for_each(give_up);
        });
        // Until something gathers that may still wait: what is behind it came later.
        loop {
            if let Some(filling) = self.filling.take_if(|filling| filling.deadline().is_some_and(|at| at <= now)) {
                self.linger = None;
                let mut left = Filling::new(&self.topic, &self.shared.options, filling.routing_epoch());
                let items = filling.cut().map(|batch| batch.into_items(&self.topic));
                for item in items.into_iter().flatten() {
                    if item.is_due(now) { give_up(item) } else { left.push(item) }
                }
                self.filling = (!left.is_empty()).then_some(left);
            }
            if let Some(entry) = self.held.take_if(|held| held.deadline().is_some_and(|at| at <= now)) {
                entry.given_up(&error);
            }
            if !self.wants_entries() {
                return;
            }
            let Ok(entry) = self.entries.try_recv() else { return };
            if entry.deadline().is_some_and(|at| at <= now) { entry.given_up(&error) } else { self.take(entry) }
        }
    }
}
