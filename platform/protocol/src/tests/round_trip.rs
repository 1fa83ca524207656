//! Does what is written read back as what it was, in every version, in parts that were never copied?

use bytes::Bytes;

use super::{apis_and_versions, header};
use crate::{
    ApiKey, Request, Response, api_versions,
    codec::{Field, PART_BYTES_MIN, Writer, decode_body, encode_body},
    decode_request, decode_response, encode_request, encode_response,
    extension::transforms::TransformDeployRequest,
    messages::{fetch::*, metadata::MetadataRequest, offsets::ListOffsetsRequest, produce::*},
    sample::{Sample, SampleRng},
};

#[test]
fn a_request_read_and_written_again_is_the_same_bytes() {
    for (api, version) in apis_and_versions() {
        for seed in 0..50 {
            let request = Request::sample(api, &mut SampleRng(seed));
            let frame = encode_request(version, 7, Some("clïent"), &request).unwrap().to_bytes();
            let (head, read) = decode_request(frame.clone()).unwrap_or_else(|e| panic!("{api} {version} {seed}: {e}"));
            assert_eq!((head.api, head.version, head.correlation_id), (api, version, 7));
            assert_eq!(head.client_id.as_deref(), Some("clïent"));
            let again = encode_request(version, 7, Some("clïent"), &read).unwrap().to_bytes();
            // Metadata 0 says "all topics" with an empty list, read as null.
            if (api, version) != (ApiKey::Metadata, 0) {
                assert_eq!(again, frame, "{api} {version} {seed}");
            }
            if version == *api.versions().end() && api.code() >= 20_000 {
                assert_eq!(read, request, "{api} {version} {seed}");
            }
        }
    }
}

/// However deep in the answer it is.
#[test]
fn a_response_tells_of_an_error_where_one_of_its_codes_is_of_an_error() {
    let (mut errors, mut fine) = (0, 0);
    for api in ApiKey::ALL {
        for seed in 0..200 {
            let response = Response::sample(*api, &mut SampleRng(seed));
            let text = format!("{response:?}");
            let expected = text.split("error_code: ").skip(1).any(|code| !code.starts_with("None"));
            assert_eq!(response.tells_error(), expected, "{text}");
            *(if expected { &mut errors } else { &mut fine }) += 1;
        }
    }
    assert!(errors > 1000 && fine > 100, "{errors} and {fine}: it asks nothing");
}

#[test]
fn a_response_read_and_written_again_is_the_same_bytes() {
    for (api, version) in apis_and_versions() {
        for seed in 0..50 {
            let response = Response::sample(api, &mut SampleRng(seed));
            let frame = encode_response(&header(api, version), &response).unwrap().to_bytes();
            let (correlation_id, read) =
                decode_response(api, version, frame.clone()).unwrap_or_else(|e| panic!("{api} {version} {seed}: {e}"));
            assert_eq!(correlation_id, 7);
            // An ApiVersions answer that says "unsupported version" is version 0 by definition.
            if !matches!(&read, Response::ApiVersions(v) if v.error_code == crate::ErrorCode::UnsupportedVersion) {
                assert_eq!(encode_response(&header(api, version), &read).unwrap().to_bytes(), frame);
            }
            if api.code() >= 20_000 {
                assert_eq!(read, response, "{api} {version} {seed}");
            }
        }
    }
}

#[test]
fn list_offsets_11_is_written_as_10_is() {
    for seed in 0..50 {
        let request = ListOffsetsRequest::sample(&mut SampleRng(seed));
        let of = |version| encode_body(&request, version).unwrap().to_bytes();
        assert_eq!(of(10), of(11));
    }
}

