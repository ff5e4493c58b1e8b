//! `atoll kv namespace …`

use http::Method;
use serde_json::{Value, json};

use super::super::args::NamespaceCommand;
use super::super::client::Body;
use super::super::error::CliError;
use super::super::session::Session;
use super::open;

pub(super) async fn run(session: &Session, command: NamespaceCommand) -> Result<(), CliError> {
    let terminal = session.terminal;
    match command {
        NamespaceCommand::Create { title } => {
            let created = session.api().await?.create_namespace(&title).await?;
            if terminal.json {
                terminal.json(&json!(created));
                return Ok(());
            }
            terminal.line(format!("made {title} with id {}", created.id));
            terminal.note("to bind it, add to the project's configuration:");
            terminal.note(format!("[[kv_namespaces]]\nbinding = \"KV\"\nid = \"{}\"", created.id));
        }
        NamespaceCommand::List => {
            let namespaces = session.api().await?.namespaces().await?;
            if terminal.json {
                terminal.json(&json!(namespaces));
                return Ok(());
            }
            let rows = namespaces.into_iter().map(|n| vec![n.id, n.title]).collect();
            terminal.table(&["id", "title"], rows);
        }
        NamespaceCommand::Rename { title, namespace_id, new_name } => {
            let api = session.api().await?;
            let id = match (namespace_id, title) {
                (Some(id), _) => id,
                (None, Some(title)) => {
                    let found = api.namespaces().await?.into_iter().find(|n| n.title == title);
                    let unknown = || {
                        CliError::Failed(format!(
                            "no namespace is titled {title:?}: see `atoll kv namespace list`"
                        ))
                    };
                    found.ok_or_else(unknown)?.id
                }
                (None, None) => {
                    return Err(CliError::Usage("name a title or --namespace-id".into()));
                }
            };
            api.set(&api.namespace(&id, ""), json!({ "title": new_name })).await?;
            terminal.note(format!("{id} is now titled {new_name}"));
        }
        NamespaceCommand::Delete { namespace, yes } => {
            let opened = open(session, &namespace).await?;
            let question = format!("Delete the namespace {} and all its keys?", opened.id);
            terminal.confirm(&question, yes)?;
            let path = opened.path("");
            opened.api.client.call::<Value>(Method::DELETE, &path, Body::Empty).await?;
            terminal.note(format!("{} is deleted", opened.id));
        }
    }
    Ok(())
}
