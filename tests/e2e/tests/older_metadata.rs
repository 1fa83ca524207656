//! Files of the data directory are put back from older copies, or go: does the program lose records, or serve nothing for them, without a
//! word? What it says must be what helps.

#![expect(clippy::unwrap_used, reason = "tests: a failure here is the test's")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use millstream_test_support::broker::Broker;

/// What each topic has got, in values.
const VALUES: usize = 20;

/// A data directory of a broker that is stopped.
struct Stopped(Broker);

impl Stopped {
    /// With some topics.
    fn new(topics: &[&str]) -> Self {
        let mut stopped = Self(Broker::start().unwrap());
        topics.iter().for_each(|topic| stopped.fill(topic));
        stopped.0.stop().unwrap();
        stopped
    }

    /// Makes a topic with values.
    fn fill(&self, topic: &str) {
        self.0.cli(&["topic", "create", topic]).unwrap().ok().unwrap();
        let values: String = (0..VALUES).map(|number| format!("{number}\n")).collect();
        self.0.cli_with(&["produce", topic], values.as_bytes()).unwrap().ok().unwrap();
    }

    fn count(&self, topic: &str) -> usize {
        let read = self.0.cli(&["consume", topic, "--from", "beginning", "--until", "end"]).unwrap().ok().unwrap();
        read.text().lines().count()
    }

    /// Where the log of a topic's only partition is.
    fn log_dir(&self, topic: &str) -> PathBuf {
        let told = self.0.json(&["topic", "describe", topic, "--output", "json"]).unwrap();
        self.0.data_dir().join(format!("logs/{}/0/records-0", told[0]["topic_id"].as_str().unwrap()))
    }

    /// Copies what is known of topics.
    fn save(&self, name: &str) -> PathBuf {
        let to = self.0.scratch().join(name);
        fs::create_dir(&to).unwrap();
        for from in ["catalog", "METADATA"] {
            copy(&self.0.data_dir().join(from), &to);
        }
        to
    }

    /// Puts it back.
    fn restore(&self, from: &Path) {
        let dir = self.0.data_dir();
        fs::remove_dir_all(dir.join("catalog")).unwrap();
        let _ = fs::remove_file(dir.join("METADATA"));
        for name in ["catalog", "METADATA"] {
            copy(&from.join(name), &dir);
        }
    }

    /// After an orderly stop the journal may be a new one, of which others have had all.
    fn forget_journal(&self) {
        let dir = self.0.data_dir().join("journal");
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn an_older_copy_of_all_that_tells_of_topics_is_refused_and_takes_nothing() {
    let mut stopped = Stopped::new(&["old"]);
    let older = stopped.save("older");
    stopped.0.restart().unwrap();
    stopped.fill("new");
    stopped.0.stop().unwrap();
    let newest = stopped.save("newest");
    for without_note in [false, true] {
        stopped.restore(&older);
        if without_note {
            fs::remove_file(stopped.0.data_dir().join("METADATA")).unwrap();
            fs::remove_dir_all(stopped.0.data_dir().join("catalog/view")).unwrap();
        }
        for _ in 0..2 {
            let refused = stopped.0.restart().unwrap_err().to_string();
            for part in
                ["catalog does not belong to the records", "an older copy", "Nothing of the records was deleted"]
            {
                assert!(refused.contains(part), "no {part:?} in {refused}");
            }
        }
    }
    stopped.restore(&newest);
    stopped.0.restart().unwrap();
    assert_eq!(["old", "new"].map(|topic| stopped.count(topic)), [VALUES; 2]);
}

#[test]
fn what_an_earlier_version_made_is_kept_and_told_of_where_an_older_copy_does_not_know_it() {
    let mut stopped = Stopped::new(&[]);
    let older = stopped.save("older");
    stopped.0.restart().unwrap();
    stopped.fill("new");
    let log_dir = stopped.log_dir("new");
    stopped.0.stop().unwrap();
    let newest = stopped.save("newest");
    stopped.restore(&older);
    // As that left it.
    let mark = log_dir.join("mark");
    assert!(fs::metadata(&mark).unwrap().len() > 8192);
    fs::File::options().write(true).open(&mark).unwrap().set_len(4096 + 72).unwrap();
    fs::remove_file(stopped.0.data_dir().join("METADATA")).unwrap();
    for kill in [true, false, false] {
        stopped.0.restart().unwrap();
        let log = stopped.0.log();
        for part in
            ["WARN", "kept, and not served", "put the newest one back, and remove METADATA", "remove its directory"]
        {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
        stopped.0.cli(&["topic", "describe", "new"]).unwrap().ok().unwrap_err();
        if kill { stopped.0.kill().unwrap() } else { stopped.0.stop().unwrap() }
    }
    stopped.restore(&newest);
    fs::remove_file(stopped.0.data_dir().join("METADATA")).unwrap();
    stopped.0.restart().unwrap();
    assert!(!stopped.0.log().contains("kept, and not served"), "{}", stopped.0.log());
    assert_eq!(stopped.count("new"), VALUES);
    // It is as any other now.
    stopped.0.cli(&["topic", "delete", "new"]).unwrap().ok().unwrap();
    stopped.0.stop().unwrap();
    assert!(!log_dir.exists());
}

#[test]
fn a_partition_whose_directory_has_gone_is_shown_as_out_of_service_until_it_is_back_or_deleted() {
    let mut stopped = Stopped::new(&["old", "new"]);
    stopped.0.restart().unwrap();
    let log_dir = stopped.log_dir("new");
    stopped.0.stop().unwrap();
    let away = stopped.0.scratch().join("away");
    let topic_dir = log_dir.ancestors().nth(2).unwrap();
    fs::rename(topic_dir, &away).unwrap();
    stopped.forget_journal();
    let told = format!("{} is missing", log_dir.display());
    for _ in 0..2 {
        stopped.0.restart().unwrap();
        let log = stopped.0.log();
        for part in ["out of service", "topic=new", &told, "Put it back", "or delete the topic"] {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
        let described = stopped.0.cli(&["topic", "describe", "new"]).unwrap().ok().unwrap().text();
        assert!(described.contains("out of service"), "{described}");
        let read = stopped.0.cli(&["consume", "new", "--from", "beginning", "--until", "end"]).unwrap();
        assert!(read.code == Some(1) && read.stderr.contains(&told), "{}", read.stderr);
        assert_eq!(stopped.count("old"), VALUES);
        stopped.0.stop().unwrap();
    }
    fs::rename(&away, topic_dir).unwrap();
    stopped.0.restart().unwrap();
    assert_eq!(stopped.count("new"), VALUES);
    stopped.0.stop().unwrap();
    fs::remove_dir_all(topic_dir).unwrap();
    stopped.forget_journal();
    stopped.0.restart().unwrap();
    stopped.0.cli(&["topic", "delete", "new"]).unwrap().ok().unwrap();
    stopped.fill("new");
    assert_eq!(stopped.count("new"), VALUES);
    stopped.0.kill().unwrap();
    stopped.0.restart().unwrap();
    assert_eq!(["old", "new"].map(|topic| stopped.count(topic)), [VALUES; 2]);
    assert!(!stopped.0.log().contains("out of service"), "{}", stopped.0.log());
}
