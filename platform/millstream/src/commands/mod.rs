//! The commands, one file or folder per family.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod completions;
mod connect;
pub(crate) mod consume;
pub(crate) mod module;
pub(crate) mod not_built;
pub(crate) mod produce;
pub(crate) mod serve;
pub(crate) mod topic;
pub(crate) mod transform;
pub(crate) mod view;

use crate::{
    args::{Cli, Command},
    log_filter::LogFilter,
};

/// Does what was asked. `log`: what a broker's operators may change.
pub(crate) async fn run(cli: Cli, log: LogFilter) -> anyhow::Result<()> {
    let Cli { common, command } = cli;
    match command {
        Command::Serve(serve) => serve.run(log).await,
        Command::Topic(topic) => topic.run(&common).await,
        Command::Produce(produce) => produce.run(&common).await,
        Command::Consume(consume) => consume.run(&common).await,
        Command::Module(module) => module.run(&common).await,
        Command::View(view) => view.run(&common).await,
        Command::Transform(transform) => transform.run(&common).await,
        Command::Cluster(cluster) => cluster.run(&common).await,
        Command::Group(_) => not_built::refuse("group", "read with `consume --partition` and `--from` meanwhile"),
        Command::Acl(_) => not_built::refuse(
            "acl",
            "whoever reaches the port may do everything: keep it on loopback, or ask clients for certificates (`serve --tls-client-ca`)",
        ),
        Command::Bench(bench) => bench.run(&common).await,
        Command::Completions(completions) => completions.run(),
    }
}
