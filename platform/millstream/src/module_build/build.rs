//! `module build`: compiles a guest project and leaves its components under `target/millstream`.

use std::{
    fs, io,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use millstream_model::ModuleKind;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    component::{self, ComponentError},
    toolchain::{self, ToolchainError},
};

/// What to build, and where to put it.
#[derive(Clone, Debug)]
pub(crate) struct BuildOptions {
    /// The project's folder: one module, or a workspace of several.
    pub(crate) dir: PathBuf,
    /// The folder that the components go to, made if it is missing. `None` is `millstream` in the project's target folder.
    pub(crate) out_dir: Option<PathBuf>,
}

/// A component that was built.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    /// The project's name, as in its `Cargo.toml`.
    pub(crate) name: String,
    /// Where the component is: `NAME.wasm`.
    pub(crate) path: PathBuf,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its SHA-256, by which brokers know it.
    pub(crate) digest: millstream_model::Digest,
    /// What it can be used for.
    pub(crate) kind: ModuleKind,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// Not a project's folder.
    #[error("{} has no Cargo.toml: name a module's folder, or make one with `millstream module new NAME --kind KIND`", .0.display())]
    NotAProject(PathBuf),
    /// No compiler.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// The compiler could not be run, or its words could not be read.
    #[error("cannot run cargo in {}", .dir.display())]
    Cargo {
        /// The project's folder.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The compiler has said why.
    #[error("{} does not compile ({status})", .dir.display())]
    Compile {
        /// The project's folder.
        dir: PathBuf,
        /// How cargo ended.
        status: ExitStatus,
    },
    /// Compiled, but there is no Wasm.
    #[error(
        "{} holds no module: no Cargo.toml of it has `[lib]` with `crate-type = [\"cdylib\"]`. Name a module's folder, or make one with \
         `millstream module new NAME --kind KIND`",
        .0.display()
    )]
    NoModule(PathBuf),
    /// Compiled to something that no broker would take.
    #[error("{name} is not a Millstream module")]
    Component {
        /// The project's name.
        name: String,
        /// The cause.
        source: ComponentError,
    },
    /// A file could not be read or written.
    #[error("cannot use {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Builds every module of a project, in the order of their names. The compiler's words go to standard error, as do none of ours:
/// `say` hears what takes long.
///
/// Each component appears under its name by a rename, so whoever reads it sees the old one or the new one.
///
/// # Errors
/// See [`BuildError`]. Components that were finished before the error stay.
pub(crate) fn build(options: &BuildOptions, say: &mut dyn FnMut(&str)) -> Result<Vec<Built>, BuildError> {
    let dir = match options.dir.canonicalize() {
        Ok(dir) if dir.join("Cargo.toml").is_file() => dir,
        _ => return Err(BuildError::NotAProject(options.dir.clone())),
    };
    if !has_module(&dir)? {
        return Err(BuildError::NoModule(options.dir.clone()));
    }
    let toolchain = toolchain::ensure(&dir, say)?;
    let artifacts = compile(toolchain, &dir)?;
    if artifacts.is_empty() {
        return Err(BuildError::NoModule(options.dir.clone()));
    }
    let mut built =
        artifacts.iter().map(|artifact| finish(artifact, options.out_dir.as_deref())).collect::<Result<Vec<_>, _>>()?;
    built.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(built)
}

/// Whether a project has something to build, before anything is installed or compiled. Where cargo cannot tell, its build will.
fn has_module(dir: &Path) -> Result<bool, BuildError> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        manifest_path: PathBuf,
        targets: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        crate_types: Vec<String>,
    }
    let told = toolchain::metadata(dir).map_err(|source| BuildError::Cargo { dir: dir.to_owned(), source })?;
    let Some(metadata) = told.and_then(|json| serde_json::from_slice::<Metadata>(&json).ok()) else { return Ok(true) };
    let modules = metadata.packages.iter().filter(|package| package.manifest_path.starts_with(dir));
    Ok(modules
        .flat_map(|package| &package.targets)
        .any(|target| target.crate_types.iter().any(|kind| kind == "cdylib")))
}

/// A core module that cargo has made.
#[derive(Debug, PartialEq, Eq)]
struct Artifact {
    manifest: PathBuf,
    wasm: PathBuf,
}

fn compile(toolchain: toolchain::Toolchain, dir: &Path) -> Result<Vec<Artifact>, BuildError> {
    let failed = |source| BuildError::Cargo { dir: dir.to_owned(), source };
    let mut cargo = toolchain.cargo(dir, "build");
    cargo.args(["--release", "--lib", "--message-format=json-render-diagnostics"]).stdout(Stdio::piped());
    let mut child = cargo.spawn().map_err(failed)?;
    let stdout: Box<dyn Read> = match child.stdout.take() {
        Some(stdout) => Box::new(stdout),
        None => Box::new(io::empty()),
    };
    let artifacts = BufReader::new(stdout)
        .lines()
        .filter_map(|line| line.map(|line| artifact(&line, dir)).transpose())
        .collect::<Result<Vec<_>, _>>();
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(BuildError::Compile { dir: dir.to_owned(), status });
    }
    artifacts.map_err(failed)
}

