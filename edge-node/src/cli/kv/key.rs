//! `atoll kv key …`

use std::io::Write;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::super::args::KeyCommand;
use super::super::client::{Body, segment};
use super::super::error::CliError;
use super::super::session::Session;
use super::super::upload;
use super::open;

/// Keys asked for at a time.
const LIST_PAGE: usize = 1_000;

pub(super) async fn run(session: &Session, command: KeyCommand) -> Result<(), CliError> {
    match command {
        KeyCommand::Put { key, value, namespace, path, metadata, ttl, expiration } => {
            let opened = open(session, &namespace).await?;
            let bytes = match (value, path) {
                (_, Some(path)) => std::fs::read(&path).map_err(CliError::at(&path))?.into(),
                (value, None) => Bytes::from(value.unwrap_or_default()),
            };
            let expiry = match (ttl, expiration) {
                (Some(ttl), _) => format!("?expiration_ttl={ttl}"),
                (None, Some(at)) => format!("?expiration={at}"),
                (None, None) => String::new(),
            };
            let target = opened.path(&format!("/values/{}{expiry}", segment(&key)));
            let body = match metadata {
                Some(metadata) => upload::value_form(&bytes, &checked(&metadata)?),
                None => Body::Raw { content_type: "application/octet-stream".into(), bytes },
            };
            opened.api.client.call::<Value>(Method::PUT, &target, body).await?;
            session.terminal.note(format!("{key} is written"));
        }
        KeyCommand::Get { key, namespace } => {
            let opened = open(session, &namespace).await?;
            let path = opened.path(&format!("/values/{}", segment(&key)));
            let bytes = opened.api.client.bytes(&path).await?;
            // The bytes as they are, with nothing added: they may be piped into a file.
            let mut stdout = std::io::stdout();
            let _ = stdout.write_all(&bytes).and_then(|()| stdout.flush());
        }
        KeyCommand::List { namespace, prefix } => {
            let opened = open(session, &namespace).await?;
            let prefix = prefix.map(|p| format!("&prefix={}", segment(&p))).unwrap_or_default();
            let path = opened.path(&format!("/keys?limit={LIST_PAGE}{prefix}"));
            let keys = Value::Array(opened.api.cursor_list(&path).await?);
            let terminal = session.terminal;
            if terminal.json {
                terminal.json(&keys);
                return Ok(());
            }
            let text = |value: &Value| match value {
                Value::Null => String::new(),
                other => other.to_string(),
            };
            let row = |key: &Value| {
                let name = key["name"].as_str().unwrap_or_default().to_owned();
                vec![name, text(&key["expiration"]), text(&key["metadata"])]
            };
            let rows = keys.as_array().into_iter().flatten().map(row).collect();
            terminal.table(&["key", "expires", "metadata"], rows);
        }
        KeyCommand::Delete { key, namespace } => {
            let opened = open(session, &namespace).await?;
            let path = opened.path(&format!("/values/{}", segment(&key)));
            opened.api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await?;
            session.terminal.note(format!("{key} is deleted"));
        }
    }
    Ok(())
}

fn checked(metadata: &str) -> Result<String, CliError> {
    match serde_json::from_str::<Value>(metadata) {
        Ok(_) => Ok(metadata.to_owned()),
        Err(e) => Err(CliError::Usage(format!("--metadata is no JSON: {e}"))),
    }
}
