//! The server's side: requests in, answers out in their order, what is in flight bounded.
//!
//! ```text
//!  handle_frame            respond, in any order              poll_frame
//!  request 7 -> [ 4 ready | 5 waiting | 6 ready | 7 waiting ] -> answer 4   (6 goes out when 5 has)
//! ```

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use millstream_env::Frame;

use crate::{
    ApiKey, ErrorCode, Request, RequestHeader, Response,
    codec::{DecodeError, EncodeError, Field, Reader, Writer, write_body},
    extension::subscriptions::SubscriptionCreditRequest,
    frame::{RequestPrefix, encode_response, read_request},
    messages::api_versions::ApiVersionsResponse,
};

/// How much may be in flight before [`Session::wants_input`] says no. One request is always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Requests that were read and whose answers were not taken yet.
    pub requests_max: usize,
    /// Bytes of those requests' frames and of their answers.
    pub bytes_max: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { requests_max: 128, bytes_max: 32 << 20 }
    }
}

/// A request's place in the order of answers. Never reused within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u64);

/// What became of a frame.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most are requests, and each is moved but once")]
pub enum Taken {
    /// It is a request to work on.
    Request(Incoming),
    /// The session has seen to it: to ApiVersions in a version that is too new, for which [`Session::poll_frame`] has the answer, or to
    /// credit.
    Done(ApiKey),
}

/// A request to work on.
#[derive(Debug)]
pub struct Incoming {
    /// Where its answer goes.
    pub slot: Slot,
    /// Its header.
    pub header: RequestHeader,
    /// Its body.
    pub request: Request,
    /// Whether it has an answer on the wire ([`Request::is_answered`]). If not, an answer that is given all the same is
    /// dropped, so handlers need not tell the two apart; the slot must be completed in any case.
    pub answered: bool,
}

/// Why the stream must be closed. Answers that were complete before may still be sent.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Close {
    /// Not a request that is served here.
    #[error("the request (api key {api_key}, version {version}) cannot be read: {source}")]
    Request {
        /// What it says to be; -1 when not even that is there.
        api_key: i16,
        /// What it says to be.
        version: i16,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// An answer that the wire cannot carry. Ours to repair.
    #[error("the answer to {api} cannot be written: {source}")]
    Answer {
        /// What was asked.
        api: ApiKey,
        /// What is wrong with it.
        source: EncodeError,
    },
    /// A slot that is complete already, or not of this session. Ours to repair.
    #[error("slot {0:?} is not waiting for an answer")]
    Slot(Slot),
    /// There is a subscription on the stream already, and it has not ended.
    #[error("a second subscription on a stream, before the first has ended: each has a stream of its own")]
    Subscribed,
}

/// The stream's subscription; see [`crate::extension::subscriptions`].
#[derive(Debug)]
struct Subscription {
    /// Whose answers they are.
    slot: Slot,
    id: i32,
    /// Bytes of answers that may be sent, and that were given.
    allowed: u64,
    given: u64,
    /// Answers that wait to be sent.
    parts: VecDeque<Frame>,
}

#[derive(Debug)]
enum State {
    Waiting { header: RequestHeader, answered: bool },
    Ready(Frame),
    Skipped,
}

#[derive(Debug)]
struct Pending {
    state: State,
    /// What it counts in `bytes`: the request's while it waits, then the answer's.
    bytes: usize,
}

/// One stream's requests and answers.
#[derive(Debug)]
pub struct Session {
    limits: SessionLimits,
    /// In the order of the requests; the first is `first`'s.
    pending: VecDeque<Pending>,
    first: u64,
    bytes: usize,
    /// Of `bytes`, those of answers.
    unsent: usize,
    client_id: Option<Arc<str>>,
    subscription: Option<Subscription>,
}

impl Session {
    /// A session with nothing in flight.
    #[must_use]
    pub fn new(limits: SessionLimits) -> Self {
        Self { limits, pending: VecDeque::new(), first: 0, bytes: 0, unsent: 0, client_id: None, subscription: None }
    }

