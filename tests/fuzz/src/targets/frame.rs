//! Frames out of any stream of bytes, however it is cut into pieces: those that are there, in order, then what is wrong.
//!
//! The input says how long a frame may be, how many frames are kept while the next are read, into what the bytes are cut, and then,
//! step by step, what is sent.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use millstream_env::Budget;
use millstream_model::limits::FRAME_BYTES_MAX;
use tokio::{
    io::{AsyncRead, ReadBuf},
    runtime::Runtime,
};

use super::random_choices;
use crate::{
    FrameError, Limits,
    choices::Choices,
    codec::{Assembly, FrameReader, ReadLimits},
    memory,
};

/// Where a frame no longer fits into what is read at a time.
const INBOX_BYTES: usize = 32 << 10;
/// What a large frame's buffer has at most before its bytes come.
const FIRST_BYTES: usize = 2 << 20;
/// Longer streams cost more time than they can tell.
const SENT_BYTES_MAX: usize = 4 << 20;
/// Steps that send many bytes are cut into pieces of this size at least.
const CUT_BYTES_MAX: usize = 4 << 10;

const LENGTHS_MAX: [usize; 5] = [16, 3000, 40_000, 1 << 20, FRAME_BYTES_MAX];
const LENGTHS: [usize; 8] =
    [1, 17, INBOX_BYTES - 5, INBOX_BYTES - 4, INBOX_BYTES - 3, 100_000, FIRST_BYTES, FIRST_BYTES + 1];

thread_local! {
    /// For its timers, none of which fires.
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// What the peer sends, piece by piece; an empty one is a pause.
struct Pieces(VecDeque<Bytes>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(piece) = self.0.front_mut() else { return Poll::Ready(Ok(())) };
        let paused = piece.is_empty();
        buffer.put_slice(&piece.split_to(piece.len().min(buffer.remaining())));
        if piece.is_empty() {
            self.0.pop_front();
        }
        if paused { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let frame_bytes_max = LENGTHS_MAX[choices.below(LENGTHS_MAX.len())];
    let kept_max = choices.below(4);
    let (pieces, sent) = script(choices);
    let budget = Budget::new(frame_bytes_max);
    let limits = Limits {
        frame_bytes_max,
        assembly_bytes_max: frame_bytes_max,
        budget: budget.clone(),
        frame_timeout: Duration::from_secs(24 * 3600),
        ..Limits::default()
    };
    // A buffer grows to twice what has come, and what is kept was sent.
    let bytes_max = FIRST_BYTES + 2 * INBOX_BYTES + 4 * sent.len() + (16 << 10);
    RUNTIME.with(|runtime| {
        let _timers = runtime.enter();
        memory::bounded("a reader of frames", bytes_max, || read(pieces, &sent, &limits, kept_max));
    });
    assert_eq!(budget.free_bytes(), budget.total_bytes(), "a share was not given back");
}

/// Reads all there is, and compares it with what was sent.
fn read(pieces: Pieces, sent: &[u8], limits: &Limits, kept_max: usize) {
    // Each pause may leave the reader waiting, and each frame for one that is kept.
    let mut patience = 2 * pieces.0.len() + sent.len() / 5 + 16;
    let mut expected = Expected { rest: sent, max: limits.frame_bytes_max };
    let mut reader = FrameReader::new(pieces, ReadLimits::new(limits, Assembly::new(limits), None));
    let mut kept = VecDeque::new();
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        patience = patience.checked_sub(1).expect("a reader that goes on");
        match Pin::new(&mut reader).poll_next(&mut cx) {
            Poll::Pending => drop(kept.pop_front()),
            Poll::Ready(Some(Ok(frame))) => {
                assert_eq!(expected.next(), Some(Ok(&frame[..])));
                kept.push_back(frame);
                if kept.len() > kept_max {
                    kept.pop_front();
                }
            }
            Poll::Ready(Some(Err(error))) => {
                let error = error.get_ref().and_then(|error| error.downcast_ref::<FrameError>());
                let error = error.expect("an error of frames").clone();
                let _ = error.to_string();
                // What other protocol it looks like is for people.
                let error = match error {
                    FrameError::Length { announced, max, .. } => FrameError::Length { announced, max, hint: "" },
                    other => other,
                };
                assert_eq!(expected.next(), Some(Err(error)));
                let after = Pin::new(&mut reader).poll_next(&mut cx);
                assert!(matches!(after, Poll::Ready(None)), "an error is the end");
                return;
            }
            Poll::Ready(None) => {
                assert_eq!(expected.next(), None);
                return;
            }
        }
    }
}

/// What a stream of these bytes has to give, in order.
struct Expected<'a> {
    rest: &'a [u8],
    max: usize,
}

