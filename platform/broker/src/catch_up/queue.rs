//! Whose turn it is to read old records: fair among addresses, and among the connections of each, by what they read.
//!
//! Deficit round robin (Shreedhar and Varghese, 1995), twice. Whoever comes to the front of a ring is credited with a turn's bytes, reads
//! as long as it has credit, and goes to the back. So who reads little costs little and who reads much has what the others leave, with
//! one turn in each round. What a read takes is known when it has been done: until then it is charged with an estimate.
//!
//! ```text
//!  addresses    10.0.0.1 -> 10.0.0.2 -> ...              credit of each
//!  connections  17 -> 4 -> 9       12                    credit of each
//!  asks         a b   c    d       e f                   in the order in which they came
//! ```

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry},
    hash::Hash,
    net::IpAddr,
};

use millstream_env::Monotonic;

use super::governor::PART_BYTES;

/// Nobody owes more than this, bytes: a batch can be as large as its topic allows, and whoever reads such a one is not kept out for long.
const DEBT_MAX: i64 = 2 << 20;
/// The part of an estimate that is left when a reader has read less: who reads much now and then is expected to.
const ESTIMATE_KEPT: (usize, usize) = (3, 4);

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reader {
    /// A host's, or a host's network: see [`millstream_env::Peer::network`].
    pub(super) network: IpAddr,
    /// The connection's number.
    pub(super) connection: u64,
}

/// One request's place in the queue, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// What somebody has asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) reader: Reader,
    pub(super) bytes_max: usize,
    pub(super) since: Monotonic,
}

/// Those who wait in a circle. See the file's head.
#[derive(Debug)]
struct Ring<K> {
    order: VecDeque<K>,
    /// Of those who wait, and of those who owe something.
    credits: HashMap<K, i64>,
    /// Whether the first has been credited since it came to the front.
    is_credited: bool,
}

impl<K: Copy + Eq + Hash> Ring<K> {
    fn new() -> Self {
        Self { order: VecDeque::new(), credits: HashMap::new(), is_credited: false }
    }

    fn join(&mut self, member: K) {
        self.order.push_back(member);
        self.credits.entry(member).or_default();
    }

    /// Whose turn it is: it has credit.
    fn front(&mut self, turn_bytes: usize) -> Option<K> {
        let turn_bytes = i64::try_from(turn_bytes.max(1)).unwrap_or(i64::MAX);
        loop {
            let front = *self.order.front()?;
            let credit = self.credits.entry(front).or_default();
            if !self.is_credited {
                *credit = credit.saturating_add(turn_bytes);
                self.is_credited = true;
            }
            if *credit > 0 {
                return Some(front);
            }
            self.order.rotate_left(1);
            self.is_credited = false;
        }
    }

    /// Charges with so many bytes, or gives them back.
    fn charge(&mut self, member: K, bytes: i64) {
        let credit = self.credits.entry(member).or_default();
        *credit = credit.saturating_sub(bytes).max(-DEBT_MAX);
        if *credit >= 0 && !self.order.contains(&member) {
            self.credits.remove(&member);
        }
    }

    /// It waits for nothing more: it takes no credit with it, but what it owes.
    fn leave(&mut self, member: K) {
        if self.order.front() == Some(&member) {
            self.is_credited = false;
        }
        self.order.retain(|other| *other != member);
        if self.credits.get(&member).is_some_and(|credit| *credit >= 0) {
            self.credits.remove(&member);
        }
    }

    fn is_unused(&self) -> bool {
        self.order.is_empty() && self.credits.is_empty()
    }
}

/// What a connection has asked for.
#[derive(Debug)]
struct Waiting {
    tickets: VecDeque<Ticket>,
    /// What its next read takes, as was thought when it began to wait.
    expected_bytes: usize,
}