    /// Whether the shell should read another frame. While not, it leaves them to the transport's flow control, and goes on
    /// completing slots and sending.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.pending.is_empty() || (self.pending.len() < self.limits.requests_max && self.bytes < self.limits.bytes_max)
    }

    /// How many requests were read and not answered (or skipped) yet, ready answers included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// The oldest request that has no answer yet: what it is answered with can leave at once.
    #[must_use]
    pub fn first_waiting(&self) -> Option<Slot> {
        let at = self.pending.iter().position(|pending| matches!(pending.state, State::Waiting { .. }))?;
        Some(Slot(self.first + at as u64))
    }

    /// Bytes of the answers that [`Session::poll_frame`] has not given yet.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent
    }

    /// How many bytes of answers the stream's subscription may still send; 0 where there is none.
    #[must_use]
    pub fn credit_bytes(&self) -> u64 {
        self.subscription.as_ref().map_or(0, |subscription| subscription.allowed.saturating_sub(subscription.given))
    }

    /// The client's name for itself, from its last request.
    #[must_use]
    pub fn client_id(&self) -> Option<&Arc<str>> {
        self.client_id.as_ref()
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// [`Close`] when it is not a request that is served, or one too many: nothing else may be read from the stream.
    pub fn handle_frame(&mut self, frame: Bytes) -> Result<Taken, Close> {
        let bytes = frame.len();
        let mut reader = Reader::new(frame);
        let prefix =
            RequestPrefix::read(&mut reader).map_err(|source| Close::Request { api_key: -1, version: -1, source })?;
        let RequestPrefix { api_key, version, correlation_id } = prefix;
        let close = |source| Close::Request { api_key, version, source };

        let api = ApiKey::ApiVersions;
        if api_key == api.code() && !api.versions().contains(&version) {
            let answer = refused_version(correlation_id).map_err(|source| Close::Answer { api, source })?;
            let bytes = answer.len();
            self.push(State::Ready(answer), bytes);
            return Ok(Taken::Done(api));
        }

        let (header, request) = read_request(reader, prefix, self.client_id.as_ref()).map_err(close)?;
        if self.client_id != header.client_id {
            self.client_id.clone_from(&header.client_id);
        }
        if let Request::SubscriptionCredit(credit) = &request {
            self.allow(credit);
            return Ok(Taken::Done(header.api));
        }
        if self.subscription.is_some() && header.api == ApiKey::Subscribe {
            return Err(Close::Subscribed);
        }
        let answered = request.is_answered();
        let slot = self.push(State::Waiting { header: header.clone(), answered }, bytes);
        if let Request::Subscribe(request) = &request {
            let allowed = u64::try_from(request.credit_bytes).unwrap_or(0);
            let id = request.subscription_id;
            self.subscription = Some(Subscription { slot, id, allowed, given: 0, parts: VecDeque::new() });
        }
        Ok(Taken::Request(Incoming { slot, header, request, answered }))
    }

    fn allow(&mut self, credit: &SubscriptionCreditRequest) {
        if let Some(subscription) = self.subscription.as_mut().filter(|open| open.id == credit.subscription_id) {
            subscription.allowed = subscription.allowed.max(u64::try_from(credit.credit_bytes).unwrap_or(0));
        }
    }

    /// Gives one answer of a subscription; others follow, and its slot is completed by the last.
    ///
    /// # Errors
    /// [`Close::Answer`], [`Close::Slot`].
    pub fn respond_partly(&mut self, slot: Slot, response: &Response) -> Result<(), Close> {
        let State::Waiting { header, .. } = &self.waiting(slot)?.state else { return Err(Close::Slot(slot)) };
        let api = header.api;
        let part = encode_response(header, response).map_err(|source| Close::Answer { api, source })?;
        let open = self.subscription.as_mut().filter(|open| open.slot == slot).ok_or(Close::Slot(slot))?;
        let bytes = part.len();
        open.given += bytes as u64;
        open.parts.push_back(part);
        self.bytes += bytes;
        self.unsent += bytes;
        Ok(())
    }

    /// Completes a slot with its answer.
    ///
    /// # Errors
    /// [`Close::Answer`], [`Close::Slot`].
    pub fn respond(&mut self, slot: Slot, response: &Response) -> Result<(), Close> {
        let pending = self.waiting(slot)?;
        let state = match &pending.state {
            State::Waiting { header, answered: true } => {
                let api = header.api;
                State::Ready(encode_response(header, response).map_err(|source| Close::Answer { api, source })?)
            }
            _ => State::Skipped,
        };
        self.complete(slot, state)
    }

    /// Completes a slot without an answer: what a request with acks=0 gets.
    ///
    /// # Errors
    /// [`Close::Slot`].
    pub fn skip(&mut self, slot: Slot) -> Result<(), Close> {
        self.waiting(slot)?;
        self.complete(slot, State::Skipped)
    }

    /// Whether the oldest request is settled, so that [`Session::poll_frame`] has an answer to give or nothing but
    /// requests without one to forget.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        let has_part =
            self.subscription.as_ref().is_some_and(|open| open.slot.0 == self.first && !open.parts.is_empty());
        has_part || self.pending.front().is_some_and(|pending| !matches!(pending.state, State::Waiting { .. }))
    }

    /// The next answer to send; none while the oldest request is still being worked on.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        loop {
            let is_open = |open: &&mut Subscription| open.slot.0 == self.first;
            if let Some(part) = self.subscription.as_mut().filter(is_open).and_then(|open| open.parts.pop_front()) {
                self.bytes -= part.len();
                self.unsent -= part.len();
                return Some(part);
            }
            if matches!(self.pending.front()?.state, State::Waiting { .. }) {
                return None;
            }
            let Pending { state, bytes } = self.pending.pop_front()?;
            if self.subscription.as_ref().is_some_and(|open| open.slot.0 == self.first) {
                self.subscription = None;
            }
            self.first += 1;
            self.bytes -= bytes;
            if let State::Ready(frame) = state {
                self.unsent -= bytes;
                return Some(frame);
            }
        }
    }

    fn push(&mut self, state: State, bytes: usize) -> Slot {
        let slot = Slot(self.first + self.pending.len() as u64);
        self.bytes += bytes;
        if matches!(state, State::Ready(_)) {
            self.unsent += bytes;
        }
        self.pending.push_back(Pending { state, bytes });
        slot
    }

    fn waiting(&mut self, slot: Slot) -> Result<&mut Pending, Close> {
        slot.0
            .checked_sub(self.first)
            .and_then(|index| self.pending.get_mut(usize::try_from(index).ok()?))
            .filter(|pending| matches!(pending.state, State::Waiting { .. }))
            .ok_or(Close::Slot(slot))
    }

    fn complete(&mut self, slot: Slot, state: State) -> Result<(), Close> {
        let after = if let State::Ready(answer) = &state { answer.len() } else { 0 };
        let pending = self.waiting(slot)?;
        let before = std::mem::replace(&mut pending.bytes, after);
        pending.state = state;
        self.bytes = self.bytes - before + after;
        self.unsent += after;
        Ok(())
    }
}

/// The answer to an ApiVersions request of unknown version: error 35 in version 0, which every client can read, with the
/// versions of ApiVersions itself (KIP-511).
fn refused_version(correlation_id: i32) -> Result<Frame, EncodeError> {
    let body = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion,
        api_keys: vec![ApiKey::ApiVersions.into()],
        ..Default::default()
    };
    let mut writer = Writer::new();
    correlation_id.write(&mut writer);
    write_body(&mut writer, &body, 0)?;
    writer.finish()
}
