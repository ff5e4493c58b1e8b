//! `atoll versions list` and `atoll deployments list`.

use serde_json::Value;

use super::args::WorkerArgs;
use super::error::CliError;
use super::session::Session;

pub(crate) async fn versions(session: &Session, args: WorkerArgs) -> Result<(), CliError> {
    let worker = session.worker(args.worker, &args.project)?;
    let api = session.api().await?;
    let result: Value = api.client.get(&api.script(&worker, "/versions?deployable=true")).await?;
    let row = |version: &Value| {
        let message = &version["annotations"]["workers/message"];
        let created = &version["metadata"]["created_on"];
        [&version["number"], &version["id"], created, message].map(text).to_vec()
    };
    print(session, &result["items"], &["number", "id", "created", "message"], row);
    Ok(())
}

pub(crate) async fn deployments(session: &Session, args: WorkerArgs) -> Result<(), CliError> {
    let worker = session.worker(args.worker, &args.project)?;
    let api = session.api().await?;
    let result: Value = api.client.get(&api.script(&worker, "/deployments")).await?;
    let row = |deployment: &Value| {
        let versions = deployment["versions"].as_array().into_iter().flatten();
        let shares = versions.map(|v| {
            let percentage = v["percentage"].as_f64().unwrap_or_default();
            format!("{}@{percentage}%", text(&v["version_id"]))
        });
        let shares = shares.collect::<Vec<_>>().join(" ");
        vec![text(&deployment["id"]), text(&deployment["created_on"]), shares]
    };
    print(session, &result["deployments"], &["id", "created", "versions"], row);
    Ok(())
}

fn print(session: &Session, items: &Value, headings: &[&str], row: impl Fn(&Value) -> Vec<String>) {
    match session.terminal.json {
        true => session.terminal.json(items),
        false => {
            let rows = items.as_array().into_iter().flatten().map(row).collect();
            session.terminal.table(headings, rows);
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
