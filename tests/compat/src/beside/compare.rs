//! Two answers to the same, field by field, and where they differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::leaves::{CONNECTION, Leaves};

/// What a difference's field is where one broker has items by name that the other has not: settings, say.
const ONLY: &str = "only one has";

/// One field in which the two answers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What was asked.
    pub what: String,
    /// In which versions, or by which clients.
    pub at: String,
    /// The field.
    pub field: String,
    /// What ours says; empty where it does not have the field.
    pub ours: String,
    /// What theirs says.
    pub theirs: String,
}

/// Differences by what was asked, field, and the two answers; and where each came up.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<(String, String, String, String), BTreeSet<String>>);

impl Found {
    /// Compares two answers to the same.
    pub(super) fn compare(&mut self, what: &str, at: &str, ours: &Leaves, theirs: &Leaves) {
        let connection = |leaves: &Leaves| leaves.get(CONNECTION).cloned().unwrap_or_default();
        if connection(ours) != connection(theirs) {
            // There is nothing to hold one's fields against.
            return self.add(what, CONNECTION, &connection(ours), &connection(theirs), at);
        }
        let (mut only_ours, mut only_theirs) = (BTreeSet::new(), BTreeSet::new());
        let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for path in paths {
            let (one, other) = (ours.get(path).map_or("", String::as_str), theirs.get(path).map_or("", String::as_str));
            let (names, lacking) = match (ours.get(path), theirs.get(path)) {
                (Some(_), None) => (&mut only_ours, theirs),
                (None, Some(_)) => (&mut only_theirs, ours),
                (one, other) if one == other => continue,
                _ => {
                    self.add(what, path, one, other, at);
                    continue;
                }
            };
            match missing_item(path, lacking) {
                // The list's length tells it.
                Some(item) if item.parse::<usize>().is_ok() => {}
                Some(item) => drop(names.insert(item)),
                None => self.add(what, path, one, other, at),
            }
        }
        let listed = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
        if !only_ours.is_empty() || !only_theirs.is_empty() {
            self.add(what, ONLY, &listed(only_ours), &listed(only_theirs), at);
        }
    }

    fn add(&mut self, what: &str, field: &str, ours: &str, theirs: &str, at: &str) {
        let key = (what.to_owned(), field.trim_start_matches('.').to_owned(), ours.to_owned(), theirs.to_owned());
        self.0.entry(key).or_default().insert(at.to_owned());
    }

    /// What was found, with the places of each as `join` tells them.
    pub(super) fn into_differences(self, join: fn(&BTreeSet<String>) -> String) -> Vec<Difference> {
        let difference = |((what, field, ours, theirs), places): ((String, String, String, String), BTreeSet<_>)| {
            Difference { what, at: join(&places), field, ours, theirs }
        };
        self.0.into_iter().map(difference).collect()
    }
}

/// The outermost item on this path that an answer has nothing of: its name, or its number.
fn missing_item<'a>(path: &'a str, lacking: &Leaves) -> Option<&'a str> {
    let mut ends = path.match_indices(']').map(|(at, _)| at);
    let end = ends.find(|end| {
        let item = &path[..=*end];
        let mut from_it = lacking.range::<str, _>((Bound::Included(item), Bound::Unbounded));
        !from_it.next().is_some_and(|(path, _)| path.starts_with(item))
    })?;
    path[..end].rsplit_once('[').map(|(_, item)| item)
}

/// Numbers as ranges: 4-12, 14.
pub(super) fn ranges(numbers: &BTreeSet<String>) -> String {
    let mut numbers: Vec<i16> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
    numbers.sort_unstable();
    let mut ranges: Vec<(i16, i16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = |(first, last): &(i16, i16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Names, one after another.
pub(super) fn names(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(fields: &[(&str, &str)]) -> Leaves {
        fields.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    /// The field and the two answers of each difference.
    fn check(ours: &[(&str, &str)], theirs: &[(&str, &str)], expected: &[(&str, &str, &str)]) {
        let mut found = Found::default();
        found.compare("Fetch: x", "4", &leaves(ours), &leaves(theirs));
        let differences = found.into_differences(ranges);
        let told = differences.iter().map(|it| (it.field.as_str(), it.ours.as_str(), it.theirs.as_str()));
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_field_that_differs_is_found_and_versions_are_put_together() {
        let code = |code: &str| leaves(&[(".a.error_code", code)]);
        let mut found = Found::default();
        for version in [3, 4, 5, 7, 10] {
            found.compare("Fetch: x", &version.to_string(), &code("3"), &code("1"));
        }
        found.compare("Fetch: x", "8", &code("1"), &code("1"));
        let differences = found.into_differences(ranges);
        let [difference] = differences.as_slice() else { panic!("{differences:?}") };
        assert_eq!((difference.at.as_str(), difference.field.as_str()), ("3-5, 7, 10", "a.error_code"));
        assert_eq!((difference.ours.as_str(), difference.theirs.as_str()), ("3", "1"));
    }

    #[test]
    fn items_that_only_one_has_are_told_together_by_name_and_by_the_lists_length() {
        let ours = [(".configs[a.b].value", "1"), (".configs[a.b].source", "2"), (".configs[c].value", "1")];
        let theirs = [(".configs[c].value", "1"), (".configs[d].value", "1")];
        check(&ours, &theirs, &[(ONLY, "a.b", "d")]);
        let ours = [(".topics.count", "1"), (".topics[0].code", "0")];
        let theirs = [(".topics.count", "2"), (".topics[0].code", "0"), (".topics[1].code", "3")];
        check(&ours, &theirs, &[("topics.count", "1", "2")]);
        // The item is there: a field of it is not.
        check(&[(".topics[0].a", "1"), (".topics[0].b", "2")], &[(".topics[0].a", "1")], &[("topics[0].b", "2", "")]);
    }

    #[test]
    fn where_one_does_not_answer_that_is_the_difference() {
        let ours = [(CONNECTION, "answers"), (".code", "3")];
        check(&ours, &[(CONNECTION, "closed")], &[(CONNECTION, "answers", "closed")]);
    }
}
