//! Bytes that lie: a typed error each time, no panic, and no memory that the bytes do not pay for.

use bytes::{Bytes, BytesMut};

use super::{apis_and_versions, header};
use crate::{
    ApiKey, DecodeError, Request, Response,
    codec::{Field, Nullable, REQUEST_ELEMENTS_MAX, Reader, STRING_BYTES_MAX, decode_body},
    decode_request, decode_response, encode_request, encode_response,
    messages::{
        fetch::FetchRequest,
        metadata::{MetadataRequest, MetadataRequestTopic},
        topics::DeleteTopicsRequest,
    },
    sample::SampleRng,
};

/// The most virtual memory that this process ever had, bytes (Linux).
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Up to three requests and answers of every api and version, short enough to be tried at every byte.
fn frames() -> impl Iterator<Item = (ApiKey, i16, bool, Bytes)> {
    apis_and_versions().flat_map(|(api, version)| {
        (0..3).flat_map(move |seed| {
            let rng = &mut SampleRng(seed);
            let request = encode_request(version, 7, Some("c"), &Request::sample(api, rng)).unwrap().to_bytes();
            let response = encode_response(&header(api, version), &Response::sample(api, rng)).unwrap().to_bytes();
            let frames = [(api, version, true, request), (api, version, false, response)];
            frames.into_iter().filter(|(_, _, _, frame)| frame.len() < 1500)
        })
    })
}

fn decode(api: ApiKey, version: i16, request: bool, frame: Bytes) -> Result<(), DecodeError> {
    if request { decode_request(frame).map(|_| ()) } else { decode_response(api, version, frame).map(|_| ()) }
}

#[test]
fn a_frame_cut_anywhere_is_an_error() {
    for (api, version, request, frame) in frames() {
        for end in 0..frame.len() {
            let result = decode(api, version, request, frame.slice(..end));
            assert!(result.is_err(), "{api} {version}, request {request}, cut at {end} of {}", frame.len());
        }
    }
}

/// But for Kafka's requests, of which its brokers ignore the end.
#[test]
fn a_frame_with_bytes_after_its_end_is_an_error() {
    for (api, version, request, frame) in frames() {
        let mut longer = BytesMut::from(&*frame);
        longer.extend([0]);
        let result = decode(api, version, request, longer.freeze());
        let ignored = request && !api.is_extension();
        assert_eq!(result.is_ok(), ignored, "{api} {version}, request {request}");
    }
}

/// What librdkafka 2.16 sends to list all topics: four bytes of zero for a null list, which is one, so that three are left over.
/// It was cut off, and its users could not list topics.
#[test]
fn librdkafkas_request_for_all_topics_is_understood() {
    let mut frame = BytesMut::from(&b"\0\x03\0\x0d\0\0\0\x03\0\x07rdkafka\0"[..]);
    frame.extend([0, 0, 0, 0, 1, 0, 0]);
    let (header, request) = decode_request(frame.freeze()).unwrap();
    assert_eq!((header.api, header.version), (ApiKey::Metadata, 13));
    let expected = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
    assert_eq!(request, expected.into());
}

#[test]
fn lies_anywhere_in_a_frame_end_in_an_answer_and_take_no_memory() {
    let before = peak_bytes();
    let lies: [&[u8]; 9] = [
        &(-1i32).to_be_bytes(),
        &(-2i32).to_be_bytes(),
        &i32::MAX.to_be_bytes(),
        &i32::MIN.to_be_bytes(),
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0xff; 6],
        &[0x80; 6],
        &[0],
    ];
    for (api, version, request, frame) in frames() {
        for lie in lies {
            let step = frame.len() / 100 + 1;
            for at in (4..frame.len().saturating_sub(lie.len())).step_by(step) {
                let mut bytes = BytesMut::from(&*frame);
                bytes[at..at + lie.len()].copy_from_slice(lie);
                let _ = decode(api, version, request, bytes.freeze());
            }
        }
    }
    let grown = peak_bytes() - before;
    assert!(grown < 200 << 20, "{grown} bytes more at the peak");
}

