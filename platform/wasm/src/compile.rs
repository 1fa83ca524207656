//! Compiles modules: in a child process with limits of its own, because the compiler can be made to take unbounded time and
//! memory.
//!
//! The child is the broker's own executable with the argument [`COMPILE_ARGUMENT`], which calls [`compile_main`]. It takes
//! the module on its standard input and gives the image on its standard output; words for a person go to standard error.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use bytes::Bytes;
use millstream_env::Env;
use millstream_model::limits::MODULE_BYTES_MAX;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    engine::{EngineMode, engine_hash, new_engine},
    images::IMAGE_BYTES_MAX,
    text,
};

/// The hidden argument with which the binary becomes a compiler.
pub const COMPILE_ARGUMENT: &str = "compile-module";
/// Address space of the compiler, bytes.
pub const COMPILE_MEMORY_BYTES: u64 = 1 << 30;
/// Processor time of the compiler, seconds.
pub const COMPILE_CPU_SECONDS: u64 = 120;

/// Who compiles.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// A child process: `program`, `arguments`, then what [`compile_main`] takes.
    Child {
        /// The executable.
        program: PathBuf,
        /// What comes before the compiler's own arguments.
        arguments: Vec<OsString>,
    },
    /// This process, without bounds on time and memory: for tests, for a person's own modules, and for those that a client's broker hands
    /// out (which has compiled them before, within bounds).
    InProcess,
}

impl Compiler {
    /// A child that runs this very executable, even if its file was replaced meanwhile.
    #[must_use]
    pub fn this_executable() -> Self {
        Self::Child { program: "/proc/self/exe".into(), arguments: vec![COMPILE_ARGUMENT.into()] }
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler says no.
    #[error("{reason}")]
    Rejected {
        /// Its words.
        reason: String,
    },
    /// It takes more processor time than it may.
    #[error("compiling takes more than {COMPILE_CPU_SECONDS} seconds of processor time: make its functions smaller")]
    Time,
    /// It takes more memory than it may, or crashes the compiler.
    #[error("compiling takes more than {} MiB of memory or crashes the compiler ({status})", COMPILE_MEMORY_BYTES >> 20)]
    Memory {
        /// How the compiler ended.
        status: String,
    },
    /// The compiler could not be run.
    #[error("the compiler could not be run: {reason}")]
    Host {
        /// What failed.
        reason: String,
    },
}

impl CompileError {
    pub(crate) fn is_retriable(&self) -> bool {
        matches!(self, Self::Host { .. })
    }
}

/// Compiles a module that passed [`crate::inspect::check`]. Dropping the future kills the child.
pub(crate) async fn compile(
    compiler: &Compiler,
    engine: &wasmtime::Engine,
    mode: EngineMode,
    env: &Env,
    module: Bytes,
) -> Result<Vec<u8>, CompileError> {
    match compiler {
        Compiler::Child { program, arguments } => compile_in_child(program, arguments, engine, mode, &module).await,
        Compiler::InProcess => {
            let engine = engine.clone();
            crate::blocking(env, "wasm-compile", move || precompile(&engine, &module))
                .await
                .unwrap_or_else(|| Err(CompileError::Host { reason: "it was stopped".into() }))
        }
    }
}

fn precompile(engine: &wasmtime::Engine, module: &[u8]) -> Result<Vec<u8>, CompileError> {
    engine.precompile_component(module).map_err(|error| CompileError::Rejected { reason: words(&error) })
}

/// An engine's error in one line, causes included.
pub(crate) fn words(error: &wasmtime::Error) -> String {
    text::clean(&format!("{error:#}"), 1000)
}

async fn compile_in_child(
    program: &Path,
    arguments: &[OsString],
    engine: &wasmtime::Engine,
    mode: EngineMode,
    module: &[u8],
) -> Result<Vec<u8>, CompileError> {
    let host = |step: &str, error: io::Error| CompileError::Host { reason: format!("{step}: {error}") };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .arg(mode.as_str())
        .arg(engine_hash(engine).to_string())
        // Each arena and each thread takes address space, of which there is little.
        .env("MALLOC_ARENA_MAX", "2")
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| host("start", error))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(CompileError::Host { reason: "it has no pipes".into() });
    };
    let write = async move {
        // A child that ended early says why by its status: that its input was not taken adds nothing.
        let _ = stdin.write_all(module).await;
        drop(stdin);
    };
    let mut image = Vec::new();
    let mut complaint = Vec::new();
    let (mut stdout, mut stderr) = (stdout.take(IMAGE_BYTES_MAX), stderr.take(64 << 10));
    let read_image = stdout.read_to_end(&mut image);
    let read_complaint = stderr.read_to_end(&mut complaint);
    let ((), read, _) = tokio::join!(write, read_image, read_complaint);
    read.map_err(|error| host("read", error))?;
    drop((stdout, stderr));
    let status = child.wait().await.map_err(|error| host("wait", error))?;
    let complaint = text::clean(String::from_utf8_lossy(&complaint).trim(), 1000);
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(image),
        (Some(EXIT_REJECTED), _) => Err(CompileError::Rejected { reason: complaint }),
        (_, Some(SIGXCPU)) => Err(CompileError::Time),
        // Its own limits end it otherwise: somebody had to kill it, as the kernel does when the machine has no memory left.
        (_, Some(SIGKILL)) => Err(CompileError::Host { reason: "it was killed; is the machine out of memory?".into() }),
        (_, Some(_)) => Err(CompileError::Memory { status: status.to_string() }),
        _ => Err(CompileError::Host { reason: format!("{status}: {complaint}") }),
    }
}

const EXIT_REJECTED: i32 = 3;
const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;

/// What the binary does when its first argument is [`COMPILE_ARGUMENT`]; `arguments` are those after it. Limits itself
/// before it reads anything, and must run before other threads are started.
#[must_use]
pub fn compile_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    match compile_stdin(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CompileError::Rejected { reason }) => {
            let _ = writeln!(io::stderr(), "{reason}");
            ExitCode::from(EXIT_REJECTED as u8)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn compile_stdin(arguments: &[String]) -> Result<(), CompileError> {
    let host = |reason: String| CompileError::Host { reason };
    let [mode, expected] = arguments else {
        return Err(host(format!("usage: {COMPILE_ARGUMENT} MODE ENGINE-HASH <MODULE >IMAGE")));
    };
    let mode = EngineMode::from_name(mode).ok_or_else(|| host(format!("unknown mode {mode:?}")))?;
    limit_this_process().map_err(|error| host(format!("limit: {error}")))?;
    let engine = new_engine(mode, None).map_err(|error| host(words(&error)))?;
    if engine_hash(&engine).to_string() != *expected {
        return Err(host("it is not the compiler of this broker: was the executable exchanged?".into()));
    }
    let mut module = Vec::new();
    io::stdin()
        .take(MODULE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut module)
        .map_err(|error| host(format!("read: {error}")))?;
    let image = precompile(&engine, &module)?;
    io::stdout().write_all(&image).map_err(|error| host(format!("write: {error}")))
}

fn limit_this_process() -> io::Result<()> {
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    // Those who produce and consume go before those who wait for a compiler.
    rustix::process::nice(10)?;
    setrlimit(Resource::As, both(COMPILE_MEMORY_BYTES))?;
    setrlimit(Resource::Core, both(0))?;
    // The soft limit's signal says why; the hard one makes sure.
    setrlimit(Resource::Cpu, Rlimit { current: Some(COMPILE_CPU_SECONDS), maximum: Some(COMPILE_CPU_SECONDS + 2) })?;
    Ok(())
}