#[test]
fn metadata_0_asks_for_all_topics_with_an_empty_list() {
    let request = Request::Metadata(MetadataRequest { topics: Some(vec![]), ..Default::default() });
    let read = |version| {
        let frame = encode_request(version, 1, None, &request).unwrap().to_bytes();
        match decode_request(frame).unwrap().1 {
            Request::Metadata(metadata) => metadata.topics,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(0), None);
    assert_eq!(read(1), Some(vec![]));
}

fn within(outer: &Bytes, inner: &Bytes) -> bool {
    let (outer, inner) = (outer.as_ptr_range(), inner.as_ptr_range());
    outer.start <= inner.start && inner.end <= outer.end
}

#[test]
fn produced_records_are_a_slice_of_the_frame() {
    let records = Bytes::from(vec![5; 3]);
    let request = Request::Produce(ProduceRequest {
        topic_data: vec![TopicProduceData {
            name: "t".into(),
            partition_data: vec![PartitionProduceData { records: Some(records), ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    });
    for version in ApiKey::Produce.versions() {
        let frame = encode_request(version, 1, None, &request).unwrap().to_bytes();
        let Request::Produce(produce) = decode_request(frame.clone()).unwrap().1 else { panic!("not Produce") };
        let records = produce.topic_data[0].partition_data[0].records.clone().unwrap();
        assert_eq!(records, [5; 3].as_slice());
        assert!(within(&frame, &records));
    }
}

#[test]
fn fetched_records_are_parts_of_the_frame_and_not_copied() {
    let parts: Vec<Bytes> = [PART_BYTES_MIN, 10, 5 * PART_BYTES_MIN].map(|n| Bytes::from(vec![n as u8; n])).into();
    let response = Response::Fetch(FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "t".into(),
            partitions: vec![PartitionData { records: parts.clone().into(), ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    });
    for version in ApiKey::Fetch.versions() {
        let frame = encode_response(&header(ApiKey::Fetch, version), &response).unwrap();
        for part in [&parts[0], &parts[2]] {
            assert!(frame.parts.iter().any(|sent| sent.as_ptr() == part.as_ptr() && sent.len() == part.len()));
        }
        let whole = frame.to_bytes();
        let (_, read) = decode_response(ApiKey::Fetch, version, whole.clone()).unwrap();
        let Response::Fetch(fetch) = read else { panic!("not Fetch") };
        let records = &fetch.responses[0].partitions[0].records;
        assert_eq!(records.to_bytes(), parts.concat());
        assert!(within(&whole, &records.0[0]), "one slice of the frame");
    }
}

#[test]
fn a_string_too_long_for_its_length_field_is_an_error() {
    let long = "x".repeat(i16::MAX as usize + 1);
    let request = MetadataRequest {
        topics: Some(vec![crate::messages::metadata::MetadataRequestTopic {
            name: Some(long.clone()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    assert!(matches!(encode_body(&request, 8), Err(crate::EncodeError::TooLong { what: "string", .. })));
    assert!(encode_body(&request, 9).is_ok());
}

#[test]
fn an_answer_of_another_api_or_version_is_refused() {
    let response = Response::Produce(ProduceResponse::default());
    assert!(matches!(
        encode_response(&header(ApiKey::Fetch, 12), &response),
        Err(crate::EncodeError::Api { request: "Fetch", response: "Produce" })
    ));
    assert!(matches!(
        encode_response(&header(ApiKey::Produce, 99), &response),
        Err(crate::EncodeError::Version { version: 99, .. })
    ));
}

#[test]
fn tags_that_are_not_known_are_skipped() {
    let mut writer = Writer::new();
    writer.set_version(0, true);
    TransformDeployRequest::default().write(&mut writer);
    let mut bytes = writer.finish().unwrap().to_bytes().to_vec();
    assert_eq!(bytes.pop(), Some(0), "no tags");
    bytes.extend([2, 3, 2, 0xaa, 0xbb, 0x90, 0x4e, 0]);
    assert_eq!(decode_body::<TransformDeployRequest>(bytes.into(), 0), Ok(TransformDeployRequest::default()));
}

#[test]
fn produce_is_advertised_from_0_and_everything_else_as_it_is_served() {
    for listed in api_versions().api_keys {
        let api = ApiKey::from_code(listed.api_key).unwrap();
        let served = api.versions();
        let min = if api == ApiKey::Produce { 0 } else { *served.start() };
        assert_eq!((listed.min_version, listed.max_version), (min, *served.end()), "{api}");
    }
}
