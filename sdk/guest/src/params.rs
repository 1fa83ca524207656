//! Parameters: what a module declares, and what a deployment gives it.

use std::fmt::Display;
use std::str::FromStr;

use crate::failure::Failure;

/// A parameter that a module takes, shown by `millstream module describe` and checked before `init` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    name: &'static str,
    presence: Presence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
    Default(&'static str),
}

impl Param {
    /// `init` does not run without it.
    pub const fn required(name: &'static str) -> Self {
        Param { name, presence: Presence::Required }
    }

    /// May be left out.
    pub const fn optional(name: &'static str) -> Self {
        Param { name, presence: Presence::Optional }
    }

    /// Is `value` where it is left out.
    pub const fn default(name: &'static str, value: &'static str) -> Self {
        Param { name, presence: Presence::Default(value) }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// As declared to the broker: `required`, `optional` or `default=...`.
    pub(crate) fn declared(&self) -> String {
        match self.presence {
            Presence::Required => "required".to_owned(),
            Presence::Optional => "optional".to_owned(),
            Presence::Default(value) => format!("default={value}"),
        }
    }
}

/// What a deployment gives to `init`.
///
/// The modules of a view's chain share one set of parameters, so names that a module does not know are not its business:
/// the broker refuses those that none of them declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) values: Vec<(String, String)>,
    pub(crate) host: Vec<(String, String)>,
}

impl Params {
    /// Fills in the defaults of `declared`.
    ///
    /// # Errors
    /// A required parameter is missing.
    pub(crate) fn complete(mut self, declared: &[Param]) -> Result<Self, Failure> {
        for param in declared {
            if self.value(param.name).is_some() {
                continue;
            }
            match param.presence {
                Presence::Required => return Err(missing(param.name)),
                Presence::Optional => {}
                Presence::Default(value) => self.values.push((param.name.to_owned(), value.to_owned())),
            }
        }
        Ok(self)
    }

    /// The value of a parameter, or its declared default.
    pub fn value(&self, name: &str) -> Option<&str> {
        find(&self.values, name)
    }

    /// The value of a parameter that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn required(&self, name: &str) -> Result<&str, Failure> {
        self.value(name).ok_or_else(|| missing(name))
    }

    /// The value of a parameter that must be there, as a `T`.
    ///
    /// # Errors
    /// It is not there, or not a `T`.
    pub fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, Failure> {
        let value = self.required(name)?;
        value.parse().map_err(|error| Failure::config(format_args!("parameter `{name}` is `{value}`: {error}")))
    }

    /// Whether a switch is on: `true` or `false`, and off where it is left out.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.value(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Failure::config(format_args!("parameter `{name}` is `{other}`: it is true or false"))),
        }
    }

    /// The parts of a comma-separated list, trimmed, empty ones dropped; none where it is left out.
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.value(name).unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
    }

    /// The topics that the module reads.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// The topics that the module's outputs go to, by output number; none in partitioners and views.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Something the broker says about itself.
    pub fn host(&self, name: &str) -> Option<&str> {
        find(&self.host, name)
    }
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
}

fn missing(name: &str) -> Failure {
    Failure::config(format_args!("parameter `{name}` is missing: give it with `--param {name}=...`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(values: &[(&str, &str)]) -> Params {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Params { values, ..Params::default() }
    }

    #[test]
    fn declared_defaults_are_filled_in_and_what_is_required_must_be_there() {
        const DECLARED: &[Param] = &[Param::required("field"), Param::optional("note"), Param::default("min", "15")];
        let complete = params(&[("field", "tailnum"), ("other", "x")]).complete(DECLARED).unwrap();
        assert_eq!(complete.parse::<i64>("min"), Ok(15));
        assert_eq!(complete.value("note"), None);
        let refused = params(&[("min", "3")]).complete(DECLARED).unwrap_err();
        assert_eq!(refused.code_in_init(), 1);
        assert!(refused.message().contains("`field` is missing"), "{refused}");
    }

    #[test]
    fn values_of_the_wrong_type_are_refused_with_their_name() {
        let params = params(&[("min", "soon"), ("strict", "yes")]);
        assert!(params.parse::<i64>("min").unwrap_err().message().starts_with("parameter `min` is `soon`"));
        assert!(params.flag("strict").unwrap_err().message().contains("true or false"));
        assert_eq!(params.flag("absent"), Ok(false));
    }

    #[test]
    fn lists_are_trimmed() {
        let params = params(&[("fields", " tailnum, ,flight,")]);
        assert_eq!(params.list("fields").collect::<Vec<_>>(), ["tailnum", "flight"]);
        assert_eq!(params.list("absent").count(), 0);
    }
}
