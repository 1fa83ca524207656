//! The committed tables are what a run writes: of all clients and all cases, and in the generator's form.

use millstream_test_support::tree;
use millstream_tests_compat::{
    beside::{
        explained::{self, explain},
        report::Report,
    },
    case::Case,
    clients::CLIENTS,
    table::Table,
};

#[test]
fn the_committed_table_is_what_a_run_writes_of_all_clients_and_cases() {
    let text = tree::text("tests/compat/COMPATIBILITY.md").unwrap();
    let table = Table::parse(&text).unwrap();
    assert_eq!(table.render(), text);
    assert_eq!(table.cases, Case::ALL.map(Case::title));
    let limits: Vec<_> = CLIENTS.iter().map(|client| (client.name.to_owned(), client.limits())).collect();
    let told: Vec<_> = table.columns.into_iter().map(|column| (column.client, column.limits)).collect();
    assert_eq!(told, limits);
}

/// What was explained otherwise since, or is not explained any more, is seen without a run.
#[test]
fn the_committed_differences_are_explained_as_they_are_now() {
    let text = tree::text("tests/compat/DIFFERENCES.md").unwrap();
    let report = Report::parse(&text).unwrap();
    assert_eq!(report.render(), text);
    assert!(report.asked.requests > 1_000 && report.asked.cases > 200, "{:?}", report.asked);
    for (reasons, groups) in [(explained::REQUESTS, report.requests), (explained::CLIENTS, report.clients)] {
        let mut differences: Vec<_> = groups.iter().flat_map(|group| group.differences.clone()).collect();
        // As a run finds them.
        differences.sort_by_key(|it| [&it.what, &it.field, &it.ours, &it.theirs].map(String::clone));
        let now = explain(reasons, differences);
        assert_eq!((now.groups, now.unexplained, now.unmet), (groups, Vec::new(), Vec::new()));
    }
}
