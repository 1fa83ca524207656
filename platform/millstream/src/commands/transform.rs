//! `millstream transform`: modules that turn topics into topics.

use clap::{Args, Subcommand, ValueEnum};
use millstream_client::{
    Pair as WirePair, Resumed, TransformDeployRequest, TransformDescribeResponse, TransformInfo, TransformPartition,
};
use serde::Serialize;
use serde_json::json;

use super::{connect::connect, not_built};
use crate::{
    failure::{NotBuilt, Usage},
    flags::{Common, Form, Named},
    output::{Details, Output, Table, joined, say},
    values::{Pair, pairs},
};

/// What to do with transforms.
#[derive(Debug, Subcommand)]
pub(crate) enum Transform {
    /// Deploy a module as a transform, which starts at once.
    Deploy(Deploy),
    /// List the transforms.
    List(Form),
    /// Show one transform and how far it is.
    Describe(Named),
    /// Delete a transform; its topics stay.
    Delete(Named),
    /// Stop a transform until it is resumed.
    Pause(Named),
    /// Have a transform that was paused or has failed go on where it stood.
    Resume(Resume),
    #[command(hide = true, disable_help_flag = true)]
    Logs(not_built::Words),
    #[command(hide = true, disable_help_flag = true)]
    Upgrade(not_built::Words),
    #[command(hide = true, disable_help_flag = true)]
    Rollback(not_built::Words),
    #[command(hide = true, disable_help_flag = true)]
    Replay(not_built::Words),
}

/// A transform to deploy.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream transform deploy late-flights --module transform-flights@1 --input flights --output delayed --output unparsed
  millstream transform deploy marked --module marker@1 --input flights --output marked --from end --on-error skip")]
pub(crate) struct Deploy {
    /// The transform's name.
    name: String,
    /// The module.
    #[arg(long, value_name = "MODULE@VERSION")]
    module: String,
    /// A topic that it reads; may be repeated.
    #[arg(long, required = true, value_name = "TOPIC")]
    input: Vec<String>,
    /// A topic that it writes; repeated in the order of the module's outputs. `table` and `json` are not topics here but the
    /// form of the answer, as in every command: topics of these names are written topic:table and topic:json.
    #[arg(long, required = true, value_name = "TOPIC|table|json")]
    output: Vec<String>,
    /// A parameter for the module; may be repeated.
    #[arg(long, value_name = "K=V")]
    param: Vec<Pair>,
    /// What happens when a record fails; it stays as it was deployed.
    #[arg(long, value_enum, default_value_t = OnError::Fail)]
    on_error: OnError,
    /// Where it starts in its inputs: beginning, end or an offset.
    #[arg(long, value_name = "WHERE", default_value = "beginning", value_parser = parse_from)]
    from: String,
    /// How many lanes a partition has; more than one is not built yet.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, hide = true)]
    lanes: i32,
}

/// A transform to resume.
#[derive(Debug, Args)]
#[command(after_help = "\
A record that the module fails on is tried again, and stops the transform again if it fails again: mend the cause first, or leave \
that record out with --skip. It is the record that `millstream transform describe NAME` shows as FAILED AT, and no other. To leave \
out whatever fails, deploy with --on-error skip.

Examples:
  millstream transform resume late-flights
  millstream transform resume late-flights --skip")]
pub(crate) struct Resume {
    /// Its name.
    name: String,
    /// Go on after the record that it has failed at, which is left out.
    #[arg(long)]
    skip: bool,
    #[command(flatten)]
    form: Form,
}

/// What happens when a record fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// The transform stops there and shows the error; `transform resume NAME --skip` leaves that record out.
    Fail,
    /// The record is left out, counted and told in the broker's log; after 1000 in a row the transform stops all the same.
    Skip,
    /// It is tried again (not built yet).
    #[value(hide = true)]
    Retry,
    /// It goes to a topic of failed records (not built yet).
    #[value(hide = true)]
    Dlq,
    /// It goes to a topic of failed records, and so do later ones of its key (not built yet).
    #[value(hide = true)]
    ParkKey,
}

