//! Catching up gives way to producers: how fast old records are read while somebody waits for acknowledgements.
//!
//! Who reads what is not kept in memory takes all that processors, disk and network give, and a producer beside it waits several
//! times as long. Here that is measured, and held back as far as producers suffer from it and no further. Readers at the end of a log
//! are never held back. What a view reads is counted by what it shows.
//!
//! - *Calm* is what was appended with no old records read shortly before or meanwhile. *Slow* is what took more than twice as long as
//!   half of that. So a slow disk, or much to append, is no reader's fault.
//! - Of what is appended beside reading, little more may be slow than of what is calm. Where it is much more, and not just for a
//!   moment (the log has moments of its own, when segments are synced), reading is held to a rate: less than it was. As less is slow,
//!   the rate grows, up to where there is none again. It never falls below a share of what readers got when they had their way.
//! - While reading goes on, the calm is looked for: every second it rests for a moment.
//! - What is held to a rate is read a little at a time, so that producers' packets have their turn in between. Readers take turns, by
//!   what they read ([`queue`]); who waits very long need not wait for its turn.
//!
//! Without producers all this does nothing. A reader is not told of it (`throttle_time_ms`): that asks clients to wait once more
//! (KIP-219), and here the answer itself has waited.
//!
//! [`governor`] has the rules; here is what waits: each request for its leave, and one task for the time at which the next may begin.

mod governor;
mod queue;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use millstream_env::{Clock, Env, Monotonic, Spawn};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

#[cfg(test)]
pub(crate) use self::governor::LIVE_FOR;
use self::{
    governor::{Governor, Leave, Next, PART_BYTES},
    queue::{Reader, Ticket},
};

/// A broker's.
pub(crate) struct CatchUp {
    /// None: nobody is ever held back.
    held_back: Option<HeldBack>,
}

struct HeldBack {
    shared: Arc<Shared>,
    connections: AtomicU64,
}

struct Shared {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
    /// The time at which something is to be done has changed.
    changed: Notify,
}

struct State {
    governor: Governor,
    /// Those who wait.
    waiting: HashMap<Ticket, oneshot::Sender<Leave>>,
    /// When something is to be done, while a task waits for that.
    due: Option<Monotonic>,
}

/// One connection, as a reader of old records.
#[derive(Clone)]
pub(crate) struct ReadingConnection(Option<Arc<Connection>>);

/// Forgotten when it is dropped.
struct Connection {
    shared: Arc<Shared>,
    reader: Reader,
}

/// A request for old records: its place in the queue, then leave to read, given back when it is dropped.
pub(crate) struct Place {
    connection: Arc<Connection>,
    ticket: Ticket,
    leave: oneshot::Receiver<Leave>,
    /// Once it is there.
    admitted: Option<Leave>,
    read_bytes: usize,
}

impl CatchUp {
    /// `share`: the least part of their speed that readers keep, percent; from 100 on they are never held back.
    pub(crate) fn new(share: u8, env: &Env) -> Self {
        let shared = || Shared {
            state: Mutex::new(State { governor: Governor::new(share), waiting: HashMap::new(), due: None }),
            clock: env.clock.clone(),
            spawn: env.spawn.clone(),
            changed: Notify::new(),
        };
        let held_back = || HeldBack { shared: Arc::new(shared()), connections: AtomicU64::new(0) };
        Self { held_back: (share < 100).then(held_back) }
    }

    /// Says that what was appended at `begun` is acknowledged now.
    pub(crate) fn acknowledged(&self, begun: Monotonic) {
        let Some(HeldBack { shared, .. }) = &self.held_back else { return };
        let now = shared.clock.now();
        shared.state.lock().governor.handle_acknowledged(begun, now);
    }

    /// A new connection from a host (or network of one: [`millstream_env::Peer::network`]).
    pub(crate) fn connection(&self, network: IpAddr) -> ReadingConnection {
        ReadingConnection(self.held_back.as_ref().map(|HeldBack { shared, connections }| {
            let connection = connections.fetch_add(1, Ordering::Relaxed);
            Arc::new(Connection { shared: shared.clone(), reader: Reader { network, connection } })
        }))
    }

    /// Holds readers to a rate from now on, as beside a producer that suffers: for a while, nothing being read.
    #[cfg(test)]
    pub(crate) fn hold(&self, rate: f64) {
        let Some(HeldBack { shared, .. }) = &self.held_back else { return };
        let now = shared.clock.now();
        shared.state.lock().governor.hold(rate, now);
    }

    /// Whether somebody has appended a moment ago.
    #[cfg(test)]
    pub(crate) fn is_live(&self) -> bool {
        let Some(HeldBack { shared, .. }) = &self.held_back else { return false };
        shared.state.lock().governor.is_live(shared.clock.now())
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.held_back.as_ref().map_or(0, |held_back| held_back.shared.state.lock().waiting.len())
    }
}

impl ReadingConnection {
    /// Asks for leave to read old records, `bytes_max` at most; none if nobody needs any.
    pub(crate) fn ask(&self, bytes_max: usize) -> Option<Place> {
        let connection = self.0.as_ref()?;
        let Connection { shared, reader } = &**connection;
        let now = shared.clock.now();
        let (sender, leave) = oneshot::channel();
        let mut state = shared.state.lock();
        let ticket = state.governor.ask(*reader, bytes_max, now);
        state.waiting.insert(ticket, sender);
        shared.go_on(&mut state, now);
        drop(state);
        Some(Place { connection: connection.clone(), ticket, leave, admitted: None, read_bytes: 0 })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.state.lock().governor.forget(self.reader);
    }
}

