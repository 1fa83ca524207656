//! The governor over a simulated machine: what a producer suffers and what a reader gets.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::Ipv4Addr,
    time::Duration,
};

use super::*;

/// What a reader takes when it has its way, bytes a second; and what it asks for.
const FULL: f64 = 1e9;
const ASKED_BYTES: usize = 8 << 20;
const SHARE: u8 = 25;

/// A reader that asks for more as soon as it has been answered.
struct Client {
    reader: Reader,
    /// So much is there for it, bytes.
    there: usize,
    /// It is given no less than this, bytes: one batch.
    batch: usize,
    asked_at: Monotonic,
    /// Bytes.
    got: usize,
}

impl Client {
    fn gets(&self, leave: Leave) -> usize {
        leave.bytes_max.min(ASKED_BYTES).max(self.batch).min(self.there)
    }
}

/// A producer that sends one batch after the other, and readers.
struct Machine<F> {
    governor: Governor,
    now: Monotonic,
    /// How many times as long as usual an append takes that begins at a time, by what part of the full rate is being read; `chance`
    /// is evenly spread over 0 to 1.
    times: F,
    random: u64,
    /// From an answer to the next request.
    round_trip: Duration,
    clients: Vec<Client>,
    /// Those who have not asked; those who wait for leave; and those who read, until when.
    idle: Vec<usize>,
    waiting: HashMap<Ticket, usize>,
    reading: BinaryHeap<Reverse<(Monotonic, usize)>>,
    leaves: HashMap<usize, Leave>,
    /// Of the last ten milliseconds: when, and bytes.
    read: VecDeque<(Monotonic, usize)>,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    /// The part of the full rate that the readers got.
    read: f64,
    /// The part of appends that took more than twice as long as usual.
    slow: f64,
}

impl<F: Fn(Monotonic, f64, f64) -> u32> Machine<F> {
    /// With one reader, who has much to read.
    fn new(share: u8, times: F) -> Self {
        Self::with_readers(share, times, &[(1, usize::MAX)])
    }

    /// `readers`: each one's host, and what there is for it each time that it asks.
    fn with_readers(share: u8, times: F, readers: &[(u8, usize)]) -> Self {
        let client = |(connection, (host, there)): (u64, &(u8, usize))| Client {
            reader: Reader { network: Ipv4Addr::new(10, 0, 0, *host).into(), connection },
            there: *there,
            batch: 0,
            asked_at: Monotonic::default(),
            got: 0,
        };
        Self {
            governor: Governor::new(share),
            now: Monotonic::default(),
            times,
            random: 1,
            round_trip: Duration::ZERO,
            clients: (0..).zip(readers).map(client).collect(),
            idle: (0..readers.len()).collect(),
            waiting: HashMap::new(),
            reading: BinaryHeap::new(),
            leaves: HashMap::new(),
            read: VecDeque::new(),
        }
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
        while self.now < end {
            if produces && append.is_none() {
                let time = self.append_time();
                append = Some((self.now, after(self.now, time)));
            }
            for index in if reads { std::mem::take(&mut self.idle) } else { Vec::new() } {
                let client = &mut self.clients[index];
                client.asked_at = self.now;
                self.waiting.insert(self.governor.ask(client.reader, ASKED_BYTES, self.now), index);
            }
            let wake = loop {
                match self.governor.poll_next(self.now) {
                    Next::Begin(ticket, leave) => {
                        let index = self.waiting.remove(&ticket).unwrap();
                        let client = &self.clients[index];
                        let got = client.gets(leave);
                        assert!(self.now - client.asked_at <= HELD_MAX + REST, "{leave:?}");
                        let time = Duration::from_secs_f64(got as f64 / FULL);
                        let time = time + self.round_trip;
                        self.reading.push(Reverse((after(self.now, time), index)));
                        self.leaves.insert(index, leave);
                    }
                    Next::Wait(at) => {
                        assert!(at > self.now);
                        break Some(at);
                    }
                    Next::Idle => break None,
                }
            };
            let reading = self.reading.peek().map(|Reverse((at, _))| *at);
            let Some(next) = [append.map(|(_, at)| at), reading, wake].into_iter().flatten().min() else { break };
            self.now = next;
            if let Some((begun, _)) = append.take_if(|(_, at)| *at <= next) {
                self.governor.handle_acknowledged(begun, next);
                appends += 1;
                slow += u32::from(next - begun > Duration::from_micros(400));
            }
            while self.reading.peek().is_some_and(|Reverse((at, _))| *at <= next) {
                let Some(Reverse((_, index))) = self.reading.pop() else { break };
                let (client, leave) = (&mut self.clients[index], self.leaves.remove(&index).unwrap());
                let got = client.gets(leave);
                self.governor.handle_read(client.reader, Some(leave), got, next);
                client.got += got;
                self.read.push_back((next, got));
                self.idle.push(index);
                bytes += got;
            }
        }
        let read = bytes as f64 / (self.now - begun_at).as_secs_f64() / FULL;
        Outcome { read, slow: f64::from(slow) / f64::from(appends.max(1)) }
    }