impl OnError {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Retry => "retry",
            Self::Dlq => "dlq",
            Self::ParkKey => "park-key",
        }
    }
}

fn parse_from(text: &str) -> Result<String, String> {
    let offset = text.parse::<i64>().is_ok_and(|offset| offset >= 0);
    match text {
        // As `consume` takes them, too.
        "beginning" | "start" | "earliest" => Ok("beginning".into()),
        "end" | "latest" => Ok("end".into()),
        _ if offset => Ok(text.into()),
        _ => Err("expected beginning, end or an offset".into()),
    }
}

/// Takes topics and the form of the answer apart, which share a flag: no topic's name holds a colon.
fn topics_and_form(words: Vec<String>) -> Result<(Vec<String>, Form), Usage> {
    let mut form = Form::default();
    let mut topics = Vec::new();
    for word in words {
        match (word.as_str(), word.strip_prefix("topic:")) {
            ("table", _) => form.output = Output::Table,
            ("json", _) => form.output = Output::Json,
            (_, Some(topic)) => topics.push(topic.to_owned()),
            (_, None) => topics.push(word),
        }
    }
    if topics.is_empty() {
        return Err(Usage("--output names no topic: give --output TOPIC for each output of the module".into()));
    }
    Ok((topics, form))
}

impl Deploy {
    fn request(self) -> anyhow::Result<(TransformDeployRequest, Form)> {
        if self.lanes > 1 {
            let what = format!("--lanes {}: more than one of the lanes of a partition", self.lanes);
            return Err(NotBuilt::new(what, "leave it out, and give the topic more partitions").into());
        }
        let params = pairs("--param", self.param)?.into_iter().map(|(name, value)| WirePair { name, value });
        let (outputs, form) = topics_and_form(self.output)?;
        let request = TransformDeployRequest {
            name: self.name,
            module: self.module,
            inputs: self.input,
            outputs,
            params: params.collect(),
            on_error: self.on_error.as_str().into(),
            from: self.from,
            lanes: self.lanes,
        };
        Ok((request, form))
    }
}

#[derive(Serialize)]
struct Line {
    name: String,
    transform_id: String,
    state: String,
    error: Option<String>,
    module: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    params: serde_json::Map<String, serde_json::Value>,
    on_error: String,
    from: String,
    lanes: i32,
    /// Null when it is not known.
    lag: Option<i64>,
    /// Records left out since the broker's start.
    left_out: i64,
    /// The record that it has failed at, `TOPIC/PARTITION@OFFSET`.
    failed_at: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    line: Line,
    partitions: Vec<ShownPartition>,
}

#[derive(Serialize)]
struct ShownPartition {
    input: String,
    partition: i32,
    next_offset: i64,
    end_offset: i64,
    lag: i64,
    records_in: i64,
    records_out: i64,
    errors: i64,
    left_out: i64,
    error: Option<String>,
}

impl From<TransformInfo> for Line {
    fn from(found: TransformInfo) -> Self {
        Self {
            name: found.name,
            transform_id: found.transform_id.to_string(),
            state: found.state,
            error: found.error,
            module: found.module,
            inputs: found.inputs,
            outputs: found.outputs,
            params: found.params.into_iter().map(|pair| (pair.name, pair.value.into())).collect(),
            on_error: found.on_error,
            from: found.from,
            lanes: found.lanes,
            lag: Some(found.lag).filter(|lag| *lag >= 0),
            left_out: found.left_out,
            failed_at: found.failed_at,
        }
    }
}

impl From<TransformPartition> for ShownPartition {
    fn from(at: TransformPartition) -> Self {
        Self {
            input: at.input,
            partition: at.partition.0,
            next_offset: at.next_offset.0,
            end_offset: at.end_offset.0,
            lag: at.lag,
            records_in: at.records_in,
            records_out: at.records_out,
            errors: at.errors,
            left_out: at.left_out,
            error: at.error,
        }
    }
}

