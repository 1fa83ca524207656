//! What the operating system lets the process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Of the descriptors, this part is for segments; the rest for connections, modules and whatever else.
const SEGMENTS_PART: u64 = 2;

/// Raises the number of files that may be open to what the process may raise it to; gives how many of them may be segments.
///
/// The usual soft limit of 1024 is for programs that use `select`: it would be reached by a few hundred partitions.
pub(crate) fn raise_open_files() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "the number of open files stays limited");
            current
        }
    };
    let segments = raised.unwrap_or(u64::MAX) / SEGMENTS_PART;
    // More than these are no use: they are only those that are read or written at a time.
    usize::try_from(segments).unwrap_or(usize::MAX).clamp(16, 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_soft_limit_is_raised_to_the_hard_one() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum }).unwrap();
        let segments = raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
        assert!(segments >= 16 && maximum.is_none_or(|maximum| segments as u64 <= maximum.max(32) / 2), "{segments}");
    }
}
