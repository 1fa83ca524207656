//! `serve --check-config`: the settings in force and where each is from, or all that is wrong with them. Certificates that are named are
//! looked at as a start does. Nothing is made, bound or locked.

use super::{
    settings::{InForce, Resolved},
    tls,
};
use crate::output::{Output, Table};

/// Tells them.
///
/// # Errors
/// What is wrong: for people in words, and to programs as lines of their own before that. Or a certificate that cannot be used.
pub(super) fn tell(resolved: Resolved, output: Output) -> anyhow::Result<()> {
    match resolved.settings {
        Ok(settings) => {
            tls::check(&settings.tls)?;
            output.list(&resolved.in_force, "", table)
        }
        Err(mistakes) => {
            if output == Output::Json {
                output.list(&mistakes.shown(), "", |_| Table::new(["mistake"]))?;
            }
            Err(mistakes.into_usage())
        }
    }
}

fn table(in_force: &[InForce]) -> Table {
    let mut table = Table::new(["setting", "value", "source", "at"]);
    for InForce { setting, value, source, at } in in_force {
        let value = match value {
            serde_json::Value::Null => "none".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        table.row([(*setting).to_owned(), value, (*source).to_owned(), at.clone().unwrap_or_default()]);
    }
    table
}