impl From<TransformDescribeResponse> for Shown {
    fn from(found: TransformDescribeResponse) -> Self {
        let partitions = found.partitions.into_iter().map(ShownPartition::from).collect();
        Self { line: found.transform.into(), partitions }
    }
}

impl Transform {
    pub(crate) async fn run(self, common: &Common) -> anyhow::Result<()> {
        match self {
            Self::Deploy(deploy) => {
                let (request, form) = deploy.request()?;
                let name = request.name.clone();
                let sentence = format!(
                    "transform {} is deployed: it turns {} into {} with {}",
                    request.name,
                    joined(&request.inputs),
                    joined(&request.outputs),
                    request.module
                );
                let admin = connect(common).await?.admin();
                let id = admin.deploy_transform(request).await?;
                // Deployed it is, whether or not this can be told.
                if let Ok(found) = admin.describe_transform(&name).await {
                    found.partitions.iter().filter_map(waits_for_its_start).for_each(say);
                }
                form.output.done(&json!({"name": name, "transform_id": id.to_string()}), &sentence)
            }
            Self::List(form) => {
                let found = connect(common).await?.admin().list_transforms().await?;
                let lines: Vec<Line> = found.into_iter().map(Line::from).collect();
                form.output.list(&lines, "no transforms", table)
            }
            Self::Describe(Named { name, form }) => {
                let found = connect(common).await?.admin().describe_transform(&name).await?;
                form.output.one(&Shown::from(found), details)
            }
            Self::Delete(Named { name, form }) => {
                connect(common).await?.admin().delete_transform(&name).await?;
                form.output.done(&json!({"name": name}), &format!("transform {name} is deleted"))
            }
            Self::Pause(Named { name, form }) => {
                let is_new = connect(common).await?.admin().pause_transform(&name).await?;
                let was = if is_new { "is paused" } else { "was paused already: nothing is changed" };
                form.output.done(&json!({"name": name}), &format!("transform {name} {was}"))
            }
            Self::Resume(resume) => resume.run(common).await,
            Self::Logs(_) => not_built::refuse("transform logs", "what modules log is in the broker's log"),
            Self::Upgrade(_) => not_built::refuse("transform upgrade", "deploy the new version under another name"),
            Self::Rollback(_) => not_built::refuse("transform rollback", "deploy the old version under another name"),
            Self::Replay(_) => not_built::refuse("transform replay", "deploy it under another name with `--from`"),
        }
    }
}

impl Resume {
    async fn run(self, common: &Common) -> anyhow::Result<()> {
        let Self { name, skip, form } = self;
        let admin = connect(common).await?.admin();
        if skip {
            let record = admin.resume_transform_without_record(&name).await?;
            let sentence = format!("transform {name} goes on after the record {record}, which is left out");
            return form.output.done(&json!({"name": name, "left_out": record}), &sentence);
        }
        let resumed = admin.resume_transform(&name).await?;
        form.output.done(&json!({"name": name}), &told(&name, &resumed))
    }
}

/// What resuming came to; it is not promised that a record that failed will not fail again.
fn told(name: &str, resumed: &Resumed) -> String {
    match &resumed.failed_at {
        _ if !resumed.is_new => format!("transform {name} was running already: nothing is changed"),
        Some(record) => format!(
            "transform {name} goes on with the record {record} that it has failed at, and stops there again if that fails again; \
             `millstream transform resume {name} --skip` leaves it out"
        ),
        None => format!("transform {name} goes on where it stood"),
    }
}

/// What to tell of a partition that ends before the offset that the transform starts at.
fn waits_for_its_start(at: &TransformPartition) -> Option<String> {
    let TransformPartition { input, partition, next_offset, end_offset, .. } = at;
    (next_offset > end_offset).then(|| {
        format!("{input} partition {partition} ends at {end_offset}: nothing of it is transformed before offset {next_offset}")
    })
}

