//! Sessions: do answers leave in the order of their requests, within bounds, and does the other end match them?
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use bytes::Bytes;
use millstream_env::Frame;
use millstream_protocol::{
    ApiKey, DecodeError, EncodeError, ErrorCode, Request, Response, api_versions, decode_response, encode_request,
    extension::{
        cluster::{ClusterInfoRequest, ClusterInfoResponse},
        subscriptions::{SubscribeRequest, SubscribeResponse, SubscriptionCreditRequest},
    },
    messages::{
        api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse},
        metadata::{MetadataRequest, MetadataResponse},
        produce::{ProduceRequest, ProduceResponse},
    },
    session::{AnswerError, ClientSession, Close, Incoming, SendError, Session, SessionLimits, Taken, Versions},
};

fn frame(version: i16, correlation_id: i32, request: impl Into<Request>) -> Bytes {
    encode_request(version, correlation_id, Some("client"), &request.into()).unwrap().to_bytes()
}

fn metadata(correlation_id: i32) -> Bytes {
    frame(9, correlation_id, MetadataRequest::default())
}

fn produce(correlation_id: i32, acks: i16) -> Bytes {
    frame(9, correlation_id, ProduceRequest { acks, ..Default::default() })
}

fn take(session: &mut Session, frame: Bytes) -> Incoming {
    match session.handle_frame(frame).unwrap() {
        Taken::Request(incoming) => incoming,
        Taken::Done(api) => panic!("nothing to work on: {api}"),
    }
}

fn correlation_id(frame: &Frame) -> i32 {
    i32::from_be_bytes(*frame.to_bytes().first_chunk().unwrap())
}

/// The correlation ids of all answers that may leave now.
fn leaving(session: &mut Session) -> Vec<i32> {
    std::iter::from_fn(|| session.poll_frame()).map(|frame| correlation_id(&frame)).collect()
}