/// Those who wait for leave to read.
#[derive(Debug)]
pub(super) struct Queue {
    asks: BTreeMap<Ticket, Ask>,
    next: u64,
    networks: Ring<IpAddr>,
    connections: HashMap<IpAddr, Ring<u64>>,
    /// Of each connection that waits.
    waiting: HashMap<u64, Waiting>,
    /// What the next read of each of them takes, together, bytes.
    expected_bytes: usize,
    /// What a connection's next read takes, bytes, as far as its last ones tell.
    estimates: HashMap<u64, usize>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            asks: BTreeMap::new(),
            next: 0,
            networks: Ring::new(),
            connections: HashMap::new(),
            waiting: HashMap::new(),
            expected_bytes: 0,
            estimates: HashMap::new(),
        }
    }

    pub(super) fn join(&mut self, ask: Ask) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.asks.insert(ticket, ask);
        let Reader { network, connection } = ask.reader;
        match self.waiting.entry(connection) {
            Entry::Occupied(mut waiting) => waiting.get_mut().tickets.push_back(ticket),
            Entry::Vacant(place) => {
                let estimate = self.estimates.get(&connection).copied().unwrap_or(usize::MAX);
                let expected_bytes = estimate.min(ask.bytes_max).min(PART_BYTES);
                place.insert(Waiting { tickets: VecDeque::from([ticket]), expected_bytes });
                self.expected_bytes += expected_bytes;
                let ring = self.connections.entry(network).or_insert_with(Ring::new);
                if ring.order.is_empty() {
                    self.networks.join(network);
                }
                ring.join(connection);
            }
        }
        ticket
    }

    /// What a round takes in which each connection reads once, bytes.
    pub(super) fn expected_bytes(&self) -> usize {
        self.expected_bytes
    }

    /// Since when the one that waits longest does.
    pub(super) fn oldest(&self) -> Option<(Ticket, Monotonic)> {
        self.asks.first_key_value().map(|(ticket, ask)| (*ticket, ask.since))
    }

    /// Whose turn it is, where each reads so many bytes in a turn.
    pub(super) fn front(&mut self, turn_bytes: usize) -> Option<Ticket> {
        let network = self.networks.front(turn_bytes)?;
        let connection = self.connections.get_mut(&network)?.front(turn_bytes)?;
        self.waiting.get(&connection)?.tickets.front().copied()
    }

    pub(super) fn ask(&self, ticket: Ticket) -> Option<Ask> {
        self.asks.get(&ticket).copied()
    }

    /// Takes a request out that is being done, and charges for so many bytes; none if it is not there any more.
    pub(super) fn begin(&mut self, ticket: Ticket, bytes: usize) -> Option<Ask> {
        let reader = self.asks.get(&ticket)?.reader;
        // Before it leaves, and what it was credited with goes.
        self.charge(reader, i64::try_from(bytes).unwrap_or(i64::MAX));
        self.remove(ticket)
    }

    /// Takes a request out that is given up; none if it is not there any more.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Ask> {
        let ask = self.asks.remove(&ticket)?;
        let Reader { network, connection } = ask.reader;
        let Entry::Occupied(mut waiting) = self.waiting.entry(connection) else { return Some(ask) };
        waiting.get_mut().tickets.retain(|other| *other != ticket);
        if waiting.get().tickets.is_empty() {
            self.expected_bytes -= waiting.remove().expected_bytes;
            if let Some(ring) = self.connections.get_mut(&network) {
                ring.leave(connection);
                if ring.order.is_empty() {
                    self.networks.leave(network);
                }
            }
            self.tidy(network);
        }
        Some(ask)
    }

    /// What a reader's next read takes, bytes; none if nothing is known of it.
    pub(super) fn estimate(&self, reader: Reader) -> Option<usize> {
        self.estimates.get(&reader.connection).copied()
    }

    /// Charges a reader with bytes, or gives them back.
    pub(super) fn charge(&mut self, reader: Reader, bytes: i64) {
        let Reader { network, connection } = reader;
        self.networks.charge(network, bytes);
        self.connections.entry(network).or_insert_with(Ring::new).charge(connection, bytes);
        self.tidy(network);
    }

    /// A reader has read so many bytes, of `bytes_max` that it was allowed: whoever makes use of that would read more.
    pub(super) fn note_read(&mut self, reader: Reader, bytes: usize, bytes_max: usize) {
        let (kept, of) = ESTIMATE_KEPT;
        let expected = if bytes > bytes_max / 2 { bytes.max(PART_BYTES) } else { bytes };
        let estimate = self.estimates.entry(reader.connection).or_default();
        *estimate = expected.max(*estimate / of * kept);
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, reader: Reader) {
        let Reader { network, connection } = reader;
        self.estimates.remove(&connection);
        if let Some(ring) = self.connections.get_mut(&network)
            && !self.waiting.contains_key(&connection)
        {
            ring.credits.remove(&connection);
        }
        self.tidy(network);
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        let Self { asks, networks, connections, waiting, estimates, expected_bytes, next: _ } = self;
        let empty = asks.is_empty() && connections.is_empty() && waiting.is_empty() && estimates.is_empty();
        empty && networks.is_unused() && *expected_bytes == 0
    }

    /// Keeps nothing of a network of which nobody waits or owes anything.
    fn tidy(&mut self, network: IpAddr) {
        if self.connections.get(&network).is_some_and(Ring::is_unused) {
            self.connections.remove(&network);
            self.networks.credits.remove(&network);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const TURN_BYTES: usize = 1000;

    fn reader(host: u8, connection: u64) -> Reader {
        Reader { network: Ipv4Addr::new(10, 0, 0, host).into(), connection }
    }

    fn join(queue: &mut Queue, reader: Reader) -> Ticket {
        queue.join(Ask { reader, bytes_max: 0, since: Monotonic::default() })
    }

    /// Has so many reads done by readers that ask again at once, each of which takes so many bytes; what each has got.
    fn read(readers: &[(Reader, usize)], reads: usize) -> Vec<usize> {
        let mut queue = Queue::new();
        let mut got = vec![0; readers.len()];
        for (reader, _) in readers {
            join(&mut queue, *reader);
        }
        for _ in 0..reads {
            let ticket = queue.front(TURN_BYTES).unwrap();
            let reader = queue.asks[&ticket].reader;
            let index = readers.iter().position(|(other, _)| *other == reader).unwrap();
            let bytes = readers[index].1;
            queue.begin(ticket, bytes);
            got[index] += bytes;
            join(&mut queue, reader);
        }
        assert_eq!(queue.waiting.len(), readers.len());
        got
    }

    #[test]
    fn who_reads_little_costs_little() {
        let mut readers: Vec<_> = (0..100).map(|connection| (reader(1, connection), 10)).collect();
        readers.push((reader(1, 100), TURN_BYTES));
        let got = read(&readers, 101 * 50);
        assert_eq!(got[100], 50 * TURN_BYTES, "one turn in each round");
        assert!(got[..100].iter().all(|bytes| *bytes == 50 * 10), "{got:?}");
    }

    #[test]
    fn who_reads_more_than_its_turn_waits_for_it() {
        let (small, large) = (TURN_BYTES / 2, 3 * TURN_BYTES);
        let got = read(&[(reader(1, 1), large), (reader(1, 2), small)], 700);
        // The small one's requests come one by one.
        assert!(got[0] <= 2 * got[1] + large && got[0] >= got[1], "{got:?}");
    }

    #[test]
    fn many_connections_of_one_address_are_one_address() {
        let mut readers: Vec<_> = (0..50).map(|connection| (reader(1, connection), TURN_BYTES)).collect();
        readers.push((reader(2, 50), TURN_BYTES));
        let got = read(&readers, 1000);
        let (many, one): (usize, usize) = (got[..50].iter().sum(), got[50]);
        assert!(many.abs_diff(one) <= 2 * TURN_BYTES, "{many} and {one}");
    }

    #[test]
    fn who_goes_away_leaves_nothing_behind() {
        let mut queue = Queue::new();
        let (first, second) = (reader(1, 1), reader(2, 2));
        let tickets = [first, first, second].map(|reader| join(&mut queue, reader));
        assert_eq!(queue.front(TURN_BYTES), Some(tickets[0]));
        queue.remove(tickets[0]);
        assert_eq!(queue.front(TURN_BYTES), Some(tickets[1]));
        queue.remove(tickets[1]);
        assert_eq!(queue.front(TURN_BYTES), Some(tickets[2]));
        queue.charge(second, 5000);
        queue.note_read(second, 5000, 5000);
        queue.remove(tickets[2]);
        assert_eq!(queue.front(TURN_BYTES), None);
        for reader in [first, second] {
            queue.forget(reader);
        }
        assert!(queue.is_unused(), "{queue:?}");
    }
}
