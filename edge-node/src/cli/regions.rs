//! `atoll regions …`: where a worker may run.

use atoll_router::regions::{RegionPolicy, RegionRules};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::api::Api;
use super::args::ProjectArgs;
use super::client::{Body, items};
use super::error::CliError;
use super::session::Session;
use super::terminal::{Terminal, printable};

/// Commands of `atoll regions`.
#[derive(Debug, Subcommand)]
pub enum RegionsCommand {
    /// Show where a worker may run, and which nodes are there
    Show {
        #[command(flatten)]
        project: ProjectArgs,
    },
    /// Say where a worker may run, in place of what it said before
    Set(Box<SetArgs>),
    /// Let a worker run anywhere
    Delete {
        #[command(flatten)]
        project: ProjectArgs,
    },
}

/// Where it may run.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Only in these regions: others send requests to the nearest of them
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// In the first of these that has a healthy node, else where the request came
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    pub prefer: Vec<String>,
    /// Only in this region, or not at all
    #[arg(long, value_name = "REGION", required_unless_present_any = ["allow", "prefer"])]
    pub pin: Option<String>,
    #[command(flatten)]
    pub project: ProjectArgs,
}

pub(crate) async fn run(session: &Session, command: RegionsCommand) -> Result<(), CliError> {
    match command {
        RegionsCommand::Show { project } => {
            let worker = session.worker(None, &project)?;
            let api = session.api().await?;
            let regions = api.client.get(&path(&api, &worker)).await?;
            show(session.terminal, &api, regions).await
        }
        RegionsCommand::Set(args) => {
            let SetArgs { allow, prefer, pin, project } = *args;
            let worker = session.worker(None, &project)?;
            let api = session.api().await?;
            let policy = RegionPolicy { allow, prefer, pin };
            let regions = RegionRules { policy, routes: Vec::new() };
            let set = api.set(&path(&api, &worker), json!(regions)).await?;
            show(session.terminal, &api, set).await
        }
        RegionsCommand::Delete { project } => {
            let worker = session.worker(None, &project)?;
            let api = session.api().await?;
            let path = path(&api, &worker);
            api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await?;
            session.terminal.note(format!("{worker} runs anywhere"));
            Ok(())
        }
    }
}

fn path(api: &Api, worker: &str) -> String {
    api.script(worker, "/regions")
}

async fn show(terminal: Terminal, api: &Api, regions: Value) -> Result<(), CliError> {
    if terminal.json {
        terminal.json(&regions);
        return Ok(());
    }
    let regions: RegionRules = serde_json::from_value(regions).map_err(|error| {
        CliError::Failed(format!("the node's answer is not understood: {error}"))
    })?;
    let nodes: Value = api.nodes().await?;
    let told = std::iter::once(("everywhere".to_owned(), &regions.policy));
    let told = told.chain(regions.routes.iter().map(|of| (of.pattern.clone(), &of.policy)));
    let row = |(pattern, policy): (String, &RegionPolicy)| {
        vec![printable(&pattern), printable(&policy.to_string()), permitted(&nodes, policy)]
    };
    terminal.table(&["requests", "regions", "nodes that may serve"], told.map(row).collect());
    Ok(())
}

/// The nodes that may serve by a policy.
fn permitted(nodes: &Value, policy: &RegionPolicy) -> String {
    let nodes = items(&nodes["nodes"]);
    let text = |node: &Value, key: &str| printable(node[key].as_str().unwrap_or("-"));
    let there = nodes.iter().filter(|node| policy.permits(node["region"].as_str().unwrap_or("")));
    let there: Vec<_> = there.map(|node| text(node, "name")).collect();
    if there.is_empty() { "none".to_owned() } else { there.join(" ") }
}

/// Warns of regions in which no node is.
pub(crate) async fn warn_of_empty(terminal: Terminal, api: &Api, regions: &RegionRules) {
    let Ok(nodes) = api.nodes().await else { return };
    if nodes["clustered"] != true {
        terminal.warn("this node is in no cluster: it has no region and serves everything");
        return;
    }
    let policies =
        std::iter::once(&regions.policy).chain(regions.routes.iter().map(|of| &of.policy));
    for policy in policies.filter(|policy| permitted(&nodes, policy) == "none") {
        terminal.warn(format!(
            "no node is there ({policy}): requests are answered with 503 until one is, see `atoll nodes`"
        ));
    }
}
