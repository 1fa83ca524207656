//! Who may import whom: the floors of ARCHITECTURE.md, and the libraries that are confined to one crate.

use serde_json::Value;

/// The floors, lowest first. A crate imports from lower floors only, so siblings never meet.
const FLOORS: &[&[&str]] = &[
    &["millstream-model", "millstream-env", "millstream-record"],
    &[
        "millstream-protocol",
        "millstream-log",
        "millstream-replica",
        "millstream-catalog",
        "millstream-group",
        "millstream-wasm",
    ],
    &["millstream-transport", "millstream-broker"],
    &["millstream-client", "millstream", "xtask"],
    &["millstream-guest-test"],
    &["millstream-test-support"],
    &[
        "millstream-tests-e2e",
        "millstream-tests-compat",
        "millstream-tests-hostile",
        "millstream-tests-sim",
        "millstream-tests-fuzz",
        "millstream-tests-bench",
    ],
];

/// Imports within a floor, each for a reason. Floor 1 has none, and may have none.
const WITHIN: &[(&str, &str)] = &[
    // Records are made of offsets and timestamps.
    ("millstream-record", "millstream-model"),
    // The operator's commands are a user of the client.
    ("millstream", "millstream-client"),
];

/// A crate that is shipped to others sees only what they need: (crate, all of ours that it may import).
const ONLY: &[(&str, &[&str])] = &[(
    "millstream-client",
    &["millstream-model", "millstream-env", "millstream-record", "millstream-protocol", "millstream-transport"],
)];

/// What such a crate may link for users who ask for it, by a feature that is off by default: the others are spared it.
const ON_DEMAND: &[(&str, &str)] = &[
    // Producers that run their topics' partitioners themselves run the very same module, in the same host.
    ("millstream-client", "millstream-wasm"),
];

/// (what a library's crates are called, the one crate of ours that may name them).
const CONFINED: &[(&str, &str)] = &[
    ("quinn", "millstream-transport"),
    ("wasmtime", "millstream-wasm"),
    ("cranelift", "millstream-wasm"),
    ("openraft", "millstream-catalog"),
    ("sled", "millstream-catalog"),
];

/// Programs that measure a bare library beside ours need the library itself.
const BARE_PROGRAMS: &str = "millstream-tests-bench";

/// (who does with a library what ours never does, what it is called).
const MISUSED: &[(&str, &str)] = &[("millstream-tests-hostile", "quinn")];

/// What a dependency is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Compiled into the crate.
    Normal,
    /// Compiled into the crate where one of its features is turned on.
    Optional,
    /// Compiled into its tests.
    Dev,
    /// Compiled into its build script.
    Build,
}

/// A crate of the workspace and what its manifest names.
#[derive(Clone, Debug)]
pub struct Package {
    /// The package's name.
    pub name: String,
    /// The packages that it names, ours and others'.
    pub dependencies: Vec<(String, Kind)>,
}

/// The packages in `cargo metadata`'s answer.
#[must_use]
pub fn packages(metadata: &Value) -> Vec<Package> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(|dependency| {
                    let kind = match dependency["kind"].as_str() {
                        Some("dev") => Kind::Dev,
                        Some("build") => Kind::Build,
                        // A default feature is on for everybody who does not know of it.
                        _ if dependency["optional"] == true && package["features"]["default"].is_null() => {
                            Kind::Optional
                        }
                        _ => Kind::Normal,
                    };
                    (text(&dependency["name"]), kind)
                })
                .collect(),
        })
        .collect()
}

/// What breaks the rules, one sentence each; empty when nothing does.
#[must_use]
pub fn violations(packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in packages {
        let Some(floor) = floor(&package.name) else {
            wrong.push(format!("{} is on no floor: add it to FLOORS and to ARCHITECTURE.md", package.name));
            continue;
        };
        for (dependency, kind) in &package.dependencies {
            if let Some(sentence) = import(&package.name, floor, dependency, *kind) {
                wrong.push(sentence);
            }
            if let Some((_, owner)) = CONFINED.iter().find(|(prefix, _)| is_or_is_part_of(dependency, prefix))
                && package.name != *owner
                && package.name != BARE_PROGRAMS
                && !MISUSED.iter().any(|(user, prefix)| package.name == *user && is_or_is_part_of(dependency, prefix))
            {
                wrong.push(format!("{} names {dependency}, which only {owner} may", package.name));
            }
        }
    }
    wrong
}