fn lag(line: &Line) -> String {
    line.lag.map_or("unknown".into(), |lag| lag.to_string())
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(["name", "state", "lag", "left out", "module", "inputs", "outputs"]);
    for line in lines {
        table.row([
            line.name.clone(),
            line.state.clone(),
            lag(line),
            line.left_out.to_string(),
            line.module.clone(),
            joined(&line.inputs),
            joined(&line.outputs),
        ]);
    }
    table
}

fn details(shown: &Shown) -> Details {
    let line = &shown.line;
    let mut partitions = Table::new([
        "input",
        "partition",
        "next",
        "end",
        "lag",
        "records in",
        "records out",
        "errors",
        "left out",
        "last error",
    ]);
    for at in &shown.partitions {
        partitions.row([
            at.input.clone(),
            at.partition.to_string(),
            at.next_offset.to_string(),
            at.end_offset.to_string(),
            at.lag.to_string(),
            at.records_in.to_string(),
            at.records_out.to_string(),
            at.errors.to_string(),
            at.left_out.to_string(),
            at.error.clone().unwrap_or_default(),
        ]);
    }
    let params = line.params.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
    let details =
        Details::default().field("transform", &line.name).field("id", &line.transform_id).field("state", &line.state);
    let details = match &line.error {
        Some(error) => details.field("error", error),
        None => details,
    };
    let details = match &line.failed_at {
        Some(record) => details.field("failed at", format!("{record} (`transform resume --skip` leaves it out)")),
        None => details,
    };
    details
        .field("lag", lag(line))
        .field("left out", line.left_out)
        .field("module", &line.module)
        .field("inputs", joined(&line.inputs))
        .field("outputs", joined(&line.outputs))
        .field("params", joined(&params.collect::<Vec<_>>()))
        .field("on error", &line.on_error)
        .field("from", &line.from)
        .table(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deploy(lanes: i32) -> Deploy {
        Deploy {
            name: "t".into(),
            module: "m@1".into(),
            input: vec!["a".into()],
            output: vec!["b".into(), "c".into()],
            param: vec!["k=v".parse().unwrap()],
            on_error: OnError::ParkKey,
            from: "7".into(),
            lanes,
        }
    }

    #[test]
    fn a_deployment_keeps_the_order_of_its_outputs() {
        let (request, form) = deploy(1).request().unwrap();
        assert_eq!(form.output, Output::Table);
        assert_eq!(request.outputs, ["b", "c"]);
        assert_eq!((request.on_error.as_str(), request.from.as_str(), request.lanes), ("park-key", "7", 1));
    }

    #[test]
    fn the_form_of_the_answer_is_told_from_topics() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let check = |given: &[&str], topics: &[&str], output: Output| {
            let (found, form) = topics_and_form(words(given)).unwrap();
            assert_eq!((found, form.output), (words(topics), output), "{given:?}");
        };
        check(&["a", "b"], &["a", "b"], Output::Table);
        check(&["a", "json", "b"], &["a", "b"], Output::Json);
        check(&["json", "table", "a"], &["a"], Output::Table);
        check(&["topic:json", "topic:table", "topic:a"], &["json", "table", "a"], Output::Table);
        assert!(topics_and_form(words(&["json"])).unwrap_err().to_string().contains("--output TOPIC"));
    }

    #[test]
    fn lanes_are_refused_before_anybody_is_asked() {
        let refused = deploy(2).request().unwrap_err().to_string();
        assert!(refused.contains("lanes") && refused.contains("not built"), "{refused}");
    }

    #[test]
    fn starts_are_a_word_or_an_offset() {
        for text in ["beginning", "end", "0", "17"] {
            assert_eq!(parse_from(text).as_deref(), Ok(text));
        }
        assert_eq!((parse_from("earliest").as_deref(), parse_from("latest").as_deref()), (Ok("beginning"), Ok("end")));
        for text in ["", "-1", "yesterday", "1.5"] {
            assert!(parse_from(text).is_err(), "{text:?}");
        }
    }
}
