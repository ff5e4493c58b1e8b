//! Uploads a prepared project and makes everything around it as the configuration says:
//! namespaces before, the subdomain, routes and schedules after.

use std::time::{Duration, Instant};

use async_compression::tokio::write::GzipEncoder;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::api::{Api, Namespace};
use super::client::ApiError;
use super::error::CliError;
use super::nodes;
use super::prepare::Prepared;
use super::regions;
use super::stacks;
use super::terminal::Terminal;
use super::upload::{self, Metadata};
use crate::bundle::Bundle;
use crate::project::{FileKind, Project, ProjectBinding};
use crate::registry::{Binding, Module, ModuleKind, NamespaceId, WorkerName};

/// The validation error of a script that does not compile or throws at start.
const SCRIPT_INVALID: i64 = 10021;

/// What a deploy may be told beside the project.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) keep_vars: bool,
    pub(crate) message: Option<String>,
}

/// What is live now.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) version: Option<String>,
    pub(crate) startup_ms: Option<u64>,
    pub(crate) upload: Duration,
    pub(crate) urls: Vec<String>,
    pub(crate) bindings: Vec<Binding>,
    /// The cluster's nodes, and whether they serve this.
    pub(crate) nodes: Vec<(String, bool)>,
}

/// Uploads, and returns when the new version serves.
pub(crate) async fn publish(
    api: &Api,
    mut prepared: Prepared,
    options: Options,
    terminal: Terminal,
) -> Result<Published, CliError> {
    let bindings = grant(api, &mut prepared, terminal).await?;
    let Prepared { project, name, compatibility_date, bundle, read_at: _ } = &prepared;
    let metadata = Metadata {
        bindings,
        compatibility_date: compatibility_date.clone(),
        compatibility_flags: project.compatibility_flags.clone(),
        keep_vars: options.keep_vars || project.keep_vars,
        cpu_ms: project.cpu_ms,
        subrequests: project.subrequests,
        message: options.message,
    };
    let set_before = set_regions_and_pools(api, &prepared.project, name).await;
    let started = Instant::now();
    let uploaded = api.upload(name, upload::form(&metadata, bundle)).await;
    let upload = started.elapsed();
    let uploaded = uploaded.map_err(|error| match error.code() {
        Some(SCRIPT_INVALID) => {
            let text = stacks::with_excerpt(&error.to_string(), &project.dir);
            CliError::Failed(format!("the script was refused: {text}"))
        }
        _ => error.into(),
    })?;
    if set_before.is_err() {
        set_regions_and_pools(api, &prepared.project, &prepared.name).await?;
    }
    let urls = attach(api, &prepared).await?;
    if let Some(regions) = prepared.project.regions.as_ref().filter(|regions| !regions.is_empty()) {
        regions::warn_of_empty(terminal, api, regions).await;
    }
    let nodes = nodes::serving(api).await.unwrap_or_default();
    Ok(Published {
        version: uploaded.deployment_id,
        startup_ms: uploaded.startup_time_ms,
        upload,
        urls,
        bindings: metadata.bindings,
        nodes,
    })
}

/// Says where the worker may run and where its requests go, before there is a new version to run. A worker that is
/// not there yet gets it right after its first.
async fn set_regions_and_pools(api: &Api, project: &Project, name: &str) -> Result<(), ApiError> {
    if let Some(regions) = &project.regions {
        api.set(&api.script(name, "/regions"), json!(regions)).await?;
    }
    if let Some(pools) = &project.pools {
        api.set(&api.script(name, "/pools"), json!(pools)).await?;
    }
    Ok(())
}

/// Switches the subdomain, sets routes, schedules and rules, and tells the URLs.
async fn attach(api: &Api, prepared: &Prepared) -> Result<Vec<String>, CliError> {
    let Prepared { project, name, .. } = prepared;
    let mut urls = Vec::new();
    api.set_workers_dev(name, project.workers_dev).await?;
    if project.workers_dev {
        let (node, subdomain) = (api.node().await?, api.subdomain().await?);
        urls.extend(node.urls(&format!("{name}.{subdomain}.{}", node.domain)));
    }
    if !project.routes.is_empty() {
        let route = |r: &crate::project::RouteEntry| {
            let mut route = json!({ "pattern": r.pattern });
            let zone = [("zone_name", &r.zone_name), ("zone_id", &r.zone_id)];
            for (key, value) in zone {
                if let Some(value) = value {
                    route[key] = json!(value);
                }
            }
            route
        };
        let routes: Value = project.routes.iter().map(route).collect();
        api.set(&api.script(name, "/routes"), routes).await?;
        urls.extend(project.routes.iter().map(|r| r.pattern.clone()));
    }
    if let Some(crons) = &project.crons {
        let schedules: Value = crons.iter().map(|cron| json!({ "cron": cron })).collect();
        api.set(&api.script(name, "/schedules"), schedules).await?;
    }
    if let Some(rules) = &project.rules {
        api.set(&api.script(name, "/rules"), rules.document.clone()).await?;
    }
    Ok(urls)
}

