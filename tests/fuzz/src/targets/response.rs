//! An answer as any bytes, to a request of any api and version: as for requests.
//!
//! ```text
//! u8 which api, u8 which of its versions, then the answer's frame
//! ```

use bytes::Bytes;
use millstream_protocol::{
    ApiKey, ErrorCode, RequestHeader, Response, decode_response, encode_response, session::Versions,
};

use super::{SEED_BYTES_MAX, decoded_bytes_max, samples};
use crate::{choices::Choices, memory};

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let api = ApiKey::ALL[choices.below(ApiKey::ALL.len())];
    let versions = api.versions();
    let asked = *versions.start() + choices.below(versions.count()) as i16;
    let frame = Bytes::copy_from_slice(choices.bytes(input.len()));
    let decoded = memory::bounded("an answer", decoded_bytes_max(frame.len()), || {
        decode_response(api, asked, frame).map_err(|e| e.to_string())
    });
    let Ok((correlation_id, response)) = decoded else { return };
    assert_eq!(response.api(), api);
    let mut version = asked;
    let tells_error = response.tells_error();
    if let Response::ApiVersions(answer) = &response {
        let _ = Versions::from_response(answer);
        // Such an answer is version 0, whatever was asked.
        if answer.error_code == ErrorCode::UnsupportedVersion {
            version = 0;
            assert!(tells_error);
        }
    }
    let header = RequestHeader { api, version, correlation_id, client_id: None };
    let again = encode_response(&header, &response).expect("an answer that was read").to_bytes();
    let (correlation_id_again, response_again) =
        decode_response(api, version, again.clone()).expect("an answer that was just written");
    assert_eq!(correlation_id_again, correlation_id);
    assert_eq!(response_again, response);
    let twice = encode_response(&header, &response_again).expect("an answer that was read").to_bytes();
    assert_eq!(twice, again, "written twice, in two ways");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    samples()
        .map(|(api, version, mut rng)| {
            let response = Response::sample(api, &mut rng);
            let header = RequestHeader { api, version, correlation_id: 7, client_id: None };
            let frame = encode_response(&header, &response).expect("a sample can be written").to_bytes();
            let which = ApiKey::ALL.iter().position(|other| *other == api).expect("all are there");
            [&[which as u8, (version - api.versions().start()) as u8], &frame[..]].concat()
        })
        .filter(|input| input.len() <= SEED_BYTES_MAX)
        .collect()
}
