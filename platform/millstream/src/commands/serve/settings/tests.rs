//! What is given wins by where it is given, and whatever is wrong is told with its place, all of it.

use std::path::Path;

use clap::CommandFactory;
use millstream_broker::NewTopics;

use super::{
    file::{File, nowhere},
    *,
};
use crate::{args::Cli, failure::NotBuilt};

/// What is given: flags, variables, the text of a file, `--set`.
#[derive(Default)]
struct Given<'a> {
    flags: &'a [(&'static str, &'a str)],
    environment: &'a [(&'a str, &'a str)],
    file: &'a str,
    set: &'a [&'a str],
}

impl Given<'_> {
    fn resolve(&self) -> Resolved {
        let mut mistakes = Mistakes::default();
        let file = File::parse(nowhere(), self.file, &mut mistakes);
        let flags = self.flags.iter().map(|(name, value)| (*name, value.into())).collect();
        let environment =
            |variable: &str| self.environment.iter().find(|(name, _)| *name == variable).map(|(_, value)| value.into());
        let set: Vec<OsString> = self.set.iter().map(Into::into).collect();
        Settings::merge(Reader::new(flags, &environment, file, mistakes), &set, Some("/home/data".into()))
    }

    fn settings(&self) -> Settings {
        self.resolve().settings.unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    /// What is wrong.
    fn told(&self) -> String {
        self.resolve().settings.unwrap_err().to_string()
    }
}

fn of_file(file: &str) -> Given<'_> {
    Given { file, ..Given::default() }
}

