//! What no file of the project may name: one machine's folders, and the hosts of package registries.

/// Places that exist on one machine only, such as build machines have. Written in halves, so that this file passes its
/// own rule.
fn machine_paths() -> Vec<String> {
    [("/wo", "rk/"), ("/ro", "ot/"), ("/bui", "lds/")].map(|(a, b)| format!("{a}{b}")).into()
}

/// Hosts that a mirror may stand in for: clients are configured on the machine, not here.
fn registry_hosts() -> Vec<String> {
    [
        ("crates", ".io/"),
        ("index.crates", ".io"),
        ("static.crates", ".io"),
        ("pypi", ".org"),
        ("files.python", "hosted.org"),
        ("deb.debian", ".org"),
        ("registry.npm", "js.org"),
        ("proxy.go", "lang.org"),
        ("repo.maven", ".apache.org"),
        ("static.rust", "-lang.org"),
        ("sh.rust", "up.rs"),
    ]
    .map(|(a, b)| format!("{a}{b}"))
    .into()
}

/// Lines of `text` that name a machine's folder or a registry's host. Lock files, which cargo writes, are exempt.
#[must_use]
pub fn violations(path: &str, text: &str) -> Vec<String> {
    if path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let words: Vec<String> = machine_paths().into_iter().chain(registry_hosts()).collect();
    text.lines()
        .enumerate()
        .flat_map(|(number, line)| {
            words.iter().filter(|word| names(line, word)).map(move |word| (number + 1, word.clone()))
        })
        .map(|(number, word)| format!("{path}:{number}: names {word}"))
        .collect()
}

/// A folder must begin its path: `target` + the same name inside names nobody's machine.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let goes_on = |c: char| c.is_alphanumeric() || "._-~})/".contains(c);
        !word.starts_with('/') || !before.is_some_and(goes_on)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_paths_and_registry_hosts_are_found() {
        for line in machine_paths().into_iter().chain(registry_hosts()) {
            assert_eq!(violations("a.rs", &format!("let x = \"{line}x\";")).len(), 1, "{line}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        let (work, root) = (&machine_paths()[0], &machine_paths()[1]);
        for line in
            [format!("target{work}x"), format!("the{root}x"), format!("$d{work}x"), format!("http://localhost{root}")]
        {
            assert_eq!(violations("a.rs", &line), Vec::<String>::new(), "{line}");
        }
    }
}