impl Shared {
    /// Lets those read whose time has come, and has a task wait for the next one.
    fn go_on(self: &Arc<Self>, state: &mut State, now: Monotonic) {
        let before = state.due;
        let Some(due) = state.begin_all(now) else {
            // The task finds out by itself.
            return;
        };
        state.due = Some(due);
        match before {
            None => drop(self.spawn.spawn("catch up", self.clone().wait_for_due().boxed())),
            Some(before) if due < before => self.changed.notify_one(),
            Some(_) => {}
        }
    }

    /// Runs for as long as somebody waits.
    async fn wait_for_due(self: Arc<Self>) {
        loop {
            let now = self.clock.now();
            let wait = {
                let mut state = self.state.lock();
                state.due = state.begin_all(now);
                let Some(due) = state.due else { return };
                due - now
            };
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

impl State {
    /// Lets those read whose time has come, and says when the next one's does; none if nobody waits.
    fn begin_all(&mut self, now: Monotonic) -> Option<Monotonic> {
        loop {
            match self.governor.poll_next(now) {
                Next::Begin(ticket, leave) => {
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        // Who gives up does so under this lock, so it is received.
                        let _ = waiting.send(leave);
                    }
                }
                Next::Wait(until) => return Some(until),
                Next::Idle => return None,
            }
        }
    }
}

impl Place {
    /// Whether it is time to read.
    pub(crate) fn is_due(&mut self) -> bool {
        self.admitted = self.admitted.or_else(|| self.leave.try_recv().ok());
        self.admitted.is_some()
    }

    /// Resolves when it is.
    pub(crate) async fn due(&mut self) {
        if !self.is_due() {
            // The sender goes only after having sent.
            self.admitted = (&mut self.leave).await.ok();
        }
    }

    /// Most bytes that the answer may have; a few, where it has not waited until it was time.
    pub(crate) fn bytes_max(&self) -> usize {
        self.admitted.map_or(PART_BYTES, |leave| leave.bytes_max)
    }

    /// Says how many have been read.
    pub(crate) fn read(mut self, bytes: usize) {
        self.read_bytes = bytes;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Connection { shared, reader } = &*self.connection;
        let now = shared.clock.now();
        let mut state = shared.state.lock();
        // It may have come since it was last looked for.
        let admitted = self.admitted.or_else(|| self.leave.try_recv().ok());
        if admitted.is_none() {
            state.waiting.remove(&self.ticket);
            state.governor.give_up(self.ticket);
        }
        if admitted.is_some() || self.read_bytes > 0 {
            state.governor.handle_read(*reader, admitted, self.read_bytes, now);
        }
        shared.go_on(&mut state, now);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use millstream_env::sim::World;

    use super::*;

    const RATE: f64 = 1e6;
    const ASKED_BYTES: usize = 100_000;

    fn connection(catch_up: &CatchUp) -> ReadingConnection {
        catch_up.connection(Ipv4Addr::LOCALHOST.into())
    }

    #[test]
    fn readers_take_turns_and_who_goes_away_gives_its_own_back() {
        let world = World::new(1);
        world.run_for(Duration::from_secs(5));
        let catch_up = CatchUp::new(25, &world.env());
        catch_up.hold(RATE);
        let connections = [(); 4].map(|()| connection(&catch_up));
        // Nothing is known of them: each is taken to read all that it asks for, a tenth of a second.
        let [mut first, gone, mut second, mut third] =
            connections.each_ref().map(|connection| connection.ask(ASKED_BYTES).unwrap());
        assert!(first.is_due() && !second.is_due());
        assert!((ASKED_BYTES..=PART_BYTES).contains(&first.bytes_max()));
        first.read(ASKED_BYTES);
        drop(gone);
        world.run_for(Duration::from_millis(101));
        assert!(second.is_due() && !third.is_due());
        // It has read nothing, so the next need not wait.
        drop(second);
        world.run_for(Duration::from_millis(1));
        assert!(third.is_due(), "it waits for one who has gone");
        drop((third, connections));
        let HeldBack { shared, .. } = catch_up.held_back.as_ref().unwrap();
        assert!(catch_up.waiting() == 0 && shared.state.lock().governor.knows_nobody());
        // Nobody waits: nor does the task.
        world.run_for(Duration::from_secs(1));
        assert_eq!(Arc::strong_count(shared), 1);
    }

    #[test]
    fn what_was_not_waited_for_is_charged_all_the_same() {
        let world = World::new(1);
        world.run_for(Duration::from_secs(5));
        let catch_up = CatchUp::new(25, &world.env());
        catch_up.hold(RATE);
        let [first, second] = [(); 2].map(|()| connection(&catch_up));
        let mut before = first.ask(1).unwrap();
        let impatient = second.ask(ASKED_BYTES).unwrap();
        assert!(before.is_due());
        before.read(1);
        impatient.read(ASKED_BYTES);
        let mut next = first.ask(1).unwrap();
        world.run_for(Duration::from_millis(90));
        assert!(!next.is_due());
        world.run_for(Duration::from_millis(20));
        assert!(next.is_due());
    }

    #[test]
    fn where_nobody_is_to_be_held_back_nobody_asks() {
        let world = World::new(1);
        let catch_up = CatchUp::new(100, &world.env());
        catch_up.acknowledged(Monotonic::default());
        assert!(catch_up.held_back.is_none() && connection(&catch_up).ask(1).is_none());
    }
}
