//! `module new`: a guest project that builds at once, anywhere.
//!
//! The project carries the guest library and the contract with it, as files of this binary's own version, so that it needs neither
//! a clone of Millstream nor a registry that has one. They are the repository's own files, included when the binary is compiled.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Longest name of a project, bytes: it becomes a module's name and a file's.
const NAME_BYTES_MAX: usize = 64;

/// Names that Rust, cargo or the project itself needs.
#[rustfmt::skip]
const RESERVED: [&str; 58] = [
    "abstract", "alloc", "as", "async", "await", "become", "box", "break", "const", "continue", "core", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match",
    "millstream-guest", "mod", "move", "mut", "override", "priv", "proc-macro", "proc_macro", "pub", "ref", "return", "self",
    "static", "std", "struct", "super", "test", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

/// A project to make.
#[derive(Clone, Debug)]
pub(crate) struct NewModule {
    /// The folder in which the project's own folder is made.
    pub(crate) parent: PathBuf,
    /// The project's name, and its folder's: lower-case letters, digits, `-` and `_`, a letter first.
    pub(crate) name: String,
    /// What the module is to be.
    pub(crate) kind: ProjectKind,
    /// What it is to be written in.
    pub(crate) language: Language,
}

/// What a module is to be, in the words of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProjectKind {
    /// Chooses partitions.
    Partitioner,
    /// Shows some of a topic.
    View,
    /// Turns topics into topics.
    Transform,
}

/// What a module can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// With `millstream-guest`.
    Rust,
}

/// Why no project was made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScaffoldError {
    /// Not a name for a project.
    #[error("{name:?} cannot be a module's name: {why}")]
    Name {
        /// What was asked for, cut to what a person wants to see.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// No such kind.
    #[error("there is no kind {0:?} of module: it is partitioner, view or transform")]
    Kind(String),
    /// No such language.
    #[error("modules in {0:?} are not built yet: the language is rust")]
    Language(String),
    /// Something is there already.
    #[error("{} is there already: choose another name or remove it", .0.display())]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("cannot make {}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl FromStr for ProjectKind {
    type Err = ScaffoldError;

    fn from_str(text: &str) -> Result<Self, ScaffoldError> {
        match text {
            "partitioner" => Ok(ProjectKind::Partitioner),
            "view" => Ok(ProjectKind::View),
            "transform" => Ok(ProjectKind::Transform),
            _ => Err(ScaffoldError::Kind(shown(text))),
        }
    }
}

impl fmt::Display for ProjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProjectKind::Partitioner => "partitioner",
            ProjectKind::View => "view",
            ProjectKind::Transform => "transform",
        })
    }
}

impl FromStr for Language {
    type Err = ScaffoldError;

    fn from_str(text: &str) -> Result<Self, ScaffoldError> {
        match text {
            "rust" => Ok(Language::Rust),
            _ => Err(ScaffoldError::Language(shown(text))),
        }
    }
}

/// Makes a project and returns its folder.
///
/// # Errors
/// See [`ScaffoldError`]; an existing file or folder is never touched.
pub(crate) fn create(new: &NewModule) -> Result<PathBuf, ScaffoldError> {
    check_name(&new.name)?;
    let Language::Rust = new.language;
    let root = new.parent.join(&new.name);
    match fs::create_dir(&root) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(ScaffoldError::Exists(root)),
        Err(source) => return Err(ScaffoldError::File { path: root, source }),
    }
    let written = write_files(&root, new);
    if written.is_err() {
        // It was made a moment ago, by us; what matters is the error that is on its way.
        let _ = fs::remove_dir_all(&root);
    }
    written.map(|()| root)
}

fn check_name(name: &str) -> Result<(), ScaffoldError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_BYTES_MAX {
        "it is longer than 64 characters"
    } else if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        "it does not start with a lower-case letter"
    } else if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    {
        "it may hold only lower-case letters, digits, '-' and '_'"
    } else if RESERVED.contains(&name) {
        "the name is Rust's own"
    } else {
        return Ok(());
    };
    Err(ScaffoldError::Name { name: shown(name), why })
}

