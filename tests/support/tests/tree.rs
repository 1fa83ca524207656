//! The source tree keeps its own rules: floors, confined libraries, prose that names what exists, no machine's paths.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::path::Path;

use millstream_test_support::{
    rules::{floors, hosts, prose},
    tree,
};

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} found:\n  {}", wrong.len(), wrong.join("\n  "));
}

fn rust_files() -> Vec<String> {
    let files = tree::files().unwrap();
    let names = files.iter().filter_map(|path| path.to_str()).filter(|path| path.ends_with(".rs"));
    names.map(str::to_owned).collect()
}

#[test]
fn crates_import_lower_floors_only_and_libraries_stay_confined() {
    let packages = floors::packages(&tree::metadata("Cargo.toml").unwrap());
    assert!(packages.len() >= 18, "cargo metadata lists only {} packages", packages.len());
    none(floors::violations(&packages));
}

#[test]
fn the_boundary_test_fails_on_this_tree_with_one_import_too_many() {
    // The real tree, broken once for each rule: a test of the tree that passes on these proves nothing.
    for (importer, imported) in [
        ("millstream-log", "millstream-protocol"),
        ("millstream-record", "millstream-log"),
        ("millstream-broker", "wasmtime"),
        ("millstream-client", "quinn"),
        ("millstream-client", "millstream-wasm"),
        ("millstream", "sled"),
        ("millstream-broker", "openraft"),
    ] {
        let mut packages = floors::packages(&tree::metadata("Cargo.toml").unwrap());
        let package = packages.iter_mut().find(|package| package.name == importer).unwrap();
        package.dependencies.push((imported.into(), floors::Kind::Normal));
        assert_eq!(floors::violations(&packages).len(), 1, "{importer} -> {imported}");
    }
}

#[test]
fn guests_see_the_contract_and_nothing_of_the_platform() {
    let root = tree::root();
    let mut workspaces = 0;
    for manifest in tree::files().unwrap() {
        let guest =
            ["sdk/guest", "guest-examples", "tests/bench/guests"].iter().any(|folder| manifest.starts_with(folder));
        if guest && manifest.file_name().is_some_and(|name| name == "Cargo.toml") {
            workspaces += 1;
            none(floors::guest_violations(&tree::metadata(&manifest).unwrap(), root.to_str().unwrap()));
        }
    }
    // Nothing to look at is no proof: the library, the examples, and what the benchmarks call.
    assert!(workspaces >= 9, "only {workspaces} guests' manifests were found");
}

#[test]
fn engines_are_handed_their_clock_their_network_and_their_disk() {
    let engines =
        ["protocol", "log", "replica", "catalog", "group", "wasm"].map(|name| format!("platform/{name}/src/"));
    let mut wrong = Vec::new();
    for path in rust_files() {
        if engines.iter().any(|engine| path.starts_with(engine))
            && !path.ends_with("tests.rs")
            && !path.contains("/tests/")
        {
            wrong.extend(floors::reaches_outside(&path, &tree::text(&path).unwrap()));
        }
    }
    none(wrong);
}

#[test]
fn every_source_file_says_what_it_owns_and_can_be_read_in_one_sitting() {
    let mut wrong = Vec::new();
    for path in rust_files() {
        let text = tree::text(&path).unwrap();
        wrong.extend(prose::first_line_violation(&path, &text));
        let lines = text.lines().count();
        if lines > 1000 {
            wrong.push(format!("{path}: {lines} lines: look for the second noun"));
        }
    }
    none(wrong);
}

#[test]
fn paths_named_in_prose_exist() {
    let top: Vec<String> = tree::files()
        .unwrap()
        .iter()
        .filter_map(|path| path.components().next()?.as_os_str().to_str().map(str::to_owned))
        .collect();
    let mut wrong = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "tests/bench/README.md"] {
        let paths = prose::paths_named(&tree::text(document).unwrap(), &top);
        assert!(paths.len() > 10 || document != "ARCHITECTURE.md", "{document} names hardly a path");
        let missing = paths.into_iter().filter(|path| !tree::root().join(path).exists());
        wrong.extend(missing.map(|path| format!("{document}: {path} does not exist")));
    }
    none(wrong);
}

#[test]
fn documents_that_comments_name_exist() {
    let files = tree::files().unwrap();
    let mut wrong = Vec::new();
    for path in rust_files() {
        let text = tree::text(&path).unwrap();
        let missing =
            prose::documents_named(&text).into_iter().filter(|name| !files.iter().any(|file| file.ends_with(name)));
        wrong.extend(missing.map(|name| format!("{path}: {name} does not exist")));
    }
    none(wrong);
}

#[test]
fn every_crate_is_in_the_architecture() {
    let text = tree::text("ARCHITECTURE.md").unwrap();
    let metadata = tree::metadata("Cargo.toml").unwrap();
    let root = tree::root();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest.parent().unwrap().strip_prefix(&root).unwrap().display().to_string();
        if !text.contains(&format!("`{folder}/`")) {
            wrong.push(format!("ARCHITECTURE.md does not name `{folder}/`"));
        }
    }
    none(wrong);
}

#[test]
fn the_readme_has_exactly_two_set_up_commands() {
    none(prose::readme_violations(&tree::text("README.md").unwrap()));
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    let mut wrong = Vec::new();
    for path in tree::files().unwrap() {
        // Files that are no text name nothing.
        if let Ok(text) = std::fs::read_to_string(tree::root().join(&path)) {
            wrong.extend(hosts::violations(&path.display().to_string(), &text));
        }
    }
    none(wrong);
}

#[test]
fn no_test_is_ignored() {
    // Written in halves, so that this file passes.
    let mark = format!("#[{}", "ignore");
    let ignored = |path: &String| tree::text(path).unwrap().lines().any(|line| line.trim_start().starts_with(&mark));
    none(rust_files().into_iter().filter(ignored).collect());
}
