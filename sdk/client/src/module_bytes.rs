//! A module's bytes, downloaded in parts and checked: whoever hands them out is believed in nothing.

use bytes::{Bytes, BytesMut};
use millstream_model::Digest;
use millstream_protocol::{ErrorCode, extension::modules::ModuleReadRequest};
use sha2::{Digest as _, Sha256};

use crate::{
    CallError,
    cluster::{Cluster, Target},
};

/// Bytes that are asked for at a time. A broker may give less.
const PART_BYTES: usize = 1 << 20;

/// Downloads the bytes that have this digest, `bytes_max` at most. `what` they are, for people.
///
/// No more memory is taken than bytes have come, and there are no more than `bytes_max` of them, whatever a broker says.
///
/// # Errors
/// There is no such module; the broker does not hand out modules; it has more bytes than it may, or other bytes.
pub(crate) async fn download(
    cluster: &Cluster,
    what: &str,
    digest: Digest,
    bytes_max: usize,
) -> Result<Bytes, CallError> {
    let refuse = |detail: String| Err(CallError::refused(what, ErrorCode::ModuleRefused, Some(&detail)));
    let mut got = BytesMut::new();
    let size = loop {
        let max_bytes = i32::try_from(PART_BYTES).unwrap_or(i32::MAX);
        let offset = i64::try_from(got.len()).unwrap_or(i64::MAX);
        let part = cluster.ask(Target::Any, ModuleReadRequest { digest, offset, max_bytes }).await?;
        CallError::check(what, part.error_code, part.error_message.as_deref())?;
        let Some(size) = usize::try_from(part.size_bytes).ok().filter(|size| *size <= bytes_max) else {
            return refuse(format!("it has {} bytes; {bytes_max} are allowed here", part.size_bytes));
        };
        if part.bytes.is_empty() || part.bytes.len() > PART_BYTES || part.bytes.len() > size.saturating_sub(got.len()) {
            return refuse(format!("a part of {} bytes at {offset} of {size} was handed out", part.bytes.len()));
        }
        got.extend_from_slice(&part.bytes);
        if got.len() == size {
            break size;
        }
    };
    let actual = Digest(Sha256::digest(&got).into());
    if actual != digest {
        return refuse(format!("its {size} bytes have the digest {actual}, not {digest}: it was damaged or exchanged"));
    }
    Ok(got.freeze())
}