/// As much of what was typed as belongs into an error.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn write_files(root: &Path, new: &NewModule) -> Result<(), ScaffoldError> {
    let source = match new.kind {
        ProjectKind::Partitioner => include_str!("templates/partitioner.rs"),
        ProjectKind::View => include_str!("templates/view.rs"),
        ProjectKind::Transform => include_str!("templates/transform.rs"),
    };
    let used = match new.kind {
        ProjectKind::Partitioner => {
            "millstream topic create TOPIC --partitions 4 --partitioner NAME@1.0.0 --param separator=:"
        }
        ProjectKind::View => {
            "millstream view create VIEW --topic TOPIC --chain NAME@1.0.0 --param field=status --param value=open"
        }
        ProjectKind::Transform => {
            "millstream transform deploy NAME --module NAME@1.0.0 --input TOPIC --output OTHER --param field=seen"
        }
    };
    let fill =
        |text: &str| text.replace("USED", used).replace("KIND", &new.kind.to_string()).replace("NAME", &new.name);
    let own = [
        ("Cargo.toml", fill(include_str!("templates/Cargo.toml.template"))),
        // Versions that are known to work; cargo drops what this project does not use.
        ("Cargo.lock", include_str!("../../../../guest-examples/Cargo.lock").to_owned()),
        ("README.md", fill(include_str!("templates/README.md.template"))),
        (".gitignore", "/target\n".to_owned()),
        ("src/lib.rs", source.to_owned()),
    ];
    for (path, text) in &own {
        write(&root.join(path), text)?;
    }
    for (path, text) in GUEST_LIBRARY {
        write(&root.join("vendor/millstream").join(path), text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), ScaffoldError> {
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text));
    written.map_err(|source| ScaffoldError::File { path: path.to_owned(), source })
}

macro_rules! repository_files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../", $path)))),*]
    };
}

/// What a project takes along, at the same paths under `vendor/millstream` as in the repository: the library finds the contract
/// two folders up.
const GUEST_LIBRARY: &[(&str, &str)] = repository_files![
    "sdk/guest/Cargo.toml",
    "sdk/guest/src/bindings.rs",
    "sdk/guest/src/failure.rs",
    "sdk/guest/src/frame.rs",
    "sdk/guest/src/hash.rs",
    "sdk/guest/src/json.rs",
    "sdk/guest/src/lib.rs",
    "sdk/guest/src/log.rs",
    "sdk/guest/src/module.rs",
    "sdk/guest/src/out.rs",
    "sdk/guest/src/params.rs",
    "sdk/guest/src/record.rs",
    "sdk/guest/src/rt.rs",
    "sdk/guest/src/testing.rs",
    "sdk/guest/src/varint.rs",
    "wit/millstream-ext.wit",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn new(parent: &Path, name: &str, kind: ProjectKind) -> NewModule {
        NewModule { parent: parent.to_owned(), name: name.to_owned(), kind, language: Language::Rust }
    }

    #[test]
    fn a_project_has_all_that_it_needs() {
        let parent = tempfile::tempdir().unwrap();
        for kind in [ProjectKind::Partitioner, ProjectKind::View, ProjectKind::Transform] {
            let root = create(&new(parent.path(), &format!("my-{kind}"), kind)).unwrap();
            let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
            assert!(manifest.contains(&format!("name = \"my-{kind}\"")), "{manifest}");
            let readme = fs::read_to_string(root.join("README.md")).unwrap();
            assert!(readme.contains(&format!("my-{kind}@1.0.0")) && !readme.contains("NAME"), "{readme}");
            assert!(root.join("vendor/millstream/wit/millstream-ext.wit").is_file());
        }
    }

    /// A source file of the library that is not in the list would make every new project fail to compile.
    #[test]
    fn the_whole_guest_library_goes_along() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/guest/src");
        for entry in fs::read_dir(sources).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let listed = GUEST_LIBRARY.iter().any(|(path, _)| *path == format!("sdk/guest/src/{name}"));
            assert!(listed, "sdk/guest/src/{name} is not in GUEST_LIBRARY");
        }
    }

    #[test]
    fn what_is_there_stays_and_is_not_written_into() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("taken")).unwrap();
        let refused = create(&new(parent.path(), "taken", ProjectKind::View)).unwrap_err();
        assert!(matches!(&refused, ScaffoldError::Exists(path) if path.ends_with("taken")), "{refused}");
        assert_eq!(fs::read_dir(parent.path().join("taken")).unwrap().count(), 0);
        let refused = create(&new(&parent.path().join("absent"), "name", ProjectKind::View)).unwrap_err();
        assert!(matches!(refused, ScaffoldError::File { .. }), "{refused}");
        assert!(!parent.path().join("absent").exists());
    }

    #[test]
    fn names_that_cargo_or_a_shell_would_trip_over_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let long = "a".repeat(65);
        for name in
            ["", "1st", "My", "a b", "a/b", "../a", "a.b", "-a", "é", "fn", "std", "test", "millstream-guest", &long]
        {
            let refused = create(&new(parent.path(), name, ProjectKind::View)).unwrap_err();
            assert!(matches!(refused, ScaffoldError::Name { .. }), "{name:?}: {refused}");
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn unknown_kinds_and_languages_are_refused_with_what_there_is() {
        let refused = "sink".parse::<ProjectKind>().unwrap_err().to_string();
        assert!(refused.contains("\"sink\"") && refused.contains("partitioner, view or transform"), "{refused}");
        let refused = "python".parse::<Language>().unwrap_err().to_string();
        assert!(refused.contains("\"python\"") && refused.contains("rust"), "{refused}");
    }
}
