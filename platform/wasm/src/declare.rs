//! What a module says of itself in `describe`.

use millstream_model::Needs;

use crate::{
    Refused,
    limits::{DECLARATION_BYTES_MAX, DECLARATIONS_MAX, METRICS_MAX},
    text,
    worlds::types::Declaration,
};

/// A name with what the module says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The name; not empty.
    pub name: String,
    /// What is said about it: for people, and for parameters the form of the value.
    pub value: String,
}

/// The declarations of a module, checked. Ids that cross the boundary (of metrics) are places in these lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declarations {
    /// The parameters that it takes (`param`).
    pub params: Vec<Declared>,
    /// The metrics that it reports (`metric`).
    pub metrics: Vec<Declared>,
    /// What it wants to see (`needs`: `key`, which is always seen, `value`, `headers`).
    pub needs: Needs,
    /// The order that it relies on (`order`), if it says.
    pub order: Option<String>,
}

impl Declarations {
    pub(crate) fn new(declared: Vec<Declaration>) -> Result<Self, Refused> {
        let refuse = |reason: String| Err(Refused::Declaration { reason });
        if declared.len() > DECLARATIONS_MAX {
            return refuse(format!("{} declarations; at most {DECLARATIONS_MAX} are allowed", declared.len()));
        }
        let mut declarations = Self::default();
        for Declaration { kind, name, value } in declared {
            for text in [&kind, &name, &value] {
                if text.len() > DECLARATION_BYTES_MAX {
                    return refuse(format!("a text of {} bytes; at most {DECLARATION_BYTES_MAX}", text.len()));
                }
            }
            let shown = || text::clean(&name, 80);
            if name.is_empty() || text::clean(&name, DECLARATION_BYTES_MAX) != name {
                return refuse(format!("the name {:?} of a {:?}", shown(), text::clean(&kind, 80)));
            }
            let entry = Declared { value: text::clean(&value, DECLARATION_BYTES_MAX), name: name.clone() };
            match kind.as_str() {
                "param" => add(&mut declarations.params, entry)?,
                "metric" => add(&mut declarations.metrics, entry)?,
                "needs" => match name.as_str() {
                    "key" => {}
                    "value" => declarations.needs.values = true,
                    "headers" => declarations.needs.headers = true,
                    _ => return refuse(format!("it needs {:?}; known are key, value and headers", shown())),
                },
                "order" => declarations.order = Some(entry.name),
                "store" => {
                    return Err(Refused::NotBuilt { name: format!("keyed state (the store {:?})", shown()) });
                }
                // Says which form the state has; there is none yet.
                "state-version" => {}
                _ => return refuse(format!("the unknown kind {:?}", text::clean(&kind, 80))),
            }
        }
        if declarations.metrics.len() > METRICS_MAX {
            return refuse(format!("{} metrics; at most {METRICS_MAX}", declarations.metrics.len()));
        }
        Ok(declarations)
    }
}

fn add(list: &mut Vec<Declared>, entry: Declared) -> Result<(), Refused> {
    if list.iter().any(|other| other.name == entry.name) {
        return Err(Refused::Declaration { reason: format!("{:?} is declared twice", entry.name) });
    }
    list.push(entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declare(declared: &[(&str, &str, &str)]) -> Result<Declarations, Refused> {
        let declaration = |&(kind, name, value): &(&str, &str, &str)| Declaration {
            kind: kind.into(),
            name: name.into(),
            value: value.into(),
        };
        Declarations::new(declared.iter().map(declaration).collect())
    }

    #[test]
    fn legal_declarations_are_sorted_into_their_lists() {
        let got = declare(&[("param", "field", "string"), ("metric", "seen", ""), ("needs", "value", "")]).unwrap();
        assert_eq!(got.params, [Declared { name: "field".into(), value: "string".into() }]);
        assert_eq!(got.metrics.len(), 1);
        assert_eq!(got.needs, Needs { values: true, headers: false });
    }

    #[test]
    fn illegal_ones_are_refused_with_a_reason() {
        for bad in [
            ("param", "", ""),
            ("param", "a\nb", ""),
            ("needs", "the-moon", ""),
            ("wish", "x", ""),
            ("param", &*"x".repeat(2000), ""),
        ] {
            assert!(matches!(declare(&[bad]), Err(Refused::Declaration { .. })), "{bad:?}");
        }
        assert!(matches!(declare(&[("param", "a", ""), ("param", "a", "")]), Err(Refused::Declaration { .. })));
        assert!(matches!(declare(&[("store", "s", "")]), Err(Refused::NotBuilt { .. })));
        assert!(matches!(declare(&vec![("needs", "key", ""); 257]), Err(Refused::Declaration { .. })));
        let metrics: Vec<_> = (0..65).map(|i| format!("m{i}")).collect();
        let metrics: Vec<_> = metrics.iter().map(|name| ("metric", name.as_str(), "")).collect();
        assert!(matches!(declare(&metrics), Err(Refused::Declaration { .. })));
    }
}
