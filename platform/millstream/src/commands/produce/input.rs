//! Lines of a file or of standard input, read on a thread of their own and handed over a chunk at a time.
//!
//! A chunk is what one read has brought, so that lines typed by a person go out as they are typed.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    thread,
};

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use millstream_model::limits::BATCH_BYTES_MAX;
use tokio::sync::mpsc;

/// Read at a time, bytes.
const READ_BYTES: usize = 256 << 10;
/// Chunks that may wait to be sent.
const CHUNKS_WAITING: usize = 4;
/// Longest line, bytes: no record can be larger.
const LINE_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// Whole lines; every one but the last of the input ends with a line feed.
pub(crate) type Chunk = anyhow::Result<Bytes>;

/// Opens the input and starts to read it. Reading stops when the receiver is dropped; a read that waits for standard input
/// goes on until the process ends.
pub(crate) fn start(path: Option<&Path>) -> anyhow::Result<mpsc::Receiver<Chunk>> {
    let input: Box<dyn Read + Send> = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => Box::new(open(path).with_context(|| format!("cannot read the input {}", path.display()))?),
        None => Box::new(io::stdin()),
    };
    let name = path.map_or("standard input".to_owned(), |path| path.display().to_string());
    let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING);
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            let done = read(input, LINE_BYTES_MAX, |chunk| chunks.blocking_send(Ok(chunk)).is_ok());
            if let Err(error) = done.with_context(|| format!("cannot read the input {name}")) {
                // The receiver may be gone: then nobody wants to know.
                let _ = chunks.blocking_send(Err(error));
            }
        })
        .context("cannot start a thread")?;
    Ok(receiver)
}

fn open(path: &Path) -> anyhow::Result<File> {
    let file = File::open(path)?;
    // Opening a folder works; reading it does not, and says so in the operating system's words.
    ensure!(
        !file.metadata()?.is_dir(),
        "it is a folder: name a file, or give `-` and pipe several into it (`cat FOLDER/* | ...`)"
    );
    Ok(file)
}

/// Reads to the end, or until `take` has had enough.
fn read(mut input: impl Read, line_bytes_max: usize, mut take: impl FnMut(Bytes) -> bool) -> anyhow::Result<()> {
    let mut pending = BytesMut::new();
    let mut lines = 1_u64;
    loop {
        let had = pending.len();
        pending.resize(had + READ_BYTES, 0);
        let read = loop {
            match input.read(&mut pending[had..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        pending.truncate(had + read);
        // Only what is new can hold the end of a line.
        let end = match pending[had..].iter().rposition(|byte| *byte == b'\n') {
            Some(at) => had + at + 1,
            None if read == 0 => had,
            None if pending.len() > line_bytes_max => {
                anyhow::bail!("line {lines} is longer than {line_bytes_max} bytes, the most that a record can have");
            }
            None => continue,
        };
        let chunk = pending.split_to(end).freeze();
        lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        if (!chunk.is_empty() && !take(chunk)) || read == 0 {
            return Ok(());
        }
    }
}

/// The lines of a chunk, without their line feeds, sharing its memory.
pub(crate) fn lines(chunk: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let mut rest = chunk.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = rest.split_to(end.unwrap_or(rest.len()));
        if end.is_some() {
            drop(rest.split_to(1));
        }
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its parts one read at a time.
    struct Parts(Vec<&'static [u8]>);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            buffer[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    fn chunks(parts: &[&'static [u8]]) -> Vec<Vec<Bytes>> {
        let mut chunks = Vec::new();
        read(Parts(parts.to_vec()), 64, |chunk| {
            chunks.push(lines(&chunk).collect());
            true
        })
        .unwrap();
        chunks
    }

    #[test]
    fn lines_are_found_however_the_input_is_cut() {
        let check = |parts: &[&'static [u8]], expected: &[&[&str]]| assert_eq!(chunks(parts), expected, "{parts:?}");
        check(&[], &[]);
        check(&[b"a\nb\n"], &[&["a", "b"]]);
        check(&[b"a\nb"], &[&["a"], &["b"]]);
        check(&[b"a", b"b", b"\nc"], &[&["ab"], &["c"]]);
        check(&[b"\n", b"\n\n"], &[&[""], &["", ""]]);
        check(&[b"a\r\n"], &[&["a\r"]]);
    }

    #[test]
    fn a_line_without_end_is_refused_by_its_number() {
        let parts: Vec<&'static [u8]> = vec![b"a\nb\n", &[b'x'; 60], &[b'x'; 5]];
        let refused = read(Parts(parts), 64, |_| true).unwrap_err().to_string();
        assert!(refused.contains("line 3"), "{refused}");
    }

    #[test]
    fn a_folder_is_no_input() {
        let folder = tempfile::tempdir().unwrap();
        let refused = format!("{:#}", start(Some(folder.path())).unwrap_err());
        assert!(refused.contains("it is a folder: name a file"), "{refused}");
    }

    #[test]
    fn reading_stops_when_nobody_wants_more() {
        let mut taken = 0;
        read(Parts(vec![b"a\n", b"b\n"]), 64, |_| {
            taken += 1;
            false
        })
        .unwrap();
        assert_eq!(taken, 1);
    }
}
