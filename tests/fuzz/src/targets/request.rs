//! A request as any bytes: what is read of it costs no more than its bytes pay for, and is read again as it is written.

use bytes::Bytes;
use millstream_protocol::{Request, RequestHeader, decode_request, encode_request};

use super::{SEED_BYTES_MAX, decoded_bytes_max, samples};
use crate::memory;

pub(crate) fn run(input: &[u8]) {
    let frame = Bytes::copy_from_slice(input);
    let decoded = memory::bounded("a request", decoded_bytes_max(input.len()), || {
        decode_request(frame).map_err(|e| e.to_string())
    });
    let Ok((header, request)) = decoded else { return };
    assert!(header.api.versions().contains(&header.version), "{header:?} is not served");
    assert_eq!(header.api, request.api());
    let again = written(&header, &request);
    let (header_again, request_again) = decode_request(again.clone()).expect("a request that was just written");
    assert_eq!(header_again, header);
    assert_eq!(request_again, request);
    assert_eq!(written(&header, &request_again), again, "written twice, in two ways");
}

fn written(header: &RequestHeader, request: &Request) -> Bytes {
    let RequestHeader { version, correlation_id, ref client_id, .. } = *header;
    encode_request(version, correlation_id, client_id.as_deref(), request).expect("a request that was read").to_bytes()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    samples()
        .map(|(api, version, mut rng)| {
            let request = Request::sample(api, &mut rng);
            encode_request(version, 7, Some("fuzz"), &request).expect("a sample can be written").to_bytes().to_vec()
        })
        .filter(|frame| frame.len() <= SEED_BYTES_MAX)
        .collect()
}
