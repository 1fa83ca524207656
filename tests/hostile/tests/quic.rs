//! Datagrams at the QUIC door that no client sends, and handshakes that come to nothing: passed over, refused in a datagram no larger than
//! what it answers, or forgotten in time. Nobody else is held up.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use millstream_tests_hostile::{
    bare::{Bare, Manner, ask},
    initial::{
        Answer, DATAGRAM_BYTES_MIN, Initial, Long, Port, UNKNOWN_VERSION, VERSION, crypto, of_version, take_varint,
        varint,
    },
    victim::Victim,
};
use quinn::ConnectionError;

/// Long enough for a busy machine; nothing waits it out but a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// How much more memory the broker may have used than before, at its peak, bytes.
const PEAK_MAX: u64 = 48 << 20;
/// The largest datagram of UDP.
const UDP_BYTES_MAX: usize = 65_507;
/// How long the broker waits for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

fn port(victim: &Victim, from: IpAddr) -> Port {
    Port::open(from, victim.broker().address(), PATIENCE).unwrap()
}

#[track_caller]
fn unhurt(victim: &mut Victim, before: u64) {
    let peak = victim.peak(before).unwrap();
    assert!(peak < PEAK_MAX, "{} MiB", peak >> 20);
    victim.unhurt().unwrap();
}

/// Numbers without an order, the same at each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn noise_of_every_size_is_passed_over() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut port = port(&victim, HOME);
    let large = [1501, 6499, 6500, 6501, 9000, 16_384, 32_768, 65_000, UDP_BYTES_MAX];
    for bytes in (0..=1500).step_by(3).chain(large) {
        // As it comes, as a short header, as a long one of QUIC's version, and as one of another.
        for form in 0..4 {
            let mut datagram = noise.bytes(bytes);
            if let (Some(first), 1..) = (datagram.first_mut(), form) {
                *first = if form == 1 { *first & 0x7f | 0x40 } else { *first | 0xc0 };
            }
            if let (Some(version), 2..) = (datagram.get_mut(1..5), form) {
                version.copy_from_slice(&if form == 2 { VERSION } else { UNKNOWN_VERSION }.to_be_bytes());
            }
            port.send(&datagram).unwrap();
            let answers = port.settle().unwrap();
            let answered: usize = answers.iter().map(Vec::len).sum();
            assert!(answered == 0 || answered < bytes, "{answered} bytes in answer to {bytes}");
        }
    }
    assert!(port.received < port.sent / 10, "{} bytes in answer to {}", port.received, port.sent);
    unhurt(&mut victim, before);
}

#[test]
fn unknown_versions_are_answered_once_and_with_less() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let to = b"for the broker";
    let twice = [of_version(UNKNOWN_VERSION, to, b"mine", 1200), of_version(7, to, b"mine", 1200)].concat();
    for (name, datagram, answers) in [
        ("the shortest", of_version(UNKNOWN_VERSION, b"", b"", 7), 0),
        ("one byte too short", of_version(UNKNOWN_VERSION, to, b"mine", DATAGRAM_BYTES_MIN - 1), 0),
        ("just long enough", of_version(UNKNOWN_VERSION, to, b"mine", DATAGRAM_BYTES_MIN), 1),
        ("the largest", of_version(UNKNOWN_VERSION, to, b"mine", UDP_BYTES_MAX), 1),
        ("a draft", of_version(0xff00_001f, to, b"mine", 1200), 0),
        ("QUIC 2", of_version(0x6b33_43cf, to, b"mine", 1200), 1),
        ("two in one", twice, 1),
        ("without ids", of_version(UNKNOWN_VERSION, b"", b"", 1200), 1),
        ("a negotiation, which is answered by nobody", of_version(0, to, b"mine", 1200), 0),
        ("an id past the end", [&of_version(UNKNOWN_VERSION, b"", b"", 5)[..5], &[200; 1300]].concat(), 0),
    ] {
        let mut port = port(&victim, HOME);
        port.send(&datagram).unwrap();
        let came = port.settle().unwrap();
        assert!(came.len() <= 1, "{name}: {} answers", came.len());
        if answers > 0 {
            let long = Long::read(came.first().expect(name)).unwrap();
            let asked = Long::read(&datagram).unwrap();
            let (version, to, from) = (long.version, long.destination, long.source);
            assert_eq!((version, to, from), (0, asked.source, asked.destination), "{name}");
            assert!(came[0].len() < datagram.len() / 10, "{name}: {} bytes", came[0].len());
        }
    }
    unhurt(&mut victim, before);
}

/// A ClientHello of before TLS 1.3: without the extensions that came with it.
fn old_hello() -> Vec<u8> {
    let groups_and_signatures = [0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, groups_and_signatures.len() as u8]);
    body.extend(groups_and_signatures);
    [&[1, 0, 0, body.len() as u8][..], &body].concat()
}

/// What an Initial must be answered with.
enum Expected {
    Nothing,
    Close(u64),
    /// With an alert of TLS.
    Alert(u64),
    /// As TLS likes.
    Refusal,
}