    /// What each reader gets meanwhile, bytes, where all are held to a rate.
    fn run_held(&mut self, time: Duration, rate: f64) -> Vec<usize> {
        self.run(Duration::from_millis(100), true, false);
        self.round_trip = Duration::from_millis(1);
        let end = after(self.now, time);
        while self.now < end {
            // Whatever would be found meanwhile.
            self.governor.hold(rate, self.now);
            self.run(WINDOW / 4, true, true);
        }
        self.clients.iter().map(|client| client.got).collect()
    }
}

const LONG: Duration = Duration::from_secs(10);

/// A producer that no reader disturbs.
fn neutral(_: Monotonic, _: f64, _: f64) -> u32 {
    1
}

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

/// Each of them asks for much and there is little for it. It was taken for what it might be, and one who had much to read got half a
/// megabyte a second whatever the rate was.
#[test]
fn many_who_read_little_leave_the_rest_to_one_who_reads_much() {
    const RATE: f64 = 50e6;
    for there in [1 << 10, 4 << 10] {
        let mut readers = vec![(1, there); 800];
        readers.push((1, usize::MAX));
        let mut machine = Machine::with_readers(SHARE, neutral, &readers);
        let got = machine.run_held(Duration::from_secs(4), RATE);
        let (much, little) = (got[800] as f64 / 4.0, got[..800].iter().sum::<usize>() as f64 / 4.0);
        // In each round, one part for the one and what there is for the others.
        let part = PART_BYTES as f64;
        let fair = RATE * part / (part + 800.0 * there as f64);
        assert!(much > fair * 0.8, "{there}: {much} bytes a second, and {fair} would be fair; the others {little}");
        assert!(much + little < 1.2 * RATE, "{there}: {much} and {little}");
        assert!(got.iter().all(|got| *got > 0), "{there}: somebody starves");
    }
}

#[test]
fn many_who_read_much_do_not_starve_one_who_reads_little_nor_another_host() {
    const RATE: f64 = 50e6;
    let mut readers = vec![(1, usize::MAX); 800];
    readers.extend([(1, 1 << 10), (2, usize::MAX)]);
    let mut machine = Machine::with_readers(SHARE, neutral, &readers);
    let got = machine.run_held(Duration::from_secs(8), RATE);
    let all: usize = got.iter().sum();
    assert!((all as f64) < 1.2 * 8.0 * RATE, "{all}");
    let (least, most) = (got[..800].iter().min().unwrap(), got[..800].iter().max().unwrap());
    assert!(*least > 0 && most - least <= 2 * PART_BYTES, "{least}..{most}");
    assert!(got[800] >= 2 << 10, "{}", got[800]);
    assert!(got[801] > all / 3, "{} of {all}", got[801]);
}

/// A batch is given however large it is: its reader waits for longer then.
#[test]
fn who_reads_large_batches_gets_no_more_than_others() {
    let mut machine = Machine::with_readers(SHARE, neutral, &[(1, usize::MAX); 3]);
    machine.clients[0].batch = 4 * PART_BYTES;
    let got = machine.run_held(Duration::from_secs(8), 50e6);
    assert!(got[0] < got[1] * 5 / 4 && got[0] > got[1] * 3 / 4, "{got:?}");
}
