//! The governor over a simulated machine: what a producer suffers and what a reader gets.

use std::time::Duration;

use futures::FutureExt;
use millstream_env::sim::SimClock;

use super::*;

/// What a reader takes when it has its way, bytes a second; and what it asks for.
const FULL: f64 = 1e9;
const ASKED_BYTES: usize = 8 << 20;
const SHARE: u8 = 25;

/// A producer that sends one batch after the other, and a reader that asks for more as soon as it has been answered.
struct Machine<F> {
    governor: Governor,
    now: Monotonic,
    /// How many times as long as usual an append takes that begins at a time, by what part of the full rate is being read; `chance`
    /// is evenly spread over 0 to 1.
    times: F,
    random: u64,
    /// Of the last ten milliseconds: when, and bytes.
    read: VecDeque<(Monotonic, usize)>,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    /// The part of the full rate that the reader got.
    read: f64,
    /// The part of appends that took more than twice as long as usual.
    slow: f64,
}

impl<F: Fn(Monotonic, f64, f64) -> u32> Machine<F> {
    fn new(share: u8, times: F) -> Self {
        Self { governor: Governor::new(share), now: Monotonic::default(), times, random: 1, read: VecDeque::new() }
    }

    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn append_time(&mut self) -> Duration {
        let oldest = Monotonic(self.now.0.saturating_sub(Duration::from_millis(10)));
        while self.read.front().is_some_and(|(at, _)| *at < oldest) {
            self.read.pop_front();
        }
        let load = self.read.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>() / (FULL * 0.01);
        let chance = self.chance();
        Duration::from_micros(200) * (self.times)(self.now, load.min(1.0), chance)
    }

    fn run(&mut self, time: Duration, produces: bool, reads: bool) -> Outcome {
        let (begun_at, end) = (self.now, after(self.now, time));
        let (mut appends, mut slow, mut bytes) = (0_u32, 0, 0);
        let mut append: Option<(Monotonic, Monotonic)> = None;
        let mut reading: Option<(Leave, Monotonic)> = None;
        while self.now < end {
            if produces && append.is_none() {
                let time = self.append_time();
                append = Some((self.now, after(self.now, time)));
            }
            if reads && reading.is_none() {
                let leave = self.governor.ask(ASKED_BYTES, self.now);
                assert!(leave.at - self.now <= HELD_MAX + REST, "{leave:?}");
                let read_at = after(leave.at, Duration::from_secs_f64(leave.bytes_max as f64 / FULL));
                reading = Some((leave, read_at));
            }
            let times = [append.map(|(_, at)| at), reading.map(|(_, at)| at)];
            let Some(next) = times.into_iter().flatten().min() else { break };
            self.now = next;
            if let Some((begun, _)) = append.take_if(|(_, at)| *at <= next) {
                self.governor.handle_acknowledged(begun, next);
                appends += 1;
                slow += u32::from(next - begun > Duration::from_micros(400));
            }
            if let Some((leave, _)) = reading.take_if(|(_, at)| *at <= next) {
                self.governor.handle_read(leave, leave.bytes_max, next);
                self.read.push_back((next, leave.bytes_max));
                bytes += leave.bytes_max;
            }
        }
        let read = bytes as f64 / (self.now - begun_at).as_secs_f64() / FULL;
        Outcome { read, slow: f64::from(slow) / f64::from(appends.max(1)) }
    }
}

const LONG: Duration = Duration::from_secs(10);

/// A producer suffers by how much is read.
fn suffers(_: Monotonic, load: f64, chance: f64) -> u32 {
    if chance < load / 4.0 { 5 } else { 1 }
}

#[test]
fn a_reader_is_held_back_as_far_as_a_producer_suffers() {
    let mut machine = Machine::new(SHARE, suffers);
    machine.run(LONG, true, true);
    let Outcome { read, slow } = machine.run(LONG, true, true);
    assert!(slow < 0.1, "{slow} of appends are slow");
    assert!((0.24..0.5).contains(&read), "{read} of the full rate");
    // It would be more than this.
    let mut ungoverned = Machine::new(100, suffers);
    let Outcome { read, slow } = ungoverned.run(LONG, true, true);
    assert!(read > 0.99 && slow > 0.2, "{read}, {slow}");
}

#[test]
fn a_reader_that_hurts_nobody_has_its_way() {
    for (name, times) in [
        ("nobody is slow", (|_, _, _| 1) as fn(Monotonic, f64, f64) -> u32),
        ("a third of the appends is slow by itself", |_, _, chance| if chance < 0.33 { 9 } else { 1 }),
        ("the disk has its moments", |now, _, _| if now.0.as_millis() % 400 < 60 { 6 } else { 1 }),
        ("appends become slow for good after a while", |now, _, _| if now.0.as_secs() < 8 { 1 } else { 7 }),
    ] {
        let mut machine = Machine::new(SHARE, times);
        machine.run(2 * LONG, true, true);
        let Outcome { read, .. } = machine.run(LONG, true, true);
        assert!(read > 0.9, "{name}: {read} of the full rate");
    }
}

#[test]
fn a_reader_keeps_its_share_whatever_it_does() {
    for share in [10, 25, 60] {
        let mut machine = Machine::new(share, |_, load, _| if load > 0.0 { 5 } else { 1 });
        machine.run(LONG, true, true);
        let Outcome { read, .. } = machine.run(LONG, true, true);
        let share = f64::from(share) / 100.0;
        assert!((share * 0.9..share * 1.3).contains(&read), "{read} of the full rate, and a share of {share}");
    }
}

#[test]
fn without_a_producer_nothing_is_held_back() {
    let mut machine = Machine::new(SHARE, suffers);
    assert!(machine.run(LONG, false, true).read > 0.999);
    machine.run(LONG, true, true);
    assert!(machine.governor.rate.is_some());
    // As soon as it is seen to have stopped.
    machine.run(LIVE_FOR, false, true);
    assert!(machine.run(LONG, false, true).read > 0.999);
}

#[test]
fn what_is_known_of_a_producer_before_a_reader_comes_holds_it_back_at_once() {
    let mut machine = Machine::new(SHARE, suffers);
    machine.run(Duration::from_secs(1), true, false);
    machine.run(WINDOW * 5, true, true);
    assert!(machine.governor.rate.is_some(), "{:?}", machine.governor);
}

#[test]
fn readers_take_turns_and_who_goes_away_gives_its_own_back() {
    let clock = SimClock::new();
    let catch_up = CatchUp::new(SHARE, Arc::new(clock.clone()));
    clock.advance(Duration::from_secs(5));
    // A part of it takes a tenth of a second.
    catch_up.hold(PART_BYTES as f64 * 10.0);
    let [first, second, third] = [(); 3].map(|()| catch_up.ask(ASKED_BYTES));
    assert_eq!(first.bytes_max(), PART_BYTES);
    assert!(first.due().now_or_never().is_some());
    assert!(second.due().now_or_never().is_none());
    first.read(PART_BYTES);
    clock.advance(Duration::from_millis(100));
    assert!(second.due().now_or_never().is_some() && third.due().now_or_never().is_none());
    drop(third);
    let fourth = catch_up.ask(ASKED_BYTES);
    clock.advance(Duration::from_millis(100));
    assert!(fourth.due().now_or_never().is_some(), "it waits for one who has gone");
}
