//! `atoll rules …`: what decides about a worker's requests before it is called.

use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::args::ProjectArgs;
use super::client::{Body, items, segment};
use super::error::CliError;
use super::rule_args::{RulesCommand, TestArgs};
use super::session::Session;
use super::terminal::printable;
use crate::project::ProjectRules;

/// A hundred percent in buckets.
const BUCKETS: f64 = 10_000.0;

pub(crate) async fn run(session: &Session, command: RulesCommand) -> Result<(), CliError> {
    let terminal = session.terminal;
    match command {
        RulesCommand::List { project } => {
            let rules = view(session, &project).await?;
            list(session, &rules);
        }
        RulesCommand::Show { project } => terminal.json(&view(session, &project).await?),
        RulesCommand::Set { file, project } => {
            let rules = ProjectRules::read(&file)?;
            let worker = session.worker(None, &project)?;
            let api = session.api().await?;
            let set = api.set(&api.script(&worker, "/rules"), rules.document).await?;
            list(session, &set);
        }
        RulesCommand::Delete { project, yes } => {
            let worker = session.worker(None, &project)?;
            terminal.confirm(&format!("Remove all rules of {worker}?"), yes)?;
            let api = session.api().await?;
            let path = api.script(&worker, "/rules");
            api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await?;
            terminal.note(format!("{worker} has no rules any more"));
        }
        RulesCommand::Status { worker, project } => {
            super::rule_status::run(session, worker, &project).await?;
        }
        RulesCommand::Enable { rule, project } => switch(session, &rule, &project, true).await?,
        RulesCommand::Disable { rule, project } => switch(session, &rule, &project, false).await?,
        RulesCommand::Test(args) => test(session, *args).await?,
        RulesCommand::Token => token(session),
    }
    Ok(())
}

async fn view(session: &Session, project: &ProjectArgs) -> Result<Value, CliError> {
    let worker = session.worker(None, project)?;
    let api = session.api().await?;
    Ok(api.client.get(&api.script(&worker, "/rules")).await?)
}

async fn switch(
    session: &Session,
    rule: &str,
    project: &ProjectArgs,
    on: bool,
) -> Result<(), CliError> {
    let worker = session.worker(None, project)?;
    let api = session.api().await?;
    let path = api.script(&worker, &format!("/rules/{}/switch", segment(rule)));
    let rules = api.set(&path, json!({ "on": on })).await?;
    list(session, &rules);
    Ok(())
}

fn list(session: &Session, answer: &Value) {
    let terminal = session.terminal;
    let rules = items(&answer["rules"]);
    if terminal.json {
        terminal.json(&answer["rules"]);
        return;
    }
    if rules.is_empty() {
        terminal.note("the worker has no rules: set some with `atoll rules set FILE`");
        return;
    }
    let text = |value: &Value| printable(value.as_str().unwrap_or_default());
    let row = |rule: &Value| {
        let state = match rule["state"].as_str() {
            Some("on") => terminal.green("on"),
            Some("switched_off") => terminal.red("switched off"),
            _ => terminal.yellow("disabled"),
        };
        vec![text(&rule["name"]), text(&rule["layer"]), state, shares(rule)]
    };
    terminal.table(&["rule", "layer", "state", "variants"], rules.iter().map(row).collect());
}

/// Who has which part, in percent, and how much is left.
fn shares(rule: &Value) -> String {
    let percent = |buckets: f64| format!("{} %", buckets * 100.0 / BUCKETS);
    let variants = items(&rule["variants"]);
    let buckets = |variant: &Value| variant["buckets"].as_f64().unwrap_or(0.0);
    let mut shares: Vec<String> = variants
        .iter()
        .map(|variant| {
            let name = printable(variant["name"].as_str().unwrap_or_default());
            let taken = if variant["rolled_back"] == true { " (taken back)" } else { "" };
            format!("{name} {}{taken}", percent(buckets(variant)))
        })
        .collect();
    let left = BUCKETS - variants.iter().map(buckets).sum::<f64>();
    if left > 0.0 {
        shares.push(format!("nobody {}", percent(left)));
    }
    shares.join(", ")
}

async fn test(session: &Session, args: TestArgs) -> Result<(), CliError> {
    let terminal = session.terminal;
    let worker = session.worker(None, &args.project)?;
    let api = session.api().await?;
    let request = json!({
        "url": args.url,
        "method": args.method,
        "headers": args.headers,
        "country": args.country,
        "continent": args.continent,
        "region": args.region,
        "city": args.city,
        "asn": args.asn,
        "eu": args.eu,
        "unit": args.unit,
        "at": args.at,
    });
    let path = api.script(&worker, "/rules/test");
    let answer: Value = api.client.call(Method::POST, &path, Body::Json(request)).await?;
    if terminal.json {
        terminal.json(&answer);
        return Ok(());
    }
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    };
    let rules = answer["rules"].as_array().into_iter().flatten();
    let row = |rule: &Value| {
        let outcome = text(&rule["outcome"]);
        let outcome = if rule["variant"].is_null() { outcome } else { terminal.green(&outcome) };
        vec![
            text(&rule["rule"]),
            text(&rule["layer"]),
            text(&rule["variant"]),
            text(&rule["bucket"]),
            outcome,
        ]
    };
    terminal.table(&["rule", "layer", "variant", "bucket", "outcome"], rules.map(row).collect());
    for effect in [
        "version",
        "worker",
        "rewrite",
        "redirect",
        "request_headers",
        "response_headers",
        "variables",
    ] {
        let value = &answer[effect];
        if !value.is_null() && value.as_object().is_none_or(|members| !members.is_empty()) {
            terminal.line(format!("{effect}: {}", text(value)));
        }
    }
    Ok(())
}

fn token(session: &Session) {
    let terminal = session.terminal;
    let token = hex::encode(rand::random::<[u8; 24]>());
    let sha256 = hex::encode(Sha256::digest(&token));
    if terminal.json {
        terminal.json(&json!({ "token": token, "preview_token_sha256": sha256 }));
        return;
    }
    terminal.line(format!("token, for whoever may preview: {}", terminal.bold(&token)));
    terminal.line("line for the rules:");
    terminal.line(format!("preview_token_sha256 = \"{sha256}\""));
}
