//! `atoll kv …`: namespaces and keys through the API.

mod bulk;
mod key;
mod namespace;

use super::api::Api;
use super::args::{KvCommand, NamespaceArgs};
use super::error::CliError;
use super::session::Session;
use crate::project::{Project, ProjectBinding};

pub(crate) async fn run(session: &Session, command: KvCommand) -> Result<(), CliError> {
    match command {
        KvCommand::Namespace(command) => namespace::run(session, command).await,
        KvCommand::Key(command) => key::run(session, command).await,
        KvCommand::Bulk(command) => bulk::run(session, command).await,
    }
}

/// A namespace on a node.
struct Opened {
    api: Api,
    id: String,
}

impl Opened {
    fn path(&self, rest: &str) -> String {
        self.api.namespace(&self.id, rest)
    }
}

/// The namespace that the arguments name, by id or through a binding of the project.
async fn open(session: &Session, args: &NamespaceArgs) -> Result<Opened, CliError> {
    if let Some(id) = &args.namespace_id {
        return Ok(Opened { api: session.api().await?, id: id.clone() });
    }
    let binding = args.binding.as_deref().unwrap_or_default();
    let project = session.project(&args.project)?;
    let configured = configured(&project, binding)?;
    let api = session.api_for(Some(&project)).await?;
    if let Some(id) = configured {
        // As in a deploy: an id from elsewhere stands for the namespace of that title.
        let known = api.namespaces().await?;
        if let Some(found) = known.into_iter().find(|n| n.id == id || n.title == id) {
            return Ok(Opened { id: found.id, api });
        }
    }
    let worker = session.worker(None, &args.project)?;
    let bindings = api.bindings(&worker).await?;
    let deployed = bindings.iter().find(|b| b["name"] == binding && b["type"] == "kv_namespace");
    match deployed.and_then(|b| b["namespace_id"].as_str()) {
        Some(id) => Ok(Opened { id: id.to_owned(), api }),
        None => Err(CliError::Failed(format!(
            "the binding {binding} has no namespace on this node: deploy {worker} first, \
             or use --namespace-id"
        ))),
    }
}

/// The id that the project gives a binding, if any.
fn configured(project: &Project, wanted: &str) -> Result<Option<String>, CliError> {
    let bindings = project.bindings.iter().filter_map(|binding| match binding {
        ProjectBinding::Kv { name, id } => Some((name, id)),
        _ => None,
    });
    match bindings.clone().find(|(name, _)| *name == wanted) {
        Some((_, id)) => Ok(id.clone()),
        None => {
            let known: Vec<_> = bindings.map(|(name, _)| name.as_str()).collect();
            let config = project.config_path.display();
            Err(CliError::Failed(match known.is_empty() {
                true => format!("{config} has no kv_namespaces: use --namespace-id"),
                false => {
                    format!("{config} has no KV binding {wanted}: it has {}", known.join(", "))
                }
            }))
        }
    }
}