/// The module of the project in `dir` that a line of cargo's speaks of, if it speaks of one.
fn artifact(line: &str, dir: &Path) -> Option<Artifact> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        #[serde(default)]
        manifest_path: PathBuf,
        #[serde(default)]
        filenames: Vec<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        crate_types: Vec<String>,
    }
    let message: Message = serde_json::from_str(line).ok()?;
    let is_module = message.reason == "compiler-artifact"
        && message.manifest_path.starts_with(dir)
        && message.target?.crate_types.iter().any(|kind| kind == "cdylib");
    let wasm = message.filenames.into_iter().find(|file| file.extension().is_some_and(|end| end == "wasm"))?;
    is_module.then_some(Artifact { manifest: message.manifest_path, wasm })
}

/// Makes the component of one core module and puts it in its place.
fn finish(artifact: &Artifact, out_dir: Option<&Path>) -> Result<Built, BuildError> {
    let name = package_name(&artifact.manifest)?;
    let core = fs::read(&artifact.wasm).map_err(in_file(&artifact.wasm))?;
    let component = component::wrap(&core).map_err(|source| BuildError::Component { name: name.clone(), source })?;

    // target/wasm32-unknown-unknown/release/NAME.wasm
    let target_dir = artifact.wasm.ancestors().nth(3).unwrap_or(Path::new("target"));
    let out_dir = out_dir.map_or_else(|| target_dir.join("millstream"), Path::to_owned);
    fs::create_dir_all(&out_dir).map_err(in_file(&out_dir))?;
    let path = out_dir.join(format!("{name}.wasm"));
    let partial = out_dir.join(format!(".{name}.{}.part", std::process::id()));
    fs::write(&partial, &component.bytes).map_err(in_file(&partial))?;
    fs::rename(&partial, &path).map_err(in_file(&path))?;
    Ok(Built {
        name,
        path,
        bytes: component.bytes.len() as u64,
        digest: millstream_model::Digest(Sha256::digest(&component.bytes).into()),
        kind: component.kind,
    })
}

fn package_name(manifest: &Path) -> Result<String, BuildError> {
    #[derive(Deserialize)]
    struct Manifest {
        package: Package,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
    }
    let text = fs::read_to_string(manifest).map_err(in_file(manifest))?;
    let parsed: Manifest =
        toml::from_str(&text).map_err(|error| in_file(manifest)(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    Ok(parsed.package.name)
}

fn in_file(path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_project_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for dir in [dir.path().to_owned(), dir.path().join("absent")] {
            let refused = build(&BuildOptions { dir, out_dir: None }, &mut |_| {}).unwrap_err().to_string();
            assert!(refused.contains("has no Cargo.toml"), "{refused}");
        }
    }

    #[test]
    fn a_project_without_a_module_is_refused_before_anything_is_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = "[package]\nname = \"plain\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join("Cargo.toml"), manifest).unwrap();
        fs::write(dir.path().join("src/lib.rs"), "").unwrap();
        let mut said = Vec::new();
        let options = BuildOptions { dir: dir.path().to_owned(), out_dir: None };
        let refused = build(&options, &mut |words| said.push(words.to_owned())).unwrap_err();
        assert!(matches!(refused, BuildError::NoModule(_)), "{refused}");
        assert!(refused.to_string().contains("cdylib"), "{refused}");
        assert!(said.is_empty() && !dir.path().join("target").exists(), "{said:?}");
        let module = format!("{manifest}[lib]\ncrate-type = [\"cdylib\"]\n");
        fs::write(dir.path().join("Cargo.toml"), module).unwrap();
        assert!(has_module(&dir.path().canonicalize().unwrap()).unwrap());
    }

    #[test]
    fn only_the_projects_own_modules_are_taken_from_what_cargo_says() {
        let message = |reason: &str, manifest: &str, kind: &str, file: &str| {
            format!(
                r#"{{"reason":"{reason}","manifest_path":"{manifest}","target":{{"crate_types":["{kind}"]}},"filenames":["{file}"]}}"#
            )
        };
        let taken = |line: &str| artifact(line, Path::new("/p")).map(|artifact| artifact.wasm);
        assert_eq!(
            taken(&message("compiler-artifact", "/p/a/Cargo.toml", "cdylib", "/t/a.wasm")),
            Some("/t/a.wasm".into())
        );
        assert_eq!(taken(&message("compiler-artifact", "/p/a/Cargo.toml", "rlib", "/t/a.rlib")), None);
        assert_eq!(taken(&message("compiler-artifact", "/q/a/Cargo.toml", "cdylib", "/t/a.wasm")), None);
        assert_eq!(taken(&message("compiler-message", "/p/a/Cargo.toml", "cdylib", "/t/a.wasm")), None);
        assert_eq!(taken(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(taken("words"), None);
    }
}