fn import(name: &str, from: usize, dependency: &str, kind: Kind) -> Option<String> {
    let to = floor(dependency)?;
    if let Some((_, allowed)) = ONLY.iter().find(|(crate_, _)| *crate_ == name)
        && matches!(kind, Kind::Normal | Kind::Optional)
        && !allowed.contains(&dependency)
        && !(kind == Kind::Optional && ON_DEMAND.contains(&(name, dependency)))
    {
        return Some(format!("{name} may not import {dependency}: only {}", allowed.join(", ")));
    }
    // The programs of floor 3 are tested as programs, with the tests' tools.
    let tools = kind == Kind::Dev && from == 3 && dependency == "millstream-test-support";
    let within = WITHIN.contains(&(name, dependency));
    if to < from || within || tools {
        return None;
    }
    Some(if to == from {
        format!("{name} imports its sibling {dependency} on floor {from}")
    } else {
        format!("{name} on floor {from} climbs to {dependency} on floor {to}")
    })
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|crates| crates.contains(&name))
}

/// `wasmtime-environ` is part of `wasmtime`; `sledge` would not be part of `sled`.
fn is_or_is_part_of(name: &str, library: &str) -> bool {
    name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Text that a floor 1 crate may not hold outside its tests: sockets, clocks other than the one it is handed, and files
/// other than through its disk.
const NOT_ON_FLOOR_1: &[&str] =
    &["tokio::net", "std::net::Tcp", "std::net::Udp", "TcpStream", "UdpSocket", "SystemTime", "Instant::now", "fs::"];

/// What reads or moves files behind the disk's back, and why it may.
const OWN_FILES: &[(&str, &str)] = &[
    ("platform/catalog/src/projection.rs", "sled has files of its own"),
    ("platform/wasm/src/engine.rs", "what the kernel says of this process"),
    ("platform/wasm/src/options.rs", "what the kernel says of this process"),
];

/// Where a floor 1 source file reaches for a socket, a wall clock or a file; the part after `#[cfg(test)]` may.
#[must_use]
pub fn reaches_outside(path: &str, source: &str) -> Vec<String> {
    let shipped = source.split("#[cfg(test)]").next().unwrap_or_default();
    shipped
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter_map(|(number, line)| {
            let word = NOT_ON_FLOOR_1.iter().find(|word| line.contains(*word))?;
            let allowed = *word == "fs::" && OWN_FILES.iter().any(|(file, _)| *file == path);
            let wrong =
                format!("{path}:{}: {word}: an engine is handed its clock, its network and its disk", number + 1);
            (!allowed).then_some(wrong)
        })
        .collect()
}

/// What a guest crate's manifest reaches that a guest may not see: any path outside `sdk/guest` and `guest-examples`,
/// and any crate of the platform by name.
#[must_use]
pub fn guest_violations(metadata: &Value, root: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let (name, path) = (dependency["name"].as_str().unwrap_or_default(), dependency["path"].as_str());
            let inside = path.is_none_or(|path| {
                [format!("{root}/sdk/guest"), format!("{root}/guest-examples")]
                    .iter()
                    .any(|folder| path == folder || path.starts_with(&format!("{folder}/")))
            });
            let platform = floor(name).is_some();
            if !inside || platform {
                wrong.push(format!("{}: a guest may not see {name}", package["name"].as_str().unwrap_or_default()));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, dependency: &str, kind: Kind, expected: Option<&str>) {
        let package = Package { name: name.into(), dependencies: vec![(dependency.into(), kind)] };
        let found = violations(&[package]);
        match expected {
            None => assert_eq!(found, Vec::<String>::new(), "{name} -> {dependency}"),
            Some(word) => {
                assert!(found.len() == 1 && found[0].contains(word), "{name} -> {dependency}: {found:?}");
            }
        }
    }

    #[test]
    fn lower_floors_may_be_imported_and_higher_ones_not() {
        check("millstream-log", "millstream-record", Kind::Normal, None);
        check("millstream", "millstream-client", Kind::Normal, None);
        check("millstream", "millstream-test-support", Kind::Dev, None);
        check("millstream-model", "millstream-env", Kind::Normal, Some("sibling"));
        check("millstream-log", "millstream-protocol", Kind::Normal, Some("sibling"));
        check("millstream-log", "millstream-wasm", Kind::Dev, Some("sibling"));
        check("millstream-log", "millstream-broker", Kind::Normal, Some("climbs"));
        check("millstream-env", "millstream-log", Kind::Build, Some("climbs"));
        check("millstream-client", "millstream-broker", Kind::Normal, Some("may not import"));
        check("millstream-client", "millstream-broker", Kind::Optional, Some("may not import"));
        check("millstream-client", "millstream-wasm", Kind::Optional, None);
        check("millstream-client", "millstream-wasm", Kind::Normal, Some("may not import"));
        check("millstream-new-thing", "serde", Kind::Normal, Some("on no floor"));
    }

    #[test]
    fn the_confined_libraries_stay_in_their_crate() {
        check("millstream-transport", "quinn", Kind::Normal, None);
        check("millstream-wasm", "wasmtime-environ", Kind::Normal, None);
        check("millstream-tests-bench", "quinn", Kind::Normal, None);
        check("millstream-tests-hostile", "quinn-proto", Kind::Normal, None);
        check("millstream-tests-hostile", "wasmtime", Kind::Normal, Some("only millstream-wasm"));
        check("millstream-broker", "sledge", Kind::Normal, None);
        check("millstream-client", "quinn", Kind::Normal, Some("only millstream-transport"));
        check("millstream-broker", "quinn-proto", Kind::Dev, Some("only millstream-transport"));
        check("millstream", "wasmtime", Kind::Normal, Some("only millstream-wasm"));
        check("millstream-broker", "openraft", Kind::Normal, Some("only millstream-catalog"));
        check("millstream-tests-e2e", "sled", Kind::Dev, Some("only millstream-catalog"));
    }

    #[test]
    fn an_engine_that_reaches_outside_is_found() {
        let source = "use std::time::Instant;\n// SystemTime is named here\nlet now = Instant::now();\n";
        assert_eq!(reaches_outside("a.rs", source).len(), 1);
        assert_eq!(reaches_outside("a.rs", "#[cfg(test)]\nlet now = Instant::now();"), Vec::<String>::new());
        assert_eq!(reaches_outside("a.rs", "use tokio::net::TcpListener;").len(), 1);
        assert_eq!(reaches_outside("a.rs", "let text = fs::read(path);").len(), 1);
        assert_eq!(reaches_outside("platform/wasm/src/engine.rs", "std::fs::read(path)"), Vec::<String>::new());
        assert_eq!(reaches_outside("platform/wasm/src/engine.rs", "Instant::now()").len(), 1);
    }

    #[test]
    fn a_guest_that_sees_the_platform_is_found() {
        let with = |dependency: Value| serde_json::json!({"packages": [{"name": "g", "dependencies": [dependency]}]});
        let found = |dependency| guest_violations(&with(dependency), "/r").len();
        assert_eq!(found(serde_json::json!({"name": "millstream-guest", "path": "/r/sdk/guest"})), 0);
        assert_eq!(found(serde_json::json!({"name": "serde_json"})), 0);
        assert_eq!(found(serde_json::json!({"name": "x", "path": "/r/platform/record"})), 1);
        assert_eq!(found(serde_json::json!({"name": "x", "path": "/r/sdk/guest-test"})), 1);
        assert_eq!(found(serde_json::json!({"name": "millstream-record"})), 1);
    }
}
