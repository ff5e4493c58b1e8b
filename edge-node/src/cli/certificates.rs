//! `atoll certificates …`: certificates of the HTTPS listener.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::{Body, segment};
use super::error::CliError;
use super::session::Session;

/// Commands of `atoll certificates`.
#[derive(Debug, Subcommand)]
pub enum CertificatesCommand {
    /// Serve the hosts that a certificate names
    Add {
        /// The chain, a PEM file, the host's own certificate first
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// Its private key, a PEM file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// List certificates
    List,
    /// Remove a certificate
    Remove {
        /// Its id
        id: String,
    },
}

pub(crate) async fn run(session: &Session, command: CertificatesCommand) -> Result<(), CliError> {
    let (terminal, api) = (session.terminal, session.api().await?);
    let path = api.path("/atoll/certificates");
    match command {
        CertificatesCommand::Add { cert, key } => {
            let read = |path: &Path| std::fs::read_to_string(path).map_err(CliError::at(path));
            let body = json!({ "certificate": read(&cert)?, "private_key": read(&key)? });
            let made: Value = api.client.call(Method::POST, &path, Body::Json(body)).await?;
            match terminal.json {
                true => terminal.json(&made),
                false => {
                    let (id, until) = (text(&made, "id"), text(&made, "expires_on"));
                    terminal.line(format!("added {id} for {}, valid until {until}", hosts(&made)));
                }
            }
        }
        CertificatesCommand::List => {
            let list: Vec<Value> = api.client.get(&path).await?;
            if terminal.json {
                terminal.json(&json!(list));
                return Ok(());
            }
            let row = |item: &Value| {
                vec![
                    text(item, "id"),
                    hosts(item),
                    text(item, "source"),
                    text(item, "expires_on"),
                    text(item, "uploaded_on"),
                    text(item, "error"),
                ]
            };
            let titles = ["id", "hosts", "source", "valid until", "since", "last error"];
            terminal.table(&titles, list.iter().map(row).collect());
        }
        CertificatesCommand::Remove { id } => {
            let path = format!("{path}/{}", segment(&id));
            api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await?;
            terminal.note(format!("{id} is removed"));
        }
    }
    Ok(())
}

fn text(item: &Value, key: &str) -> String {
    item[key].as_str().unwrap_or("-").to_owned()
}

fn hosts(item: &Value) -> String {
    let hosts = item["hosts"].as_array().into_iter().flatten();
    hosts.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}
