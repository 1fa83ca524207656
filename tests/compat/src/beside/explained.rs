//! Why Millstream answers otherwise than Apache Kafka, where it does and means to: reasons, and which differences each is for.

use super::compare::Difference;

mod clients;
mod requests;

pub use self::{clients::CLIENTS, requests::REQUESTS};

/// A reason, and where it holds.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    /// In a few words: a heading.
    pub title: &'static str,
    /// In whole sentences, for those who come from Kafka: why it is so, and what follows for them.
    pub why: &'static str,
    /// Each of them meets a difference.
    pub places: &'static [Place],
}

/// Differences that are alike: all four parts fit.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What was asked begins with this.
    what: &'static str,
    /// The field ends with this.
    field: &'static str,
    /// What ours says; [`ANY`] is whatever it says.
    ours: &'static str,
    /// What theirs says; [`ANY`] is whatever it says.
    theirs: &'static str,
}

/// Any answer.
const ANY: &str = "*";

const fn place(what: &'static str, field: &'static str, ours: &'static str, theirs: &'static str) -> Place {
    Place { what, field, ours, theirs }
}

impl Place {
    fn fits(&self, difference: &Difference) -> bool {
        let says = |wanted: &str, said: &str| wanted == ANY || wanted == said;
        difference.what.starts_with(self.what)
            && difference.field.ends_with(self.field)
            && says(self.ours, &difference.ours)
            && says(self.theirs, &difference.theirs)
    }
}

/// The differences that have one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The reason's heading.
    pub title: String,
    /// The reason.
    pub why: String,
    /// At least one.
    pub differences: Vec<Difference>,
}

/// Differences with what is known of them.
#[derive(Debug, Default)]
pub struct Explained {
    /// By reason, in the order of the reasons.
    pub groups: Vec<Group>,
    /// Those that nobody has explained.
    pub unexplained: Vec<Difference>,
    /// The places that meet no difference any more: what they explain has changed.
    pub unmet: Vec<String>,
}

/// Sorts differences by the first reason that fits each.
#[must_use]
pub fn explain(reasons: &[Reason], differences: Vec<Difference>) -> Explained {
    let mut by_reason: Vec<Vec<Difference>> = vec![Vec::new(); reasons.len()];
    let mut met: Vec<Vec<bool>> = reasons.iter().map(|reason| vec![false; reason.places.len()]).collect();
    let mut explained = Explained::default();
    for difference in differences {
        let all = reasons
            .iter()
            .enumerate()
            .flat_map(|(at, reason)| reason.places.iter().enumerate().map(move |it| (at, it)));
        match all.into_iter().find(|(_, (_, place))| place.fits(&difference)) {
            None => explained.unexplained.push(difference),
            Some((reason, (place, _))) => {
                met[reason][place] = true;
                by_reason[reason].push(difference);
            }
        }
    }
    for ((reason, differences), met) in reasons.iter().zip(by_reason).zip(met) {
        let unmet = reason.places.iter().zip(met).filter(|(_, met)| !met);
        explained.unmet.extend(unmet.map(|(place, _)| format!("{}: {place:?}", reason.title)));
        if !differences.is_empty() {
            explained.groups.push(Group { title: reason.title.to_owned(), why: reason.why.to_owned(), differences });
        }
    }
    explained
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASONS: &[Reason] = &[
        Reason { title: "one", why: "Because.", places: &[place("Fetch: x", ".error_code", "3", ANY)] },
        Reason {
            title: "two",
            why: "Therefore.",
            places: &[place("", "_code", ANY, "1"), place("Produce", "", "", "")],
        },
    ];

    fn difference(what: &str, field: &str, ours: &str, theirs: &str) -> Difference {
        let text = str::to_owned;
        Difference { what: text(what), at: text("4-7"), field: text(field), ours: text(ours), theirs: text(theirs) }
    }

    #[test]
    fn each_difference_has_the_first_reason_that_fits_and_what_fits_none_is_told() {
        let first = difference("Fetch: x", "a.error_code", "3", "1");
        let second = difference("Fetch: x", "a.error_code", "4", "1");
        let other = difference("Fetch: x", "a.error_code", "4", "2");
        let told = explain(REASONS, vec![second.clone(), first.clone(), other.clone()]);
        let group = |reason: &Reason, difference| Group {
            title: reason.title.to_owned(),
            why: reason.why.to_owned(),
            differences: vec![difference],
        };
        assert_eq!(told.groups, [group(&REASONS[0], first), group(&REASONS[1], second)]);
        assert_eq!(told.unexplained, [other]);
    }

    #[test]
    fn a_place_that_meets_no_difference_any_more_is_told() {
        let told = explain(REASONS, vec![difference("Fetch: x", "a.error_code", "3", "1")]);
        let [first, second] = &told.unmet[..] else { panic!("{:?}", told.unmet) };
        assert!(first.contains("_code") && second.contains("Produce"), "{:?}", told.unmet);
        assert_eq!(told.groups.len(), 1);
    }
}
