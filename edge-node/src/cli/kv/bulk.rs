//! `atoll kv bulk …`: whole files of pairs or keys, a thousand a call.

use std::path::Path;

use http::Method;
use serde_json::{Map, Value, json};

use super::super::args::BulkCommand;
use super::super::client::Body;
use super::super::error::CliError;
use super::super::session::Session;
use super::open;

/// What wrangler sends at a time.
const PER_CALL: usize = 1_000;

pub(super) async fn run(session: &Session, command: BulkCommand) -> Result<(), CliError> {
    match command {
        BulkCommand::Put { file, namespace } => {
            let pairs = read(&file)?;
            let whole = |pair: &Value| pair["key"].is_string() && pair["value"].is_string();
            if let Some(at) = pairs.iter().position(|pair| !whole(pair)) {
                return Err(CliError::Failed(format!(
                    "{}: item {at} needs \"key\" and \"value\", both strings",
                    file.display()
                )));
            }
            let opened = open(session, &namespace).await?;
            for part in pairs.chunks(PER_CALL) {
                opened.api.set(&opened.path("/bulk"), json!(part)).await?;
            }
            session.terminal.note(format!("{} pairs are written", pairs.len()));
        }
        BulkCommand::Get { file, namespace } => {
            let keys = keys(&file)?;
            let opened = open(session, &namespace).await?;
            let mut values = Map::new();
            for part in keys.chunks(PER_CALL) {
                let body = Body::Json(json!({ "keys": part }));
                let path = opened.path("/bulk/get");
                let mut result: Value = opened.api.client.call(Method::POST, &path, body).await?;
                if let Value::Object(found) = result["values"].take() {
                    values.extend(found);
                }
            }
            session.terminal.json(&values.into());
        }
        BulkCommand::Delete { file, namespace, yes } => {
            let keys = keys(&file)?;
            let question = format!("Delete {} keys?", keys.len());
            session.terminal.confirm(&question, yes)?;
            let opened = open(session, &namespace).await?;
            for part in keys.chunks(PER_CALL) {
                let (path, body) = (opened.path("/bulk"), Body::Json(json!(part)));
                opened.api.client.call::<Value>(Method::DELETE, &path, body).await?;
            }
            session.terminal.note(format!("{} keys are deleted", keys.len()));
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<Value>, CliError> {
    let bytes = std::fs::read(file).map_err(CliError::at(file))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| CliError::Failed(format!("{} must hold a JSON array: {e}", file.display())))
}

/// Keys as strings, or as the objects that `kv key list --json` prints.
fn keys(file: &Path) -> Result<Vec<String>, CliError> {
    let name = |item: &Value| item.as_str().or(item["name"].as_str()).map(str::to_owned);
    let keys: Option<Vec<String>> = read(file)?.iter().map(name).collect();
    keys.ok_or_else(|| {
        CliError::Failed(format!("{} must hold an array of strings", file.display()))
    })
}
