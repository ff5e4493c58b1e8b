//! `atoll secret …`: values that no read of the API shows.

use std::io::{BufRead, IsTerminal, Read, Write};

use http::Method;
use serde_json::{Value, json};

use super::args::SecretCommand;
use super::client::{Body, segment};
use super::error::CliError;
use super::session::Session;

pub(crate) async fn run(session: &Session, command: SecretCommand) -> Result<(), CliError> {
    let terminal = session.terminal;
    match command {
        SecretCommand::Put { key, project } => {
            let worker = session.worker(None, &project)?;
            let text = read_stdin(session, &format!("value of {key}: "))?;
            let api = session.api().await?;
            let secret = json!({ "name": key, "text": text, "type": "secret_text" });
            api.set(&api.script(&worker, "/secrets"), secret).await?;
            terminal.note(format!("{key} is set for {worker}"));
        }
        SecretCommand::List { project } => {
            let worker = session.worker(None, &project)?;
            let api = session.api().await?;
            let secrets: Value = api.client.get(&api.script(&worker, "/secrets")).await?;
            match terminal.json {
                true => terminal.json(&secrets),
                false => {
                    let names = secrets.as_array().into_iter().flatten();
                    let names = names.filter_map(|secret| secret["name"].as_str());
                    names.for_each(|name| terminal.line(name));
                }
            }
        }
        SecretCommand::Delete { key, project } => {
            let worker = session.worker(None, &project)?;
            let api = session.api().await?;
            let path = api.script(&worker, &format!("/secrets/{}?url_encoded=true", segment(&key)));
            api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await?;
            terminal.note(format!("{key} is removed from {worker}"));
        }
    }
    Ok(())
}

/// A value from the standard input: a line after a prompt on a terminal, else all of it.
pub(crate) fn read_stdin(session: &Session, prompt: &str) -> Result<String, CliError> {
    let unreadable = |e: std::io::Error| CliError::Failed(format!("cannot read the input: {e}"));
    let mut stdin = std::io::stdin().lock();
    let mut text = String::new();
    if stdin.is_terminal() && session.terminal.is_interactive() {
        let _ = write!(std::io::stderr(), "{prompt}");
        stdin.read_line(&mut text).map_err(unreadable)?;
    } else {
        stdin.read_to_string(&mut text).map_err(unreadable)?;
    }
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    match text.is_empty() {
        true => Err(CliError::Usage("the standard input is empty: pipe the value in".into())),
        false => Ok(text),
    }
}
