//! `millstream module`: the user's own code, from a new project to the broker.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use millstream_client::{ModuleDescribeResponse, ModuleInfo};
use millstream_model::{ModuleRef, limits::MODULE_BYTES_MAX};
use serde::Serialize;
use serde_json::json;

use super::{
    connect::{connect, connect_to_compile},
    not_built,
};
use crate::{
    failure::Malformed,
    flags::{Common, Form, Unasked},
    module_build::{
        build::{BuildOptions, Built, build},
        scaffold::{self, Language, NewModule, ProjectKind},
    },
    output::{Details, Table, counted, joined, say},
    time::format_rfc3339,
};

/// What to do with modules.
#[derive(Debug, Subcommand)]
pub(crate) enum Module {
    /// Make a project for a module, in a new folder.
    New(New),
    /// Compile a project to a module.
    Build(Build),
    #[command(hide = true, disable_help_flag = true)]
    Test(not_built::Words),
    /// Upload a module under a name and a version, which then mean these bytes until it is deleted.
    Push(Push),
    /// Download a module's bytes into a file.
    Pull(Pull),
    /// List the modules, all or those of one name.
    List(List),
    /// Show one module; without a version the one that was pushed last.
    Describe(Describe),
    /// Delete a module that no topic, view or transform uses.
    Delete(Delete),
}

/// A project to make.
#[derive(Debug, Args)]
#[command(after_help = "\
A view is made of filters and mappers, a transform of a mapper; `--kind view` makes a filter, `--kind transform` a mapper. \
`module build` and `module push` tell what a module is and what it serves.

Examples:
  millstream module new marker --kind transform
  millstream module new eu-only --kind view")]
pub(crate) struct New {
    /// The module's name, and its folder's.
    name: String,
    /// What the module is to be.
    #[arg(long, value_enum)]
    kind: Kind,
    /// What it is to be written in.
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    unasked: Unasked,
}

/// What a module is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Chooses each record's partition.
    Partitioner,
    /// Shows some of a topic (a filter).
    View,
    /// Turns topics into topics.
    Transform,
}

/// What a module is to be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    /// With the guest library.
    Rust,
}

/// A project to compile.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream module build marker --out modules
  millstream module build")]
pub(crate) struct Build {
    /// The project's folder: one module, or a workspace of several.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where the modules go; the project's target/millstream if left out.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    unasked: Unasked,
}

/// A module to upload.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream module push modules/marker.wasm --name marker --version 1")]
pub(crate) struct Push {
    /// The component, as `module build` makes it.
    file: PathBuf,
    /// The module's name.
    #[arg(long)]
    name: String,
    /// The module's version.
    #[arg(long, value_name = "V")]
    version: String,
    #[command(flatten)]
    form: Form,
}

/// A module to download.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream module pull marker@1
  millstream module pull marker@1 --out before.wasm")]
pub(crate) struct Pull {
    /// The module; a version is never left out.
    #[arg(value_name = "NAME@VERSION")]
    module: ModuleRef,
    /// The file to make, which must not be there; NAME.wasm if left out.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// Which modules to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those of this name.
    name: Option<String>,
    #[command(flatten)]
    form: Form,
}

/// Which module to show.
#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// NAME or NAME@VERSION.
    module: String,
    #[command(flatten)]
    form: Form,
}

/// Which module to delete.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The module; a version is never left out.
    #[arg(value_name = "NAME@VERSION")]
    module: ModuleRef,
    #[command(flatten)]
    form: Form,
}

#[derive(Serialize)]
struct Line {
    name: String,
    version: String,
    kind: String,
    needs: Vec<String>,
    size_bytes: i64,
    digest: String,
    pushed_at: String,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    line: Line,
    declarations: Vec<Declaration>,
    used_by: Vec<String>,
}

#[derive(Serialize)]
struct Declaration {
    kind: String,
    name: String,
    value: String,
}

#[derive(Serialize)]
struct Compiled {
    name: String,
    path: PathBuf,
    bytes: u64,
    digest: String,
    kind: String,
}