#[test]
fn a_count_is_believed_only_as_far_as_its_bytes_go() {
    let fixed = |count: i32| Bytes::from(count.to_be_bytes().to_vec());
    let read = |bytes: Bytes| Option::<Vec<i64>>::read(&mut Reader::new(bytes));
    assert_eq!(read(fixed(-1)), Ok(None));
    assert_eq!(read(fixed(-2)), Err(DecodeError::Length { at: 0, length: -2 }));
    assert_eq!(read(fixed(i32::MIN)), Err(DecodeError::Length { at: 0, length: i64::from(i32::MIN) }));
    let needed = i32::MAX as usize * 8;
    assert_eq!(read(fixed(i32::MAX)), Err(DecodeError::Truncated { at: 4, needed, remaining: 0 }));
    assert_eq!(Vec::<i64>::read(&mut Reader::new(fixed(-1))), Err(DecodeError::Null { at: 0 }));

    let compact = |bytes: &'static [u8]| {
        let mut reader = Reader::new(Bytes::from_static(bytes));
        reader.set_version(0, true);
        String::read_nullable(&mut reader)
    };
    assert_eq!(compact(&[0]), Ok(None));
    assert_eq!(compact(&[2, b'x']), Ok(Some("x".into())));
    assert_eq!(compact(&[2, 0xff]), Err(DecodeError::Utf8 { at: 1 }));
    assert_eq!(compact(&[3, b'x']), Err(DecodeError::Truncated { at: 1, needed: 2, remaining: 1 }));
    assert_eq!(compact(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(DecodeError::Varint { at: 0 }));
    assert_eq!(compact(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Err(DecodeError::Length { at: 0, length: 0xffff_fffe }));
    assert_eq!(compact(&[0x80]), Err(DecodeError::Truncated { at: 1, needed: 1, remaining: 0 }));
}

#[test]
fn a_frame_of_millions_of_tiny_elements_is_refused_before_it_is_decoded() {
    let before = peak_bytes();
    let elements = 20 << 20;
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&(elements as i32).to_be_bytes());
    bytes.resize(4 + 2 * elements + 4, 0);
    let result = decode_body::<DeleteTopicsRequest>(bytes.freeze(), 1);
    assert_eq!(result, Err(DecodeError::TooLarge { at: 4 }));
    let grown = peak_bytes() - before;
    assert!(grown < 300 << 20, "{grown} bytes more at the peak");
}

#[test]
fn a_hundred_thousand_partitions_in_one_request_are_read() {
    let mut request = FetchRequest::default();
    request.topics.push(Default::default());
    request.topics[0].partitions.resize(100_000, Default::default());
    let frame = encode_request(18, 1, None, &request.clone().into()).unwrap().to_bytes();
    assert_eq!(decode_request(frame).unwrap().1, request.into());
}

#[test]
fn more_elements_than_a_request_may_have_are_refused_wherever_they_are() {
    let request = |topics: usize, partitions: usize| {
        let mut request = FetchRequest::default();
        request.topics.resize(topics, Default::default());
        for topic in &mut request.topics {
            topic.partitions.resize(partitions, Default::default());
        }
        decode_request(encode_request(12, 1, None, &request.into()).unwrap().to_bytes()).map(|_| ())
    };
    request(1, REQUEST_ELEMENTS_MAX - 1).unwrap();
    request(1000, 199).unwrap();
    for (topics, partitions) in [(1, REQUEST_ELEMENTS_MAX), (1000, 200), (REQUEST_ELEMENTS_MAX + 1, 0)] {
        let refused = request(topics, partitions);
        assert!(matches!(refused, Err(DecodeError::TooMany { .. })), "{topics} x {partitions}: {refused:?}");
    }
}

#[test]
fn a_string_longer_than_kafkas_is_refused_in_requests() {
    let named = |length: usize| {
        let topics = Some(vec![MetadataRequestTopic { name: Some("x".repeat(length)), ..Default::default() }]);
        let request = MetadataRequest { topics, ..Default::default() };
        decode_request(encode_request(12, 1, None, &request.into()).unwrap().to_bytes()).map(|_| ())
    };
    named(STRING_BYTES_MAX).unwrap();
    let length = STRING_BYTES_MAX + 1;
    assert_eq!(named(length), Err(DecodeError::LongString { at: 28, length, max: STRING_BYTES_MAX }));
}

#[test]
fn a_tagged_field_must_fill_its_length() {
    // Fetch 12 with the tag 0 (cluster id) of three bytes of which the string takes two.
    let frame = encode_request(12, 1, None, &FetchRequest::default().into()).unwrap().to_bytes();
    let mut bytes = frame.to_vec();
    assert_eq!(bytes.pop(), Some(0));
    bytes.extend([1, 0, 3, 2, b'x', 0]);
    assert!(matches!(decode_request(bytes.into()), Err(DecodeError::Trailing { bytes: 1, .. })));
}

#[test]
fn a_topic_name_that_is_no_text_is_an_error_and_one_that_is_odd_text_is_the_brokers_matter() {
    let request = |name: &[u8]| {
        let mut bytes = vec![0, 0, 0, 1];
        bytes.extend((name.len() as i16).to_be_bytes());
        bytes.extend(name);
        decode_body::<MetadataRequest>(bytes.into(), 0)
    };
    assert!(matches!(request(&[0xc3, 0x28]), Err(DecodeError::Utf8 { .. })));
    for odd in ["../x", "a\0b", ""] {
        assert_eq!(request(odd.as_bytes()).unwrap().topics.unwrap()[0].name.as_deref(), Some(odd));
    }
}
