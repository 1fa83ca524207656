//! The log on standard error: what is told, and how that is changed while the program runs.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Registry, filter::LevelFilter, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::output;

/// What is logged unless `RUST_LOG` says otherwise: our own words, and only warnings of the libraries'. (Of one of openraft's, that
/// nobody waits for a step that it reports, no operator has any use.)
const SERVE_LOG: &str = "info,openraft=warn,openraft::raft::responder=error,sled=warn,quinn=warn,quinn_proto=warn,rustls=warn,wasmtime=warn,cranelift=warn";
/// Commands say what a person has to know: that a broker is lost, and there again.
const COMMAND_LOG: &str = "warn,millstream_client=info";

/// What `RUST_LOG` may be.
const RUST_LOG_TAKES: &str = "it takes a level (error, warn, info, debug, trace or off), or levels of parts, such as \
                              info,millstream_broker=debug";

/// What [`LogFilter::change`] takes, for those who got it wrong.
pub(crate) const ACCEPTED: &str = "a level (off, error, warn, info, debug, trace), or TARGET=LEVEL, or several of these with commas between them, such as \
                        info,millstream_log=debug";

/// Decides what is logged. Copies change the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter {
    at_start: String,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// Logs to standard error from now on. A broker's log has times and levels; of a command the words alone are for people, unless
    /// `RUST_LOG` asks for more. To be called once.
    pub(crate) fn start(serves: bool) -> Self {
        let asked = asked_for(serves);
        let plain = !serves && asked.is_none();
        let filter = asked.unwrap_or_else(|| EnvFilter::new(if serves { SERVE_LOG } else { COMMAND_LOG }));
        let at_start = filter.to_string();
        let (filter, handle) = reload::Layer::new(filter);
        let words = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        let log = tracing_subscriber::registry().with(filter);
        match plain {
            true => log.with(words.with_level(false).without_time()).init(),
            false => log.with(words).init(),
        }
        Self { at_start, handle }
    }

    /// What is logged now, as directives.
    pub(crate) fn now(&self) -> String {
        self.handle.with_current(EnvFilter::to_string).unwrap_or_default()
    }

    /// What was logged at first, to go back to.
    pub(crate) fn at_start(&self) -> &str {
        &self.at_start
    }

    /// Logs by these directives from now on, and by no others: what none of them names is not logged.
    ///
    /// # Errors
    /// Which directive makes no sense; then nothing changes.
    pub(crate) fn change(&self, directives: &str) -> Result<(), String> {
        let filter = parse(directives)?;
        // By the filter that there is: the next may keep silent.
        tracing::warn!(from = self.now(), to = %filter, "what is logged is changed");
        self.handle.reload(filter).map_err(|error| error.to_string())
    }
}

/// What `RUST_LOG` asks for, if it can be understood. A broker says at once if that leaves nothing of its own.
fn asked_for(serves: bool) -> Option<EnvFilter> {
    let words = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|words| !words.is_empty())?;
    match EnvFilter::try_new(&words) {
        Ok(filter) => {
            if serves && !reaches_us(&words) {
                output::say(format_args!("RUST_LOG={words} has nothing of the broker logged: {RUST_LOG_TAKES}"));
            }
            Some(filter)
        }
        Err(error) => {
            output::say(format_args!("RUST_LOG={words} is not understood ({error}) and passed over: {RUST_LOG_TAKES}"));
            None
        }
    }
}

/// Whether what `RUST_LOG` says has anything of ours logged, or says that nothing is to be: a word that is no level, such as
/// `verbose`, is taken for the name of some part.
fn reaches_us(words: &str) -> bool {
    words.split(',').map(str::trim).any(|word| {
        word.parse::<LevelFilter>().is_ok() || ["millstream", "module", "["].iter().any(|ours| word.starts_with(ours))
    })
}

/// Stricter than [`EnvFilter`], which takes `inof` for the name of something that is to be logged in full.
fn parse(directives: &str) -> Result<EnvFilter, String> {
    // The library takes no spaces.
    let directives: Vec<&str> = directives.split(',').map(str::trim).collect();
    for directive in &directives {
        let (target, level) = match directive.rsplit_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, *directive),
        };
        if !(level.eq_ignore_ascii_case("off") || (level.parse::<Level>().is_ok() && level.parse::<u8>().is_err())) {
            return Err(format!("{level:?} is no level"));
        }
        let named =
            |target: &str| !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
        if let Some(target) = target.filter(|target| !named(target)) {
            return Err(format!(
                "{target:?} is no target: a crate's name, or a module's such as millstream_log::commit"
            ));
        }
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_names_nothing_of_ours() {
        for words in ["info", "off", "quinn=debug,warn", "millstream_log=trace", "quinn=info, module=debug", "DEBUG"] {
            assert!(reaches_us(words), "{words}");
        }
        for words in ["verbose", "inof", "quinn=debug"] {
            assert!(!reaches_us(words), "{words}");
        }
    }

    #[test]
    fn levels_and_targets_with_levels_are_taken_and_nothing_else() {
        for text in [
            "info",
            "OFF",
            "info,millstream_log=debug",
            " warn , quinn=off\n",
            "millstream_log::commit=trace",
            SERVE_LOG,
        ] {
            assert!(parse(text).is_ok(), "{text:?}");
        }
        for (text, named) in [
            ("", "\"\""),
            ("inof", "inof"),
            ("info,", "\"\""),
            ("info;debug", "info;debug"),
            ("3", "\"3\""),
            ("millstream_log=", "\"\""),
            ("millstream_log=loud", "loud"),
            ("=info", "no target"),
            ("[span{key=(a*)*b}]=info", "no target"),
            ("a b=info", "a b"),
            ("{\"filter\":\"info\"}", "no level"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(named), "{text:?}: {refused}");
        }
    }
}