impl Module {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        match self {
            Self::New(new) => new.run(),
            Self::Build(build) => build.run(),
            Self::Push(push) => push.run(common).await,
            Self::Pull(pull) => pull.run(common).await,
            Self::List(List { name, form }) => {
                let found = connect(common).await?.admin().list_modules(name.as_deref()).await?;
                let lines: Vec<Line> = found.into_iter().map(Line::from).collect();
                if let Some(name) = name.filter(|_| lines.is_empty()) {
                    bail!("there is no module {name:?}: see `millstream module list`");
                }
                form.output.list(&lines, "no modules", table)
            }
            Self::Describe(Describe { module, form }) => {
                let (name, version) = match module.split_once('@') {
                    Some((name, version)) => (name, Some(version)),
                    None => (module.as_str(), None),
                };
                let found = connect(common).await?.admin().describe_module(name, version).await?;
                form.output.one(&Shown::from(found), details)
            }
            Self::Test(_) => not_built::refuse("module test", "`cargo test` in the project runs its functions"),
            Self::Delete(Delete { module, form }) => {
                let ModuleRef { name, version } = &module;
                connect(common).await?.admin().delete_module(name.as_str(), version.as_str()).await?;
                form.output.done(&json!({"name": name, "version": version}), &format!("module {module} is deleted"))
            }
        }
    }
}

impl New {
    fn run(self) -> anyhow::Result<()> {
        let kind = match self.kind {
            Kind::Partitioner => ProjectKind::Partitioner,
            Kind::View => ProjectKind::View,
            Kind::Transform => ProjectKind::Transform,
        };
        let Lang::Rust = self.lang;
        let parent = std::env::current_dir().context("cannot tell the current folder")?;
        let new = NewModule { parent, name: self.name.clone(), kind, language: Language::Rust };
        let dir = scaffold::create(&new)?;
        let sentence = format!(
            "{} is made: write its function in src/lib.rs, then\n    millstream module build {}",
            dir.display(),
            self.name
        );
        self.form.output.done(&json!({"name": self.name, "kind": kind.to_string(), "path": dir}), &sentence)
    }
}

impl Build {
    fn run(self) -> anyhow::Result<()> {
        let options = BuildOptions { dir: self.dir, out_dir: self.out };
        let built = build(&options, &mut |words| say(words))?;
        let compiled: Vec<Compiled> = built.into_iter().map(Compiled::from).collect();
        self.form.output.list(&compiled, "no modules", |compiled| {
            let mut table = Table::new(["name", "kind", "bytes", "file"]);
            for module in compiled {
                let file = module.path.display().to_string();
                table.row([module.name.clone(), module.kind.clone(), module.bytes.to_string(), file]);
            }
            table
        })
    }
}

impl From<Built> for Compiled {
    fn from(built: Built) -> Self {
        let Built { name, path, bytes, digest, kind } = built;
        Self { name, path, bytes, digest: digest.to_string(), kind: kind.to_string() }
    }
}

impl Push {
    async fn run(self, common: &Common) -> anyhow::Result<()> {
        let Self { file, name, version, form } = self;
        // A name that no broker takes is not worth an upload.
        let module = ModuleRef {
            name: name.parse().map_err(|error| Malformed(format!("--name {name:?}: {error}")))?,
            version: version.parse().map_err(|error| Malformed(format!("--version {version:?}: {error}")))?,
        };
        let what = || format!("cannot push {} as {module}", file.display());
        let bytes = read_module(&file).with_context(what)?;
        let client = connect_to_compile(common).await?;
        let pushed = client.admin().push_module(&name, &version, bytes).await.with_context(what)?;
        let (pushed, is_new) = (pushed.module, pushed.is_new);
        let size = counted(pushed.size_bytes.unsigned_abs(), "byte");
        let (kind, digest) = (&pushed.kind, pushed.digest);
        let is = if is_new { "is there" } else { "was there already with the same contents" };
        let mut sentence = format!("module {module} {is}: a {kind}, {size}, sha256 {digest}");
        if let Some(serves) = serves(kind) {
            sentence += &format!("; it serves {serves}");
        }
        form.output.done(&Line::from(pushed), &sentence)
    }
}