/// Turns the project's bindings into the node's: finds or makes KV namespaces, and takes the files
/// of service-worker blobs into the bundle.
async fn grant(
    api: &Api,
    prepared: &mut Prepared,
    terminal: Terminal,
) -> Result<Vec<Binding>, CliError> {
    let mut namespaces = Namespaces { api, terminal, known: None, previous: None };
    let mut granted = Vec::new();
    for binding in prepared.project.bindings.clone() {
        granted.push(match binding {
            ProjectBinding::Var { name, value: Value::String(text) } => {
                Binding::PlainText { name, text }
            }
            ProjectBinding::Var { name, value } => Binding::Json { name, json: value },
            ProjectBinding::Kv { name, id } => {
                let id = namespaces.resolve(&prepared.name, &name, id).await?;
                // The id goes through JSON because the registry alone decides how ids are made.
                let namespace_id = serde_json::from_value::<NamespaceId>(json!(id))
                    .map_err(|e| CliError::Failed(format!("namespace id {id:?}: {e}")))?;
                Binding::KvNamespace { name, namespace_id }
            }
            ProjectBinding::Service { name, service, entrypoint, props } => {
                Binding::Service { name, service: WorkerName::new(service), entrypoint, props }
            }
            ProjectBinding::VersionMetadata { name } => Binding::VersionMetadata { name },
            ProjectBinding::File { name, path, kind } => {
                let path = prepared.project.dir.join(path);
                let part = take_file(&mut prepared.bundle, &name, &path, kind)?;
                match kind {
                    FileKind::Wasm => Binding::WasmModule { name, part },
                    FileKind::Text => Binding::TextBlob { name, part },
                    FileKind::Data => Binding::DataBlob { name, part },
                }
            }
        });
    }
    Ok(granted)
}

fn take_file(
    bundle: &mut Bundle,
    name: &str,
    path: &std::path::Path,
    kind: FileKind,
) -> Result<String, CliError> {
    let bytes = std::fs::read(path).map_err(CliError::at(path))?.into();
    let kind = match kind {
        FileKind::Wasm => ModuleKind::Wasm,
        FileKind::Text => ModuleKind::Text,
        FileKind::Data => ModuleKind::Data,
    };
    bundle.modules.push(Module { name: name.to_owned(), kind, bytes });
    bundle.inputs.push(path.to_owned());
    Ok(name.to_owned())
}

/// Namespaces for KV bindings, looked up at most once a deploy.
struct Namespaces<'a> {
    api: &'a Api,
    terminal: Terminal,
    known: Option<Vec<Namespace>>,
    previous: Option<Vec<Value>>,
}

impl Namespaces<'_> {
    /// The namespace of a binding. Without an id: the one that the worker had, or one by the title
    /// `<worker>-<binding>`. An id that this node does not know (a project that comes from
    /// elsewhere) stands for a namespace with the id as its title, so that workers that share the
    /// id share the namespace here too.
    async fn resolve(
        &mut self,
        worker: &str,
        binding: &str,
        id: Option<String>,
    ) -> Result<String, CliError> {
        if self.known.is_none() {
            self.known = Some(self.api.namespaces().await?);
        }
        let known = self.known.as_deref().unwrap_or_default();
        let title = match id {
            Some(id) if known.iter().any(|n| n.id == id) => return Ok(id),
            Some(id) => {
                self.terminal.warn(format!(
                    "this node has no namespace {id} ({binding}): one of that title is used"
                ));
                id
            }
            None => match self.previous(worker, binding).await? {
                Some(id) => return Ok(id),
                None => format!("{worker}-{binding}"),
            },
        };
        let known = self.known.get_or_insert_default();
        if let Some(found) = known.iter().find(|n| n.title == title) {
            return Ok(found.id.clone());
        }
        let created = self.api.create_namespace(&title).await?;
        self.terminal.note(format!("made KV namespace {title} ({})", created.id));
        known.push(created.clone());
        Ok(created.id)
    }

    async fn previous(&mut self, worker: &str, name: &str) -> Result<Option<String>, CliError> {
        if self.previous.is_none() {
            self.previous = Some(self.api.bindings(worker).await?);
        }
        let bindings = self.previous.iter().flatten();
        let of_name = |b: &&Value| b["type"] == "kv_namespace" && b["name"] == name;
        let id = bindings.clone().find(of_name).and_then(|b| b["namespace_id"].as_str());
        Ok(id.map(str::to_owned))
    }
}

/// The size of a bundle as uploaded and after gzip, source maps left out.
pub(crate) async fn sizes(bundle: &Bundle) -> (usize, usize) {
    let code = || bundle.modules.iter().filter(|m| m.kind != ModuleKind::SourceMap);
    let raw = code().map(|m| m.bytes.len()).sum();
    let mut encoder = GzipEncoder::new(Vec::new());
    for module in code() {
        encoder.write_all(&module.bytes).await.expect("writing to memory does not fail");
    }
    encoder.shutdown().await.expect("writing to memory does not fail");
    (raw, encoder.into_inner().len())
}
