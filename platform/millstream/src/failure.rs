//! How a command ends: the exit code, and what a person reads when it failed.

use std::{error::Error, io, io::Write, process::ExitCode};

/// Refused or failed.
const FAILED: u8 = 1;
/// Bad usage.
const USAGE: u8 = 2;

/// Words that make no sense together, found after they were parsed one by one.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see --help")]
pub(crate) struct Usage(pub(crate) String);

/// Words that make no sense by themselves, where the text says what would.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

/// Whoever read our output has had enough: no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct OutputClosed;

/// Something of Kafka's or of the command line's that this version does not have.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not built yet: {instead}")]
pub(crate) struct NotBuilt {
    what: String,
    instead: &'static str,
}

impl NotBuilt {
    /// `instead` says what can be done today.
    pub(crate) fn new(what: impl Into<String>, instead: &'static str) -> Self {
        Self { what: what.into(), instead }
    }
}

/// What an error of standard output means.
pub(crate) fn output_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    }
}

/// Says what went wrong, if anything did.
pub(crate) fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let error = match result {
        Err(error) if !error.is::<OutputClosed>() => error,
        _ => return ExitCode::SUCCESS,
    };
    // There is nobody left to tell should this fail.
    let _ = writeln!(io::stderr(), "error: {}", printable(&explain(error.as_ref())));
    ExitCode::from(if error.is::<Usage>() || error.is::<Malformed>() { USAGE } else { FAILED })
}

/// A text in which nothing moves the cursor or colours the screen: names of files, topics and records come from anywhere.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\t' => shown.push(letter),
            letter if letter.is_control() => shown.extend(letter.escape_default()),
            letter => shown.push(letter),
        }
    }
    shown
}

/// An error with its causes, without those that the text before them has told already.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        next = cause.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let check = |error: anyhow::Error, expected: &str| assert_eq!(explain(error.as_ref()), expected);
        check(anyhow!("no such file").context("cannot read x"), "cannot read x: no such file");
        check(anyhow!("no such file").context("cannot read x: no such file"), "cannot read x: no such file");
        check(anyhow!("a").context("b").context("c"), "c: b: a");
    }

    #[test]
    fn what_would_move_the_cursor_is_shown_as_what_it_is() {
        let told = printable("it holds other things (a\u{1b}[31mred\u{1b}[0m\r\u{9b}2J):\n\tchoose é");
        assert_eq!(told, "it holds other things (a\\u{1b}[31mred\\u{1b}[0m\\r\\u{9b}2J):\n\tchoose é");
    }

    #[test]
    fn exit_codes_tell_usage_from_failure_and_a_closed_pipe_is_none() {
        let code = |error: anyhow::Error| format!("{:?}", exit_code(Err(error)));
        assert_eq!(format!("{:?}", exit_code(Ok(()))), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(output_error(io::ErrorKind::BrokenPipe.into())), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(Usage("x".into()).into()), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(Malformed("x".into()).into()), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(NotBuilt::new("x", "y").into()), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(output_error(io::ErrorKind::StorageFull.into())), format!("{:?}", ExitCode::from(1)));
    }
}