impl Pull {
    async fn run(self, common: &Common) -> anyhow::Result<()> {
        let Self { module, out, form } = self;
        let ModuleRef { name, version } = &module;
        let path = out.unwrap_or_else(|| format!("{name}.wasm").into());
        let what = || format!("cannot pull {module} into {}", path.display());
        // Asked before anything is downloaded; it is asked again as the file is made.
        if path.exists() {
            return Err(anyhow::anyhow!("it is there already: give another name with --out")).with_context(what);
        }
        let bytes = connect(common).await?.admin().pull_module(name.as_str(), version.as_str()).await?;
        let mut file = File::create_new(&path).with_context(what)?;
        if let Err(error) = file.write_all(&bytes) {
            // A part of a module is none.
            let _ = std::fs::remove_file(&path);
            return Err(error).with_context(what);
        }
        let size = counted(bytes.len() as u64, "byte");
        let told = json!({"name": name, "version": version, "path": path, "size_bytes": bytes.len()});
        form.output.done(
            &told,
            &format!("module {module} is in {}: {size}, and they are those that were pushed", path.display()),
        )
    }
}

/// What a module of this kind (of these kinds) can be used for.
fn serves(kind: &str) -> Option<String> {
    let has = |name: &str| kind.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
    let uses = [
        (has("partitioner"), "topics (`topic create --partitioner`)"),
        (has("filter") || has("mapper"), "views (`view create --chain`)"),
        (has("mapper") || has("transform"), "transforms (`transform deploy --module`)"),
    ];
    let uses: Vec<_> = uses.into_iter().filter_map(|(is_used, what)| is_used.then_some(what)).collect();
    (!uses.is_empty()).then(|| uses.join(" and "))
}

/// Reads no more than a module may have.
fn read_module(file: &Path) -> anyhow::Result<Bytes> {
    let metadata = std::fs::metadata(file)?;
    if !metadata.is_file() {
        bail!("it is not a file");
    }
    if metadata.len() > MODULE_BYTES_MAX as u64 {
        bail!("it has {} bytes; a module has at most {MODULE_BYTES_MAX}", metadata.len());
    }
    Ok(std::fs::read(file)?.into())
}

impl From<ModuleInfo> for Line {
    fn from(module: ModuleInfo) -> Self {
        Self {
            name: module.name,
            version: module.version,
            kind: module.kind,
            needs: module.needs,
            size_bytes: module.size_bytes,
            digest: module.digest.to_string(),
            pushed_at: format_rfc3339(module.pushed_at),
        }
    }
}

impl From<ModuleDescribeResponse> for Shown {
    fn from(found: ModuleDescribeResponse) -> Self {
        let declarations = found.declarations.into_iter().map(|said| Declaration {
            kind: said.kind,
            name: said.name,
            value: said.value,
        });
        Self { line: found.module.into(), declarations: declarations.collect(), used_by: found.used_by }
    }
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(["name", "version", "kind", "needs", "bytes", "pushed"]);
    for line in lines {
        table.row([
            line.name.clone(),
            line.version.clone(),
            line.kind.clone(),
            joined(&line.needs),
            line.size_bytes.to_string(),
            line.pushed_at.clone(),
        ]);
    }
    table
}

fn details(shown: &Shown) -> Details {
    let line = &shown.line;
    let mut declarations = Table::new(["declares", "name", "value"]);
    for said in &shown.declarations {
        declarations.row([said.kind.clone(), said.name.clone(), said.value.clone()]);
    }
    Details::default()
        .field("module", format!("{}@{}", line.name, line.version))
        .field("kind", &line.kind)
        .field("needs", joined(&line.needs))
        .field("bytes", line.size_bytes)
        .field("sha256", &line.digest)
        .field("pushed", &line.pushed_at)
        .field("used by", joined(&shown.used_by))
        .table(declarations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kind_serves_is_told() {
        assert_eq!(serves("filter").as_deref(), Some("views (`view create --chain`)"));
        let both = "views (`view create --chain`) and transforms (`transform deploy --module`)";
        assert_eq!(serves("mapper").as_deref(), Some(both));
        assert_eq!(serves("something new"), None);
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.wasm");
        File::create(&path).unwrap().set_len(MODULE_BYTES_MAX as u64 + 1).unwrap();
        let refused = read_module(&path).unwrap_err().to_string();
        assert!(refused.contains(&MODULE_BYTES_MAX.to_string()), "{refused}");
        assert!(read_module(dir.path()).unwrap_err().to_string().contains("not a file"));
        assert!(read_module(&dir.path().join("absent")).is_err());
    }
}