#[test]
fn initials_that_lie_are_passed_over_or_refused() {
    use Expected::{Alert, Close, Nothing, Refusal};

    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let sane = || Initial::new(1);
    let with = |frames: &[u8]| sane().with(frames.to_vec());
    let pieces: Vec<u8> = (0..100).flat_map(|at| crypto(at * 2, &[1])).collect();
    let cases: Vec<(&str, Initial, Expected)> = vec![
        ("longer than said", Initial { lie: -30, ..sane() }, Nothing),
        ("shorter than said", Initial { lie: 1, ..sane() }, Nothing),
        ("four exbibytes", Initial { lie: (1 << 62) - 4096, ..sane() }, Nothing),
        ("no broker's id", Initial { destination: Vec::new(), ..sane() }, Close(0x0a)),
        ("a broker's id that is too short", Initial { destination: vec![1; 7], ..sane() }, Close(0x0a)),
        ("a broker's id that is too long", Initial { destination: vec![1; 21], ..sane() }, Nothing),
        ("a client's id that is too long", Initial { source: vec![1; 21], ..sane() }, Nothing),
        ("reserved bits", Initial { reserved: 3, ..sane() }, Nothing),
        ("nothing in it", Initial { is_padded_inside: false, ..with(b"") }, Close(0x0a)),
        ("a frame that there is not", with(&[0x21]), Close(0x07)),
        ("half a frame", Initial { is_padded_inside: false, ..with(&[6]) }, Close(0x07)),
        ("a frame past its end", Initial { is_padded_inside: false, ..with(&[6, 0, 100, 1, 2]) }, Close(0x07)),
        ("a stream before there are any", with(&[8, 0, 0]), Close(0x0a)),
        ("the end of the handshake", with(&[0x1e]), Close(0x0a)),
        ("an acknowledgement of what was not sent", with(&[2, 9, 0, 0, 0]), Close(0x0a)),
        ("an acknowledgement of less than nothing", with(&[2, 0, 0, 0, 9]), Close(0x07)),
        ("a close", with(&[0x1c, 0, 0, 0]), Nothing),
        ("no handshake", with(&crypto(0, &[0x5a; 300])), Refusal),
        ("HTTP", with(&crypto(0, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")), Refusal),
        ("a hello of 16 MiB", with(&crypto(0, &[1, 0xff, 0xff, 0xff, 3, 3])), Refusal),
        ("a hello of TLS 1.2", with(&crypto(0, &old_hello())), Alert(70)),
        ("a hello from far behind", with(&crypto(1 << 29, &[1])), Close(0x0d)),
        ("a hello from behind the end", with(&crypto((1 << 62) - 1, &[1])), Close(0x0d)),
        ("a hello in a hundred pieces with gaps", with(&pieces), Nothing),
    ];
    for (at, (name, mut initial, expected)) in cases.into_iter().enumerate() {
        // The broker knows beginnings by the id that it is called by.
        if let [.., last] = &mut initial.destination[..] {
            *last = at as u8;
        }
        let mut port = port(&victim, HOME);
        let datagram = initial.datagram().unwrap();
        port.send(&datagram).unwrap();
        let closed = match expected {
            Nothing => {
                let answers = port.settle().unwrap();
                answers.iter().find_map(|answer| match initial.read(answer).unwrap() {
                    Answer::Close(code) => Some(code),
                    _ => None,
                })
            }
            Close(_) | Alert(_) | Refusal => loop {
                // An acknowledgement may come first.
                if let Answer::Close(code) = initial.read(&port.receive().expect(name)).expect(name) {
                    break Some(code);
                }
            },
        };
        match (closed, expected) {
            (None, Nothing) => {}
            (Some(code), Close(expected)) => assert_eq!(code, expected, "{name}: {code:#x}"),
            (Some(code), Refusal) => assert!(code == 0x0a || (0x100..0x200).contains(&code), "{name}: {code:#x}"),
            (Some(code), Alert(alert)) => assert_eq!(code, 0x100 + alert, "{name}"),
            (closed, _) => panic!("{name}: {closed:?}"),
        }
        assert!(port.received <= 3 * datagram.len(), "{name}: {} bytes in answer to {}", port.received, datagram.len());
    }
    unhurt(&mut victim, before);
}

#[test]
fn initials_that_are_cut_off_or_changed_are_passed_over() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let whole = Initial::new(2).datagram().unwrap();
    let mut port = port(&victim, HOME);
    for length in (0..whole.len()).step_by(7) {
        port.send(&whole[..length]).unwrap();
        // What is missing made up for.
        let mut padded = whole[..length].to_vec();
        padded.resize(DATAGRAM_BYTES_MIN, 0x5a);
        port.send(&padded).unwrap();
        assert!(port.settle().unwrap().iter().all(|answer| Long::read(answer).is_some_and(|long| long.version != 0)));
    }
    // Every bit of the header, and some of what is sealed.
    for bit in (0..400).chain((400..whole.len() * 8).step_by(97)) {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        port.send(&changed).unwrap();
        port.settle().unwrap();
    }
    // Other kinds than Initials belong to a connection, which there is not.
    for kind in 1..=3 {
        let mut other = whole.clone();
        other[0] = 0xc0 | kind << 4 | other[0] & 0x0f;
        port.send(&other).unwrap();
        assert_eq!(port.settle().unwrap(), Vec::<Vec<u8>>::new(), "kind {kind}");
    }
    assert!(port.received < 3 * port.sent, "{} bytes in answer to {}", port.received, port.sent);
    unhurt(&mut victim, before);
}

/// Initials from many ports, until told to stop. How many there were, and how many of them were asked to prove their address.
fn flood(victim: &Victim, enough: &AtomicBool, rounds: &AtomicU64) -> (u64, u64) {
    const PORTS: usize = 100;
    const AT_ONCE: u64 = 8;
    let mut ports: Vec<_> = (0..PORTS).map(|_| port(victim, HOME)).collect();
    let (mut sent, mut retried) = (0, 0);
    while !enough.load(Ordering::Relaxed) {
        for port in &mut ports {
            for _ in 0..AT_ONCE {
                port.send(&Initial::new(sent).datagram().unwrap()).unwrap();
                sent += 1;
            }
            retried += retries(&port.settle().unwrap());
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    retried += ports.iter_mut().map(|port| retries(&port.settle().unwrap())).sum::<u64>();
    (sent, retried)
}

fn retries(answers: &[Vec<u8>]) -> u64 {
    let is_retry = |answer: &&Vec<u8>| Long::read(answer).is_some_and(|long| long.first >> 4 & 3 == 3);
    answers.iter().filter(is_retry).count() as u64
}

/// Whoever forges addresses can begin handshakes, and never go on. From the 33rd on the broker has addresses proved before it does anything.
#[test]
fn a_flood_of_initials_costs_next_to_nothing_and_keeps_nobody_out() {
    const RETRY_ABOVE: u64 = 32;
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let start = Instant::now();
    let (enough, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let (sent, retried) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&victim, &enough, &rounds));
        while rounds.load(Ordering::Relaxed) < 3 && !flood.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        let served = victim.broker().cli(&["consume", "bystander", "--from", "beginning", "--until", "end"]);
        enough.store(true, Ordering::Relaxed);
        assert_eq!(served.unwrap().ok().unwrap().text(), "I was here\n");
        flood.join().unwrap()
    });
    let handshakes = RETRY_ABOVE * (1 + start.elapsed().div_duration_f64(HANDSHAKE_MAX) as u64);
    assert!(sent - retried <= handshakes, "{} of {sent} handshakes were begun", sent - retried);
    unhurt(&mut victim, before);
}

/// What the broker answers. One that is taken in is told that its packet has come.
fn ask_to_begin(port: &mut Port, initial: &Initial) -> Answer {
    port.send(&initial.datagram().unwrap()).unwrap();
    loop {
        // An answer to another may have been sent twice.
        if let Ok(answer) = initial.read(&port.receive().unwrap()) {
            return answer;
        }
    }
}

/// It proves that it is where it says, as often as it is asked to, and then says nothing more.
#[test]
fn who_only_begins_handshakes_does_not_take_them_all() {
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let mut port = port(&victim, ELSEWHERE);
    let (mut begun, mut refused) = (0, 0);
    for number in 0..400 {
        let mut initial = Initial::new(number);
        let mut answer = ask_to_begin(&mut port, &initial);
        if let Answer::Retry { source, token } = answer {
            initial = Initial { destination: source, token, ..initial };
            answer = ask_to_begin(&mut port, &initial);
        }
        match answer {
            Answer::Close(0x02) => refused += 1,
            Answer::Other => begun += 1,
            other => panic!("{number}: {other:?}"),
        }
    }
    victim.serves().unwrap();
    assert!(refused > begun, "{begun} handshakes were begun, and {refused} refused");
    unhurt(&mut victim, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_another_protocol_or_names_none_is_refused() {
    const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
    let mut victim = Victim::start().unwrap();
    let before = victim.forget_peak().unwrap();
    let many: Vec<_> = (0..1000_u32).map(|number| number.to_be_bytes().repeat(8)).collect();
    for alpn in [vec![b"h3".to_vec()], vec![b"millstream/2".to_vec(), b"MILLSTREAM/1".to_vec()], Vec::new(), many] {
        let client = Bare::new(victim.broker(), &Manner { alpn: alpn.clone(), ..Manner::default() }).unwrap();
        let error = client.connect().await.unwrap_err();
        let code = match &error {
            ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
            _ => panic!("{error}"),
        };
        assert_eq!(code, NO_APPLICATION_PROTOCOL, "{} names: {error}", alpn.len());
    }
    ask(&Bare::new(victim.broker(), &Manner::default()).unwrap().connect().await.unwrap()).await.unwrap();
    unhurt(&mut victim, before);
}

#[test]
fn integers_of_quic_are_read_as_they_are_written() {
    for value in [0, 63, 64, 16_383, 1 << 29, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
        assert_eq!(take_varint(&mut &varint(value)[..]), Some(value));
    }
    assert_eq!(take_varint(&mut &[0x40][..]), None);
}
