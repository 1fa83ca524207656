//! Frames: a header and one message, as they follow a transport's length prefix.
//!
//! ```text
//! request:  i16 api key, i16 version, i32 correlation id, nullable string client id, [tags], body
//! response: i32 correlation id, [tags], body
//! ```
//!
//! The tags are there from the message's first flexible version on, except in the answer to ApiVersions, which must be
//! readable by a client that does not know yet what the broker speaks.

use std::sync::Arc;

use bytes::Bytes;
use millstream_env::Frame;
use millstream_model::limits::PARAMS_BYTES_MAX;

use crate::{
    ApiKey, ErrorCode, Request, Response,
    codec::{DecodeError, EncodeError, Field, Reader, STRING_BYTES_MAX, Writer},
};

/// What precedes a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The api.
    pub api: ApiKey,
    /// The message's version; one that is served.
    pub version: i16,
    /// What the answer must repeat.
    pub correlation_id: i32,
    /// The client's name for itself, at most 32,767 bytes; not to be trusted.
    pub client_id: Option<Arc<str>>,
}

/// The header's fixed part: all that can be relied on in a request of unknown version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestPrefix {
    pub(crate) api_key: i16,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
}

impl RequestPrefix {
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { api_key: Field::read(reader)?, version: Field::read(reader)?, correlation_id: Field::read(reader)? })
    }
}

/// Reads a request. Byte strings in it are slices of `frame`.
///
/// # Errors
/// [`DecodeError::Api`] and [`DecodeError::Version`] for what is not served, others for what is malformed. Bytes after the request are
/// an error in our own requests, and ignored in Kafka's.
pub fn decode_request(frame: Bytes) -> Result<(RequestHeader, Request), DecodeError> {
    let mut reader = Reader::new(frame);
    let prefix = RequestPrefix::read(&mut reader)?;
    read_request(reader, prefix, None)
}

/// Reads what follows the prefix. `client_id`, the session's last, is shared when it is the same again.
pub(crate) fn read_request(
    mut reader: Reader,
    prefix: RequestPrefix,
    client_id: Option<&Arc<str>>,
) -> Result<(RequestHeader, Request), DecodeError> {
    let RequestPrefix { api_key, version, correlation_id } = prefix;
    let api = ApiKey::from_code(api_key).ok_or(DecodeError::Api { api_key })?;
    if !api.versions().contains(&version) {
        return Err(DecodeError::Version { message: api.name(), version });
    }
    // Parameters of modules may be longer than what Kafka has strings for.
    reader.limit_request(if api.is_extension() { PARAMS_BYTES_MAX } else { STRING_BYTES_MAX });
    let client_id = match reader.string_length()? {
        None => None,
        Some(length) => {
            let text = reader.text(length)?;
            Some(client_id.filter(|last| ***last == *text).map_or_else(|| text.into(), Arc::clone))
        }
    };
    if version >= api.flexible_from() {
        reader.tagged(|_, _| Ok(false))?;
    }
    let mut request = Request::read(api, version, &mut reader)?;
    // librdkafka, when it asks about all topics, leaves three bytes behind its request (its issue 5049), and Kafka's brokers do
    // not look there. Of our own requests there are no clients of old.
    if api.is_extension() {
        reader.finish()?;
    }
    if let (Request::Metadata(metadata), 0) = (&mut request, version) {
        metadata.topics = metadata.topics.take().filter(|topics| !topics.is_empty());
    }
    Ok((RequestHeader { api, version, correlation_id, client_id }, request))
}

/// Writes an answer. Record bytes become parts of the frame without a copy.
///
/// # Errors
/// [`EncodeError::Api`] for an answer of another api, [`EncodeError::TooLong`].
pub fn encode_response(header: &RequestHeader, response: &Response) -> Result<Frame, EncodeError> {
    if header.api != response.api() {
        return Err(EncodeError::Api { request: header.api.name(), response: response.api().name() });
    }
    let mut writer = Writer::new();
    header.correlation_id.write(&mut writer);
    if response_header_has_tags(header.api, header.version) {
        writer.uvarint(0);
    }
    response.write(header.version, &mut writer)?;
    writer.finish()
}

/// Writes a request: the client's side of [`decode_request`].
///
/// # Errors
/// [`EncodeError::Version`], [`EncodeError::TooLong`].
pub fn encode_request(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &Request,
) -> Result<Frame, EncodeError> {
    let api = request.api();
    let mut writer = Writer::new();
    api.code().write(&mut writer);
    version.write(&mut writer);
    correlation_id.write(&mut writer);
    writer.string_length(client_id.map(str::len));
    writer.put(client_id.unwrap_or_default().as_bytes());
    if version >= api.flexible_from() {
        writer.uvarint(0);
    }
    request.write(version, &mut writer)?;
    writer.finish()
}

/// Reads the answer to a request of this api and version: its correlation id and body. Byte strings in it are slices of
/// `frame`. An ApiVersions answer that says [`ErrorCode::UnsupportedVersion`] is read as version 0, which it is.
///
/// # Errors
/// [`DecodeError`] for what is malformed.
pub fn decode_response(api: ApiKey, version: i16, frame: Bytes) -> Result<(i32, Response), DecodeError> {
    let refused = api == ApiKey::ApiVersions
        && frame.get(4..6).is_some_and(|code| *code == ErrorCode::UnsupportedVersion.code().to_be_bytes());
    let version = if refused { 0 } else { version };
    let mut reader = Reader::new(frame);
    let correlation_id = i32::read(&mut reader)?;
    if response_header_has_tags(api, version) {
        reader.tagged(|_, _| Ok(false))?;
    }
    let response = Response::read(api, version, &mut reader)?;
    reader.finish()?;
    Ok((correlation_id, response))
}

fn response_header_has_tags(api: ApiKey, version: i16) -> bool {
    version >= api.flexible_from() && api != ApiKey::ApiVersions
}
