//! What prose and first lines owe the reader: paths that exist, two set-up commands, an owner for every file.

/// The README's whole set-up, one command a line. Anything else that a newcomer must type first is a defect.
pub const SETUP: [&str; 2] = ["cargo xtask quickstart", "cargo xtask test"];

/// The words in backticks, outside code blocks, that claim to be a path of this repository: they hold a slash, or end
/// as a file does, and begin with a name in the top folder.
#[must_use]
pub fn paths_named(text: &str, top: &[String]) -> Vec<String> {
    let mut named = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            // Every second piece lies between backticks.
            let spans = line.split('`').skip(1).step_by(2);
            named.extend(spans.filter(|span| is_path(span, top)).map(|span| span.trim_end_matches('/').to_owned()));
        }
    }
    named
}

fn is_path(span: &str, top: &[String]) -> bool {
    let first = span.split('/').next().unwrap_or_default();
    !span.contains(char::is_whitespace) && top.iter().any(|name| name == first) && !first.is_empty()
}

/// The lines of the blocks fenced as `sh` in `text`, comments and empty lines left out.
#[must_use]
pub fn shell_blocks(text: &str) -> Vec<Vec<String>> {
    let mut blocks: Vec<Vec<String>> = Vec::new();
    let mut open: Option<Vec<String>> = None;
    for line in text.lines().map(str::trim) {
        match &mut open {
            None if line == "```sh" => open = Some(Vec::new()),
            None => {}
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some(block) if !line.is_empty() && !line.starts_with('#') => block.push(line.to_owned()),
            Some(_) => {}
        }
    }
    blocks
}

/// Programs that set things up. In the README only [`SETUP`] may.
const SETS_UP: &[&str] = &[
    "apt", "apt-get", "brew", "cargo", "curl", "docker", "make", "npm", "pip", "pip3", "python", "rustup", "sudo",
    "wget",
];

/// What is wrong with the README's set-up; empty when it is exactly [`SETUP`], in its first shell block.
#[must_use]
pub fn readme_violations(text: &str) -> Vec<String> {
    let blocks = shell_blocks(text);
    let mut wrong = Vec::new();
    if blocks.first().is_none_or(|block| *block != SETUP) {
        wrong.push(format!("the first shell block is {:?}, not {SETUP:?}", blocks.first()));
    }
    for line in blocks.iter().skip(1).flatten() {
        let program = line.trim_start_matches("$ ").split_whitespace().next().unwrap_or_default();
        // What asks the broker that runs here fetches nothing.
        let asks_the_broker = line.contains(" http://127.0.0.1:");
        if SETS_UP.contains(&program) && !asks_the_broker {
            wrong.push(format!("a third set-up command: {line}"));
        }
    }
    wrong
}

/// What is wrong with a source file's first line: it must say what the file owns.
#[must_use]
pub fn first_line_violation(path: &str, text: &str) -> Option<String> {
    let line = text.lines().next().unwrap_or_default();
    let said = line.strip_prefix("//! ").is_some_and(|rest| rest.split_whitespace().count() >= 2);
    (!said).then(|| format!("{path}: the first line is {line:?}, not a `//!` that says what the file owns"))
}

/// The documents (names that end in `.md`) that the comments of a source file speak of.
#[must_use]
pub fn documents_named(source: &str) -> Vec<&str> {
    let comments = source.lines().filter(|line| line.trim_start().starts_with("//"));
    let words = comments.flat_map(|line| {
        line.split(|c: char| !(c.is_alphanumeric() || "./-_".contains(c))).map(|word| word.trim_end_matches('.'))
    });
    words.filter(|word| word.len() > 3 && word.ends_with(".md")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_backticks_are_found() {
        let top = ["platform".to_owned(), "README.md".to_owned(), ".ci".to_owned()];
        let text =
            "`platform/log/` and `README.md`, `.ci/run`; `cargo xtask` and `acks/all`\n```\n`platform/no`\n```\n";
        assert_eq!(paths_named(text, &top), ["platform/log", "README.md", ".ci/run"]);
    }

    #[test]
    fn a_third_set_up_command_is_found() {
        let good = "```sh\ncargo xtask quickstart\ncargo xtask test   # later\n```\n".replace("   # later", "");
        assert_eq!(readme_violations(&good), Vec::<String>::new());
        assert_eq!(readme_violations(&format!("{good}```sh\nmillstream topic list\n```\n")), Vec::<String>::new());
        assert_eq!(
            readme_violations(&format!("{good}```sh\ncurl -s http://127.0.0.1:9644/ready\n```\n")),
            Vec::<String>::new()
        );
        assert_eq!(readme_violations(&format!("{good}```sh\ncurl -s https://get.example/it\n```\n")).len(), 1);
        assert_eq!(readme_violations(&format!("{good}```sh\nrustup target add x\n```\n")).len(), 1);
        assert_eq!(readme_violations(&format!("```sh\nmake\n```\n{good}")).len(), 3);
        assert_eq!(readme_violations("no commands").len(), 1);
    }

    #[test]
    fn documents_in_comments_are_found() {
        let source = "//! See NOTES.md, \"x\".\n// and docs/A-b.md.\nlet made = \"README.md\"; // .md\n";
        assert_eq!(documents_named(source), ["NOTES.md", "docs/A-b.md"]);
    }

    #[test]
    fn a_file_without_an_owner_is_found() {
        assert_eq!(first_line_violation("a.rs", "//! What a test needs.\n"), None);
        for text in ["", "use std::fs;", "// A comment.", "//!", "//! Tests"] {
            assert!(first_line_violation("a.rs", text).is_some(), "{text:?}");
        }
    }
}
