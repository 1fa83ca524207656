//! `millstream view`: topics that are computed as they are read.

use clap::{Args, Subcommand};
use millstream_client::ViewInfo;
use serde::Serialize;
use serde_json::json;

use super::connect::connect;
use crate::{
    flags::{Common, Form, Named},
    output::{Details, Table, joined},
    values::{Pair, pairs},
};

/// What to do with views.
#[derive(Debug, Subcommand)]
pub(crate) enum View {
    /// Create a view; from then on it is read by its name wherever a topic is.
    Create(Create),
    /// List the views.
    List(Form),
    /// Show one view.
    Describe(Named),
    /// Delete a view; its topic stays.
    Delete(Named),
}

/// A view to create.
#[derive(Debug, Args)]
#[command(after_help = "\
Modules of a chain are filters or mappers.

Examples:
  millstream view create flights-public --topic flights --chain view-redact@1 --param fields=tailnum --param key=drop
  millstream view create long-delays --topic flights --chain view-filter@1 --param field=dep_delay --param op=ge --param value=180")]
pub(crate) struct Create {
    /// The view's name; no topic may have it.
    name: String,
    /// The topic that it shows.
    #[arg(long)]
    topic: String,
    /// The modules that records pass, first to last, comma-separated.
    #[arg(long, required = true, value_delimiter = ',', value_name = "MODULE@VERSION")]
    chain: Vec<String>,
    /// A parameter for the modules; may be repeated.
    #[arg(long, value_name = "K=V")]
    param: Vec<Pair>,
    #[command(flatten)]
    form: Form,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    view_id: String,
    topic: String,
    chain: Vec<String>,
    params: serde_json::Map<String, serde_json::Value>,
}

impl From<ViewInfo> for Shown {
    fn from(view: ViewInfo) -> Self {
        Self {
            name: view.name,
            view_id: view.view_id.to_string(),
            topic: view.topic,
            chain: view.chain,
            params: view.params.into_iter().map(|pair| (pair.name, pair.value.into())).collect(),
        }
    }
}

impl Shown {
    fn params(&self) -> String {
        let shown =
            |(name, value): (&String, &serde_json::Value)| format!("{name}={}", value.as_str().unwrap_or_default());
        joined(&self.params.iter().map(shown).collect::<Vec<_>>())
    }
}

impl View {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        let client = connect(common).await?;
        let admin = client.admin();
        match self {
            Self::Create(Create { name, topic, chain, param, form }) => {
                let id = admin.create_view(&name, &topic, &chain, &pairs("--param", param)?).await?;
                let sentence = format!("view {name} shows topic {topic} through {}", joined(&chain));
                form.output.done(&json!({"name": name, "view_id": id.to_string()}), &sentence)
            }
            Self::List(form) => {
                let views: Vec<Shown> = admin.list_views(None).await?.into_iter().map(Shown::from).collect();
                form.output.list(&views, "no views", |views| {
                    let mut table = Table::new(["name", "topic", "chain", "params"]);
                    for view in views {
                        table.row([view.name.clone(), view.topic.clone(), joined(&view.chain), view.params()]);
                    }
                    table
                })
            }
            Self::Describe(Named { name, form }) => {
                let found = admin.describe_view(&name).await?;
                form.output.one(&Shown::from(found), |view| {
                    Details::default()
                        .field("view", &view.name)
                        .field("id", &view.view_id)
                        .field("topic", &view.topic)
                        .field("chain", joined(&view.chain))
                        .field("params", view.params())
                })
            }
            Self::Delete(Named { name, form }) => {
                admin.delete_view(&name).await?;
                form.output.done(&json!({"name": name}), &format!("view {name} is deleted"))
            }
        }
    }
}
