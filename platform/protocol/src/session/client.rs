//! The client's side: correlation ids, versions, and which answer belongs to which request.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
};

use bytes::Bytes;
use millstream_env::Frame;

use crate::{
    ApiKey, Request, Response,
    codec::{DecodeError, EncodeError},
    frame::{decode_response, encode_request},
    messages::api_versions::ApiVersionsResponse,
};

/// Which versions a broker serves, as it said itself. One serves all streams of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<ApiKey, (i16, i16)>);

impl Versions {
    /// What an answer to ApiVersions says; apis that are unknown here are left out.
    #[must_use]
    pub fn from_response(response: &ApiVersionsResponse) -> Self {
        let known = |api: &crate::messages::api_versions::ApiVersion| {
            Some((ApiKey::from_code(api.api_key)?, (api.min_version, api.max_version)))
        };
        Self(response.api_keys.iter().filter_map(known).collect())
    }

    /// The versions that the broker serves of an api.
    #[must_use]
    pub fn of(&self, api: ApiKey) -> Option<RangeInclusive<i16>> {
        self.0.get(&api).map(|(min, max)| *min..=*max)
    }

    /// The highest version of an api that both sides speak. ApiVersions itself can always be asked.
    #[must_use]
    pub fn pick(&self, api: ApiKey) -> Option<i16> {
        let (ours_min, ours_max) = api.versions().into_inner();
        let Some((min, max)) = self.0.get(&api).copied() else {
            return (api == ApiKey::ApiVersions).then_some(ours_max);
        };
        let version = max.min(ours_max);
        (version >= min.max(ours_min)).then_some(version)
    }
}

/// A request that was sent. Never reused within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// A request on its way.
#[derive(Debug)]
pub struct Sent {
    /// Names the answer.
    pub call: CallId,
    /// What to put on the wire, in the order of the calls.
    pub frame: Frame,
    /// Whether an answer will come ([`Request::is_answered`]).
    pub answered: bool,
}

/// An answer that came.
#[derive(Debug)]
pub struct Answer {
    /// To which request.
    pub call: CallId,
    /// Its body.
    pub response: Response,
    /// Whether others will come to the same request: to Subscribe, until one says that it is the last.
    pub goes_on: bool,
}

/// Why a request cannot be sent. The session is as it was.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SendError {
    /// The broker does not serve the api, or no version that is known here.
    #[error("the broker does not serve {api} in a version that this client speaks ({ours:?}; the broker: {theirs:?})")]
    NotServed {
        /// The api.
        api: ApiKey,
        /// The versions known here.
        ours: RangeInclusive<i16>,
        /// The versions that the broker serves.
        theirs: Option<RangeInclusive<i16>>,
    },
    /// The wire cannot carry it.
    #[error("the request {api} cannot be written: {source}")]
    Encode {
        /// The api.
        api: ApiKey,
        /// What is wrong with it.
        source: EncodeError,
    },
}

/// Why a frame is not the answer that was due. The stream is of no more use.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AnswerError {
    /// No request waits for an answer.
    #[error("the broker sent an answer that nobody asked for")]
    Unasked,
    /// It answers another request than the oldest.
    #[error("the broker answered request {found} where {expected} was due")]
    Correlation {
        /// The oldest request's.
        expected: i32,
        /// The answer's.
        found: i32,
    },
    /// It cannot be read.
    #[error("the broker's answer to {api} (version {version}) cannot be read: {source}")]
    Decode {
        /// The api asked.
        api: ApiKey,
        /// The version asked.
        version: i16,
        /// What is wrong with it.
        source: DecodeError,
    },
}

#[derive(Debug)]
struct Waiting {
    call: CallId,
    correlation_id: i32,
    api: ApiKey,
    version: i16,
}

/// One stream's requests and answers.
#[derive(Debug)]
pub struct ClientSession {
    client_id: Option<Arc<str>>,
    versions: Arc<Versions>,
    next: u64,
    /// Requests whose answers have not come, oldest first.
    waiting: VecDeque<Waiting>,
}

impl ClientSession {
    /// A session that knows no versions yet: the first request is `ApiVersionsRequest`, or [`Self::set_versions`] tells what
    /// another stream of the connection was told.
    #[must_use]
    pub fn new(client_id: Option<Arc<str>>) -> Self {
        Self { client_id, versions: Arc::default(), next: 0, waiting: VecDeque::new() }
    }

    /// What the broker serves, as far as is known.
    #[must_use]
    pub fn versions(&self) -> &Arc<Versions> {
        &self.versions
    }

    /// Sets what the broker serves.
    pub fn set_versions(&mut self, versions: Arc<Versions>) {
        self.versions = versions;
    }

    /// How many requests wait for an answer. Pipelining is bounded by whoever sends.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// The version that a request of this api would go out in.
    ///
    /// # Errors
    /// [`SendError::NotServed`].
    pub fn version(&self, api: ApiKey) -> Result<i16, SendError> {
        self.versions.pick(api).ok_or_else(|| SendError::NotServed {
            api,
            ours: api.versions(),
            theirs: self.versions.of(api),
        })
    }

    /// Numbers and writes a request, in the highest version that both sides speak.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, request: &Request) -> Result<Sent, SendError> {
        let api = request.api();
        let version = self.version(api)?;
        let call = CallId(self.next);
        // Correlation ids wrap within the non-negative ones: some brokers log negative ones as errors.
        let correlation_id = (self.next & 0x7fff_ffff) as i32;
        let frame = encode_request(version, correlation_id, self.client_id.as_deref(), request)
            .map_err(|source| SendError::Encode { api, source })?;
        self.next += 1;
        let answered = request.is_answered();
        if answered {
            self.waiting.push_back(Waiting { call, correlation_id, api, version });
        }
        Ok(Sent { call, frame, answered })
    }

    /// Takes one frame: the answer to the oldest request, or one of its answers. An answer to ApiVersions also sets [`Self::versions`]; one that
    /// says `UnsupportedVersion` sets them for ApiVersions alone, so that asking again works.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn handle_frame(&mut self, frame: Bytes) -> Result<Answer, AnswerError> {
        let Waiting { call, correlation_id: expected, api, version } =
            self.waiting.pop_front().ok_or(AnswerError::Unasked)?;
        let found = frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
        if let Some(found) = found.filter(|found| *found != expected) {
            return Err(AnswerError::Correlation { expected, found });
        }
        let (_, response) =
            decode_response(api, version, frame).map_err(|source| AnswerError::Decode { api, version, source })?;
        if let Response::ApiVersions(versions) = &response {
            self.versions = Arc::new(Versions::from_response(versions));
        }
        let goes_on = matches!(&response, Response::Subscribe(part) if !part.is_last);
        if goes_on {
            self.waiting.push_front(Waiting { call, correlation_id: expected, api, version });
        }
        Ok(Answer { call, response, goes_on })
    }

    /// The requests that wait for an answer, oldest first: who is to be told when the stream ends.
    pub fn waiting(&self) -> impl Iterator<Item = CallId> + '_ {
        self.waiting.iter().map(|waiting| waiting.call)
    }
}
