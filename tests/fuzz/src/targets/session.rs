//! Sessions under any sequence of operations: a client's and a server's, joined by what each has sent and the other not taken yet.
//!
//! The first choice is whether all is honest. Then every request must be understood and each answer must reach the request that it is
//! for. Else bytes of no client's come in between: the server's answers must still be those of its requests, in their order.
//!
//! What the sessions tell of themselves is compared with a plain model after every step.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use millstream_protocol::{
    ApiKey, EncodeError, ErrorCode, Request, RequestHeader, Response, api_versions, decode_request, decode_response,
    encode_request, encode_response,
    sample::SampleRng,
    session::{AnswerError, CallId, ClientSession, Close, SendError, Session, SessionLimits, Slot, Taken, Versions},
};

use super::random_choices;
use crate::choices::Choices;

/// A longer sequence costs more time than it can tell.
const STEPS_MAX: usize = 100;

/// What a server is to keep of one request.
struct Pending {
    correlation_id: i32,
    /// None where the session answers by itself.
    slot: Option<(Slot, RequestHeader)>,
    answered: bool,
    state: State,
    bytes: usize,
}

/// The stream's subscription, until its last answer has left.
struct Subscription {
    slot: Slot,
    id: i32,
    allowed: i64,
    given: i64,
    parts: VecDeque<Bytes>,
}

#[derive(PartialEq, Eq)]
enum State {
    Waiting,
    Ready(Bytes),
    Skipped,
}

struct Link {
    honest: bool,
    limits: SessionLimits,
    server: Session,
    pending: VecDeque<Pending>,
    subscription: Option<Subscription>,
    /// Every slot that there ever was.
    slots: Vec<Slot>,
    client: ClientSession,
    /// What the client waits for: the call, its correlation id, its api.
    asked: VecDeque<(CallId, i32, ApiKey)>,
    calls: u64,
    to_server: VecDeque<Bytes>,
    to_client: VecDeque<Bytes>,
}

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let honest = choices.below(2) == 0;
    let limits =
        SessionLimits { requests_max: choices.below(6), bytes_max: [0, 200, 5000, usize::MAX][choices.below(4)] };
    let mut link = Link::new(honest, limits);
    for _ in 0..STEPS_MAX {
        if choices.is_empty() {
            break;
        }
        link.step(&mut choices);
        link.check();
    }
    link.finish();
}

