//! `atoll demo`: a node with the samples on it, and what to open.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::process::Command;

use super::api::Api;
use super::args::{DemoArgs, ProjectArgs};
use super::error::CliError;
use super::local_node::{ADMIN_PORT, LocalNode, LocalNodeOptions, free_port};
use super::prepare::Source;
use super::publish::{self, Options};
use super::samples::{SAMPLES, Sample};
use super::session::Session;
use super::stop;
use crate::bundle::Purpose;
use crate::registry::ROOT_TOKEN_FILE;

pub(crate) async fn run(session: &Session, args: DemoArgs) -> Result<(), CliError> {
    let data_dir = std::path::absolute(&args.data).map_err(CliError::at(&args.data))?;
    let node = LocalNode::start(LocalNodeOptions {
        data_dir: data_dir.clone(),
        http_port: free_port(args.port),
        https_port: free_port(args.https_port),
        admin_port: free_port(ADMIN_PORT),
        inspect: None,
        reach: Vec::new(),
    })
    .await?;
    // Samples that are being deployed when Ctrl-C comes are simply left.
    let (api, samples_dir) = (node.api(), data_dir.join("samples"));
    let deployed = tokio::select! {
        deployed = deploy_all(session, &api, &samples_dir) => Some(deployed),
        () = stop::asked() => None,
    };
    let outcome = match deployed {
        Some(deployed) => {
            show(session, &deployed, &args.data, api.client.base());
            stop::asked().await;
            Ok(())
        }
        None => Err(CliError::Failed("stopped before the samples were deployed".into())),
    };
    session.terminal.note("stopping");
    node.drain().await;
    outcome
}

/// A sample, and its URLs or why it has none.
struct Deployed {
    sample: &'static Sample,
    urls: Result<Vec<String>, CliError>,
}

/// Deploys every sample. One that fails does not keep the others away.
async fn deploy_all(session: &Session, api: &Api, dir: &Path) -> Vec<Deployed> {
    let spinner = session.terminal.spinner("deploying the samples");
    let mut deployed = Vec::new();
    for (i, sample) in SAMPLES.iter().enumerate() {
        spinner.message(&format!("deploying {} ({} of {})", sample.name, i + 1, SAMPLES.len()));
        let urls = deploy(session, api, sample, dir.join(sample.name)).await;
        deployed.push(Deployed { sample, urls });
    }
    deployed
}

async fn deploy(
    session: &Session,
    api: &Api,
    sample: &Sample,
    dir: PathBuf,
) -> Result<Vec<String>, CliError> {
    sample.write(&dir)?;
    if sample.has_packages() && !dir.join("node_modules/.package-lock.json").is_file() {
        install(&dir).await?;
    }
    let source = Source {
        path: dir,
        project: ProjectArgs::default(),
        purpose: Purpose::Deploy,
        minify: false,
        compatibility_date: None,
    };
    let prepared = source.prepare(session).await?;
    let published = publish::publish(api, prepared, Options::default(), session.terminal).await?;
    Ok(published.urls)
}

async fn install(dir: &Path) -> Result<(), CliError> {
    let command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let output = Command::new("npm")
        .args(command)
        .current_dir(dir)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| CliError::Failed(format!("npm is needed for this sample: {e}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(CliError::Failed(format!("npm ci failed in {}:\n{}", dir.display(), text.trim())))
        }
    }
}

fn show(session: &Session, deployed: &[Deployed], data: &Path, admin: &str) {
    let terminal = session.terminal;
    for Deployed { sample, urls } in deployed {
        if let Err(error) = urls {
            terminal.error(format!("{}: {error}", sample.name));
        }
    }
    let ready = deployed.iter().filter_map(|d| Some((d.sample, d.urls.as_ref().ok()?)));
    let first = |urls: &[String]| urls.first().cloned().unwrap_or_default();
    if terminal.json {
        let ready = ready.map(|(sample, urls)| {
            json!({
                "name": sample.name,
                "urls": urls,
                "example": sample.example.replace("URL", &first(urls)),
            })
        });
        terminal.json(&json!({ "samples": ready.collect::<Vec<_>>(), "api": admin }));
        return;
    }
    let rows = ready.clone().map(|(sample, urls)| {
        let secure = urls.get(1).cloned().unwrap_or_default();
        vec![sample.name.to_owned(), sample.shows.to_owned(), first(urls), secure]
    });
    terminal.table(&["sample", "shows", "open", "or"], rows.collect());
    terminal.line("\nor try (-k for https: the certificate is the node's own):");
    for (sample, urls) in ready {
        terminal.line(format!("  {}", sample.example.replace("URL", &first(urls))));
    }
    let token = data.join(ROOT_TOKEN_FILE);
    terminal.line(format!("\nAPI {admin}, its token in {}", token.display()));
    terminal.line("Ctrl-C stops the node");
}