#[test]
fn a_single_broker_needs_no_setting() {
    let settings = Given::default().settings();
    assert_eq!(settings.data_dir, Path::new("/home/data"));
    assert_eq!(settings.listen.to_string(), "127.0.0.1:9092");
    assert_eq!(settings.node_id, BrokerId(1));
    let kafka = NewTopics { partitions: 1, replication_factor: 1, made_when_asked_for: true };
    assert_eq!(settings.kafka.new_topics, kafka, "what Kafka has");
    assert!(settings.hosts().is_empty());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file_and_each_is_told_with_its_source() {
    let given = Given {
        flags: &[("listen", "127.0.0.1:1")],
        environment: &[
            ("MILLSTREAM_LISTEN", "127.0.0.1:3"),
            ("MILLSTREAM_NODE_ID", "5"),
            ("MILLSTREAM_NUM_PARTITIONS", "3"),
            ("MILLSTREAM_DEFAULT_REPLICATION_FACTOR", "4"),
        ],
        file: "listen = \"127.0.0.1:2\"\ndata-dir = \"/d\"\nnode-id = 7\nadvertise = \"b.example:3\"\nretention-check-ms = 10\n\
               [kafka]\nnum.partitions = 2\ndefault.replication.factor = 2\nauto.create.topics.enable = false\n",
        set: &["num.partitions=5", "num.partitions=7"],
    };
    let settings = given.settings();
    assert_eq!((settings.listen.port(), settings.data_dir.as_path()), (1, Path::new("/d")));
    assert_eq!((settings.node_id, settings.retention_check), (BrokerId(5), Duration::from_millis(10)));
    assert_eq!(settings.address(settings.listen), "b.example:3");
    assert_eq!(settings.hosts(), ["b.example"]);
    let expected = NewTopics { partitions: 7, replication_factor: 4, made_when_asked_for: false };
    assert_eq!(settings.kafka.new_topics, expected);
    let told: Vec<_> = given
        .resolve()
        .in_force
        .iter()
        .filter(|setting| setting.setting != "frame-memory")
        .map(|InForce { setting, value, source, at }| {
            format!("{setting} {value} {source} {}", at.as_deref().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "data-dir \"/d\" file m.toml:2:12",
            "listen \"127.0.0.1:1\" flag --listen",
            "advertise \"b.example:3\" file m.toml:4:13",
            "http \"127.0.0.1:9644\" default -",
            "tcp-tls \"off\" default -",
            "tls-cert null default -",
            "tls-key null default -",
            "tls-ca null default -",
            "tls-client-ca null default -",
            "tls-client-auth \"none\" default -",
            "node-id 5 environment MILLSTREAM_NODE_ID",
            "retention-check-ms 10 file m.toml:5:22",
            "compaction-check-ms 15000 default -",
            "catch-up-share 25 default -",
            "ready-file null default -",
            "num.partitions 7 flag --set num.partitions",
            "default.replication.factor 4 environment MILLSTREAM_DEFAULT_REPLICATION_FACTOR",
            "auto.create.topics.enable false file m.toml:9:29",
        ]
    );
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let given = Given {
        flags: &[("node-id", "many"), ("listen", "127.0.0.1:1")],
        environment: &[("MILLSTREAM_CATCH_UP_SHARE", "0"), ("MILLSTREAM_AUTO_CREATE_TOPICS_ENABLE", "perhaps")],
        // One that a flag overrides, too.
        file: "listne = \"127.0.0.1:1\"\nlisten = \"nowhere\"\nhttp = 9644\ndata_dir = \"/d\"\nadvertise = \nnum.partitions = 3\n\
               zzz = 1\n[kafka]\nnum.partitions = 0\nnum.partition = 1\nlog.dirs = \"/\"\n",
        set: &["num.partitions", "num.partitons=1"],
    };
    let told = given.told();
    let lines: Vec<_> = told.lines().map(str::trim).collect();
    for (expected, line) in [
        "15 settings are wrong:",
        "m.toml:1:1: there is no setting listne; did you mean listen?",
        "m.toml:2:10: listen = \"nowhere\": expected an IP address and a port",
        "m.toml:3:8: http: expected text, in quotes",
        "m.toml:4:1: there is no setting data_dir; did you mean data-dir?",
        "m.toml:5:",
        "m.toml:6:1: num is of Kafka's settings: they belong into the table [kafka]",
        "m.toml:7:1: there is no setting zzz: `millstream serve --help` has",
        "m.toml:9:18: num.partitions = 0: expected a number from 1 to 10000",
        "m.toml:10:5: there is no num.partition here; did you mean num.partitions?",
        "m.toml:11:5: there is no log.dirs here: it is the setting data-dir",
        "MILLSTREAM_AUTO_CREATE_TOPICS_ENABLE: \"perhaps\": expected true or false",
        "MILLSTREAM_CATCH_UP_SHARE: \"0\": expected 1 to 100 percent",
        "--node-id: \"many\": expected 0 to 2147483647",
        "--set: \"num.partitions\": expected NAME=VALUE",
        "--set: there is no num.partitons here; did you mean num.partitions?",
    ]
    .into_iter()
    .zip(&lines)
    {
        assert!(line.starts_with(expected), "no {expected:?} in {told}");
    }
    assert_eq!(lines.len(), 16, "{told}");
}

#[test]
fn a_mistake_in_the_file_is_shown_with_its_line() {
    for (text, place, named) in [
        ("node-id = -1", "m.toml:1:11", "0 to 2147483647"),
        ("node-id = \"1\"", "m.toml:1:11", "a number, without quotes"),
        ("node-id = 1.5", "m.toml:1:11", "a number"),
        ("http = \"nowhere\"", "m.toml:1:8", "`none`"),
        ("catch-up-share = 101", "m.toml:1:18", "1 to 100"),
        ("advertise = \"nowhere\"", "m.toml:1:13", "HOST:PORT"),
        ("data-dir = \"\"", "m.toml:1:12", "a path"),
        ("\nretention-check-ms = 0", "m.toml:2:22", "1 or more"),
        ("frame-memory = 99999999999999999999", "m.toml:1:16", "at least 134217728"),
        ("join = [1]", "m.toml:1:8", "a list of them"),
        ("[listen]\nx = 1", "m.toml:1:1", "text"),
        ("[kafka]\nnum.partitions = [1]", "m.toml:2:18", "a number, true, false or text"),
        ("[kafka]\nnum = 1", "m.toml:2:1", "there is no num here"),
    ] {
        let told = of_file(text).told();
        for word in [place, named] {
            assert!(told.contains(word), "{text:?}: no {word:?} in {told}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake_among_others() {
    let dir = tempfile::tempdir().unwrap();
    let check = |path: &Path, said: &str| {
        let mut mistakes = Mistakes::default();
        let file = File::read(path, &mut mistakes);
        assert!(file.entries.is_empty());
        let told = mistakes.to_string();
        assert!(told.contains(path.to_str().unwrap()) && told.contains(said), "{told}");
    };
    check(&dir.path().join("absent.toml"), "No such file");
    check(dir.path(), "directory");
    let path = dir.path().join("bytes.toml");
    std::fs::write(&path, b"listen = \"\xff\"").unwrap();
    check(&path, "UTF-8");
}

#[test]
fn names_of_kafkas_settings_may_be_dotted_quoted_or_tables() {
    let expected = NewTopics { partitions: 6, replication_factor: 3, made_when_asked_for: false };
    for text in [
        "[kafka]\nnum.partitions = 6\ndefault.replication.factor = 3\nauto.create.topics.enable = false",
        "[kafka]\n\"num.partitions\" = 6\n\"default.replication.factor\" = \"3\"\n\"auto.create.topics.enable\" = \"false\"",
        "[kafka]\nnum.partitions = 6\n[kafka.default]\nreplication.factor = 3\n[kafka.auto.create.topics]\nenable = false",
    ] {
        assert_eq!(of_file(text).settings().kafka.new_topics, expected, "{text}");
    }
}

#[test]
fn defaults_of_topics_settings_have_the_brokers_names_for_them_and_kafkas_units() {
    let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let given = Given {
        environment: &[("MILLSTREAM_LOG_RETENTION_BYTES", "1000"), ("MILLSTREAM_LOG_SEGMENT_BYTES", "2097152")],
        file: "[kafka]\nlog.retention.hours = 2\nlog.roll.hours = 3\nlog.cleanup.policy = \"compact,delete\"",
        set: &["log.retention.bytes=-1", "log.retention.minutes=5"],
        ..Given::default()
    };
    let expected = [
        ("cleanup.policy", "compact,delete"),
        ("retention.bytes", "-1"),
        ("retention.ms", "300000"),
        ("segment.bytes", "2097152"),
        ("segment.ms", "10800000"),
    ];
    assert_eq!(given.settings().kafka.topic_defaults, of(&expected), "the finest unit wins, wherever it is given");
    let told: Vec<_> = given.resolve().in_force.iter().filter(|of| of.setting.starts_with("log.")).cloned().collect();
    let told: Vec<_> =
        told.iter().map(|InForce { setting, value, source, .. }| format!("{setting} {value} {source}")).collect();
    let expected = [
        r#"log.cleanup.policy "compact,delete" file"#,
        r#"log.retention.bytes "-1" flag"#,
        r#"log.segment.bytes "2097152" environment"#,
        r#"log.retention.minutes "5" flag"#,
        r#"log.retention.hours "2" file"#,
        r#"log.roll.hours "3" file"#,
    ];
    assert_eq!(told, expected);
    let exact = of_file("[kafka]\nlog.retention.hours = -1\nlog.retention.ms = 7").settings();
    assert_eq!(exact.kafka.topic_defaults, of(&[("retention.ms", "7")]));
    let ever = of_file("[kafka]\nlog.retention.hours = -1").settings();
    assert_eq!(ever.kafka.topic_defaults, of(&[("retention.ms", "-1")]));
    for (text, expected) in [
        ("log.segment.bytes = 1", "m.toml:2:21: log.segment.bytes = 1: expected bytes from 1048576"),
        ("log.retention.hours = -2", "expected hours, or -1"),
        ("log.retention.minutes = 9223372036854775807", "expected minutes, or -1"),
        ("log.roll.hours = -1", "expected hours, 1 or more"),
        ("log.roll.hours = 0", "expected hours, 1 or more"),
        ("compression.type = \"zstd\"", "this version takes producer"),
        ("log.retention.day = 1", "there is no log.retention.day here; did you mean"),
        ("retention.ms = 1", "there is no retention.ms here"),
        ("zookeeper.connect = 1", "there is no zookeeper.connect here; of Kafka's settings there are num.partitions, "),
    ] {
        let file = format!("[kafka]\n{text}");
        let told = of_file(&file).told();
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn memory_is_a_number_of_bytes() {
    assert_eq!(parse_frame_memory("1073741824"), Ok(1 << 30));
    for text in ["1GB", "1024", "", "-1", "1e9"] {
        assert!(parse_frame_memory(text).unwrap_err().contains("1073741824 is 1 GiB"), "{text:?}");
    }
}

#[test]
fn what_is_not_built_is_refused_wherever_it_is_said() {
    let refused = of_file("join = [\"a:1\"]").resolve().settings.unwrap_err().into_error();
    assert!(refused.is::<NotBuilt>() && refused.to_string().contains("not built"), "{refused}");
    let flags = Given { flags: &[("join", "a:1,b:2")], ..Given::default() };
    assert!(flags.told().contains("--join: --join is not built yet"), "{}", flags.told());
    of_file("join = []").settings();
}

#[test]
fn an_http_address_that_was_asked_for_is_told_from_the_default() {
    let check = |flag: Option<&str>, file: &str, expected: Http| {
        let flags: Vec<_> = flag.map(|flag| ("http", flag)).into_iter().collect();
        assert_eq!(Given { flags: &flags, file, ..Given::default() }.settings().http, expected, "{file:?}");
    };
    let default = "127.0.0.1:9644".parse().unwrap();
    check(None, "", Http::IfFree(default));
    check(None, "http = \"127.0.0.1:9644\"", Http::On(default));
    check(Some("127.0.0.1:9644"), "http = \"none\"", Http::On(default));
    check(Some("none"), "http = \"127.0.0.1:9644\"", Http::Off);
    check(Some("off"), "", Http::Off);
}

#[test]
fn tls_on_tcp_is_off_unless_it_is_turned_on() {
    let check = |flag: Option<&str>, file: &str, expected: TcpSecurity| {
        let flags: Vec<_> = flag.map(|flag| ("tcp-tls", flag)).into_iter().collect();
        assert_eq!(Given { flags: &flags, file, ..Given::default() }.settings().tcp, expected, "{flag:?} {file:?}");
    };
    check(None, "", TcpSecurity::Plain);
    check(None, "tcp-tls = \"on\"", TcpSecurity::Tls);
    check(Some("on"), "", TcpSecurity::Tls);
    check(Some("off"), "tcp-tls = \"on\"", TcpSecurity::Plain);
    assert!(of_file("tcp-tls = \"perhaps\"").told().contains("m.toml:1:11: tcp-tls = \"perhaps\": expected `on`"));
}

#[test]
fn certificates_are_given_whole_or_not_at_all() {
    let check = |text: &str, expected: Result<(bool, Option<bool>), &str>| {
        let text = text.replace(' ', "\n");
        let told = of_file(&text).resolve().settings.map_err(|mistakes| mistakes.to_string());
        match (&told, expected) {
            (Ok(settings), Ok(expected)) => {
                let asked = settings.tls.clients.as_ref().map(|clients| clients.required);
                assert_eq!((settings.tls.own.is_some(), asked), expected, "{text:?}");
            }
            (Err(told), Err(words)) => assert!(told.contains(words), "{text:?}: {told}"),
            _ => panic!("{text:?}: {told:?}"),
        }
    };
    check("", Ok((false, None)));
    check("tls-cert=\"c\" tls-key=\"k\"", Ok((true, None)));
    check("tls-cert=\"c\" tls-key=\"k\" tls-ca=\"a\"", Ok((true, None)));
    check("tls-cert=\"c\"", Err("--tls-cert and --tls-key"));
    check("tls-key=\"k\" tls-ca=\"a\"", Err("--tls-cert and --tls-key"));
    check("tls-ca=\"a\"", Err("--tls-cert, which is not given"));
    check("tcp-tls=\"on\" tls-client-ca=\"a\"", Ok((false, Some(true))));
    check("tcp-tls=\"on\" tls-client-ca=\"a\" tls-client-auth=\"required\"", Ok((false, Some(true))));
    check("tls-client-ca=\"a\" tls-client-auth=\"requested\"", Ok((false, Some(false))));
    check("tls-client-ca=\"a\" tls-client-auth=\"none\"", Ok((false, None)));
    check("tls-client-auth=\"none\"", Ok((false, None)));
    check("tls-client-auth=\"required\"", Err("--tls-client-ca FILE"));
    check("tls-client-ca=\"a\"", Err("--tcp-tls on"));
    // Each with its place, and what is wrong by itself is not said to fit badly as well.
    check("node-id=1 tls-cert=\"c\"", Err("m.toml:2:10: --tls-cert and"));
    check("tls-client-ca=\"a\" tcp-tls=\"perhaps\"", Err("m.toml:2:9: tcp-tls = \"perhaps\": expected `on` or `off`"));
    check("tls-client-auth=\"always\"", Err("m.toml:1:17: tls-client-auth = \"always\": expected `none`"));
}

#[test]
fn a_broker_on_every_interface_must_be_told_its_address() {
    for text in ["listen = \"0.0.0.0:5\"", "listen = \"[::]:5\""] {
        let refused = of_file(text).told();
        assert!(refused.starts_with("m.toml:1:10: ") && refused.contains("--advertise HOST:PORT"), "{refused}");
    }
    // One mistake is told once.
    let refused = of_file("listen = \"0.0.0.0:5\"\nadvertise = \"nowhere\"").told();
    assert!(refused.starts_with("m.toml:2:13: advertise") && !refused.contains("--advertise"), "{refused}");
    let settings = of_file("listen = \"0.0.0.0:5\"\nadvertise = \"b.example:6\"").settings();
    assert_eq!(settings.address(settings.listen), "b.example:6");
    assert_eq!(settings.hosts(), ["b.example"]);
    let settings = of_file("listen = \"192.0.2.7:5\"").settings();
    assert_eq!(settings.address(settings.listen), "192.0.2.7:5");
    assert_eq!(settings.hosts(), ["192.0.2.7"]);
}

/// Each flag of the help that takes a value is a setting that is told, and the reverse.
#[test]
fn each_setting_is_a_flag_and_in_the_help() {
    let mut cli = Cli::command();
    let serve = cli.find_subcommand_mut("serve").unwrap();
    let shown: Vec<_> = Given::default().resolve().in_force.iter().map(|setting| setting.setting).collect();
    for flag in serve.get_arguments().filter(|flag| !flag.is_hide_set() && flag.get_action().takes_values()) {
        let name = flag.get_long().unwrap();
        if ["config", "set", "output"].contains(&name) {
            continue;
        }
        assert!(shown.contains(&name), "--{name} is not among {shown:?}");
        assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(variable(name).as_str()), "{name}");
    }
    let help = serve.render_long_help().to_string();
    for name in shown {
        assert!(help.contains(name), "{name} is not in the help");
    }
}