impl Link {
    fn new(honest: bool, limits: SessionLimits) -> Self {
        let mut client = ClientSession::new(Some(Arc::from("fuzz")));
        client.set_versions(Arc::new(Versions::from_response(&api_versions())));
        Self {
            honest,
            limits,
            server: Session::new(limits),
            pending: VecDeque::new(),
            subscription: None,
            slots: Vec::new(),
            client,
            asked: VecDeque::new(),
            calls: 0,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(if self.honest { 10 } else { 14 }) {
            0 | 1 => self.send(choices),
            2 | 3 => self.serve(),
            4 | 5 => self.respond(choices),
            6 => self.poll(),
            7 => self.take_answer(),
            8 => self.misuse(choices),
            9 => self.set_versions(choices),
            10 => {
                let length = choices.byte().into();
                self.to_server.push_front(Bytes::copy_from_slice(choices.bytes(length)));
            }
            11 => self.stranger(choices),
            12 => {
                let length = choices.byte().into();
                self.to_client.push_front(Bytes::copy_from_slice(choices.bytes(length)));
            }
            _ => {
                // What is under way is changed in one byte, or cut.
                let way = if choices.below(2) == 0 { &mut self.to_server } else { &mut self.to_client };
                let Some(frame) = way.front_mut() else { return };
                let mut bytes = frame.to_vec();
                let at = usize::from(choices.short()) % (bytes.len() + 1);
                match bytes.get_mut(at) {
                    Some(byte) if choices.below(4) > 0 => *byte = choices.byte(),
                    _ => bytes.truncate(at),
                }
                *frame = bytes.into();
            }
        }
    }

    fn send(&mut self, choices: &mut Choices<'_>) {
        let api = ApiKey::ALL[choices.below(ApiKey::ALL.len())];
        let request = Request::sample(api, &mut SampleRng(choices.byte().into()));
        let version = self.client.version(api);
        match self.client.send(&request) {
            Ok(sent) => {
                let version = version.expect("it was sent");
                assert!(api.versions().contains(&version));
                let correlation_id = self.calls as i32;
                let frame = encode_request(version, correlation_id, Some("fuzz"), &request).expect("it was sent");
                assert_eq!(sent.frame.to_bytes(), frame.to_bytes());
                assert_eq!(sent.answered, request.is_answered());
                self.calls += 1;
                if sent.answered {
                    self.asked.push_back((sent.call, correlation_id, api));
                }
                self.to_server.push_back(sent.frame.to_bytes());
            }
            Err(error) => {
                assert!(matches!(error, SendError::NotServed { .. }) && version == Err(error), "{api} was not sent");
            }
        }
    }

    /// The server takes a frame, if it wants one.
    fn serve(&mut self) {
        if !self.server.wants_input() {
            return;
        }
        let Some(frame) = self.to_server.pop_front() else { return };
        let bytes = frame.len();
        let correlation_id = frame.get(4..).and_then(|rest| rest.first_chunk()).map(|id| i32::from_be_bytes(*id));
        match self.server.handle_frame(frame.clone()) {
            Ok(Taken::Request(incoming)) => {
                if let Request::Subscribe(request) = &incoming.request {
                    assert!(self.subscription.is_none(), "a second subscription");
                    let (id, allowed) = (request.subscription_id, request.credit_bytes.max(0));
                    let parts = VecDeque::new();
                    self.subscription = Some(Subscription { slot: incoming.slot, id, allowed, given: 0, parts });
                }
                assert_eq!(Some(incoming.header.correlation_id), correlation_id);
                assert_eq!(incoming.header.api, incoming.request.api());
                assert_eq!(incoming.answered, incoming.request.is_answered());
                assert_eq!(self.server.client_id(), incoming.header.client_id.as_ref());
                assert!(self.slots.last().is_none_or(|last| *last < incoming.slot), "a slot was used again");
                self.slots.push(incoming.slot);
                self.pending.push_back(Pending {
                    correlation_id: incoming.header.correlation_id,
                    slot: Some((incoming.slot, incoming.header)),
                    answered: incoming.answered,
                    state: State::Waiting,
                    bytes,
                });
            }
            Ok(Taken::Done(ApiKey::SubscriptionCredit)) => {
                let Ok((_, Request::SubscriptionCredit(credit))) = decode_request(frame) else { panic!("it was read") };
                if let Some(open) = self.subscription.as_mut().filter(|open| open.id == credit.subscription_id) {
                    open.allowed = open.allowed.max(credit.credit_bytes);
                }
            }
            Ok(Taken::Done(api)) => {
                assert_eq!(api, ApiKey::ApiVersions);
                assert!(!self.honest, "a version that was offered is served");
                let answer = refusal(correlation_id.expect("it was read"));
                let bytes = answer.len();
                self.pending.push_back(Pending {
                    correlation_id: correlation_id.expect("it was read"),
                    slot: None,
                    answered: true,
                    state: State::Ready(answer),
                    bytes,
                });
            }
            Err(Close::Subscribed) => {
                assert!(self.subscription.is_some(), "it is the first");
                // The client waits for ever.
                self.honest = false;
            }
            Err(error) => {
                assert!(!self.honest, "{error}");
                assert!(matches!(error, Close::Request { .. }), "{error}");
            }
        }
    }

    /// One of the requests that wait is answered, in one of the ways that there are.
    fn respond(&mut self, choices: &mut Choices<'_>) {
        let waiting: Vec<_> = (0..self.pending.len()).filter(|at| self.pending[*at].state == State::Waiting).collect();
        if waiting.is_empty() {
            return;
        }
        let at = waiting[choices.below(waiting.len().min(256))];
        let (slot, header) = self.pending[at].slot.clone().expect("it waits");
        let answered = self.pending[at].answered;
        let mut response = Response::sample(header.api, &mut SampleRng(choices.byte().into()));
        if let Response::ApiVersions(versions) = &mut response {
            // Only the session itself says that a version is too new.
            versions.error_code = ErrorCode::None;
        }
        let goes_on = header.api == ApiKey::Subscribe && choices.below(2) == 1;
        if let Response::Subscribe(part) = &mut response {
            part.is_last = !goes_on;
        }
        let frame = encode_response(&header, &response).expect("a sample can be written");
        if goes_on {
            self.server.respond_partly(slot, &response).expect("it waits");
            let open = self.subscription.as_mut().expect("it goes on");
            open.given += frame.len() as i64;
            return open.parts.push_back(frame.to_bytes());
        }
        let state = match choices.below(4) {
            0 => {
                self.server.skip(slot).expect("it waits");
                State::Skipped
            }
            _ => {
                self.server.respond(slot, &response).expect("it waits");
                if answered { State::Ready(frame.to_bytes()) } else { State::Skipped }
            }
        };
        if answered && state == State::Skipped {
            // The client waits for ever, and what comes next is not for it.
            self.honest = false;
        }
        let pending = &mut self.pending[at];
        pending.bytes = if let State::Ready(answer) = &state { answer.len() } else { 0 };
        pending.state = state;
    }

    /// The server gives the next answer that may leave.
    fn poll(&mut self) {
        let given = self.server.poll_frame();
        self.forget_skipped();
        let first = self.pending.front().and_then(|pending| pending.slot.as_ref());
        let open = self.subscription.as_mut().filter(|open| first.is_some_and(|(slot, _)| *slot == open.slot));
        if let Some(part) = open.and_then(|open| open.parts.pop_front()) {
            assert_eq!(given.expect("an answer that may leave").to_bytes(), part);
            return self.to_client.push_back(part);
        }
        let ready = self.pending.front().is_some_and(|pending| pending.state != State::Waiting);
        let Some(Pending { correlation_id, slot, state: State::Ready(answer), .. }) =
            ready.then(|| self.pending.pop_front()).flatten()
        else {
            return assert!(given.is_none(), "an answer has overtaken another");
        };
        let given = given.expect("an answer that may leave").to_bytes();
        assert_eq!(given, answer);
        assert_eq!(given[..4], correlation_id.to_be_bytes());
        self.to_client.push_back(given);
        self.end_subscription(slot.map(|(slot, _)| slot));
    }

    /// Requests that need no answer any more leave with the next one that does; a subscription gives what it has first.
    fn forget_skipped(&mut self) {
        while let Some(pending) = self.pending.front().filter(|pending| pending.state == State::Skipped) {
            let slot = pending.slot.as_ref().map(|(slot, _)| *slot);
            if self.subscription.as_ref().is_some_and(|open| Some(open.slot) == slot && !open.parts.is_empty()) {
                return;
            }
            self.pending.pop_front();
            self.end_subscription(slot);
        }
    }

    fn end_subscription(&mut self, ended: Option<Slot>) {
        if self.subscription.as_ref().is_some_and(|open| Some(open.slot) == ended) {
            self.subscription = None;
        }
    }

    fn take_answer(&mut self) {
        let Some(frame) = self.to_client.pop_front() else { return };
        let due = self.asked.pop_front();
        match self.client.handle_frame(frame.clone()) {
            Ok(answer) => {
                let (call, correlation_id, api) = due.expect("nobody has asked");
                assert_eq!((answer.call, answer.response.api()), (call, api));
                if answer.goes_on {
                    assert_eq!(api, ApiKey::Subscribe);
                    self.asked.push_front((call, correlation_id, api));
                }
                assert_eq!(frame[..4], correlation_id.to_be_bytes());
                if let Response::ApiVersions(versions) = &answer.response {
                    assert_eq!(**self.client.versions(), Versions::from_response(versions));
                }
            }
            Err(error) => {
                assert!(!self.honest, "{error}");
                match error {
                    AnswerError::Unasked => assert!(due.is_none()),
                    AnswerError::Correlation { expected, found } => {
                        assert!(found != expected && due.is_some_and(|due| due.1 == expected));
                    }
                    AnswerError::Decode { api, version, source } => {
                        let _ = source.to_string();
                        assert!(due.is_some_and(|due| due.2 == api) && api.versions().contains(&version));
                    }
                }
            }
        }
    }

    /// What a handler must not do changes nothing.
    fn misuse(&mut self, choices: &mut Choices<'_>) {
        if self.slots.is_empty() {
            return;
        }
        let slot = self.slots[usize::from(choices.short()) % self.slots.len()];
        let waits = |pending: &&Pending| {
            pending.state == State::Waiting && pending.slot.as_ref().is_some_and(|(waiting, _)| *waiting == slot)
        };
        let Some(Pending { slot: Some((_, header)), answered, .. }) = self.pending.iter().find(waits) else {
            assert_eq!(self.server.skip(slot), Err(Close::Slot(slot)));
            let part = Response::sample(ApiKey::Subscribe, &mut SampleRng(0));
            assert_eq!(self.server.respond_partly(slot, &part), Err(Close::Slot(slot)));
            let response = Response::sample(ApiKey::Metadata, &mut SampleRng(0));
            return assert_eq!(self.server.respond(slot, &response), Err(Close::Slot(slot)));
        };
        let other = ApiKey::ALL[choices.below(ApiKey::ALL.len())];
        if *answered && other != header.api {
            let wrong = Response::sample(other, &mut SampleRng(0));
            let source = EncodeError::Api { request: header.api.name(), response: other.name() };
            let api = header.api;
            assert_eq!(self.server.respond(slot, &wrong), Err(Close::Answer { api, source }));
        }
    }

    /// The client hears of other versions than there are.
    fn set_versions(&mut self, choices: &mut Choices<'_>) {
        let mut told = api_versions();
        for api in &mut told.api_keys {
            api.max_version -= i16::from(choices.byte() % 4);
        }
        told.api_keys.truncate(usize::from(choices.byte()));
        self.client.set_versions(Arc::new(Versions::from_response(&told)));
    }

    /// Somebody else's request, in a version that may be too new.
    fn stranger(&mut self, choices: &mut Choices<'_>) {
        let api = ApiKey::ALL[choices.below(ApiKey::ALL.len())];
        let version = *api.versions().start() + choices.below(api.versions().count()) as i16;
        let request = Request::sample(api, &mut SampleRng(choices.byte().into()));
        let client_id = [None, Some(""), Some("other")][choices.below(3)];
        let frame = encode_request(version, choices.int(), client_id, &request).expect("a sample can be written");
        let mut bytes = frame.to_bytes().to_vec();
        if choices.below(4) == 0 {
            bytes[2..4].copy_from_slice(&choices.short().to_be_bytes());
        }
        self.to_server.push_front(bytes.into());
    }

    fn check(&self) {
        let parts: usize = self.subscription.iter().flat_map(|open| &open.parts).map(Bytes::len).sum();
        let bytes: usize = parts + self.pending.iter().map(|pending| pending.bytes).sum::<usize>();
        let credit = self.subscription.as_ref().map_or(0, |open| (open.allowed - open.given).max(0));
        assert_eq!(self.server.credit_bytes(), credit as u64);
        let (requests, limits) = (self.pending.len(), self.limits);
        assert_eq!(self.server.in_flight(), requests);
        assert!(requests <= limits.requests_max.max(1), "{requests} requests are kept");
        let wants = requests == 0 || (requests < limits.requests_max && bytes < limits.bytes_max);
        assert_eq!(self.server.wants_input(), wants, "with {requests} requests and {bytes} bytes");
        let unsent = self.pending.iter().filter(|pending| matches!(pending.state, State::Ready(_)));
        assert_eq!(self.server.unsent_bytes(), parts + unsent.map(|pending| pending.bytes).sum::<usize>());
        let first = self.pending.iter().find(|pending| pending.state == State::Waiting);
        let first = first.map(|pending| pending.slot.as_ref().expect("it waits").0);
        assert_eq!(self.server.first_waiting(), first);
        let settled = self.pending.front().is_some_and(|pending| pending.state != State::Waiting);
        let front = self.pending.front().and_then(|pending| pending.slot.as_ref());
        let has_part = self
            .subscription
            .as_ref()
            .is_some_and(|open| front.is_some_and(|(slot, _)| *slot == open.slot) && !open.parts.is_empty());
        assert_eq!(self.server.has_frame(), settled || has_part);
        assert_eq!(self.client.in_flight(), self.asked.len());
        assert!(self.client.waiting().eq(self.asked.iter().map(|asked| asked.0)));
    }

    /// All that is under way arrives, and everything is answered: nothing is left.
    fn finish(&mut self) {
        while !(self.pending.is_empty() && self.to_server.is_empty() && self.to_client.is_empty()) {
            self.serve();
            self.respond(&mut Choices::new(&[0, 0, 2]));
            self.poll();
            self.take_answer();
            self.check();
        }
        assert!(!self.honest || self.asked.is_empty(), "{} requests had no answer", self.asked.len());
    }
}

/// What a server says by itself to an ApiVersions request in a version that it does not have.
fn refusal(correlation_id: i32) -> Bytes {
    let api = ApiKey::ApiVersions;
    let mut versions = api_versions();
    versions.error_code = ErrorCode::UnsupportedVersion;
    versions.api_keys.retain(|listed| listed.api_key == api.code());
    let header = RequestHeader { api, version: 0, correlation_id, client_id: None };
    let frame = encode_response(&header, &versions.into()).expect("an answer").to_bytes();
    // However the request was asked, this is how its answer is read.
    assert!(api.versions().all(|version| decode_response(api, version, frame.clone()).is_ok()));
    frame
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = random_choices(150, 200);
    // A few that go the whole way: sent, served, answered, given and taken, one after the other and side by side.
    for api in 0..ApiKey::ALL.len() as u8 {
        seeds.push([&[0, 4, 3][..], &[0, api, 1, 2, 4, 0, 1, 2, 6, 7]].concat());
        seeds.push([&[0, 4, 3][..], &[0, api, 1, 0, 18, 2, 2, 2, 4, 1, 7, 1, 4, 0, 9, 2, 6, 6, 7, 7]].concat());
        seeds.push([&[1, 4, 2][..], &[11, api, 0, 1, 1, 0, 0, 0, 9, 1, 2, 4, 0, 1, 2, 6, 7]].concat());
    }
    seeds
}