impl<'a> Iterator for Expected<'a> {
    type Item = Result<&'a [u8], FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let received = self.rest.len();
        if received == 0 {
            return None;
        }
        let Some((length, after)) = self.rest.split_first_chunk::<4>() else {
            return Some(Err(FrameError::Cut { received, expected: 4 }));
        };
        let announced = i32::from_be_bytes(*length);
        if announced < 1 || announced as usize > self.max {
            return Some(Err(FrameError::Length { announced, max: self.max, hint: "" }));
        }
        let Some((frame, rest)) = after.split_at_checked(announced as usize) else {
            return Some(Err(FrameError::Cut { received, expected: 4 + announced as usize }));
        };
        self.rest = rest;
        Some(Ok(frame))
    }
}

/// What is sent, in pieces and as a whole.
fn script(mut choices: Choices<'_>) -> (Pieces, Vec<u8>) {
    let mut pieces = VecDeque::new();
    let mut sent = Vec::new();
    let cut = match choices.byte() {
        0 => usize::MAX,
        bytes => usize::from(bytes),
    };
    while !choices.is_empty() && sent.len() < SENT_BYTES_MAX {
        let begin = sent.len();
        match choices.below(6) {
            0 => {
                let length = choices.byte().into();
                sent.extend(choices.bytes(length));
            }
            1 => pieces.push_back(Bytes::new()),
            2 => sent.extend(choices.int().to_be_bytes()),
            3 => fill(&mut sent, choices.short().into()),
            4 => frame(&mut sent, choices.short().into()),
            _ => frame(&mut sent, LENGTHS[choices.below(LENGTHS.len())]),
        }
        let step = Bytes::copy_from_slice(&sent[begin..]);
        let cut = if step.len() > CUT_BYTES_MAX { cut.max(CUT_BYTES_MAX) } else { cut };
        pieces.extend(step.chunks(cut).map(|piece| step.slice_ref(piece)));
    }
    (Pieces(pieces), sent)
}

fn frame(sent: &mut Vec<u8>, length: usize) {
    sent.extend((length as i32).to_be_bytes());
    fill(sent, length);
}

/// Bytes that are not those at another place.
fn fill(sent: &mut Vec<u8>, length: usize) {
    static FILL: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..SENT_BYTES_MAX + 2 * FIRST_BYTES).map(|at| (at * 31 % 251) as u8).collect());
    let at = sent.len();
    sent.extend_from_slice(&FILL[at..at + length]);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = random_choices(100, 100);
    for max in 0..LENGTHS_MAX.len() as u8 {
        for cut in [0, 1, 3, 255] {
            let start = [max, 1, cut];
            // Every length on its own, and all small ones together with a pause between them.
            seeds.extend((0..LENGTHS.len() as u8).map(|length| [&start[..], &[5, length]].concat()));
            seeds.push([&start[..], &[5, 0, 1, 5, 1, 4, 0, 16, 4, 1, 0, 1, 5, 2, 5, 3, 5, 4]].concat());
            // Announced and not sent, half sent, nothing legal.
            for announced in [0, 1, 16, 17, 3000, 40_000, 1 << 20, i32::MAX, -1, i32::MIN] {
                let announced = announced.to_be_bytes();
                seeds.push([&start[..], &[4, 0, 3, 2], &announced, &[0, 3, 1, 2, 3]].concat());
                seeds.push([&start[..], &[2], &announced, &[3, 0, 100, 1]].concat());
            }
        }
    }
    seeds
}