#[test]
fn answers_leave_in_the_order_of_requests_however_they_complete() {
    let mut session = Session::new(SessionLimits::default());
    let slots: Vec<_> = (0..4).map(|id| take(&mut session, metadata(id)).slot).collect();
    let answer = Response::from(MetadataResponse::default());
    session.respond(slots[2], &answer).unwrap();
    session.respond(slots[1], &answer).unwrap();
    assert_eq!(leaving(&mut session), []);
    session.respond(slots[0], &answer).unwrap();
    assert_eq!(leaving(&mut session), [0, 1, 2]);
    session.respond(slots[3], &answer).unwrap();
    assert_eq!(leaving(&mut session), [3]);
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn acks_0_has_no_answer_and_holds_up_nobody() {
    let mut session = Session::new(SessionLimits::default());
    let silent = take(&mut session, produce(1, 0));
    let given = take(&mut session, produce(2, 0));
    let loud = take(&mut session, produce(3, -1));
    assert_eq!([silent.answered, given.answered, loud.answered], [false, false, true]);
    session.respond(loud.slot, &ProduceResponse::default().into()).unwrap();
    assert_eq!(leaving(&mut session), [], "the order holds for what has no answer too");
    session.skip(silent.slot).unwrap();
    // A handler that does not look at acks is right all the same.
    session.respond(given.slot, &ProduceResponse::default().into()).unwrap();
    assert_eq!(leaving(&mut session), [3]);
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn input_stops_at_the_bounds_and_goes_on_when_answers_have_left() {
    let length = metadata(0).len();
    let answer = Response::from(MetadataResponse::default());

    let mut session = Session::new(SessionLimits { requests_max: 2, bytes_max: usize::MAX });
    let first = take(&mut session, metadata(0));
    assert!(session.wants_input());
    let second = take(&mut session, metadata(1));
    assert!(!session.wants_input(), "two in flight");
    session.respond(second.slot, &answer).unwrap();
    assert!(!session.wants_input(), "an answer that cannot leave yet counts");
    session.respond(first.slot, &answer).unwrap();
    assert_eq!(leaving(&mut session).len(), 2);
    assert!(session.wants_input());

    let mut session = Session::new(SessionLimits { requests_max: 100, bytes_max: length + 1 });
    let first = take(&mut session, metadata(0));
    assert!(session.wants_input());
    take(&mut session, metadata(1));
    assert!(!session.wants_input(), "bytes of requests");
    session.skip(first.slot).unwrap();
    assert!(session.wants_input(), "a request that was worked on no longer counts");

    // One request is always allowed, however large; its answer counts too while it cannot leave.
    let mut session = Session::new(SessionLimits { requests_max: 100, bytes_max: 100 });
    let first = take(&mut session, metadata(0));
    let second = take(&mut session, metadata(1));
    let long = MetadataResponse { cluster_id: Some("x".repeat(200)), ..Default::default() };
    session.respond(second.slot, &long.into()).unwrap();
    assert!(!session.wants_input(), "bytes of answers");
    session.respond(first.slot, &answer).unwrap();
    leaving(&mut session);
    assert!(session.wants_input());
}

#[test]
fn a_slot_is_completed_once_and_by_its_own_api() {
    let mut session = Session::new(SessionLimits::default());
    let incoming = take(&mut session, metadata(0));
    let wrong = session.respond(incoming.slot, &ProduceResponse::default().into());
    let source = EncodeError::Api { request: "Metadata", response: "Produce" };
    assert_eq!(wrong, Err(Close::Answer { api: ApiKey::Metadata, source }));
    session.respond(incoming.slot, &MetadataResponse::default().into()).unwrap();
    assert_eq!(session.skip(incoming.slot), Err(Close::Slot(incoming.slot)));
    assert_eq!(leaving(&mut session), [0]);
    assert_eq!(session.skip(incoming.slot), Err(Close::Slot(incoming.slot)));
}

#[test]
fn the_client_id_is_the_last_requests_and_shared_while_it_stays() {
    let mut session = Session::new(SessionLimits::default());
    assert_eq!(session.client_id(), None);
    let first = take(&mut session, metadata(0)).header.client_id.unwrap();
    let second = take(&mut session, metadata(1)).header.client_id.unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    let other = encode_request(9, 2, None, &MetadataRequest::default().into()).unwrap().to_bytes();
    take(&mut session, other);
    assert_eq!(session.client_id(), None);
}

#[test]
fn an_api_or_version_that_is_not_served_closes() {
    let request = |api_key: i16, version: i16| {
        let mut bytes = metadata(5).to_vec();
        bytes[..2].copy_from_slice(&api_key.to_be_bytes());
        bytes[2..4].copy_from_slice(&version.to_be_bytes());
        Session::new(SessionLimits::default()).handle_frame(bytes.into()).map(|_| ())
    };
    for api_key in [-1, 4, 7, 24, 71, 72, 9_999, 20_999, i16::MAX] {
        let source = DecodeError::Api { api_key };
        assert_eq!(request(api_key, 0), Err(Close::Request { api_key, version: 0, source }));
    }
    for (api, version) in
        [(ApiKey::Metadata, 14), (ApiKey::Metadata, -1), (ApiKey::Produce, 2), (ApiKey::Fetch, 3), (ApiKey::Assign, 1)]
    {
        let source = DecodeError::Version { message: api.name(), version };
        assert_eq!(request(api.code(), version), Err(Close::Request { api_key: api.code(), version, source }));
    }
}

#[test]
fn what_is_no_request_closes_and_what_was_ready_may_still_leave() {
    for bytes in [&b""[..], b"GET ", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[0; 7]] {
        let mut session = Session::new(SessionLimits::default());
        let before = take(&mut session, metadata(1));
        session.respond(before.slot, &MetadataResponse::default().into()).unwrap();
        assert!(matches!(session.handle_frame(bytes.to_vec().into()), Err(Close::Request { .. })), "{bytes:?}");
        assert_eq!(leaving(&mut session), [1]);
    }
}

#[test]
fn api_versions_too_new_is_answered_with_error_35_in_a_version_0_body() {
    for version in [5, 100, i16::MAX, -1] {
        // A body of a version that is not known here: it must not be read.
        let mut bytes = vec![0, 18];
        bytes.extend(version.to_be_bytes());
        bytes.extend([0, 0, 0, 9, 0xff, 0xff, 0xde, 0xad]);
        let mut session = Session::new(SessionLimits::default());
        let before = take(&mut session, metadata(1));
        assert!(matches!(session.handle_frame(bytes.into()).unwrap(), Taken::Done(ApiKey::ApiVersions)));
        assert_eq!(leaving(&mut session), [], "in its order");
        session.respond(before.slot, &MetadataResponse::default().into()).unwrap();
        assert_eq!(session.poll_frame().map(|frame| correlation_id(&frame)), Some(1));
        let answer = session.poll_frame().unwrap().to_bytes();
        let golden = [
            [0, 0, 0, 9].as_slice(), // correlation id
            &[0, 35],                // error
            &[0, 0, 0, 1],           // one api
            &[0, 18, 0, 0, 0, 4],    // ApiVersions, 0 to 4
        ];
        assert_eq!(answer, golden.concat());
        assert!(session.wants_input());
    }
}

fn negotiated() -> ClientSession {
    let mut client = ClientSession::new(Some("client".into()));
    client.set_versions(Versions::from_response(&api_versions()).into());
    client
}

#[test]
fn two_ends_agree_on_versions_and_pipeline() {
    let mut client = ClientSession::new(Some("client".into()));
    let mut server = Session::new(SessionLimits::default());
    let refused = client.send(&MetadataRequest::default().into());
    assert!(matches!(refused, Err(SendError::NotServed { api: ApiKey::Metadata, theirs: None, .. })));

    let hello = client.send(&ApiVersionsRequest::default().into()).unwrap();
    let incoming = take(&mut server, hello.frame.to_bytes());
    assert_eq!(incoming.header.version, 4);
    server.respond(incoming.slot, &api_versions().into()).unwrap();
    let answer = client.handle_frame(server.poll_frame().unwrap().to_bytes()).unwrap();
    assert_eq!(answer.call, hello.call);
    for api in ApiKey::ALL {
        assert_eq!(client.version(*api), Ok(*api.versions().end()));
    }

    let first = client.send(&MetadataRequest::default().into()).unwrap();
    let silent = client.send(&ProduceRequest::default().into()).unwrap();
    let last = client.send(&ClusterInfoRequest::default().into()).unwrap();
    assert!(!silent.answered);
    assert_eq!(client.waiting().collect::<Vec<_>>(), [first.call, last.call]);
    let incoming = [&first, &silent, &last].map(|sent| take(&mut server, sent.frame.to_bytes()));
    let body = ClusterInfoResponse { topics: 3, ..Default::default() };
    server.respond(incoming[2].slot, &body.clone().into()).unwrap();
    server.skip(incoming[1].slot).unwrap();
    server.respond(incoming[0].slot, &MetadataResponse::default().into()).unwrap();
    let answers: Vec<_> = std::iter::from_fn(|| server.poll_frame())
        .map(|frame| client.handle_frame(frame.to_bytes()).unwrap())
        .collect();
    assert_eq!(answers.iter().map(|answer| answer.call).collect::<Vec<_>>(), [first.call, last.call]);
    assert_eq!(answers[1].response, Response::from(body));
    assert_eq!(client.in_flight(), 0);
}

#[test]
fn a_client_that_is_too_new_asks_again() {
    let mut client = ClientSession::new(None);
    client.send(&ApiVersionsRequest::default().into()).unwrap();
    // What an older broker says: it serves ApiVersions 0 to 2.
    let refusal = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion,
        api_keys: vec![ApiVersion { api_key: 18, min_version: 0, max_version: 2 }],
        ..Default::default()
    };
    let body = millstream_protocol::codec::encode_body(&refusal, 0).unwrap().to_bytes();
    let answer = client.handle_frame([&[0; 4], &*body].concat().into()).unwrap();
    assert_eq!(answer.response, Response::from(refusal));
    assert_eq!(client.version(ApiKey::ApiVersions), Ok(2));
}

#[test]
fn versions_are_the_highest_that_both_speak() {
    let versions = |api: ApiKey, min_version, max_version| {
        let api_keys = vec![
            ApiVersion { api_key: api.code(), min_version, max_version },
            ApiVersion { api_key: 12_345, min_version: 0, max_version: 9 },
        ];
        Versions::from_response(&ApiVersionsResponse { api_keys, ..Default::default() }).pick(api)
    };
    assert_eq!(versions(ApiKey::Fetch, 0, 11), Some(11));
    assert_eq!(versions(ApiKey::Fetch, 4, 99), Some(18));
    assert_eq!(versions(ApiKey::Fetch, 0, 3), None, "below what is spoken here");
    assert_eq!(versions(ApiKey::Fetch, 19, 30), None, "above it");
    assert_eq!(Versions::default().pick(ApiKey::Fetch), None);
}

#[test]
fn an_answer_that_is_not_due_ends_the_stream() {
    let answer = |correlation_id: i32| {
        let mut bytes = correlation_id.to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        Bytes::from(bytes)
    };
    let mut client = negotiated();
    assert_eq!(client.handle_frame(answer(0)).unwrap_err(), AnswerError::Unasked);
    client.send(&MetadataRequest::default().into()).unwrap();
    let error = client.handle_frame(answer(8)).unwrap_err();
    assert_eq!(error, AnswerError::Correlation { expected: 0, found: 8 });
    client.send(&MetadataRequest::default().into()).unwrap();
    assert!(matches!(client.handle_frame(answer(1)), Err(AnswerError::Decode { api: ApiKey::Metadata, .. })));
}

#[test]
fn an_answers_header_has_tags_except_to_api_versions() {
    let mut session = Session::new(SessionLimits::default());
    let flexible = take(&mut session, metadata(1));
    let asked = take(&mut session, frame(4, 2, ApiVersionsRequest::default()));
    session.respond(flexible.slot, &MetadataResponse::default().into()).unwrap();
    session.respond(asked.slot, &ApiVersionsResponse::default().into()).unwrap();
    let metadata = session.poll_frame().unwrap().to_bytes();
    assert_eq!(metadata[4], 0, "no tags, then the throttle time");
    assert!(decode_response(ApiKey::Metadata, 9, metadata).is_ok());
    let versions = session.poll_frame().unwrap().to_bytes();
    assert_eq!(versions[4..7], [0, 0, 1], "the error, then an empty array");
}

fn subscribe(correlation_id: i32, credit_bytes: i64) -> Bytes {
    frame(0, correlation_id, SubscribeRequest { subscription_id: 5, credit_bytes, ..Default::default() })
}

fn credit(subscription_id: i32, credit_bytes: i64) -> Bytes {
    frame(0, 0, SubscriptionCreditRequest { subscription_id, credit_bytes })
}

fn part(is_last: bool) -> Response {
    SubscribeResponse { is_last, ..Default::default() }.into()
}

#[test]
fn a_subscription_has_many_answers_and_what_is_behind_it_waits_for_the_last() {
    let mut session = Session::new(SessionLimits::default());
    let first = take(&mut session, metadata(1));
    let subscription = take(&mut session, subscribe(2, 1_000));
    let behind = take(&mut session, metadata(3));
    session.respond(behind.slot, &MetadataResponse::default().into()).unwrap();
    session.respond_partly(subscription.slot, &part(false)).unwrap();
    assert!(!session.has_frame() && leaving(&mut session).is_empty(), "what was asked before is not answered");
    session.respond(first.slot, &MetadataResponse::default().into()).unwrap();
    assert_eq!(leaving(&mut session), [1, 2]);
    session.respond_partly(subscription.slot, &part(false)).unwrap();
    session.respond_partly(subscription.slot, &part(false)).unwrap();
    assert!(session.has_frame());
    assert_eq!(leaving(&mut session), [2, 2]);
    assert_eq!(session.handle_frame(subscribe(4, 0)).unwrap_err(), Close::Subscribed);
    session.respond(subscription.slot, &part(true)).unwrap();
    assert_eq!(leaving(&mut session), [2, 3]);
    assert_eq!((session.in_flight(), session.unsent_bytes(), session.credit_bytes()), (0, 0, 0));
    // Ended, it makes room for another.
    take(&mut session, subscribe(5, 7));
    assert_eq!(session.credit_bytes(), 7);
}

#[test]
fn credit_is_a_total_that_only_grows_and_is_used_up_by_the_frames() {
    let mut session = Session::new(SessionLimits { requests_max: 2, bytes_max: usize::MAX });
    let allow = |session: &mut Session, id, bytes| {
        assert!(matches!(session.handle_frame(credit(id, bytes)).unwrap(), Taken::Done(ApiKey::SubscriptionCredit)));
        session.credit_bytes()
    };
    assert_eq!(allow(&mut session, 5, 100), 0, "there is none");
    let subscription = take(&mut session, subscribe(2, 10));
    let bytes = session.credit_bytes();
    assert_eq!(bytes, 10);
    // It takes no place among the requests, however often it comes.
    for _ in 0..1_000 {
        assert_eq!(allow(&mut session, 5, 100), 100);
    }
    assert_eq!((allow(&mut session, 5, 50), allow(&mut session, 5, -1), allow(&mut session, 6, 500)), (100, 100, 100));
    session.respond_partly(subscription.slot, &part(false)).unwrap();
    let part_bytes = session.unsent_bytes() as u64;
    assert_eq!(session.credit_bytes(), 100 - part_bytes);
    while session.credit_bytes() > 0 {
        session.respond_partly(subscription.slot, &part(false)).unwrap();
    }
    let given = 100_u64.div_ceil(part_bytes) * part_bytes;
    assert_eq!(allow(&mut session, 5, given as i64), 0, "what was given beyond the credit counts");
    assert_eq!(allow(&mut session, 5, i64::MAX), i64::MAX as u64 - given);
    assert_eq!(leaving(&mut session).len() as u64, given / part_bytes);
    assert_eq!(session.unsent_bytes(), 0);
    let none = take(&mut Session::new(SessionLimits::default()), subscribe(1, -1));
    assert!(none.answered);
}

#[test]
fn a_client_takes_all_answers_of_a_subscription_for_its_own() {
    let mut client = ClientSession::new(None);
    client.set_versions(Versions::from_response(&api_versions()).into());
    let subscribed = client.send(&SubscribeRequest::default().into()).unwrap();
    let credit = client.send(&SubscriptionCreditRequest::default().into()).unwrap();
    assert_eq!((subscribed.answered, credit.answered), (true, false));
    let behind = client.send(&MetadataRequest::default().into()).unwrap();
    let mut server = Session::new(SessionLimits::default());
    let subscription = take(&mut server, subscribed.frame.to_bytes());
    server.handle_frame(credit.frame.to_bytes()).unwrap();
    let metadata = take(&mut server, behind.frame.to_bytes());
    server.respond(metadata.slot, &MetadataResponse::default().into()).unwrap();
    server.respond_partly(subscription.slot, &part(false)).unwrap();
    server.respond(subscription.slot, &part(true)).unwrap();
    let answers = std::iter::from_fn(|| server.poll_frame()).map(|frame| {
        let answer = client.handle_frame(frame.to_bytes()).unwrap();
        (answer.call, answer.goes_on)
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(answers, [(subscribed.call, true), (subscribed.call, false), (behind.call, false)]);
    assert_eq!(client.in_flight(), 0);
}
