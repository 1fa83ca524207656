//! The committed tables are what a run writes: of all clients and all cases, and in the generator's form.

use millstream_test_support::tree;
use millstream_tests_compat::{case::Case, clients::CLIENTS, table::Table};

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
