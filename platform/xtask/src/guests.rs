//! The guests: their library and the examples, which are Cargo projects apart from the broker's.

use std::path::{Path, PathBuf};

use crate::run::{cargo, run, target};

/// The guests' projects, by folder. Each has its own lock file; the examples are one workspace.
const PROJECTS: [&str; 2] = ["sdk/guest", "guest-examples"];

/// Builds every guest example with the program at `millstream`; returns the folder that holds the components.
///
/// It is `millstream module build` that does it, which also installs the compiler's Wasm target: what users run is what the
/// tests depend on.
pub(crate) fn build(root: &Path, millstream: &Path) -> anyhow::Result<PathBuf> {
    let folder = target().join("guests");
    let mut build = std::process::Command::new(millstream);
    build.args(["module", "build"]).arg(root.join("guest-examples")).arg("--out").arg(&folder);
    // This program's last line on standard output is the folder, and nothing else may follow it.
    build.stdout(std::io::stderr());
    run(&mut build)?;
    Ok(folder)
}

/// Runs the tests of the guest library and the examples' own, natively.
pub(crate) fn test(root: &Path) -> anyhow::Result<()> {
    for project in PROJECTS {
        // One target folder for both, so that what both need is compiled once.
        let mut test = cargo(&["test", "--locked"]);
        test.current_dir(root.join(project)).env("CARGO_TARGET_DIR", target().join("guests-native"));
        run(&mut test)?;
    }
    Ok(())
}
